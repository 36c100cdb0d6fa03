//! The request that an answer belongs to, as the relay sees it.
//!
//! - *In*: what the relay finds out about the answer, written into [`Parts`].
//! - *Out*: what the stages before it have decided: limits, retries, resume, fields of the head.
//! - *Never*: a socket, or the gateway's own types: tests relay scripted requests.

use std::fmt;
use std::sync::Arc;

use config::settings::Timeouts;
use filters::audit::Hasher;
use filters::{Found, Guardrail, Host, Side, Vault};
use lens::gaps::{GapSummary, Gaps};
use lens::record::Outcome;
use lens::security::{FilterAccount, Findings};
use lens::{Ledger, StreamLens, Tick};
use traffic::Exhausted;
use transport::AnswerHead;
use wire::{Dialect, ReaderLimits};

/// What does not change while an answer is relayed.
#[derive(Clone, Debug)]
pub struct Context {
    /// When the request's head was complete: the zero of its total timeout.
    pub head_at: Tick,
    /// The route's timeouts.
    pub timeouts: Timeouts,
    /// Bytes that may wait for the client before upstream is not read any more.
    pub ring: usize,
    /// The API that the backend speaks; `None`: the answer is passed on unread.
    pub dialect: Option<Dialect>,
    /// Bounds of one event.
    pub reader_limits: ReaderLimits,
    /// The answer starts with the prompt (`echo`).
    pub echoes_prompt: bool,
    /// Choices that the answer has.
    pub choices: u64,
    /// A gap between two events that counts as a stall, nanoseconds.
    pub stall_ns: u64,
    /// The route's guardrail.
    pub guardrail: Option<Arc<Guardrail>>,
}

/// What an output guardrail needs besides its rules.
pub struct GuardrailTools {
    /// Clock, timers, threads and connections of judges.
    pub host: Arc<dyn Host>,
    /// Hashes what was matched, where an audit log wants that.
    pub hasher: Option<Arc<Hasher>>,
}

impl fmt::Debug for GuardrailTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardrailTools").field("hasher", &self.hasher).finish_non_exhaustive()
    }
}

/// What the relay writes down of a request.
#[derive(Debug)]
pub struct Parts<'p> {
    /// Where the time goes.
    pub ledger: &'p mut Ledger,
    /// The request's way upstream.
    pub sent: &'p mut Sent,
    /// The answer.
    pub answer: &'p mut Answer,
    /// What the guardrail found, and what it cost.
    pub guarded: &'p mut Guarded,
    /// How the request ends.
    pub verdict: &'p mut Verdict,
}

/// The request whose answer is relayed from a source of type `S`.
pub trait Request<S> {
    /// Its id, for log lines.
    fn id(&self) -> &str;

    /// What the relay writes down.
    fn parts(&mut self) -> Parts<'_>;

    /// A head has come.
    fn head_received(&mut self, head: &AnswerHead, source: &mut S);

    /// Whether a response of this status is worth a retry, and another backend was chosen for it.
    fn retry(&mut self, status: u16) -> bool;

    /// The client gets the head of this answer: no other backend will be tried.
    fn commit(&mut self);

    /// The gateway's own fields for the head, each with its CRLF.
    fn fields(&mut self, first_byte: Tick) -> String;

    /// Whether rate limits count this request: then an engine's own `x-ratelimit-*` would
    /// contradict them.
    fn is_charged(&self) -> bool;

    /// Charge what the stream has used so far. `Some`: a limit is exhausted.
    fn charge(&mut self) -> Option<Exhausted>;

    /// Events were read; the first token may be among them.
    fn first_token(&mut self);

    /// The backend has done its part: its admission permit is free, however long the client takes.
    fn release_backend(&mut self);

    /// Whether another backend may resume the stream.
    fn is_resumable(&self) -> bool;

    /// The backend died after `text`. Whether another one was chosen to resume, and its request is
    /// ready.
    fn resume(&mut self, text: &str) -> bool;

    /// Another backend has begun to resume. What marks the place for the client, if the route wants
    /// that.
    fn resumed(&mut self) -> Option<String>;

    /// Hand gaps on to the series of the route.
    fn flush_gaps(&mut self);

    /// Hand on how long events were held.
    fn flush_holds(&mut self, holds: &mut Gaps);

    /// The bytes that wait for the client changed by this many.
    fn queued(&mut self, change: i64);

    /// What an output guardrail needs.
    fn guardrail_tools(&self) -> GuardrailTools;

    /// Write findings to the audit log.
    fn audit(&mut self, notes: &[Note]);
}

/// A finding for the audit log, apart from the request it was made in.
#[derive(Clone, Debug)]
pub struct Note {
    /// Prompt or answer.
    pub side: Side,
    /// The filter that found it.
    pub filter: Arc<str>,
    /// What was found, and where.
    pub found: Found,
    /// The channel of an answer.
    pub channel: Option<&'static str>,
    /// The hash of what was matched.
    pub hash: Option<String>,
}

/// The request's way upstream.
#[derive(Debug, Default)]
pub struct Sent {
    /// When the last byte of the request was written.
    pub at: Option<Tick>,
    /// The gateway injected `include_usage`.
    pub usage_asked: bool,
}

/// What is known of an answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: Option<u16>,
    /// The body is a stream of events.
    pub streamed: bool,
    /// What was measured.
    pub lens: StreamLens,
    /// Why events were not read.
    pub not_parsed: Option<&'static str>,
    /// Payload bytes that the client took.
    pub bytes_to_client: u64,
    /// When upstream was complete.
    pub ended_at: Option<Tick>,
    /// The answer's events were read, so that their counts are known, zero included.
    pub measured: bool,
    /// How late reads were, if the kernel reports it.
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
            read_lag: Gaps::default(),
        }
    }
}

/// What a guardrail found in the prompt and in the answer, and what it cost.
#[derive(Debug, Default)]
pub struct Guarded {
    /// Findings of the prompt by rule.
    pub input: Findings,
    /// Findings of the answer by rule.
    pub output: Findings,
    /// What was done, or would have been.
    pub word: &'static str,
    /// The risk of the prompt, 0 to 1.
    pub risk: f32,
    /// The level of that risk.
    pub level: &'static str,
    /// What each filter cost.
    pub accounts: Vec<FilterAccount>,
    /// Nanoseconds that judges of the prompt took.
    pub judged: u64,
    /// What was taken out of the prompt.
    pub vault: Arc<Vault>,
    /// The guardrail's time until the client had the first token, nanoseconds.
    pub before_first_token: Option<u64>,
    /// Events that waited.
    pub held_events: u64,
    /// Most bytes that waited at a time.
    pub held_bytes_max: u64,
    /// How long events waited.
    pub hold: Option<GapSummary>,
}

/// How a request ends; the first to know decides it.
#[derive(Debug, Default)]
pub struct Verdict {
    outcome: Option<Outcome>,
    /// The stable code of an error.
    pub code: Option<String>,
}

impl Verdict {
    /// Decide, unless it is decided.
    pub fn decide(&mut self, outcome: Outcome, code: Option<&str>) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
            self.code = code.map(str::to_owned);
        }
    }

    /// How it ends, if that is decided.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }
}
