//! Server-sent events, cut anywhere.
//!
//! - *In*: the decoded body of a `text/event-stream`, chunk by chunk.
//! - *Out*: complete frames as slices (of the chunk if it contains the whole frame), comments, and
//!   the end offset of each in the chunk.
//! - *Never*: more than one frame buffered. A frame over the limit stops parsing permanently
//!   ([`Decoder::overflowed`]); the caller continues to forward the bytes.
//!
//! The grammar is that of the HTML standard, section 9.2 "Server-sent events": lines end in CR, LF
//! or CRLF, a leading byte order mark is dropped, a field without a colon has an empty value, one
//! space after the colon is dropped, multiple data lines are joined with LF, and an incomplete
//! frame at the end is not dispatched.

use memchr::memchr2;

/// A dispatched frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The `event:` field, empty when there was none.
    pub name: &'a [u8],
    /// The data lines, joined with LF.
    pub data: &'a [u8],
    /// Offset just past the frame in the chunk given to [`Decoder::feed`].
    pub end: usize,
}

/// What a decoder finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame with at least one data field.
    Frame(Frame<'a>),
    /// A comment line; its end offset.
    Comment(usize),
}

/// An incremental reader of frames.
#[derive(Debug)]
pub struct Decoder {
    /// Start of an incomplete line.
    line: Vec<u8>,
    /// Data lines of the open frame that had to be copied.
    data: Vec<u8>,
    name: Vec<u8>,
    has_data: bool,
    /// The previous chunk ended in CR; a following LF belongs to that line end.
    after_cr: bool,
    started: bool,
    overflowed: bool,
    limit: usize,
    /// Bytes since the last dispatch, for [`Decoder::unterminated`].
    pending: usize,
}

/// A data line that is still a slice of the current chunk.
type InChunk<'c> = Option<&'c [u8]>;

impl Decoder {
    /// A decoder that buffers at most `limit` bytes of one frame.
    pub fn new(limit: usize) -> Self {
        Decoder {
            line: Vec::new(),
            data: Vec::new(),
            name: Vec::new(),
            has_data: false,
            after_cr: false,
            started: false,
            overflowed: false,
            limit,
            pending: 0,
        }
    }

    /// Whether a frame exceeded the limit. Parsing has then stopped.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Bytes after the last dispatched frame or comment. Nonzero at the end of a stream means an
    /// incomplete frame.
    pub fn unterminated(&self) -> usize {
        self.pending
    }

    /// Parse the next chunk.
    pub fn feed<'c>(&mut self, chunk: &'c [u8], mut found: impl FnMut(Item<'_>)) {
        if self.overflowed {
            return;
        }
        let mut at = 0;
        if self.after_cr && !chunk.is_empty() {
            self.after_cr = false;
            at = usize::from(chunk.first() == Some(&b'\n'));
        }
        let mut held: InChunk<'c> = None;
        while let Some((line, next)) = self.next_line(chunk, at) {
            self.pending += next - at;
            at = next;
            if self.line.is_empty() {
                held = self.take_line(self.unmark(line), held, at, &mut found);
            } else {
                self.line.extend_from_slice(line);
                let joined = std::mem::take(&mut self.line);
                self.keep(held.take());
                let rest = self.take_line(self.unmark(&joined), None, at, &mut found);
                let copied = rest.map(<[u8]>::to_vec);
                self.keep(copied.as_deref());
                self.line = joined;
                self.line.clear();
            }
            self.started = true;
            if self.data.len() > self.limit || self.name.len() > self.limit {
                return self.overflow();
            }
        }
        self.keep(held);
        let rest = chunk.get(at..).unwrap_or_default();
        self.pending += rest.len();
        self.line.extend_from_slice(rest);
        if self.line.len() + self.data.len() > self.limit {
            self.overflow();
        }
    }

