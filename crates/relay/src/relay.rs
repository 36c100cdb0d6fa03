//! One loop over a byte-bounded queue. Each iteration sends or reads upstream once, then writes
//! queued bytes to the client. When neither side makes progress, the loop waits for either side,
//! for a client disconnect, or for a deadline. Upstream is read while a client write is pending, so
//! a slow client affects only its own figures.

mod begin;
mod client;
mod end;
mod guard;
mod keep_alive;

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use lens::{State, Tick};
use tokio::time::Sleep;
use traffic::Exhausted;
use transport::{AnswerHead, BodyStep, Gone, Sink, Source, StreamBuffer, UpstreamError, clock};
use wire::Reader;

use crate::closing::Closing;
use crate::deadlines::{Deadlines, WaitsFor};
use crate::failure::Failure;
use crate::forward::{Forward, WholeEvents};
use crate::output_guard::OutputGuard;
use crate::request::{Context, Request};
use crate::strip::Strip;

/// Maximum time for judges in observe mode after the end of the answer.
const CONCLUDING: Duration = Duration::from_secs(5);
/// Maximum time for judges of a text that is stored, after its client has left. The backend is
/// canceled after it.
const CONCLUDING_GONE: Duration = Duration::from_secs(1);

/// How the relay ended.
#[derive(Debug)]
pub enum End {
    /// The complete answer was forwarded.
    Complete,
    /// The answer started and broke off. The client's connection must not end as if the answer were
    /// complete.
    Broken,
    /// The backend sent no answer head. This relay has sent at most comments to the client.
    Unanswered(UpstreamError),
    /// The gateway answers instead of the backend: a timeout expired, or the answer is withheld.
    /// This relay has sent at most comments to the client.
    Refused(Failure),
    /// The backend answered with a retryable error. Another backend is tried.
    Again {
        /// The status of the error.
        status: u16,
        /// Its code, for the record.
        code: String,
    },
    /// The client has a part of a stream, and the backend's answer cannot continue it: it is no
    /// event stream, or an error.
    Unusable {
        /// The status of the answer.
        status: u16,
    },
    /// The backend failed mid-stream, and another one has been selected to resume. The code of the
    /// failure.
    Interrupted(String),
    /// The client disconnected.
    Gone,
    /// The client disconnected after it received the answer's end marker: nothing is missing.
    Served,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sending,
    AwaitHead,
    Body,
    /// Upstream is done; judges still check the last text.
    Judging,
    /// Upstream is finished; queued bytes are written. `true`: the answer ends normally.
    Flushing(bool),
}

/// Whether a step made progress.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Moved,
    Idle,
}

/// State of a stream whose backend failed, for the relay that continues or resumes it.
#[derive(Debug, Default)]
pub struct InterruptedStream {
    /// Bytes that are not yet written to the client.
    pub out: StreamBuffer,
    /// Only the head and comments were sent.
    is_open: bool,
    strip: Option<Strip>,
    closing: Option<Closing>,
}

impl InterruptedStream {
    /// Whether events were sent. If not, another backend may answer from the start.
    pub fn has_events(&self) -> bool {
        !self.is_open
    }

    /// Text sent to the client or queued for it; `None`: the stream cannot be resumed.
    pub fn text(&self) -> Option<&str> {
        self.strip.as_ref()?.text()
    }
}

/// Relays one answer.
#[derive(Debug)]
pub struct Relay<'x, R: Request<S>, S, D> {
    request: &'x mut R,
    context: Context,
    source: &'x mut S,
    sink: &'x mut D,
    out: StreamBuffer,
    reader: Option<Reader>,
    /// Holds torn events, if neither strip nor guardrail does.
    whole: WholeEvents,
    strip: Option<Strip>,
    guardrail: Option<OutputGuard>,
    /// Data for closing events, if the gateway may end the stream.
    closing: Option<Closing>,
    /// A rate limit that the stream has exhausted.
    exhausted: Option<Exhausted>,
    /// Held head of an answer that the guardrail decides as a whole and may withhold.
    head: Option<AnswerHead>,
    /// Whether another backend may resume this stream if this one dies.
    is_resumable: bool,
    /// Whether this relay resumes a stream, and the new backend has not started its answer.
    resumes: bool,
    /// Whether the client has the head and comments of a stream, and no event: another backend may
    /// still send the events.
    is_open: bool,
    /// Timer for the guardrail's maximum hold time.
    hold: Option<Pin<Box<Sleep>>>,
    phase: Phase,
    deadlines: Deadlines,
    /// Whether the client received a Content-Length. If so, the gateway must not add bytes.
    has_length: bool,
    /// Queued bytes last reported to the request.
    queued: usize,
}

