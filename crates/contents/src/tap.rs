//! Gathers the texts of an answer while it is forwarded.
//!
//! - *In*: pieces of each text, and the findings of all scanners in it.
//! - *Out*: the texts with their findings, each up to where the scanners have decided it.
//! - *Never*: more than `contents.max_text` bytes; undecided text, which may be the start of a
//!   match.

use std::ops::Range;

use crate::budget::Lease;
use crate::content::{AnswerText, Part, Word};
use crate::redact::{MAX_SPANS, RawText, Span, floor};

/// Bytes that a text counts besides its length.
pub(crate) const TEXT_OVERHEAD: usize = 64;

/// Why the texts of a part are left out.
pub(crate) const TOO_MANY_FINDINGS: &str = "too_many_findings";

/// The texts of one answer.
#[derive(Debug)]
pub struct AnswerTap {
    lease: Lease,
    /// Bytes that may still be gathered.
    left: usize,
    cut: bool,
    texts: Vec<(AnswerText, RawText)>,
    spans: usize,
}

/// An answer before its redaction.
pub(crate) type RawAnswer = Part<(AnswerText, RawText)>;

impl AnswerTap {
    pub(crate) fn new(lease: Lease, max_text: usize) -> Self {
        AnswerTap { lease, left: max_text, cut: false, texts: Vec::new(), spans: 0 }
    }

    /// A text begins. The caller numbers texts by these calls, from 0.
    pub fn begin(&mut self, choice: u32, channel: &'static str, index: u32) {
        let text = AnswerText { choice, channel: channel.into(), index, text: String::new() };
        self.texts.push((text, RawText::default()));
        self.take(TEXT_OVERHEAD);
    }

    /// The next piece of a text.
    pub fn push(&mut self, text: usize, piece: &str) {
        let fits = floor(piece, self.left);
        let taken = if self.take(fits) { fits } else { 0 };
        if let Some((_, raw)) = self.texts.get_mut(text) {
            raw.text.push_str(piece.get(..taken).unwrap_or_default());
        }
        if taken < piece.len() {
            self.end_here();
        }
    }

    /// Takes bytes of the limits. If there are not enough, nothing more is gathered.
    fn take(&mut self, bytes: usize) -> bool {
        if bytes > self.left || !self.lease.grow(bytes) {
            self.end_here();
            return false;
        }
        self.left -= bytes;
        true
    }

    fn end_here(&mut self) {
        (self.left, self.cut) = (0, true);
    }

    /// A scanner found a match in a text. Its end is `usize::MAX` while it is not known, and for a
    /// match that ends the answer.
    pub fn found(&mut self, text: usize, range: Range<usize>, kind: &Word) {
        let Some((_, raw)) = self.texts.get_mut(text) else { return };
        let is_stored = range.start < raw.text.len() || range.is_empty();
        if is_stored && self.spans <= MAX_SPANS {
            self.spans += 1;
            raw.spans.push(Span { range, kind: kind.clone() });
        }
    }

    /// The end of a match that was found without one.
    pub fn close(&mut self, text: usize, range: Range<usize>) {
        let spans = self.texts.get_mut(text).map(|(_, raw)| &mut raw.spans);
        let is_it =
            |span: &&mut Span| span.range.start == range.start && span.range.end == usize::MAX;
        if let Some(span) = spans.and_then(|spans| spans.iter_mut().rev().find(is_it)) {
            span.range.end = range.end;
        }
    }

    /// A text has ended at `end`, and so have its matches without an end.
    pub fn close_all(&mut self, text: usize, end: usize) {
        let Some((_, raw)) = self.texts.get_mut(text) else { return };
        raw.spans.iter_mut().for_each(|span| span.range.end = span.range.end.min(end));
    }

    /// The gathered texts. `decided`: for a text, how many of its bytes are decided.
    pub(crate) fn finish(self, decided: impl Fn(usize) -> usize) -> (Lease, RawAnswer) {
        let mut answer = RawAnswer { cut: self.cut, ..RawAnswer::default() };
        if self.spans > MAX_SPANS {
            answer.incomplete = Some(TOO_MANY_FINDINGS.into());
            return (self.lease, answer);
        }
        for (at, (label, mut raw)) in self.texts.into_iter().enumerate() {
            let end = floor(&raw.text, decided(at));
            raw.text.truncate(end);
            raw.spans.retain(|span| span.range.start < end || span.range.is_empty());
            if !raw.text.is_empty() {
                answer.texts.push((label, raw));
            }
        }
        (self.lease, answer)
    }
}
