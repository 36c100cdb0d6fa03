//! What tells a credential from the place where one should stand.
//!
//! - *In*: a candidate.
//! - *Out*: whether it can be real.
//! - *Never*: a list of known test tokens.

/// Words that documentation writes in place of a key.
const STAND_INS: &[&str] = &[
    "example",
    "your_",
    "your-",
    "yourkey",
    "yourtoken",
    "changeme",
    "change_me",
    "change-me",
    "placeholder",
    "insert",
    "replace",
    "redacted",
    "dummy",
    "todo",
    "<",
    ">",
    "${",
    "$(",
    "{{",
    "...",
    "***",
    "####",
    "[[",
    "%s",
    "fake-",
    "fake_",
    "my_secret",
    "my-secret",
    "_here",
    "-here",
];

/// Whether it holds no stand-in and no run of one character, and varies: a key is drawn from a hat.
pub(crate) fn drawn(text: &str) -> bool {
    !stands_in(text) && !monotonous(text) && !sequential(text)
}

/// Whether a person wrote it as a stand-in for a credential.
pub(crate) fn stands_in(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    STAND_INS.iter().any(|word| lower.contains(word))
}

/// Six times the same character in a row, as no generator would.
pub(crate) fn monotonous(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.windows(6).any(|w| w.iter().all(|b| Some(b) == w.first()) && w.first() != Some(&b'-') && w.first() != Some(&b'A'))
}

/// Ten letters or ten digits that follow one another as on a keyboard: `klmnopqrst`, `1234567890`, `a1b2c3d4e5f6g7h8i9j0`.
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

/// Shannon's entropy in bits a byte.
pub(crate) fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    for b in text.bytes() {
        if let Some(n) = counts.get_mut(usize::from(b)) {
            *n += 1;
        }
    }
    let total = text.len() as f64;
    counts.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / total).map(|p| -p * p.log2()).sum()
}

/// Letters and digits in a mixture that words do not have.
pub(crate) fn random(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let letters = text.bytes().filter(u8::is_ascii_alphabetic).count();
    drawn(text) && digits >= 2 && letters >= 2 && entropy(text) >= 3.0
}

/// The body after the first `_` or `-` is random enough, whatever the prefix is.
pub(crate) fn body_random(text: &str) -> bool {
    drawn(text) && entropy(text) >= 3.0 && text.bytes().any(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hat_does_not_write_words() {
        assert!(random("9f8a7d6c5b4e3f2a1b0c") && !random("your_api_key_here") && !random("xxxxxxxxxxxxxxxx12"));
        assert!(!drawn("${API_KEY}") && !drawn("<token>"));
    }
}