    /// The line at `at` without its line end, and the offset after the line end.
    #[inline]
    fn next_line<'c>(&mut self, chunk: &'c [u8], at: usize) -> Option<(&'c [u8], usize)> {
        let rest = chunk.get(at..)?;
        let len = memchr2(b'\n', b'\r', rest)?;
        let mut next = at + len + 1;
        if rest.get(len) == Some(&b'\r') {
            match rest.get(len + 1) {
                Some(b'\n') => next += 1,
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
        Some((rest.get(..len).unwrap_or_default(), next))
    }

    /// Drop a byte order mark from the first line of the stream.
    fn unmark<'l>(&self, line: &'l [u8]) -> &'l [u8] {
        if self.started { line } else { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) }
    }

    /// Process one complete line. Returns the data line that has not been copied from the chunk.
    #[inline]
    fn take_line<'l>(
        &mut self,
        line: &'l [u8],
        held: InChunk<'l>,
        end: usize,
        found: &mut impl FnMut(Item<'_>),
    ) -> InChunk<'l> {
        if line.is_empty() {
            self.dispatch(held, end, found);
            return None;
        }
        let (field, value) = split_field(line);
        match field {
            b"data" if !self.has_data => {
                self.has_data = true;
                return Some(value);
            }
            b"data" => {
                self.keep(held);
                self.data.push(b'\n');
                self.data.extend_from_slice(value);
                return None;
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            b"" => {
                found(Item::Comment(end));
                if !self.has_data {
                    self.pending = 0;
                }
            }
            _ => {}
        }
        held
    }

    /// Copy a data line out of the chunk, because it is not the whole data of the frame.
    fn keep(&mut self, held: InChunk<'_>) {
        if let Some(held) = held {
            self.data.extend_from_slice(held);
        }
    }

    fn dispatch(&mut self, held: InChunk<'_>, end: usize, found: &mut impl FnMut(Item<'_>)) {
        if self.has_data {
            let data = held.unwrap_or(&self.data);
            found(Item::Frame(Frame { name: &self.name, data, end }));
        }
        self.has_data = false;
        self.name.clear();
        self.data.clear();
        self.pending = 0;
    }

    fn overflow(&mut self) {
        self.overflowed = true;
        self.line = Vec::new();
        self.data = Vec::new();
        self.name = Vec::new();
    }
}

/// Field name and value; a comment has an empty name.
#[inline]
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    if let Some(value) = line.strip_prefix(b"data: ") {
        return (b"data", value);
    }
    match memchr::memchr(b':', line) {
        Some(colon) => {
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default();
            (name, value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Clone)]
    enum Got {
        Frame(String, String),
        Comment,
    }

    fn read(chunks: &[&[u8]]) -> (Vec<Got>, usize) {
        let mut decoder = Decoder::new(1 << 20);
        let mut got = Vec::new();
        for chunk in chunks {
            decoder.feed(chunk, |item| {
                got.push(match item {
                    Item::Frame(f) => Got::Frame(
                        String::from_utf8_lossy(f.name).into(),
                        String::from_utf8_lossy(f.data).into(),
                    ),
                    Item::Comment(_) => Got::Comment,
                });
            });
        }
        (got, decoder.unterminated())
    }

    fn frame(name: &str, data: &str) -> Got {
        Got::Frame(name.into(), data.into())
    }

    #[test]
    fn all_line_ends_and_fields() {
        let text =
            b"\xEF\xBB\xBFdata: a\r\n\r\n: hi\rdata:b\r\rid: 1\nretry: 5\nevent: x\ndata: c\ndata:  d\ndata\n\nevent: lost\n\ndata: tail";
        let want = vec![frame("", "a"), Got::Comment, frame("", "b"), frame("x", "c\n d\n")];
        assert_eq!(read(&[text]), (want.clone(), 10));
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(read(&[a, b]), (want.clone(), 10), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read(&bytes), (want, 10));
    }

    #[test]
    fn ends_are_offsets_in_the_chunk() {
        let mut decoder = Decoder::new(100);
        let mut ends = Vec::new();
        for chunk in [&b"data: a\n\ndata: b\n"[..], b"\ndata: c\n\n"] {
            decoder.feed(chunk, |item| {
                if let Item::Frame(f) = item {
                    ends.push(f.end);
                }
            });
        }
        assert_eq!(ends, [9, 1, 10]);
    }

    #[test]
    fn oversized_frame_stops_parsing() {
        let mut decoder = Decoder::new(8);
        let mut frames = 0;
        for chunk in [&b"data: a\n\n"[..], b"data: 0123456789", b"\n\n", b"data: b\n\n"] {
            decoder.feed(chunk, |_| frames += 1);
        }
        assert_eq!(frames, 1);
        assert!(decoder.overflowed());
    }

    proptest! {
        #[test]
        fn any_cut_reads_the_same(text in "(data|event|id|:|x|\u{feff}|[a-z]|: |\r|\n|\r\n){0,60}", cuts in proptest::collection::vec(0usize..120, 0..6)) {
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            at.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in at {
                chunks.push(&bytes[from..cut]);
                from = cut;
            }
            chunks.push(&bytes[from..]);
            prop_assert_eq!(read(&chunks).0, read(&[bytes]).0);
        }
    }
}
