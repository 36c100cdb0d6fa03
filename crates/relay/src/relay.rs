//! Stages 6 to 9: send the request, await the answer, pass it on as it comes, and watch both ends meanwhile.
//!
//! One loop over a byte-bounded ring. Each turn sends or reads upstream once, then writes what is queued; when neither end
//! moves, it waits for whichever moves first, for the client's leaving, or for a deadline. Upstream is read while a client
//! write is pending, so a slow client shows in the client's figures and nowhere else.
//!
//! - *In*: a [`Source`] with a request, a [`Sink`].
//! - *Out*: an [`End`]; the exchange's lens, ledger and verdict.
//! - *Never*: an await between a read and its stamp, or between two bytes of an event.

mod beginning;
mod budget;
mod ending;
mod forward;
mod gate;
mod seam;
mod strip;
mod watch;

pub(crate) use forward::Forward;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use traffic::Exhausted;
use lens::{State, Tick};
use tokio::time::Sleep;
use wire::Reader;

use crate::clock;
use crate::downstream::out::Out;
use crate::downstream::{Gone, Sink};
use crate::exchange::Exchange;
use crate::respond::Refusal;
use crate::stage::{admit, choose, record};
use crate::upstream::{AnswerHead, BodyStep, Source, UpstreamError};
use budget::Budget;
use gate::Gate;
pub(crate) use strip::Strip;
use watch::Watch;

/// How long judges that only observe may go on when the answer is over.
const CONCLUDING: Duration = Duration::from_secs(5);

/// How the relay ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The answer was passed on to its end.
    Complete,
    /// The answer began and broke off; the client's connection must not look like a proper end.
    Broken,
    /// Nothing of an answer has gone to the client yet.
    Unanswered(UpstreamError),
    /// We answer in the backend's place: a wait was too long, or its answer may not pass. Nothing has gone to the client.
    Refused(Refusal),
    /// The backend's answer is an error that another one may not have, and another one is chosen.
    Again(u16),
    /// The backend died in mid-stream, and another one may go on: what it takes to do so is in the exchange.
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
    /// Upstream is done with; judges still look at what was said last.
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

/// What is left of a stream whose backend has died, for the one that goes on with it.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub(crate) out: Out,
    pub(crate) strip: Option<Strip>,
    budget: Option<Budget>,
}

/// One answer on its way through.
pub(crate) struct Relay<'x, S, D> {
    exchange: &'x mut Exchange,
    source: &'x mut S,
    sink: &'x mut D,
    out: Out,
    reader: Option<Reader>,
    strip: Option<Strip>,
    gate: Option<Gate>,
    /// What is known to end the stream with, where limits may want that.
    budget: Option<Budget>,
    /// A limit that the stream has taken all of.
    exhausted: Option<Exhausted>,
    /// The head of an answer that may yet be withheld: a guard decides about the whole of it, or another backend may give a better one.
    head: Option<AnswerHead>,
    /// It waits for a first token only.
    waits_for_token: bool,
    /// Another backend may go on with this stream, should this one die.
    continues: bool,
    /// It goes on with a stream whose backend has died, and has not begun to.
    resumes: bool,
    /// When what the gate holds must be decided.
    hold: Option<Pin<Box<Sleep>>>,
    phase: Phase,
    watch: Watch,
    ring: usize,
    /// The client was told the body's length: nothing of ours may stand in it.
    has_length: bool,
    /// The first token has not been taken by the client, and there is a guard whose part in that is to be known.
    gate_counts_ttft: bool,
    /// What the gauge of ring bytes was told last.
    gauged: usize,
}

impl<'x, S: Source, D: Sink> Relay<'x, S, D> {
    pub(crate) fn new(exchange: &'x mut Exchange, source: &'x mut S, sink: &'x mut D) -> Self {
        let watch = Watch::new(exchange.timeouts(), exchange.accepted.head_at);
        let ring = exchange.plan.settings.limits.ring;
        let guarded = exchange.routed.as_ref().is_some_and(|routed| routed.route.guard.is_some());
        exchange.enter(if source.is_connecting() { State::Connect } else { State::Send });
        let resumes = exchange.course.cut.is_some();
        let Cut { out, strip, budget } = exchange.course.cut.take().map(|cut| *cut).unwrap_or_default();
        Relay {
            exchange,
            source,
            sink,
            out,
            reader: None,
            strip,
            gate: None,
            budget,
            continues: false,
            resumes,
            exhausted: None,
            head: None,
            waits_for_token: false,
            hold: None,
            phase: Phase::Sending,
            watch,
            ring,
            has_length: false,
            gate_counts_ttft: guarded,
            gauged: 0,
        }
    }

