//! Newline-delimited JSON, cut anywhere.
//!
//! - *In*: the body of an `application/x-ndjson` answer, chunk by chunk.
//! - *Out*: each non-blank line with its end offset, as a slice of the chunk if the chunk contains
//!   the whole line.
//! - *Never*: more than one line buffered; a line over the limit stops parsing permanently.

use crate::json::Scan;

/// An incremental reader of lines.
#[derive(Debug)]
pub struct Decoder {
    line: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl Decoder {
    /// A decoder that buffers at most `limit` bytes of one line.
    pub fn new(limit: usize) -> Self {
        Decoder { line: Vec::new(), limit, overflowed: false }
    }

    /// Whether a line exceeded the limit. Parsing has then stopped.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Bytes of the incomplete last line.
    pub fn unterminated(&self) -> usize {
        self.line.len()
    }

    /// Take the text after the last newline at the end of the body, if it is a complete document.
    pub fn take_last(&mut self) -> Option<Vec<u8>> {
        let mut scan = Scan::new(&self.line);
        let whole = !self.line.trim_ascii().is_empty() && scan.skip().is_ok() && scan.at_end();
        whole.then(|| std::mem::take(&mut self.line))
    }

    /// Parse the next chunk; `found` receives each line and the offset just past it.
    pub fn feed(&mut self, chunk: &[u8], mut found: impl FnMut(&[u8], usize)) {
        if self.overflowed {
            return;
        }
        let mut at = 0;
        while let Some(len) = memchr::memchr(b'\n', chunk.get(at..).unwrap_or_default()) {
            let end = at + len;
            let piece = chunk.get(at..end).unwrap_or_default();
            at = end + 1;
            if self.line.is_empty() {
                emit_line(piece, at, &mut found);
            } else {
                self.line.extend_from_slice(piece);
                emit_line(&self.line, at, &mut found);
                self.line.clear();
            }
        }
        self.line.extend_from_slice(chunk.get(at..).unwrap_or_default());
        if self.line.len() > self.limit {
            self.overflowed = true;
            self.line = Vec::new();
        }
    }
}

fn emit_line(line: &[u8], end: usize, found: &mut impl FnMut(&[u8], usize)) {
    let line = line.trim_ascii();
    if !line.is_empty() {
        found(line, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_reads_the_same() {
        let text = b"{\"a\":1}\r\n\n {\"b\":2}\n{\"c\"";
        for cut in 0..=text.len() {
            let (a, b) = text.split_at(cut);
            let mut decoder = Decoder::new(64);
            let mut lines = Vec::new();
            decoder.feed(a, |line, _| lines.push(line.to_vec()));
            decoder.feed(b, |line, _| lines.push(line.to_vec()));
            assert_eq!(lines, [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()], "cut at {cut}");
            assert_eq!((decoder.unterminated(), decoder.take_last()), (4, None));
            decoder.feed(b":2} ", |_, _| unreachable!());
            assert_eq!(
                (decoder.take_last(), decoder.unterminated()),
                (Some(b"{\"c\":2} ".to_vec()), 0)
            );
        }
    }
}
