//! The state of one request, with one part for each stage that writes it.

mod attempts;
mod spans;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use config::settings::Timeouts;
use filters::Guardrail;
use lens::{Ledger, State, Tick};
use relay::{Answer, GuardrailResult, Sent, Verdict};
use routing::AttemptResult;
use traffic::{Caller, Charge, Permit, Served, TokenUsage};
use transport::Upstream;
use wire::{Dialect, ErrorFormat, RequestFacts};

use crate::shared::Shared;
pub(crate) use attempts::with_head;
pub use attempts::{Attempts, UpstreamRequest};
use plan::client_limits::ForwardedGuard;
use plan::clock;
use plan::forwarded::Peer;
use plan::{MetricGroup, Plan, PlannedPool, PlannedRoute, Target};
use refusal::Refusal;
pub use spans::Spans;

/// One request in progress. It is plain data: [`ExchangeGuard`](crate::ExchangeGuard) settles it.
#[derive(Debug)]
pub struct Exchange {
    /// State shared by all requests.
    pub shared: Arc<Shared>,
    /// The plan in force when the request was accepted.
    pub plan: Arc<Plan>,
    /// Time spent in each state.
    pub ledger: Ledger,
    /// Facts from the head.
    pub accepted: Accepted,
    /// Ids of its spans; `None` while no traces are exported.
    pub spans: Option<Box<Spans>>,
    pub(crate) inspected: Inspected,
    /// The matched route; `None` before matching.
    pub routed: Option<Routed>,
    /// The credential of the head; `authenticate::authorize` takes it.
    pub credential: Option<ShownCredential>,
    /// The caller, where authentication applies.
    pub caller: Option<Arc<Caller>>,
    /// Estimated usage.
    pub expected: TokenUsage,
    /// The prompt's tokens were counted, not estimated.
    pub prompt_counted: bool,
    /// Reservation in the rate limits; settled when the exchange ends.
    pub charge: Charge,
    /// CORS fields of the answer, each with its CRLF.
    pub cors: Option<String>,
    /// Queue hints from the client.
    pub hints: ClientHints,
    /// Attempts at backends.
    pub attempts: Attempts,
    /// Its admission permit at the backend.
    pub permit: Option<Permit>,
    /// Counts it among the requests that need a connection to a backend.
    descriptor: Option<ForwardedGuard>,
    pub(crate) guarded: GuardrailResult,
    /// State of the upstream request.
    pub sent: Sent,
    /// State of the answer.
    pub answer: Answer,
    /// The outcome.
    pub verdict: Verdict,
}

/// The credential of a head, and when it was checked. Written by `authenticate`.
#[derive(Debug)]
pub struct ShownCredential {
    /// Result of the lookup.
    pub who: CredentialCheck,
    /// Start of the lookup.
    pub began: Tick,
    /// End of the lookup.
    pub ended: Tick,
}

/// Result of looking up a credential.
#[derive(Clone, Debug)]
pub enum CredentialCheck {
    /// There is no credential.
    Anonymous,
    /// It is not valid.
    Unknown,
    /// It is valid.
    Known(Arc<Caller>),
    /// A token of an issuer whose keys have not been fetched yet.
    NotYet,
}

/// Queue hints from the client. `x-llm-lens-priority`, 0 to 9, can only lower the priority of the
/// key; `x-llm-lens-max-wait`, in milliseconds, can only shorten the `max_wait` of the backend.
/// Written by `admission`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientHints {
    pub(crate) priority: Option<u8>,
    pub(crate) max_wait: Option<Duration>,
}

/// A W3C `traceparent`: lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// 32 digits.
    pub trace_id: String,
    /// 16 digits.
    pub span_id: String,
    /// Bit 0: sampled.
    pub flags: u8,
}

/// Facts from the head. Written by `accept`.
#[derive(Debug)]
pub struct Accepted {
    /// The id of the request.
    pub id: Arc<str>,
    pub(crate) unique_id: Option<Arc<str>>,
    pub(crate) trace: Option<TraceParent>,
    /// Wall clock at the first byte, microseconds.
    pub started_at: u64,
    /// When the head was complete. All marks are relative to it.
    pub head_at: Tick,
    /// The path, without its query.
    pub endpoint: String,
    /// Dialect of the path; `None` for pass-through requests.
    pub dialect: Option<Dialect>,
    /// Format of the gateway's errors: that of the API that was called.
    pub errors: ErrorFormat,
    /// Bytes received from the client: the head, then also the body.
    pub bytes: u64,
    /// The other end of the connection.
    pub peer: Peer,
    /// The client's address: the peer's, or the one that a trusted proxy states.
    pub client: Option<IpAddr>,
}

/// Facts from the body. Written by `inspect`.
#[derive(Debug, Default)]
pub struct Inspected {
    /// `None`: the body could not be parsed, and the route permits that.
    pub facts: Option<RequestFacts>,
}

/// The matched route and the selected backend. Written by `route` and `select`.
#[derive(Debug)]
pub struct Routed {
    /// The route.
    pub route: Arc<PlannedRoute>,
    /// Dialect of the backend, or of the path if the backend has none; `None` for pass-through
    /// requests.
    pub dialect: Option<Dialect>,
    /// The selected backend; the first of the route until one is selected.
    pub target: Target,
    /// Metric group of the request.
    pub group: MetricGroup,
}

impl Routed {
    /// The selected backend; `None` if the pool is empty.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.route.upstream(self.target)
    }

    /// Its pool.
    pub fn pool(&self) -> &PlannedPool {
        self.route
            .pools
            .get(self.target.pool)
            .expect("invariant: a target refers to a pool of the route")
    }
}

