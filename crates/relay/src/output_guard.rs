//! The output side of a guardrail: an event is released when all of its text is decided, with masks
//! applied.
//!
//! - *In*: runs of an answer's body, and the route's guardrail.
//! - *Out*: the same events in the same order. An event without masks is forwarded byte for byte.
//! - *Never*: a byte of a match before the scanner has decided it; an unscanned event, even one
//!   without generated text; a held comment, because clients use comments as keep-alives.
//!
//! Each channel of each choice is scanned as a separate text. Text outside channels (a repetition
//! of the whole text at the end, an echoed prompt) is scanned in place. Log probabilities next to
//! masked text are removed, because they contain it. Filters that need context judge windows of
//! text (`judge_windows`); filters that process each event are stream filters.

mod delays;
mod event_listener;
mod judge_windows;
mod queue;
mod render;
mod report;
mod stream_filters;
mod text_channels;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use filters::audit::Hasher;
use filters::{AnswerFacts, Guardrail, Vault};
use lens::gaps::Gaps;
use lens::{StreamLens, Tick};
use transport::{StreamBuffer, clock};
use wire::ending::Why;
use wire::{Dialect, Framing, Reader, Split, Splitter, json};

use crate::closing::Closing;
use crate::failure::Failure;
use crate::forward::WholeEvents;
use crate::request::{GuardrailTools, Request};
use delays::Delays;
use event_listener::{EventListener, Events};
use judge_windows::JudgeWindows;
use queue::HeldEvent;
use render::Elsewhere;
use stream_filters::StreamFilters;
use text_channels::{Slot, TextChannels};

/// Maximum bytes of held events. Above this, undecided text is decided with what has arrived. A
/// stream with one choice stays far below, because `hold_bytes` bounds its text.
const MAX_HELD_EVENT_BYTES: usize = 1 << 20;

/// The parts of an output guardrail that stay constant during the answer.
#[derive(Debug)]
struct GuardContext {
    guardrail: Arc<Guardrail>,
    /// Hashes matched text, if there is an audit log.
    hasher: Option<Arc<Hasher>>,
    vault: Arc<Vault>,
    dialect: Dialect,
    framing: Framing,
    /// Text that every answer starts with, as JSON string content.
    disclaimer: String,
    /// Usage events were injected by the gateway, and are removed.
    takes_usage: bool,
    /// Whether the answer may be changed or withheld. If not, findings are only counted, and
    /// nothing is held.
    acts: bool,
}

/// Kind of the last piece of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastPiece {
    /// A comment, which is never held.
    Passed,
    /// An event, which may still be in the queue.
    Event,
    /// A removed event.
    TakenOut,
}

/// Parsed content of an event.
#[derive(Debug, Default)]
struct Content {
    slots: Vec<Slot>,
    /// Choices that finish in this event, with the position of the finish reason.
    reasons: Vec<(u32, Range<usize>)>,
    /// Text channels that end in this event, with their length. Judges must have judged them before
    /// the event is released.
    ends: Vec<(usize, usize)>,
    /// It may contain text that is in no slot.
    has_unslotted_text: bool,
    /// It is injected usage, and is removed.
    goes: bool,
    /// It has generated text.
    is_token: bool,
}

/// The output guardrail of one answer.
#[derive(Debug)]
pub(crate) struct OutputGuard {
    context: GuardContext,
    texts: TextChannels,
    elsewhere: Elsewhere,
    judges: Option<JudgeWindows>,
    filters: StreamFilters,
    /// Why the answer ends; taken once.
    failure: Option<Failure>,
    stopped: bool,
    closing: Closing,
    /// Choices whose finish reason was forwarded.
    ended: Vec<u32>,
    /// Start of the first choice's text, to recognize a repetition of it.
    opening: String,
    splitter: Splitter,
    /// Forwards the answer of a guardrail that does not alter it.
    whole: WholeEvents,
    /// Kind of the last piece. The LF of its CRLF is treated the same way.
    last: LastPiece,
    queue: VecDeque<HeldEvent>,
    /// Arrival time of the last event with text.
    last_text: Tick,
    /// Body bytes received before the current run.
    seen: u64,
    /// (payload queued, body received) at the end of each released event.
    ends: VecDeque<(u64, u64)>,
    written: u64,
    /// Hold times of events; then their number, and their maximum bytes at a time.
    held: Gaps,
    held_events: u64,
    held_bytes: usize,
    delays: Delays,
    /// Nanoseconds of work since the last `take_busy`, and before it.
    busy: u64,
    worked: u64,
}

