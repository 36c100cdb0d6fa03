//! Checks that tell a credential from a placeholder.
//!
//! - *In*: a candidate.
//! - *Out*: whether it can be real.
//! - *Never*: a list of known test tokens.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

/// Words that documentation writes in place of a key, in lower case.
#[rustfmt::skip]
const STAND_INS: &[&str] = &[
    "example", "your_", "your-", "yourkey", "yourtoken", "changeme", "change_me", "change-me",
    "placeholder", "insert", "replace", "redacted", "dummy", "todo", "<", ">", "${", "$(", "{{",
    "...", "***", "####", "[[", "%s", "fake-", "fake_", "my_secret", "my-secret", "_here",
    "-here",
];

/// Whether a text looks generated: no stand-in, no run of one character, no sequence.
pub(crate) fn looks_generated(text: &str) -> bool {
    !stands_in(text) && !monotonous(text) && !sequential(text)
}

/// Whether a text contains a stand-in for a credential.
pub(crate) fn stands_in(text: &str) -> bool {
    static WORDS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
        let mut builder = AhoCorasick::builder();
        builder.ascii_case_insensitive(true).kind(Some(AhoCorasickKind::DFA)).build(STAND_INS).ok()
    });
    WORDS.as_ref().is_some_and(|words| words.is_match(text))
}

/// Whether a character other than `-` and `A` occurs six times in a row, which no generator would
/// produce.
pub(crate) fn monotonous(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.windows(6).any(|w| {
        w.iter().all(|b| Some(b) == w.first())
            && w.first() != Some(&b'-')
            && w.first() != Some(&b'A')
    })
}

/// Whether ten letters or ten digits are in sequence: `klmnopqrst`, `1234567890`,
/// `a1b2c3d4e5f6g7h8i9j0`.
pub(crate) fn sequential(text: &str) -> bool {
    let counted = |belongs: fn(&u8) -> bool| {
        let (mut run, mut last) = (0, 0);
        text.bytes().map(|b| b.to_ascii_lowercase()).filter(belongs).any(|b| {
            run = if b == last + 1 || (last == b'9' && b == b'0') { run + 1 } else { 0 };
            last = b;
            run >= 9
        })
    };
    counted(u8::is_ascii_lowercase) || counted(u8::is_ascii_digit)
}

