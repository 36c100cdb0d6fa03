//! Two backends asked the same: whoever has the first token is heard, the other is cut off.
//!
//! Engines say the head of an answer, and the role, before they have read the prompt: neither says that there will be a token soon. Answers that are no streams
//! begin with their head.
//!
//! - *In*: a request on its way to one backend, and what is needed to ask another when the first is late.
//! - *Out*: the answer of either, as if it were the only one.
//! - *Never*: a third; a second one after the first has begun to answer, beyond its budget, or that would have to wait for a place.

mod contender;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use traffic::Place;
use lens::Tick;
use routing::{Attempt, Ended, Question, Wish};
use tokio::time::Sleep;
use wire::http1::head::{self, HeadLimits};

use super::h1::{Edits, Request};
use super::{AnswerHead, BodyStep, Call, Hear, Source, Upstream, UpstreamError};
use crate::clock;
use crate::plan::{PlannedRoute, Target};
use crate::respond::Refusal;
use crate::stage::choose::Asked as AskedOf;
use crate::stage::send::{self, Said};
use contender::Contender;
pub(crate) use contender::Reads;

/// An answer that a second backend may give.
pub(crate) struct Race {
    /// `None`: it has lost.
    first: Option<Contender>,
    second: Option<Box<Second>>,
    /// The answer of the first, an error, which is the client's if the second has none at all.
    error: Option<Contender>,
    /// How the first ended, if it failed while a second was asked.
    first_ended: Option<Failure>,
    news: News,
}

/// What the exchange is to know of a race.
#[derive(Default)]
pub(crate) struct News {
    /// The second has won.
    pub(crate) switch: Option<Switch>,
    /// It was asked and has lost: which, and how late the first was when it was asked.
    pub(crate) lost: Option<(Target, Duration)>,
    /// It was asked and has failed, likewise.
    pub(crate) second_failed: Option<(Target, Duration)>,
    /// Until when the beginning of the answer was kept back that is given now.
    pub(crate) kept_until: Option<Tick>,
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
    /// How a first token is known, where there is one to be known.
    pub(crate) reads: Option<Reads>,
    /// The client's own credential goes on with it.
    pub(crate) with_credential: bool,
    pub(crate) connect: Duration,
}

enum State {
    /// The first is not late yet.
    Waiting(Pin<Box<Sleep>>),
    Asking(Box<Contender>, Asked),
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
    /// How the first ended; `None`: it had not.
    pub(crate) first: Option<Failure>,
    /// When it was asked, and whether it has not even taken a connection.
    pub(crate) began: Tick,
    pub(crate) first_connects: bool,
}

/// How one has failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) ended: Ended,
    /// In a word.
    pub(crate) code: String,
    pub(crate) status: Option<u16>,
    pub(crate) at: Tick,
}

impl Second {
    pub(crate) fn new(plan: SecondPlan) -> Box<Self> {
        let timer = Box::pin(tokio::time::sleep(plan.after));
        Box::new(Second { plan, state: State::Waiting(timer), began: clock::now() })
    }

