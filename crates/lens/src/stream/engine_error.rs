//! An error that an engine reports inside its answer.
//!
//! - *In*: the type and code of the engine's error.
//! - *Out*: the equivalent HTTP status, and the code for records.
//! - *Never*: the engine's message, which may have text of the prompt.

/// An error that the engine reported inside the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineError {
    /// The error type, if the engine reported one.
    pub kind: Option<String>,
    /// The error code, if the engine reported one.
    pub code: Option<String>,
}

impl EngineError {
    /// The stable error code for records: `http_NNN`.
    pub fn record_code(&self) -> String {
        format!("http_{}", self.status())
    }

    /// The equivalent HTTP status: the code if it is one, else derived from kind and code, else
    /// 500.
    pub fn status(&self) -> u16 {
        let code = self
            .code
            .as_deref()
            .and_then(|code| code.parse::<u16>().ok())
            .filter(|code| (400..600).contains(code));
        let says = |words: &[&str]| {
            let said = |text: &Option<String>| {
                text.as_deref().is_some_and(|text| {
                    words.iter().any(|word| text.to_ascii_lowercase().contains(word))
                })
            };
            said(&self.kind) || said(&self.code)
        };
        match code {
            Some(code) => code,
            None if says(&["rate_limit"]) => 429,
            None if says(&["overloaded"]) => 529,
            None if says(&[
                "invalid",
                "badrequest",
                "bad_request",
                "notfound",
                "not_found",
                "context_length",
            ]) =>
            {
                400
            }
            None => 500,
        }
    }
}