impl OutputGuard {
    /// A guardrail for the answer of a request. `seen`: bytes of the body that were sent before.
    pub(crate) fn new<S>(
        request: &mut impl Request<S>,
        guardrail: Arc<Guardrail>,
        (dialect, framing): (Dialect, Framing),
        takes_usage: bool,
        usage_of_prompt: Option<u64>,
        seen: u64,
    ) -> Self {
        let GuardrailTools { host, hasher } = request.guardrail_tools();
        let request_id = request.id().into();
        let parts = request.parts();
        let facts = AnswerFacts {
            status: parts.answer.status.unwrap_or(0),
            streamed: parts.answer.streamed,
            request_id,
        };
        let settings = &guardrail.settings;
        let disclaims = !settings.disclaimer.is_empty() && !settings.observe;
        let disclaimer = if disclaims {
            json::escaped(&format!("{}\n\n", settings.disclaimer))
        } else {
            String::new()
        };
        OutputGuard {
            judges: JudgeWindows::new(&guardrail, &host),
            filters: StreamFilters::open(&guardrail, &facts),
            context: GuardContext {
                hasher,
                vault: parts.guarded.vault.clone().unwrap_or_default(),
                dialect,
                framing,
                disclaimer,
                takes_usage,
                acts: guardrail.alters_answers(),
                guardrail,
            },
            texts: TextChannels::with_tap(parts.guarded.contents.as_deref()),
            elsewhere: Elsewhere::default(),
            failure: None,
            stopped: false,
            closing: Closing::new(dialect, framing).with_usage(usage_of_prompt),
            ended: Vec::new(),
            opening: String::new(),
            splitter: Splitter::default(),
            whole: WholeEvents::default(),
            last: LastPiece::Passed,
            queue: VecDeque::new(),
            last_text: Tick::default(),
            seen,
            ends: VecDeque::new(),
            written: 0,
            held: Gaps::default(),
            held_events: 0,
            held_bytes: 0,
            delays: Delays::new(clock::now()),
            busy: 0,
            worked: 0,
        }
    }

    /// Process a run, and release decided events. `now`: when the run was read.
    pub(crate) fn pass(
        &mut self,
        run: &[u8],
        now: Tick,
        reader: &mut Reader,
        lens: &mut StreamLens,
        out: &mut StreamBuffer,
    ) {
        if self.stopped {
            return;
        }
        let began = clock::now();
        self.delays.read(now);
        lens.at(self.seen);
        let ends = self.read(lens, |listener| reader.feed(run, listener));
        if self.alters() {
            self.sort(run, ends, now, out);
            self.release(now, out);
            self.bound(now, out);
            if reader.is_skipping() && !self.context.acts {
                out.push(&self.splitter.take_torn());
            }
        } else {
            self.pass_unaltered(run, &ends, reader, out);
        }
        self.seen += run.len() as u64;
        if let Some(judges) = &mut self.judges {
            judges.start_calls(false);
        }
        self.worked(began);
    }

    /// Queue the events of a run, and forward its comments.
    fn sort(
        &mut self,
        run: &[u8],
        ends: Vec<(usize, Option<Content>)>,
        now: Tick,
        out: &mut StreamBuffer,
    ) {
        let mut splitter = std::mem::take(&mut self.splitter);
        splitter.split(run, ends, |piece| match piece {
            Split::Event(bytes, content, end) => {
                self.last = if content.goes { LastPiece::TakenOut } else { LastPiece::Event };
                self.event(&bytes, content, self.seen + end as u64, now, out);
            }
            Split::Comment(bytes) => {
                self.last = LastPiece::Passed;
                out.push(&bytes);
            }
            Split::LineFeed => match (self.last, self.queue.back_mut()) {
                (LastPiece::TakenOut, _) => {}
                (LastPiece::Event, Some(held)) => held.bytes.push(b'\n'),
                (LastPiece::Event, None) | (LastPiece::Passed, _) => out.push(b"\n"),
            },
        });
        self.splitter = splitter;
    }

