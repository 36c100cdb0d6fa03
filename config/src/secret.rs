//! Secrets of settings: from the environment, a file, or the text itself.
//!
//! - *In*: the text of a setting.
//! - *Out*: a [`Secret`], or what is wrong.
//! - *Never*: the value in an error.

use yaml::{Secret, value};

/// What a text with the path of a file begins with.
const FILE: &str = "file:";

/// Whether the text names a file or a variable.
pub(crate) fn is_reference(text: &str) -> bool {
    text.starts_with(FILE) || text.contains("${")
}

/// Stands for a secret that was not read: different from others, and long enough for each setting.
pub(crate) fn placeholder(path: &str) -> Secret {
    Secret::new(format!("a-secret-that-was-not-read:{path}"))
}

/// The secret of a text.
pub(crate) fn read(text: &str) -> Result<Secret, String> {
    let value = match text.strip_prefix(FILE) {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|e| format!("cannot read the secret's file {path}: {e}"))?,
        None => value::expand(text, |name| std::env::var(name).ok())?,
    };
    let value = value.trim_end_matches(['\r', '\n']);
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(
            "the secret must not be empty, and must be printable ASCII without spaces".into()
        );
    }
    Ok(Secret::new(value.to_owned()))
}