/// Whether a run of 32 hexadecimal digits or more has both cases: no encoder writes that.
pub(crate) fn mixed_hex(text: &str) -> bool {
    let mut runs = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|run| run.len() >= 32);
    runs.any(|run| {
        let has = |of: fn(&u8) -> bool| run.bytes().any(|b| of(&b));
        has(u8::is_ascii_uppercase)
            && has(u8::is_ascii_lowercase)
            && run.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Whether a text has the format of a UUID that is not random: letters beyond `f` (made up),
/// version 1 (a clock and a MAC address), or only a part of a UUID.
pub(crate) fn no_random_uuid(text: &str) -> bool {
    let word = |c: char| !c.is_ascii_alphanumeric();
    let groups: Vec<&str> = text
        .split('-')
        .map(|g| g.trim_end_matches(word).rsplit(word).next().unwrap_or_default())
        .collect();
    groups.windows(2).position(|w| matches!(w, [a, b] if a.len() == 8 && b.len() == 4)).is_some_and(
        |at| {
            let uuid: Vec<&str> = groups.iter().skip(at).take(5).copied().collect();
            let whole = uuid.iter().skip(1).map(|g| g.len()).eq([4, 4, 4, 12]);
            let hex = uuid.iter().skip(1).all(|g| g.bytes().all(|b| b.is_ascii_hexdigit()));
            !whole || !hex || uuid.get(2).is_some_and(|g| g.starts_with('1'))
        },
    )
}

/// Whether a text is lower-case words joined by underscores: the name of a field or a setting.
pub(crate) fn identifier(text: &str) -> bool {
    text.contains('_') && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// Shannon's entropy in bits a byte.
pub(crate) fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    for b in text.bytes() {
        if let Some(n) = counts.get_mut(usize::from(b)) {
            *n += 1;
        }
    }
    let total = text.len() as f64;
    let term = |n: u32| {
        let p = f64::from(n) / total;
        -p * p.log2()
    };
    // Most bytes occur once or twice, and logarithms cost most.
    let known = [term(1), term(2), term(3)];
    let term = |n: &u32| known.get(*n as usize - 1).copied().unwrap_or_else(|| term(*n));
    counts.iter().filter(|n| **n > 0).map(term).sum()
}

/// Whether a text mixes letters and digits as words do not.
pub(crate) fn random(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let letters = text.bytes().filter(u8::is_ascii_alphabetic).count();
    digits >= 2 && letters >= 2 && looks_generated(text) && entropy(text) >= 3.0
}

/// Whether a text, with its prefix, is random enough: generated, with a digit, and at least three
/// bits per byte.
pub(crate) fn body_random(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit()) && looks_generated(text) && entropy(text) >= 3.0
}

/// Whether a short prefix precedes at least 28 random characters: both cases and digits, or lower
/// case with a fifth of digits in one run. Names of hashes and of public identifiers are none.
pub(crate) fn prefixed(text: &str) -> bool {
    const PUBLIC: [&str; 16] = [
        "sha", "md", "rev", "commit", "img", "pod", "file", "hash", "uid", "id", "usr", "req",
        "cus", "pk_", "pub", "etag",
    ];
    let body = text.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let Some(body) = body.get(1..) else { return false };
    let run = body.split(['_', '-']).max_by_key(|run| run.len()).unwrap_or_default();
    let count = |of: fn(&u8) -> bool| run.bytes().filter(of).count();
    let (digits, upper) = (count(u8::is_ascii_digit), count(u8::is_ascii_uppercase));
    let lower = run.len() - digits - upper;
    run.len() >= 28
        && !PUBLIC.iter().any(|name| text.starts_with(name))
        && digits >= 3
        && (upper >= 3 && lower >= 3 || digits * 5 >= run.len() && lower >= 6)
        && looks_generated(text)
        && entropy(run) >= 3.4
}

/// Words that passwords of examples begin with.
#[rustfmt::skip]
const EXAMPLES: &[&str] = &[
    "pass", "pwd", "secret", "admin", "test", "welcome", "letmein", "qwerty", "demo", "root",
    "user", "postgres", "mysql", "guest", "foo", "bar", "hunter", "abc", "xxx", "mysecret",
    "mypass", "super", "p@ss", "s3cret", "s3cr3t", "my_", "my-", "new", "old", "hello", "default",
    "temp",
];

/// Whether a value is more than a word: at least eight characters with a digit and a letter, or
/// with a sign and both cases, and no password of examples.
pub(crate) fn strong(value: &str) -> bool {
    let has = |of: fn(&u8) -> bool| value.bytes().any(|b| of(&b));
    let digit = has(u8::is_ascii_digit);
    let (upper, lower) = (has(u8::is_ascii_uppercase), has(u8::is_ascii_lowercase));
    let sign = has(u8::is_ascii_punctuation);
    let plain = value.to_ascii_lowercase();
    value.len() >= 8
        && (digit && (upper || lower) || sign && upper && lower)
        && !EXAMPLES.iter().any(|word| plain.starts_with(word))
        && !value.contains(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_placeholders_do_not_look_generated() {
        assert!(
            random("9f8a7d6c5b4e3f2a1b0c")
                && !random("your_api_key_here")
                && !random("xxxxxxxxxxxxxxxx12")
        );
        assert!(!looks_generated("${API_KEY}") && !looks_generated("<token>"));
    }

    #[test]
    fn handwritten_and_time_based_values_are_detected() {
        assert!(
            mixed_hex("aB3f5d7e9c1b2a4f6e8d0c2b4a6f8e1d")
                && !mixed_hex("ab3f5d7e9c1b2a4f6e8d0c2b4a6f8e1d")
        );
        assert!(!mixed_hex("zB3f5d7e9c1b2a4f6e8d0c2b4a6f8e1d"));
        assert!(
            no_random_uuid("token=2f1acc6a-31d7-11ee-be56-0242ac120002")
                && no_random_uuid("2f1acc6a-31d7-11ee-be56-0242")
        );
        assert!(
            no_random_uuid("2f1acc6a-31d7-4zee-be56-0242ac120002")
                && !no_random_uuid("2f1acc6a-31d7-41ee-be56-0242ac120002")
        );
        assert!(identifier("field_name") && !identifier("field_name_2") && !identifier("field"));
    }
}
