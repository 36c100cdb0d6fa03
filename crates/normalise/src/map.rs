//! Maps normalized bytes to their origin.
//!
//! - *In*: copied runs and replaced pieces, in order.
//! - *Out*: the span as sent of any span of the folded text.
//! - *Never*: a panic; a span out of range is clamped.

use std::ops::Range;

/// One stretch of the folded text.
#[derive(Clone, Copy, Debug)]
struct Piece {
    normal: u32,
    original: u32,
    /// Bytes in the text as sent; for a copied run, also the length of the piece.
    length: u32,
    copied: bool,
}

/// Maps the folded text to the text as sent. Empty: nothing was changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    pieces: Vec<Piece>,
}

impl Map {
    /// `length` bytes at `original` appear unchanged at `normal`.
    pub(crate) fn copied(&mut self, normal: usize, original: usize, length: usize) {
        if let Some(last) = self.pieces.last_mut()
            && last.copied
            && last.normal + last.length == normal as u32
            && last.original + last.length == original as u32
        {
            last.length += length as u32;
            return;
        }
        self.pieces.push(Piece {
            normal: normal as u32,
            original: original as u32,
            length: length as u32,
            copied: true,
        });
    }

    /// The bytes `original` were replaced by whatever starts at `normal`.
    pub(crate) fn replaced(&mut self, normal: usize, original: Range<usize>) {
        let length = (original.end - original.start) as u32;
        self.pieces.push(Piece {
            normal: normal as u32,
            original: original.start as u32,
            length,
            copied: false,
        });
    }

    pub(crate) fn original(&self, span: Range<usize>, text: usize) -> Range<usize> {
        let (start, end) = (span.start.min(text), span.end.min(text));
        if self.pieces.is_empty() {
            return start..end.max(start);
        }
        let from = self.at(start).map_or(0, |p| p.first(start));
        let to = if end > start { self.at(end - 1).map_or(from, |p| p.past(end)) } else { from };
        from..to.max(from)
    }

    fn at(&self, normal: usize) -> Option<&Piece> {
        let after = self.pieces.partition_point(|p| p.normal as usize <= normal);
        self.pieces.get(after.saturating_sub(1))
    }
}

impl Piece {
    fn first(&self, normal: usize) -> usize {
        let inside = if self.copied {
            (normal - (self.normal as usize).min(normal)).min(self.length as usize)
        } else {
            0
        };
        self.original as usize + inside
    }

    fn past(&self, end: usize) -> usize {
        let inside = if self.copied {
            (end - (self.normal as usize).min(end)).min(self.length as usize)
        } else {
            self.length as usize
        };
        self.original as usize + inside
    }
}
