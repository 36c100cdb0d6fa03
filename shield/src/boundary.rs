//! Boundaries of a match.
//!
//! - *In*: the bytes around a candidate: at most 64 before it, four after it.
//! - *Out*: yes or no.
//! - *Never*: more of the text, so that streams can use the same checks.

use crate::finding::Family;
use crate::pattern::Pattern;

/// Bytes before a candidate in which context words count.
pub const CONTEXT_BYTES: usize = 64;
/// The same for rules whose context must be close.
pub const CLOSE_BYTES: usize = 32;

/// Whether `pattern` matches a variable name with its value, so that a match may begin in the
/// middle of a name: `dbPassword`, `MY_API_KEY`.
fn names_a_variable(pattern: &Pattern) -> bool {
    pattern.kind == "GENERIC_SECRET"
}

/// Bytes before a candidate that the checks of its beginning see: one character, or two of ASCII.
pub const BEFORE_BYTES: usize = 4;

/// Bytes after a candidate that the checks of its end see.
pub const AFTER_BYTES: usize = 4;

/// Whether a byte belongs to a word or number.
pub(crate) fn wordy(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// Whether a character continues a word or number. Scripts without spaces between words (Chinese,
/// Japanese, Thai), and Korean with its particles, do not join what stands beside them.
pub fn joins(c: char) -> bool {
    match c as u32 {
        0..=0x7f => c.is_ascii_alphanumeric(),
        0xe00..=0x109f | 0x1780..=0x17ff | 0x2e80.. => false,
        _ => c.is_alphanumeric(),
    }
}

/// The last character of `before`; `None` without one, or if only its last bytes are there.
fn last_char(before: &[u8]) -> Option<char> {
    let from = before.iter().rposition(|b| !(0x80..0xC0).contains(b))?;
    std::str::from_utf8(before.get(from..)?).ok()?.chars().next()
}

/// The first character of `after`.
fn first_char(after: &[u8]) -> Option<char> {
    let more = after.iter().skip(1).take_while(|b| (0x80..0xC0).contains(*b)).count();
    std::str::from_utf8(after.get(..=more)?).ok()?.chars().next()
}

/// Whether a token can begin at `first` after `before` (the bytes to its left, the nearest last).
pub fn can_begin(before: &[u8], first: u8) -> bool {
    match before.last() {
        None => true,
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
        return can_begin(before, first) && !is_public_name(before);
    }
    if last >= 0x80 {
        // A word of any script is not cut; only a sign may follow it.
        return !(wordy(first) && last_char(before).is_some_and(joins));
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
        b'0'..=b'9' => number_starts(pattern, last, further),
        _ => true,
    }
}

/// Whether the name of a variable begins like that of a public value:
/// `public_key`, `csrf-token`, `primary key`, `cache_key`, `foreignKey`, `siteKey`.
fn is_public_name(before: &[u8]) -> bool {
    const TAILS: [&str; 9] = ["lic", "srf", "ary", "ign", "che", "ncy", "ble", "ite", "der"];
    let name = before.strip_suffix(b"_").or(before.strip_suffix(b"-")).unwrap_or(before);
    let name = name.strip_suffix(b" ").unwrap_or(name);
    let tail = name.get(name.len().saturating_sub(3)..).unwrap_or_default();
    TAILS.iter().any(|public| tail.eq_ignore_ascii_case(public.as_bytes()))
}

/// Whether a number may begin after these two bytes: not the tail of a longer number, of a version,
/// a date, a time or a name (`2024-12-`, `1.2.`, `00:02:`, `blk_-`, `node-`), and no amount.
fn number_starts(pattern: &Pattern, last: u8, further: u8) -> bool {
    // A value of some other name, or a part of a path: `offset=4111111111111111`.
    let named =
        matches!(last, b'=' | b'/' | b':' | b'#') || last == b' ' && matches!(further, b'=' | b':');
    if pattern.rule == "pii.card" && named {
        return false;
    }
    let joined = match last {
        b'.' | b'/' | b',' => further.is_ascii_digit(),
        b':' => further.is_ascii_digit() && pattern.family == Family::Pii,
        b'-' if pattern.family == Family::Pii => wordy(further) || further == b'-',
        b'-' => further.is_ascii_digit() || further == b'-',
        b'+' | b'\\' | b'$' => true,
        // One more number of a list or a table.
        b' ' => further.is_ascii_digit() && is_loose(pattern),
        _ => false,
    };
    !joined
}

/// Whether the groups of `pattern` look like any row of numbers: no checksum, no characteristic
/// sign, and no context word that must precede it.
fn is_loose(pattern: &Pattern) -> bool {
    pattern.kind == "PHONE_NUMBER" && pattern.score >= 0.5
}

/// Whether a candidate of `pattern` that ends with `last` may be followed by `after`.
pub fn ends_clean(pattern: &Pattern, last: u8, after: &[u8]) -> bool {
    let Some(&next) = after.first() else { return true };
    if next >= 0x80 {
        return !(wordy(last) && first_char(after).is_some_and(joins));
    }
    if wordy(last) && wordy(next) {
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
    // `deploy@host.example:/srv` is a place, not a person.
    if pattern.kind == "EMAIL_ADDRESS" && next == b':' && (beyond == b'/' || beyond == b'~') {
        return false;
    }
    if !last.is_ascii_digit() || pattern.kind == "URL" {
        return true;
    }
    let address = matches!(&*pattern.kind, "IP_ADDRESS" | "MAC_ADDRESS" | "EMAIL_ADDRESS");
    let joins = match next {
        b'.' => beyond.is_ascii_digit(),
        b'-' => beyond.is_ascii_digit() && pattern.kind != "IP_ADDRESS",
        b':' => beyond.is_ascii_digit() && !address && pattern.family == Family::Pii,
        b' ' => beyond.is_ascii_digit() && is_loose(pattern),
        b'%' => pattern.family == Family::Pii && !address,
        _ => false,
    };
    !joins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_script_are_not_cut() {
        let rule = crate::pii::patterns().next().expect("a rule");
        assert!(!starts_clean(rule, "mü".as_bytes(), b'l'));
        assert!(!ends_clean(rule, b'l', "ü".as_bytes()));
        assert!(!starts_clean(rule, "и".as_bytes(), b'l'));
        assert!(
            starts_clean(rule, "请".as_bytes(), b'l') && starts_clean(rule, "“".as_bytes(), b'l')
        );
        assert!(
            ends_clean(rule, b'l', "으로".as_bytes()) && ends_clean(rule, b'l', "…".as_bytes())
        );
    }

    #[test]
    fn numbers_inside_names_times_and_tables_do_not_begin() {
        let of = |name: &str| crate::pii::patterns().find(|p| p.rule == name).expect("a rule");
        for before in ["blk_-", "node-", "00:02:", "1.", "2024-12-", "$", "12,"] {
            assert!(!starts_clean(of("pii.card"), before.as_bytes(), b'4'), "{before}");
        }
        assert!(
            starts_clean(of("pii.card"), b"a ", b'4')
                && starts_clean(of("pii.card_any"), b"x:", b'4')
        );
        assert!(!starts_clean(of("pii.phone_trunk"), b"1 ", b'0'));
        assert!(!ends_clean(of("pii.phone_trunk"), b'0', b" 1"));
        assert!(ends_clean(of("pii.ipv4"), b'1', b":80"));
    }
}
