//! Finds the backends of pools while the gateway runs: DNS, SRV, Kubernetes.
//!
//! - *In*: the source of a pool's backends.
//! - *Out*: an [`Update`] after each change or lookup.
//! - *Never*: a failed lookup treated as an empty answer: known backends stay. An empty answer
//!   leaves them for a while, too.

#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;

use std::sync::Arc;

use config::{Endpoint, Source};
use tokio::sync::mpsc;

/// All backends of a pool, as reported by its source.
#[derive(Debug)]
pub struct Update {
    /// The pool.
    pub pool: Arc<str>,
    /// The source that reported them.
    pub source: Source,
    /// Their addresses and ports, sorted.
    pub endpoints: Vec<Endpoint>,
}

/// Whether this build supports the source.
///
/// # Errors
/// If not, the feature to build with.
pub fn is_supported(source: &Source) -> Result<(), &'static str> {
    match source {
        Source::Dns { .. } | Source::Srv { .. } if cfg!(feature = "dns") => Ok(()),
        Source::Dns { .. } | Source::Srv { .. } => {
            Err("this build does not support DNS; build it with the feature `dns`")
        }
        Source::Kubernetes { .. } if cfg!(feature = "kubernetes") => Ok(()),
        Source::Kubernetes { .. } => {
            Err("this build does not support Kubernetes; build it with the feature `kubernetes`")
        }
    }
}

/// Watches a source for a pool. Never ends. A source that this build does not support reports
/// nothing, see [`is_supported`].
///
/// # Cancel safety
/// Dropping the future ends the watch.
pub async fn watch(pool: Arc<str>, source: Source, updates: mpsc::Sender<Update>) {
    let reporter = Reporter { pool, source: source.clone(), updates };
    match source {
        #[cfg(feature = "dns")]
        Source::Dns { name, port, servers, hold } => {
            dns::watch(dns::DnsName::Addresses { name, port }, &servers, hold, reporter).await
        }
        #[cfg(feature = "dns")]
        Source::Srv { name, servers, hold } => {
            dns::watch(dns::DnsName::Service { name }, &servers, hold, reporter).await
        }
        #[cfg(feature = "kubernetes")]
        Source::Kubernetes { namespace, service, port } => {
            kubernetes::watch(kubernetes::Service { namespace, name: service, port }, reporter)
                .await
        }
        #[cfg(not(all(feature = "dns", feature = "kubernetes")))]
        _ => {
            drop(reporter);
            std::future::pending().await
        }
    }
}

/// Reports what is found for one pool.
#[derive(Debug)]
struct Reporter {
    pool: Arc<str>,
    source: Source,
    updates: mpsc::Sender<Update>,
}

#[cfg_attr(
    not(any(feature = "dns", feature = "kubernetes")),
    expect(dead_code, reason = "this build watches nothing")
)]
impl Reporter {
    async fn report(&self, mut endpoints: Vec<Endpoint>) {
        endpoints.sort_unstable();
        // Fails only when the gateway ends.
        let _ = self
            .updates
            .send(Update { pool: self.pool.clone(), source: self.source.clone(), endpoints })
            .await;
    }
}
