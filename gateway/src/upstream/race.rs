//! Two backends asked the same: whoever answers first is heard, the other is cut off.
//!
//! - *In*: a request on its way to one backend, and what is needed to ask another when the first is late.
//! - *Out*: the answer of either, as if it were the only one.
//! - *Never*: a third; a second one after the first has begun to answer, beyond its budget, or that would have to wait for a place.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use filters::traffic::Place;
use lens::Tick;
use routing::{Attempt, Ended, Question, Wish};
use tokio::time::Sleep;
use wire::http1::head::{self, HeadLimits};

use super::connect::Connection;
use super::h1::{Edits, Request};
use super::{AnswerHead, BodyStep, H1Source, Source, Upstream, UpstreamError, connect};
use crate::clock;
use crate::plan::{PlannedRoute, Target};
use crate::stage::choose::{Asked as AskedOf, is_worth_another};
use crate::stage::relay::Forward;
use crate::stage::send::{self, Said};

/// An answer over HTTP/1.1 that a second backend may give.
pub(crate) struct Race {
    /// `None`: it has lost.
    first: Option<H1Source>,
    second: Option<Box<Second>>,
    /// The second has won, and this is for the exchange to know.
    switch: Option<Switch>,
    /// How the first ended, if it failed while a second was asked.
    first_ended: Ended,
    /// It was asked and has lost: which, and how late the first was when it was asked.
    lost: Option<(Target, Duration)>,
}

/// The second backend, and how far it is.
pub(crate) struct Second {
    pub(crate) plan: SecondPlan,
    state: State,
    began: Tick,
}

/// What is needed to choose it, and to ask it.
pub(crate) struct SecondPlan {
    pub(crate) route: Arc<PlannedRoute>,
    /// The one that is asked first.
    pub(crate) first: Target,
    /// Others of its pool that cannot serve the request, or have failed.
    pub(crate) unfit: Vec<usize>,
    /// What the client asked.
    pub(crate) asked: AskedOf,
    pub(crate) edits: Edits,
    pub(crate) id: String,
    pub(crate) keeps_credentials: bool,
    /// How late the first must be.
    pub(crate) after: Duration,
    /// Hedges for each request.
    pub(crate) budget: f64,
    pub(crate) question: Question,
    pub(crate) limits: HeadLimits,
    pub(crate) connect: Duration,
}

enum State {
    /// The first is not late yet.
    Waiting(Pin<Box<Sleep>>),
    Connecting(Pin<Box<dyn Future<Output = Result<Connection, UpstreamError>> + Send>>, Box<Request>, Asked),
    Asking(Box<H1Source>, Asked),
    /// It is not asked, or has failed.
    Out,
}

/// What it has taken.
struct Asked {
    target: Target,
    attempt: Attempt,
    place: Option<Place>,
    sent_at: Option<Tick>,
}

/// The second has won: the exchange is its from now on.
pub(crate) struct Switch {
    pub(crate) target: Target,
    pub(crate) attempt: Attempt,
    pub(crate) place: Option<Place>,
    pub(crate) sent_at: Option<Tick>,
    /// How late the first was when the second was asked.
    pub(crate) after: Duration,
    /// What became of the first.
    pub(crate) first: Ended,
}

impl Second {
    pub(crate) fn new(plan: SecondPlan) -> Box<Self> {
        let timer = Box::pin(tokio::time::sleep(plan.after));
        Box::new(Second { plan, state: State::Waiting(timer), began: clock::now() })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        loop {
            match &mut self.state {
                State::Waiting(timer) => {
                    std::task::ready!(timer.as_mut().poll(cx));
                    self.state = self.begin().unwrap_or(State::Out);
                }
                State::Connecting(connecting, ..) => {
                    let connection = std::task::ready!(connecting.as_mut().poll(cx));
                    let connection = connection?;
                    let State::Connecting(_, request, asked) = std::mem::replace(&mut self.state, State::Out) else { return Poll::Pending };
                    self.state = State::Asking(Box::new(H1Source::new(connection, *request, self.plan.limits)), asked);
                }
                State::Asking(source, asked) => {
                    if asked.sent_at.is_none() {
                        std::task::ready!(source.poll_send(cx))?;
                        asked.sent_at = Some(clock::now());
                    }
                    return source.poll_head(cx);
                }
                State::Out => return Poll::Pending,
            }
        }
    }

    /// The first is late: ask, if there is somebody, a place with him, and a budget for it.
    fn begin(&self) -> Option<State> {
        let (plan, now) = (&self.plan, clock::now());
        let pool = plan.route.pools.get(plan.first.pool)?;
        let wish = Wish { tokens: plan.question.tokens(), tried: &[plan.first.at], unfit: &plan.unfit, ..Wish::default() };
        let target = Target { pool: plan.first.pool, at: pool.pool.choose_other(&wish, now)? };
        let upstream = plan.route.upstream(target)?.clone();
        let place = match &upstream.turnstile {
            Some(turnstile) => Some(turnstile.enter(plan.question.tokens())?),
            None => None,
        };
        let request = Box::new(plan.request(target)?);
        if !pool.pool.hedges.spend(plan.budget, 0, now) {
            return None;
        }
        let attempt = pool.pool.begin(target.at, plan.question)?;
        pool.hedged(plan.question.prompt);
        let timeout = plan.connect;
        let connecting = Box::pin(async move { connect(&upstream, timeout, false).await });
        Some(State::Connecting(connecting, request, Asked { target, attempt, place, sent_at: None }))
    }

