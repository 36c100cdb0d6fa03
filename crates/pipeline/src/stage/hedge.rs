//! Hedging: a second backend gets the same request, and the first to produce a token gives the
//! answer.
//!
//! - *In*: a call to one backend, and the plan of a second when the first is late.
//! - *Out*: the answer of one, as if it were the only one; the result of the other.
//! - *Never*: a third backend; a second one after the first token, beyond the budget, or where it
//!   would wait in a queue, or needs a descriptor that may be missing.

mod failure;
mod outcome;

pub use outcome::{apply, plan};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http1::head::HeadLimits;
use lens::Tick;
use relay::{FirstTokenProbe, ProbeParsing};
use routing::{Attempt, AttemptResult, BalanceRequest, RequestSize};
use tokio::time::Sleep;
use traffic::Permit;
use transport::{
    AnswerHead, BodyListener, BodyStep, Call, EarlyError, Edits, Request, Source, Upstream,
    UpstreamError,
};

use crate::exchange::UpstreamRequest;
use crate::stage::call_log;
use crate::stage::send::{self, HeadFacts};
use failure::{HedgeFailure, result_of_error};
use plan::client_limits::{ClientLimits, ForwardedGuard};
use plan::clock;
use plan::forwarded::Peer;
use plan::{PlannedRoute, Target};
use refusal::Refusal;

/// A call that may be held until its first token.
type Probe = FirstTokenProbe<Call>;

/// A call that a hedge may take over.
pub struct HedgedCall {
    /// The call whose answer is used; `None`: it has failed while the hedge runs.
    first: Option<Probe>,
    hedge: Option<Box<Hedge>>,
    /// The answer is held until its first token even without a hedge: another backend may still be
    /// tried.
    holds: bool,
    /// The error answer of the first, which the client receives if the hedge fails without an
    /// answer.
    error: Option<Probe>,
    /// Result of the first, if it failed while the hedge was running.
    first_failure: Option<HedgeFailure>,
    outcome: HedgeOutcome,
    held_until: Option<Tick>,
}

/// What the exchange must record of a hedge.
#[derive(Default)]
pub struct HedgeOutcome {
    /// The hedge won.
    pub switch: Option<Switch>,
    /// The hedge lost: which backend, and how late the first was when it was sent.
    pub lost: Option<(Target, Duration)>,
    /// The hedge failed: which backend, and how late the first was when it was sent.
    pub second_failed: Option<(Target, Duration)>,
}

/// A planned or running hedge.
pub struct Hedge {
    plan: HedgePlan,
    state: State,
    began: Tick,
}

/// What a hedge needs: selecting the second backend, and calling it.
pub struct HedgePlan {
    route: Arc<PlannedRoute>,
    /// The first backend.
    first: Target,
    /// Others of its pool that cannot serve the request, or have failed.
    unfit: Vec<usize>,
    request: UpstreamRequest,
    edits: Edits,
    id: Arc<str>,
    keeps_credentials: bool,
    traceparent: Option<String>,
    peer: Peer,
    /// Delay after which the hedge is sent.
    after: Duration,
    /// Maximum hedges as a share of requests.
    budget: f64,
    question: RequestSize,
    limits: HeadLimits,
    /// How the second is read to find its first token.
    reads: Option<ProbeParsing>,
    /// The client's own credential is passed on.
    with_credential: bool,
    connect: Duration,
    clients: Arc<ClientLimits>,
}

enum State {
    /// The first is not late yet.
    Waiting(Pin<Box<Sleep>>),
    Running(Box<Probe>, RunningHedge),
    /// No hedge can be sent.
    Unavailable,
}

/// The attempt and permit of a running hedge.
struct RunningHedge {
    target: Target,
    attempt: Attempt,
    permit: Option<Permit>,
    sent_at: Option<Tick>,
    /// `None`: requests over HTTP/2 share connections.
    _descriptor: Option<ForwardedGuard>,
}

/// A hedge that won, for the exchange to switch to.
pub struct Switch {
    target: Target,
    attempt: Attempt,
    permit: Option<Permit>,
    sent_at: Option<Tick>,
    /// How late the first was when the hedge was sent.
    after: Duration,
    /// How the first failed; `None`: it was still running.
    first: Option<HedgeFailure>,
    /// When the hedge was sent, and whether the first was still connecting.
    began: Tick,
    first_connects: bool,
}

