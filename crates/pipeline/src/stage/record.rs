//! Stage 13: writes the record.

use std::borrow::Cow;

use filters::Guardrail;
use lens::gaps::Gaps;
use lens::record::{MarksUs, Outcome, RecordUsage, SCHEMA};
use lens::stream::{Mark, Marks};
use lens::{
    EngineSplit, EventDelays, GuardrailOverhead, Ledger, Measured, Record, RecordGuardrail, State,
    Tick,
};
use observatory::SeriesKey;
use relay::{Answer, AnswerDelays, GuardrailResult};
use traffic::TokenUsage;
use traffic::settings::DOLLAR;

use crate::exchange::Exchange;
use crate::shared::worker;
use crate::stage::{accept, select};
use plan::clock;

/// Maximum bytes of a model name in a record.
const MAX_WORD: usize = 256;

/// Write the record of a request that has ended.
pub fn write(exchange: &mut Exchange, used: &TokenUsage) {
    let outcome = exchange.verdict.outcome().unwrap_or(Outcome::Ok);
    let counted = exchange.group().clone();
    flush_gaps(exchange);
    let record = record(exchange, outcome, used);
    let model = counted.group.model_number(record.model_requested.as_deref());
    let key = SeriesKey { group: counted.id, model, outcome };
    exchange.shared.observatory.finished(worker(), key, record, clock::now());
}

/// Flush the gathered gaps to the observatory. They count under the outcome `ok`, because the
/// outcome of a running stream is not known.
pub fn flush_gaps(exchange: &mut Exchange) {
    let counted = exchange.group();
    let model = exchange.inspected.facts.as_ref().and_then(|f| f.model.as_deref());
    let key = SeriesKey {
        group: counted.id,
        model: counted.group.model_number(model),
        outcome: Outcome::Ok,
    };
    let (itl, client_itl) = exchange.answer.lens.drain_gaps();
    if itl.len() + client_itl.len() > 0 {
        exchange.shared.observatory.gaps(worker(), key, itl, client_itl);
    }
}

/// Flush the times for which events were held to the observatory.
pub fn flush_holds(exchange: &Exchange, holds: &mut Gaps) {
    let counted = exchange.group();
    let model = exchange.inspected.facts.as_ref().and_then(|f| f.model.as_deref());
    let key = SeriesKey {
        group: counted.id,
        model: counted.group.model_number(model),
        outcome: Outcome::Ok,
    };
    let holds = holds.drain();
    if holds.len() > 0 {
        exchange.shared.observatory.holds(worker(), key, holds);
    }
}

