//! Reads the frames of a segment, one after the other.
//!
//! - *In*: a file, from an offset to a length.
//! - *Out*: its valid frames. Bytes that belong to none are skipped: a reader knows from sequence
//!   numbers what is missing.
//! - *Never*: more memory than a chunk and the longest entry.

use std::io;

use crate::disk::Disk;
use crate::frame::{self, Frame, HEADER, MARK};

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// Reads frames.
pub(crate) struct Scanner<'f, D: Disk> {
    disk: &'f D,
    file: &'f D::File,
    /// Offset in the file of the next byte to read.
    offset: u64,
    limit: u64,
    buffer: Vec<u8>,
    /// Place of the next frame in the buffer.
    at: usize,
}

impl<'f, D: Disk> Scanner<'f, D> {
    /// Reads from `offset` to `limit`.
    pub(crate) fn new(disk: &'f D, file: &'f D::File, offset: u64, limit: u64) -> Self {
        Scanner { disk, file, offset, limit, buffer: Vec::new(), at: 0 }
    }

    /// Offset in the file after the last frame.
    pub(crate) fn position(&self) -> u64 {
        self.offset - (self.buffer.len() - self.at) as u64
    }

    /// The next valid frame and its payload.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Frame, &[u8])>> {
        let frame = loop {
            if !self.fill(HEADER)? {
                return Ok(None);
            }
            if let Some(frame) = self.frame()? {
                break frame;
            }
            self.skip_to_mark()?;
        };
        let start = self.at;
        self.at += frame.len;
        let payload = self.buffer.get(start + HEADER..self.at).unwrap_or_default();
        Ok(Some((frame, payload)))
    }

    /// The frame at the current place, if it is valid.
    fn frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(head) = frame::head(self.rest()) else { return Ok(None) };
        if !self.fill(head.len)? {
            return Ok(None);
        }
        Ok(frame::check(head, self.rest()))
    }

    /// Moves to the next mark after the current place, or to the end.
    fn skip_to_mark(&mut self) -> io::Result<()> {
        self.at += 1;
        while self.fill(MARK.len())? {
            let found = self.rest().windows(MARK.len()).position(|window| window == MARK);
            match found {
                Some(place) => {
                    self.at += place;
                    return Ok(());
                }
                None => self.at = self.buffer.len() - (MARK.len() - 1),
            }
        }
        self.at = self.buffer.len();
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    /// Reads until `wanted` bytes are available. False at the end of the segment.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        while self.buffer.len() - self.at < wanted {
            self.buffer.drain(..self.at);
            self.at = 0;
            let left = usize::try_from(self.limit.saturating_sub(self.offset)).unwrap_or(CHUNK);
            let chunk = CHUNK.max(wanted).min(left);
            let before = self.buffer.len();
            self.buffer.resize(before + chunk, 0);
            let place = self.buffer.get_mut(before..).unwrap_or_default();
            let read = self.disk.read_at(self.file, place, self.offset);
            self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
            let read = read?;
            if read == 0 {
                return Ok(false);
            }
            self.offset += read as u64;
        }
        Ok(true)
    }
}
