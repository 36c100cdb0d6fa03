//! Masking in a stream: text in pieces cut anywhere, matches masked, only the suffix that can still
//! become one held.
//!
//! - *In*: the text of one channel, piece by piece; [`Automata`] shared by all channels.
//! - *Out*: text that can be no part of a match, at once; a mask for each match.
//! - *Never*: a byte of a match before it is decided, but for the declared action at a bound; more
//!   than `hold_bytes` held.
//!
//! What comes out depends on the text alone, not on the cuts: `hold_bytes` too counts from a
//! match's beginning. Only [`Channel::flush`] depends on when it is called.

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

/// A large piece behind held text must not leave its room to a long-lived channel.
const ROOM: usize = 1024;

/// What a channel gives out, in the order of the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece<'a> {
    /// Text to hand on.
    Pass(&'a str),
    /// A mask goes here.
    Mask {
        /// What it covers; offsets are bytes of the channel's text.
        finding: &'a Finding,
        /// What it covers, as far as it is there.
        text: &'a str,
        /// The end is not known yet: what follows is swallowed, and a [`Piece::Close`] tells the
        /// end.
        open: bool,
    },
    /// An open mask covered this much in the end. Nothing to write.
    Close(Range<usize>),
}

/// The state of one channel.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Text that can still become a match; it begins where the match would.
    held: String,
    /// Bytes at the beginning of the held text that lie under a mask already: a secret may begin
    /// inside of something else.
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

    /// The next piece.
    pub fn push(&mut self, automata: &Automata, text: &str, out: &mut dyn FnMut(Piece<'_>)) {
        self.advance(automata, text, Ending::More, out);
    }

    /// Hold nothing any longer, though more may come: a match that may go on is masked and the rest
    /// of it swallowed, and so is a secret that has shown its name (`AKIA`, `-----BEGIN `);
    /// everything else goes.
    pub fn flush(&mut self, automata: &Automata, out: &mut dyn FnMut(Piece<'_>)) {
        self.advance(automata, "", Ending::Pause, out);
    }

    /// The text has ended; the channel is at the beginning of another.
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
        if held.capacity() > ROOM && held.len() < ROOM {
            held.shrink_to(ROOM);
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
        let keep = scan.run(&mut self.state);
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

/// A piece as `[KIND]` or itself.
pub fn write(into: &mut String, piece: &Piece<'_>) {
    match piece {
        Piece::Pass(text) => into.push_str(text),
        // Writing to a string does not fail.
        Piece::Mask { finding, .. } => drop(write!(into, "[{}]", finding.kind)),
        Piece::Close(_) => {}
    }
}
