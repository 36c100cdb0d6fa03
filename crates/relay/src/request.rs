//! The request that an answer belongs to, as the relay sees it.
//!
//! - *In*: what the relay measures of the answer, written to [`Parts`].
//! - *Out*: decisions of the earlier pipeline stages: limits, retries, resume, header fields.
//! - *Never*: a socket or a gateway type, so that tests can relay scripted requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use config::settings::Timeouts;
use contents::Draft;
use filters::audit::Hasher;
use filters::{Found, Guardrail, Host, Side, Vault};
use lens::gaps::{GapSummary, Gaps};
use lens::guardrail::{FilterAccount, Findings};
use lens::record::Outcome;
use lens::{Ledger, State, StreamLens, Tick};
use traffic::Exhausted;
use transport::AnswerHead;
use wire::{Dialect, ReaderLimits};

use crate::deadlines::DrainDeadline;

/// Settings and facts that stay constant while an answer is relayed.
#[derive(Clone, Debug)]
pub struct Context {
    /// When the request's head was complete. The total timeout counts from here.
    pub head_at: Tick,
    /// The route's timeouts.
    pub timeouts: Timeouts,
    /// Maximum times for the tokens of the stream that was requested.
    pub token_timeouts: TokenTimeouts,
    /// When the stream must end because the gateway ends.
    pub drain: Arc<DrainDeadline>,
    /// Maximum bytes queued for the client. At this size, the relay stops reading upstream.
    pub ring: usize,
    /// API dialect of the backend; `None`: the answer is forwarded without parsing.
    pub dialect: Option<Dialect>,
    /// Size limits of one event.
    pub reader_limits: ReaderLimits,
    /// The answer starts with the prompt (`echo`).
    pub echoes_prompt: bool,
    /// Number of choices in the answer.
    pub choices: u64,
    /// Maximum tokens that the request permits, all choices together.
    pub max_tokens: Option<u64>,
    /// Minimum gap between two events that counts as a stall, in nanoseconds.
    pub stall_ns: u64,
    /// The route's guardrail.
    pub guardrail: Option<Arc<Guardrail>>,
    /// Tokens of the prompt, if the client asked for usage in the stream.
    pub usage_of_prompt: Option<u64>,
}

/// Maximum times for the tokens of a stream; zero means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenTimeouts {
    /// From the request sent to the first token.
    pub first: Duration,
    /// Between two tokens.
    pub between: Duration,
}

/// Runtime dependencies of an output guardrail.
pub struct GuardrailTools {
    /// Clock, timers, threads and connections of judges.
    pub host: Arc<dyn Host>,
    /// Hashes matched text for the audit log, if there is one.
    pub hasher: Option<Arc<Hasher>>,
}

impl fmt::Debug for GuardrailTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardrailTools").field("hasher", &self.hasher).finish_non_exhaustive()
    }
}

/// The parts of a request that the relay writes to.
#[derive(Debug)]
pub struct Parts<'p> {
    /// Time spent in each state.
    pub ledger: &'p mut Ledger,
    /// Facts about sending the request upstream.
    pub sent: &'p mut Sent,
    /// Facts about the answer.
    pub answer: &'p mut Answer,
    /// Findings and cost of the guardrail.
    pub guarded: &'p mut GuardrailResult,
    /// Outcome of the request.
    pub verdict: &'p mut Verdict,
}

/// The request whose answer is relayed from a source of type `S`.
pub trait Request<S> {
    /// Its id, for log lines.
    fn id(&self) -> &str;

    /// The parts that the relay writes to.
    fn parts(&mut self) -> Parts<'_>;

    /// The head of the answer has arrived.
    fn head_received(&mut self, head: &AnswerHead, source: &mut S);

    /// Returns true if a response with this status is retried: another backend has been selected.
    fn retry(&mut self, status: u16) -> bool;

    /// The head of this answer goes to the client. From here on, no other backend is tried.
    fn commit(&mut self);

    /// Header fields that the gateway adds, each with its CRLF.
    fn fields(&mut self, first_byte: Tick) -> String;

    /// Whether rate limits apply to this request. If so, the engine's own `x-ratelimit-*` fields
    /// are removed, because they would contradict the gateway's.
    fn is_charged(&self) -> bool;

    /// Charge what the stream has used so far. `Some`: a limit is exhausted.
    fn charge(&mut self) -> Option<Exhausted>;

    /// Events were read; the first token may be among them.
    fn first_token(&mut self);

    /// The backend has sent its answer: release its admission permit, even if the client still
    /// reads.
    fn release_backend(&mut self);

    /// Whether another backend may resume the stream.
    fn is_resumable(&self) -> bool;

    /// The backend failed after sending `text`: whether another one resumes the stream.
    fn resume(&mut self, text: &str) -> Resume;

    /// Another backend has started to resume. Returns the marker event for the client, if the route
    /// configures one.
    fn resumed(&mut self) -> Option<String>;

