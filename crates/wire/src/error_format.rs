//! Errors of the gateway in the format of the API that was called, so that a client's library
//! raises the exception that it has for them.
//!
//! - *In*: an error, and the path of the request.
//! - *Out*: a JSON body, or the event that ends a stream.
//! - *Never*: an engine's own error, which is forwarded unchanged.

use crate::dialect::Dialect;
use crate::json::escaped;

/// The format of errors of an API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorFormat {
    /// `{"error": {"message", "type", "param", "code"}}`. Also used for paths without a format of
    /// their own.
    #[default]
    OpenAi,
    /// Events of OpenAI's Responses have the members of an error at their top level, and in `error`
    /// as well, without which OpenAI's clients do not raise it.
    OpenAiResponses,
    /// `{"type": "error", "error": {"type", "message"}, "request_id"}`.
    Anthropic,
    /// `{"error": "message"}`.
    Ollama,
    /// `{"error": "message", "error_type"}` of TGI.
    Generate,
    /// `{"error": {"code": STATUS, "message", "type"}}` of llama.cpp.
    LlamaCpp,
}

/// An error of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct GatewayError<'e> {
    /// The HTTP status; in a stream, the one it would have had before the first byte.
    pub status: u16,
    /// OpenAI's `type`.
    pub kind: &'e str,
    /// Stable code for programs.
    pub code: &'e str,
    /// A sentence for people.
    pub message: &'e str,
    /// The wrong member of the request.
    pub param: Option<&'e str>,
    /// The id of the request.
    pub request_id: &'e str,
}

impl ErrorFormat {
    /// The format of the API that a path belongs to.
    pub fn from_path(path: &str) -> Self {
        const OLLAMA: [&str; 14] = [
            "blobs",
            "chat",
            "copy",
            "create",
            "delete",
            "embed",
            "embeddings",
            "generate",
            "ps",
            "pull",
            "push",
            "show",
            "tags",
            "version",
        ];
        const TGI: [&str; 2] = ["/info", "/chat_tokenize"];
        const LLAMA_CPP: [&str; 5] =
            ["/apply-template", "/infill", "/props", "/slots", "/lora-adapters"];
        let path = path.strip_suffix('/').unwrap_or(path);
        let dialect = Dialect::from_path(path);
        // Embeddings have the same last segment in several APIs.
        if let Some(dialect) = dialect.filter(|dialect| *dialect != Dialect::Embeddings) {
            return dialect.error_format();
        }
        if path.contains("/v1/messages/") {
            return ErrorFormat::Anthropic;
        }
        // OpenAI-compatible APIs may also be below `/api`.
        let after_api = path.split_once("/api/").and_then(|(_, rest)| rest.split('/').next());
        if after_api.is_some_and(|name| OLLAMA.contains(&name)) {
            return ErrorFormat::Ollama;
        }
        match dialect {
            Some(dialect) => dialect.error_format(),
            None if TGI.contains(&path) => ErrorFormat::Generate,
            None if LLAMA_CPP.contains(&path) => ErrorFormat::LlamaCpp,
            None => ErrorFormat::OpenAi,
        }
    }

    /// The name of the response field with the request id that clients of the API read, besides
    /// `x-request-id`.
    pub fn id_field(self) -> Option<&'static str> {
        (self == ErrorFormat::Anthropic).then_some("request-id")
    }

    /// The JSON body of an answer.
    pub fn body(self, error: &GatewayError<'_>) -> String {
        let status = error.status;
        let [message, code, kind, id] =
            [error.message, error.code, error.kind, error.request_id].map(escaped);
        match self {
            ErrorFormat::OpenAi | ErrorFormat::OpenAiResponses => {
                let param = param(error);
                format!(
                    "{{\"error\":{{\"message\":\"{message}\",\"type\":\"{kind}\",\"param\":{param},\"code\":\"{code}\"}}}}"
                )
            }
            ErrorFormat::Anthropic => {
                let kind = anthropic_type(status);
                format!(
                    "{{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"{message}\",\"code\":\"{code}\"}},\"request_id\":\"{id}\"}}"
                )
            }
            ErrorFormat::Ollama => format!("{{\"error\":\"{message}\",\"code\":\"{code}\"}}"),
            ErrorFormat::Generate => {
                let kind = tgi_type(status).unwrap_or(&code);
                format!("{{\"error\":\"{message}\",\"error_type\":\"{kind}\",\"code\":\"{code}\"}}")
            }
            ErrorFormat::LlamaCpp => {
                let kind = llama_cpp_type(status);
                format!(
                    "{{\"error\":{{\"code\":{status},\"message\":\"{message}\",\"type\":\"{kind}\",\"reason\":\"{code}\"}}}}"
                )
            }
        }
    }

    /// The event that ends a failed stream, so that the client detects a failure and not a normal
    /// end. `events`: events before it. Responses numbers its events from 0.
    pub fn event(self, error: &GatewayError<'_>, events: u64) -> String {
        match self {
            ErrorFormat::Ollama => format!("{}\n", self.body(error)),
            ErrorFormat::Anthropic => format!("event: error\ndata: {}\n\n", self.body(error)),
            ErrorFormat::OpenAiResponses => {
                let (message, code) = (escaped(error.message), escaped(error.code));
                let (param, body) = (param(error), self.body(error));
                let rest = body.strip_prefix('{').unwrap_or(&body);
                format!(
                    "event: error\ndata: {{\"type\":\"error\",\"code\":\"{code}\",\"message\":\"{message}\",\"param\":{param},\"sequence_number\":{events},{rest}\n\n"
                )
            }
            ErrorFormat::OpenAi | ErrorFormat::Generate | ErrorFormat::LlamaCpp => {
                format!("data: {}\n\n", self.body(error))
            }
        }
    }
}

