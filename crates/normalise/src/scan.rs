//! Finds disguised runs of a text in one pass.
//!
//! - *In*: a folded text.
//! - *Out*: [`Run`]s in order and without overlaps, each with its disguise.
//! - *Never*: decoding beyond the current token; more than a constant number of visits of a byte.

use std::ops::Range;

use super::Disguise;
use super::encoded;
use super::words::{self, Common};

/// A disguised run of the folded text.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) disguise: Disguise,
    pub(super) at: Range<usize>,
}

impl Run {
    /// The text of the run. `None`: it holds no readable text.
    pub(super) fn decode(&self, run: &str) -> Option<String> {
        match self.disguise {
            Disguise::Base64 => encoded::base64(run),
            Disguise::Hex => encoded::hex(run),
            Disguise::Percent => encoded::percent(run),
            Disguise::Entities => encoded::entities(run),
            Disguise::Rot13 => Some(words::rot13(run)),
            Disguise::Reversed => Some(run.chars().rev().collect()),
            Disguise::Leet => Some(words::leet(run)),
            Disguise::Spaced => Some(words::join(run)),
        }
    }
}

const LETTER: u8 = 1;
const DIGIT: u8 = 2;
const ESCAPE: u8 = 4;
const OTHER: u8 = 8;
const SPACE: u8 = 16;
const NEWLINE: u8 = 32;
const SIGN: u8 = 64;

const CLASS: [u8; 256] = classes();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn classes() -> [u8; 256] {
    let mut table = [OTHER; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        table[b] = match c {
            b'a'..=b'z' | b'A'..=b'Z' => LETTER,
            b'0'..=b'9' => DIGIT,
            b'%' | b'&' => ESCAPE,
            b'\n' | b'\r' => NEWLINE,
            b' ' | b'\t' => SPACE,
            b'@' | b'$' => SIGN,
            _ => OTHER,
        };
        b += 1;
    }
    table
}

/// One word between blanks.
#[derive(Clone, Copy, Default)]
struct Token {
    start: usize,
    end: usize,
    /// The classes of its bytes, together.
    bits: u8,
    /// The last eight letters, lower case, first letter highest.
    packed: u64,
    /// Where its letters begin and end.
    letters: (usize, usize),
}

/// The runs of `text`, at most `limit`.
pub(super) fn scan(text: &str, limit: usize) -> Vec<Run> {
    let mut scanner = Scanner {
        text,
        common: words::common(),
        runs: Vec::new(),
        line: Line::default(),
        spaced: Spaced::default(),
    };
    let mut token = Token::default();
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        let class = CLASS.get(byte as usize).copied().unwrap_or(OTHER);
        if class & (SPACE | NEWLINE) != 0 {
            token.end = at;
            scanner.token(&token);
            if class == NEWLINE {
                scanner.end_line(at);
            }
            token = Token { start: at + 1, ..Token::default() };
        } else {
            if class == LETTER {
                token.packed = (token.packed << 8) | u64::from(byte | 0x20);
                token.letters.1 = at + 1;
            }
            token.bits |= class;
        }
    }
    token.end = text.len();
    scanner.token(&token);
    scanner.end_line(text.len());
    scanner.end_spaced();
    apart(scanner.runs, limit)
}

/// Sorts runs and removes overlaps: the earlier run stays; of two that start together, the longer
/// one.
fn apart(mut runs: Vec<Run>, limit: usize) -> Vec<Run> {
    runs.sort_by_key(|r| (r.at.start, std::cmp::Reverse(r.at.end)));
    let mut end = 0;
    runs.retain(|r| {
        let keep = r.at.start >= end && !r.at.is_empty();
        if keep {
            end = r.at.end;
        }
        keep
    });
    runs.truncate(limit);
    runs
}

/// Counts of the current sentence.
#[derive(Default)]
struct Line {
    start: Option<usize>,
    end: usize,
    plain: u32,
    rot13: u32,
    reversed: u32,
    leet: u32,
    leet_from: usize,
    leet_to: usize,
    words: u32,
}

/// The current run of single letters.
#[derive(Default)]
struct Spaced {
    start: usize,
    end: usize,
    letters: u32,
}

struct Scanner<'a> {
    text: &'a str,
    common: &'static Common,
    runs: Vec<Run>,
    line: Line,
    spaced: Spaced,
}

