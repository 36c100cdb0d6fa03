//! The ways in which an answer ends: whole, blocked, broken off, too late, or without anybody left to hear it.
//!
//! - *In*: why it ends, and how much the client has heard.
//! - *Out*: the last words in the dialect of the answer, and an [`End`] or [`Phase::Flushing`].
//! - *Never*: a proper end of the body on an answer that is not whole.

use traffic::Exhausted;
use traffic::settings::AtEnd;
use lens::record::Outcome;
use wire::ending::Why;
use wire::{Framing, Reader};

use super::gate::{Gate, Stop};
use super::{End, Phase, Relay, Strip, watch};
use crate::clock;
use crate::downstream::Sink;
use crate::downstream::out::Out;
use crate::respond::Refusal;
use crate::stage::{admit, choose};
use crate::upstream::Source;

impl<S: Source, D: Sink> Relay<'_, S, D> {
    /// Everything was said and judged: what is left goes, and that is the end.
    pub(super) fn end_answer(&mut self) -> Result<(), End> {
        if let Some(gate) = &mut self.gate {
            gate.rest(&mut self.out);
        }
        if let Some(end) = self.heed_stop() {
            return Err(end);
        }
        // A stop has ended it in its own way.
        if !matches!(self.phase, Phase::Flushing(_)) {
            self.tell_withheld_head(true)?;
            self.out.finish();
            self.phase = Phase::Flushing(true);
        }
        Ok(())
    }

    /// The head goes before its body, which is in the queue already, to its end or not.
    pub(super) fn tell_withheld_head(&mut self, is_whole: bool) -> Result<(), End> {
        let Some(mut head) = self.head.take() else { return Ok(()) };
        self.waits_for_token = false;
        let mut body = std::mem::take(&mut self.out);
        body.commit();
        if is_whole && head.framing == Framing::Json {
            head.length = Some(body.len() as u64);
        }
        self.tell_head(head)?;
        self.out.push(body.pending());
        self.out.commit();
        Ok(())
    }

    /// The backend has died. Whether another one may go on: something was said, not all, and nothing that nobody else can go on with.
    pub(super) fn may_be_continued(&mut self) -> bool {
        let Some(strip) = self.strip.as_mut().filter(|_| self.continues && self.head.is_none()) else { return false };
        let lens = &mut self.exchange.answer.lens;
        let is_over = lens.is_complete(1) || lens.error().is_some() || self.reader.as_ref().is_none_or(Reader::overflowed);
        if is_over || strip.begins_anew() || strip.said().is_none() {
            return false;
        }
        strip.tear(lens, &mut self.out);
        let said = strip.said().unwrap_or_default();
        let may = choose::may_continue(self.exchange, said);
        if may {
            self.exchange.answer.lens.seam();
        }
        may
    }

    /// A filter has ended the answer. `Some`: the client has heard nothing of it yet and gets another.
    pub(super) fn heed_stop(&mut self) -> Option<End> {
        let gate = self.gate.as_mut()?;
        let stop = gate.take_stop()?;
        let refusal = stop.refusal();
        self.exchange.verdict.decide(refusal.outcome, Some(refusal.code));
        self.exchange.answer.ended_at.get_or_insert_with(clock::now);
        match (&stop, self.head.is_some()) {
            (Stop::Blocked { .. }, true) => {
                let body = gate.withheld();
                self.out = Out::default();
                self.out.push(&body);
                if let Err(end) = self.tell_withheld_head(true) {
                    return Some(end);
                }
            }
            (_, true) => return Some(End::Refused(refusal)),
            (Stop::Failed { .. } | Stop::Unreadable, false) => {
                self.say_error(refusal.code, &refusal.message);
                self.out.commit();
                self.phase = Phase::Flushing(false);
                return None;
            }
            (_, false) => {
                let words = gate.closing_events((Why::Filtered, &refusal.message), &self.exchange.answer.lens);
                self.separate();
                self.out.push(words.as_bytes());
            }
        }
        self.out.finish();
        self.phase = Phase::Flushing(true);
        None
    }

    /// A limit has nothing left for this stream. It ends where an event does; until then it goes on.
    pub(super) fn end_for_budget(&mut self) -> Result<(), End> {
        let exchange = &mut *self.exchange;
        let choices = admit::choices(exchange);
        let torn = self.reader.as_ref().is_none_or(|reader: &Reader| reader.unterminated() > 0);
        let over = exchange.answer.lens.is_complete(u32::try_from(choices).unwrap_or(u32::MAX));
        let Some(Exhausted { limit, at_end, .. }) = self.exhausted.take_if(|_| !torn && !over) else { return Ok(()) };
        let refusal = Refusal::budget_exhausted(&limit);
        if at_end == AtEnd::Error {
            return self.end_early(refusal);
        }
        // What was kept back until the first token is an answer now, however short.
        self.tell_withheld_head(false)?;
        let exchange = &mut *self.exchange;
        exchange.verdict.decide(refusal.outcome, Some(refusal.code));
        exchange.answer.ended_at = Some(clock::now());
        exchange.leave();
        if let Some(strip) = &mut self.strip {
            strip.flush(&mut exchange.answer.lens, &mut self.out);
        }
        let lens = &exchange.answer.lens;
        // It stands in JSON where a dialect has no word for it.
        let said = refusal.message.replace(['"', '\\'], "'");
        let words = match (&mut self.gate, &self.budget) {
            (Some(gate), _) => {
                gate.let_go(clock::now(), &mut self.out);
                gate.closing_events((Why::Length, &said), lens)
            }
            (None, Some(budget)) => budget.closing_events(choices, lens, &said),
            (None, None) => return Ok(()),
        };
        self.out.push(words.as_bytes());
        self.out.finish();
        self.phase = Phase::Flushing(true);
        Ok(())
    }

    /// The answer ends here for a reason of ours or the backend's: by an answer of our own where the client has heard of none.
    pub(super) fn end_early(&mut self, refusal: Refusal) -> Result<(), End> {
        if self.head.is_some() {
            return Err(End::Refused(refusal));
        }
        self.break_off(refusal.outcome, refusal.code, &refusal.message);
        Ok(())
    }

    /// The answer ends here, and the client shall see that it is no proper end: an error event in its own dialect where
    /// events flow, and a connection that closes without the end of the body.
    fn break_off(&mut self, outcome: Outcome, code: &str, message: &str) {
        let exchange = &mut *self.exchange;
        exchange.verdict.decide(outcome, Some(code));
        exchange.answer.ended_at = Some(clock::now());
        exchange.leave();
        if let (Some(strip), true) = (&mut self.strip, exchange.answer.streamed) {
            strip.flush(&mut exchange.answer.lens, &mut self.out);
        }
        if let Some(gate) = &mut self.gate {
            gate.let_go(clock::now(), &mut self.out);
        }
        self.say_error(code, message);
        self.out.commit();
        self.phase = Phase::Flushing(false);
    }

    /// An error event, where events flow.
    fn say_error(&mut self, code: &str, message: &str) {
        let dialect = self.exchange.routed.as_ref().and_then(|r| r.dialect);
        let events_flow = self.exchange.answer.streamed && !self.has_length;
        if let (Some(dialect), Some(_), true) = (dialect, &self.reader, events_flow) {
            self.separate();
            let message = message.replace(['"', '\\'], "'");
            self.out.push(dialect.error_event(&message, code).as_bytes());
        }
    }

    /// End an event that was torn, so that the next is one.
    fn separate(&mut self) {
        let torn = self.reader.as_ref().is_some_and(|reader| reader.unterminated() > 0);
        // What a gate that alters has of a torn event stays with it.
        if torn && !self.gate.as_ref().is_some_and(Gate::alters) {
            self.out.push(b"\n\n");
        }
    }

    pub(super) fn gone(&mut self) -> End {
        // Official clients close as soon as they have read `[DONE]`; the last chunk of the body may still be on its way.
        let held = self.gate.as_ref().is_some_and(|gate| !gate.is_empty()) || self.strip.as_ref().is_some_and(Strip::keeps);
        if self.exchange.answer.lens.end().is_some() && self.out.is_empty() && !held {
            return End::Served;
        }
        self.exchange.verdict.decide(Outcome::ClientGone, Some("client_closed"));
        End::Gone
    }

    /// A deadline has passed. `None`: the answer had begun and now ends with an error event that must still be written.
    pub(super) fn timed_out(&mut self, expired: watch::Expired) -> Option<End> {
        match (self.phase, expired) {
            (_, watch::Expired::ClientWrite) => {
                self.exchange.verdict.decide(Outcome::Timeout, Some("client_write_timeout"));
                Some(End::Gone)
            }
            (Phase::Body, watch::Expired::BetweenEvents) if self.may_be_continued() => Some(End::Cut),
            (Phase::Sending | Phase::AwaitHead, expired) => Some(End::Refused(expired.refusal())),
            (Phase::Flushing(_), _) => {
                self.exchange.verdict.decide(Outcome::Timeout, Some("total_timeout"));
                Some(End::Broken)
            }
            (Phase::Body | Phase::Judging, expired) => self.end_early(expired.refusal()).err(),
        }
    }
}
