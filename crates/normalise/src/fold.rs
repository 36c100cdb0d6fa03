//! Folds characters: applies NFKC, removes invisible ones, decodes tags, replaces look-alikes.
//!
//! - *In*: a text with something beyond ASCII.
//! - *Out*: the folded text with its map and the counts.
//! - *Never*: a look-alike folded in a word that really is of another script.

use unicode_normalization::{
    IsNormalized, UnicodeNormalization, char::canonical_combining_class, is_nfkc_quick,
};

use super::Normal;
use super::confusable::{foreign, invisible, latin, sign, tag};

/// Maximum combining marks kept on one letter; more only serve to hide the letter.
const MAX_MARKS: usize = 3;

/// The folded form of `text`, at most `room` bytes.
pub(super) fn fold(text: &str, room: usize) -> Normal {
    let mut folder = Folder {
        text,
        out: Normal::default(),
        mostly_latin: mostly_latin(text),
        word_end: 0,
        word_folds: false,
    };
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|t| t.chars().next()) {
        if folder.out.text.len() >= room {
            folder.out.truncated = true;
            break;
        }
        at = folder.step(at, c);
    }
    while folder.out.text.len() > room && folder.out.text.pop().is_some() {
        folder.out.truncated = true;
    }
    folder.out
}

struct Folder<'a> {
    text: &'a str,
    out: Normal,
    mostly_latin: bool,
    /// End of the last word that was examined.
    word_end: usize,
    /// Whether look-alikes of that word are folded.
    word_folds: bool,
}

impl Folder<'_> {
    /// Handles the character at `at`; returns where the next one starts.
    fn step(&mut self, at: usize, c: char) -> usize {
        let end = at + c.len_utf8();
        if c.is_ascii() {
            return self.ascii(at);
        }
        if let Some(meant) = tag(c) {
            self.out.marks.tags += 1;
            if let Some(meant) = meant {
                self.replace(at, end, meant);
            }
            return end;
        }
        if invisible(c) {
            self.out.marks.invisible += 1;
            return end;
        }
        if let Some(meant) = sign(c) {
            self.replace(at, end, meant);
            return end;
        }
        if foreign(c)
            && self.folds(at)
            && let Some(meant) = latin(c)
        {
            self.out.marks.confusable += 1;
            self.replace(at, end, meant);
            return end;
        }
        self.cluster(at, c)
    }

    fn replace(&mut self, at: usize, end: usize, meant: char) {
        self.out.map.replaced(self.out.text.len(), at..end);
        self.out.text.push(meant);
    }

    fn copy(&mut self, at: usize, end: usize) {
        let run = self.text.get(at..end).unwrap_or_default();
        self.out.map.copied(self.out.text.len(), at, run.len());
        self.out.text.push_str(run);
    }

    /// Copies a run of ASCII. If a combining mark may follow, the last character is handled
    /// together with it.
    fn ascii(&mut self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        let run = rest.bytes().position(|b| b >= 0x80).unwrap_or(rest.len());
        let joins = rest.get(run..).and_then(|r| r.chars().next()).is_some_and(joins_back);
        let plain = if joins { run.saturating_sub(1) } else { run };
        if plain > 0 {
            self.copy(at, at + plain);
        }
        if joins {
            self.cluster(at + plain, rest.as_bytes().get(plain).map_or(' ', |b| *b as char))
        } else {
            at + plain
        }
    }

    /// A character with the marks that join it.
    fn cluster(&mut self, at: usize, first: char) -> usize {
        let mut end = at + first.len_utf8();
        let mut kept = end;
        let mut marks = 0;
        for c in
            self.text.get(end..).unwrap_or_default().chars().take_while(|c| joins_back(*c)).take(64)
        {
            end += c.len_utf8();
            marks += 1;
            if marks <= MAX_MARKS {
                kept = end;
            }
        }
        let run = self.text.get(at..kept).unwrap_or_default();
        if marks == 0 && is_nfkc_quick(std::iter::once(first)) == IsNormalized::Yes {
            self.copy(at, end);
            return end;
        }
        let start = self.out.text.len();
        self.out.map.replaced(start, at..end);
        for c in run.nfkc() {
            self.out.text.push(sign(c).unwrap_or(c));
        }
        self.out.marks.compatibility += 1;
        end
    }

    /// Whether the look-alikes of the word at `at` are folded; each word is examined once.
    fn folds(&mut self, at: usize) -> bool {
        if at >= self.word_end {
            let latin_before =
                self.out.text.bytes().next_back().is_some_and(|b| b.is_ascii_alphabetic());
            let (mut ascii, mut honest, mut end) = (latin_before, false, at);
            for c in self.text.get(at..).unwrap_or_default().chars() {
                if !c.is_alphabetic() && !invisible(c) {
                    break;
                }
                ascii |= c.is_ascii_alphabetic();
                honest |= foreign(c) && latin(c).is_none();
                end += c.len_utf8();
            }
            self.word_end = end;
            self.word_folds = !honest && (ascii || self.mostly_latin);
        }
        self.word_folds
    }
}

/// Whether a character may combine with the one before it.
fn joins_back(c: char) -> bool {
    !c.is_ascii()
        && !invisible(c)
        && (canonical_combining_class(c) != 0
            || is_nfkc_quick(std::iter::once(c)) == IsNormalized::Maybe
            || matches!(c, '\u{ff9e}' | '\u{ff9f}'))
}

/// Whether Latin letters are more than twice as many as letters of other scripts without a Latin
/// look-alike.
fn mostly_latin(text: &str) -> bool {
    let (mut ascii, mut honest) = (0usize, 0usize);
    for c in text.chars() {
        if c.is_ascii() {
            ascii += usize::from(c.is_ascii_alphabetic());
        } else if foreign(c) && latin(c).is_none() {
            honest += 1;
        }
    }
    ascii > honest.saturating_mul(2)
}
