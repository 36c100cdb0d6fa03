//! Runs the gateway: listeners on worker threads, the admin listener and signals on the calling
//! one.
//!
//! - *In*: [`Options`].
//! - *Out*: a running [`Gateway`]; its end.
//! - *Never*: an exit while a stream is running, until the grace period is over. Pingora's `Server`
//!   always sleeps the whole period; this ends with the last connection.
//!
//! After a signal to hand over, the gateway drains and ends when the successor, which was started
//! with `--upgrade`, serves.

mod sinks;
mod start_error;
pub use start_error::StartError;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use config::{Found, Settings};
use filters::Registry;
use lens::Tick;
use observatory::Observatory;
use parking_lot::Mutex;
use pingora::server::ListenFds;
use pingora::services::Service as _;
use pingora_runtime::RuntimeBuilder;
use pipeline::shared::Shared;
use plan::audit::Audit;
use plan::client_limits::ClientLimits;
use plan::clock::{self, when};
use plan::host::ThreadPool;
use plan::{Plan, Tools};
use process::hand_over::{self, Predecessor};
use process::notify::Notifier;
use process::signals::{Signals, Wanted};
use process::{descriptors, memory};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;
use transport::Memory;

use crate::admin::AdminApp;
use crate::background::discovery::{self, Discovery};
use crate::background::reload::Stamps;
use crate::background::usage_file::{OpenUsageFile, UsageFile};
use crate::background::{health_checks, jwks, reload, shared_limits};
use crate::listeners::{Bound, ProxyApp, Sockets};
use crate::reachable;
use crate::telemetry::{Certificates, Observed, Otlp};

/// Guardrail jobs that may wait. At a hundred microseconds each, the last waits for some 25 ms;
/// only explicit settings make a deadline shorter than twice that.
const JUDGING: usize = 256;
/// Prompts that wait to be counted: the longest take a tenth of a second.
const COUNTING: usize = 32;
/// Interval at which the drain checks for open connections.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// Maximum time for listeners to stop accepting at shutdown.
const LISTENERS_END: Duration = Duration::from_millis(200);
/// Maximum time for workers to drop their tasks at shutdown.
const WORKERS_END: Duration = Duration::from_millis(500);
/// How long streams have after the grace period to send an error event.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// How long a draining gateway may take to return its shared limits.
const LAST_CHORES: Duration = Duration::from_secs(1);
/// Upper bound of everything after the delay or the grace period, for the service manager.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// What a gateway is started with.
#[derive(Debug)]
pub struct Options {
    /// Checked settings.
    pub settings: Settings,
    /// The settings file, which is watched for changes.
    pub file: Option<PathBuf>,
    /// Take the listeners from a running gateway.
    pub upgrade: bool,
    /// Filters that settings may name.
    pub filters: Registry,
}

/// A gateway that listens and is ready to run.
pub struct Gateway {
    shared: Arc<Shared>,
    listeners: Vec<Bound>,
    admin: Bound,
    fds: ListenFds,
    /// The gateway that handed its listeners over. It gets a report when this one serves.
    predecessor: Mutex<Option<Predecessor>>,
    usage_file: Arc<UsageFile>,
    otlp: Otlp,
    /// What scrapes and exports observe besides the shared state.
    observed: Observed,
    /// Stamps of the settings files that the start has read.
    read: Stamps,
    workers: usize,
    /// Maximum wait for the first discovered backends.
    patience: Duration,
    notifier: Arc<Notifier>,
}