impl Exchange {
    /// Open the exchange of a request whose head is complete; its first byte arrived at `began`.
    pub fn open(shared: &Arc<Shared>, plan: Arc<Plan>, accepted: Accepted, began: Tick) -> Self {
        let mut ledger = Ledger::open(State::ReadRequest, began);
        let spans = shared.tracing.map(|tracing| Box::new(Spans::new(tracing, &accepted)));
        if spans.is_some() {
            ledger.keep_intervals();
        }
        ledger.switch(State::ReadRequest, accepted.head_at);
        let group = &plan.no_route_group;
        group.in_flight.requests.fetch_add(1, Ordering::Relaxed);
        Exchange {
            shared: shared.clone(),
            ledger,
            accepted,
            spans,
            inspected: Inspected::default(),
            routed: None,
            credential: None,
            caller: None,
            expected: TokenUsage::default(),
            prompt_counted: false,
            charge: Charge::default(),
            cors: None,
            hints: ClientHints::default(),
            attempts: Attempts::default(),
            permit: None,
            descriptor: None,
            guarded: GuardrailResult::default(),
            sent: Sent::default(),
            answer: Answer::default(),
            verdict: Verdict::default(),
            plan,
        }
    }

    /// Count the request among those that need a connection to a backend, until it ends. Requests
    /// to a backend over HTTP/2 share connections.
    pub(crate) fn take_descriptor(&mut self) -> Result<(), Refusal> {
        let upstream = self.routed.as_ref().and_then(Routed::upstream);
        let shares = upstream.is_some_and(|upstream| upstream.backend.http2);
        if !shares && self.descriptor.is_none() {
            let counted = self.shared.client_limits.admit_forwarded();
            self.descriptor = Some(counted.ok_or_else(Refusal::out_of_descriptors)?);
        }
        Ok(())
    }

    /// Whether the client asked for a stream, as its dialect does that.
    pub(crate) fn wants_stream(&self) -> bool {
        let dialect = self.routed.as_ref().and_then(|routed| routed.dialect);
        let asks = |facts: &RequestFacts| {
            dialect.or(self.accepted.dialect).map_or(facts.stream == Some(true), |dialect| {
                dialect.is_stream(&self.accepted.endpoint, facts.stream)
            })
        };
        self.inspected.facts.as_ref().is_some_and(asks)
    }

    /// Facts from the body.
    pub fn inspected(&self) -> &Inspected {
        &self.inspected
    }

    /// Metric group of the request; before a route matches, that of unmatched requests.
    pub fn group(&self) -> &MetricGroup {
        self.routed.as_ref().map_or(&self.plan.no_route_group, |r| &r.group)
    }

    /// Set the matched route. From now on, the request counts in its metric group.
    pub fn set_route(&mut self, route: Arc<PlannedRoute>) {
        // Pass-through requests are not parsed, whatever the dialect of the backend.
        let dialect =
            self.accepted.dialect.map(|by_path| route.route.backend.dialect.unwrap_or(by_path));
        let target = Target::default();
        let group = route.group(target, dialect).clone();
        self.count_at(&group);
        self.routed = Some(Routed { route, dialect, target, group });
    }

    /// The attempt result that an error status means for the selected backend.
    pub fn fault(&self, status: u16) -> AttemptResult {
        let upstream = self.routed.as_ref().and_then(Routed::upstream);
        upstream.map_or(AttemptResult::Unknown, |upstream| {
            upstream.fault(status, self.attempts.with_credential)
        })
    }

    /// Set the selected backend. From now on, the request counts in its metric group.
    pub fn set_target(&mut self, target: Target) {
        let Some(routed) = self.routed.as_ref().filter(|routed| routed.target != target) else {
            return;
        };
        let group = routed.route.group(target, routed.dialect).clone();
        self.count_at(&group);
        if let Some(routed) = &mut self.routed {
            (routed.target, routed.group) = (target, group);
        }
    }

    fn count_at(&self, group: &MetricGroup) {
        self.group().in_flight.requests.fetch_sub(1, Ordering::Relaxed);
        group.in_flight.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Timeouts of the route; before a route matches, the general ones.
    pub fn timeouts(&self) -> Timeouts {
        self.routed.as_ref().map_or(self.plan.settings.timeouts, |r| r.route.route.timeouts)
    }

    /// The route's guardrail, if it has one.
    pub fn guardrail(&self) -> Option<Arc<Guardrail>> {
        self.routed.as_ref().and_then(|routed| routed.route.guardrail.clone())
    }

    /// Release the backend's permit and load counts: its answer is complete, even if the client
    /// still reads. `used`: the use of the whole request.
    pub fn leave(&mut self, used: &TokenUsage) {
        if let Some(permit) = self.permit.take() {
            permit.leave(clock::now(), self.served(), used);
        }
        self.attempts.leave();
    }

    /// How fast the engine served the request; `None` if it did not.
    fn served(&self) -> Option<Served> {
        let answer = &self.answer;
        let since_sent = |at: Tick| Some(Duration::from_nanos(at.nanos_since(self.sent.at?)));
        if answer.streamed {
            return since_sent(answer.lens.marks().first_token.arrival?).map(Served::FirstToken);
        }
        let is_good = answer.status == Some(200) && answer.lens.error().is_none();
        since_sent(answer.ended_at.filter(|_| is_good)?).map(Served::Whole)
    }

    /// Enter a state of the ledger now.
    pub fn enter(&mut self, state: State) {
        self.ledger.switch(state, clock::now());
    }
}