    /// Ready when its answer has begun, with its status.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<u16, UpstreamError>> {
        loop {
            match &mut self.state {
                State::Waiting(timer) => {
                    std::task::ready!(timer.as_mut().poll(cx));
                    self.state = self.begin().unwrap_or(State::Out);
                }
                State::Asking(contender, asked) => {
                    if asked.sent_at.is_none() {
                        std::task::ready!(contender.poll_send(cx))?;
                        asked.sent_at = Some(clock::now());
                    }
                    return contender.poll_begun(cx, self.plan.reads);
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
        let request = plan.request(target)?;
        if !pool.pool.hedges.spend(plan.budget, 0, now) {
            return None;
        }
        let attempt = pool.pool.begin(target.at, plan.question)?;
        pool.hedged(plan.question.prompt);
        let (limits, timeout) = (plan.limits, plan.connect);
        let call = Call::opening(&upstream, request, limits, timeout, false);
        Some(State::Asking(Box::new(Contender::new(call)), Asked { target, attempt, place, sent_at: None }))
    }

    /// It has failed, which is known of it from now on.
    fn failed(self, begun: &Result<u16, UpstreamError>) {
        let State::Asking(contender, asked) = self.state else { return };
        if let (Some(head), Some(upstream)) = (contender.head(), self.plan.route.upstream(asked.target)) {
            upstream.heed(head, self.plan.with_credential);
        }
        let ended = match begun {
            Ok(status) => self.plan.fault(asked.target, *status),
            // That all connections are in use is our own limit.
            Err(UpstreamError::Busy) => Ended::Untold,
            Err(_) => contender.fault(),
        };
        if let Some(pool) = self.plan.route.pools.get(asked.target.pool) {
            pool.pool.end(asked.attempt, ended, clock::now());
        }
    }

    /// Nobody is asked, and nobody will be.
    fn is_out(&self) -> bool {
        matches!(self.state, State::Out)
    }

    /// Who is asked, if somebody is.
    fn asked(&self) -> Option<Target> {
        match &self.state {
            State::Asking(_, asked) => Some(asked.target),
            State::Waiting(_) | State::Out => None,
        }
    }
}

impl SecondPlan {
    /// Whether an answer with this status says that the other one might do better.
    fn is_worth_another(&self, target: Target, status: u16) -> bool {
        self.route.upstream(target).is_some_and(|upstream| upstream.is_worth_another(status))
    }

    /// What a status that is no answer says of a backend.
    fn fault(&self, target: Target, status: u16) -> Ended {
        self.route.upstream(target).map_or(Ended::Untold, |upstream| upstream.fault(status, self.with_credential))
    }

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
    pub(crate) fn new(first: Call, second: Option<Box<Second>>) -> Self {
        Race { first: Some(Contender::new(first)), second, error: None, first_ended: None, news: News::default() }
    }

    /// The request of the first, if it may be sent again: see [`Call::into_unanswered`].
    pub(crate) fn into_unanswered(self) -> (Option<Request>, Option<Box<Second>>) {
        (self.first.and_then(Contender::into_unanswered), self.second)
    }

    /// How the first ended, where that was not by the error that ended both.
    pub(crate) fn first_ended(&self) -> Option<Ended> {
        self.first_ended.as_ref().map(|failure| failure.ended)
    }

    /// The first has failed while a second is asked.
    fn drop_first(&mut self, error: &UpstreamError) {
        log::debug!("a backend failed while a second one was asked: {error}");
        let code = Refusal::unanswered(error).code.to_owned();
        // That all connections are in use is our own limit.
        let ended = |first: Contender| if matches!(error, UpstreamError::Busy) { Ended::Untold } else { first.fault() };
        self.first_ended = self.first.take().map(|first| Failure { ended: ended(first), code, status: None, at: clock::now() });
    }

    /// Whether the first has begun to answer, or has failed in a way that only a second can make good.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        let second = self.second.as_ref();
        let (asked, reads) = (second.and_then(|second| second.asked()), second.and_then(|second| second.plan.reads));
        let Some(first) = &mut self.first else { return Poll::Pending };
        let kept_before = first.heard_at();
        match std::task::ready!(first.poll_begun(cx, reads)) {
            // An error of the first is no answer while the second may give one.
            Ok(status) if asked.is_some() && second.is_some_and(|second| second.plan.is_worth_another(second.plan.first, status)) => {
                let Some(plan) = second.map(|second| &second.plan) else { return Poll::Pending };
                if let (Some(head), Some(upstream)) = (first.head(), plan.route.upstream(plan.first)) {
                    upstream.heed(head, plan.with_credential);
                }
                let (ended, code) = (plan.fault(plan.first, status), format!("http_{status}"));
                self.first_ended = Some(Failure { ended, code, status: Some(status), at: clock::now() });
                self.error = self.first.take().filter(Contender::says_an_error);
            }
            Err(error) if asked.is_some() => self.drop_first(&error),
            // It may be asked again on another connection, and be late then.
            Err(error) => return Poll::Ready(Err(error)),
            Ok(_) => {
                // With a token it has begun when that was read; let go without one, now.
                self.news.kept_until = if reads.is_some() { first.heard_at() } else { kept_before.map(|_| clock::now()) };
                // Dropping it cuts it off.
                self.news.lost = self.second.take().and_then(|lost| Some((asked?, lost.plan.after)));
                return Poll::Ready(first.take_head().ok_or(UpstreamError::ClosedEarly));
            }
        }
        Poll::Pending
    }

    /// Whether the second has begun to answer.
    fn poll_second(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        let Some(second) = &mut self.second else { return Poll::Pending };
        let begun = std::task::ready!(second.poll(cx));
        let Some(mut second) = self.second.take() else { return Poll::Pending };
        let is_error = |status| second.asked().is_some_and(|target| second.plan.is_worth_another(target, status));
        let has_won = matches!(begun, Ok(status) if self.first.is_none() || !is_error(status));
        if let (true, State::Asking(contender, _)) = (has_won, &mut second.state) {
            self.news.kept_until = contender.heard_at();
            let head = contender.take_head().ok_or(UpstreamError::ClosedEarly);
            self.won(*second);
            return Poll::Ready(head);
        }
        self.news.second_failed = second.asked().map(|target| (target, second.plan.after));
        second.failed(&begun);
        match begun {
            Err(error) if self.first.is_none() => {
                self.first = self.error.take();
                self.news.kept_until = Some(clock::now());
                Poll::Ready(self.first.as_mut().and_then(Contender::take_head).ok_or(error))
            }
            _ => Poll::Pending,
        }
    }

    /// The exchange is the second's.
    fn won(&mut self, second: Second) {
        let Second { plan, state, began } = second;
        if let State::Asking(contender, asked) = state {
            let first_connects = self.first.as_ref().is_some_and(Contender::is_connecting);
            // Dropping the first cuts it off.
            (self.first, self.error) = (Some(*contender), None);
            let after = Duration::from_nanos(asked.sent_at.map_or(0, |sent| sent.nanos_since(began)));
            let Asked { target, attempt, place, sent_at } = asked;
            plan.route.pools.get(target.pool).into_iter().for_each(|pool| pool.hedge_won());
            self.news.switch =
                Some(Switch { target, attempt, place, sent_at, after, first: self.first_ended.take(), began, first_connects });
        }
    }
}

impl Source for Race {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        match &mut self.first {
            Some(first) => match first.poll_send(cx) {
                Poll::Ready(Err(error)) if self.second.as_ref().is_some_and(|second| second.asked().is_some()) => {
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
            let raced = self.second.is_some();
            if let Poll::Ready(begun) = self.poll_second(cx) {
                return Poll::Ready(begun);
            }
            self.second.take_if(|second| second.is_out());
            match (&self.first, &self.second) {
                (None, None) => return Poll::Ready(Err(UpstreamError::ClosedEarly)),
                // Nobody races it any more: what it has said so far is the beginning of the answer.
                (Some(_), None) if raced => {}
                _ => return Poll::Pending,
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, hear: &mut impl Hear) -> Poll<Result<BodyStep, UpstreamError>> {
        match &mut self.first {
            Some(heard) => heard.poll_body(cx, hear),
            None => Poll::Ready(Err(UpstreamError::ClosedEarly)),
        }
    }

    fn is_connecting(&self) -> bool {
        self.first.as_ref().is_some_and(Contender::is_connecting)
    }

    fn heard_at(&self) -> Option<Tick> {
        self.first.as_ref().and_then(Contender::heard_at)
    }

    fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    fn settle(self, upstream: &Upstream) {
        if let Some(heard) = self.first {
            heard.settle(upstream);
        }
    }
}
