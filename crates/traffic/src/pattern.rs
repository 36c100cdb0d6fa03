//! Names as an operator writes them in settings: exact, or up to a `*`.

use serde::Serialize;

/// An exact text, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// The whole text.
    Exact(String),
    /// What the text begins with.
    Prefix(String),
}

impl Pattern {
    /// From the settings' words: a `*` at the end matches any rest.
    pub fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix.to_owned()),
            None => Pattern::Exact(text.to_owned()),
        }
    }

    /// Whether the text is meant.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(exact) => exact == text,
            Pattern::Prefix(prefix) => text.starts_with(prefix.as_str()),
        }
    }

    /// Whether a text is meant by one of the patterns, or there are none.
    pub fn allow(patterns: &[Pattern], text: &str) -> bool {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
    }
}
