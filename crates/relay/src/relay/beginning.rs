//! The ways in which an answer begins: heard at once, kept back until somebody knows what it is, or gone on with where another's broke off.
//!
//! - *In*: the head of an answer, and what comes of it before its first token.
//! - *Out*: what reads and changes the answer from here on; the head for the client, or an [`End`] that leaves the client for another backend.
//! - *Never*: a head that is told while another backend could still give a better answer.

use lens::{EngineError, State, StreamLens, Tick};
use wire::{Framing, Reader};

use super::budget::Budget;
use super::gate::Gate;
use super::{End, Phase, Relay, Step, Strip};
use crate::clock;
use crate::downstream::{Gone, Sink, buffer};
use crate::exchange::{Exchange, Routed};
use crate::respond::Refusal;
use crate::stage::{admit, choose};
use crate::upstream::{AnswerHead, Source};

/// Most bytes of an answer without a token that are kept back.
const WAITING: usize = 16 << 10;

impl<S: Source, D: Sink> Relay<'_, S, D> {
    /// The answer begins. Its head and the body bytes that came with it leave together.
    pub(super) fn begin(&mut self, mut head: AnswerHead, cx: &mut std::task::Context<'_>) -> Result<Step, End> {
        let kept_until = choose::hear_of_race(self.exchange, self.source.take_news());
        if let Some(upstream) = self.exchange.routed.as_ref().and_then(Routed::upstream) {
            upstream.heed(&head, self.exchange.course.with_credential);
        }
        if self.is_worth_another(head.status) && choose::may_go_on(self.exchange) {
            return Err(End::Again(head.status));
        }
        if self.resumes {
            return self.resume(&head, kept_until, cx);
        }
        self.first_byte_read(head.first_byte, kept_until);
        let exchange = &mut *self.exchange;
        exchange.answer.status = Some(head.status);
        let streamed = matches!(head.framing, Framing::Sse | Framing::Ndjson);
        let Some(routed) = &exchange.routed else { return Err(End::Broken) };
        exchange.answer.streamed = streamed;
        exchange.answer.lens = StreamLens::new(streamed, routed.route.stall_ns);
        exchange.answer.lens.first_byte(head.first_byte);
        exchange.answer.not_parsed = match (routed.dialect, head.framing) {
            _ if head.encoded => Some("compressed"),
            (None, _) => Some("no_dialect"),
            (_, Framing::Opaque) => Some("content_type"),
            _ => None,
        };
        if let (Some(dialect), None) = (routed.dialect, exchange.answer.not_parsed) {
            let echo = exchange.inspected.facts.as_ref().is_some_and(|f| f.echo);
            self.reader = Some(Reader::new(dialect, head.framing, exchange.plan.reader_limits).expecting_echo(echo));
            exchange.answer.measured = true;
            let takes_usage = exchange.sent.usage_asked && streamed;
            match routed.route.guard.as_ref().filter(|guard| guard.reads_answers()) {
                Some(guard) => self.gate = Some(Gate::new(exchange, guard, (dialect, head.framing), takes_usage)),
                None => {
                    self.continues = streamed && head.status == 200 && exchange.course.continues();
                    self.strip = (takes_usage || self.continues).then(|| Strip::new(takes_usage, self.continues));
                }
            }
            if streamed && !exchange.charge.is_empty() {
                self.budget = Some(Budget::new(dialect, head.framing));
            }
            if self.gate.as_ref().is_some_and(Gate::alters) || self.strip.is_some() || self.budget.is_some() {
                head.length = None;
            }
        } else if head.status < 400 && routed.route.guard.as_ref().is_some_and(|guard| guard.alters_answers()) {
            return Err(End::Refused(Refusal::unreadable_answer()));
        }
        // A whole answer is decided before the client hears of it: then it may still be another one.
        let is_judged = head.framing == Framing::Json && self.gate.as_ref().is_some_and(Gate::acts);
        self.waits_for_token = !is_judged && head.status < 400 && self.reader.is_some() && choose::keeps_back(self.exchange);
        if is_judged || self.waits_for_token {
            self.head = Some(head);
        } else {
            self.tell_head(head)?;
        }
        self.phase = Phase::Body;
        self.watch.moved(clock::now());
        self.step_body(cx).map(|_| Step::Moved)
    }

    fn is_worth_another(&self, status: u16) -> bool {
        self.exchange.routed.as_ref().and_then(Routed::upstream).is_some_and(|upstream| upstream.is_worth_another(status))
    }

    /// Account for the first byte. While it was kept back, what came after it was waited for.
    fn first_byte_read(&mut self, at: Tick, kept_until: Option<Tick>) {
        let ledger = &mut self.exchange.ledger;
        ledger.switch(State::Gateway, at);
        if let Some(until) = kept_until {
            ledger.switch(State::AwaitToken, at);
            ledger.switch(State::Gateway, until);
        }
    }

    /// Another backend goes on with a stream. It must answer as the one before it did; else the next one may.
    fn resume(&mut self, head: &AnswerHead, kept_until: Option<Tick>, cx: &mut std::task::Context<'_>) -> Result<Step, End> {
        if head.status != 200 || head.framing != Framing::Sse || head.encoded {
            return Err(End::Again(head.status));
        }
        self.first_byte_read(head.first_byte, kept_until);
        let exchange = &mut *self.exchange;
        let Some(dialect) = exchange.routed.as_ref().and_then(|routed| routed.dialect) else { return Err(End::Broken) };
        self.reader = Some(Reader::new(dialect, head.framing, exchange.plan.reader_limits));
        (self.resumes, self.continues, exchange.answer.ended_at) = (false, true, None);
        choose::resumed(exchange);
        if let (Some(mark), Some(strip)) = (choose::seam_mark(exchange), &mut self.strip) {
            strip.add(&mark, &mut self.out);
        }
        self.phase = Phase::Body;
        self.watch.moved(clock::now());
        self.step_body(cx).map(|_| Step::Moved)
    }

    /// The client hears of the answer.
    pub(super) fn tell_head(&mut self, mut head: AnswerHead) -> Result<(), End> {
        if !self.exchange.charge.is_empty() {
            head.fields = without_rate_limits(&head.fields);
        }
        self.exchange.course.commit();
        self.has_length = head.length.is_some();
        let extra = extra_fields(self.exchange, head.first_byte);
        self.sink.begin(&head, &extra, &mut self.out).map_err(|Gone| self.gone())?;
        buffer::give(head.fields);
        Ok(())
    }

    /// An answer that waited for its first token has it, or is too long to wait. An error in its place may be somebody else's chance.
    pub(super) fn show_what_waited(&mut self) -> Result<(), End> {
        if !self.waits_for_token || matches!(self.phase, Phase::Flushing(_)) {
            return Ok(());
        }
        let lens = &self.exchange.answer.lens;
        let (has_token, has_failed) = (lens.marks().first_token.arrival.is_some(), lens.error().is_some());
        let status = lens.error().map_or(200, EngineError::status);
        if has_failed && !has_token && self.is_worth_another(status) && choose::may_go_on(self.exchange) {
            return Err(End::Again(status));
        }
        if has_token || has_failed || self.out.len() >= WAITING {
            self.waits_for_token = false;
            return self.tell_withheld_head(false);
        }
        Ok(())
    }
}