impl Dialect {
    /// The format of errors of this API.
    pub fn error_format(self) -> ErrorFormat {
        match self {
            Dialect::OpenAiChat | Dialect::OpenAiCompletions | Dialect::Embeddings => {
                ErrorFormat::OpenAi
            }
            Dialect::OpenAiResponses => ErrorFormat::OpenAiResponses,
            Dialect::Anthropic => ErrorFormat::Anthropic,
            Dialect::Generate => ErrorFormat::Generate,
            Dialect::Ollama => ErrorFormat::Ollama,
            Dialect::LlamaCpp => ErrorFormat::LlamaCpp,
        }
    }
}

fn param(error: &GatewayError<'_>) -> String {
    error.param.map_or_else(|| "null".into(), |param| format!("\"{}\"", escaped(param)))
}

/// Anthropic's `type`, by its list of HTTP errors.
fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// TGI's `error_type`, where it has one for this status.
fn tgi_type(status: u16) -> Option<&'static str> {
    match status {
        400 | 413 | 422 => Some("validation"),
        429 | 503 => Some("overloaded"),
        _ => None,
    }
}

/// llama.cpp's `type`.
fn llama_cpp_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        501 => "not_supported_error",
        429 | 503 => "unavailable_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: GatewayError<'static> = GatewayError {
        status: 429,
        kind: "tokens",
        code: "rate_limit_exceeded",
        message: "Slow \"down\".",
        param: None,
        request_id: "r-1",
    };

    #[test]
    fn errors_have_the_format_of_the_path() {
        for (path, format) in [
            ("/v1/messages", ErrorFormat::Anthropic),
            ("/v1/messages/", ErrorFormat::Anthropic),
            ("/v1/messages/count_tokens", ErrorFormat::Anthropic),
            ("/anthropic/v1/messages/batches/b", ErrorFormat::Anthropic),
            ("/v1/threads/t/messages", ErrorFormat::OpenAi),
            ("/api/chat", ErrorFormat::Ollama),
            ("/api/tags", ErrorFormat::Ollama),
            ("/api/blobs/sha256:0", ErrorFormat::Ollama),
            ("/api/v1/chat/completions", ErrorFormat::OpenAi),
            ("/api/chat/completions", ErrorFormat::OpenAi),
            ("/api/embeddings", ErrorFormat::Ollama),
            ("/generate_stream", ErrorFormat::Generate),
            ("/info", ErrorFormat::Generate),
            ("/completion", ErrorFormat::LlamaCpp),
            ("/slots", ErrorFormat::LlamaCpp),
            ("/v1/responses", ErrorFormat::OpenAiResponses),
            ("/v1/chat/completions", ErrorFormat::OpenAi),
            ("/v1/nothing", ErrorFormat::OpenAi),
            ("", ErrorFormat::OpenAi),
        ] {
            assert_eq!(ErrorFormat::from_path(path), format, "{path}");
        }
    }

    #[test]
    fn bodies_are_those_of_the_api() {
        for (format, want) in [
            (
                ErrorFormat::OpenAi,
                r#"{"error":{"message":"Slow \"down\".","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
            ),
            (
                ErrorFormat::Anthropic,
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"Slow \"down\".","code":"rate_limit_exceeded"},"request_id":"r-1"}"#,
            ),
            (ErrorFormat::Ollama, r#"{"error":"Slow \"down\".","code":"rate_limit_exceeded"}"#),
            (
                ErrorFormat::Generate,
                r#"{"error":"Slow \"down\".","error_type":"overloaded","code":"rate_limit_exceeded"}"#,
            ),
            (
                ErrorFormat::LlamaCpp,
                r#"{"error":{"code":429,"message":"Slow \"down\".","type":"unavailable_error","reason":"rate_limit_exceeded"}}"#,
            ),
        ] {
            assert_eq!(format.body(&ERROR), want);
            assert!(serde_json::from_str::<serde_json::Value>(want).is_ok(), "{want}");
        }
    }

    #[test]
    fn every_status_has_a_type_of_anthropic() {
        for (status, kind) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (405, "invalid_request_error"),
            (408, "timeout_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (431, "invalid_request_error"),
            (500, "api_error"),
            (502, "api_error"),
            (503, "overloaded_error"),
            (504, "timeout_error"),
        ] {
            assert_eq!(anthropic_type(status), kind, "{status}");
        }
    }

    #[test]
    fn events_of_a_stream_keep_the_type_of_the_error() {
        let chat = ErrorFormat::OpenAi.event(&ERROR, 7);
        assert!(chat.starts_with("data: {\"error\":") && chat.contains("\"type\":\"tokens\""));
        assert!(chat.ends_with("\n\n"), "{chat}");
        let messages = ErrorFormat::Anthropic.event(&ERROR, 7);
        assert!(messages.starts_with("event: error\ndata: {\"type\":\"error\","), "{messages}");
        assert!(messages.contains("\"type\":\"rate_limit_error\""), "{messages}");
        let responses = ErrorFormat::OpenAiResponses.event(&ERROR, 7);
        let code = "\"code\":\"rate_limit_exceeded\"";
        assert!(responses.starts_with("event: error\ndata: {\"type\":\"error\",\"code\":"));
        assert!(responses.contains(",\"sequence_number\":7,"), "{responses}");
        assert!(responses.ends_with(&format!("{code}}}}}\n\n")), "{responses}");
        assert_eq!(responses.matches(code).count(), 2, "{responses}");
        assert!(ErrorFormat::Ollama.event(&ERROR, 7).ends_with("\"}\n"));
    }
}
