//! The client's side of the loop: writes queued bytes, and accounts for them when the client has
//! accepted them.
//!
//! - *In*: queued bytes.
//! - *Out*: the write marks of the lens, the ledger's client states, the gauge of queued bytes.
//! - *Never*: an effect on what is measured of the backend.

use std::task::{Context as TaskContext, Poll};

use lens::{State, Tick};
use transport::{Gone, Sink, Source, clock};

use super::{Relay, Step};
use crate::request::Request;

impl<R: Request<S>, S: Source, D: Sink> Relay<'_, R, S, D> {
    pub(super) fn step_client(&mut self, cx: &mut TaskContext<'_>) -> Result<Step, Gone> {
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

    /// Account for bytes written to the client.
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
        if !self.out.is_empty() {
            self.deadlines.blocked(now);
            self.request.parts().ledger.switch(State::ClientWrite, now);
        } else {
            self.deadlines.unblocked();
            if let Some(guardrail) = &mut self.guardrail {
                guardrail.caught_up(now);
            }
            self.gauge(0);
            let waiting = self.waiting_state();
            self.request.parts().ledger.switch(waiting, now);
        }
    }
}

impl<R: Request<S>, S, D> Relay<'_, R, S, D> {
    /// Report the number of queued bytes to the request.
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
        // The answer was canceled. What was said until then counts.
        if let Some(mut guardrail) = self.guardrail.take().filter(|_| !std::thread::panicking()) {
            guardrail.take_busy();
            guardrail.report(self.request);
        }
    }
}
