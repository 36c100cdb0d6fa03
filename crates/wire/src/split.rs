//! Splits a stream into whole events without changing a byte.
//!
//! - *In*: consecutive pieces ("runs") of a body, and the end offsets of events and comments in
//!   each.
//! - *Out*: each whole event with the blank lines before it; each comment between two events; the
//!   LF of a CRLF that two runs split.
//! - *Never*: a byte lost, duplicated or reordered. An incomplete event is kept until its rest
//!   arrives or the caller takes it.

use std::borrow::Cow;

/// A piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Split<'r, T> {
    /// An event, its tag, and its end offset in the run.
    Event(Cow<'r, [u8]>, T, usize),
    /// A comment between two events. A comment inside an event is part of that event.
    Comment(Cow<'r, [u8]>),
    /// The LF after the CR that ended the previous piece. Forward or drop it together with that
    /// piece.
    LineFeed,
}

/// The state between two runs.
#[derive(Debug, Default)]
pub struct Splitter {
    /// Start of an incomplete event.
    torn: Vec<u8>,
    /// The previous run ended in a CR that ended a piece.
    after_cr: bool,
}

impl Splitter {
    /// Split a run. `ends` are the end offsets of pieces in the run, ascending: events with a tag,
    /// comments with `None`.
    pub fn split<'r, T>(
        &mut self,
        run: &'r [u8],
        ends: impl IntoIterator<Item = (usize, Option<T>)>,
        mut each: impl FnMut(Split<'r, T>),
    ) {
        if run.is_empty() {
            return;
        }
        let mut at = usize::from(std::mem::take(&mut self.after_cr) && run.starts_with(b"\n"));
        if at == 1 {
            each(Split::LineFeed);
        }
        for (end, tag) in ends {
            let rest = run.get(at..end).unwrap_or_default();
            let piece = match tag {
                None if !self.is_comment(rest) => continue,
                None => Split::Comment(self.whole(rest)),
                Some(tag) => Split::Event(self.whole(rest), tag, end),
            };
            each(piece);
            at = end.max(at);
            self.after_cr = end == run.len() && run.ends_with(b"\r");
        }
        self.torn.extend_from_slice(run.get(at..).unwrap_or_default());
    }

    /// Take the incomplete event.
    pub fn take_torn(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.torn)
    }

    /// Whether the incomplete piece is a comment, after optional blank lines.
    pub fn torn_is_comment(&self) -> bool {
        self.is_comment(&[])
    }

    /// Whether the last piece ended in a CR whose LF may follow in the next run.
    pub fn is_after_cr(&self) -> bool {
        self.after_cr
    }

    /// Drop all state, because another stream follows.
    pub fn reset(&mut self) {
        self.torn.clear();
        self.after_cr = false;
    }

    fn whole<'r>(&mut self, rest: &'r [u8]) -> Cow<'r, [u8]> {
        if self.torn.is_empty() {
            return Cow::Borrowed(rest);
        }
        let mut whole = std::mem::take(&mut self.torn);
        whole.extend_from_slice(rest);
        Cow::Owned(whole)
    }

    /// Whether the incomplete piece followed by `rest` is a comment, after optional blank lines.
    fn is_comment(&self, rest: &[u8]) -> bool {
        self.torn.iter().chain(rest).find(|byte| !matches!(byte, b'\r' | b'\n')) == Some(&b':')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dialect, Event, EventVisitor, Framing, Reader, ReaderLimits};

    #[derive(Default)]
    struct Ends(Vec<(usize, Option<()>)>);

    impl EventVisitor for Ends {
        fn event(&mut self, event: &Event) {
            self.0.push((event.end, Some(())));
        }

        fn comment(&mut self, end: usize) {
            self.0.push((end, None));
        }
    }

    /// The events and comments of a stream, and all bytes in order.
    fn cut(runs: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
        let mut reader = Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
        let (mut splitter, mut pieces, mut all) = (Splitter::default(), Vec::new(), Vec::new());
        for run in runs {
            let mut ends = Ends::default();
            reader.feed(run, &mut ends);
            splitter.split(run, ends.0, |piece| match piece {
                Split::Event(bytes, ..) | Split::Comment(bytes) => {
                    all.extend_from_slice(&bytes);
                    pieces.push(String::from_utf8_lossy(&bytes).trim().to_owned());
                }
                Split::LineFeed => all.push(b'\n'),
            });
        }
        all.extend_from_slice(&splitter.take_torn());
        (pieces, all)
    }

    #[test]
    fn events_are_whole_at_every_cut() {
        let stream = b": hi\n\ndata: {\"a\":1}\r\n\r\n: between\r\nid: 7\r\n: inside\r\ndata: {}\r\n\r\n\ndata: [DONE]\r\r: torn";
        let (whole, bytes) = cut(&[stream]);
        assert_eq!(bytes, stream);
        assert!(
            whole.iter().any(|piece| piece == "data: {\"a\":1}")
                && whole.iter().any(|piece| piece.contains(": inside")),
            "{whole:?}"
        );
        for at in 0..stream.len() {
            let (one, other) = stream.split_at(at);
            let (pieces, bytes) = cut(&[one, other]);
            assert_eq!(
                String::from_utf8_lossy(&bytes),
                String::from_utf8_lossy(stream),
                "cut at {at}"
            );
            let events = |pieces: &[String]| {
                pieces.iter().filter(|piece| !piece.starts_with(':')).cloned().collect::<Vec<_>>()
            };
            assert_eq!(events(&pieces), events(&whole), "cut at {at}");
        }
        let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(cut(&bytewise).1, stream);
    }
}
