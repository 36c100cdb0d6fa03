//! One loop over a byte-bounded ring. Each turn sends or reads upstream once, then writes what is
//! queued; when neither end moves, it waits for whichever moves first, for the client's leaving, or
//! for a deadline. Upstream is read while a client write is pending, so a slow client shows in the
//! client's figures and nowhere else.

mod begin;
mod end;
mod guard;

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use lens::{State, Tick};
use tokio::time::Sleep;
use traffic::Exhausted;
use transport::{AnswerHead, BodyStep, Gone, Out, Sink, Source, UpstreamError, clock};
use wire::Reader;

use crate::closing::Closing;
use crate::deadlines::{Deadlines, WaitsFor};
use crate::failure::Failure;
use crate::forward::Forward;
use crate::output_guard::OutputGuard;
use crate::request::{Context, Request};
use crate::strip::Strip;

/// How long judges in observe mode may continue after the answer.
const CONCLUDING: Duration = Duration::from_secs(5);

/// How the relay ended.
#[derive(Debug)]
pub enum End {
    /// The answer was passed on to its end.
    Complete,
    /// The answer began and broke off; the client's connection must not look like a proper end.
    Broken,
    /// Nothing of an answer has gone to the client yet.
    Unanswered(UpstreamError),
    /// The gateway answers in the backend's place: a wait was too long, or its answer may not pass.
    /// Nothing has gone to the client.
    Refused(Failure),
    /// The backend's answer is an error that another one may not have, and another one is chosen.
    Again(u16),
    /// The backend died in mid-stream, and another one was chosen to resume.
    Cut,
    /// The client left.
    Gone,
    /// The client left, and had taken the answer's own end mark: it has what it came for.
    Served,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sending,
    AwaitHead,
    Body,
    /// Upstream is done; judges still check the last text.
    Judging,
    /// Upstream is done with; what is queued goes out. `bool`: properly.
    Flushing(bool),
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Moved,
    Idle,
}

/// What is left of a stream whose backend has died, for the relay that resumes it.
#[derive(Debug, Default)]
pub struct Cut {
    /// What the client has not taken yet.
    pub out: Out,
    strip: Option<Strip>,
    closing: Option<Closing>,
}

impl Cut {
    /// The text that the client has got or will get; `None`: it cannot be resumed.
    pub fn text(&self) -> Option<&str> {
        self.strip.as_ref()?.text()
    }
}

/// One answer on its way through.
#[derive(Debug)]
pub struct Relay<'x, R: Request<S>, S, D> {
    request: &'x mut R,
    context: Context,
    source: &'x mut S,
    sink: &'x mut D,
    out: Out,
    reader: Option<Reader>,
    strip: Option<Strip>,
    guardrail: Option<OutputGuard>,
    /// What is known to end the stream with, where limits may want that.
    closing: Option<Closing>,
    /// A limit that the stream has taken all of.
    exhausted: Option<Exhausted>,
    /// The head of an answer that the guardrail may yet withhold: it decides about the whole of it.
    head: Option<AnswerHead>,
    /// Another backend may resume this stream, should this one die.
    is_resumable: bool,
    /// It resumes a stream whose backend has died, and the new backend has not begun.
    resumes: bool,
    /// When what the guardrail holds must be decided.
    hold: Option<Pin<Box<Sleep>>>,
    phase: Phase,
    deadlines: Deadlines,
    /// The client got a Content-Length: the gateway must not add anything.
    has_length: bool,
    /// The client has not taken the first token, and the guardrail's part in that is measured.
    guardrail_counts_ttft: bool,
    /// Queued bytes that the request knows of.
    queued: usize,
}

