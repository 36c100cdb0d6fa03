//! The relay's side of the output guardrail: time accounting, hold deadline and judges.
//!
//! - *In*: the guardrail, the clock.
//! - *Out*: events in the queue that the guardrail released.
//! - *Never*: a decision about text, which `output_guard` makes.

use std::future::Future;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use lens::{State, Tick};
use transport::{Sink, Source, clock};

use super::Relay;
use crate::output_guard::OutputGuard;
use crate::request::Request;

impl<R: Request<S>, S: Source, D: Sink> Relay<'_, R, S, D> {
    /// Move the time that the guardrail took since the last read from the gateway's state to its
    /// own.
    pub(super) fn account_for_guard(&mut self) {
        let Some(busy) =
            self.guardrail.as_mut().map(OutputGuard::take_busy).filter(|busy| *busy > 0)
        else {
            return;
        };
        let now = clock::now();
        self.request
            .parts()
            .ledger
            .switch(State::GuardrailOutput, Tick(now.0.saturating_sub(busy)));
        self.request.parts().ledger.switch(State::Gateway, now);
    }

    /// Ready when a held event reached its maximum hold time and was released.
    pub(super) fn poll_hold(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Some(guardrail) = &mut self.guardrail else { return Poll::Pending };
        let Some(since) = guardrail.waits_since() else { return Poll::Pending };
        let now = clock::now();
        let left =
            guardrail.hold_time().saturating_sub(Duration::from_nanos(now.nanos_since(since)));
        if left.is_zero() {
            guardrail.flush(now, &mut self.out);
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
    pub(super) fn poll_judges(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Some(guardrail) = &mut self.guardrail else { return Poll::Pending };
        let answered = guardrail.poll_judges(cx, &mut self.out);
        self.out.commit();
        answered
    }
}
