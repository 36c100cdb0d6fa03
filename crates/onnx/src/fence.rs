//! Isolates third-party code: its errors and panics become one short line.
//!
//! - *In*: a call into tract or tokenizers.
//! - *Out*: its value, or the reason for the failure, cut to the length of a log line.
//! - *Never*: shared state that a panic could leave inconsistent: callers pass values that are
//!   read-only or made for the call.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Maximum characters of a reason. Those of tract can be a page, with the cause in the first lines.
const MAX_REASON: usize = 400;

/// Calls `call`. A panic becomes an error.
pub(crate) fn fenced<T, E: Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        // The alternate form prints the whole chain of causes where there is one.
        Ok(result) => result.map_err(|error| short(&format!("{error:#}"))),
        Err(payload) => {
            let said = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            Err(short(&format!("panicked: {}", said.unwrap_or("without a message"))))
        }
    }
}

fn short(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_reason() {
        assert_eq!(
            fenced::<(), &str>(|| panic!("no {}", "luck")),
            Err("panicked: no luck".to_owned())
        );
        assert_eq!(fenced::<_, &str>(|| Ok(3)), Ok(3));
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let reason =
            fenced::<(), _>(|| Err(format!("a\n  b {}", "\u{e9}".repeat(900)))).unwrap_err();
        assert!(reason.starts_with("a b \u{e9}") && reason.ends_with("..."));
        assert_eq!(reason.chars().count(), MAX_REASON + 3);
    }
}
