//! What filters may use: the clock, timers, the backends of the settings, a pool of threads.
//!
//! - *In*: calls of a filter.
//! - *Out*: [`filters::Host`], implemented.
//! - *Never*: an answer of a judge that is larger than [`client::MAX_REPLY`]; an unbounded queue.

pub mod client;
#[cfg(feature = "onnx")]
mod model;
mod thread_pool;
#[cfg_attr(not(feature = "tokenizer"), path = "host/tokenizer/off.rs")]
mod tokenizer;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use filters::{BoxFuture, Failure, Host, HostRequest, HostResponse, Job};
use lens::Tick;
use transport::Upstream;

use crate::{clock, current_request, failure_log};

#[cfg(feature = "onnx")]
pub use model::load_model;
pub use thread_pool::ThreadPool;
pub use tokenizer::{Tokenizer, TokenizerError};

/// What the filters of one plan may use.
pub struct FilterHost {
    backends: HashMap<Arc<str>, Arc<Upstream>>,
    pool: Arc<ThreadPool>,
}

impl fmt::Debug for FilterHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterHost")
            .field("backends", &self.backends.keys())
            .finish_non_exhaustive()
    }
}

impl FilterHost {
    /// The backend of that name.
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.backends.get(name)
    }

    /// A host with these backends; `pool` runs jobs that take long.
    pub fn new(backends: impl Iterator<Item = Arc<Upstream>>, pool: Arc<ThreadPool>) -> Self {
        FilterHost {
            backends: backends.map(|upstream| (upstream.backend.name.clone(), upstream)).collect(),
            pool,
        }
    }
}

impl Host for FilterHost {
    fn now(&self) -> Tick {
        clock::now()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn send(&self, ask: HostRequest) -> BoxFuture<'static, Result<HostResponse, Failure>> {
        // Checked settings: every judge names an existing backend.
        let Some(upstream) = self.backends.get(&ask.backend).cloned() else {
            return Box::pin(async { Err(Failure::Unreachable) });
        };
        Box::pin(async move {
            client::post(&upstream, &ask).await.map_err(|error| {
                if let Some(admitted) = failure_log::admit(&upstream.backend.name, "judge") {
                    let (name, suppressed) = (&upstream.backend.name, admitted.suppressed);
                    tracing::warn!(backend = %name, %error, suppressed, "judge call failed");
                }
                match error {
                    client::CallError::TooLarge => Failure::InvalidResponse,
                    client::CallError::Upstream(_) => Failure::Unreachable,
                }
            })
        })
    }

    fn offload(&self, job: Job) -> Result<(), Failure> {
        self.pool.offload(current_request::carry(job))
    }
}
