//! Why a call of an object store failed.

use std::time::Duration;

/// Bytes of a store's text that an error has.
const MAX_WHY: usize = 200;

/// What a failure concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The store: other calls would fail, too.
    Store,
    /// This object or its file.
    Object,
    /// The caller has stopped the call.
    Stopped,
}

/// A failed call. Nothing is known about what the store did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {why}")]
pub struct ObjectError {
    /// A stable code: `http_503`, `connect`, `connection`, `timeout`, `file`.
    pub code: String,
    /// The reason.
    pub why: String,
    /// What it concerns.
    pub scope: Scope,
    /// How long the store accepts no call.
    pub retry_after: Option<Duration>,
}

impl ObjectError {
    pub(crate) fn store(code: &str, why: impl Into<String>) -> Self {
        let (code, scope) = (code.to_owned(), Scope::Store);
        ObjectError { code, why: why.into(), scope, retry_after: None }
    }

    pub(crate) fn object(code: &str, why: impl Into<String>) -> Self {
        ObjectError { scope: Scope::Object, ..ObjectError::store(code, why) }
    }

    pub(crate) fn stopped() -> Self {
        ObjectError { scope: Scope::Stopped, ..ObjectError::store("stopped", "the process ends") }
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The readable part of a text that a store has sent.
pub(crate) fn readable(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control() && *c != '\u{fffd}');
    printable.take(MAX_WHY).collect::<String>().trim().to_owned()
}