/// An engine's own limits are the operator's business, and would contradict ours.
fn without_rate_limits(fields: &[u8]) -> Vec<u8> {
    let is_one = |line: &&[u8]| line.get(..12).is_some_and(|name| name.eq_ignore_ascii_case(b"x-ratelimit-"));
    fields.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_one(line)).flatten().copied().collect()
}

/// The fields of our own that an answer gets.
fn extra_fields(exchange: &Exchange, first_byte: Tick) -> String {
    let mut extra = format!("x-request-id: {}\r\n", exchange.accepted.id);
    extra.push_str(exchange.cors.as_deref().unwrap_or_default());
    extra.push_str(&admit::fields(exchange));
    extra.push_str(&choose::field(exchange));
    if exchange.routed.as_ref().is_some_and(|r| r.route.route.security_headers) {
        let (guarded, measured) = (&exchange.guarded, if exchange.answer.measured { "events" } else { "bytes" });
        if exchange.guard().is_some() {
            let word = if guarded.word.is_empty() { "pass" } else { guarded.word };
            extra.push_str(&format!("x-security-validated: {word}; risk={:.2}; level={}\r\n", guarded.risk, guarded.level));
        }
        extra.push_str(&format!("x-latency-monitored: {measured}\r\n"));
    }
    if exchange.routed.as_ref().is_some_and(|r| r.route.route.server_timing) {
        let ms = |state| exchange.ledger.nanos(state) as f64 / 1e6;
        let wait = exchange.sent.at.map_or(0.0, |at| first_byte.nanos_since(at) as f64 / 1e6);
        extra.push_str(&format!(
            "server-timing: read;dur={:.3}, connect;dur={:.3}, send;dur={:.3}, engine;dur={wait:.3}, gateway;dur={:.3}\r\n",
            ms(State::ReadRequest),
            ms(State::Connect),
            ms(State::Send),
            ms(State::Gateway),
        ));
    }
    extra
}
