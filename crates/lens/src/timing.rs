//! The timed intervals of a request.
//!
//! - *In*: a finished [`Record`].
//! - *Out*: its value of each timing.
//! - *Never*: a gap between tokens. The record has a summary of them; series count each one.

use crate::guardrail::GuardrailOverhead;
use crate::ledger::State;
use crate::record::{MarkUs, Record};

/// A timed interval, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Request head read to the end of the exchange.
    Total,
    /// Last request byte written upstream to the end of the answer.
    Engine,
    /// Last request byte written upstream to the first token event read.
    EngineTtft,
    /// Request head read to the first token event written to the client.
    ClientTtft,
    /// Time per output token after the first, of requests whose tokens the engine counted.
    Tpot,
    /// The same, of requests whose tokens are estimated.
    EstimatedTpot,
    /// Waiting in the engine's queue, as the engine reports it.
    EngineQueue,
    /// Processing the prompt, as the engine reports it.
    EnginePrefill,
    /// Generating from the first to the last token, as the engine reports it.
    EngineDecode,
    /// Measured engine time that the engine's report does not explain.
    EngineUnexplained,
    /// A gap between two token events, on arrival.
    Itl,
    /// A gap between two token events, on write.
    ClientItl,
    /// Last request byte written upstream to the first byte of the answer.
    FirstByte,
    /// Last request byte written upstream to the first event of any kind.
    FirstEvent,
    /// Last request byte written upstream to the first role-only event.
    Role,
    /// Last request byte written upstream to the first reasoning text.
    Reasoning,
    /// Last request byte written upstream to the first content text.
    Content,
    /// Last request byte written upstream to the first tool call.
    ToolCall,
    /// The gateway's own work, without waits.
    Gateway,
    /// Waiting for rate limits and for admission.
    Queue,
    /// Guardrail detectors on the prompt.
    Validation,
    /// Guardrail judges on the prompt.
    ThreatDetection,
    /// Guardrail checks of the answer.
    OutputFiltering,
    /// Waiting only because a guardrail holds text.
    Hold,
    /// Total guardrail time.
    Guardrail,
    /// How much later the first event was sent because of the guardrail.
    FirstEventDelay,
    /// How much later the last event was sent because of the guardrail.
    LastEventDelay,
    /// How much later the first token was sent because of the guardrail.
    AddedTtft,
    /// Client TTFT without guardrail time.
    TtftWithoutGuardrail,
    /// Arrival to release of an event that a guardrail held.
    EventHold,
}

impl Timing {
    /// All timings.
    pub const ALL: [Timing; 30] = [
        Timing::Total,
        Timing::Engine,
        Timing::EngineTtft,
        Timing::ClientTtft,
        Timing::Tpot,
        Timing::EstimatedTpot,
        Timing::EngineQueue,
        Timing::EnginePrefill,
        Timing::EngineDecode,
        Timing::EngineUnexplained,
        Timing::Itl,
        Timing::ClientItl,
        Timing::FirstByte,
        Timing::FirstEvent,
        Timing::Role,
        Timing::Reasoning,
        Timing::Content,
        Timing::ToolCall,
        Timing::Gateway,
        Timing::Queue,
        Timing::Validation,
        Timing::ThreatDetection,
        Timing::OutputFiltering,
        Timing::Hold,
        Timing::Guardrail,
        Timing::FirstEventDelay,
        Timing::LastEventDelay,
        Timing::AddedTtft,
        Timing::TtftWithoutGuardrail,
        Timing::EventHold,
    ];