impl Hedge {
    fn new(plan: HedgePlan) -> Box<Self> {
        let timer = Box::pin(tokio::time::sleep(plan.after));
        Box::new(Hedge { plan, state: State::Waiting(timer), began: clock::now() })
    }

    /// Ready when its answer has begun, with its status.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<u16, UpstreamError>> {
        loop {
            match &mut self.state {
                State::Waiting(timer) => {
                    ready!(timer.as_mut().poll(cx));
                    self.state = self.begin().unwrap_or(State::Unavailable);
                }
                State::Running(probe, asked) => {
                    if asked.sent_at.is_none() {
                        ready!(probe.poll_send(cx))?;
                        asked.sent_at = Some(clock::now());
                    }
                    return probe.poll_begun(cx);
                }
                State::Unavailable => return Poll::Pending,
            }
        }
    }

    /// The first is late: send the hedge, if there is a backend, a permit and budget for it.
    fn begin(&self) -> Option<State> {
        let (plan, now) = (&self.plan, clock::now());
        let pool = plan.route.pools.get(plan.first.pool)?;
        let request = BalanceRequest {
            tokens: plan.question.tokens(),
            tried: &[plan.first.at],
            unfit: &plan.unfit,
            ..BalanceRequest::default()
        };
        let target = Target { pool: plan.first.pool, at: pool.pool.select_hedge(&request, now)? };
        let upstream = plan.route.upstream(target)?.clone();
        let permit = match &upstream.queue {
            Some(queue) => Some(queue.enter(plan.question.prompt, plan.question.output)?),
            None => None,
        };
        let descriptor = match upstream.backend.http2 {
            true => None,
            false => Some(plan.clients.admit_extra()?),
        };
        let request = plan.request(target)?;
        if !pool.pool.hedges.spend(plan.budget, 0, now) {
            return None;
        }
        let attempt = pool.pool.begin(target.at, plan.question)?;
        pool.hedged(plan.question.prompt);
        let call = Call::opening(&upstream, request, plan.limits, plan.connect, false);
        Some(State::Running(
            Box::new(Probe::new(call, plan.reads)),
            RunningHedge { target, attempt, permit, sent_at: None, _descriptor: descriptor },
        ))
    }

    /// Report a failed hedge to its pool.
    fn failed(self, begun: &Result<u16, UpstreamError>) {
        let State::Running(probe, asked) = self.state else { return };
        if let (Some(head), Some(upstream)) = (probe.head(), self.plan.route.upstream(asked.target))
        {
            upstream.apply_retry_after(head, self.plan.with_credential);
        }
        let (failure, why) = match begun {
            Ok(status) => {
                let failure = self.plan.error_answer(asked.target, &probe, *status);
                (failure, "error answer".to_owned())
            }
            Err(error) => {
                let code = Refusal::unanswered(error).code.to_owned();
                let ended = result_of_error(*probe, error);
                (HedgeFailure { ended, code, status: None, at: clock::now() }, error.to_string())
            }
        };
        self.plan.log(asked.target, &failure, &why);
        let ended = failure.ended;
        if let Some(pool) = self.plan.route.pools.get(asked.target.pool) {
            pool.pool.end(asked.attempt, ended, clock::now());
        }
    }

    fn is_out(&self) -> bool {
        matches!(self.state, State::Unavailable)
    }

    /// The second backend, if the hedge was sent.
    fn asked(&self) -> Option<Target> {
        match &self.state {
            State::Running(_, asked) => Some(asked.target),
            State::Waiting(_) | State::Unavailable => None,
        }
    }
}

impl HedgePlan {
    /// Whether an answer with this status is worth trying another backend.
    fn is_retryable(&self, target: Target, status: u16) -> bool {
        self.route.upstream(target).is_some_and(|upstream| upstream.is_retryable(status))
    }

    /// The result of an error status for the backend.
    fn fault(&self, target: Target, status: u16) -> AttemptResult {
        self.route
            .upstream(target)
            .map_or(AttemptResult::Unknown, |upstream| upstream.fault(status, self.with_credential))
    }

    /// The failure of a backend that answered with this error status, or with an empty stream.
    fn error_answer(&self, target: Target, probe: &Probe, status: u16) -> HedgeFailure {
        let own = probe.early_error().and_then(|error| error.code);
        let code = own.map_or_else(|| format!("http_{status}"), str::to_owned);
        // Of an empty stream, the status is not the engine's.
        let (ended, status) = (self.fault(target, status), own.is_none().then_some(status));
        HedgeFailure { ended, code, status, at: clock::now() }
    }