impl Gateway {
    /// Build the plan and bind every address.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left listening.
    pub fn bind(options: Options) -> Result<Self, StartError> {
        let workers = workers(&options.settings);
        let connections = share_descriptors(&options.settings, workers);
        let otlp = Otlp::new(&options.settings.otlp)?;
        // Workers, and the thread of the admin listener.
        let opened = sinks::open(&options.settings, workers + 1, &otlp)?;
        let audit = Audit::new(&options.settings.audit);
        let tools = tools(&options.settings, opened.observatory.clone(), options.filters);
        let mut usage_file =
            OpenUsageFile::open(options.settings.usage_file.as_deref(), options.upgrade)?;
        // Everything that can fail without the sockets comes first: a successor that takes them and
        // then ends would leave no gateway.
        let settings = Arc::new(options.settings);
        log_warnings(&settings);
        let read = reload::stamps(options.file.as_deref(), &settings);
        let plan = Plan::build(settings.clone(), &Found::new(), &tools, None)?;
        let mut sockets = Sockets::new(&settings, options.upgrade)?;
        let listeners = sockets.bind_all(&settings.listeners)?;
        let admin = sockets.bind_admin(settings.admin.address)?;
        // A predecessor has appended its usage before it passed the listeners on.
        let usage_sums = usage_file.sums();
        plan.rate_limits.restore_usage(&usage_sums, when());
        let (fds, predecessor) = sockets.into_parts();
        let shared = Arc::new(Shared {
            plan: ArcSwap::from_pointee(plan),
            started_with: settings,
            last_reload: Mutex::default(),
            found: Mutex::default(),
            observatory: opened.observatory.clone(),
            statistics: opened.statistics.clone(),
            tools,
            client_limits: ClientLimits::new(connections),
            memory: Memory::new(memory::default_max()),
            usage_sums,
            audit,
            contents: opened.contents.clone(),
            tracing: otlp.tracing(),
            draining: AtomicBool::new(false),
            drain: Arc::default(),
            started: clock::now(),
            tasks: TaskTracker::new(),
            file: options.file,
        });
        shared.configure_statistics();
        let usage_file = Arc::new(usage_file.start(&shared));
        let observed = opened.into_observed(certificates(&listeners));
        otlp.start(&shared, observed.clone());
        Ok(Gateway {
            shared,
            listeners,
            admin,
            fds,
            predecessor: Mutex::new(predecessor),
            usage_file,
            otlp,
            observed,
            read,
            workers,
            patience: patience(options.upgrade),
            notifier: Arc::new(Notifier::from_env()),
        })
    }