    /// It has failed, which is known of it from now on.
    fn failed(self, ended: Ended) {
        if let State::Connecting(.., asked) | State::Asking(_, asked) = self.state
            && let Some(pool) = self.plan.route.pools.get(asked.target.pool)
        {
            pool.pool.end(asked.attempt, ended, clock::now());
        }
    }

    /// Who is asked, if somebody is.
    fn asked(&self) -> Option<Target> {
        match &self.state {
            State::Connecting(.., asked) | State::Asking(_, asked) => Some(asked.target),
            State::Waiting(_) | State::Out => None,
        }
    }
}

/// What a status that is no answer says of a backend.
fn fault(status: u16) -> Ended {
    if status == 429 { Ended::Untold } else { Ended::Badly }
}

impl SecondPlan {
    fn request(&self, target: Target) -> Option<Request> {
        let (buffer, len) = &self.asked.head;
        let mut room = head::field_room();
        let head = head::parse_request(buffer.get(..*len)?, &mut room, self.limits).ok()?;
        let said = Said { id: &self.id, keeps_credentials: self.keeps_credentials, body_len: self.asked.body().len(), edits: &self.edits };
        let head = send::head_for(&self.route.route, &self.route.upstream(target)?.backend, &head, &said);
        let (buffer, body) = self.asked.body.clone();
        Some(Request { head, buffer, body, edits: self.edits.clone() })
    }
}

impl Race {
    pub(crate) fn new(first: H1Source, second: Option<Box<Second>>) -> Self {
        Race { first: Some(first), second, switch: None, first_ended: Ended::Untold, lost: None }
    }

    /// The request of the first, if it may be sent again: see [`H1Source::into_unanswered`].
    pub(crate) fn into_unanswered(self) -> (Option<Request>, Option<Box<Second>>) {
        (self.first.and_then(H1Source::into_unanswered), self.second)
    }

    /// Another backend than the first has answered.
    fn won(&mut self, head: AnswerHead) -> Poll<Result<AnswerHead, UpstreamError>> {
        let Some(second) = self.second.take() else { return Poll::Ready(Ok(head)) };
        let Second { plan, state, began } = *second;
        if let State::Asking(source, asked) = state {
            // Dropping the first cuts it off.
            self.first = Some(*source);
            let after = Duration::from_nanos(asked.sent_at.map_or(0, |sent| sent.nanos_since(began)));
            let Asked { target, attempt, place, sent_at } = asked;
            plan.route.pools.get(target.pool).into_iter().for_each(|pool| pool.hedge_won());
            self.switch = Some(Switch { target, attempt, place, sent_at, after, first: self.first_ended });
        }
        Poll::Ready(Ok(head))
    }
}

impl Source for Race {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        match &mut self.first {
            Some(first) => first.poll_send(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        let second = self.second.as_ref().and_then(|second| second.asked());
        let asked = second.is_some();
        if let Some(first) = &mut self.first {
            match first.poll_head(cx) {
                // An error of the first is no answer while the second may give one.
                Poll::Ready(Ok(head)) if asked && is_worth_another(head.status) => {
                    (self.first, self.first_ended) = (None, fault(head.status));
                }
                Poll::Ready(Err(error)) if asked => {
                    log::debug!("a backend failed while a second one was asked: {error}");
                    (self.first, self.first_ended) = (None, Ended::Badly);
                }
                // It may be asked again on another connection, and be late then.
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(answer) => {
                    // Dropping it cuts it off.
                    self.lost = self.second.take().and_then(|lost| Some((second?, lost.plan.after)));
                    return Poll::Ready(answer);
                }
                Poll::Pending => {}
            }
        }
        let Some(second) = &mut self.second else {
            return if self.first.is_some() { Poll::Pending } else { Poll::Ready(Err(UpstreamError::ClosedEarly)) };
        };
        match second.poll(cx) {
            Poll::Ready(Ok(head)) if self.first.is_none() || !is_worth_another(head.status) => self.won(head),
            Poll::Ready(answer) => {
                if let Some(second) = self.second.take() {
                    second.failed(answer.as_ref().map_or(Ended::Badly, |head| fault(head.status)));
                }
                match (answer, self.first.is_some()) {
                    (_, true) => Poll::Pending,
                    (Err(error), false) => Poll::Ready(Err(error)),
                    (Ok(_), false) => Poll::Ready(Err(UpstreamError::ClosedEarly)),
                }
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, forward: &mut Forward<'_>) -> Poll<Result<BodyStep, UpstreamError>> {
        match &mut self.first {
            Some(heard) => heard.poll_body(cx, forward),
            None => Poll::Ready(Err(UpstreamError::ClosedEarly)),
        }
    }

    fn take_switch(&mut self) -> Option<Switch> {
        self.switch.take()
    }

    fn take_lost(&mut self) -> Option<(Target, Duration)> {
        self.lost.take()
    }

    fn settle(self, upstream: &Upstream) {
        if let Some(heard) = self.first {
            heard.settle(upstream);
        }
    }
}