    /// Move recorded gaps into the route's metrics.
    fn flush_gaps(&mut self);

    /// Move recorded hold times into the route's metrics.
    fn flush_holds(&mut self, holds: &mut Gaps);

    /// The number of bytes queued for the client has changed by `change`.
    fn queued(&mut self, change: i64);

    /// Runtime dependencies of the output guardrail.
    fn guardrail_tools(&self) -> GuardrailTools;

    /// Write findings to the audit log.
    fn audit(&mut self, notes: &[Note]);
}

/// Whether another backend resumes a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// A backend has been selected, and its request is prepared.
    Selected,
    /// No backend can resume it.
    Impossible,
    /// The stream has as many tokens as the client requested: nothing is left to generate.
    LimitReached,
}

/// A finding for the audit log, without its request.
#[derive(Clone, Debug)]
pub struct Note {
    /// Prompt or answer.
    pub side: Side,
    /// The filter that found it.
    pub filter: Arc<str>,
    /// What was found, and where.
    pub found: Found,
    /// Channel of the answer; `None` for the prompt and for text outside channels.
    pub channel: Option<&'static str>,
    /// Hash of the matched text.
    pub hash: Option<String>,
}

/// Facts about sending the request upstream.
#[derive(Debug, Default)]
pub struct Sent {
    /// When the last byte of the request was written.
    pub at: Option<Tick>,
    /// The gateway injected `include_usage`.
    pub usage_injected: bool,
}

/// Facts about an answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: Option<u16>,
    /// The body is a stream of events.
    pub streamed: bool,
    /// Measurements of the stream.
    pub lens: StreamLens,
    /// Why events were not parsed; `None`: they were.
    pub not_parsed: Option<&'static str>,
    /// Payload bytes written to the client.
    pub bytes_to_client: u64,
    /// When the upstream answer ended.
    pub ended_at: Option<Tick>,
    /// Whether events were parsed, so that a count of zero is a measurement.
    pub measured: bool,
    /// A JSON document that ends inside a value, although the body has its announced length.
    pub ends_inside_json: bool,
    /// Delay between the kernel's receive timestamp and the read, if timestamps are enabled.
    pub read_lag: Gaps,
}

impl Default for Answer {
    fn default() -> Self {
        Answer {
            status: None,
            streamed: false,
            lens: StreamLens::new(false, u64::MAX),
            not_parsed: None,
            bytes_to_client: 0,
            ended_at: None,
            measured: false,
            ends_inside_json: false,
            read_lag: Gaps::default(),
        }
    }
}

impl Answer {
    /// Ledger state while the backend sends nothing and all of the answer's bytes are written.
    pub(crate) fn awaited(&self) -> State {
        match self.lens.marks().first_token.arrival {
            None if self.measured && self.streamed => State::AwaitFirstToken,
            _ => State::AwaitToken,
        }
    }
}

/// Findings of a guardrail in the prompt and the answer, and their cost.
#[derive(Debug, Default)]
pub struct GuardrailResult {
    /// Findings of the prompt by rule.
    pub input: Findings,
    /// Findings of the answer by rule.
    pub output: Findings,
    /// The strictest action taken, or in observe mode the one that would have been taken.
    pub word: &'static str,
    /// The risk of the prompt, 0 to 1.
    pub risk: f32,
    /// The level of that risk.
    pub level: &'static str,
    /// Cost of each filter.
    pub accounts: Vec<FilterAccount>,
    /// Time spent in judges of the prompt, in nanoseconds.
    pub judged: u64,
    /// Text redacted from the prompt.
    pub vault: Option<Arc<Vault>>,
    /// Delays of the answer's events; `None`: the guardrail does not read the answer.
    pub delays: Option<AnswerDelays>,
    /// Number of held events.
    pub held_events: u64,
    /// Maximum bytes held at a time.
    pub held_bytes_max: u64,
    /// Hold times of events.
    pub hold: Option<GapSummary>,
    /// Prompt and answer to store; `None` unless the route stores contents.
    pub contents: Option<Box<Draft>>,
}

/// How much later events of an answer were queued for the client than without the guardrail, in
/// nanoseconds. An event that was not queued has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerDelays {
    /// Of the first event of any kind.
    pub first_event: Option<u64>,
    /// Of the first event with generated text.
    pub first_token: Option<u64>,
    /// Of the last event; `None` also if the guardrail has ended the answer.
    pub last_event: Option<u64>,
}

/// Outcome of a request. The first decision holds.
#[derive(Debug, Default)]
pub struct Verdict {
    outcome: Option<Outcome>,
    /// The stable code of an error.
    pub code: Option<String>,
}

impl Verdict {
    /// Set the outcome, unless one is set.
    pub fn decide(&mut self, outcome: Outcome, code: Option<&str>) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
            self.code = code.map(str::to_owned);
        }
    }

    /// The outcome, if one is set.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }
}
