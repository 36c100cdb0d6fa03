//! Boundaries of a match, and words before it.
//!
//! - *In*: the bytes around a candidate: at most 64 before it, two after it.
//! - *Out*: yes or no.
//! - *Never*: more of the text, so that streams can use the same checks.

use crate::finding::Family;
use crate::pattern::Pattern;

/// Bytes before a candidate in which context words count.
pub const CONTEXT_BYTES: usize = 64;

/// Whether `pattern` matches a variable name with its value, so that a match may begin in the
/// middle of a name: `dbPassword`, `MY_API_KEY`.
fn names_a_variable(pattern: &Pattern) -> bool {
    pattern.kind == "GENERIC_SECRET"
}

fn wordy(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// Whether a token can begin at `first` after `before` (the bytes to its left, the nearest last).
pub fn can_begin(before: &[u8], first: u8) -> bool {
    match before.last() {
        None => true,
        // Only ASCII characters join: CJK text has no spaces before a number.
        Some(&b) if b.is_ascii_alphanumeric() => {
            b.is_ascii_lowercase() && first.is_ascii_uppercase()
        }
        Some(_) => true,
    }
}

/// Whether a candidate of `pattern` may begin with `first` after `before`.
pub fn starts_clean(pattern: &Pattern, before: &[u8], first: u8) -> bool {
    let Some(&last) = before.last() else { return true };
    if names_a_variable(pattern) {
        return can_begin(before, first);
    }
    if last.is_ascii_alphanumeric() || (last == b'_' && first != b'+') {
        return false;
    }
    let further = before.iter().rev().nth(1).copied().unwrap_or(b' ');
    // The tail of an address that begins further left.
    if last == b':' && pattern.kind == "IP_ADDRESS" && further.is_ascii_hexdigit() {
        return false;
    }
    match first {
        b':' => last != b':',
        // The tail of a longer number, a version or a date: `2024-12-` or `1.2.`.
        b'0'..=b'9' => {
            let joined = matches!(last, b'-' | b'.' | b'/') && further.is_ascii_digit();
            !(joined || matches!(last, b'+' | b'\\') || (last == b'-' && further == b'-'))
        }
        _ => true,
    }
}

/// Whether a candidate of `pattern` that ends with `last` may be followed by `after`.
pub fn ends_clean(pattern: &Pattern, last: u8, after: &[u8]) -> bool {
    let Some(&next) = after.first() else { return true };
    if wordy(last) && wordy(next) && next < 0x80 {
        return false;
    }
    // An ellipsis: the token was shortened on purpose.
    if pattern.family == Family::Secret && after.starts_with(b"..") {
        return false;
    }
    if last == b':' && next.is_ascii_alphanumeric() {
        return false;
    }
    let beyond = after.get(1).copied().unwrap_or(b' ');
    // Half of a name, a call or a longer token.
    if pattern.family == Family::Secret
        && ((matches!(next, b'-' | b'.') && beyond.is_ascii_alphanumeric()) || next == b'(')
    {
        return false;
    }
    if last.is_ascii_digit() && beyond.is_ascii_digit() && pattern.kind != "URL" {
        let joins = next == b'.' || (next == b'-' && pattern.kind != "IP_ADDRESS");
        return !joins;
    }
    true
}

/// Whether one of `words` is in the last [`CONTEXT_BYTES`] bytes of `before`.
pub fn has_context_word(before: &[u8], words: &[&str]) -> bool {
    let from = before.len().saturating_sub(CONTEXT_BYTES);
    let near = before.get(from..).unwrap_or_default().to_ascii_lowercase();
    words.iter().any(|word| stands_in(&near, word.as_bytes()))
}

/// Whether a word of `near` begins with `word`. A short `word` must match a whole word: `tel` must
/// not match `tell`.
fn stands_in(near: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find_iter(near, word).any(|at| {
        let left =
            at.checked_sub(1).and_then(|i| near.get(i)).is_none_or(|b| !b.is_ascii_alphabetic());
        let right = near.get(at + word.len()).is_none_or(|b| !b.is_ascii_alphabetic());
        left && (right || word.len() > 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_context_words_match_whole_words_only() {
        assert!(has_context_word(b"my tel: ", &["tel"]));
        assert!(!has_context_word(b"I tell you ", &["tel"]));
        assert!(!has_context_word(b"the hotel ", &["tel"]));
        assert!(has_context_word(b"all phones: ", &["phone"]));
    }
}
