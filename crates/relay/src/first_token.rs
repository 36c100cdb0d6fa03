//! Holds an answer until its first token, so that another backend can still be tried.
//!
//! Engines send the head and the role event before they process the prompt, so neither means that a
//! token follows soon. A stream counts as started at its first token, at an error in place of it,
//! or above a maximum of bytes. A non-streaming body counts as started when it is complete or above
//! that size; a backend that dies earlier has given no answer.
//!
//! The comments (keep-alives) of a held stream can be taken and sent ahead of its events.
//!
//! - *In*: a [`Source`], and how its events are read; `None` passes everything through.
//! - *Out*: the same answer from its start, with the original read times, less the comments that
//!   were taken.
//! - *Never*: more than [`ProbeParsing::most_held`] bytes plus one read held; a byte lost or a time
//!   changed by holding; a comment taken out of an event.

use std::task::{Context, Poll, ready};

use lens::{StreamLens, Tick};
use transport::{
    AnswerHead, BodyListener, BodyStep, EarlyError, Source, Upstream, UpstreamError, clock,
};
use wire::{Dialect, Event, EventVisitor, Framing, Part, Reader, ReaderLimits, json};

/// Maximum bytes held while waiting for the first token, besides a repeated request. A longer
/// answer counts as started.
pub(crate) const MAX_HELD: usize = 16 << 10;
/// Maximum bytes of a request that its answer may repeat while it is held.
const MAX_REPEATED: usize = 256 << 10;

/// A stream that ends without a token, an error or a finish reason.
const EMPTY_STREAM: EarlyError = EarlyError { status: 502, code: Some("incomplete_stream") };

/// How an answer is parsed to find its first token.
#[derive(Clone, Copy, Debug)]
pub struct ProbeParsing {
    /// API dialect of the backend.
    pub dialect: Dialect,
    /// Size limits of one event.
    pub limits: ReaderLimits,
    /// The answer starts with the prompt (`echo`).
    pub echo: bool,
    /// Bytes of the request's body.
    pub request_bytes: usize,
}

impl ProbeParsing {
    /// Maximum bytes held. The first two events of a response repeat instructions and tools of the
    /// request, which may be written longer than they were.
    fn most_held(&self) -> usize {
        match self.dialect {
            Dialect::OpenAiResponses => MAX_HELD + 3 * self.request_bytes.min(MAX_REPEATED),
            _ => MAX_HELD,
        }
    }
}

/// A source that returns its head only when the answer has started.
#[derive(Debug)]
pub struct FirstTokenProbe<S> {
    source: S,
    reads: Option<ProbeParsing>,
    head: Option<AnswerHead>,
    held: Option<Box<Held>>,
    early_error: Option<EarlyError>,
    held_until: Option<Tick>,
}

/// Bytes of an answer that has not started.
#[derive(Debug)]
struct Held {
    is_stream: bool,
    reader: Reader,
    lens: StreamLens,
    /// For each read with payload: its time, its kernel lag, and the number of bytes before it.
    reads: Vec<(Tick, Option<u64>, usize)>,
    bytes: Vec<u8>,
    /// Number of bytes up to the end of the last event.
    events: usize,
    /// Time of the last read with payload.
    last_read: Option<Tick>,
    has_ended: bool,
    most: usize,
}

/// Measures the events of a run, and records where the last one ends.
struct LastEvent<'l> {
    lens: &'l mut StreamLens,
    end: Option<usize>,
}

impl<S: Source> FirstTokenProbe<S> {
    /// A probe around a source that has not been polled.
    pub fn new(source: S, reads: Option<ProbeParsing>) -> Self {
        FirstTokenProbe {
            source,
            reads,
            head: None,
            held: None,
            early_error: None,
            held_until: None,
        }
    }

    /// The source.
    pub fn into_inner(self) -> S {
        self.source
    }

    /// Stop waiting for the first token: the answer starts with the bytes read so far.
    pub fn release(&mut self) {
        self.reads = None;
    }