impl Scanner<'_> {
    fn token(&mut self, token: &Token) {
        let length = token.end.saturating_sub(token.start);
        if length == 0 {
            return;
        }
        let bytes = self.text.as_bytes();
        if matches!(bytes.get(token.start), Some(b'.' | b'?' | b'!')) {
            self.end_line(token.start);
        }
        self.single(token, length);
        if length >= 16 || token.bits & ESCAPE != 0 {
            self.encoded(token, length);
        }
        if token.bits & LETTER != 0 {
            self.word(token, length);
        }
        self.line.start.get_or_insert(token.start);
        self.line.end = token.end;
        if matches!(bytes.get(token.end - 1), Some(b'.' | b'?' | b'!' | b':')) {
            self.end_line(token.end);
        }
    }

    /// Counts single letters between blanks.
    fn single(&mut self, token: &Token, length: usize) {
        let one = length == 1
            || (length <= 4
                && self.text.get(token.start..token.end).is_some_and(|t| t.chars().count() == 1));
        if !one {
            return self.end_spaced();
        }
        if self.spaced.letters == 0 {
            self.spaced.start = token.start;
        } else if token.start > self.spaced.end + 4 {
            self.end_spaced();
            self.spaced.start = token.start;
        }
        self.spaced.letters += u32::from(token.bits & (LETTER | OTHER) != 0);
        self.spaced.end = token.end;
    }

    fn end_spaced(&mut self) {
        let run = std::mem::take(&mut self.spaced);
        if run.letters >= 3 && words::spaced(self.text.get(run.start..run.end).unwrap_or_default())
        {
            self.runs.push(Run { disguise: Disguise::Spaced, at: run.start..run.end });
        }
    }

    /// A long token, or one with an escape sign.
    fn encoded(&mut self, token: &Token, length: usize) {
        let bytes = self.text.as_bytes().get(token.start..token.end).unwrap_or_default();
        if token.bits & ESCAPE != 0 {
            let disguise =
                if encoded::percents(bytes) { Disguise::Percent } else { Disguise::Entities };
            if disguise == Disguise::Percent || encoded::entity(bytes) {
                self.runs.push(Run { disguise, at: token.start..token.end });
                return;
            }
        }
        if length >= 16 {
            if let Some((disguise, at)) = encoded::long_run(bytes) {
                self.runs.push(Run { disguise, at: token.start + at.start..token.start + at.end });
            } else if encoded::dotted(bytes) {
                self.runs.push(Run { disguise: Disguise::Spaced, at: token.start..token.end });
            }
        }
    }

    fn word(&mut self, token: &Token, length: usize) {
        self.line.words += 1;
        match self.common.kind(token.packed) {
            words::PLAIN => self.line.plain += 1,
            words::ROT13 => self.line.rot13 += 1,
            words::REVERSED => self.line.reversed += 1,
            _ => {}
        }
        if token.bits & (DIGIT | SIGN) == 0 || length > 24 {
            return;
        }
        if words::mixed(self.text.as_bytes().get(token.start..token.end).unwrap_or_default()) {
            if self.line.leet == 0 {
                self.line.leet_from = token.start;
            }
            self.line.leet += 1;
            self.line.leet_to = token.end;
        }
    }

    /// Judges the sentence that ends here.
    fn end_line(&mut self, _at: usize) {
        let line = std::mem::take(&mut self.line);
        let Some(start) = line.start else { return };
        if line.rot13 > line.plain * 2
            && (line.rot13 >= 2 || line.words <= 4 || self.goes_on(Disguise::Rot13, start))
            && line.rot13 >= 1
        {
            self.whole(Disguise::Rot13, start, line.end);
        } else if line.reversed > line.plain * 2
            && (line.reversed >= 2 || self.goes_on(Disguise::Reversed, start))
        {
            self.whole(Disguise::Reversed, start, line.end);
        } else if line.leet > 0 {
            // In a sentence with much leet, numbers are decoded too; otherwise only the disguised
            // words.
            let heavy = line.leet >= 3 || line.leet * 2 >= line.words;
            let (from, to) = if heavy { (start, line.end) } else { (line.leet_from, line.leet_to) };
            self.runs.push(Run { disguise: Disguise::Leet, at: from..to });
        }
    }

    fn goes_on(&self, disguise: Disguise, start: usize) -> bool {
        self.runs.last().is_some_and(|r| r.disguise == disguise && r.at.end + 2 >= start)
    }

    /// Adds a whole sentence. It extends the previous run if that has the same disguise and is
    /// adjacent.
    fn whole(&mut self, disguise: Disguise, start: usize, end: usize) {
        if let Some(last) =
            self.runs.last_mut().filter(|r| r.disguise == disguise && r.at.end + 2 >= start)
        {
            last.at.end = end;
            return;
        }
        self.runs.push(Run { disguise, at: start..end });
    }
}
