//! Server-sent events, cut anywhere.
//!
//! - *In*: the decoded body of a `text/event-stream`, chunk by chunk.
//! - *Out*: complete frames as slices (of the chunk if it contains the whole frame), comments, and
//!   the end offset of each in the chunk.
//! - *Never*: more than one frame buffered. A frame over the limit is skipped to its end, and
//!   parsing continues with the next one.
//!
//! The grammar is that of the HTML standard, section 9.2 "Server-sent events": lines end in CR, LF
//! or CRLF, a leading byte order mark is dropped, a field without a colon has an empty value, one
//! space after the colon is dropped, multiple data lines are joined with LF, and an incomplete
//! frame at the end is not dispatched, unless its data is whole ([`Decoder::take_last`]).

use memchr::memchr2;

use crate::json::{Scan, Tail};

/// The name of a frame whose data is an error object in the field `error:`. No event has it.
pub const ERROR_FIELD: &[u8] = b"error:";

/// A dispatched frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The `event:` field, empty when there was none; or [`ERROR_FIELD`].
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
    /// A frame that exceeded the limit: the end of its lines, and its end offset.
    Skipped(&'a [u8], usize),
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
    /// The open frame, if it exceeded the limit.
    skipping: Option<Skipped>,
    limit: usize,
    /// Bytes since the last dispatch, for [`Decoder::unterminated`].
    pending: usize,
}

/// A frame over the limit.
#[derive(Debug, Default)]
struct Skipped {
    /// Its last line is incomplete.
    is_open: bool,
    tail: Tail,
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
            skipping: None,
            limit,
            pending: 0,
        }
    }

    /// Whether the open frame exceeded the limit, and is being skipped.
    pub fn is_skipping(&self) -> bool {
        self.skipping.is_some()
    }

    /// Take the data of the open frame at the end of the body, if it is whole: some servers omit
    /// the last blank line.
    pub fn take_last(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            let rest = self.take_line(&line, None, 0, &mut |_| {}).map(<[u8]>::to_vec);
            self.keep(rest.as_deref());
        }
        let mut scan = Scan::new(&self.data);
        let is_whole = self.data == b"[DONE]" || scan.skip().is_ok() && scan.at_end();
        (self.has_data && is_whole).then(|| std::mem::take(&mut self.data))
    }

    /// Bytes after the last dispatched frame or comment. Nonzero at the end of a stream means an
    /// incomplete frame.
    pub fn unterminated(&self) -> usize {
        self.pending
    }

    /// Parse the next chunk.
    pub fn feed<'c>(&mut self, chunk: &'c [u8], mut found: impl FnMut(Item<'_>)) {
        let mut at = 0;
        if self.after_cr && !chunk.is_empty() {
            self.after_cr = false;
            at = usize::from(chunk.first() == Some(&b'\n'));
        }
        let mut held: InChunk<'c> = None;
        while let Some((line, next)) = self.next_line(chunk, at) {
            self.pending += next - at;
            at = next;
            if let Some(skipped) = &mut self.skipping {
                if line.is_empty() && !skipped.is_open {
                    found(Item::Skipped(skipped.tail.bytes(), at));
                    (self.skipping, self.pending) = (None, 0);
                } else {
                    skipped.tail.push(line);
                    skipped.is_open = false;
                }
                continue;
            }
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
                self.skip();
            }
        }
        self.keep(held);
        let rest = chunk.get(at..).unwrap_or_default();
        self.pending += rest.len();
        if let Some(skipped) = &mut self.skipping {
            skipped.is_open |= !rest.is_empty();
            skipped.tail.push(rest);
            return;
        }
        self.line.extend_from_slice(rest);
        if self.line.len() + self.data.len() > self.limit {
            self.skip();
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
            // llama.cpp until 2025: an error in place of an event.
            b"error" if !self.has_data => {
                self.has_data = true;
                self.name.clear();
                self.name.extend_from_slice(ERROR_FIELD);
                return Some(value);
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

    /// Skip the rest of the open frame.
    fn skip(&mut self) {
        let mut tail = Tail::default();
        tail.push(&std::mem::take(&mut self.data));
        tail.push(&self.line);
        self.skipping = Some(Skipped { is_open: !self.line.is_empty(), tail });
        self.has_data = false;
        self.line = Vec::new();
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
        Skipped,
    }

    fn read(chunks: &[&[u8]]) -> (Vec<Got>, usize) {
        read_limited(1 << 20, chunks)
    }

    fn read_limited(limit: usize, chunks: &[&[u8]]) -> (Vec<Got>, usize) {
        let mut decoder = Decoder::new(limit);
        let mut got = Vec::new();
        for chunk in chunks {
            decoder.feed(chunk, |item| {
                got.push(match item {
                    Item::Frame(f) => Got::Frame(
                        String::from_utf8_lossy(f.name).into(),
                        String::from_utf8_lossy(f.data).into(),
                    ),
                    Item::Comment(_) => Got::Comment,
                    Item::Skipped(..) => Got::Skipped,
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
    fn oversized_frame_is_skipped_and_the_next_one_is_read() {
        let text = b"data: a\n\nevent: x\r\ndata: 0123456789\r\ndata: more\r\n\r\n: hi\ndata: b\n\ndata: 9876543210\ndata: more\n\n\ndata: c\n\n";
        let want = vec![
            frame("", "a"),
            Got::Skipped,
            Got::Comment,
            frame("", "b"),
            Got::Skipped,
            frame("", "c"),
        ];
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(read_limited(8, &[a, b]), (want.clone(), 0), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read_limited(8, &bytes), (want, 0));
    }

    #[test]
    fn last_frame_without_a_blank_line_is_taken_if_it_is_whole() {
        let last = |text: &str| {
            let mut decoder = Decoder::new(100);
            decoder.feed(text.as_bytes(), |_| {});
            decoder.take_last().map(|data| String::from_utf8_lossy(&data).into_owned())
        };
        assert_eq!(last("data: a\n\ndata: [DONE]").as_deref(), Some("[DONE]"));
        assert_eq!(last("event: x\ndata: {\"a\":1}\n").as_deref(), Some("{\"a\":1}"));
        assert_eq!(last("data: {\"a\":1}\nid: 7").as_deref(), Some("{\"a\":1}"));
        for torn in ["data: {\"a\":", "data: [DO", ": ping", "event: x\n", "data: {}\n\n"] {
            assert_eq!(last(torn), None, "{torn:?}");
        }
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
