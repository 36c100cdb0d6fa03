//! What we know of one inference request: one part for each stage that found it out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use config::settings::Timeouts;
use traffic::{Caller, Charge, Place, Used};
use filters::{Shield, Vault};
use lens::gaps::GapSummary;
use lens::record::Outcome;
use lens::security::{FilterAccount, Findings};
use lens::{Ledger, State, StreamLens, Tick};
use routing::Ended;
use wire::{Dialect, RequestFacts};

use crate::plan::{Counted, Plan, PlannedPool, PlannedRoute, Target};
use crate::shared::Shared;
use crate::stage::choose::Course;
use crate::stage::identify::Shown;
use crate::stage::queue::Said;
use crate::upstream::Upstream;
use crate::{clock, stage};

/// One request on its walk. Dropping it writes its record, so that a request leaves exactly one however it ends.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) shared: Arc<Shared>,
    /// The plan that the request entered with.
    pub(crate) plan: Arc<Plan>,
    pub(crate) ledger: Ledger,
    pub(crate) accepted: Accepted,
    pub(crate) inspected: Inspected,
    pub(crate) routed: Option<Routed>,
    /// What the head showed of its sender; `identify` takes it.
    pub(crate) shown: Option<Shown>,
    /// Who asks, where somebody wants to know.
    pub(crate) caller: Option<Arc<Caller>>,
    /// What the request is thought to use.
    pub(crate) expected: Used,
    /// Its prompt was counted, not estimated.
    pub(crate) counted: bool,
    /// What it has taken of limits; settled when the exchange ends.
    pub(crate) charge: Charge,
    /// Fields that let a web page read the answer.
    pub(crate) cors: Option<String>,
    /// What the client says about its place in a queue.
    pub(crate) said: Said,
    /// Its way among backends.
    pub(crate) course: Course,
    /// Its place at the backend.
    pub(crate) place: Option<Place>,
    pub(crate) guarded: Guarded,
    pub(crate) sent: Sent,
    pub(crate) answer: Answer,
    pub(crate) verdict: Verdict,
}

/// From the head; written by `accept`.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) trace_id: Option<String>,
    /// Wall clock at the first byte, microseconds.
    pub(crate) started_at: u64,
    /// The instant when the head was complete: the zero of all marks.
    pub(crate) head_at: Tick,
    pub(crate) endpoint: String,
    pub(crate) dialect: Option<Dialect>,
    pub(crate) bytes: u64,
    /// The client's address.
    pub(crate) client: Option<std::net::IpAddr>,
}

/// From the body; written by `inspect_input`.
#[derive(Debug, Default)]
pub(crate) struct Inspected {
    /// `None`: the body could not be read, and nobody had to.
    pub(crate) facts: Option<RequestFacts>,
}

/// Written by `route`.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) route: Arc<PlannedRoute>,
    pub(crate) dialect: Option<Dialect>,
    /// The backend: the first of the route, until one is chosen.
    pub(crate) target: Target,
    pub(crate) counted: Counted,
}

impl Routed {
    /// The backend; `None`: nobody is there.
    pub(crate) fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.route.upstream(self.target)
    }

    /// Its pool.
    pub(crate) fn pool(&self) -> &PlannedPool {
        self.route.pools.get(self.target.pool).expect("invariant: targets are chosen of the route's pools")
    }
}

/// Written by `guard_input`, and by `relay` where the answer is guarded.
#[derive(Debug, Default)]
pub(crate) struct Guarded {
    pub(crate) input: Findings,
    pub(crate) output: Findings,
    /// What was done, or would have been.
    pub(crate) word: &'static str,
    pub(crate) risk: f32,
    pub(crate) level: &'static str,
    /// What each filter cost.
    pub(crate) accounts: Vec<FilterAccount>,
    /// Nanoseconds that judges of the prompt took.
    pub(crate) judged: u64,
    /// What was taken out of the prompt.
    pub(crate) vault: Arc<Vault>,
    /// The guard's time until the client had the first token, nanoseconds.
    pub(crate) before_first_token: Option<u64>,
    pub(crate) held_events: u64,
    pub(crate) held_bytes_max: u64,
    pub(crate) hold: Option<GapSummary>,
}

/// Written by `connect` and `send`.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// When the last byte of the request was written.
    pub(crate) at: Option<Tick>,
    /// We asked for usage, and the client did not.
    pub(crate) usage_asked: bool,
}

/// Written by `relay`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Option<u16>,
    pub(crate) streamed: bool,
    pub(crate) lens: StreamLens,
    /// Why events were not read.
    pub(crate) not_parsed: Option<&'static str>,
    /// Payload bytes that the client took.
    pub(crate) bytes_to_client: u64,
    pub(crate) ended_at: Option<Tick>,
    /// The answer's events were read, so that their counts are known, zero included.
    pub(crate) measured: bool,
    /// How late our reads were, where the kernel told.
    pub(crate) read_lag: lens::gaps::Gaps,
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
            read_lag: lens::gaps::Gaps::default(),
        }
    }
}

