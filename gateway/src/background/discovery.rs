//! Who is there? Pools whose backends come and go while the gateway runs.
//!
//! - *In*: the places where pools of the plan look for their backends.
//! - *Out*: plans with those that were found; requests in flight keep the plan they entered with.
//! - *Never*: an answer that could not be had taken for an empty one: who was there last stays. A request that waits for any of this.

mod dns;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use config::{Endpoint, Source};
#[cfg(feature = "kubernetes")]
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::reload;
use crate::shared::Shared;

/// Between two looks at what the plan looks for.
const LOOK: Duration = Duration::from_millis(500);
/// How long the beginning waits for the first answers, and that of one which takes over, whose predecessor leaves soon; who is found later joins then.
pub(crate) const FIRST: Duration = Duration::from_secs(3);
pub(crate) const TAKING_OVER: Duration = Duration::from_millis(700);
/// Changes that come together are put in force together.
const TOGETHER: Duration = Duration::from_millis(50);
/// Between two tries of a place that gives no answer: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Whether this build can look there.
///
/// # Errors
/// What to do about it, if not.
pub(crate) fn is_known(source: &Source) -> Result<(), &'static str> {
    match source {
        Source::Dns { .. } | Source::Srv { .. } => Ok(()),
        Source::Kubernetes { .. } if cfg!(feature = "kubernetes") => Ok(()),
        Source::Kubernetes { .. } => Err("this build does not know Kubernetes; build it with the feature `kubernetes`"),
    }
}

/// What a place says: for which pool, which place it is, and who is there.
type Said = (Arc<str>, Source, Vec<Endpoint>);

/// What places have said last, by pool.
pub(crate) type Known = BTreeMap<Arc<str>, (Source, Vec<Endpoint>)>;

/// The places that are watched.
#[derive(Debug)]
pub(crate) struct Discovery {
    watched: BTreeMap<Arc<str>, (Source, JoinSet<()>)>,
    known: Known,
    say: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
}

impl Discovery {
    pub(crate) fn new() -> Self {
        let (say, said) = mpsc::channel(64);
        Discovery { watched: BTreeMap::new(), known: Known::new(), say, said }
    }

    /// Ask everywhere, and wait for the answers for a while: a gateway that has just begun should know where its requests go.
    pub(crate) async fn begin(&mut self, shared: &Arc<Shared>, patience: Duration) {
        self.look(shared);
        let until = Instant::now() + patience;
        while self.watched.keys().any(|pool| !self.known.contains_key(pool)) {
            let Ok(Some(said)) = timeout_at(until, self.said.recv()).await else { break };
            self.hear(said);
        }
        for pool in self.watched.keys().filter(|pool| !self.known.contains_key(*pool)) {
            log::warn!("pool {pool}: nobody has said within {patience:?} who is there; asking on");
        }
        reload::found(shared, &self.known).await;
    }

    /// Put in force what is said, and see to it that what the plan looks for is asked for. Never ends.
    pub(crate) async fn keep(mut self, shared: Arc<Shared>) {
        loop {
            if let Ok(Some(said)) = timeout(LOOK, self.said.recv()).await {
                self.hear(said);
                let until = Instant::now() + TOGETHER;
                while let Ok(Some(said)) = timeout_at(until, self.said.recv()).await {
                    self.hear(said);
                }
            }
            self.look(&shared);
            // Also what could not be put in force, or was lost by a reload that took a pool away and gave it back.
            reload::found(&shared, &self.known).await;
        }
    }

    /// What a place has said that is not watched any more is nothing.
    fn hear(&mut self, (pool, source, found): Said) {
        if self.watched.get(&pool).is_some_and(|(watched, _)| *watched == source) {
            self.known.insert(pool, (source, found));
        }
    }

    /// Watch what the plan in force looks for, and nothing else.
    fn look(&mut self, shared: &Shared) {
        let plan = shared.plan.load();
        let wanted = || plan.settings.pools.iter().filter_map(|pool| Some((&pool.settings.name, &pool.discovery.as_ref()?.source)));
        // One that has ended, which only a panic can do, is begun anew.
        self.watched.retain(|pool, (source, task)| task.try_join_next().is_none() && wanted().any(|wanted| wanted == (&*pool, &*source)));
        self.known.retain(|pool, (said, _)| self.watched.get(pool).is_some_and(|(source, _)| source == said));
        for (pool, source) in wanted() {
            if self.watched.contains_key(pool) {
                continue;
            }
            // Owned by the map: it ends when nobody wants to know any more, or the gateway ends.
            let mut task = JoinSet::new();
            task.spawn(watch(source.clone(), Teller { pool: pool.clone(), source: source.clone(), say: self.say.clone() }));
            self.watched.insert(pool.clone(), (source.clone(), task));
        }
    }
}

#[cfg_attr(not(feature = "kubernetes"), expect(unused_mut, reason = "only Kubernetes tells through it here"))]
async fn watch(source: Source, mut tell: Teller) {
    match source {
        Source::Dns { name, port, servers } => dns::watch(dns::Question::Addresses { name, port }, &servers, tell).await,
        Source::Srv { name, servers } => dns::watch(dns::Question::Service { name }, &servers, tell).await,
        #[cfg(feature = "kubernetes")]
        Source::Kubernetes { namespace, service, port } => {
            let mut found = std::pin::pin!(kubernetes::endpoints(kubernetes::Service { namespace, name: service, port }));
            while let Some(found) = found.next().await {
                tell.tell(found).await;
            }
        }
        #[cfg(not(feature = "kubernetes"))]
        Source::Kubernetes { .. } => {}
    }
}

/// Tells who is there.
#[derive(Debug)]
struct Teller {
    pool: Arc<str>,
    source: Source,
    say: mpsc::Sender<Said>,
}

impl Teller {
    async fn tell(&mut self, mut found: Vec<Endpoint>) {
        found.sort_unstable();
        // Fails only when the gateway ends.
        let _ = self.say.send((self.pool.clone(), self.source.clone(), found)).await;
    }
}
