//! A channel: folds the typography of its text, scans it, and maps the pieces back.
//!
//! - *In*: the text of one channel, piece by piece.
//! - *Out*: pieces of the text as sent.
//! - *Never*: a copy of text that folds to itself, which nearly all text does.

use std::collections::VecDeque;
use std::ops::Range;

use super::plain::Plain;
use super::scan::Ending;
use super::{Automata, Piece};
use crate::finding::Finding;
use normalise::typography::{Folder, Sink};

/// The state of one channel.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    plain: Plain,
    folder: Folder,
    /// How much longer the text as sent is than the folded one, before `mapped`.
    shift: usize,
    mapped: Option<Box<Mapped>>,
    /// The start of the open mask in the text as sent.
    open: Option<usize>,
}

/// The held text as sent, and where it differs from the folded one.
#[derive(Clone, Debug, Default)]
struct Mapped {
    original: String,
    /// Text as sent whose folded form needs more text.
    pending: String,
    /// Offset of `original` in the channel.
    base: usize,
    /// Up to where the text as sent was passed or masked.
    cursor: usize,
    /// Offsets of the folded text and of the text as sent from which both advance alike.
    marks: VecDeque<(usize, usize)>,
    /// Folded text that the scanner has not got yet.
    folded: String,
    /// Lengths of both texts so far.
    lengths: (usize, usize),
    /// Whether invisible characters end the text as sent: they are not under a mask that ends
    /// before them.
    trails: bool,
}

impl Channel {
    /// A channel at the beginning of its text.
    pub fn new() -> Self {
        Channel::default()
    }

    /// A channel at the beginning of a JSON text: its escapes stand for characters.
    pub fn of_json() -> Self {
        Channel { folder: Folder::of_json(), ..Channel::default() }
    }

