//! Keeps discovered backends up to date.
//!
//! - *In*: what the sources of the plan's pools report.
//! - *Out*: plans with the backends that were found; requests in flight keep the plan they entered
//!   with.
//! - *Never*: a failed lookup taken for an empty answer; a request that waits for discovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use config::{Endpoint, Source};
use discovery::Update;
use pipeline::shared::Shared;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::reload;

/// Interval between checks for changed sources.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the start waits for the first answers.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(3);
/// The same with `--upgrade`, because the predecessor exits soon. Later answers apply when they
/// arrive.
pub(crate) const UPGRADE_TIMEOUT: Duration = Duration::from_millis(700);
/// Changes within this time take effect together.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// What sources reported last, by pool.
pub(super) type Known = BTreeMap<Arc<str>, (Source, Vec<Endpoint>)>;

/// The sources that are watched.
#[derive(Debug)]
pub(crate) struct Discovery {
    watched: BTreeMap<Arc<str>, (Source, JoinSet<()>)>,
    known: Known,
    updates: mpsc::Sender<Update>,
    received: mpsc::Receiver<Update>,
}

impl Discovery {
    pub(crate) fn new() -> Self {
        let (updates, received) = mpsc::channel(64);
        Discovery { watched: BTreeMap::new(), known: Known::new(), updates, received }
    }

    /// Watch all sources, and wait for their first answers up to `patience`: a gateway that starts
    /// should know its backends.
    pub(crate) async fn begin(&mut self, shared: &Arc<Shared>, patience: Duration) {
        self.watch_wanted(shared);
        let until = Instant::now() + patience;
        while self.watched.keys().any(|pool| !self.known.contains_key(pool)) {
            let Ok(Some(update)) = timeout_at(until, self.received.recv()).await else { break };
            self.receive(update);
        }
        for pool in self.watched.keys().filter(|pool| !self.known.contains_key(*pool)) {
            tracing::warn!(%pool, waited = ?patience, "no endpoints discovered yet, retrying");
        }
        reload::apply_discovered(shared, &self.known).await;
    }

    /// Apply updates, and watch the sources of the plan in force. Never ends.
    pub(crate) async fn keep(mut self, shared: Arc<Shared>) {
        loop {
            if let Ok(Some(update)) = timeout(POLL_INTERVAL, self.received.recv()).await {
                self.receive(update);
                let until = Instant::now() + BATCH_TIME;
                while let Ok(Some(update)) = timeout_at(until, self.received.recv()).await {
                    self.receive(update);
                }
            }
            self.watch_wanted(&shared);
            // Also apply what could not be applied before, or was lost when a reload removed a pool
            // and another restored it.
            reload::apply_discovered(&shared, &self.known).await;
        }
    }

    /// Store an update, unless its source is no longer watched.
    fn receive(&mut self, Update { pool, source, endpoints }: Update) {
        if self.watched.get(&pool).is_some_and(|(watched, _)| *watched == source) {
            self.known.insert(pool, (source, endpoints));
        }
    }

    /// Watch exactly the sources of the plan in force.
    fn watch_wanted(&mut self, shared: &Shared) {
        let plan = shared.plan.load();
        let wanted = || {
            plan.settings
                .pools
                .iter()
                .filter_map(|pool| Some((&pool.settings.name, &pool.discovery.as_ref()?.source)))
        };
        // A task that has ended, which only a panic can cause, is restarted.
        self.watched.retain(|pool, (source, task)| {
            task.try_join_next().is_none() && wanted().any(|wanted| wanted == (&*pool, &*source))
        });
        self.known.retain(|pool, (said, _)| {
            self.watched.get(pool).is_some_and(|(source, _)| source == said)
        });
        for (pool, source) in wanted() {
            if self.watched.contains_key(pool) {
                continue;
            }
            // Owned by the map: it ends when the plan no longer has its source, or the gateway
            // ends.
            let mut task = JoinSet::new();
            task.spawn(discovery::watch(pool.clone(), source.clone(), self.updates.clone()));
            self.watched.insert(pool.clone(), (source.clone(), task));
        }
    }
}