    /// Run to the end.
    ///
    /// # Cancel safety
    /// Dropping the future drops the upstream connection with the request.
    pub(crate) async fn run(mut self) -> End {
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        if self.resumes || matches!(end, End::Cut) {
            // Nothing was added: the next one goes on from here.
            let cut = Cut { out: std::mem::take(&mut self.out), strip: self.strip.take(), budget: self.budget.take() };
            self.exchange.course.cut = Some(Box::new(cut));
        }
        let lens = &mut self.exchange.answer;
        lens.ended_at = lens.ended_at.or_else(|| (self.phase != Phase::Sending).then(clock::now));
        match end {
            End::Complete => self.sink.end(true),
            End::Broken | End::Gone | End::Served => self.sink.end(false),
            // The sink has not begun: somebody else will answer on it.
            End::Unanswered(_) | End::Refused(_) | End::Again(_) | End::Cut => {}
        }
        if let Some(mut gate) = self.gate.take() {
            if gate.observes() && matches!(end, End::Complete | End::Served) {
                // The client has its answer; what judges would have said of its end is for the record.
                let _ = tokio::time::timeout(CONCLUDING, gate.conclude()).await;
            }
            gate.take_busy();
            gate.report(self.exchange);
        }
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let read = match self.step_upstream(cx) {
                Ok(step) => step,
                Err(end) => return Poll::Ready(end),
            };
            let wrote = match self.step_client(cx) {
                Ok(step) => step,
                Err(Gone) => return Poll::Ready(self.gone()),
            };
            if self.gate.as_ref().is_some_and(Gate::has_stop) {
                match self.heed_stop() {
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
        // What was read last gave the client nothing: a head over HTTP/2, half a chunk, an event that is kept back.
        if self.poll_hold(cx).is_ready() || self.poll_judges(cx).is_ready() {
            return self.poll(cx);
        }
        // What is kept back for the head's sake is not written, and more is waited for.
        if (self.out.is_empty() || self.head.is_some()) && self.exchange.ledger.state() == State::Gateway {
            self.exchange.ledger.switch(self.waiting_state(), clock::now());
        }
        match self.watch.poll(cx, self.waits_for()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(refusal) => self.timed_out(refusal).map_or_else(|| self.poll(cx), Poll::Ready),
        }
    }

    fn step_upstream(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        match self.phase {
            Phase::Sending => self.step_send(cx),
            Phase::AwaitHead => self.step_head(cx),
            Phase::Body if self.out.len() < self.ring => self.step_body(cx),
            Phase::Judging if !self.gate.as_ref().is_some_and(Gate::is_judging) => self.end_answer().map(|()| Step::Moved),
            Phase::Body | Phase::Judging | Phase::Flushing(_) => Ok(Step::Idle),
        }
    }

    fn step_send(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        match self.source.poll_send(cx) {
            Poll::Ready(Ok(())) => {
                let now = clock::now();
                self.exchange.sent.at = Some(now);
                self.exchange.ledger.switch(State::AwaitFirstByte, now);
                self.watch.moved(now);
                self.phase = Phase::AwaitHead;
                Ok(Step::Moved)
            }
            // The backend may have answered and closed without reading the rest: its answer is worth more than our error.
            Poll::Ready(Err(error)) => match self.source.poll_head(cx) {
                Poll::Ready(Ok(head)) => self.begin(head, cx),
                _ => Err(End::Unanswered(error)),
            },
            Poll::Pending => {
                if self.exchange.ledger.state() == State::Connect && !self.source.is_connecting() {
                    self.exchange.enter(State::Send);
                }
                self.step_head(cx)
            }
        }
    }

    fn step_head(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        match self.source.poll_head(cx) {
            Poll::Ready(Ok(head)) => self.begin(head, cx),
            Poll::Ready(Err(error)) => Err(End::Unanswered(error)),
            Poll::Pending => {
                self.source.heard_at().into_iter().for_each(|at| self.watch.moved(at));
                Ok(Step::Idle)
            }
        }
    }

    fn step_body(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        let was_empty = self.out.is_empty() || self.head.is_some();
        let mut forward = Forward {
            answer: &mut self.exchange.answer,
            out: &mut self.out,
            reader: self.reader.as_mut(),
            strip: self.strip.as_mut(),
            gate: self.gate.as_mut(),
            budget: self.budget.as_mut(),
            read_at: None,
        };
        let step = self.source.poll_body(cx, &mut forward);
        let read_at = forward.read_at;
        self.out.commit();
        if let Some(now) = read_at {
            self.watch.moved(now);
            if was_empty {
                self.exchange.ledger.switch(State::Gateway, now);
                self.account_for_guard();
            }
            if self.reader.as_ref().is_some_and(Reader::overflowed) && self.gate.as_ref().is_some_and(Gate::acts) {
                return self.end_early(Refusal::unreadable_answer()).map(|()| Step::Moved);
            }
            if self.strip.as_ref().is_some_and(Strip::begins_anew) {
                return self.end_early(Refusal::upstream_began_anew()).map(|()| Step::Moved);
            }
            choose::first_token(self.exchange);
            if self.budget.is_some() {
                self.charge()?;
            }
            self.show_what_waited()?;
            if self.exchange.answer.lens.wants_flush() {
                record::flush_gaps(self.exchange);
            }
            if let Some(gate) = &mut self.gate
                && gate.holds().is_full()
            {
                record::flush_holds(self.exchange, gate.holds());
            }
        }
        if matches!(self.phase, Phase::Flushing(_)) {
            return Ok(Step::Moved);
        }
        match step {
            Poll::Pending => Ok(Step::Idle),
            Poll::Ready(Ok(BodyStep::More)) => Ok(Step::Moved),
            // An end without a finish reason is none.
            Poll::Ready(Ok(BodyStep::End)) if self.may_be_continued() => Err(End::Cut),
            Poll::Ready(Ok(BodyStep::End)) => self.complete().map(|()| Step::Moved),
            Poll::Ready(Err(error)) => {
                log::debug!("request {}: the answer broke off: {error}", self.exchange.accepted.id);
                if self.may_be_continued() {
                    return Err(End::Cut);
                }
                self.end_early(Refusal::upstream_died()).map(|()| Step::Moved)
            }
        }
    }

    /// The charge hears what the stream has used, and may have enough of it.
    fn charge(&mut self) -> Result<(), End> {
        let exchange = &mut *self.exchange;
        let used = admit::used(exchange);
        self.exhausted = exchange.charge.grow(&used, admit::when()).or_else(|| self.exhausted.take());
        if self.exhausted.is_some() { self.end_for_budget() } else { Ok(()) }
    }

    /// The backend has said everything.
    fn complete(&mut self) -> Result<(), End> {
        let now = clock::now();
        self.exchange.answer.ended_at = Some(now);
        self.exchange.leave();
        if let Some(strip) = &mut self.strip {
            strip.flush(&mut self.exchange.answer.lens, &mut self.out);
            if strip.begins_anew() {
                return self.end_early(Refusal::upstream_began_anew());
            }
        }
        if let Some(reader) = &mut self.reader {
            match &mut self.gate {
                Some(gate) => gate.finish(now, reader, &mut self.exchange.answer.lens, &mut self.out),
                None => reader.finish(&mut self.exchange.answer.lens),
            }
            if reader.overflowed() {
                self.exchange.answer.not_parsed = Some("event_too_large");
            }
        }
        if self.gate.as_ref().is_some_and(|gate| gate.acts() && gate.is_judging()) {
            self.out.commit();
            self.phase = Phase::Judging;
            return Ok(());
        }
        self.end_answer()
    }

    fn step_client(&mut self, cx: &mut Context<'_>) -> Result<Step, Gone> {
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
                if self.exchange.ledger.state() != State::ClientWrite {
                    let now = clock::now();
                    self.exchange.ledger.switch(State::ClientWrite, now);
                    self.watch.blocked(now);
                }
                self.gauge(self.out.len());
                Ok(Step::Idle)
            }
        }
    }

