//! One of those who race, up to the first token of its answer.
//!
//! - *In*: a request on its way.
//! - *Out*: whether its answer has begun in earnest; then the answer from its beginning, with the times at which it was read.
//! - *Never*: more than [`MOST`] bytes held; a byte lost or a time changed by having been held.

use std::task::{Context, Poll, ready};

use lens::{EngineError, StreamLens, Tick};
use routing::Ended;
use wire::{Dialect, Framing, Reader, ReaderLimits};

use crate::upstream::h1::Request;
use crate::upstream::{AnswerHead, BodyStep, Call, Hear, Source, Upstream, UpstreamError};

/// Most bytes of an answer without a token that are waited through: what is longer has begun.
const MOST: usize = 16 << 10;

/// How an answer is read to find its first token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reads {
    pub(crate) dialect: Dialect,
    pub(crate) limits: ReaderLimits,
    /// The prompt is said back first.
    pub(crate) echo: bool,
}

/// What a stream without a beginning and an end is worth.
const BAD_GATEWAY: u16 = 502;

/// Somebody who was asked.
pub(super) struct Contender {
    call: Call,
    head: Option<AnswerHead>,
    taste: Option<Box<Taste>>,
}

/// What was read of an answer before it is known whether it is the one that is heard.
struct Taste {
    reader: Reader,
    lens: StreamLens,
    /// When each read returned that brought something, how late, and how many bytes there were before it.
    reads: Vec<(Tick, Option<u64>, usize)>,
    bytes: Vec<u8>,
    has_ended: bool,
}

impl Contender {
    pub(super) fn new(call: Call) -> Self {
        Contender { call, head: None, taste: None }
    }

    /// The request, if it may be sent again: see [`Call::into_unanswered`].
    pub(super) fn into_unanswered(self) -> Option<Request> {
        self.call.into_unanswered()
    }

    /// What it says of a backend that there was an error: nothing, where an idle connection may just have been too old.
    pub(super) fn fault(self) -> Ended {
        if self.into_unanswered().is_some() { Ended::Untold } else { Ended::Badly }
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.call.is_connecting()
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.call.poll_send(cx)
    }

    /// Ready when its answer has begun: with its first token where it is a stream that `reads` can read, else with its head. The status is that of
    /// an error which stands in place of the first token, if one does, or nothing.
    pub(super) fn poll_begun(&mut self, cx: &mut Context<'_>, reads: Option<Reads>) -> Poll<Result<u16, UpstreamError>> {
        let head = match &mut self.head {
            Some(head) => head,
            none => none.insert(ready!(self.call.poll_head(cx))?),
        };
        let streams = head.status < 400 && !head.encoded && matches!(head.framing, Framing::Sse | Framing::Ndjson);
        let Some(reads) = reads.filter(|_| streams) else { return Poll::Ready(Ok(head.status)) };
        let reader = || Reader::new(reads.dialect, head.framing, reads.limits).expecting_echo(reads.echo);
        let taste = self.taste.get_or_insert_with(|| Box::new(Taste::new(reader())));
        while !taste.is_enough() {
            taste.has_ended = ready!(self.call.poll_body(cx, &mut **taste))? == BodyStep::End;
        }
        let told = taste.lens.error().map(EngineError::status).or_else(|| taste.is_empty().then_some(BAD_GATEWAY));
        Poll::Ready(Ok(told.unwrap_or(head.status)))
    }

    /// When it was heard last of what is kept back.
    pub(super) fn heard_at(&self) -> Option<Tick> {
        let tasted = self.taste.as_ref().and_then(|taste| taste.reads.iter().rev().find(|(.., from)| *from < taste.bytes.len()));
        let tasted = tasted.map(|(at, ..)| *at);
        tasted.or_else(|| Some(self.head.as_ref()?.first_byte))
    }

    /// Whether there is more to hear of it than that it has failed.
    pub(super) fn says_an_error(&self) -> bool {
        let in_stream = self.taste.as_ref().is_some_and(|taste| taste.lens.error().is_some());
        in_stream || self.head.as_ref().is_some_and(|head| head.status >= 400)
    }

    /// The head, if it has come.
    pub(super) fn head(&self) -> Option<&AnswerHead> {
        self.head.as_ref()
    }

