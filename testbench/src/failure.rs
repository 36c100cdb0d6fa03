//! Names of failures: short enough to count alike failures, with the server's message apart.
//!
//! - *In*: an error answer, an error event, or an error of the connection.
//! - *Out*: a [`Failure`].
//! - *Never*: control characters of a server, which could change a terminal.

use http::StatusCode;
use serde_json::Value;

/// Maximum characters of a message.
const MAX_MESSAGE: usize = 300;
/// Maximum characters of a code.
const MAX_CODE: usize = 64;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The name that the report counts: `status 429 rate_limit`.
    pub(crate) name: String,
    /// The server's message.
    pub(crate) message: Option<String>,
}

impl Failure {
    /// A failure without an answer of the server.
    pub(crate) fn of_connection(error: &impl std::fmt::Display) -> Self {
        Failure { name: error.to_string(), message: None }
    }

    /// An answer of a success status that is no success.
    pub(crate) fn named(name: &str) -> Self {
        Failure { name: name.to_owned(), message: None }
    }

    /// An answer of another type than the request asked for.
    pub(crate) fn unreadable(name: &str, content_type: &str) -> Self {
        let shown = if content_type.is_empty() { "missing" } else { content_type };
        Failure { name: name.to_owned(), message: message(&format!("content-type {shown}")) }
    }

    /// An answer with an error status. `body` may be cut short.
    pub(crate) fn of_answer(status: StatusCode, location: Option<&str>, body: &[u8]) -> Self {
        let body = serde_json::from_slice(body)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(body).into_owned()));
        let error = if body["error"].is_null() { &body } else { &body["error"] };
        let code = code(&error["code"]).or_else(|| code(&error["type"]));
        let message = [&error["message"], &error["detail"], error]
            .into_iter()
            .find_map(|text| match text {
                Value::String(text) => message(text),
                Value::Array(_) => message(&text.to_string()),
                _ => None,
            })
            .or_else(|| location.and_then(|to| message(&format!("redirects to {to}"))));
        let status = status.as_u16();
        let name =
            code.map_or_else(|| format!("status {status}"), |c| format!("status {status} {c}"));
        Failure { name, message }
    }

    /// An error event inside a stream.
    pub(crate) fn of_event(status: u16, kind: Option<&str>, text: Option<&str>) -> Self {
        let kind = kind.and_then(word).unwrap_or_else(|| "without a code".into());
        Failure {
            name: format!("error event {kind} after status {status}"),
            message: text.and_then(message),
        }
    }
}

/// A code that says more than the status does.
fn code(value: &Value) -> Option<String> {
    value.as_str().filter(|code| code.parse::<u64>().is_err()).and_then(word)
}

fn word(text: &str) -> Option<String> {
    let is_word = (1..=MAX_CODE).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:/".contains(&b));
    is_word.then(|| text.to_owned())
}

/// The text on one line, cut to [`MAX_MESSAGE`].
fn message(text: &str) -> Option<String> {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut words = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = words.char_indices().nth(MAX_MESSAGE) {
        words.truncate(cut);
        words.push_str("...");
    }
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_status_and_a_code_that_is_no_number() {
        for (status, body, name, text) in [
            (503, r#"{"error":{"message":"Pause."}}"#, "status 503", "Pause."),
            (
                429,
                r#"{"error":{"message":"Zu viel.","type":"rate_limit"}}"#,
                "status 429 rate_limit",
                "Zu viel.",
            ),
            (
                404,
                r#"{"error":{"message":"The model `default` does not exist.","type":"NotFoundError","code":404}}"#,
                "status 404 NotFoundError",
                "The model `default` does not exist.",
            ),
            (
                404,
                r#"{"error":{"message":"x","type":"invalid_request_error","code":"model_not_found"}}"#,
                "status 404 model_not_found",
                "x",
            ),
            (404, r#"{"detail":"Not Found"}"#, "status 404", "Not Found"),
            (404, r#"{"error":"model \"x\" not found"}"#, "status 404", "model \"x\" not found"),
            (
                502,
                "<html>\r\n\x1b[31mBad Gateway</html>\n",
                "status 502",
                "<html> [31mBad Gateway</html>",
            ),
            (500, r#"{"error":{"message":"x","type":"two words"}}"#, "status 500", "x"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let failure = Failure::of_answer(status, None, body.as_bytes());
            assert_eq!((&*failure.name, failure.message.as_deref()), (name, Some(text)), "{body}");
        }
        let moved = Failure::of_answer(StatusCode::FOUND, Some("https://x/"), b"");
        assert_eq!(moved.message.as_deref(), Some("redirects to https://x/"));
        let long = Failure::of_answer(StatusCode::BAD_GATEWAY, None, "ä".repeat(2000).as_bytes());
        assert_eq!(long.message.unwrap().chars().count(), MAX_MESSAGE + 3);
    }
}
