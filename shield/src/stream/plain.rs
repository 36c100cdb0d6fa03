//! The scanner of one text whose typography is folded already.
//!
//! - *In*: text, piece by piece.
//! - *Out*: pieces, each with its offset.
//! - *Never*: a byte that is scanned twice after it was decided.

use super::Piece;
use super::automata::Automata;
use super::context::Tail;
use super::scan::{Ending, Scan, State};

/// Receives pieces, each with the offset where it begins.
pub(super) type Out<'o> = dyn FnMut(usize, Piece<'_>) + 'o;

/// Maximum bytes of buffer that a channel keeps after a large piece.
const MAX_SPARE_BYTES: usize = 1024;

/// The state of one text.
#[derive(Clone, Debug)]
pub(super) struct Plain {
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

impl Default for Plain {
    fn default() -> Self {
        Plain {
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

impl Plain {
    /// The scanner of another text, with the same counts.
    pub(super) fn renewed(&mut self) -> Self {
        let counts = std::mem::take(&mut self.counts);
        Plain { counts, steps: self.steps, ..Plain::default() }
    }

    /// The held text, and how many bytes of it are masked already.
    pub(super) fn held(&self) -> (&str, usize) {
        (&self.held, self.masked as usize)
    }

    /// Where the held text begins.
    pub(super) fn base(&self) -> usize {
        self.base
    }

    /// Masked matches by rule number ([`Automata::rule`]).
    pub(super) fn counts(&self) -> &[(u16, u32)] {
        &self.counts
    }

    /// Bytes stepped through automata so far: the work done.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Scan the next piece of text, and decide what `ending` says.
    pub(super) fn advance(
        &mut self,
        automata: &Automata,
        text: &str,
        ending: Ending,
        out: &mut Out<'_>,
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
        out: &mut Out<'_>,
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
