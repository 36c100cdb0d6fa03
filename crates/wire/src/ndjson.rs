//! Newline-delimited JSON, cut anywhere.
//!
//! - *In*: the body of an `application/x-ndjson` answer, chunk by chunk.
//! - *Out*: each non-blank line with its end offset, as a slice of the chunk if the chunk contains
//!   the whole line.
//! - *Never*: more than one line buffered. A line over the limit is skipped to its end.

use crate::json::{Scan, Tail};

/// What a decoder finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line that is not blank.
    Whole(&'a [u8]),
    /// The end of a line that exceeded the limit.
    Skipped(&'a [u8]),
}

/// An incremental reader of lines.
#[derive(Debug)]
pub struct Decoder {
    line: Vec<u8>,
    limit: usize,
    /// The end of the open line, if it exceeded the limit.
    skipping: Option<Tail>,
    /// Bytes of the open line.
    pending: usize,
}

impl Decoder {
    /// A decoder that buffers at most `limit` bytes of one line.
    pub fn new(limit: usize) -> Self {
        Decoder { line: Vec::new(), limit, skipping: None, pending: 0 }
    }

    /// Whether the open line exceeded the limit, and is being skipped.
    pub fn is_skipping(&self) -> bool {
        self.skipping.is_some()
    }

    /// Bytes of the incomplete last line.
    pub fn unterminated(&self) -> usize {
        self.pending
    }

    /// Take the text after the last newline at the end of the body, if it is a complete document.
    pub fn take_last(&mut self) -> Option<Vec<u8>> {
        let mut scan = Scan::new(&self.line);
        let whole = !self.line.trim_ascii().is_empty() && scan.skip().is_ok() && scan.at_end();
        whole.then(|| {
            self.pending = 0;
            std::mem::take(&mut self.line)
        })
    }

    /// Parse the next chunk; `found` receives each line and the offset just past it.
    pub fn feed(&mut self, chunk: &[u8], mut found: impl FnMut(Line<'_>, usize)) {
        let mut at = 0;
        while let Some(len) = memchr::memchr(b'\n', chunk.get(at..).unwrap_or_default()) {
            let end = at + len;
            let piece = chunk.get(at..end).unwrap_or_default();
            at = end + 1;
            self.pending = 0;
            if let Some(mut tail) = self.skipping.take() {
                tail.push(piece);
                found(Line::Skipped(tail.bytes()), at);
            } else if self.line.is_empty() {
                emit_line(piece, at, &mut found);
            } else {
                self.line.extend_from_slice(piece);
                emit_line(&self.line, at, &mut found);
                self.line.clear();
            }
        }
        let rest = chunk.get(at..).unwrap_or_default();
        self.pending += rest.len();
        if let Some(tail) = &mut self.skipping {
            return tail.push(rest);
        }
        self.line.extend_from_slice(rest);
        if self.line.len() > self.limit {
            let mut tail = Tail::default();
            tail.push(&std::mem::take(&mut self.line));
            self.skipping = Some(tail);
        }
    }
}

fn emit_line(line: &[u8], end: usize, found: &mut impl FnMut(Line<'_>, usize)) {
    let line = line.trim_ascii();
    if !line.is_empty() {
        found(Line::Whole(line), end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(line: Line<'_>) -> Option<Vec<u8>> {
        match line {
            Line::Whole(line) => Some(line.to_vec()),
            Line::Skipped(_) => None,
        }
    }

    #[test]
    fn any_cut_reads_the_same() {
        let text = b"{\"a\":1}\r\n\n {\"b\":2}\n{\"c\"";
        for cut in 0..=text.len() {
            let (a, b) = text.split_at(cut);
            let mut decoder = Decoder::new(64);
            let mut lines = Vec::new();
            decoder.feed(a, |line, _| lines.extend(whole(line)));
            decoder.feed(b, |line, _| lines.extend(whole(line)));
            assert_eq!(lines, [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()], "cut at {cut}");
            assert_eq!((decoder.unterminated(), decoder.take_last()), (4, None));
            decoder.feed(b":2} ", |_, _| unreachable!());
            assert_eq!(
                (decoder.take_last(), decoder.unterminated()),
                (Some(b"{\"c\":2} ".to_vec()), 0)
            );
        }
    }

    #[test]
    fn oversized_line_is_skipped_and_the_next_one_is_read() {
        let text = b"{\"a\":1}\n{\"a\":\"0123456789\"}\n{\"b\":2}\n{\"c\"";
        for cut in 0..=text.len() {
            let (a, b) = text.split_at(cut);
            let mut decoder = Decoder::new(8);
            let mut lines = Vec::new();
            for part in [a, b] {
                decoder.feed(part, |line, _| {
                    if let Line::Skipped(tail) = line {
                        assert!(tail.ends_with(b"789\"}"), "cut at {cut}");
                    }
                    lines.push(whole(line));
                });
            }
            // A line that lies within one chunk is not buffered, so the limit does not apply.
            assert!(lines.len() == 3 && lines[0].is_some() && lines[2].is_some(), "cut at {cut}");
            assert_eq!(lines[1].is_none(), (17..27).contains(&cut), "cut at {cut}");
            assert_eq!(decoder.unterminated(), 4);
        }
    }
}