    /// The body has ended, so all texts are complete. Events with unjudged text stay held.
    pub(crate) fn finish(
        &mut self,
        now: Tick,
        reader: &mut Reader,
        lens: &mut StreamLens,
        out: &mut StreamBuffer,
    ) {
        let began = clock::now();
        self.delays.read(now);
        self.finish_reading(now, reader, lens, out);
        self.worked(began);
    }

    fn finish_reading(
        &mut self,
        now: Tick,
        reader: &mut Reader,
        lens: &mut StreamLens,
        out: &mut StreamBuffer,
    ) {
        let ends = self.read(lens, |listener| reader.finish(listener));
        self.texts.finish(&self.context, None);
        self.filter(|filters| filters.end());
        if let Some(judges) = &mut self.judges {
            judges.end(None);
        }
        if !self.alters() {
            return;
        }
        for content in ends.into_iter().filter_map(|(_, content)| content) {
            let bytes = self.splitter.take_torn();
            self.event(&bytes, content, self.seen, now, out);
        }
        self.release(now, out);
    }

    /// All events are released; the remaining bytes are not a complete event. A guardrail that acts
    /// drops them unless they are a comment, because a torn event may contain text.
    pub(crate) fn release_rest(&mut self, out: &mut StreamBuffer) {
        self.whole.flush(out);
        let passes = !self.context.acts || self.splitter.torn_is_comment();
        let torn = self.splitter.take_torn();
        if self.context.framing != Framing::Json && passes {
            out.push(&torn);
        }
    }

    /// Release all events that can be released without more input. Events that a judge has yet to
    /// judge are dropped.
    pub(crate) fn release_all(&mut self, now: Tick, out: &mut StreamBuffer) {
        let began = clock::now();
        self.texts.end_tap();
        self.texts.finish(&self.context, None);
        self.release(now, out);
        self.worked(began);
        self.queue.clear();
        self.stopped = true;
        // The answer already ends for another reason.
        self.failure = None;
    }

    /// The maximum hold time has passed: decide the text that holds the oldest event, and give the
    /// judges less than a window. Text that holds no event is left to grow.
    pub(crate) fn flush(&mut self, now: Tick, out: &mut StreamBuffer) {
        let began = clock::now();
        if self.waits_for_text() {
            self.texts.flush(&self.context);
        }
        if let Some(judges) = &mut self.judges {
            judges.start_calls(true);
        }
        self.release(now, out);
        self.worked(began);
    }

    /// Poll the judges. Ready when something has changed.
    pub(crate) fn poll_judges(&mut self, cx: &mut Context<'_>, out: &mut StreamBuffer) -> Poll<()> {
        if self.stopped {
            return Poll::Pending;
        }
        let Some(judges) = &mut self.judges else { return Poll::Pending };
        let began = clock::now();
        let Poll::Ready(failure) = judges.poll(cx) else { return Poll::Pending };
        if let Some(failure) = failure {
            self.fail(failure);
        }
        self.release(clock::now(), out);
        self.worked(began);
        Poll::Ready(())
    }

    /// Whether judges have not judged all text.
    pub(crate) fn is_judging(&self) -> bool {
        !self.stopped && self.judges.as_ref().is_some_and(|judges| !judges.is_settled())
    }

    /// Wait for the remaining judge results, which only the record needs.
    ///
    /// # Cancel safety
    /// Dropping the future cancels their calls.
    pub(crate) async fn conclude(&mut self) {
        let Some(judges) = &mut self.judges else { return };
        judges.end(None);
        while !judges.is_settled() {
            std::future::poll_fn(|cx| judges.poll(cx)).await;
        }
    }

    /// Whether the guardrail is in observe mode.
    pub(crate) fn observes(&self) -> bool {
        self.context.guardrail.settings.observe
    }

