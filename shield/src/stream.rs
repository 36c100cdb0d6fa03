//! Masks matches in a stream. Text arrives in pieces that are cut anywhere; only a suffix that can
//! still become a match is held.
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
mod channel;
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
mod plain;
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
pub use channel::Channel;
pub use edges::Edges;

use crate::finding::Finding;

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