impl<'x, R: Request<S>, S: Source, D: Sink> Relay<'x, R, S, D> {
    /// A relay of `source`'s answer to `sink`. `cut`: the stream that it continues.
    pub fn new(
        request: &'x mut R,
        context: Context,
        source: &'x mut S,
        sink: &'x mut D,
        cut: Option<Box<InterruptedStream>>,
    ) -> Self {
        let deadlines = Deadlines::new(&context);
        let first = if source.is_connecting() { State::Connect } else { State::Send };
        request.parts().ledger.switch(first, clock::now());
        let resumes = cut.as_ref().is_some_and(|cut| cut.has_events());
        let InterruptedStream { out, is_open, strip, closing } =
            cut.map(|cut| *cut).unwrap_or_default();
        Relay {
            request,
            context,
            source,
            sink,
            out,
            reader: None,
            whole: WholeEvents::default(),
            strip,
            guardrail: None,
            closing,
            is_resumable: false,
            resumes,
            is_open,
            exhausted: None,
            head: None,
            hold: None,
            phase: Phase::Sending,
            deadlines,
            has_length: false,
            queued: 0,
        }
    }

    /// Relay the answer to its end.
    ///
    /// # Cancel safety
    /// Dropping the future drops the upstream connection with the request.
    pub async fn forward_answer(&mut self) -> (End, Option<Box<InterruptedStream>>) {
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        // If a relay that continues a stream got no answer, it hands the state to the next one.
        let cut = (self.resumes || self.is_open || matches!(end, End::Interrupted(_))).then(|| {
            Box::new(InterruptedStream {
                out: std::mem::take(&mut self.out),
                is_open: self.is_open,
                strip: self.strip.take(),
                closing: self.closing.take(),
            })
        });
        let has_sent = self.phase != Phase::Sending;
        let answer = self.request.parts().answer;
        answer.ended_at = answer.ended_at.or_else(|| has_sent.then(clock::now));
        match end {
            End::Complete => self.sink.end(true),
            End::Broken | End::Gone | End::Served => self.sink.end(false),
            // The sink stays open for another answer, or for the rest of this one.
            End::Unanswered(_)
            | End::Refused(_)
            | End::Again { .. }
            | End::Unusable { .. }
            | End::Interrupted(_) => {}
        }
        if let Some(mut guardrail) = self.guardrail.take() {
            if guardrail.observes() && matches!(end, End::Complete | End::Served) {
                // The client has its answer; the remaining judge results only go into the record.
                let _ = tokio::time::timeout(CONCLUDING, guardrail.conclude()).await;
            } else if matches!(end, End::Gone) && self.request.parts().guarded.contents.is_some() {
                // Only text that is judged is stored.
                let _ = tokio::time::timeout(CONCLUDING_GONE, guardrail.conclude()).await;
            }
            guardrail.take_busy();
            guardrail.report(self.request);
        }
        (end, cut)
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<End> {
        loop {
            let read = match self.step_upstream(cx) {
                Ok(step) => step,
                Err(end) => return Poll::Ready(end),
            };
            let wrote = match self.step_client(cx) {
                Ok(step) => step,
                Err(Gone) => return Poll::Ready(self.gone()),
            };
            if self.guardrail.as_ref().is_some_and(OutputGuard::has_failed) {
                match self.end_by_guardrail() {
                    Some(end) => return Poll::Ready(end),
                    None => continue,
                }
            }
            if let (Phase::Flushing(complete), true) = (self.phase, self.out.is_empty()) {
                return Poll::Ready(if complete { End::Complete } else { End::Broken });
            }
            if read == Step::Idle && wrote == Step::Idle {
                break;
            }
        }
        if self.sink.poll_gone(cx).is_ready() {
            return Poll::Ready(self.gone());
        }
        if self.poll_hold(cx).is_ready() || self.poll_judges(cx).is_ready() {
            return self.poll(cx);
        }
        // The last read produced nothing to write (an HTTP/2 head, half a chunk, a held event, a
        // body behind a held head), so the exchange waits for upstream.
        if (self.out.is_empty() || self.head.is_some())
            && self.request.parts().ledger.state() == State::Gateway
        {
            let waiting = self.waiting_state();
            self.request.parts().ledger.switch(waiting, clock::now());
        }
        match self.deadlines.poll(cx, self.waits_for()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(refusal) => {
                self.timed_out(refusal).map_or_else(|| self.poll(cx), Poll::Ready)
            }
        }
    }

    fn step_upstream(&mut self, cx: &mut TaskContext<'_>) -> Result<Step, End> {
        match self.phase {
            Phase::Sending => self.step_send(cx),
            Phase::AwaitHead => self.step_head(cx),
            Phase::Body if self.out.len() < self.context.ring => self.step_body(cx),
            Phase::Judging if !self.guardrail.as_ref().is_some_and(OutputGuard::is_judging) => {
                self.end_answer().map(|()| Step::Moved)
            }
            Phase::Body | Phase::Judging | Phase::Flushing(_) => Ok(Step::Idle),
        }
    }

    fn step_send(&mut self, cx: &mut TaskContext<'_>) -> Result<Step, End> {
        match self.source.poll_send(cx) {
            Poll::Ready(Ok(())) => {
                let now = clock::now();
                self.request.parts().sent.at = Some(now);
                self.request.parts().ledger.switch(State::AwaitFirstByte, now);
                self.deadlines.sent(now);
                self.phase = Phase::AwaitHead;
                Ok(Step::Moved)
            }
            // The backend may have answered and closed without reading the whole request. Its
            // answer is more useful than the write error.
            Poll::Ready(Err(error)) => match self.source.poll_head(cx) {
                Poll::Ready(Ok(head)) => self.begin(head, cx),
                _ => Err(End::Unanswered(error)),
            },
            Poll::Pending => {
                if self.request.parts().ledger.state() == State::Connect
                    && !self.source.is_connecting()
                {
                    self.request.parts().ledger.switch(State::Send, clock::now());
                }
                self.step_head(cx)
            }
        }
    }

    fn step_head(&mut self, cx: &mut TaskContext<'_>) -> Result<Step, End> {
        match self.source.poll_head(cx) {
            Poll::Ready(Ok(head)) => self.begin(head, cx),
            Poll::Ready(Err(error)) => Err(End::Unanswered(error)),
            Poll::Pending => {
                self.source.held_read_at().into_iter().for_each(|at| self.deadlines.moved(at));
                self.pass_comments()
            }
        }
    }

    fn step_body(&mut self, cx: &mut TaskContext<'_>) -> Result<Step, End> {
        let was_empty = self.out.is_empty() || self.head.is_some();
        let choices = u32::try_from(self.context.choices).unwrap_or(u32::MAX);
        let stops_at_event =
            self.exhausted.is_some() && !self.request.parts().answer.lens.is_complete(choices);
        if let Some(guardrail) = &mut self.guardrail {
            guardrail.before_read(!was_empty);
        }
        let mut forward = Forward {
            answer: self.request.parts().answer,
            out: &mut self.out,
            reader: self.reader.as_mut(),
            whole: Some(&mut self.whole),
            strip: self.strip.as_mut(),
            guardrail: self.guardrail.as_mut(),
            closing: self.closing.as_mut(),
            stops_at_event,
            read_at: None,
        };
        let step = self.source.poll_body(cx, &mut forward);
        let read_at = forward.read_at;
        self.out.commit();
        if let Some(now) = read_at {
            self.after_read(now, was_empty)?;
        }
        if matches!(self.phase, Phase::Flushing(_)) {
            return Ok(Step::Moved);
        }
        match step {
            Poll::Pending => {
                self.guardrail.iter_mut().for_each(OutputGuard::waited);
                return Ok(Step::Idle);
            }
            Poll::Ready(Ok(BodyStep::More)) => {}
            Poll::Ready(Ok(BodyStep::End)) => {
                self.finish_reading();
                match self.truncation() {
                    Some(failure) => self.interrupted(failure)?,
                    None => self.complete()?,
                }
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "upstream answer ended prematurely");
                self.interrupted(Failure::UpstreamDied)?;
            }
        }
        Ok(Step::Moved)
    }