    /// The name in the admin interface.
    pub fn name(self) -> &'static str {
        match self {
            Timing::Total => "total",
            Timing::Engine => "engine",
            Timing::EngineTtft => "engine_ttft",
            Timing::ClientTtft => "client_ttft",
            Timing::Tpot => "tpot",
            Timing::EstimatedTpot => "estimated_tpot",
            Timing::EngineQueue => "engine_queue",
            Timing::EnginePrefill => "engine_prefill",
            Timing::EngineDecode => "engine_decode",
            Timing::EngineUnexplained => "engine_unexplained",
            Timing::Itl => "itl",
            Timing::ClientItl => "client_itl",
            Timing::FirstByte => "first_byte",
            Timing::FirstEvent => "first_event",
            Timing::Role => "role",
            Timing::Reasoning => "reasoning",
            Timing::Content => "content",
            Timing::ToolCall => "tool_call",
            Timing::Gateway => "gateway",
            Timing::Queue => "queue",
            Timing::Validation => "validation",
            Timing::ThreatDetection => "threat_detection",
            Timing::OutputFiltering => "output_filtering",
            Timing::Hold => "hold",
            Timing::Guardrail => "guardrail",
            Timing::FirstEventDelay => "first_event_delay",
            Timing::LastEventDelay => "last_event_delay",
            Timing::AddedTtft => "added_ttft",
            Timing::TtftWithoutGuardrail => "ttft_without_guardrail",
            Timing::EventHold => "event_hold",
        }
    }
}

impl Record {
    /// The request's value of each timing, in microseconds. Those that do not apply are left out.
    pub fn timings(&self) -> impl Iterator<Item = (Timing, u64)> {
        let values = self.exchange_timings().into_iter().chain(self.guardrail_timings());
        values.filter_map(|(timing, micros)| Some((timing, micros?)))
    }

    fn exchange_timings(&self) -> [(Timing, Option<u64>); 17] {
        let marks = &self.marks_us;
        let sent = self.sent_us.unwrap_or(0);
        let after_send = |mark: Option<MarkUs>| {
            mark.and_then(|mark| mark.arrival).map(|at| at.saturating_sub(sent))
        };
        let is_estimated = self.usage.as_ref().is_some_and(|usage| usage.estimated);
        let tpot = if is_estimated { Timing::EstimatedTpot } else { Timing::Tpot };
        let split = self.engine_split.unwrap_or_default();
        let queued = self.ledger_us.micros(State::Queue);
        [
            (Timing::Total, Some(self.total_us)),
            (Timing::Engine, self.engine_us),
            (Timing::EngineTtft, self.engine_ttft_us),
            (Timing::ClientTtft, self.client_ttft_us),
            (tpot, self.tpot_us.map(|micros| micros.round() as u64)),
            (Timing::EngineQueue, split.queue_us),
            (Timing::EnginePrefill, split.prefill_us),
            (Timing::EngineDecode, split.decode_us),
            (Timing::EngineUnexplained, split.unexplained_us),
            (Timing::FirstByte, after_send(marks.first_byte)),
            (Timing::FirstEvent, after_send(marks.first_event)),
            (Timing::Role, after_send(marks.role)),
            (Timing::Reasoning, after_send(marks.reasoning)),
            (Timing::Content, after_send(marks.content)),
            (Timing::ToolCall, after_send(marks.tool_call)),
            (Timing::Gateway, Some(self.ledger_us.micros(State::Gateway))),
            (Timing::Queue, (queued > 0).then_some(queued)),
        ]
    }

    /// Without a guardrail, all are absent.
    fn guardrail_timings(&self) -> [(Timing, Option<u64>); 9] {
        let overhead = self.guardrail.as_ref().and(self.guardrail_overhead.as_ref());
        let part = |of: fn(&GuardrailOverhead) -> Option<u64>| overhead.and_then(of);
        [
            (Timing::Validation, part(|time| Some(time.validation_us))),
            (Timing::ThreatDetection, part(|time| Some(time.threat_detection_us))),
            (Timing::OutputFiltering, part(|time| Some(time.output_filtering_us))),
            (Timing::Hold, part(|time| Some(time.hold_us))),
            (Timing::Guardrail, part(|time| Some(time.total_us))),
            (Timing::FirstEventDelay, part(|time| time.first_event_delay_us)),
            (Timing::LastEventDelay, part(|time| time.last_event_delay_us)),
            (Timing::AddedTtft, part(|time| time.added_ttft_us)),
            (Timing::TtftWithoutGuardrail, part(|time| time.ttft_without_us)),
        ]
    }
}