#[expect(clippy::too_many_lines, reason = "a record has a line for each field")]
fn record(exchange: &mut Exchange, outcome: Outcome, used: &TokenUsage) -> Record {
    let cost = cost(exchange, used);
    let now = clock::now();
    exchange.ledger.switch(exchange.ledger.state(), now);
    let ledger_us = exchange.ledger.clone().close(now);
    let spans = exchange.spans.take();
    let (own_trace, own_flags) =
        spans.as_ref().map(|spans| (spans.trace_id.clone(), spans.flags)).unzip();
    let trace = spans.map(|spans| {
        let (lens, head) = (&exchange.answer.lens, exchange.accepted.head_at);
        Box::new(spans.record(&exchange.ledger, lens, &exchange.group().group, head))
    });
    let (accepted, answer, sent_at) =
        (&mut exchange.accepted, &mut exchange.answer, exchange.sent.at);
    let head = accepted.head_at;
    let marks = answer.lens.final_marks();
    let since_sent = |at: Option<Tick>| Some(at?.micros_since(sent_at?));
    let counts = *answer.lens.counts();
    if counts.not_understood > 0 {
        answer.not_parsed.get_or_insert("not_understood");
    }
    let is_resumed = !exchange.attempts.resumes.is_empty();
    let guardrail = exchange.routed.as_ref().and_then(|routed| routed.route.guardrail.as_ref());
    let measured = |n: u64| answer.measured.then_some(n);
    let streamed = |n: u64| (answer.measured && answer.streamed).then_some(n);
    Record {
        schema: SCHEMA,
        id: accepted.id.to_string(),
        unique_id: accepted.unique_id.as_deref().map(str::to_owned),
        parent_span_id: accepted.trace.as_ref().map(|trace| trace.span_id.clone()),
        trace_flags: accepted.trace.as_ref().map(|trace| trace.flags).or(own_flags),
        trace_id: accepted.trace.take().map(|trace| trace.trace_id).or(own_trace),
        trace,
        started_at: accepted.started_at,
        route: exchange.routed.as_ref().map_or_else(
            || exchange.plan.no_route_group.group.route.clone(),
            |r| r.route.route.name.clone(),
        ),
        backend: exchange.routed.as_ref().and_then(|r| Some(r.upstream()?.backend.name.clone())),
        routing: select::write_down(&mut exchange.attempts, exchange.routed.as_ref()),
        dialect: exchange
            .routed
            .as_ref()
            .map_or(accepted.dialect, |r| r.dialect)
            .map(|d| Cow::Borrowed(d.name())),
        endpoint: std::mem::take(&mut accepted.endpoint),
        caller: exchange.caller.as_ref().map(|caller| caller.id.clone()),
        owner: exchange.caller.take().map(|caller| caller.owner.clone()),
        cost,
        model_requested: exchange
            .inspected
            .facts
            .as_mut()
            .and_then(|f| f.model.take())
            .map(|model| bounded(accept::mask_keys(&model).into_owned())),
        model_answered: answer.lens.model().map(str::to_owned),
        http_status: answer.status,
        stream: answer.streamed,
        outcome,
        error_code: exchange.verdict.code.take(),
        engine_error: answer
            .lens
            .error()
            .and_then(|error| error.code.clone().or(error.kind.clone())),
        finish_reasons: answer.lens.finish_reasons().to_vec(),
        usage: usage(&answer.lens, used),
        not_parsed: answer.not_parsed.map(Cow::Borrowed),
        events: measured(counts.events),
        content_events: streamed(counts.content_events),
        comments: streamed(counts.comments),
        bytes_from_client: accepted.bytes,
        bytes_to_client: answer.bytes_to_client,
        sent_us: sent_at.map(|at| at.micros_since(head)),
        marks_us: MarksUs::from_marks(&marks, head),
        engine_us: since_sent(answer.ended_at),
        engine_ttft_us: since_sent(marks.first_token.arrival),
        engine_split: engine_split(answer, sent_at).filter(|_| !is_resumed),
        client_ttft_us: marks.first_token.written.map(|at| at.micros_since(head)),
        tpot_us: answer.lens.tpot_us(),
        itl_us: answer.lens.itl().summary(),
        client_itl_us: answer.lens.client_itl().summary(),
        client_itl_sketch: answer.lens.client_itl().take_sketch(),
        event_times: answer.lens.take_times(head),
        stalls: streamed(counts.stalls),
        coalesced_events: streamed(counts.coalesced),
        read_lag_us: answer.read_lag.summary(),
        guardrail_overhead: guardrail.map(|_| {
            let delays = delays(&exchange.guarded, &exchange.ledger, &marks);
            let ttft = marks.first_token.written.map(|at| at.micros_since(head));
            GuardrailOverhead::new(&ledger_us, exchange.guarded.judged / 1000, delays, ttft)
        }),
        guardrail: guardrail.map(|guardrail| {
            Box::new(record_guardrail(guardrail, std::mem::take(&mut exchange.guarded)))
        }),
        total_us: ledger_us.total(),
        ledger_us,
    }
}

/// How the engine splits its time, if it reports that.
fn engine_split(answer: &Answer, sent_at: Option<Tick>) -> Option<EngineSplit> {
    let since_sent = |at: Option<Tick>| Some(at?.micros_since(sent_at?));
    let marks = answer.lens.marks();
    let (first, last) = (marks.first_token.arrival, marks.last_token.arrival);
    EngineSplit::new(
        answer.lens.engine_times(),
        Measured {
            stream: answer.streamed,
            ttft_us: since_sent(first),
            decode_us: first.zip(last).map(|(first, last)| last.micros_since(first)),
            engine_us: since_sent(answer.ended_at),
        },
    )
}