    /// Act on what a read has brought. `was_empty`: nothing waited to be written before it.
    fn after_read(&mut self, now: Tick, was_empty: bool) -> Result<(), End> {
        self.deadlines.moved(now);
        self.deadlines.token(self.request.parts().answer.lens.marks().last_token.arrival);
        if was_empty {
            self.request.parts().ledger.switch(State::Gateway, now);
            self.account_for_guard();
        }
        if self.reader.as_ref().is_some_and(Reader::overflowed)
            && self.guardrail.as_ref().is_some_and(OutputGuard::acts)
        {
            return self.end_early(Failure::Unreadable);
        }
        if self.strip.as_ref().is_some_and(Strip::resume_failed) {
            return self.end_early(Failure::ResumeFailed);
        }
        self.request.first_token();
        if self.closing.is_some() {
            self.charge()?;
        }
        if self.request.parts().answer.lens.needs_flush() {
            self.request.flush_gaps();
        }
        if let Some(guardrail) = &mut self.guardrail
            && guardrail.holds().is_full()
        {
            self.request.flush_holds(guardrail.holds());
        }
        if self.strip.as_ref().is_some_and(Strip::has_failed) {
            self.engine_failed()?;
        }
        Ok(())
    }

    /// Charge what the stream has used, and end it when a limit is exhausted.
    fn charge(&mut self) -> Result<(), End> {
        self.exhausted = self.request.charge().or_else(|| self.exhausted.take());
        if self.exhausted.is_some() { self.end_for_budget() } else { Ok(()) }
    }

