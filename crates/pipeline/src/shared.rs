//! What all requests of a process share: the plan that is in force, the observatory, and whether
//! the process is draining.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use config::Found;
use lens::Tick;
use lens::observe::{Observe, Samples};
use observatory::Observatory;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use traffic::UsageSums;
use wire::http1::head::HeadError;

use crate::client_limits::ClientLimits;
use crate::respond::Refusal;
use plan::audit::Audit;
use plan::{Plan, Tools};

/// Shared by every worker.
#[derive(Debug)]
pub struct Shared {
    /// The plan for requests that enter now; each request pins the one it entered with.
    pub plan: ArcSwap<Plan>,
    /// Discovered backends. Held while a plan is made, so that plans are made in order.
    pub found: Mutex<Found>,
    /// Series, gauges, sinks.
    pub observatory: Arc<Observatory>,
    /// What the next plan will be made with.
    pub tools: Tools,
    /// Limits by client address.
    pub client_limits: Arc<ClientLimits>,
    /// Usage sums.
    pub spend: Arc<UsageSums>,
    /// Where findings are written down.
    pub audit: Option<Audit>,
    /// Set when the process drains: answers close their connections, `/readyz` fails.
    pub draining: AtomicBool,
    /// When the process began to serve.
    pub started: lens::Tick,
    /// Work that no request waits for, such as mirrored requests; it is waited for, or dropped, at
    /// the end.
    pub tasks: TaskTracker,
    /// Where the settings came from, if from a file.
    pub file: Option<PathBuf>,
}

impl Shared {
    /// Whether the process is to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
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

/// The number of this thread among those that record.
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
        self.plan.load().observe(now, samples);
    }
}