    /// Write a log line about a call that failed while the other may still answer.
    fn log(&self, target: Target, failure: &HedgeFailure, why: &str) {
        let is_fault = matches!(failure.ended, AttemptResult::Failure | AttemptResult::Overloaded);
        if let Some(upstream) = self.route.upstream(target).filter(|_| is_fault) {
            let of = (Some(&*self.route.route.name), &*self.id);
            call_log::log_call(&upstream.backend.name, of, &failure.code, why);
        }
    }

    fn request(&self, target: Target) -> Option<Request> {
        let body_len = self.request.body().len();
        let model = self.route.pools.get(target.pool).and_then(|pool| pool.model.as_deref());
        let facts = HeadFacts {
            model,
            id: &self.id,
            keeps_credentials: self.keeps_credentials,
            peer: self.peer,
            body_len,
            edits: &self.edits,
            traceparent: self.traceparent.as_deref(),
        };
        let backend = &self.route.upstream(target)?.backend;
        let head =
            self.request.with_head(|head| send::head_for(&self.route.route, backend, head, &facts));
        let (buffer, body) = self.request.body.clone();
        Some(Request { head, buffer, body, edits: self.edits.clone() })
    }
}

impl HedgedCall {
    /// A call that may be hedged. With `holds` the answer is held until its first token in any
    /// case.
    pub fn new(
        call: Call,
        hedge: Option<Box<Hedge>>,
        reads: Option<ProbeParsing>,
        holds: bool,
    ) -> Self {
        let reads = reads.filter(|_| holds || hedge.is_some());
        HedgedCall {
            first: Some(Probe::new(call, reads)),
            hedge,
            holds,
            error: None,
            first_failure: None,
            outcome: HedgeOutcome::default(),
            held_until: None,
        }
    }

    /// The request of the first, if it may be sent again: see [`Call::into_unanswered`].
    pub fn into_unanswered(self) -> (Option<Request>, Option<Box<Hedge>>) {
        (self.first.and_then(|probe| probe.into_inner().into_unanswered()), self.hedge)
    }

    /// Result of the first, if it failed before the error that ended both.
    pub fn first_ended(&self) -> Option<AttemptResult> {
        self.first_failure.as_ref().map(|failure| failure.ended)
    }

    /// Take what has changed about the hedge since the last call.
    pub fn take_outcome(&mut self) -> HedgeOutcome {
        std::mem::take(&mut self.outcome)
    }

    /// Drop the first, which failed while the hedge is running.
    fn drop_first(&mut self, error: &UpstreamError) {
        let code = Refusal::unanswered(error).code.to_owned();
        let failure = |probe| HedgeFailure {
            ended: result_of_error(probe, error),
            code,
            status: None,
            at: clock::now(),
        };
        self.first_failure = self.first.take().map(failure);
        if let (Some(hedge), Some(failure)) = (&self.hedge, &self.first_failure) {
            hedge.plan.log(hedge.plan.first, failure, &error.to_string());
        }
    }