    /// The body has ended: parse what it ends with.
    fn finish_reading(&mut self) {
        let Some(reader) = &mut self.reader else { return };
        let answer = self.request.parts().answer;
        match &mut self.guardrail {
            Some(guardrail) => {
                guardrail.finish(clock::now(), reader, &mut answer.lens, &mut self.out)
            }
            None => reader.finish(&mut answer.lens),
        }
        if reader.overflowed() {
            answer.not_parsed = Some("event_too_large");
        }
    }

    /// The backend's answer is complete.
    fn complete(&mut self) -> Result<(), End> {
        let now = clock::now();
        self.request.parts().answer.ended_at = Some(now);
        self.request.release_backend();
        self.whole.flush(&mut self.out);
        if let Some(strip) = &mut self.strip {
            strip.flush_all(&mut self.request.parts().answer.lens, &mut self.out);
            if strip.resume_failed() {
                return self.end_early(Failure::ResumeFailed);
            }
        }
        if self
            .guardrail
            .as_ref()
            .is_some_and(|guardrail| guardrail.acts() && guardrail.is_judging())
        {
            self.out.commit();
            self.phase = Phase::Judging;
            return Ok(());
        }
        self.end_answer()
    }

    /// Ledger state while there is nothing to write.
    fn waiting_state(&mut self) -> State {
        match self.phase {
            Phase::Sending if self.source.is_connecting() => State::Connect,
            Phase::Sending => State::Send,
            // The head and comments were sent ahead.
            Phase::AwaitHead if self.request.parts().answer.measured => State::AwaitFirstToken,
            Phase::AwaitHead => State::AwaitFirstByte,
            Phase::Body
                if self
                    .guardrail
                    .as_ref()
                    .is_some_and(|guardrail| guardrail.holds_since().is_some()) =>
            {
                State::Hold
            }
            Phase::Judging => State::Hold,
            Phase::Body => self.request.parts().answer.awaited(),
            Phase::Flushing(_) => State::Settle,
        }
    }

    fn waits_for(&self) -> WaitsFor {
        match self.phase {
            Phase::AwaitHead if self.source.held_read_at().is_some() => WaitsFor::NextEvent,
            Phase::Sending | Phase::AwaitHead => WaitsFor::FirstByte,
            Phase::Body if self.out.len() < self.context.ring => WaitsFor::NextEvent,
            Phase::Body | Phase::Judging | Phase::Flushing(_) => WaitsFor::Client,
        }
    }
}
