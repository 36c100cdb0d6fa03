//! Errors of the gateway as HTTP answers: status, fields, and a body with a stable `code`, in the
//! format of the API that was called.
//!
//! Errors of engines are forwarded unchanged and do not come here. Messages contain no address,
//! path or key of a backend.

use std::borrow::Cow;
use std::sync::Arc;

use http1::head::HeadError;
use lens::record::Outcome;
use wire::GatewayError;
use wire::request::Refused;

use relay::Failure;
use transport::UpstreamError;

/// Field for conditions that soon pass.
const RETRY_SOON: Cow<'static, str> = Cow::Borrowed("retry-after: 1\r\n");
/// Field that HTTP requires with a 401.
const CHALLENGE: Cow<'static, str> = Cow::Borrowed("www-authenticate: Bearer\r\n");

/// Characters of a client's text that a message repeats.
const MAX_SHOWN: usize = 64;
/// Models that a message lists.
const MAX_KNOWN: usize = 20;

/// An error answer of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Stable error code for programs.
    pub code: &'static str,
    /// A sentence for people: what happened and what to do.
    pub message: String,
    /// Request member that is wrong.
    pub param: Option<&'static str>,
    /// The outcome that the record gets.
    pub outcome: Outcome,
    /// OpenAI's `type`, where it does not follow from the outcome.
    pub kind: Option<&'static str>,
    /// Extra fields, each with its CRLF.
    pub fields: Cow<'static, str>,
}