    /// Poll the first until its answer begins. Its failure is an error only if no hedge is running.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        let hedge = self.hedge.as_ref();
        let asked = hedge.and_then(|hedge| hedge.asked());
        let Some(first) = &mut self.first else { return Poll::Pending };
        match ready!(first.poll_begun(cx)) {
            // While the hedge may still answer, an error of the first is set aside.
            Ok(status)
                if asked.is_some()
                    && hedge
                        .is_some_and(|hedge| hedge.plan.is_retryable(hedge.plan.first, status)) =>
            {
                let Some(plan) = hedge.map(|hedge| &hedge.plan) else { return Poll::Pending };
                if let (Some(head), Some(upstream)) =
                    (first.head(), plan.route.upstream(plan.first))
                {
                    upstream.apply_retry_after(head, plan.with_credential);
                }
                let failure = plan.error_answer(plan.first, first, status);
                plan.log(plan.first, &failure, "error answer");
                self.first_failure = Some(failure);
                self.error = self.first.take().filter(Probe::has_error);
            }
            Err(error) if asked.is_some() => self.drop_first(&error),
            // The caller may repeat it on another connection, where it may be late.
            Err(error) => return Poll::Ready(Err(error)),
            Ok(_) => {
                // Dropping the hedge cancels it.
                self.outcome.lost =
                    self.hedge.take().and_then(|lost| Some((asked?, lost.plan.after)));
                return Poll::Ready(first.take_head().ok_or(UpstreamError::ClosedEarly));
            }
        }
        Poll::Pending
    }

    /// Poll the hedge until its answer begins.
    fn poll_second(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        let Some(hedge) = &mut self.hedge else { return Poll::Pending };
        let begun = ready!(hedge.poll(cx));
        let Some(mut hedge) = self.hedge.take() else { return Poll::Pending };
        let is_error =
            |status| hedge.asked().is_some_and(|target| hedge.plan.is_retryable(target, status));
        let has_won = matches!(begun, Ok(status) if self.first.is_none() || !is_error(status));
        if let (true, State::Running(probe, _)) = (has_won, &mut hedge.state) {
            let head = probe.take_head().ok_or(UpstreamError::ClosedEarly);
            self.switch(*hedge);
            return Poll::Ready(head);
        }
        self.outcome.second_failed = hedge.asked().map(|target| (target, hedge.plan.after));
        hedge.failed(&begun);
        match begun {
            Err(error) if self.first.is_none() => {
                self.first = self.error.take();
                self.held_until = Some(clock::now());
                Poll::Ready(self.first.as_mut().and_then(Probe::take_head).ok_or(error))
            }
            _ => Poll::Pending,
        }
    }

    /// The hedge won: its call replaces the first.
    fn switch(&mut self, hedge: Hedge) {
        let Hedge { plan, state, began } = hedge;
        let State::Running(probe, asked) = state else { return };
        let first_connects = self.first.as_ref().is_some_and(Probe::is_connecting);
        // Dropping the first cancels it.
        (self.first, self.error) = (Some(*probe), None);
        let after = Duration::from_nanos(asked.sent_at.map_or(0, |sent| sent.nanos_since(began)));
        let RunningHedge { target, attempt, permit, sent_at, .. } = asked;
        plan.route.pools.get(target.pool).into_iter().for_each(|pool| pool.hedge_won());
        let first = self.first_failure.take();
        self.outcome.switch =
            Some(Switch { target, attempt, permit, sent_at, after, first, began, first_connects });
    }
}

impl Source for HedgedCall {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        match &mut self.first {
            Some(first) => match first.poll_send(cx) {
                Poll::Ready(Err(error))
                    if self.hedge.as_ref().is_some_and(|hedge| hedge.asked().is_some()) =>
                {
                    self.drop_first(&error);
                    Poll::Ready(Ok(()))
                }
                sent => sent,
            },
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        loop {
            if let Poll::Ready(begun) = self.poll_first(cx) {
                return Poll::Ready(begun);
            }
            let was_hedged = self.hedge.is_some();
            if let Poll::Ready(begun) = self.poll_second(cx) {
                return Poll::Ready(begun);
            }
            self.hedge.take_if(|hedge| hedge.is_out());
            match (&mut self.first, &self.hedge) {
                (None, None) => return Poll::Ready(Err(UpstreamError::ClosedEarly)),
                // The hedge is gone: release what the first has sent so far.
                (Some(first), None) if was_hedged && !self.holds => first.release(),
                _ => return Poll::Pending,
            }
        }
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        listener: &mut impl BodyListener,
    ) -> Poll<Result<BodyStep, UpstreamError>> {
        match &mut self.first {
            Some(first) => first.poll_body(cx, listener),
            None => Poll::Ready(Err(UpstreamError::ClosedEarly)),
        }
    }

    fn is_connecting(&self) -> bool {
        self.first.as_ref().is_some_and(Probe::is_connecting)
    }

    fn held_read_at(&self) -> Option<Tick> {
        self.first.as_ref().and_then(Probe::held_read_at)
    }

    /// Those of the first: a hedge is canceled or takes over soon.
    fn take_comments(&mut self) -> Option<(AnswerHead, Vec<u8>)> {
        self.first.as_mut()?.take_comments()
    }

    fn held_until(&self) -> Option<Tick> {
        self.held_until.or_else(|| self.first.as_ref()?.held_until())
    }

    fn early_error(&self) -> Option<EarlyError> {
        self.first.as_ref()?.early_error()
    }

    fn settle(self, upstream: &Upstream) {
        if let Some(first) = self.first {
            first.settle(upstream);
        }
    }
}