    /// Whether no event is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Arrival time of the oldest held event.
    pub(crate) fn holds_since(&self) -> Option<Tick> {
        self.queue.front().map(|held| held.arrived)
    }

    /// The time from which the hold time counts, if [`flush`](Self::flush) could release the oldest
    /// held event. Undecided text waits for the engine, so its time begins again with each event
    /// that has text: a match that arrives slowly is still masked. A judge's window waits since the
    /// event arrived.
    pub(crate) fn waits_since(&self) -> Option<Tick> {
        if self.waits_for_text() {
            return Some(self.last_text);
        }
        let held = self.queue.front()?;
        let unasked = self
            .judges
            .as_ref()
            .is_some_and(|judges| !judges.admits(&held.content.slots) && judges.has_unasked());
        unasked.then_some(held.arrived)
    }

    /// Whether the text of the oldest held event is undecided.
    fn waits_for_text(&self) -> bool {
        let decided = |held: &HeldEvent| self.texts.is_decided(&self.context, &held.content.slots);
        !self.queue.front().is_none_or(decided)
    }

    /// Whether findings are acted on.
    pub(crate) fn acts(&self) -> bool {
        self.context.acts
    }

    /// Whether the forwarded answer may differ from the received one.
    pub(crate) fn alters(&self) -> bool {
        self.context.acts || self.context.takes_usage
    }

    /// Maximum hold time of text.
    pub(crate) fn hold_time(&self) -> Duration {
        self.context.guardrail.settings.hold_time
    }

    /// Recorded hold times of events.
    pub(crate) fn holds(&mut self) -> &mut Gaps {
        &mut self.held
    }

    /// Nanoseconds of work since the last call.
    pub(crate) fn take_busy(&mut self) -> u64 {
        self.worked += self.busy;
        std::mem::take(&mut self.busy)
    }

    /// Whether the answer must end, and [`take_failure`](Self::take_failure) was not called yet.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Take the reason why the answer ends.
    pub(crate) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// The events that close a stream before its end, in its dialect.
    pub(crate) fn closing_events(&self, why: (Why, &str), lens: &StreamLens) -> String {
        let seen = self.texts.choices();
        let mut open: Vec<u32> =
            seen.iter().copied().filter(|choice| !self.ended.contains(choice)).collect();
        if seen.is_empty() {
            open.push(0);
        }
        self.closing.events(&open, lens, why)
    }

    /// Body of a withheld non-streaming answer: its frame without text.
    pub(crate) fn withheld(&self) -> Vec<u8> {
        let Some(held) = self.queue.front() else { return b"{}".to_vec() };
        render::withheld(self.context.dialect, &held.bytes, &held.content)
    }

    fn fail(&mut self, failure: Failure) {
        if !self.stopped {
            self.stopped = true;
            self.failure = Some(failure);
            self.delays.is_cut = true;
            // The frame of a non-streaming answer is still sent.
            if self.context.framing != Framing::Json {
                self.queue.clear();
            }
        }
    }

    /// Run the stream filters. A refusal ends the answer, except in observe mode.
    fn filter(&mut self, look: impl FnOnce(&mut StreamFilters) -> Result<(), Failure>) {
        if let (Err(failure), false) = (look(&mut self.filters), self.observes()) {
            self.fail(failure);
        }
    }

    fn read(
        &mut self,
        lens: &mut StreamLens,
        feed: impl FnOnce(&mut EventListener<'_>),
    ) -> Vec<(usize, Option<Content>)> {
        let looks = (self.judges.as_mut(), &mut self.filters);
        let mut listener =
            EventListener::new(lens, &self.context, &mut self.texts, looks, &mut self.closing);
        feed(&mut listener);
        let Events { ends, failure, opening } = listener.done();
        if self.opening.is_empty() {
            self.opening = opening;
        }
        if let Some(failure) = failure.filter(|_| !self.observes()) {
            self.fail(failure);
        }
        if self.texts.overflowed && self.context.acts {
            self.fail(Failure::Unreadable);
        }
        ends
    }
}
