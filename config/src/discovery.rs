//! Settings of discovery, and settings with discovered backends added.
//!
//! - *In*: the discovery source of a pool, and the endpoints it reported.
//! - *Out*: settings with those endpoints added as backends.
//! - *Never*: a backend at a link-local, multicast or broadcast address; more than
//!   [`MAX_DISCOVERED`] in a pool.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::Settings;
use crate::settings::{Backend, Pool, Route};

/// Maximum discovered backends of a pool.
pub const MAX_DISCOVERED: usize = 1000;

/// A source of more backends for a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// All addresses of a name (A and AAAA), at one port.
    Dns {
        /// The name.
        name: String,
        /// The port.
        port: u16,
        /// Name servers; empty: the system's.
        servers: Vec<SocketAddr>,
        /// How long an empty answer leaves the previous backends.
        #[serde(serialize_with = "seconds")]
        hold: Duration,
    },
    /// Targets of an SRV name (RFC 2782), with their ports and weights.
    Srv {
        /// The name, `_service._tcp.domain`.
        name: String,
        /// Name servers; empty: the system's.
        servers: Vec<SocketAddr>,
        /// How long an empty answer leaves the previous backends.
        #[serde(serialize_with = "seconds")]
        hold: Duration,
    },
    /// Ready endpoints of a Kubernetes service, from its EndpointSlices.
    Kubernetes {
        /// Its namespace; `None`: the one that the gateway runs in.
        namespace: Option<String>,
        /// Its name.
        service: String,
        /// The name of its port, or the number at the pods; `None`: the only one.
        port: Option<String>,
    },
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Dns { name, port, .. } => write!(f, "dns {name}, port {port}"),
            Source::Srv { name, .. } => write!(f, "srv {name}"),
            Source::Kubernetes { namespace: Some(namespace), service, .. } => {
                write!(f, "kubernetes {namespace}/{service}")
            }
            Source::Kubernetes { service, .. } => write!(f, "kubernetes {service}"),
        }
    }
}

/// Discovery of a pool's backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    /// Backend whose settings apply to them, except for address and port.
    pub template: Arc<Backend>,
    /// Their source.
    pub source: Source,
}

/// A discovered endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its IP address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Weight; 0: unspecified.
    pub weight: u32,
    /// Its zone, as reported by the source.
    pub zone: Option<String>,
}

/// Discovered endpoints, by pool.
pub type Found = BTreeMap<Arc<str>, Vec<Endpoint>>;

/// Whether the host is link-local, or a metadata service of a cloud.
pub(crate) fn is_forbidden(host: &str) -> bool {
    host.eq_ignore_ascii_case("metadata.google.internal")
        || host.parse().is_ok_and(is_link_local_or_metadata)
}

/// Whether an address is link-local, or a metadata service of a cloud, in any notation.
fn is_link_local_or_metadata(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address == METADATA,
    }
}

/// The IPv6 metadata address of AWS.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether a backend may have this address.
fn may_be_there(endpoint: &Endpoint) -> bool {
    let address = endpoint.address.to_canonical();
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    endpoint.port != 0
        && !is_link_local_or_metadata(address)
        && !address.is_unspecified()
        && !address.is_multicast()
        && !is_broadcast
}

impl Endpoint {
    /// The backend at this endpoint, with the settings of `template`.
    fn backend(&self, name: Arc<str>, index: usize, template: &Backend) -> Backend {
        let weight = if self.weight == 0 { template.weight } else { self.weight };
        let zone = self.zone.clone().or_else(|| template.zone.clone());
        Backend {
            name,
            index,
            host: self.address.to_string(),
            port: self.port,
            weight,
            zone,
            ..template.clone()
        }
    }
}

impl Settings {
    /// These settings with discovered backends added.
    #[must_use]
    pub fn with_discovered(&self, found: &Found) -> Settings {
        let mut settings = self.clone();
        let mut renewed: Vec<(Arc<Pool>, Arc<Pool>)> = Vec::new();
        for pool in &mut settings.pools {
            let (Some(discovery), Some(found)) = (&pool.discovery, found.get(&pool.settings.name))
            else {
                continue;
            };
            let mut next = Pool::clone(pool);
            let mut endpoints: Vec<&Endpoint> =
                found.iter().filter(|endpoint| may_be_there(endpoint)).collect();
            endpoints.sort_unstable();
            endpoints.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
            for endpoint in endpoints.into_iter().take(MAX_DISCOVERED) {
                let name: Arc<str> =
                    format!("{}/{}-{}", pool.settings.name, endpoint.address, endpoint.port).into();
                if settings.backends.iter().any(|there| there.name == name) {
                    continue;
                }
                let backend =
                    Arc::new(endpoint.backend(name, settings.backends.len(), &discovery.template));
                settings.backends.push(backend.clone());
                next.backends.push(backend);
            }
            let next = Arc::new(next);
            renewed.push((pool.clone(), next.clone()));
            *pool = next;
        }
        let renew = |pool: &mut Arc<Pool>| {
            if let Some((_, next)) = renewed.iter().find(|(before, _)| Arc::ptr_eq(before, pool)) {
                *pool = next.clone();
            }
        };
        for route in &mut settings.routes {
            let mut next = Route::clone(route);
            next.pools.iter_mut().for_each(&renew);
            next.mirror.iter_mut().for_each(|mirror| renew(&mut mirror.pool));
            *route = Arc::new(next);
        }
        settings
    }
}

impl Pool {
    /// A backend that represents the pool.
    pub fn representative(&self) -> Option<&Arc<Backend>> {
        self.backends.first().or(self.discovery.as_ref().map(|discovery| &discovery.template))
    }

    /// Whether the pool can have two backends, now or later.
    pub fn may_have_two(&self) -> bool {
        self.backends.len() > 1 || self.discovery.is_some()
    }
}
