//! Disguises of words: rot13, reversed, leet, spaced.
//!
//! - *In*: one word, or one sentence found by the scan.
//! - *Out*: whether it is disguised; its text.
//! - *Never*: a decision on one word alone: sentences are judged by the number of common words in
//!   them.

use std::sync::LazyLock;

/// A common word as it is.
pub(super) const PLAIN: u8 = 1;
/// A common word, rotated.
pub(super) const ROT13: u8 = 2;
/// A common word, backwards.
pub(super) const REVERSED: u8 = 3;

/// Common English words, words of typical instructions, and some German, Spanish and French ones.
const WORDS: &str = "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not \
what all were we when your can said there use an each which she do how their if will up other about out many then them these so \
some her would make like him into time has look two more write go see number no way could people my than first been call who its \
now find long down day did get come made may part over new take only work know year me give most very after thing our just name \
good sentence man think say great where help through much before line right too means old any same tell does set three want well \
also play small end put home read hand large add even here must such follow act why ask men change went need house try us again \
off animal point mother world near build self earth should country found answer school still learn every please provide explain \
describe instructions instruction ignore previous system prompt forget everything above show print repeat text rules tell \
password secret key user disregard pretend assistant article articles following task tasks because language model without between \
ist und nicht ich das die der ein eine mir sie alle vergiss bitte que los por para una les des est pour dans";

const SLOTS: usize = 4096;

/// Common words by their last eight letters.
pub(super) struct Common {
    slots: Vec<(u64, u8)>,
}

static COMMON: LazyLock<Common> = LazyLock::new(Common::new);

/// The table of common words.
pub(super) fn common() -> &'static Common {
    &COMMON
}

fn pack(letters: impl Iterator<Item = u8>) -> u64 {
    letters.fold(0, |p, b| p << 8 | u64::from(b))
}

fn slot(packed: u64) -> usize {
    (packed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

impl Common {
    fn new() -> Self {
        let mut table = Self { slots: vec![(0, 0); SLOTS] };
        let words = || WORDS.split_ascii_whitespace();
        // Plain words come first: "saw" is a word before it is "was" backwards.
        words().for_each(|w| table.add(pack(w.bytes()), PLAIN));
        words().filter(|w| w.len() > 1).for_each(|w| table.add(pack(w.bytes().map(rotate)), ROT13));
        words().filter(|w| w.len() > 2).for_each(|w| table.add(pack(w.bytes().rev()), REVERSED));
        table
    }

    fn add(&mut self, packed: u64, kind: u8) {
        let start = slot(packed);
        for i in 0..SLOTS {
            let Some(place) = self.slots.get_mut((start + i) % SLOTS) else { return };
            if place.0 == packed {
                return;
            }
            if place.1 == 0 {
                *place = (packed, kind);
                return;
            }
        }
    }

    /// The kind of a common word: [`PLAIN`], [`ROT13`] or [`REVERSED`]; 0 for any other word.
    pub(super) fn kind(&self, packed: u64) -> u8 {
        let start = slot(packed);
        for i in 0..16 {
            match self.slots.get((start + i) % SLOTS) {
                Some((key, kind)) if *kind == 0 || *key == packed => return *kind,
                _ => {}
            }
        }
        0
    }
}

fn rotate(b: u8) -> u8 {
    match b {
        b'a'..=b'm' | b'A'..=b'M' => b + 13,
        b'n'..=b'z' | b'N'..=b'Z' => b - 13,
        _ => b,
    }
}

pub(super) fn rot13(run: &str) -> String {
    run.chars().map(|c| if c.is_ascii() { rotate(c as u8) as char } else { c }).collect()
}

fn letter(b: u8) -> Option<u8> {
    Some(match b {
        b'0' => b'o',
        b'1' => b'i',
        b'3' => b'e',
        b'4' | b'@' => b'a',
        b'5' | b'$' => b's',
        b'7' => b't',
        b'8' => b'b',
        _ => return None,
    })
}

/// Whether a word has a digit or sign in place of a letter: between letters, or before two of them.
pub(super) fn mixed(word: &[u8]) -> bool {
    let [is_letter, is_digit] = [|b: &u8| b.is_ascii_alphabetic(), |b: &u8| letter(*b).is_some()];
    let inner = word
        .windows(3)
        .any(|w| matches!(w, [a, d, b] if is_letter(a) && is_digit(d) && is_letter(b)));
    // Not addresses, prices and numbers with a unit, which have the same signs.
    let first = matches!(word, [d, a, b, ..] if is_digit(d) && is_letter(a) && is_letter(b))
        && !matches!(word.first(), Some(b'$' | b'@'))
        && !matches!(
            word.get(1..).map(|w| w.to_ascii_lowercase()).as_deref(),
            Some(
                b"st"
                    | b"nd"
                    | b"rd"
                    | b"th"
                    | b"am"
                    | b"pm"
                    | b"px"
                    | b"kg"
                    | b"km"
                    | b"gb"
                    | b"mb"
                    | b"ms"
            )
        );
    let double = word.windows(4).any(
        |w| matches!(w, [a, c, d, b] if is_letter(a) && is_digit(c) && is_digit(d) && is_letter(b)),
    );
    (inner || first || double)
        && !(word.contains(&b'@') && word.contains(&b'.'))
        && !word.iter().any(|b| matches!(b, b'/' | b'=' | b'_' | b'%' | b'&' | b'(' | b'#'))
}

/// Decodes leet in a sentence. Digits become letters in words that mix both; in a sentence with
/// three such words, in all words with letters or with at most three digits.
pub(super) fn leet(run: &str) -> String {
    let words = || run.split_inclusive([' ', '\n', '\t']);
    let heavy = words().filter(|w| mixed(w.trim_end().as_bytes())).count() >= 3;
    let mut out = String::with_capacity(run.len());
    for word in words() {
        let letters = word.bytes().any(|b| b.is_ascii_alphabetic());
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let fold = if heavy { letters || digits <= 3 } else { mixed(word.trim_end().as_bytes()) };
        out.extend(word.chars().map(|c| {
            if fold && c.is_ascii() { letter(c as u8).unwrap_or(c as u8) as char } else { c }
        }));
    }
    out
}

/// Whether single characters between blanks are mostly letters: `a = b + c` is not.
pub(super) fn spaced(run: &str) -> bool {
    let letters = run.chars().filter(|c| c.is_alphabetic()).count();
    let rest = run
        .chars()
        .filter(|c| {
            !c.is_alphabetic()
                && !c.is_whitespace()
                && !matches!(c, '.' | ',' | '?' | '!' | '\'' | ':')
        })
        .count();
    letters >= 3 && rest * 4 <= letters
}

/// Joins single letters into words; more than one blank ends a word.
pub(super) fn join(run: &str) -> String {
    let mut out = String::with_capacity(run.len() / 2 + 1);
    let mut blanks = 0;
    let sign = run.chars().nth(1).filter(|c| !c.is_alphanumeric() && !c.is_whitespace());
    for c in run.chars() {
        if c.is_whitespace() {
            blanks += 1;
            continue;
        }
        if blanks > 1 {
            out.push(' ');
        }
        blanks = 0;
        if Some(c) != sign {
            out.push(c);
        }
    }
    out
}
