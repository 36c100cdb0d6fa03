//! Name patterns in settings: an exact name, or a prefix followed by `*`.

use serde::Serialize;

/// An exact text, or a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// The whole text.
    Exact(String),
    /// A prefix of the text.
    Prefix(String),
}

impl Pattern {
    /// Parse a pattern from the settings: a `*` at the end matches any rest.
    pub fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix.to_owned()),
            None => Pattern::Exact(text.to_owned()),
        }
    }

    /// Whether the pattern matches a text.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(exact) => exact == text,
            Pattern::Prefix(prefix) => text.starts_with(prefix.as_str()),
        }
    }

    /// Whether one of the patterns matches a text, or there are none.
    pub fn allow(patterns: &[Pattern], text: &str) -> bool {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
    }
}
