//! Reads lines with bounded memory.
//!
//! - *In*: a reader.
//! - *Out*: each line, up to [`MAX_LINE`] bytes; of longer ones only pieces.
//! - *Never*: more than a line in memory.

use std::io::{self, BufRead, BufReader, Read};

use crate::chain::MAX_LINE;

/// The lines of a reader.
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

/// A line.
pub(crate) struct Line<'a> {
    /// Its text without the line feed; `None` if it is longer than [`MAX_LINE`].
    pub(crate) text: Option<&'a [u8]>,
    /// Its bytes, with the line feed.
    pub(crate) bytes: u64,
    /// Whether it ends with a line feed.
    pub(crate) is_ended: bool,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Lines { reader: BufReader::with_capacity(64 << 10, reader), line: Vec::new() }
    }

    /// The next line; `None` at the end. Pieces of a line that is too long go to `long`, without
    /// the line feed.
    pub(crate) fn next(&mut self, mut long: impl FnMut(&[u8])) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let (mut bytes, mut is_long, mut is_ended) = (0, false, false);
        while !is_ended {
            let ready = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                ready => ready?,
            };
            if ready.is_empty() {
                break;
            }
            let end = ready.iter().position(|byte| *byte == b'\n');
            is_ended = end.is_some();
            let piece = &ready[..end.unwrap_or(ready.len())];
            if !is_long && self.line.len() + piece.len() > MAX_LINE {
                is_long = true;
                long(&self.line);
                self.line.clear();
            }
            if is_long {
                long(piece);
            } else {
                self.line.extend_from_slice(piece);
            }
            let used = piece.len() + usize::from(is_ended);
            bytes += used as u64;
            self.reader.consume(used);
        }
        let text = (!is_long).then_some(&*self.line);
        Ok((bytes > 0).then_some(Line { text, bytes, is_ended }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_come_in_pieces_and_the_end_is_named() {
        let long = vec![b'x'; 3 * MAX_LINE + 1];
        let text = [b"one\n\n", &*long, b"\nend"].concat();
        let mut lines = Lines::new(&*text);
        let none = |_: &[u8]| panic!("the line is short");
        let one = lines.next(none).unwrap().unwrap();
        assert_eq!((one.text, one.bytes, one.is_ended), (Some(&b"one"[..]), 4, true));
        assert_eq!(lines.next(none).unwrap().unwrap().text, Some(&b""[..]));
        let mut pieces = Vec::new();
        let line = lines.next(|piece| pieces.extend_from_slice(piece)).unwrap().unwrap();
        assert_eq!((line.text, line.bytes), (None, long.len() as u64 + 1));
        assert!(pieces == long);
        assert!(lines.line.capacity() <= 2 * MAX_LINE);
        let end = lines.next(none).unwrap().unwrap();
        assert_eq!((end.text, end.is_ended), (Some(&b"end"[..]), false));
        assert!(lines.next(none).unwrap().is_none());
    }
}
