//! What all requests of a process share: the plan that is in force, the observatory, and whether
//! the process is draining.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use config::{Found, Settings};
use contents::Recorder;
use http1::head::HeadError;
use lens::Tick;
use lens::observe::{Observe, Samples};
use observatory::Observatory;
use parking_lot::Mutex;
use serde::Serialize;
use stats::Statistics;
use tokio_util::task::TaskTracker;
use traffic::UsageSums;
use transport::Memory;

use plan::audit::Audit;
use plan::client_limits::ClientLimits;
use plan::{Plan, Tools, clock};
use refusal::Refusal;
use relay::DrainDeadline;

/// Shared by every worker.
#[derive(Debug)]
pub struct Shared {
    /// The plan for new requests; each request keeps the plan it started with.
    pub plan: ArcSwap<Plan>,
    /// The settings at the start. Some of them stay in force until the process ends.
    pub started_with: Arc<Settings>,
    /// What the last reload of the settings did.
    pub last_reload: Mutex<Option<Reload>>,
    /// Discovered backends. Locked while a plan is built, so that plans are built in order.
    pub found: Mutex<Found>,
    /// Series, gauges, sinks.
    pub observatory: Arc<Observatory>,
    /// Statistics of the last minutes, and error budgets.
    pub statistics: Arc<Statistics>,
    /// Dependencies for building the next plan.
    pub tools: Tools,
    /// Limits by client address.
    pub client_limits: Arc<ClientLimits>,
    /// Memory of request bodies and queued answers.
    pub memory: Arc<Memory>,
    /// Usage sums.
    pub usage_sums: Arc<UsageSums>,
    /// Hasher of the audit log, if there is one.
    pub audit: Option<Audit>,
    /// Stores prompts and answers, if there is a folder for them.
    pub contents: Option<Arc<Recorder>>,
    /// How calls are sampled; `None`: no traces are exported.
    pub tracing: Option<Tracing>,
    /// Set while the process drains: connections close after their answers, and `/readyz` fails.
    pub draining: AtomicBool,
    /// When streams end that still run while the process drains.
    pub drain: Arc<DrainDeadline>,
    /// When the process began to serve.
    pub started: lens::Tick,
    /// Tasks that no request waits for, such as mirrored requests; dropped at shutdown.
    pub tasks: TaskTracker,
    /// Where the settings came from, if from a file.
    pub file: Option<PathBuf>,
}

/// How the sampled flag of calls is set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracing {
    /// Share of traces that are sampled, 0 to 1.
    pub share: f64,
    /// The client's flag is kept, if it sends a `traceparent`.
    pub follows_parent: bool,
}

/// What a reload of the settings did.
#[derive(Clone, Debug, Serialize)]
pub struct Reload {
    /// When it ended, in microseconds since the epoch.
    pub at_us: u64,
    /// Why the settings are unchanged; `None`: they were replaced.
    pub problems: Option<String>,
    /// Protection that the settings in force do not have, and those before them had:
    /// authentication, guardrails, rate limits.
    pub removed: Vec<String>,
}

impl Shared {
    /// Whether the process is draining.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Use the models and objectives of the plan in force for the statistics.
    pub fn configure_statistics(&self) {
        let settings = &self.plan.load().settings;
        let objectives = &settings.objectives;
        self.statistics.configure(settings.declared_models(), objectives, clock::now());
    }

    /// Count a malformed head, and return its refusal.
    pub fn bad_head(&self, error: HeadError) -> Refusal {
        observatory::Gauges::count(&self.observatory.gauges().bad_heads);
        Refusal::bad_head(error)
    }
}

static WORKERS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WORKER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Index of this thread among the threads that write records.
pub fn worker() -> usize {
    WORKER.with(|worker| {
        worker.get().unwrap_or_else(|| {
            let number = WORKERS.fetch_add(1, Ordering::Relaxed);
            worker.set(Some(number));
            number
        })
    })
}

impl Observe for Shared {
    fn observe(&self, now: Tick, samples: &mut Samples) {
        self.client_limits.observe(now, samples);
        let plan = self.plan.load();
        let most = self.client_limits.max_connections(&plan.settings.limits);
        samples.push("llm_lens_max_client_connections", most as f64);
        samples.push("llm_lens_buffered_bytes", self.memory.held() as f64);
        samples.push("llm_lens_max_buffered_bytes", self.memory.max(&plan.settings.limits) as f64);
        samples.counts(&[("llm_lens_memory_limited_requests_total", self.memory.refused())]);
        plan.observe(now, samples);
        self.statistics.observe(now, samples);
        if let Some(contents) = &self.contents {
            observe_contents(contents.counts(), samples);
        }
    }
}

fn observe_contents(counts: &contents::Counts, samples: &mut Samples) {
    const DROPPED: &str = "llm_lens_contents_dropped_total";
    samples.push_with(DROPPED, ("reason", "failed"), counts.failed() as f64);
    samples.push_with(DROPPED, ("reason", "memory"), counts.without_memory() as f64);
    samples.counts(&[
        ("llm_lens_contents_failures_total", counts.failures()),
        ("llm_lens_contents_removed_files_total", counts.removed_files()),
        ("llm_lens_contents_size_bytes", counts.size()),
        ("llm_lens_contents_stored_total", counts.stored()),
    ]);
}
