//! What filters may use of the world: our clock, timers, the backends of the settings, a pool of threads.
//!
//! - *In*: a filter's wish.
//! - *Out*: [`filters::Host`], kept.
//! - *Never*: an answer of a judge that is larger than [`client::MOST_REPLY`]; a queue without an end.

mod client;
pub(crate) mod health;
#[cfg(feature = "onnx")]
mod model;
mod pool;
pub(crate) mod store;
mod tokenizer;
pub(crate) mod tokens;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use filters::{Ask, BoxFuture, Failure, Host, Job, Reply};
use lens::Tick;

use crate::clock;
use crate::upstream::Upstream;

#[cfg(feature = "onnx")]
pub(crate) use model::load_model;
pub(crate) use pool::Pool;
pub(crate) use tokenizer::Tokenizer;

/// The world of one plan.
pub(crate) struct World {
    backends: HashMap<Arc<str>, Arc<Upstream>>,
    pool: Arc<Pool>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("backends", &self.backends.keys()).finish_non_exhaustive()
    }
}

impl World {
    /// The backend of that name.
    pub(crate) fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.backends.get(name)
    }

    pub(crate) fn new(backends: impl Iterator<Item = Arc<Upstream>>, pool: Arc<Pool>) -> Self {
        World { backends: backends.map(|upstream| (upstream.backend.name.clone(), upstream)).collect(), pool }
    }
}

impl Host for World {
    fn now(&self) -> Tick {
        clock::now()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Reply, Failure>> {
        // Settings are checked: a judge names a backend that is there.
        let Some(upstream) = self.backends.get(&ask.backend).cloned() else { return Box::pin(async { Err(Failure::Unreachable) }) };
        Box::pin(async move {
            client::ask(&upstream, &ask).await.map_err(|error| {
                log::warn!("judge at backend {}: {error}", upstream.backend.name);
                match error {
                    client::AskError::TooLarge => Failure::Nonsense,
                    client::AskError::Upstream(_) => Failure::Unreachable,
                }
            })
        })
    }

    fn offload(&self, job: Job) -> Result<(), Failure> {
        self.pool.offload(job)
    }
}