impl Refusal {
    /// A refusal whose outcome is `Rejected`.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Refusal {
            status,
            code,
            message: message.into(),
            param: None,
            outcome: Outcome::Rejected,
            kind: None,
            fields: Cow::Borrowed(""),
        }
    }

    fn upstream(status: u16, code: &'static str, message: &'static str) -> Self {
        Refusal { outcome: Outcome::UpstreamFailed, ..Refusal::new(status, code, message) }
    }

    fn timeout(code: &'static str, message: &'static str) -> Self {
        Refusal { outcome: Outcome::Timeout, ..Refusal::new(504, code, message) }
    }

    /// 400, 431 or 505: the head of the request is malformed or too large.
    pub fn bad_head(error: HeadError) -> Self {
        let (status, code) = match error {
            HeadError::TooLarge | HeadError::TooManyFields => (431, "header_too_large"),
            HeadError::Version => (505, "http_version_not_supported"),
            HeadError::Target | HeadError::Path(_) => (400, "invalid_target"),
            HeadError::Host => (400, "invalid_host"),
            HeadError::Framing(_) => (400, "ambiguous_framing"),
            HeadError::StrayControl | HeadError::Malformed(_) => (400, "malformed_request"),
        };
        Refusal::new(status, code, sentence(&error))
    }

    /// A body that cannot be read as a request.
    pub fn bad_body(refused: &Refused) -> Self {
        let param = match refused {
            Refused::Duplicate(name) => Some(*name),
            _ => None,
        };
        Refusal { param, ..Refusal::new(400, refused.code(), sentence(refused)) }
    }

    /// 413: the body is longer than `limits.request_body`.
    pub fn body_too_large(limit: usize) -> Self {
        Refusal::new(
            413,
            "request_too_large",
            format!("The request body is larger than the limit of {limit} bytes."),
        )
    }

    /// 400: the body does not match the head's framing.
    pub fn broken_body() -> Self {
        Refusal::new(
            400,
            "malformed_body",
            "The request body does not match its Content-Length or Transfer-Encoding.",
        )
    }

    /// 408: the request did not come within `timeouts.request_head` or `timeouts.request_body`.
    pub fn slow_request() -> Self {
        Refusal {
            outcome: Outcome::Timeout,
            ..Refusal::new(408, "request_timeout", "The request did not arrive in time.")
        }
    }

    /// 404: no route matches the request. `known`: models that the caller can use on this path.
    pub fn no_route((method, path): (&str, &str), model: Option<&str>, known: &[&str]) -> Self {
        let message = match model {
            Some(model) if !known.is_empty() => format!(
                "No route takes the model {:?}. Known models: {}.",
                shortened(model),
                known_models(known)
            ),
            Some(model) => format!(
                "No route takes {method} {} with the model {:?}. Check the path, the headers and \
                 the model.",
                shortened(path),
                shortened(model)
            ),
            None => format!(
                "No route takes {method} {}. Check the path, the headers and the model.",
                shortened(path)
            ),
        };
        let param = model.filter(|_| !known.is_empty()).map(|_| "model");
        Refusal { param, ..Refusal::new(404, "no_route", message) }
    }

    /// 404: no route matches a request whose body is not parsed.
    pub fn no_route_unparsed((method, path): (&str, &str)) -> Self {
        let path = shortened(path);
        let message = format!(
            "No route takes {method} {path}. Check the path and the headers. The gateway does not \
             read the body of this request, so routes with models under `match` do not take it."
        );
        Refusal::new(404, "no_route", message)
    }

    /// 404: the model does not exist. `known`: models that the caller can use instead.
    pub fn no_model(model: &str, known: &[&str]) -> Self {
        let message = match known {
            [] => format!("The model {:?} does not exist.", shortened(model)),
            known => format!(
                "The model {:?} does not exist. Known models: {}.",
                shortened(model),
                known_models(known)
            ),
        };
        Refusal::invalid(404, "model_not_found", "model", message)
    }

    /// 503: no backend of the route can serve the request.
    pub fn no_backend() -> Self {
        let message = "No backend of this route can serve this request. Check the model, the \
        prompt length, and the features that it uses.";
        Refusal { outcome: Outcome::Rejected, ..Refusal::new(503, "no_backend", message) }
    }

    /// 429: an address exceeds `limits.requests_per_address`.
    pub fn address_too_fast() -> Self {
        let message = "Too many requests from this address; try again in a second.";
        Refusal {
            kind: Some("requests"),
            fields: RETRY_SOON,
            ..Refusal::new(429, "too_many_requests", message)
        }
    }

    /// 503: the bodies and answers in memory reach `limits.buffered_bytes`.
    pub fn out_of_memory() -> Self {
        let message = "The gateway holds as many request bodies as its memory permits. Try again \
        in a moment.";
        Refusal { fields: RETRY_SOON, ..Refusal::new(503, Refusal::OVERLOADED, message) }
    }

    /// 503: as many requests need connections to backends as the limit of open files permits.
    pub fn out_of_descriptors() -> Self {
        let message = "The gateway forwards as many requests as its limit of open files permits. \
        Try again in a moment.";
        Refusal { fields: RETRY_SOON, ..Refusal::new(503, Refusal::OVERLOADED, message) }
    }

    /// 503: a shared rate limit cannot be checked.
    pub fn limits_unavailable() -> Self {
        let message = "A rate limit cannot be checked now. Try again in a moment.";
        Refusal { fields: RETRY_SOON, ..Refusal::new(503, "rate_limits_unavailable", message) }
    }

    /// 401: the credential is invalid, expired or revoked. The answer does not reveal which.
    pub fn bad_key() -> Self {
        let message = "Incorrect API key provided. Check the key, or ask the operator of the gateway for one.";
        Refusal { fields: CHALLENGE, ..Refusal::new(401, "invalid_api_key", message) }
    }

    /// 503: the key set of an identity provider has not been fetched.
    pub fn identity_unavailable() -> Self {
        let message = "Tokens cannot be verified yet, because the identity provider's keys have not been fetched. Try again in a moment.";
        Refusal { fields: RETRY_SOON, ..Refusal::new(503, "identity_unavailable", message) }
    }

    /// A request without a credential.
    pub fn no_key() -> Self {
        let message = "You didn't provide an API key. Send it as \"Authorization: Bearer KEY\".";
        Refusal { fields: CHALLENGE, ..Refusal::new(401, "missing_api_key", message) }
    }

    /// A key that does not permit the route.
    pub fn forbidden_route() -> Self {
        Refusal {
            kind: Some("permission_error"),
            ..Refusal::new(403, "route_not_allowed", "This API key does not permit this route.")
        }
    }

    /// A key that does not permit the model.
    pub fn forbidden_model() -> Self {
        let message = "This API key does not permit this model. Use a permitted one.";
        Refusal {
            kind: Some("permission_error"),
            param: Some("model"),
            ..Refusal::new(403, "model_not_allowed", message)
        }
    }

    /// A request member is invalid.
    pub fn invalid(status: u16, code: &'static str, param: &'static str, message: String) -> Self {
        Refusal {
            param: Some(param),
            kind: Some("invalid_request_error"),
            ..Refusal::new(status, code, message)
        }
    }

    /// 403: the request cannot be parsed, which `why` requires.
    pub fn uncountable_endpoint(why: &str) -> Self {
        let message = format!(
            "{why} Use a supported API, or ask the operator to add the path to the route's \
             `passthrough`."
        );
        Refusal {
            kind: Some("permission_error"),
            ..Refusal::new(403, "uncountable_endpoint", message)
        }
    }

    /// 404: a request that is not forwarded, because no route names its path.
    pub fn unknown_endpoint(method: &str, path: &str) -> Self {
        let message = format!(
            "{method} {path} is not an API that this gateway forwards. It serves chat completions, \
            completions, responses, messages, embeddings, audio, images, moderations, rerank, \
            tokenize and /v1/models. The operator can add the path to the route's `passthrough`."
        );
        Refusal::new(404, "unknown_endpoint", message)
    }

    /// 405: an inference API that was not called with POST.
    pub fn wrong_method(method: &str, path: &str) -> Self {
        let message = format!("{method} {path} is not supported. Send a POST request.");
        Refusal {
            fields: Cow::Borrowed("allow: POST\r\n"),
            ..Refusal::new(405, "method_not_allowed", message)
        }
    }

    /// 405: TRACE would return the gateway's own headers.
    pub fn method_not_allowed() -> Self {
        Refusal::new(405, "method_not_allowed", "TRACE is not supported.")
    }

    /// A host that the route does not serve.
    pub fn wrong_host() -> Self {
        Refusal::new(421, "host_not_served", "The route does not serve this host. Check the URL.")
    }

    /// 501: protocol upgrades are not supported.
    pub fn upgrade() -> Self {
        Refusal::new(
            501,
            "upgrade_not_supported",
            "Protocol upgrades are not supported. Send the request without Upgrade.",
        )
    }

    /// An `Expect` other than `100-continue`.
    pub fn expectation() -> Self {
        Refusal::new(417, "expectation_failed", "Only the expectation 100-continue is supported.")
    }

    /// A failure of the gateway itself.
    pub fn internal() -> Self {
        Refusal::new(
            500,
            "internal_error",
            "Internal error of the gateway. Its log has the cause under the request id.",
        )
    }

    /// A refusal whose outcome is `Blocked`.
    pub fn blocked(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Refusal { outcome: Outcome::Blocked, ..Refusal::new(status, code, message) }
    }

    /// 413: the prompt is too long for a filter that must check all of it.
    pub fn prompt_too_long_to_check(filter: &str) -> Self {
        let message = format!(
            "The prompt is too long for the guardrail filter {filter:?} to check. Send less text."
        );
        Refusal::blocked(413, "prompt_too_long_to_check", message)
    }

    /// Code of [`Refusal::out_of_memory`] and [`Refusal::out_of_descriptors`].
    pub const OVERLOADED: &str = "gateway_overloaded";
    /// Code of [`Refusal::busy`].
    pub const BUSY: &str = "backend_busy";

    /// 503: all connections to the backend are in use.
    pub fn busy() -> Self {
        Refusal {
            fields: RETRY_SOON,
            ..Refusal::new(
                503,
                Refusal::BUSY,
                "All connections to the backend are in use. Try again in a moment.",
            )
        }
    }

    /// 502: no connection to the backend.
    pub fn connect_failed() -> Self {
        Refusal::upstream(
            502,
            "upstream_connect_failed",
            "The backend does not accept connections.",
        )
    }

    /// An error answer of a backend, after the client has got the head of a stream.
    pub fn error_answer(status: u16) -> Self {
        let message =
            format!("The backend answered with status {status} after the stream had begun.");
        Refusal {
            outcome: Outcome::UpstreamError,
            kind: Some("upstream_error"),
            ..Refusal::new(502, "upstream_error_answer", message)
        }
    }

    /// 502: the backend closed the connection before it answered.
    pub fn upstream_closed() -> Self {
        Refusal::upstream(
            502,
            "upstream_closed",
            "The backend closed the connection before it answered.",
        )
    }

    /// 502: the answer of the backend is not HTTP.
    pub fn upstream_invalid() -> Self {
        Refusal::upstream(
            502,
            "upstream_invalid_response",
            "The backend's answer is not valid HTTP.",
        )
    }

    /// The backend did not answer.
    pub fn unanswered(error: &UpstreamError) -> Self {
        match error {
            UpstreamError::Busy => Refusal::busy(),
            UpstreamError::Connect(_) => Refusal::connect_failed(),
            UpstreamError::ConnectTimeout => Refusal::connect_timeout(),
            UpstreamError::ClosedEarly | UpstreamError::Io(_) => Refusal::upstream_closed(),
            UpstreamError::BrokeOff => Refusal::from(&Failure::UpstreamDied),
            UpstreamError::Head(_) | UpstreamError::Body(_) | UpstreamError::H2(_) => {
                Refusal::upstream_invalid()
            }
        }
    }

    /// A filter refused the request.
    pub fn by_filter(refused: filters::FilterRefusal) -> Self {
        Refusal::from(&Failure::RefusedByFilter(refused))
    }

    /// A request that took longer than its total timeout.
    pub fn total_timeout() -> Self {
        Refusal::from(&Failure::TotalTimeout)
    }

    /// 503: a filter with `on_failure: closed` could not check the prompt.
    pub fn guardrail_unavailable(filter: &Arc<str>, failure: filters::Failure) -> Self {
        Refusal::from(&Failure::GuardrailUnavailable { filter: filter.clone(), failure })
    }

    /// 504: connecting to the backend took longer than `timeouts.connect`.
    pub fn connect_timeout() -> Self {
        Refusal::timeout(
            "upstream_connect_timeout",
            "The backend did not accept the connection in time.",
        )
    }

    /// OpenAI's `type`.
    pub fn kind(&self) -> &'static str {
        let by_outcome = match self.outcome {
            Outcome::Rejected if matches!(self.status, 500 | 503) => "server_error",
            Outcome::Blocked if self.status >= 500 => "server_error",
            Outcome::Blocked => "content_policy_violation",
            Outcome::Rejected => "invalid_request_error",
            Outcome::Timeout => "timeout_error",
            _ => "upstream_error",
        };
        self.kind.unwrap_or(by_outcome)
    }

    /// The error, for a client that knows the request by this id.
    pub fn error<'r>(&'r self, request_id: &'r str) -> GatewayError<'r> {
        GatewayError {
            status: self.status,
            kind: self.kind(),
            code: self.code,
            message: &self.message,
            param: self.param,
            request_id,
        }
    }
}

/// An error as a sentence.
fn sentence(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut rest = text.chars();
    let first = rest.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", rest.as_str())
}

/// The beginning of a text of the client, for a message.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// A list of models for a message.
fn known_models(known: &[&str]) -> String {
    let mut text = known.iter().take(MAX_KNOWN).copied().collect::<Vec<_>>().join(", ");
    if known.len() > MAX_KNOWN {
        text.push_str(&format!(", and {} more", known.len() - MAX_KNOWN));
    }
    text
}

/// A failure before the answer began, as the client receives it.
impl From<&Failure> for Refusal {
    fn from(failure: &Failure) -> Self {
        let is_brief =
            matches!(failure, Failure::GuardrailUnavailable { .. } | Failure::ShuttingDown);
        Refusal {
            outcome: failure.outcome(),
            kind: Some(failure.kind()),
            fields: if is_brief { RETRY_SOON } else { Cow::Borrowed("") },
            ..Refusal::new(failure.status(), failure.code(), failure.message())
        }
    }
}
