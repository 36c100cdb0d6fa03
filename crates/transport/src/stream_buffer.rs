//! The stream buffer: bytes queued for a client.
//!
//! - *In*: an answer's head, payload in runs; what one read returned becomes one chunk.
//! - *Out*: one contiguous slice to write, and the number of payload bytes written.
//! - *Never*: a size limit of its own. The relay stops reading when [`StreamBuffer::len`] reaches
//!   the limit.

use std::collections::VecDeque;

use crate::buffer;

/// A chunk's size line has this many digits, zero-padded, so that there is room for it before its
/// payload is known.
const DIGITS: usize = 8;
const SIZE_LINE: usize = DIGITS + 2;
/// Written bytes above this are removed from the front before the queue grows further.
const COMPACT: usize = 64 << 10;

/// Queued bytes.
#[derive(Debug, Default)]
pub struct StreamBuffer {
    queue: Vec<u8>,
    /// Number of written bytes at the front of the queue.
    at: usize,
    chunked: bool,
    /// Where the open chunk's size line begins.
    open: Option<usize>,
    /// Total payload bytes queued and written.
    payload: u64,
    written: u64,
    /// Total wire bytes queued and written.
    wire: u64,
    wire_written: u64,
    /// For each queued piece: total (wire, payload) bytes at its end.
    ends: VecDeque<(u64, u64)>,
}

impl StreamBuffer {
    /// Whether the following payload is framed in chunks.
    pub fn set_chunked(&mut self, chunked: bool) {
        self.chunked = chunked;
    }

    /// Bytes that wait to be written.
    pub fn len(&self) -> usize {
        self.queue.len() - self.at
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Payload bytes that the client's socket has accepted.
    pub fn payload_written(&self) -> u64 {
        self.written
    }

    /// Payload bytes queued so far.
    pub fn payload_queued(&self) -> u64 {
        self.payload
    }

    /// Payload bytes in the open chunk.
    #[inline]
    pub fn open_payload(&self) -> u64 {
        let size_line = if self.chunked { SIZE_LINE } else { 0 };
        self.open.map_or(0, |start| (self.queue.len() - start - size_line) as u64)
    }

    /// Queue bytes that are not payload, such as a head.
    pub fn head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.make_room();
        let before = self.queue.len();
        write(&mut self.queue);
        self.wire += (self.queue.len() - before) as u64;
        self.ends.push_back((self.wire, self.payload));
    }

    /// Queue payload; it joins the open chunk.
    #[inline]
    pub fn push(&mut self, run: &[u8]) {
        if run.is_empty() {
            return;
        }
        if self.open.is_none() {
            self.make_room();
            self.open = Some(self.queue.len());
            if self.chunked {
                self.queue.extend_from_slice(&[0; SIZE_LINE]);
            }
        }
        self.queue.extend_from_slice(run);
    }

    /// Close the open chunk, so that the payload of one read is one chunk.
    #[inline]
    pub fn commit(&mut self) {
        let Some(start) = self.open.take() else { return };
        let mut payload = self.queue.len() - start;
        if self.chunked {
            payload -= SIZE_LINE;
            if let Some(line) = self.queue.get_mut(start..start + SIZE_LINE) {
                write_size_line(line, payload);
            }
            self.queue.extend_from_slice(b"\r\n");
        }
        self.payload += payload as u64;
        self.wire += (self.queue.len() - start) as u64;
        self.ends.push_back((self.wire, self.payload));
    }

    /// Queue the end of a complete body.
    pub fn finish(&mut self) {
        self.commit();
        if self.chunked {
            self.head(|queue| queue.extend_from_slice(b"0\r\n\r\n"));
        }
    }

    /// The bytes to write next. No chunk may be open.
    #[inline]
    pub fn pending(&self) -> &[u8] {
        self.queue.get(self.at..).unwrap_or_default()
    }

    /// The first `n` pending bytes were written.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        self.at += n;
        self.wire_written += n as u64;
        while let Some(&(wire, payload)) = self.ends.front() {
            if wire > self.wire_written {
                break;
            }
            self.written = payload;
            self.ends.pop_front();
        }
        if self.is_empty() {
            self.at = 0;
            buffer::give(std::mem::take(&mut self.queue));
        }
    }

    fn make_room(&mut self) {
        if self.queue.capacity() == 0 {
            self.queue = buffer::take();
        } else if self.at >= COMPACT {
            self.queue.drain(..self.at);
            self.at = 0;
        }
    }
}

fn write_size_line(line: &mut [u8], size: usize) {
    let mut rest = size;
    let (digits, end) = line.split_at_mut(DIGITS);
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    debug_assert_eq!(rest, 0, "a chunk exceeds its size line");
    end.copy_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_is_one_chunk_and_marks_follow_the_payload() {
        let mut out = StreamBuffer::default();
        out.set_chunked(true);
        out.head(|q| q.extend_from_slice(b"HEAD"));
        out.push(b"ab");
        out.push(b"cde");
        out.commit();
        out.push(b"f");
        out.finish();
        let wire = out.pending().to_vec();
        assert_eq!(wire, b"HEAD00000005\r\nabcde\r\n00000001\r\nf\r\n0\r\n\r\n");
        out.advance(4 + 10 + 5);
        assert_eq!(out.payload_written(), 0, "a chunk counts when its end is written");
        out.advance(2);
        assert_eq!(out.payload_written(), 5);
        out.advance(wire.len() - 21);
        assert_eq!((out.payload_written(), out.len()), (6, 0));
    }

    #[test]
    fn raw_when_the_length_is_known() {
        let mut out = StreamBuffer::default();
        out.push(b"ab");
        out.finish();
        assert_eq!(out.pending(), b"ab");
    }
}
