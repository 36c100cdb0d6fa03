//! The data of one request: one part for each stage that writes it.

mod attempts;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use config::settings::Timeouts;
use filters::Guardrail;
use lens::{Ledger, State, Tick};
use relay::{Answer, Guarded, Sent, Verdict};
use routing::AttemptResult;
use traffic::{Caller, Charge, Permit, Used};
use transport::Upstream;
use wire::{Dialect, RequestFacts};

use crate::shared::Shared;
pub(crate) use attempts::with_head;
pub use attempts::{Attempts, UpstreamRequest};
use plan::clock;
use plan::{MetricGroup, Plan, PlannedPool, PlannedRoute, Target};

/// One request on its way. It is data: `pipeline` settles it when it ends.
#[derive(Debug)]
pub struct Exchange {
    /// What all requests share.
    pub shared: Arc<Shared>,
    /// The plan that the request entered with.
    pub plan: Arc<Plan>,
    /// Where the time goes.
    pub ledger: Ledger,
    /// From the head.
    pub accepted: Accepted,
    pub(crate) inspected: Inspected,
    /// The route, once there is one.
    pub routed: Option<Routed>,
    /// The credential that the head showed; `authenticate` takes it.
    pub credential: Option<ShownCredential>,
    /// The caller, where `auth` applies.
    pub caller: Option<Arc<Caller>>,
    /// What the request is expected to use.
    pub expected: Used,
    /// The prompt's tokens were counted, not estimated.
    pub prompt_counted: bool,
    /// What it has taken of limits; settled when the exchange ends.
    pub charge: Charge,
    /// Fields that let a web page read the answer.
    pub cors: Option<String>,
    /// What the client wants of a queue.
    pub hints: ClientHints,
    /// Its way among backends.
    pub attempts: Attempts,
    /// Its admission permit at the backend.
    pub permit: Option<Permit>,
    pub(crate) guarded: Guarded,
    /// What was sent upstream.
    pub sent: Sent,
    /// What was answered.
    pub answer: Answer,
    /// The outcome.
    pub verdict: Verdict,
}

/// What a head shows of its sender, and when that was looked at. Written by `authenticate`.
#[derive(Debug)]
pub struct ShownCredential {
    /// The caller of the credential.
    pub who: Who,
    /// When reading it began.
    pub began: Tick,
    /// When it was read.
    pub ended: Tick,
}

/// Result of looking up a credential.
#[derive(Clone, Debug)]
pub enum Who {
    /// There is no credential.
    Anonymous,
    /// It is not valid.
    Unknown,
    /// It is valid.
    Known(Arc<Caller>),
    /// A token of an issuer whose keys have not been fetched yet.
    NotYet,
}

/// What a client wants of a queue: `x-llm-lens-priority`, 0 to 9, which can only lower what its key
/// has, and `x-llm-lens-max-wait`, in milliseconds, which can only shorten what the backend has.
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

/// From the head; written by `accept`.
#[derive(Debug)]
pub struct Accepted {
    /// The id of the request.
    pub id: Arc<str>,
    pub(crate) trace: Option<TraceParent>,
    /// Wall clock at the first byte, microseconds.
    pub started_at: u64,
    /// The instant when the head was complete: the zero of all marks.
    pub head_at: Tick,
    /// The path, without its query.
    pub endpoint: String,
    /// The dialect of the path; `None` for what passes through unread.
    pub dialect: Option<Dialect>,
    /// Bytes of the head.
    pub bytes: u64,
    /// The client's address.
    pub client: Option<std::net::IpAddr>,
}

/// From the body; written by `inspect_input`.
#[derive(Debug, Default)]
pub struct Inspected {
    /// `None`: the body is not valid, and did not have to be.
    pub facts: Option<RequestFacts>,
}

/// Written by `route`.
#[derive(Debug)]
pub struct Routed {
    /// The route.
    pub route: Arc<PlannedRoute>,
    /// The dialect of the path; `None` for what passes through unread.
    pub dialect: Option<Dialect>,
    /// The backend: the first of the route, until one is chosen.
    pub target: Target,
    /// Where the request counts in metrics.
    pub group: MetricGroup,
}

impl Routed {
    /// The backend; `None`: the pool has none.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.route.upstream(self.target)
    }

    /// Its pool.
    pub fn pool(&self) -> &PlannedPool {
        self.route
            .pools
            .get(self.target.pool)
            .expect("invariant: targets are chosen of the route's pools")
    }
}

impl Exchange {
    /// A request whose head is complete.
    pub fn open(shared: &Arc<Shared>, plan: Arc<Plan>, accepted: Accepted, began: Tick) -> Self {
        let mut ledger = Ledger::open(State::ReadRequest, began);
        ledger.switch(State::ReadRequest, accepted.head_at);
        let group = &plan.nowhere;
        group.in_flight.requests.fetch_add(1, Ordering::Relaxed);
        Exchange {
            shared: shared.clone(),
            ledger,
            accepted,
            inspected: Inspected::default(),
            routed: None,
            credential: None,
            caller: None,
            expected: Used::default(),
            prompt_counted: false,
            charge: Charge::default(),
            cors: None,
            hints: ClientHints::default(),
            attempts: Attempts::default(),
            permit: None,
            guarded: Guarded::default(),
            sent: Sent::default(),
            answer: Answer::default(),
            verdict: Verdict::default(),
            plan,
        }
    }

    /// From the body.
    pub fn inspected(&self) -> &Inspected {
        &self.inspected
    }

    /// Where the request counts.
    pub fn group(&self) -> &MetricGroup {
        self.routed.as_ref().map_or(&self.plan.nowhere, |r| &r.group)
    }

    /// The route was found: the request counts there from now on.
    pub fn set_route(&mut self, route: Arc<PlannedRoute>) {
        // What passes through is not read, whatever its backend speaks.
        let dialect =
            self.accepted.dialect.map(|by_path| route.route.backend.dialect.unwrap_or(by_path));
        let target = Target::default();
        let group = route.group(target, dialect).clone();
        self.count_at(&group);
        self.routed = Some(Routed { route, dialect, target, group });
    }

    /// The result of an attempt with that error status.
    pub fn fault(&self, status: u16) -> AttemptResult {
        let upstream = self.routed.as_ref().and_then(Routed::upstream);
        upstream.map_or(AttemptResult::Unknown, |upstream| {
            upstream.fault(status, self.attempts.with_credential)
        })
    }

    /// A backend was chosen: the request counts there from now on.
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

    /// The waits of the route, or the general ones before there is one.
    pub fn timeouts(&self) -> Timeouts {
        self.routed.as_ref().map_or(self.plan.settings.timeouts, |r| r.route.route.timeouts)
    }

    /// The route's guardrail, if it has one.
    pub fn guardrail(&self) -> Option<Arc<Guardrail>> {
        self.routed.as_ref().and_then(|routed| routed.route.guardrail.clone())
    }

    /// The backend has done its part: its permit is free, however long the client takes.
    pub fn leave(&mut self) {
        if let Some(permit) = self.permit.take() {
            let first = self.answer.lens.marks().first_token.arrival;
            let ttft = first
                .zip(self.sent.at)
                .map(|(first, sent)| Duration::from_nanos(first.nanos_since(sent)));
            permit.leave(clock::now(), ttft);
        }
        self.attempts.leave();
    }

    /// Enter a state of the ledger now.
    pub fn enter(&mut self, state: State) {
        self.ledger.switch(state, clock::now());
    }
}