/// How it ends; the first to know writes it.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    outcome: Option<Outcome>,
    pub(crate) code: Option<String>,
}

impl Verdict {
    /// Decide, unless it is decided.
    pub(crate) fn decide(&mut self, outcome: Outcome, code: Option<&str>) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
            self.code = code.map(str::to_owned);
        }
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }
}

impl Exchange {
    /// A request whose head is complete.
    pub(crate) fn open(shared: &Arc<Shared>, plan: Arc<Plan>, accepted: Accepted, began: Tick) -> Self {
        let mut ledger = Ledger::open(State::ReadRequest, began);
        ledger.switch(State::ReadRequest, accepted.head_at);
        let counted = &plan.nowhere;
        counted.in_flight.requests.fetch_add(1, Ordering::Relaxed);
        Exchange {
            shared: shared.clone(),
            ledger,
            accepted,
            inspected: Inspected::default(),
            routed: None,
            shown: None,
            caller: None,
            expected: Used::default(),
            counted: false,
            charge: Charge::default(),
            cors: None,
            said: Said::default(),
            course: Course::default(),
            place: None,
            guarded: Guarded::default(),
            sent: Sent::default(),
            answer: Answer::default(),
            verdict: Verdict::default(),
            plan,
        }
    }

    /// Where the request counts.
    pub(crate) fn counted(&self) -> &Counted {
        self.routed.as_ref().map_or(&self.plan.nowhere, |r| &r.counted)
    }

    /// The route was found: the request counts there from now on.
    pub(crate) fn set_route(&mut self, route: Arc<PlannedRoute>) {
        // What passes through is not read, whatever its backend speaks.
        let dialect = self.accepted.dialect.map(|by_path| route.route.backend.dialect.unwrap_or(by_path));
        let target = Target::default();
        let counted = route.counted(target, dialect).clone();
        self.count_at(&counted);
        self.routed = Some(Routed { route, dialect, target, counted });
    }

    /// What a status that is an error says of the backend.
    pub(crate) fn fault(&self, status: u16) -> Ended {
        let upstream = self.routed.as_ref().and_then(Routed::upstream);
        upstream.map_or(Ended::Untold, |upstream| upstream.fault(status, self.course.with_credential))
    }

    /// A backend was chosen: the request counts there from now on.
    pub(crate) fn set_target(&mut self, target: Target) {
        let Some(routed) = self.routed.as_ref().filter(|routed| routed.target != target) else { return };
        let counted = routed.route.counted(target, routed.dialect).clone();
        self.count_at(&counted);
        if let Some(routed) = &mut self.routed {
            (routed.target, routed.counted) = (target, counted);
        }
    }

    fn count_at(&self, counted: &Counted) {
        self.counted().in_flight.requests.fetch_sub(1, Ordering::Relaxed);
        counted.in_flight.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The waits of the route, or the general ones before there is one.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.routed.as_ref().map_or(self.plan.settings.timeouts, |r| r.route.route.timeouts)
    }

    /// The route's guard, if it has one.
    pub(crate) fn guard(&self) -> Option<Arc<Shield>> {
        self.routed.as_ref().and_then(|routed| routed.route.guard.clone())
    }

    /// The backend has done its part: its place is free, however long the client takes.
    pub(crate) fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            let first = self.answer.lens.marks().first_token.arrival;
            let ttft = first.zip(self.sent.at).map(|(first, sent)| Duration::from_nanos(first.nanos_since(sent)));
            place.leave(clock::now(), ttft);
        }
        self.course.leave();
    }

    /// Enter a state of the ledger now.
    pub(crate) fn enter(&mut self, state: State) {
        self.ledger.switch(state, clock::now());
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.leave();
        self.counted().in_flight.requests.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            observatory::Gauges::count(&self.shared.observatory.gauges().panics);
            self.verdict.decide(Outcome::Rejected, Some("internal_error"));
        }
        let total = self.timeouts().total;
        if !total.is_zero() && u128::from(clock::now().nanos_since(self.accepted.head_at)) >= total.as_nanos() {
            self.verdict.decide(Outcome::Timeout, Some("total_timeout"));
        }
        // Whoever drops a request without a verdict was dropped himself: its connection is gone.
        self.verdict.decide(Outcome::ClientGone, Some("client_closed"));
        stage::choose::settle(self);
        let used = stage::admit::settle(self);
        stage::admit::book(self, &used);
        stage::record::write(self, &used);
    }
}
