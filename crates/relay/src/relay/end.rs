//! How an answer ends: complete, blocked, broken off, timed out, or because the client
//! disconnected.
//!
//! - *In*: why it ends, and how much of it was sent to the client.
//! - *Out*: the last events in the dialect of the answer, and an [`End`] or [`Phase::Flushing`].
//! - *Never*: a normal end of the body for an incomplete answer; half an event.

use lens::EngineError;
use lens::record::Outcome;
use traffic::Exhausted;
use traffic::settings::OnExhausted;
use transport::{Sink, Source, StreamBuffer, clock};
use wire::ending::Why;
use wire::{Framing, GatewayError, Reader};

use super::{End, Phase, Relay};
use crate::deadlines::Expired;
use crate::failure::Failure;
use crate::output_guard::OutputGuard;
use crate::request::{Request, Resume};
use crate::strip::Strip;

impl<R: Request<S>, S: Source, D: Sink> Relay<'_, R, S, D> {
    /// The complete answer has arrived and been judged: release the rest and end it.
    pub(super) fn end_answer(&mut self) -> Result<(), End> {
        if let Some(guardrail) = &mut self.guardrail {
            guardrail.release_rest(&mut self.out);
        }
        if let Some(end) = self.end_by_guardrail() {
            return Err(end);
        }
        // The guardrail may have ended it already.
        if !matches!(self.phase, Phase::Flushing(_)) {
            self.write_held_head(true)?;
            self.out.finish();
            self.phase = Phase::Flushing(true);
        }
        Ok(())
    }

    /// Write a held head before its body, which is already queued. `is_whole`: the queued body is
    /// complete.
    pub(super) fn write_held_head(&mut self, is_whole: bool) -> Result<(), End> {
        let Some(mut head) = self.head.take() else { return Ok(()) };
        let mut body = std::mem::take(&mut self.out);
        body.commit();
        if is_whole && head.framing == Framing::Json {
            head.length = Some(body.len() as u64);
        }
        self.write_head(head)?;
        self.out.push(body.pending());
        self.out.commit();
        Ok(())
    }

    /// What is missing at the end of the body: the end marker of a stream, or the rest of a JSON
    /// document. An answer in another format than its dialect's is not checked, and neither is one
    /// that ends with an error.
    pub(super) fn truncation(&mut self) -> Option<Failure> {
        let reader = self.reader.as_ref()?;
        let has_length = self.head.as_ref().map_or(self.has_length, |head| head.length.is_some());
        let choices = u32::try_from(self.context.choices).unwrap_or(u32::MAX);
        let answer = self.request.parts().answer;
        let (lens, counts) = (&answer.lens, answer.lens.counts());
        // A guardrail that ends the answer stops reading it.
        let is_ended = self.guardrail.as_ref().is_some_and(OutputGuard::has_failed);
        let is_foreign =
            counts.events > 0 && counts.events == counts.not_understood && !reader.overflowed();
        let is_error = answer.status.is_none_or(|status| status >= 300) || lens.error().is_some();
        if is_ended || is_error {
            return None;
        }
        match answer.streamed {
            true if reader.ends_skipped() => None,
            true if !is_foreign && !lens.is_complete(choices) => Some(Failure::Incomplete),
            false if !has_length && reader.is_cut() => Some(Failure::UpstreamDied),
            // The client has all that its head announced.
            false => {
                answer.ends_inside_json = reader.is_cut();
                None
            }
            true => None,
        }
    }

    /// The backend failed in mid-answer: another one resumes the stream, or it ends.
    pub(super) fn interrupted(&mut self, failure: Failure) -> Result<(), End> {
        match self.may_resume() {
            Resume::Selected => Err(End::Interrupted(failure.code().to_owned())),
            Resume::Impossible => self.end_early(failure),
            Resume::LimitReached => {
                self.end_upstream(&failure);
                self.end_with(Why::Length, "");
                Ok(())
            }
        }
    }

    /// The engine reported in the stream that it has failed. If no other backend resumes, its error
    /// is forwarded.
    pub(super) fn engine_failed(&mut self) -> Result<(), End> {
        let name = self.request.parts().answer.lens.error().map(EngineError::record_code);
        match self.may_resume() {
            Resume::Selected => return Err(End::Interrupted(name.unwrap_or_default())),
            Resume::Impossible => {
                if let Some(strip) = &mut self.strip {
                    strip.release_failure(&mut self.out);
                    self.out.commit();
                }
            }
            Resume::LimitReached => {
                self.end_upstream(&Failure::UpstreamDied);
                self.end_with(Why::Length, "");
            }
        }
        Ok(())
    }

    /// Whether another backend resumes the stream. This requires that some, but not all, of the
    /// text was forwarded, and nothing that cannot be resumed.
    fn may_resume(&mut self) -> Resume {
        let Some(strip) = self.strip.as_mut().filter(|_| self.is_resumable && self.head.is_none())
        else {
            return Resume::Impossible;
        };
        let lens = &mut self.request.parts().answer.lens;
        // After a failure of the engine, its end marker does not count.
        let is_over = !strip.has_failed() && (lens.is_complete(1) || lens.error().is_some())
            || self.reader.as_ref().is_none_or(Reader::overflowed);
        if is_over || strip.resume_failed() || strip.text().is_none() {
            return Resume::Impossible;
        }
        let decision = self.request.resume(strip.text().unwrap_or_default());
        if decision != Resume::Impossible {
            let lens = &mut self.request.parts().answer.lens;
            strip.tear(lens, &mut self.out);
            lens.resume_point();
        }
        decision
    }

    /// End the answer if the guardrail requires it. `Some`: nothing was sent to the client, and the
    /// gateway answers instead.
    pub(super) fn end_by_guardrail(&mut self) -> Option<End> {
        let guardrail = self.guardrail.as_mut()?;
        let failure = guardrail.take_failure()?;
        let parts = self.request.parts();
        parts.verdict.decide(failure.outcome(), Some(failure.code()));
        parts.answer.ended_at.get_or_insert_with(clock::now);
        match (&failure, self.head.is_some()) {
            (Failure::Blocked { .. }, true) => {
                let body = guardrail.withheld();
                self.out = StreamBuffer::default();
                self.out.push(&body);
                if let Err(end) = self.write_held_head(true) {
                    return Some(end);
                }
            }
            (_, true) => return Some(End::Refused(failure)),
            (Failure::GuardrailUnavailable { .. } | Failure::Unreadable, false) => {
                self.write_error(&failure);
                self.out.commit();
                self.phase = Phase::Flushing(false);
                return None;
            }
            (_, false) => {
                let closing = guardrail
                    .closing_events((Why::Filtered, &failure.message()), &parts.answer.lens);
                self.out.push(closing.as_bytes());
            }
        }
        self.out.finish();
        self.phase = Phase::Flushing(true);
        None
    }

    /// A rate limit is exhausted for this stream. It ends after the current event.
    pub(super) fn end_for_budget(&mut self) -> Result<(), End> {
        let torn = self.reader.as_ref().is_none_or(|reader: &Reader| reader.unterminated() > 0);
        let choices = u32::try_from(self.context.choices).unwrap_or(u32::MAX);
        let over = self.request.parts().answer.lens.is_complete(choices);
        let Some(Exhausted { limit, on_exhausted, .. }) =
            self.exhausted.take_if(|_| !torn && !over)
        else {
            return Ok(());
        };
        let failure = Failure::BudgetExhausted { limit };
        if on_exhausted == OnExhausted::Error {
            return self.end_early(failure);
        }
        self.write_held_head(false)?;
        self.end_upstream(&failure);
        self.end_with(Why::Length, &failure.message());
        Ok(())
    }

    /// End the stream with the closing events of its dialect.
    fn end_with(&mut self, why: Why, message: &str) {
        let choices = u32::try_from(self.context.choices).unwrap_or(u32::MAX);
        let lens = &mut self.request.parts().answer.lens;
        if let Some(strip) = &mut self.strip {
            strip.flush(lens, &mut self.out);
        }
        let events = match (&mut self.guardrail, &self.closing) {
            (Some(guardrail), _) => {
                guardrail.release_all(clock::now(), &mut self.out);
                guardrail.closing_events((why, message), lens)
            }
            (None, Some(closing)) => {
                closing.events(&closing.open_choices(choices, lens), lens, (why, message))
            }
            (None, None) => return,
        };
        self.out.push(events.as_bytes());
        self.out.finish();
        self.phase = Phase::Flushing(true);
    }

    /// End the answer early. If its head is still held, the gateway answers instead; otherwise, the
    /// answer breaks off.
    pub(super) fn end_early(&mut self, failure: Failure) -> Result<(), End> {
        if self.head.is_some() {
            return Err(End::Refused(failure));
        }
        self.break_off(&failure);
        Ok(())
    }

    /// Stop reading upstream, and record the reason. If the engine has reported an error, that is
    /// the reason.
    fn end_upstream(&mut self, failure: &Failure) {
        let parts = self.request.parts();
        if let Some(error) = parts.answer.lens.error() {
            parts.verdict.decide(Outcome::UpstreamError, Some(&error.record_code()));
        }
        parts.verdict.decide(failure.outcome(), Some(failure.code()));
        parts.answer.ended_at = Some(clock::now());
        self.request.release_backend();
    }

    /// End the answer so that the client detects it as incomplete: a stream gets an error event in
    /// its dialect, and the connection closes without the end of the body.
    fn break_off(&mut self, failure: &Failure) {
        self.end_upstream(failure);
        let answer = self.request.parts().answer;
        if let (Some(strip), true) = (&mut self.strip, answer.streamed) {
            strip.flush(&mut answer.lens, &mut self.out);
        }
        if let Some(guardrail) = &mut self.guardrail {
            guardrail.release_all(clock::now(), &mut self.out);
        }
        self.write_error(failure);
        self.out.commit();
        self.phase = Phase::Flushing(false);
    }

    /// Queue an error event, if the answer is a stream of events, and the engine has sent none. A
    /// torn event is dropped; only one over the reader's limit was forwarded in part, and then no
    /// event can follow.
    fn write_error(&mut self, failure: &Failure) {
        let answer = self.request.parts().answer;
        let is_open = answer.streamed && !self.has_length && answer.lens.error().is_none();
        let has_forwarded = !self.guardrail.as_ref().is_some_and(OutputGuard::acts);
        let reader = self
            .reader
            .as_ref()
            .filter(|reader| is_open && !(has_forwarded && reader.is_skipping()));
        if let (Some(dialect), Some(_)) = (self.context.dialect, reader) {
            let events = answer.lens.counts().events;
            let error = GatewayError {
                status: failure.status(),
                kind: failure.kind(),
                code: failure.code(),
                message: &failure.message(),
                param: None,
                request_id: self.request.id(),
            };
            self.out.push(dialect.error_format().event(&error, events).as_bytes());
        }
    }

    pub(super) fn gone(&mut self) -> End {
        // Official clients close as soon as they have read `[DONE]`; the last chunk of the body may
        // still be in flight.
        let held = self.guardrail.as_ref().is_some_and(|guardrail| !guardrail.is_empty())
            || self.strip.as_ref().is_some_and(Strip::holds);
        let parts = self.request.parts();
        if parts.answer.lens.end().is_some() && self.out.is_empty() && !held {
            return End::Served;
        }
        // Clients leave when they read the engine's error, but its failure is the cause.
        let status = parts.answer.status.filter(|status| *status >= 400);
        let error = parts.answer.lens.error().map(EngineError::record_code);
        match error.or_else(|| status.map(|status| format!("http_{status}"))) {
            Some(code) => parts.verdict.decide(Outcome::UpstreamError, Some(&code)),
            None => parts.verdict.decide(Outcome::ClientGone, Some("client_closed")),
        }
        End::Gone
    }

    /// Handle an expired deadline. `None`: the answer had started, and its error event is still to
    /// be written.
    pub(super) fn timed_out(&mut self, expired: Expired) -> Option<End> {
        match (self.phase, expired) {
            (_, Expired::ClientWrite) => {
                self.request.parts().verdict.decide(Outcome::Timeout, Some("client_write_timeout"));
                Some(End::Gone)
            }
            (Phase::Sending | Phase::AwaitHead, expired) => Some(End::Refused(expired.failure())),
            (Phase::Flushing(_), _) => {
                self.request.parts().verdict.decide(Outcome::Timeout, Some("total_timeout"));
                Some(End::Broken)
            }
            (Phase::Body, Expired::BetweenEvents | Expired::BetweenTokens) => {
                self.interrupted(expired.failure()).err()
            }
            (Phase::Body | Phase::Judging, expired) => self.end_early(expired.failure()).err(),
        }
    }
}
