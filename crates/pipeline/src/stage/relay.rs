//! The relay's interface to the exchange and to the other stages.

use std::sync::atomic::Ordering;

use lens::gaps::Gaps;
use lens::{State, Tick};
use relay::{Context, GuardrailTools, Note, Parts, Request, Resume, TokenTimeouts};
use traffic::Exhausted;
use transport::AnswerHead;
use wire::Dialect;

use crate::exchange::{Exchange, Routed};
use crate::stage::hedge::HedgedCall;
use crate::stage::{audit, hedge, rate_limit, record, select};
use plan::clock::when;

/// What does not change while an answer is relayed.
pub fn context(exchange: &Exchange) -> Context {
    let routed = exchange.routed.as_ref();
    let timeouts = exchange.timeouts();
    let p95 = || routed.and_then(Routed::upstream)?.member.p95();
    let token_timeouts = match exchange.wants_stream() {
        true => TokenTimeouts {
            first: timeouts.first_token.limit(p95),
            between: timeouts.between_tokens,
        },
        false => TokenTimeouts::default(),
    };
    Context {
        drain: exchange.shared.drain.clone(),
        token_timeouts,
        head_at: exchange.accepted.head_at,
        timeouts,
        ring: exchange.plan.settings.limits.stream_buffer,
        dialect: routed.and_then(|routed| routed.dialect),
        reader_limits: exchange.plan.reader_limits,
        echoes_prompt: exchange.inspected.facts.as_ref().is_some_and(|facts| facts.echo),
        choices: rate_limit::choices(exchange),
        max_tokens: rate_limit::max_output(exchange),
        stall_ns: routed.map_or(u64::MAX, |routed| routed.route.stall_ns),
        guardrail: exchange.guardrail(),
        usage_of_prompt: usage_of_prompt(exchange),
    }
}

/// Tokens of the prompt, if the client expects usage at the end of its stream. Streams of Responses
/// and Ollama always have it.
fn usage_of_prompt(exchange: &Exchange) -> Option<u64> {
    let dialect = exchange.routed.as_ref()?.dialect?;
    let asked = exchange.inspected.facts.as_ref()?.include_usage == Some(true);
    let expects = match dialect {
        Dialect::OpenAiResponses | Dialect::Ollama => true,
        _ => dialect.takes_stream_options() && asked,
    };
    expects.then_some(exchange.expected.input)
}

impl Request<HedgedCall> for Exchange {
    fn id(&self) -> &str {
        &self.accepted.id
    }

    fn parts(&mut self) -> Parts<'_> {
        Parts {
            ledger: &mut self.ledger,
            sent: &mut self.sent,
            answer: &mut self.answer,
            guarded: &mut self.guarded,
            verdict: &mut self.verdict,
        }
    }

    fn head_received(&mut self, head: &AnswerHead, source: &mut HedgedCall) {
        hedge::apply(self, source.take_outcome());
        if let Some(upstream) = self.routed.as_ref().and_then(Routed::upstream) {
            upstream.apply_retry_after(head, self.attempts.with_credential);
        }
    }

    fn retry(&mut self, status: u16) -> bool {
        let upstream = self.routed.as_ref().and_then(Routed::upstream);
        upstream.is_some_and(|upstream| upstream.is_retryable(status)) && select::may_retry(self)
    }

    fn commit(&mut self) {
        self.attempts.commit();
    }

    fn fields(&mut self, first_byte: Tick) -> String {
        fields(self, first_byte)
    }

    fn is_charged(&self) -> bool {
        !self.charge.is_empty()
    }

    fn charge(&mut self) -> Option<Exhausted> {
        let used = rate_limit::used(self);
        self.charge.grow(&used, when())
    }

    fn first_token(&mut self) {
        select::report_first_token(self);
    }

    fn release_backend(&mut self) {
        let used = rate_limit::total_used(self);
        self.leave(&used);
    }

    fn is_resumable(&self) -> bool {
        self.attempts.resumable.is_some()
    }

    fn resume(&mut self, text: &str) -> Resume {
        select::may_resume(self, text)
    }

    fn resumed(&mut self) -> Option<String> {
        select::resumed(self);
        select::resume_mark(self)
    }

    fn flush_gaps(&mut self) {
        record::flush_gaps(self);
    }

    fn flush_holds(&mut self, holds: &mut Gaps) {
        record::flush_holds(self, holds);
    }

    fn queued(&mut self, change: i64) {
        self.group().in_flight.ring_bytes.fetch_add(change, Ordering::Relaxed);
        self.shared.memory.change(change);
    }

    fn guardrail_tools(&self) -> GuardrailTools {
        GuardrailTools {
            host: self.plan.host.clone(),
            hasher: self.shared.audit.as_ref().map(|audit| audit.hasher.clone()),
        }
    }

    fn audit(&mut self, notes: &[Note]) {
        audit::write_findings(self, notes);
    }
}

/// The field `x-security-validated` with the guardrail's verdict on the prompt, or with `word`
/// where no filter gave one; empty unless the route has `security_headers`.
pub fn security_field(exchange: &Exchange, word: &str) -> String {
    let wanted = exchange.routed.as_ref().is_some_and(|routed| {
        routed.route.route.security_headers && routed.route.guardrail.is_some()
    });
    let guarded = &exchange.guarded;
    let word = if guarded.word.is_empty() { word } else { guarded.word };
    if !wanted || word.is_empty() {
        return String::new();
    }
    if guarded.level.is_empty() {
        // The prompt was refused before it had a risk.
        return format!("x-security-validated: {word}\r\n");
    }
    format!("x-security-validated: {word}; risk={:.2}; level={}\r\n", guarded.risk, guarded.level)
}

/// The gateway's own fields of an answer's head.
fn fields(exchange: &Exchange, first_byte: Tick) -> String {
    let mut fields = format!("x-request-id: {}\r\n", exchange.accepted.id);
    fields.push_str(exchange.cors.as_deref().unwrap_or_default());
    fields.push_str(&rate_limit::fields(exchange));
    fields.push_str(&select::backend_field(exchange));
    if exchange.routed.as_ref().is_some_and(|r| r.route.route.security_headers) {
        let measured = if exchange.answer.measured { "events" } else { "bytes" };
        fields.push_str(&security_field(exchange, "pass"));
        fields.push_str(&format!("x-latency-monitored: {measured}\r\n"));
    }
    if exchange.routed.as_ref().is_some_and(|r| r.route.route.server_timing) {
        let ms = |state| exchange.ledger.nanos(state) as f64 / 1e6;
        let wait = exchange.sent.at.map_or(0.0, |at| first_byte.nanos_since(at) as f64 / 1e6);
        fields.push_str(&format!(
            "server-timing: read;dur={:.3}, connect;dur={:.3}, send;dur={:.3}, engine;dur={wait:.3}, gateway;dur={:.3}\r\n",
            ms(State::ReadRequest),
            ms(State::Connect),
            ms(State::Send),
            ms(State::Gateway),
        ));
    }
    fields
}