/// How much later events were sent than without the guardrail. A guardrail that does not read the
/// answer delays all of it by the checks of the prompt.
fn delays(guarded: &GuardrailResult, ledger: &Ledger, marks: &Marks) -> EventDelays {
    let prompt = ledger.nanos(State::GuardrailInput);
    let answer = guarded.delays.unwrap_or_else(|| {
        let none = |mark: Mark| mark.written.map(|_| 0);
        let [first_event, first_token] = [marks.first_event, marks.first_token].map(none);
        AnswerDelays { first_event, first_token, last_event: none(marks.first_byte) }
    });
    let all = |nanos: Option<u64>| nanos.map(|nanos| (prompt + nanos) / 1000);
    EventDelays {
        first_event: all(answer.first_event),
        first_token: all(answer.first_token),
        last_event: all(answer.last_event),
    }
}

/// Cost in dollars; `None` if the model has no price.
fn cost(exchange: &Exchange, used: &TokenUsage) -> Option<f64> {
    let model = exchange.inspected.facts.as_ref()?.model.as_deref().unwrap_or_default();
    exchange
        .plan
        .rate_limits
        .price(model)
        .map(|price| used.cost(Some(price)) as f64 / DOLLAR as f64)
}

fn record_guardrail(guardrail: &Guardrail, found: GuardrailResult) -> RecordGuardrail {
    let verdict = verdict(&found);
    RecordGuardrail {
        guardrail: guardrail.settings.name.clone(),
        mode: Cow::Borrowed(if guardrail.settings.observe { "observe" } else { "enforce" }),
        input: found.input,
        output: found.output,
        held_events: found.held_events,
        held_bytes_max: found.held_bytes_max,
        hold_us: found.hold,
        verdict,
        risk: found.risk,
        level: found.level.into(),
        filters: found.accounts,
    }
}

/// The guardrail's verdict on prompt and answer; in observe mode, what would have been done.
fn verdict(found: &GuardrailResult) -> Cow<'static, str> {
    let word = if found.word.is_empty() { "pass" } else { found.word };
    found
        .accounts
        .iter()
        .map(|account| account.verdict.clone())
        .fold(Cow::Borrowed(word), filters::more_severe)
}

/// Truncate a model name from a client: thousands of records are kept in memory.
fn bounded(mut word: String) -> String {
    if word.len() > MAX_WORD {
        let end = (0..=MAX_WORD).rev().find(|at| word.is_char_boundary(*at)).unwrap_or(0);
        word.truncate(end);
        word.shrink_to_fit();
    }
    word
}

/// The reported usage, and what was charged where the engine reported nothing.
fn usage(lens: &lens::StreamLens, used: &TokenUsage) -> Option<RecordUsage> {
    let charged = |tokens: u64| (tokens > 0).then_some(tokens);
    let stated = lens.usage().unwrap_or_default();
    let (prompt_tokens, is_derived) = lens.prompt_tokens();
    let prompt_estimated = prompt_tokens.is_none() || is_derived;
    let prompt_tokens = prompt_tokens.or(charged(used.input));
    let (generated, estimated) = lens.completion_tokens();
    let completion_tokens = if estimated { charged(used.output).or(generated) } else { generated };
    let known = completion_tokens.is_some() || prompt_tokens.is_some();
    known.then_some(RecordUsage {
        prompt_tokens,
        prompt_estimated: prompt_estimated && prompt_tokens.is_some(),
        completion_tokens,
        reasoning_tokens: stated.reasoning_tokens,
        cached_tokens: stated.cached_tokens,
        cache_write_tokens: stated.cache_creation_tokens,
        estimated: estimated && completion_tokens.is_some(),
    })
}
