//! The deadlines of a relay, on one timer.
//!
//! The timer is armed when the relay first has to wait, and re-armed only when it fires and nothing
//! is overdue, so an event costs no timer operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use config::settings::Timeouts;
use lens::Tick;
use tokio::time::{Instant, Sleep};
use transport::clock;

use crate::failure::Failure;

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
    Total,
    ClientWrite,
}

impl Expired {
    pub(crate) fn failure(self) -> Failure {
        match self {
            Expired::FirstByte => Failure::FirstByteTimeout,
            Expired::BetweenEvents => Failure::BetweenEventsTimeout,
            Expired::Total | Expired::ClientWrite => Failure::TotalTimeout,
        }
    }
}

/// The deadlines of one relay.
#[derive(Debug)]
pub(crate) struct Deadlines {
    timeouts: Timeouts,
    head_at: Tick,
    moved: Tick,
    blocked: Option<Tick>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadlines {
    pub(crate) fn new(timeouts: Timeouts, head_at: Tick) -> Self {
        Deadlines { timeouts, head_at, moved: clock::now(), blocked: None, timer: None }
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
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
            }
            let now = clock::now();
            let mut next = Duration::MAX;
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

    fn deadlines(&self, waits: WaitsFor) -> [(Expired, Option<Tick>, Duration); 4] {
        let when = |this, since| (waits == this).then_some(since);
        [
            (Expired::FirstByte, when(WaitsFor::FirstByte, self.moved), self.timeouts.first_byte),
            (
                Expired::BetweenEvents,
                when(WaitsFor::NextEvent, self.moved),
                self.timeouts.between_events,
            ),
            (Expired::ClientWrite, self.blocked, self.timeouts.client_write),
            (Expired::Total, Some(self.head_at), self.timeouts.total),
        ]
    }

    fn shortest(&self) -> Duration {
        let t = &self.timeouts;
        [t.first_byte, t.between_events, t.client_write]
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