    /// Ready when the answer has started. Returns the status of an error in place of the first
    /// token, if there is one, or else of the head.
    pub fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<u16, UpstreamError>> {
        let head = match &mut self.head {
            Some(head) => head,
            none => none.insert(ready!(self.source.poll_head(cx))?),
        };
        let is_read = head.status < 400 && !head.encoded && head.framing != Framing::Opaque;
        let Some(reads) = self.reads.filter(|_| is_read) else {
            self.held_until = self.held.as_ref().map(|_| clock::now());
            return Poll::Ready(Ok(head.status));
        };
        let held = self.held.get_or_insert_with(|| Box::new(Held::new(head.framing, reads)));
        while !held.has_begun() {
            match ready!(self.source.poll_body(cx, &mut **held)) {
                Ok(BodyStep::End) => held.end(),
                Ok(BodyStep::More) => {}
                Err(error) => {
                    tracing::debug!(%error, "upstream answer ended before its first token");
                    return Poll::Ready(Err(UpstreamError::BrokeOff));
                }
            }
        }
        if held.has_ended && head.length.is_none() && held.is_cut() {
            tracing::debug!("upstream answer ended inside its JSON document");
            return Poll::Ready(Err(UpstreamError::BrokeOff));
        }
        self.held_until = held.last_read.or(Some(head.first_byte));
        self.early_error = held
            .lens
            .error()
            .map(|error| EarlyError { status: error.status(), code: None })
            .or_else(|| held.is_empty().then_some(EMPTY_STREAM));
        Poll::Ready(Ok(self.early_error.map_or(head.status, |error| error.status)))
    }

    /// Whether the backend answered with an error, in its head or in place of the first token.
    pub fn has_error(&self) -> bool {
        let in_stream = self.held.as_ref().is_some_and(|held| held.lens.error().is_some());
        in_stream || self.head.as_ref().is_some_and(|head| head.status >= 400)
    }

    /// The head, if it has arrived and was not taken.
    pub fn head(&self) -> Option<&AnswerHead> {
        self.head.as_ref()
    }

    /// Take the head.
    pub fn take_head(&mut self) -> Option<AnswerHead> {
        self.head.take()
    }
}

impl<S: Source> Source for FirstTokenProbe<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.source.poll_send(cx)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        ready!(self.poll_begun(cx))?;
        Poll::Ready(self.head.take().ok_or(UpstreamError::ClosedEarly))
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        listener: &mut impl BodyListener,
    ) -> Poll<Result<BodyStep, UpstreamError>> {
        match self.held.take().filter(|held| held.has_ended || !held.reads.is_empty()) {
            Some(held) => Poll::Ready(Ok(held.replay(listener))),
            None => self.source.poll_body(cx, listener),
        }
    }

    fn is_connecting(&self) -> bool {
        self.source.is_connecting()
    }

    fn held_read_at(&self) -> Option<Tick> {
        let held = self.held.as_ref().and_then(|held| held.last_read);
        held.or_else(|| Some(self.head.as_ref()?.first_byte))
    }

    fn take_comments(&mut self) -> Option<(AnswerHead, Vec<u8>)> {
        // Only under this head can the events of another backend follow.
        let head = self.head.as_ref().filter(|head| {
            head.status == 200 && head.framing == Framing::Sse && head.length.is_none()
        })?;
        let comments = self.held.as_mut()?.take_comments()?;
        Some((head.clone(), comments))
    }

    fn held_until(&self) -> Option<Tick> {
        self.held_until
    }

    fn early_error(&self) -> Option<EarlyError> {
        self.early_error
    }

    fn settle(self, upstream: &Upstream) {
        self.source.settle(upstream);
    }
}

impl Held {
    fn new(framing: Framing, reads: ProbeParsing) -> Self {
        Held {
            is_stream: matches!(framing, Framing::Sse | Framing::Ndjson),
            reader: Reader::new(reads.dialect, framing, reads.limits).expecting_echo(reads.echo),
            lens: StreamLens::new(true, u64::MAX),
            reads: Vec::new(),
            bytes: Vec::new(),
            events: 0,
            last_read: None,
            has_ended: false,
            most: reads.most_held(),
        }
    }

