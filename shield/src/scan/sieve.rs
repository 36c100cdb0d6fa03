//! Finds the positions where a rule may match, with a few operations a byte.
//!
//! - *In*: the triples of bytes that rules begin with; then a text.
//! - *Out*: token starts whose first three bytes are such a triple, or look like one.
//! - *Never*: a missed position. A false positive costs only a walk without a match.

/// Classes of bytes, six bits each.
const CLASSES: [u8; 256] = classes();
/// The class of all other bytes.
const OTHER: u8 = 63;
const UPPER: u8 = 26;
const DIGIT: u8 = 52;
const PUNCTUATION: &[u8; 9] = b"-_:.+($ /";

const fn classes() -> [u8; 256] {
    let mut table = [OTHER; 256];
    let mut i = 0;
    while i < 26 {
        table[b'a' as usize + i] = i as u8;
        table[b'A' as usize + i] = UPPER + i as u8;
        i += 1;
    }
    i = 0;
    while i < 10 {
        table[b'0' as usize + i] = if i == 0 { DIGIT } else { DIGIT + 1 };
        i += 1;
    }
    i = 0;
    while i < PUNCTUATION.len() {
        table[PUNCTUATION[i] as usize] = DIGIT + 2 + i as u8;
        i += 1;
    }
    table
}

/// A bit for each triple of classes.
pub(super) struct Sieve {
    triples: Box<[u64; 1 << 12]>,
}

fn class(b: u8) -> usize {
    usize::from(CLASSES[usize::from(b)])
}

impl Sieve {
    /// A sieve that admits nothing.
    pub(super) fn new() -> Sieve {
        Sieve { triples: Box::new([0; 1 << 12]) }
    }

    /// Admits tokens that begin with these three bytes.
    pub(super) fn admit(&mut self, a: u8, b: u8, c: u8) {
        self.triples[class(a) << 6 | class(b)] |= 1 << class(c);
    }

    fn admits(&self, a: u8, b: u8, c: u8) -> bool {
        self.triples[class(a) << 6 | class(b)] >> class(c) & 1 == 1
    }

    /// Whether a rule may begin at `at`.
    pub(super) fn admits_at(&self, bytes: &[u8], at: usize) -> bool {
        matches!(bytes.get(at..at + 3), Some(&[a, b, c]) if self.admits(a, b, c))
    }

    /// The next place at or after `from`.
    pub(super) fn next(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let mut last = from
            .checked_sub(1)
            .and_then(|i| bytes.get(i))
            .map_or(OTHER, |b| CLASSES[usize::from(*b)]);
        let rest = bytes.get(from..)?;
        for (i, window) in rest.windows(3).enumerate() {
            let &[a, b, c] = window else { continue };
            let this = CLASSES[usize::from(a)];
            // Inside a word, only an upper-case letter after a lower-case one begins a token.
            let begins = last > DIGIT + 1 || (last < UPPER && (UPPER..DIGIT).contains(&this));
            last = this;
            if begins && self.admits(a, b, c) {
                return Some(from + i);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_starts_of_tokens_are_admitted() {
        let mut sieve = Sieve::new();
        sieve.admit(b'a', b'b', b'c');
        sieve.admit(b'K', b'e', b'y');
        let text = b"xabc abc _abcd myKey ab";
        let mut places = Vec::new();
        let mut from = 0;
        while let Some(at) = sieve.next(text, from) {
            places.push(at);
            from = at + 1;
        }
        assert_eq!(places, [5, 10, 17]);
    }
}
