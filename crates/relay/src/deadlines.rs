//! The deadlines of a relay, on one timer.
//!
//! The timer is armed when the relay first has to wait, and re-armed only when it fires and nothing
//! is overdue, so an event costs no timer operation.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use config::settings::Timeouts;
use lens::Tick;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};
use transport::clock;

use crate::failure::Failure;
use crate::request::{Context as RequestContext, TokenTimeouts};

/// The time at which streams end that still run while the gateway drains. It is unknown until the
/// drain begins, which wakes every stream once: an idle one must set its timer, too.
#[derive(Debug, Default)]
pub struct DrainDeadline {
    at: AtomicU64,
    began: Arc<Notify>,
}

impl DrainDeadline {
    /// Set the deadline.
    pub fn set(&self, at: Tick) {
        self.at.store(at.0.max(1), Ordering::Release);
        self.began.notify_waiters();
    }

    #[inline]
    fn get(&self) -> Option<Tick> {
        Some(self.at.load(Ordering::Acquire)).filter(|at| *at > 0).map(Tick)
    }
}

/// The wait for the drain to begin.
#[derive(Debug)]
struct DrainWait {
    began: Pin<Box<OwnedNotified>>,
    /// The task that is woken.
    task: Waker,
}

/// What the relay waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    FirstByte,
    NextEvent,
    Client,
}

/// Which deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    FirstByte,
    BetweenEvents,
    FirstToken,
    BetweenTokens,
    Total,
    Drain,
    ClientWrite,
}

impl Expired {
    pub(crate) fn failure(self) -> Failure {
        match self {
            Expired::FirstByte => Failure::FirstByteTimeout,
            Expired::BetweenEvents => Failure::BetweenEventsTimeout,
            Expired::FirstToken => Failure::FirstTokenTimeout,
            Expired::BetweenTokens => Failure::BetweenTokensTimeout,
            Expired::Drain => Failure::ShuttingDown,
            Expired::Total | Expired::ClientWrite => Failure::TotalTimeout,
        }
    }
}

/// The deadlines of one relay.
#[derive(Debug)]
pub(crate) struct Deadlines {
    timeouts: Timeouts,
    tokens: TokenTimeouts,
    head_at: Tick,
    moved: Tick,
    /// When the request was sent, and when the last token arrived.
    sent: Option<Tick>,
    token: Option<Tick>,
    blocked: Option<Tick>,
    drain: Arc<DrainDeadline>,
    drain_wait: Option<DrainWait>,
    /// The deadline of the drain, once it is known.
    drained: Option<Tick>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadlines {
    pub(crate) fn new(context: &RequestContext) -> Self {
        Deadlines {
            timeouts: context.timeouts,
            tokens: context.token_timeouts,
            head_at: context.head_at,
            moved: clock::now(),
            sent: None,
            token: None,
            blocked: None,
            drain: context.drain.clone(),
            drain_wait: None,
            drained: None,
            timer: None,
        }
    }

    /// The request has been sent.
    pub(crate) fn sent(&mut self, now: Tick) {
        (self.moved, self.sent) = (now, Some(now));
    }

    /// The last token arrived at `at`; `None`: there was none yet.
    #[inline]
    pub(crate) fn token(&mut self, at: Option<Tick>) {
        self.token = at;
    }

    /// Upstream has made progress.
    #[inline]
    pub(crate) fn moved(&mut self, now: Tick) {
        self.moved = now;
    }

    /// Start the client write timeout: bytes are queued, and the client has just accepted some or
    /// has stopped accepting any.
    pub(crate) fn blocked(&mut self, now: Tick) {
        self.blocked = Some(now);
    }

    /// Stop the client write timeout: the client has accepted all queued bytes.
    #[inline]
    pub(crate) fn unblocked(&mut self) {
        self.blocked = None;
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, waits: WaitsFor) -> Poll<Expired> {
        self.poll_drain(cx);
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
            }
            let now = clock::now();
            let mut next = Duration::MAX;
            if let Some(drained) = self.drained {
                match drained.nanos_since(now) {
                    0 => return Poll::Ready(Expired::Drain),
                    left => next = Duration::from_nanos(left),
                }
            }
            for (expired, since, timeout) in self.deadlines(waits) {
                let (Some(since), false) = (since, timeout.is_zero()) else { continue };
                match timeout.checked_sub(Duration::from_nanos(now.nanos_since(since))) {
                    None | Some(Duration::ZERO) => return Poll::Ready(expired),
                    Some(left) => next = next.min(left),
                }
            }
            // Without timeouts, no timer is needed. Otherwise, the timer fires no later than the
            // shortest timeout, which may start at any moment.
            next = next.min(self.shortest());
            if next == Duration::MAX {
                return Poll::Pending;
            }
            self.arm(next);
        }
    }

    /// Learn the deadline of the drain, or have the task woken when the drain begins.
    fn poll_drain(&mut self, cx: &mut Context<'_>) {
        if self.drained.is_some() {
            return;
        }
        // Polled once per task: each poll takes a lock that all streams share.
        if !self.drain_wait.as_ref().is_some_and(|wait| wait.task.will_wake(cx.waker())) {
            let task = cx.waker().clone();
            let new = || Box::pin(self.drain.began.clone().notified_owned());
            let mut began = self.drain_wait.take().map_or_else(new, |wait| wait.began);
            let _ = began.as_mut().poll(cx);
            self.drain_wait = Some(DrainWait { began, task });
        }
        // After the registration, so that a drain that begins meanwhile is not missed.
        self.drained = self.drain.get();
        if self.drained.is_some() {
            // The timer may be set to a later time.
            (self.drain_wait, self.timer) = (None, None);
        }
    }

    fn deadlines(&self, waits: WaitsFor) -> [(Expired, Option<Tick>, Duration); 6] {
        let when = |this, since| (waits == this).then_some(since);
        // While the client is waited for, upstream is not read.
        let is_read = waits != WaitsFor::Client;
        let first_token = self.sent.filter(|_| is_read && self.token.is_none());
        [
            (Expired::FirstByte, when(WaitsFor::FirstByte, self.moved), self.timeouts.first_byte),
            (
                Expired::BetweenEvents,
                when(WaitsFor::NextEvent, self.moved),
                self.timeouts.between_events,
            ),
            (Expired::FirstToken, first_token, self.tokens.first),
            (Expired::BetweenTokens, self.token.filter(|_| is_read), self.tokens.between),
            (Expired::ClientWrite, self.blocked, self.timeouts.client_write),
            (Expired::Total, Some(self.head_at), self.timeouts.total),
        ]
    }

    fn shortest(&self) -> Duration {
        let t = &self.timeouts;
        [t.first_byte, t.between_events, t.client_write, self.tokens.first, self.tokens.between]
            .into_iter()
            .filter(|d| !d.is_zero())
            .min()
            .unwrap_or(Duration::MAX)
    }

    fn arm(&mut self, after: Duration) {
        // A deadline beyond a year is treated as no deadline.
        let at = Instant::now() + after.min(Duration::from_secs(365 * 24 * 3600));
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }
}
