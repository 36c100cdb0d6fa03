//! Masks matches in a stream. Text arrives in pieces that are cut anywhere; only a suffix that can
//! still become a match is held.
//! become one held.
//!
//! - *In*: the text of one channel, piece by piece; [`Automata`] shared by all channels.
//! - *Out*: text that cannot be part of a match, immediately; a mask for each match.
//! - *Never*: a byte of a match before it is decided, except as [`Options::hold_bytes`] declares;
//!   more than `hold_bytes` held.
//!
//! The output depends on the text alone, not on the cuts: `hold_bytes` too counts from the
//! beginning of a match. Only [`Channel::flush`] depends on when it is called.

#[expect(
    clippy::indexing_slicing,
    reason = "tables made here, indexed by a byte or by what the build put into them"
)]
mod automata;
#[expect(
    clippy::indexing_slicing,
    reason = "tables made here, indexed by a byte or by what the build put into them"
)]
mod choose;
mod context;
#[expect(
    clippy::indexing_slicing,
    reason = "tables made here, indexed by a byte or by what the build put into them"
)]
mod copying;
mod edges;
mod open;
mod scan;
#[expect(
    clippy::indexing_slicing,
    reason = "tables made here, indexed by a byte or by what the build put into them"
)]
mod start;
#[expect(
    clippy::indexing_slicing,
    reason = "tables made here, indexed by a byte or by what the build put into them"
)]
mod table;

use std::fmt::Write;
use std::ops::Range;

pub use automata::{Automata, BuildError, Options};
pub use edges::Edges;

use crate::finding::Finding;
use context::Tail;
use scan::{Ending, Scan, State};

/// Maximum bytes of buffer that a channel keeps after a large piece.
const MAX_SPARE_BYTES: usize = 1024;

/// The output of a channel, in the order of the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece<'a> {
    /// Text to forward.
    Pass(&'a str),
    /// A mask goes here.
    Mask {
        /// What it covers; offsets are bytes of the channel's text.
        finding: &'a Finding,
        /// The text that it covers, as far as it has arrived.
        text: &'a str,
        /// Whether the end is still unknown: the text that follows is dropped until a
        /// [`Piece::Close`] reports the end.
        open: bool,
    },
    /// The final span of an open mask. It has no output.
    Close(Range<usize>),
}

/// The state of one channel.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Text that can still become a match; it begins where the match would.
    held: String,
    /// Bytes at the beginning of the held text that are masked already: a secret may begin inside
    /// another match.
    masked: u32,
    /// Bytes before the held text.
    base: usize,
    before: Tail,
    state: State,
    /// By rule number.
    counts: Vec<(u16, u32)>,
    steps: u64,
}

impl Default for Channel {
    fn default() -> Self {
        Channel {
            held: String::new(),
            masked: 0,
            base: 0,
            before: Tail::new(),
            state: State::default(),
            counts: Vec::new(),
            steps: 0,
        }
    }
}

impl Channel {
    /// A channel at the beginning of its text.
    pub fn new() -> Self {
        Channel::default()
    }

    /// Scan the next piece of text.
    pub fn push(&mut self, automata: &Automata, text: &str, out: &mut dyn FnMut(Piece<'_>)) {
        self.advance(automata, text, Ending::More, out);
    }

    /// Release all held text, though more may follow. A match that may continue is masked and the
    /// rest of it dropped, and so is a secret with a recognized prefix (`AKIA`, `-----BEGIN `); all
    /// other text is passed.
    pub fn flush(&mut self, automata: &Automata, out: &mut dyn FnMut(Piece<'_>)) {
        self.advance(automata, "", Ending::Pause, out);
    }

    /// End the text. The channel can then scan another one.
    pub fn finish(&mut self, automata: &Automata, out: &mut dyn FnMut(Piece<'_>)) {
        self.advance(automata, "", Ending::Final, out);
        *self = Channel {
            counts: std::mem::take(&mut self.counts),
            steps: self.steps,
            ..Channel::default()
        };
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Masked matches by rule number ([`Automata::rule`]).
    pub fn counts(&self) -> &[(u16, u32)] {
        &self.counts
    }

    /// Bytes stepped through automata so far: the work done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    fn advance(
        &mut self,
        automata: &Automata,
        text: &str,
        ending: Ending,
        out: &mut dyn FnMut(Piece<'_>),
    ) {
        if self.held.is_empty() {
            let keep = self.scan(automata, text, ending, out);
            self.held.push_str(text.get(keep..).unwrap_or_default());
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        held.push_str(text);
        let keep = self.scan(automata, &held, ending, out);
        held.drain(..keep);
        if held.capacity() > MAX_SPARE_BYTES && held.len() < MAX_SPARE_BYTES {
            held.shrink_to(MAX_SPARE_BYTES);
        }
        self.held = held;
    }

    fn scan(
        &mut self,
        automata: &Automata,
        text: &str,
        ending: Ending,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize {
        let (before, base, counts) = (&self.before, self.base, &mut self.counts);
        let sent = self.masked as usize;
        let mut scan = Scan {
            automata,
            text,
            before,
            base,
            ending,
            out,
            counts,
            steps: 0,
            sent,
            ends: Vec::new(),
            sign: 0,
        };
        let keep = scan.scan_text(&mut self.state);
        self.masked = scan.sent.saturating_sub(keep) as u32;
        self.steps += scan.steps;
        self.before.slide(text.as_bytes().get(..keep).unwrap_or_default());
        self.base += keep;
        keep
    }
}

/// A whole text with its matches masked as `[KIND]`.
pub fn redact(automata: &Automata, text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut out = |piece: Piece<'_>| write(&mut redacted, &piece);
    let mut channel = Channel::new();
    channel.push(automata, text, &mut out);
    channel.finish(automata, &mut out);
    redacted
}

/// Append a piece: a mask as `[KIND]`, text unchanged.
pub fn write(into: &mut String, piece: &Piece<'_>) {
    match piece {
        Piece::Pass(text) => into.push_str(text),
        // Writing to a string does not fail.
        Piece::Mask { finding, .. } => drop(write!(into, "[{}]", finding.kind)),
        Piece::Close(_) => {}
    }
}
