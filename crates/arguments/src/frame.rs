//! The grammar of one document, token by token.
//!
//! - *In*: characters outside of strings, each with the backslashes before it.
//! - *Out*: what the character is; an error if the document is not JSON.
//! - *Never*: the content of a string; the lexer has that.

use crate::lexer::Kind;

/// Maximum nesting of objects and arrays in a document.
const MAX_NESTING: usize = 128;

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Value,
    /// A value, or the end of an array that has begun.
    ValueOrEnd,
    Name,
    /// A name, or the end of an object that has begun.
    NameOrEnd,
    Colon,
    CommaOrEnd,
    /// More of a number.
    Number,
    /// More of `true`, `false` or `null`.
    Word,
    Done,
}

/// The string that is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenString {
    pub(crate) is_name: bool,
    /// It has content that is not white space, so that no document begins in it.
    pub(crate) has_begun: bool,
}

/// The state of one document: the text itself, or one inside a string of the document around it.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The open objects (true) and arrays.
    open: Vec<bool>,
    next: Next,
    pub(crate) string: Option<OpenString>,
}

/// The document is not JSON.
pub(crate) struct Invalid;

/// Backslashes before a quotation mark of a document inside `depth` strings.
pub(crate) fn slashes_of_quote(depth: usize) -> usize {
    (1 << depth) - 1
}

impl Frame {
    pub(crate) fn new() -> Frame {
        Frame { open: Vec::new(), next: Next::Value, string: None }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.string.is_none() && self.next == Next::Done
    }

    /// A string ends.
    pub(crate) fn close_string(&mut self) {
        match self.string.take() {
            Some(OpenString { is_name: true, .. }) => self.next = Next::Colon,
            _ => self.after_value(),
        }
    }

    fn after_value(&mut self) {
        self.next = if self.open.is_empty() { Next::Done } else { Next::CommaOrEnd };
    }

    /// The next character outside of strings.
    pub(crate) fn step(&mut self, slashes: usize, b: u8, depth: usize) -> Result<Kind, Invalid> {
        let more = slashes == 0 && (b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        match self.next {
            Next::Number if more => return Ok(Kind::Number),
            Next::Word if more => return Ok(Kind::Word),
            Next::Number | Next::Word => self.after_value(),
            _ => {}
        }
        let escaped_blank =
            depth > 0 && slashes == 1 << (depth - 1) && matches!(b, b'n' | b'r' | b't');
        if escaped_blank || slashes == 0 && matches!(b, b' ' | b'\n' | b'\r' | b'\t') {
            return Ok(Kind::Structure);
        }
        if b == b'"' && slashes == slashes_of_quote(depth) {
            let is_name = match self.next {
                Next::Name | Next::NameOrEnd => true,
                Next::Value | Next::ValueOrEnd => false,
                _ => return Err(Invalid),
            };
            self.string = Some(OpenString { is_name, has_begun: false });
            return Ok(Kind::Structure);
        }
        if slashes > 0 { Err(Invalid) } else { self.punctuation(b) }
    }

    fn punctuation(&mut self, b: u8) -> Result<Kind, Invalid> {
        match (self.next, b) {
            (Next::Value | Next::ValueOrEnd, b'{' | b'[') if self.open.len() < MAX_NESTING => {
                self.open.push(b == b'{');
                self.next = if b == b'{' { Next::NameOrEnd } else { Next::ValueOrEnd };
            }
            (Next::Value | Next::ValueOrEnd, b'-' | b'0'..=b'9') => {
                self.next = Next::Number;
                return Ok(Kind::Number);
            }
            (Next::Value | Next::ValueOrEnd, b't' | b'f' | b'n') => {
                self.next = Next::Word;
                return Ok(Kind::Word);
            }
            (Next::Colon, b':') => self.next = Next::Value,
            (Next::CommaOrEnd, b',') => {
                let in_object = self.open.last() == Some(&true);
                self.next = if in_object { Next::Name } else { Next::Value };
            }
            (Next::NameOrEnd | Next::CommaOrEnd, b'}') if self.open.last() == Some(&true) => {
                self.open.pop();
                self.after_value();
            }
            (Next::ValueOrEnd | Next::CommaOrEnd, b']') if self.open.last() == Some(&false) => {
                self.open.pop();
                self.after_value();
            }
            _ => return Err(Invalid),
        }
        Ok(Kind::Structure)
    }
}