    /// The client has taken bytes.
    fn took(&mut self, now: Tick) {
        let answer = &mut self.exchange.answer;
        let written = self.out.payload_written();
        answer.bytes_to_client = written;
        let upto = match (&mut self.gate, &self.strip) {
            (Some(gate), _) => gate.read_when_written(written),
            (None, Some(strip)) => strip.read_when_written(written),
            (None, None) => written,
        };
        answer.lens.written(upto, now);
        let first_token = self.gate_counts_ttft && answer.lens.marks().first_token.written.is_some();
        if !self.out.is_empty() {
            self.watch.blocked(now);
            self.exchange.ledger.switch(State::ClientWrite, now);
        } else {
            self.watch.unblocked();
            self.gauge(0);
            self.exchange.ledger.switch(self.waiting_state(), now);
        }
        if first_token {
            self.gate_counts_ttft = false;
            let guard = [State::ShieldInput, State::ShieldOutput, State::Hold].map(|state| self.exchange.ledger.nanos(state));
            self.exchange.guarded.before_first_token = Some(guard.iter().sum());
        }
    }

    /// What an exchange with nothing to write waits for.
    fn waiting_state(&self) -> State {
        match self.phase {
            Phase::Sending if self.source.is_connecting() => State::Connect,
            Phase::Sending => State::Send,
            Phase::AwaitHead => State::AwaitFirstByte,
            Phase::Body if self.gate.as_ref().is_some_and(|gate| gate.holds_since().is_some()) => State::Hold,
            Phase::Judging => State::Hold,
            Phase::Body => State::AwaitToken,
            Phase::Flushing(_) => State::Settle,
        }
    }