    /// The body has ended: what is not terminated is read, too.
    fn end(&mut self) {
        self.has_ended = true;
        self.reader.finish(&mut self.lens);
    }

    fn has_token(&self) -> bool {
        self.lens.marks().first_token.arrival.is_some()
    }

    fn has_begun(&self) -> bool {
        self.has_ended
            || self.has_token()
            || self.lens.error().is_some()
            || self.bytes.len() >= self.most
    }

    /// Whether a stream ended without a token or a finish reason, or a JSON answer without a
    /// document.
    fn is_empty(&self) -> bool {
        let nothing = match self.is_stream {
            true => !self.has_token() && !self.lens.is_complete(1) && !self.reader.ends_skipped(),
            false => self.bytes.trim_ascii().is_empty(),
        };
        self.has_ended && nothing
    }

    /// Whether the body is a JSON document that ends inside a value.
    fn is_cut(&self) -> bool {
        !self.is_stream && json::is_cut(&self.bytes)
    }

    /// Take the whole comments that follow the last event.
    fn take_comments(&mut self) -> Option<Vec<u8>> {
        if !is_comments(self.bytes.get(self.events..)?) {
            return None;
        }
        let comments = self.bytes.split_off(self.events);
        self.reads.retain(|(.., from)| *from < self.events);
        Some(comments)
    }

    /// Replay all reads to a listener, with their times.
    fn replay(&self, listener: &mut impl BodyListener) -> BodyStep {
        let ends = self.reads.iter().skip(1).map(|(.., from)| *from).chain([self.bytes.len()]);
        for ((read_at, lag, from), end) in self.reads.iter().zip(ends) {
            listener.begin_read(*read_at, *lag);
            listener.payload(self.bytes.get(*from..end).unwrap_or_default());
        }
        if self.has_ended { BodyStep::End } else { BodyStep::More }
    }
}

impl BodyListener for Held {
    fn begin_read(&mut self, now: Tick, lag: Option<u64>) {
        self.lens.begin_read(now);
        // Drop the previous read if it had no payload.
        self.reads.pop_if(|(.., from)| *from == self.bytes.len());
        self.reads.push((now, lag, self.bytes.len()));
    }

    fn payload(&mut self, run: &[u8]) {
        let mut last_event = LastEvent { lens: &mut self.lens, end: None };
        self.reader.feed(run, &mut last_event);
        if let Some(end) = last_event.end {
            self.events = self.bytes.len() + end;
        }
        self.bytes.extend_from_slice(run);
        if !run.is_empty() {
            self.last_read = self.reads.last().map(|(at, ..)| *at);
        }
    }
}

impl EventVisitor for LastEvent<'_> {
    fn part(&mut self, part: Part<'_>) {
        self.lens.part(part);
    }

    fn event(&mut self, event: &Event) {
        self.lens.event(event);
        self.end = Some(event.end);
    }
}