    /// Where clients connect, in the order of the settings.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|l| l.address).collect()
    }

    /// Where the operator connects.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// One line for each listener: what listens where.
    pub fn summary(&self) -> String {
        let plan = self.shared.plan.load();
        let mut lines: Vec<String> =
            self.listeners.iter().map(|l| format!("listening on {}", l.describe())).collect();
        lines.push(format!(
            "admin on http://{} (dashboard: /, metrics: /metrics, data: /api)",
            self.admin.address
        ));
        for route in &plan.routes {
            for pool in &route.route.pools {
                let at = |backend: &Arc<config::settings::Backend>| {
                    format!("{} at {}", backend.name, reachable::url(backend))
                };
                let found = pool
                    .discovery
                    .as_ref()
                    .map(|discovery| format!("backends discovered by {}", discovery.source));
                let backends: Vec<String> = pool.backends.iter().map(at).chain(found).collect();
                lines.push(format!("route {} -> {}", route.route.name, backends.join(", ")));
            }
        }
        lines.join("\n")
    }

    /// Run until a signal ends it.
    ///
    /// # Errors
    /// When the runtime or the signals cannot be set up.
    pub fn serve(self) -> Result<(), StartError> {
        let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut discovery = Discovery::new();
        // Signals that arrive during startup are handled once it serves.
        let signals = control.block_on(async {
            let signals = Signals::new();
            let patience = self.patience;
            let discovering = discovery.begin(&self.shared, patience);
            tokio::join!(discovering, jwks::begin(&self.shared, patience));
            signals
        })?;
        let runtime = RuntimeBuilder::new(self.workers, "llm-lens-data").work_steal(false).build();
        let (leave, leaving) = watch::channel(false);
        let accepting = TaskTracker::new();
        for bound in &self.listeners {
            let mut service = bound.service(ProxyApp::new(&self.shared, bound));
            let (fds, leaving) = (self.fds.clone(), leaving.clone());
            // Owned by the data runtime; it ends with `leaving`.
            let accept = async move { service.start_service(Some(fds), leaving, 1).await };
            accepting.spawn_on(accept, runtime.get_handle());
        }
        accepting.close();
        let end = control.block_on(self.control(&leave, signals, discovery))?;
        // A listener whose runtime shuts down gets an error from every accept, without a pause.
        let _ = leave.send(true);
        let _ =
            control.block_on(async { tokio::time::timeout(LISTENERS_END, accepting.wait()).await });
        // Running requests are dropped and settled before limits are returned and usage is saved.
        let limit = if end == End::Now { Duration::ZERO } else { Duration::from_millis(200) };
        let (ended, end_of_workers) = std::sync::mpsc::sync_channel(1);
        // On its own thread: a worker that does not stop must not block the exit. It ends with the
        // process.
        std::thread::spawn(move || {
            runtime.shutdown_timeout(limit);
            let _ = ended.send(());
        });
        if end_of_workers.recv_timeout(limit + WORKERS_END).is_err() {
            tracing::warn!("a worker did not end in time, exiting without it");
        }
        if end == End::Drained {
            let _ = control.block_on(async {
                tokio::time::timeout(LAST_CHORES, shared_limits::leave(&self.shared)).await
            });
        }
        self.usage_file.close();
        if end == End::Drained {
            self.otlp.flush_metrics();
        }
        self.shared.observatory.close();
        self.shared.contents.iter().for_each(|contents| contents.close());
        // A file that hangs, such as one on a dead network share, must not delay the exit.
        control.shutdown_background();
        Ok(())
    }

    /// Serve the operator and wait for signals; then drain.
    async fn control(
        &self,
        leave: &watch::Sender<bool>,
        mut signals: Signals,
        discovery: Discovery,
    ) -> Result<End, StartError> {
        // The admin listener serves until the end, or until a successor takes over.
        let (hand_admin_over, staying) = watch::channel(false);
        let drain = Arc::new(Notify::new());
        let parts = (self.observed.clone(), self.otlp.clone());
        let listeners = self.listeners.iter().map(Bound::listening).collect();
        let app = AdminApp::new(self.shared.clone(), parts, listeners, drain.clone());
        let mut admin = self.admin.service(app);
        let admin = admin.start_service(Some(self.fds.clone()), staying, 1);
        let reload = Arc::new(Notify::new());
        let watching = self.watch(discovery, reload.clone());
        // Streams that still run while the gateway drains are still charged.
        let (end_paying, paid) = watch::channel(false);
        let paying = shared_limits::keep(self.shared.clone(), paid);
        // Also while the gateway drains.
        let alive = self.notifier.keep_alive();
        tokio::pin!(admin, watching, paying, alive);
        // Workers accept, and this thread is about to: the predecessor may drain.
        self.predecessor.lock().take().into_iter().for_each(Predecessor::report_serving);
        self.notifier.ready();
        let leaves = tokio::select! {
            leaves = self.serve_until_drain(&mut signals, &reload, &drain) => leaves,
            () = &mut admin => None,
            () = &mut watching => None,
            () = &mut paying => None,
            () = &mut alive => None,
        };
        let Some(is_replaced) = leaves else { return Ok(End::Now) };
        if is_replaced {
            let _ = hand_admin_over.send(true);
        }
        let grace = self.begin_drain(leave);
        tokio::select! {
            () = &mut paying => {}
            () = &mut alive => {}
            () = self.drained() => tracing::info!("drained"),
            () = tokio::time::sleep(grace + LAST_WORDS) => {
                tracing::warn!(?grace, "shutdown.grace exceeded, closing the remaining streams")
            }
            () = signals.interrupted() => return Ok(End::Now),
            () = async {
                admin.as_mut().await;
                if is_replaced {
                    std::future::pending().await
                }
            } => {}
        }
        let _ = end_paying.send(true);
        let _ = tokio::time::timeout(LAST_CHORES, paying).await;
        pages::live::ended().await;
        Ok(End::Drained)
    }

    /// Wait until the gateway has to drain; whether a successor replaces it. `None`: it ends now.
    async fn serve_until_drain(
        &self,
        signals: &mut Signals,
        reload: &Notify,
        drain: &Notify,
    ) -> Option<bool> {
        loop {
            let wanted = tokio::select! {
                wanted = signals.wait(reload) => wanted,
                () = drain.notified() => Wanted::Drain,
            };
            let wanted = match wanted {
                Wanted::HandOver => tokio::select! {
                    handed = self.hand_over() => match handed {
                        true => return Some(true),
                        // No successor took the listeners: the gateway continues.
                        false => continue,
                    },
                    wanted = signals.wait_for_end() => wanted,
                },
                wanted => wanted,
            };
            if wanted == Wanted::End {
                return None;
            }
            // Load balancers send requests until they have noticed.
            self.shared.draining.store(true, Ordering::Relaxed);
            let delay = self.shared.plan.load().settings.shutdown.delay;
            self.notifier.stopping(delay + END_TIMEOUT);
            return tokio::select! {
                () = tokio::time::sleep(delay) => Some(false),
                () = signals.interrupted() => None,
            };
        }
    }

    /// Reload settings, discover backends, check their health; until the process ends.
    async fn watch(&self, discovery: Discovery, reload: Arc<Notify>) {
        let certificates = self.listeners.iter().filter_map(Bound::certificate).collect();
        tokio::join!(
            reload::watch(
                self.shared.clone(),
                self.read.clone(),
                certificates,
                (reload, self.notifier.clone())
            ),
            discovery.keep(self.shared.clone()),
            health_checks::keep(self.shared.clone()),
            jwks::keep(self.shared.clone()),
            reachable::log_unreachable(&self.shared)
        );
    }

    /// Accept no more connections, and close idle ones; how long streams may continue.
    fn begin_drain(&self, leave: &watch::Sender<bool>) -> Duration {
        self.shared.draining.store(true, Ordering::Relaxed);
        let _ = leave.send(true);
        let grace = self.shared.plan.load().settings.shutdown.grace;
        let until =
            clock::now().0.saturating_add(u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX));
        self.shared.drain.set(Tick(until));
        self.notifier.stopping(grace + END_TIMEOUT);
        tracing::info!(?grace, "draining");
        grace
    }

    /// Wait until no client is connected.
    async fn drained(&self) {
        while self.shared.observatory.gauges().connections.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Pass the listeners to a successor; whether one took them and serves.
    async fn hand_over(&self) -> bool {
        let configured = self.shared.plan.load().settings.shutdown.upgrade_socket.clone();
        let (names, fds) = self.fds.lock().serialize();
        let usage_file = self.usage_file.clone();
        let offer = move || {
            let path = hand_over::socket_path(configured.as_deref())?;
            tracing::info!(path = %path.display(), "handing the listeners over");
            usage_file.hand_over();
            hand_over::offer(&path, &names, &fds).inspect_err(|_| usage_file.keep_on())
        };
        match tokio::task::spawn_blocking(offer).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "no successor took the listeners, this gateway goes on");
                false
            }
            Err(_) => false,
        }
    }
}