    /// Time that the guard took of what was ours since the last read is its own.
    fn account_for_guard(&mut self) {
        let Some(busy) = self.gate.as_mut().map(Gate::take_busy).filter(|busy| *busy > 0) else { return };
        let now = clock::now();
        self.exchange.ledger.switch(State::ShieldOutput, Tick(now.0.saturating_sub(busy)));
        self.exchange.ledger.switch(State::Gateway, now);
    }

    /// Ready when the gate held something for as long as it may, and has let it go.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(gate) = self.gate.as_mut().filter(|gate| gate.waits_for_text()) else { return Poll::Pending };
        let Some(since) = gate.holds_since() else { return Poll::Pending };
        let now = clock::now();
        let left = gate.hold_time().saturating_sub(Duration::from_nanos(now.nanos_since(since)));
        if left.is_zero() {
            gate.flush(now, &mut self.out);
            self.out.commit();
            return Poll::Ready(());
        }
        let timer = self.hold.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(tokio::time::Instant::now() + left);
        }
        Poll::Pending
    }

    /// Ready when a judge has answered.
    fn poll_judges(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(gate) = &mut self.gate else { return Poll::Pending };
        let answered = gate.poll_judges(cx, &mut self.out);
        self.out.commit();
        answered
    }

    fn waits_for(&self) -> watch::For {
        match self.phase {
            Phase::AwaitHead if self.source.heard_at().is_some() => watch::For::NextEvent,
            Phase::Sending | Phase::AwaitHead => watch::For::FirstByte,
            Phase::Body if self.out.len() < self.ring => watch::For::NextEvent,
            Phase::Body | Phase::Judging | Phase::Flushing(_) => watch::For::Client,
        }
    }
}

impl<S, D> Relay<'_, S, D> {
    /// Tell the gauge how much is queued.
    fn gauge(&mut self, bytes: usize) {
        if bytes != self.gauged {
            let change = bytes as i64 - self.gauged as i64;
            self.exchange.counted().in_flight.ring_bytes.fetch_add(change, std::sync::atomic::Ordering::Relaxed);
            self.gauged = bytes;
        }
    }
}

impl<S, D> Drop for Relay<'_, S, D> {
    fn drop(&mut self) {
        self.gauge(0);
    }
}