/// Whether these are complete comments, and blank lines around them.
fn is_comments(lines: &[u8]) -> bool {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    lines.last().is_some_and(is_end)
        && !lines.iter().all(is_end)
        && lines.split(is_end).all(|line| line.is_empty() || line.starts_with(b":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Replayed(Vec<(u64, Option<u64>, Vec<u8>)>);

    impl BodyListener for Replayed {
        fn begin_read(&mut self, now: Tick, lag: Option<u64>) {
            self.0.push((now.0, lag, Vec::new()));
        }

        fn payload(&mut self, run: &[u8]) {
            self.0.last_mut().unwrap().2.extend_from_slice(run);
        }
    }

    fn held(framing: Framing) -> Held {
        Held::new(
            framing,
            ProbeParsing {
                dialect: Dialect::OpenAiChat,
                limits: ReaderLimits { event: 1 << 20 },
                echo: false,
                request_bytes: 0,
            },
        )
    }

    #[test]
    fn a_response_may_repeat_its_request_before_it_starts() {
        let parsing = |dialect, request_bytes| ProbeParsing {
            dialect,
            limits: ReaderLimits { event: 1 << 20 },
            echo: false,
            request_bytes,
        };
        let mut held = Held::new(Framing::Sse, parsing(Dialect::OpenAiResponses, 24 << 10));
        held.bytes = vec![b' '; 80 << 10];
        assert!(!held.has_begun());
        held.bytes = vec![b' '; 100 << 10];
        assert!(held.has_begun());
        let most = |dialect, bytes| parsing(dialect, bytes).most_held();
        assert_eq!(most(Dialect::OpenAiChat, 24 << 10), MAX_HELD);
        assert!(most(Dialect::OpenAiResponses, usize::MAX) < 1 << 20);
    }

    #[test]
    fn held_bytes_are_replayed_as_they_were_read() {
        let mut held = held(Framing::Sse);
        let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
        let (one, other) = role.split_at(20);
        held.begin_read(Tick(5), None);
        held.payload(one.as_bytes());
        assert!(!held.has_begun());
        // A read without payload, and a read with two runs.
        held.begin_read(Tick(7), None);
        held.begin_read(Tick(9), Some(3));
        held.payload(&other.as_bytes()[..4]);
        held.payload(&other.as_bytes()[4..]);
        assert!(!held.has_begun(), "a role event is not a token");
        held.begin_read(Tick(11), None);
        held.payload(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n");
        assert!(held.has_begun());
        let mut replayed = Replayed::default();
        assert_eq!(held.replay(&mut replayed), BodyStep::More);
        let times: Vec<_> =
            replayed.0.iter().map(|(at, lag, bytes)| (*at, *lag, bytes.len())).collect();
        assert_eq!(times, [(5, None, 20), (9, Some(3), other.len()), (11, None, 57)]);
        assert_eq!(
            replayed.0.iter().flat_map(|(.., bytes)| bytes).copied().collect::<Vec<u8>>(),
            held.bytes
        );
    }

    /// Feed a run as one read; what can be taken after it.
    fn taken(held: &mut Held, run: &str) -> String {
        held.begin_read(Tick(5), None);
        held.payload(run.as_bytes());
        String::from_utf8(held.take_comments().unwrap_or_default()).unwrap()
    }

    #[test]
    fn comments_are_taken_between_events_only() {
        let mut held = held(Framing::Sse);
        let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n";
        for (run, want) in [
            (": one\n\n", ": one\n\n"),
            (": two\r\n\r\n:\n", ": two\r\n\r\n:\n"),
            (": to", ""),
            ("rn\n", ": torn\n"),
            ("\n", ""),
            (": next\n\n", "\n: next\n\n"),
            (role, ""),
            (": three\n\n", ": three\n\n"),
            (&format!("{role}: four\n\n"), ": four\n\n"),
            // A field without data is a part of the next event, and so are its comments.
            (": five\nid: 7\n", ""),
            (": inside\n", ""),
        ] {
            assert_eq!(taken(&mut held, run), want, "{run:?}");
        }
        let mut replayed = Replayed::default();
        held.replay(&mut replayed);
        let rest: Vec<u8> = replayed.0.into_iter().flat_map(|(.., bytes)| bytes).collect();
        let want = format!("{role}{role}: five\nid: 7\n: inside\n");
        assert_eq!(String::from_utf8_lossy(&rest), want);
    }

    #[test]
    fn a_stream_without_a_token_is_empty_and_a_whole_body_is_not() {
        let mut stream = held(Framing::Sse);
        stream.begin_read(Tick(5), None);
        stream.payload(b"data: {\"choices\":[]}\n\n");
        assert!(!stream.is_empty());
        stream.has_ended = true;
        assert!(stream.is_empty() && stream.has_begun());
        let mut whole = held(Framing::Json);
        whole.begin_read(Tick(5), None);
        whole.payload(b"{}");
        assert!(!whole.has_begun());
        whole.has_ended = true;
        assert!(!whole.is_empty() && whole.has_begun());
    }
}