    /// The head, once.
    pub(super) fn take_head(&mut self) -> Option<AnswerHead> {
        self.head.take()
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>, hear: &mut impl Hear) -> Poll<Result<BodyStep, UpstreamError>> {
        match self.taste.take().filter(|taste| taste.has_ended || !taste.reads.is_empty()) {
            Some(taste) => Poll::Ready(Ok(taste.again(hear))),
            None => self.call.poll_body(cx, hear),
        }
    }

    pub(super) fn settle(self, upstream: &Upstream) {
        self.call.settle(upstream);
    }
}

impl Taste {
    fn new(reader: Reader) -> Self {
        Taste { reader, lens: StreamLens::new(true, u64::MAX), reads: Vec::new(), bytes: Vec::new(), has_ended: false }
    }

    /// Whether it is known what this is.
    fn is_enough(&self) -> bool {
        self.has_ended || self.lens.marks().first_token.arrival.is_some() || self.lens.error().is_some() || self.bytes.len() >= MOST
    }

    /// Whether it has ended and has said nothing, not even why.
    fn is_empty(&self) -> bool {
        self.has_ended && self.lens.marks().first_token.arrival.is_none() && !self.lens.is_complete(1)
    }

    /// Let somebody else hear it, as it was.
    fn again(&self, hear: &mut impl Hear) -> BodyStep {
        let ends = self.reads.iter().skip(1).map(|(.., from)| *from).chain([self.bytes.len()]);
        for ((read_at, lag, from), end) in self.reads.iter().zip(ends) {
            hear.begin_read(*read_at, *lag);
            hear.payload(self.bytes.get(*from..end).unwrap_or_default());
        }
        if self.has_ended { BodyStep::End } else { BodyStep::More }
    }
}

impl Hear for Taste {
    fn begin_read(&mut self, now: Tick, lag: Option<u64>) {
        self.lens.begin_read(now);
        // One that has brought nothing is as good as none.
        self.reads.pop_if(|(.., from)| *from == self.bytes.len());
        self.reads.push((now, lag, self.bytes.len()));
    }

    fn payload(&mut self, run: &[u8]) {
        self.reader.feed(run, &mut self.lens);
        self.bytes.extend_from_slice(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Vec<(u64, Option<u64>, Vec<u8>)>);

    impl Hear for Heard {
        fn begin_read(&mut self, now: Tick, lag: Option<u64>) {
            self.0.push((now.0, lag, Vec::new()));
        }

        fn payload(&mut self, run: &[u8]) {
            self.0.last_mut().unwrap().2.extend_from_slice(run);
        }
    }

    #[test]
    fn what_was_tasted_is_heard_again_as_it_was() {
        let mut taste = Taste::new(Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits { event: 1 << 20 }));
        let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
        let (one, other) = role.split_at(20);
        taste.begin_read(Tick(5), None);
        taste.payload(one.as_bytes());
        assert!(!taste.is_enough());
        // A read that brought nothing of the body, and one in two runs.
        taste.begin_read(Tick(7), None);
        taste.begin_read(Tick(9), Some(3));
        taste.payload(&other.as_bytes()[..4]);
        taste.payload(&other.as_bytes()[4..]);
        assert!(!taste.is_enough(), "a role is no token");
        taste.begin_read(Tick(11), None);
        taste.payload(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n");
        assert!(taste.is_enough());
        let mut heard = Heard::default();
        assert_eq!(taste.again(&mut heard), BodyStep::More);
        let times: Vec<_> = heard.0.iter().map(|(at, lag, bytes)| (*at, *lag, bytes.len())).collect();
        assert_eq!(times, [(5, None, 20), (9, Some(3), other.len()), (11, None, 57)]);
        let mut nothing = Taste::new(Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits { event: 1 << 20 }));
        nothing.begin_read(Tick(5), None);
        nothing.payload(role.as_bytes());
        assert!(!nothing.is_empty());
        nothing.has_ended = true;
        assert!(nothing.is_empty() && nothing.is_enough());
        assert_eq!(heard.0.iter().flat_map(|(.., bytes)| bytes).copied().collect::<Vec<u8>>(), taste.bytes);
    }
}