fn tools(settings: &Settings, observatory: Arc<Observatory>, filters: Registry) -> Tools {
    Tools {
        observatory,
        filters,
        pool: Arc::new(ThreadPool::new("guardrail", settings.guardrail_threads, JUDGING)),
        counting: Arc::new(ThreadPool::new("count", 0, COUNTING)),
    }
}

/// Raise the limit of descriptors, and share them out. Returns the client connections that it
/// permits.
fn share_descriptors(settings: &Settings, workers: usize) -> usize {
    let connections = descriptors::max_connections(descriptors::raise_limit(), workers);
    descriptors::check(settings.limits.connections, connections);
    transport::limit_idle_connections(descriptors::max_idle(connections));
    pages::live::limit_watchers(descriptors::max_watchers(connections));
    connections
}

/// Log what is valid and probably not meant.
fn log_warnings(settings: &Settings) {
    for problem in settings.warnings() {
        tracing::warn!(problem, "settings");
    }
}

/// Maximum wait for the first discovered backends.
fn patience(is_upgrade: bool) -> Duration {
    if is_upgrade { discovery::UPGRADE_TIMEOUT } else { discovery::START_TIMEOUT }
}

/// Number of worker threads.
fn workers(settings: &Settings) -> usize {
    match settings.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// The certificates of listeners, by address.
fn certificates(listeners: &[Bound]) -> Certificates {
    let certificate = |bound: &Bound| Some((bound.address.to_string(), bound.certificate()?));
    listeners.iter().filter_map(certificate).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Drained,
    Now,
}
