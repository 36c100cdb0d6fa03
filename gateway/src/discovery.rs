//! Who is there? Pools whose backends come and go while the gateway runs.
//!
//! - *In*: the places where pools of the plan look for their backends.
//! - *Out*: plans with those that were found; requests in flight keep the plan they entered with.
//! - *Never*: an answer that could not be had taken for an empty one: who was there last stays. A request that waits for any of this.

mod dns;

use std::collections::{BTreeMap, BTreeSet};
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
/// How long the beginning waits for the first answers; who is found later joins then.
const FIRST: Duration = Duration::from_secs(3);
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

/// What a place says: for which pool it was looked for, and who is there.
type Said = (Arc<str>, Vec<Endpoint>);

/// The places that are watched.
#[derive(Debug)]
pub(crate) struct Discovery {
    watched: BTreeMap<Arc<str>, (Source, JoinSet<()>)>,
    say: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
}

impl Discovery {
    pub(crate) fn new() -> Self {
        let (say, said) = mpsc::channel(64);
        Discovery { watched: BTreeMap::new(), say, said }
    }

    /// Ask everywhere, and wait for the answers for a while: a gateway that has just begun should know where its requests go.
    pub(crate) async fn begin(&mut self, shared: &Arc<Shared>) {
        self.look(shared);
        let mut missing: BTreeSet<Arc<str>> = self.watched.keys().cloned().collect();
        let until = Instant::now() + FIRST;
        while !missing.is_empty() {
            let Ok(Some((pool, found))) = timeout_at(until, self.said.recv()).await else { break };
            missing.remove(&pool);
            reload::found(shared, vec![(pool, found)]).await;
        }
        for pool in missing {
            log::warn!("pool {pool}: nobody has said within {FIRST:?} who is there; asking on");
        }
    }

    /// Put in force what is said, and see to it that what the plan looks for is asked for. Never ends.
    pub(crate) async fn keep(mut self, shared: Arc<Shared>) {
        loop {
            if let Ok(Some(first)) = timeout(LOOK, self.said.recv()).await {
                let mut all = vec![first];
                let until = Instant::now() + TOGETHER;
                while let Ok(Some(next)) = timeout_at(until, self.said.recv()).await {
                    all.push(next);
                }
                reload::found(&shared, all).await;
            }
            self.look(&shared);
        }
    }

    /// Watch what the plan in force looks for, and nothing else.
    fn look(&mut self, shared: &Shared) {
        let plan = shared.plan.load();
        let wanted = || plan.settings.pools.iter().filter_map(|pool| Some((&pool.settings.name, &pool.discovery.as_ref()?.source)));
        // One that has ended, which only a panic can do, is begun anew.
        self.watched.retain(|pool, (source, task)| task.try_join_next().is_none() && wanted().any(|wanted| wanted == (&*pool, &*source)));
        for (pool, source) in wanted() {
            if self.watched.contains_key(pool) {
                continue;
            }
            // Owned by the map: it ends when nobody wants to know any more, or the gateway ends.
            let mut task = JoinSet::new();
            task.spawn(watch(source.clone(), Teller { pool: pool.clone(), say: self.say.clone(), last: None }));
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

/// Tells who is there, when that has changed.
#[derive(Debug)]
struct Teller {
    pool: Arc<str>,
    say: mpsc::Sender<Said>,
    last: Option<Vec<Endpoint>>,
}

impl Teller {
    async fn tell(&mut self, mut found: Vec<Endpoint>) {
        found.sort_unstable();
        if self.last.as_ref() != Some(&found) {
            self.last = Some(found.clone());
            // Fails only when the gateway ends.
            let _ = self.say.send((self.pool.clone(), found)).await;
        }
    }
}
