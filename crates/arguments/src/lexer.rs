//! Tells names, values and punctuation apart, in a text that arrives in pieces.
//!
//! - *In*: text, cut anywhere.
//! - *Out*: [`Part`]s, without gaps, up to the last backslash whose character has not arrived.
//! - *Never*: more than [`MAX_DEPTH`] documents inside each other's strings: deeper ones are text.
//!
//! A string whose content begins with a brace or bracket is a document of its own. If it turns out
//! not to be JSON, the rest of it is text again.

use std::collections::VecDeque;
use std::ops::Range;

use crate::frame::{Frame, slashes_of_quote};

/// Maximum documents inside the strings of another, one inside the other.
const MAX_DEPTH: usize = 3;

/// What a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Punctuation, quotation marks and white space.
    Structure,
    /// The name of a member.
    Name,
    /// The content of a string that is a value.
    Value,
    /// A number.
    Number,
    /// `true`, `false` or `null`.
    Word,
    /// Text that is not JSON.
    Plain,
}

/// A run of bytes of one kind: at most one name, string or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its bytes.
    pub span: Range<usize>,
    /// What they are.
    pub kind: Kind,
    /// In how many strings its document is.
    pub depth: usize,
}

/// Reads a text. It keeps the parts until they are forgotten.
#[derive(Clone, Debug)]
pub struct Lexer {
    /// The documents, the innermost last. The first one is never removed.
    frames: Vec<Frame>,
    parts: VecDeque<Part>,
    /// Bytes read.
    at: usize,
    /// Backslashes at the end of what was read.
    slashes: usize,
    is_plain: bool,
}

impl Default for Lexer {
    fn default() -> Self {
        Lexer {
            frames: vec![Frame::new()],
            parts: VecDeque::new(),
            at: 0,
            slashes: 0,
            is_plain: false,
        }
    }
}

impl Lexer {
    /// Reads the next piece.
    pub fn push(&mut self, text: &str) {
        for b in text.bytes() {
            self.at += 1;
            if b == b'\\' {
                self.slashes += 1;
                continue;
            }
            let slashes = std::mem::take(&mut self.slashes);
            // `\\\\\"`: two backslashes of the content, then a quotation mark one string deeper.
            let own = if b == b'"' {
                slashes_of_quote(slashes.trailing_ones() as usize)
            } else {
                slashes
            };
            let from = self.at - 1 - own;
            if slashes > own {
                self.unit(slashes - own, b'\\', from - (slashes - own)..from);
            }
            self.unit(own, b, from..self.at);
        }
    }

    /// The text has ended, or is decided as it is.
    pub fn end(&mut self) {
        let slashes = std::mem::take(&mut self.slashes);
        if slashes > 0 {
            self.part(self.at - slashes..self.at, Kind::Plain);
        }
    }

    /// Whether the text was one JSON document.
    pub fn is_complete(&self) -> bool {
        let outer = self.frames.first().is_some_and(Frame::is_done);
        !self.is_plain && self.frames.len() == 1 && self.slashes == 0 && outer
    }

    /// What was read, without what was forgotten.
    pub fn parts(&self) -> &VecDeque<Part> {
        &self.parts
    }

    /// Forgets parts that end at or before a position, except the last one.
    pub fn forget(&mut self, before: usize) {
        while self.parts.len() > 1 && self.parts.front().is_some_and(|p| p.span.end <= before) {
            self.parts.pop_front();
        }
    }

    /// A character with the backslashes before it.
    fn unit(&mut self, slashes: usize, b: u8, span: Range<usize>) {
        while !self.is_plain {
            let depth = self.frames.len() - 1;
            let Some(frame) = self.frames.last_mut() else { return };
            let closes_outer = depth > 0 && b == b'"' && slashes <= slashes_of_quote(depth - 1);
            if closes_outer {
                self.frames.pop();
                continue;
            }
            let kind = match &mut frame.string {
                Some(_) if b == b'"' && slashes == slashes_of_quote(depth) => {
                    frame.close_string();
                    Kind::Structure
                }
                Some(string) => {
                    let begins = !string.is_name && !string.has_begun && slashes == 0;
                    string.has_begun |= slashes > 0 || !b.is_ascii_whitespace();
                    if begins && matches!(b, b'{' | b'[') && depth < MAX_DEPTH {
                        self.frames.push(Frame::new());
                        continue;
                    }
                    if string.is_name { Kind::Name } else { Kind::Value }
                }
                None => match frame.step(slashes, b, depth) {
                    Ok(kind) => kind,
                    Err(_) => {
                        self.is_plain = depth == 0;
                        if depth > 0 {
                            self.frames.pop();
                        }
                        continue;
                    }
                },
            };
            return self.part(span, kind);
        }
        self.part(span, Kind::Plain);
    }

    fn part(&mut self, span: Range<usize>, kind: Kind) {
        let depth = self.frames.len() - 1;
        match self.parts.back_mut() {
            Some(last) if last.kind == kind && last.depth == depth => last.span.end = span.end,
            _ => self.parts.push_back(Part { span, kind, depth }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each part as its text, structure left out.
    fn parts(text: &str, width: usize) -> Vec<(Kind, usize, String)> {
        let mut lexer = Lexer::default();
        let mut rest = text;
        while !rest.is_empty() {
            let cut = (width..=rest.len()).find(|at| rest.is_char_boundary(*at));
            let (piece, more) = rest.split_at(cut.unwrap_or(rest.len()));
            lexer.push(piece);
            rest = more;
        }
        lexer.end();
        let all = lexer.parts();
        let ends = all.iter().map(|part| part.span.clone()).collect::<Vec<_>>();
        assert!(ends.windows(2).all(|two| two[0].end == two[1].start), "{ends:?}");
        assert_eq!(ends.last().map_or(0, |last| last.end), text.len());
        let shown = all.iter().filter(|part| part.kind != Kind::Structure);
        shown.map(|p| (p.kind, p.depth, text[p.span.clone()].to_owned())).collect()
    }

    #[test]
    fn names_values_and_numbers_are_told_apart_at_every_cut() {
        use Kind::{Name, Number, Plain, Value};
        let nested = r#"{"b":"{\"p\":[\"x\\\"y\",-7,\"{\\\"q\\\":1}\"]}\n","é":" {no"}"#;
        for width in 1..nested.len() {
            let want = [
                (Name, 0, "b"),
                (Name, 1, "p"),
                (Value, 1, r#"x\\\"y"#),
                (Number, 1, "-7"),
                (Name, 2, "q"),
                (Number, 2, "1"),
                (Name, 0, "é"),
                (Value, 0, " "),
                (Value, 0, "no"),
            ];
            let found = parts(nested, width);
            let found: Vec<_> = found.iter().map(|(k, d, t)| (*k, *d, t.as_str())).collect();
            assert_eq!(found, want, "{width}");
        }
        assert_eq!(parts("ls -la \\", 3), [(Plain, 0, "ls -la \\".to_owned())]);
        assert_eq!(parts("[1] [2]", 3)[1], (Plain, 0, "[2]".to_owned()));
    }

    #[test]
    fn whole_documents_are_recognized() {
        for (text, is_json) in [
            (r#" {"a": [1, "x\"", {}], "b": null} "#, true),
            ("[]", true),
            (r#"{"a":"#, false),
            ("{} x", false),
            ("{1:2}", false),
            ("[1,]", false),
            ("\"text\"", false),
            ("text", false),
            ("", false),
        ] {
            assert_eq!(crate::is_json(text), is_json, "{text}");
        }
        assert!(!crate::is_json(&"[".repeat(100_000)));
    }
}