    /// Scan the next piece of text.
    pub fn push(&mut self, automata: &Automata, text: &str, out: &mut dyn FnMut(Piece<'_>)) {
        self.work(automata, text, Ending::More, out);
    }

    /// Release all held text, though more may follow. A match that may continue is masked and the
    /// rest of it dropped, and so is a secret with a recognized prefix (`AKIA`, `-----BEGIN `), or
    /// six digits of a number with a checksum, unless [`Options::masks_at_pause`] is off; all other
    /// text is passed.
    ///
    /// [`Options::masks_at_pause`]: super::Options::masks_at_pause
    pub fn flush(&mut self, automata: &Automata, out: &mut dyn FnMut(Piece<'_>)) {
        self.work(automata, "", Ending::Pause, out);
    }

    /// End the text. The channel can then scan another one.
    pub fn finish(&mut self, automata: &Automata, out: &mut dyn FnMut(Piece<'_>)) {
        self.work(automata, "", Ending::Final, out);
        let folder = self.folder.renewed();
        *self = Channel { plain: self.plain.renewed(), folder, ..Channel::default() };
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        match &self.mapped {
            None => self.plain.held().0.len(),
            Some(mapped) if self.open.is_some() && !mapped.trails => mapped.pending.len(),
            Some(mapped) => {
                let (_, total) = mapped.lengths;
                let from = mapped.cursor.min(mapped.start(self.plain.base()));
                total - from + mapped.pending.len()
            }
        }
    }

    /// Masked matches by rule number ([`Automata::rule`]).
    pub fn counts(&self) -> &[(u16, u32)] {
        self.plain.counts()
    }

    /// Bytes stepped through automata so far: the work done.
    pub fn steps(&self) -> u64 {
        self.plain.steps()
    }

    /// Fold `text`, scan it, and map the pieces.
    fn work(
        &mut self,
        automata: &Automata,
        text: &str,
        ending: Ending,
        out: &mut dyn FnMut(Piece<'_>),
    ) {
        if self.mapped.is_none() && self.folder.leaves(text) {
            self.folder.skip(text);
            let (shift, open) = (self.shift, &mut self.open);
            return self.plain.advance(automata, text, ending, &mut |_, piece| {
                shifted(&piece, shift, open, out);
            });
        }
        let ends = ending != Ending::More;
        let mut mapped = self.mapped.take().unwrap_or_else(|| self.map());
        let joined = std::mem::take(&mut mapped.pending) + text;
        let rest = self.folder.fold(&joined, ends, &mut *mapped);
        let (read, rest) = joined.split_at(joined.len() - rest);
        mapped.original.push_str(read);
        mapped.pending.push_str(rest);
        let folded = std::mem::take(&mut mapped.folded);
        let open = &mut self.open;
        self.plain.advance(automata, &folded, ending, &mut |at, piece| {
            mapped.piece(at, &piece, open, out);
        });
        let (held, _) = self.plain.held();
        let undecided = self.open.is_some() && mapped.trails;
        if held.is_empty() && mapped.pending.is_empty() && !undecided || ends {
            if self.open.is_none() {
                mapped.pass(mapped.lengths.1, out);
            }
            self.shift = mapped.lengths.1 - mapped.lengths.0;
        } else {
            if self.open.is_some() {
                mapped.cursor = mapped.cursor.max(mapped.end(self.plain.base()));
            }
            mapped.forget(self.plain.base());
            self.mapped = Some(mapped);
        }
    }

    /// The held text as a mapped one.
    fn map(&self) -> Box<Mapped> {
        let ((held, masked), at) = (self.plain.held(), self.plain.base());
        let base = at + self.shift;
        Box::new(Mapped {
            original: held.to_owned(),
            pending: String::new(),
            base,
            cursor: base + masked,
            marks: VecDeque::from([(at, base)]),
            folded: String::new(),
            lengths: (at + held.len(), base + held.len()),
            trails: false,
        })
    }
}

/// A piece of text that folds to itself.
fn shifted(
    piece: &Piece<'_>,
    shift: usize,
    opened: &mut Option<usize>,
    out: &mut dyn FnMut(Piece<'_>),
) {
    match piece {
        Piece::Pass(text) => out(Piece::Pass(text)),
        Piece::Mask { finding, text, open } => {
            let span = finding.span.start + shift..finding.span.end + shift;
            *opened = open.then_some(span.start);
            if shift == 0 {
                return out(piece.clone());
            }
            let finding = &Finding { span, ..(*finding).clone() };
            out(Piece::Mask { finding, text, open: *open });
        }
        Piece::Close(span) => {
            let start = opened.take().unwrap_or(span.start + shift);
            out(Piece::Close(start..span.end + shift));
        }
    }
}

impl Mapped {
    /// The offset as sent of a byte of the folded text.
    fn start(&self, at: usize) -> usize {
        let after = self.marks.partition_point(|(folded, _)| *folded <= at);
        self.advance(after, at)
    }

    /// The offset as sent of the end of a span of the folded text.
    fn end(&self, at: usize) -> usize {
        let from = self.marks.partition_point(|(folded, _)| *folded < at);
        match self.marks.get(from) {
            Some((folded, original)) if *folded == at => *original,
            _ => self.advance(from, at),
        }
    }

    fn advance(&self, after: usize, at: usize) -> usize {
        match after.checked_sub(1).and_then(|i| self.marks.get(i)) {
            Some((folded, original)) => original + (at - folded),
            None => self.base,
        }
    }

    fn text(&self, span: Range<usize>) -> &str {
        let at = |offset: usize| offset.saturating_sub(self.base);
        self.original.get(at(span.start)..at(span.end)).unwrap_or_default()
    }

    fn pass(&mut self, to: usize, out: &mut dyn FnMut(Piece<'_>)) {
        let text = self.text(self.cursor..to.max(self.cursor));
        if !text.is_empty() {
            out(Piece::Pass(text));
        }
        self.cursor = self.cursor.max(to);
    }

    fn piece(
        &mut self,
        at: usize,
        piece: &Piece<'_>,
        opened: &mut Option<usize>,
        out: &mut dyn FnMut(Piece<'_>),
    ) {
        match piece {
            Piece::Pass(text) => self.pass(self.end(at + text.len()), out),
            Piece::Mask { finding, open, .. } => {
                let span = self.start(finding.span.start)..self.end(finding.span.end);
                self.pass(span.start, out);
                *opened = open.then_some(span.start);
                self.cursor = self.cursor.max(span.end);
                let finding = &Finding { span: span.clone(), ..(*finding).clone() };
                out(Piece::Mask { finding, text: self.text(span), open: *open });
            }
            Piece::Close(span) => {
                let end = self.end(span.end);
                let start = opened.take().unwrap_or_else(|| self.start(span.start));
                self.cursor = self.cursor.max(end);
                out(Piece::Close(start..end));
            }
        }
    }

    /// Forget what precedes the held text, which begins at `at` in the folded text.
    fn forget(&mut self, at: usize) {
        while self.marks.get(1).is_some_and(|(folded, _)| *folded < at) {
            self.marks.pop_front();
        }
        let from = self.cursor.min(self.start(at));
        self.original.drain(..from.saturating_sub(self.base).min(self.original.len()));
        self.base = self.base.max(from);
    }

    fn mark(&mut self) {
        self.marks.push_back(self.lengths);
    }
}

impl Sink for Mapped {
    fn same(&mut self, text: &str) {
        self.folded.push_str(text);
        self.lengths = (self.lengths.0 + text.len(), self.lengths.1 + text.len());
        self.trails = false;
    }

    fn replaced(&mut self, byte: u8, original: usize) {
        self.mark();
        self.folded.push(char::from(byte));
        self.lengths = (self.lengths.0 + 1, self.lengths.1 + original);
        self.trails = false;
        self.mark();
    }

    fn decoded(&mut self, c: char, original: usize) {
        self.mark();
        self.folded.push(c);
        self.lengths = (self.lengths.0 + c.len_utf8(), self.lengths.1 + original);
        self.trails = false;
        self.mark();
    }

    fn gone(&mut self, original: usize) {
        self.mark();
        self.lengths.1 += original;
        self.trails = true;
        self.mark();
    }
}