impl<'x, R: Request<S>, S: Source, D: Sink> Relay<'x, R, S, D> {
    /// A relay of `source`'s answer to `sink`. `cut`: the stream that it resumes.
    pub fn new(
        request: &'x mut R,
        context: Context,
        source: &'x mut S,
        sink: &'x mut D,
        cut: Option<Box<Cut>>,
    ) -> Self {
        let deadlines = Deadlines::new(context.timeouts, context.head_at);
        let first = if source.is_connecting() { State::Connect } else { State::Send };
        request.parts().ledger.switch(first, clock::now());
        let resumes = cut.is_some();
        let Cut { out, strip, closing } = cut.map(|cut| *cut).unwrap_or_default();
        Relay {
            guardrail_counts_ttft: context.guardrail.is_some(),
            request,
            context,
            source,
            sink,
            out,
            reader: None,
            strip,
            guardrail: None,
            closing,
            is_resumable: false,
            resumes,
            exhausted: None,
            head: None,
            hold: None,
            phase: Phase::Sending,
            deadlines,
            has_length: false,
            queued: 0,
        }
    }

    /// Run to the end.
    ///
    /// # Cancel safety
    /// Dropping the future drops the upstream connection with the request.
    pub async fn run(mut self) -> (End, Option<Box<Cut>>) {
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        // A relay that was to resume and did not begin leaves the stream as it found it.
        let cut = (self.resumes || matches!(end, End::Cut)).then(|| {
            Box::new(Cut {
                out: std::mem::take(&mut self.out),
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
            // The sink has not begun: another answer will go to it.
            End::Unanswered(_) | End::Refused(_) | End::Again(_) | End::Cut => {}
        }
        if let Some(mut guardrail) = self.guardrail.take() {
            if guardrail.observes() && matches!(end, End::Complete | End::Served) {
                // The client has its answer; what judges find in its end is for the record.
                let _ = tokio::time::timeout(CONCLUDING, guardrail.conclude()).await;
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
                match self.end_by_guard() {
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
        // What was read last gave the client nothing: a head over HTTP/2, half a chunk, an event
        // that is kept back.
        if self.poll_hold(cx).is_ready() || self.poll_judges(cx).is_ready() {
            return self.poll(cx);
        }
        // What is kept back for the head's sake is not written, and more is waited for.
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
                self.deadlines.moved(now);
                self.phase = Phase::AwaitHead;
                Ok(Step::Moved)
            }
            // The backend may have answered and closed without reading the rest: its answer is
            // worth more than our error.
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
                Ok(Step::Idle)
            }
        }
    }

    fn step_body(&mut self, cx: &mut TaskContext<'_>) -> Result<Step, End> {
        let was_empty = self.out.is_empty() || self.head.is_some();
        let choices = u32::try_from(self.context.choices).unwrap_or(u32::MAX);
        let stops_at_event =
            self.exhausted.is_some() && !self.request.parts().answer.lens.is_complete(choices);
        let mut forward = Forward {
            answer: self.request.parts().answer,
            out: &mut self.out,
            reader: self.reader.as_mut(),
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
            self.deadlines.moved(now);
            if was_empty {
                self.request.parts().ledger.switch(State::Gateway, now);
                self.account_for_guard();
            }
            if self.reader.as_ref().is_some_and(Reader::overflowed)
                && self.guardrail.as_ref().is_some_and(OutputGuard::acts)
            {
                return self.end_early(Failure::Unreadable).map(|()| Step::Moved);
            }
            if self.strip.as_ref().is_some_and(Strip::resume_failed) {
                return self.end_early(Failure::ResumeFailed).map(|()| Step::Moved);
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
        }
        if matches!(self.phase, Phase::Flushing(_)) {
            return Ok(Step::Moved);
        }
        match step {
            Poll::Pending => Ok(Step::Idle),
            Poll::Ready(Ok(BodyStep::More)) => Ok(Step::Moved),
            // Without a finish reason, the stream has not ended.
            Poll::Ready(Ok(BodyStep::End)) if self.may_resume() => Err(End::Cut),
            Poll::Ready(Ok(BodyStep::End)) => self.complete().map(|()| Step::Moved),
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "the answer broke off");
                if self.may_resume() {
                    return Err(End::Cut);
                }
                self.end_early(Failure::UpstreamDied).map(|()| Step::Moved)
            }
        }
    }

    /// Charge what the stream has used, and end it when a limit is exhausted.
    fn charge(&mut self) -> Result<(), End> {
        self.exhausted = self.request.charge().or_else(|| self.exhausted.take());
        if self.exhausted.is_some() { self.end_for_budget() } else { Ok(()) }
    }

    /// The backend's answer is complete.
    fn complete(&mut self) -> Result<(), End> {
        let now = clock::now();
        self.request.parts().answer.ended_at = Some(now);
        self.request.release_backend();
        if let Some(strip) = &mut self.strip {
            strip.flush(&mut self.request.parts().answer.lens, &mut self.out);
            if strip.resume_failed() {
                return self.end_early(Failure::ResumeFailed);
            }
        }
        if let Some(reader) = &mut self.reader {
            match &mut self.guardrail {
                Some(guardrail) => guardrail.finish(
                    now,
                    reader,
                    &mut self.request.parts().answer.lens,
                    &mut self.out,
                ),
                None => reader.finish(&mut self.request.parts().answer.lens),
            }
            if reader.overflowed() {
                self.request.parts().answer.not_parsed = Some("event_too_large");
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

    fn step_client(&mut self, cx: &mut TaskContext<'_>) -> Result<Step, Gone> {
        if self.out.is_empty() || self.head.is_some() {
            return Ok(Step::Idle);
        }
        match self.sink.poll_write(cx, &mut self.out) {
            Poll::Ready(Ok(())) => {
                self.took(clock::now());
                Ok(Step::Moved)
            }
            Poll::Ready(Err(gone)) => Err(gone),
            Poll::Pending => {
                if self.request.parts().ledger.state() != State::ClientWrite {
                    let now = clock::now();
                    self.request.parts().ledger.switch(State::ClientWrite, now);
                    self.deadlines.blocked(now);
                }
                self.gauge(self.out.len());
                Ok(Step::Idle)
            }
        }
    }

    /// The client has taken bytes.
    fn took(&mut self, now: Tick) {
        let answer = self.request.parts().answer;
        let written = self.out.payload_written();
        answer.bytes_to_client = written;
        let upto = match (&mut self.guardrail, &self.strip) {
            (Some(guardrail), _) => guardrail.read_when_written(written),
            (None, Some(strip)) => strip.read_when_written(written),
            (None, None) => written,
        };
        answer.lens.written(upto, now);
        let first_token =
            self.guardrail_counts_ttft && answer.lens.marks().first_token.written.is_some();
        if !self.out.is_empty() {
            self.deadlines.blocked(now);
            self.request.parts().ledger.switch(State::ClientWrite, now);
        } else {
            self.deadlines.unblocked();
            self.gauge(0);
            let waiting = self.waiting_state();
            self.request.parts().ledger.switch(waiting, now);
        }
        if first_token {
            self.guardrail_counts_ttft = false;
            let parts = self.request.parts();
            let spent = [State::GuardrailInput, State::GuardrailOutput, State::Hold]
                .map(|state| parts.ledger.nanos(state));
            parts.guarded.before_first_token = Some(spent.iter().sum());
        }
    }

    /// What an exchange with nothing to write waits for.
    fn waiting_state(&self) -> State {
        match self.phase {
            Phase::Sending if self.source.is_connecting() => State::Connect,
            Phase::Sending => State::Send,
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
            Phase::Body => State::AwaitToken,
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

impl<R: Request<S>, S, D> Relay<'_, R, S, D> {
    /// Tell the request how much is queued.
    fn gauge(&mut self, bytes: usize) {
        if bytes != self.queued {
            self.request.queued(bytes as i64 - self.queued as i64);
            self.queued = bytes;
        }
    }
}

impl<R: Request<S>, S, D> Drop for Relay<'_, R, S, D> {
    fn drop(&mut self) {
        self.gauge(0);
    }
}
