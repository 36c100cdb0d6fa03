//! Limits by client address: connections and requests, before authentication. A bound on requests
//! that need a connection to a backend.
//!
//! - *In*: addresses of clients.
//! - *Out*: admitted or refused.
//! - *Never*: memory that grows with the number of clients. Only open connections are counted;
//!   [`MAX_ADDRESSES`] addresses have a rate of their own, and the others share one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use config::settings::Limits;
use governor::clock::DefaultClock;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use lens::Tick;
use lens::observe::{Observe, Samples};
use parking_lot::Mutex;

use crate::clock;

/// Maximum addresses with a rate of their own.
const MAX_ADDRESSES: usize = 1 << 16;
/// Key of the rate that all other addresses share.
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

type Rates = RateLimiter<IpAddr, DefaultKeyedStateStore<IpAddr>, DefaultClock>;

/// Open connections and request rates by client address.
#[derive(Debug)]
pub struct ClientLimits {
    connections: Mutex<HashMap<IpAddr, usize>>,
    all: AtomicI64,
    /// Maximum connections of clients that the system permits, and as many to backends. For
    /// clients, it applies where the settings name none.
    permitted: usize,
    /// Requests in flight that need a connection to a backend.
    forwarded: AtomicUsize,
    rates: Mutex<Option<(u32, Arc<Rates>)>>,
    /// When addresses with a fully recovered rate were last removed, in nanoseconds.
    swept: AtomicU64,
    /// Connections refused.
    pub refused_connections: AtomicU64,
    /// Connections that the listener does not admit, or whose PROXY header is missing or invalid.
    pub denied_connections: AtomicU64,
    /// Requests refused because too many need a connection to a backend.
    pub refused_forwarded: AtomicU64,
    /// Requests refused by the rate of their address.
    pub refused_requests: AtomicU64,
    /// TLS handshakes that failed or took too long.
    pub failed_handshakes: AtomicU64,
}

/// Counts a connection until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    limits: Arc<ClientLimits>,
    address: Option<IpAddr>,
}

/// Counts a request, hedge or copy that needs a connection to a backend until it is dropped.
#[derive(Debug)]
pub struct ForwardedGuard(Arc<ClientLimits>);

impl ClientLimits {
    /// Client limits without any connection or request yet. `permitted`: maximum connections that
    /// the system permits.
    pub fn new(permitted: usize) -> Arc<Self> {
        let (refused_connections, refused_requests) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(ClientLimits {
            connections: Mutex::default(),
            all: AtomicI64::new(0),
            permitted,
            forwarded: AtomicUsize::new(0),
            rates: Mutex::default(),
            swept: AtomicU64::new(0),
            refused_connections,
            refused_requests,
            refused_forwarded: AtomicU64::new(0),
            denied_connections: AtomicU64::new(0),
            failed_handshakes: AtomicU64::new(0),
        })
    }

    /// Count a new connection; `None`: it exceeds a limit. Without an address, only the limit on
    /// all connections applies.
    pub fn admit_connection(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        limits: &Limits,
    ) -> Option<ConnectionGuard> {
        let most = i64::try_from(self.max_connections(limits)).unwrap_or(i64::MAX);
        let fits = self.all.fetch_add(1, Ordering::Relaxed) < most;
        let mut counted = ConnectionGuard { limits: self.clone(), address: None };
        if !fits {
            self.refused_connections.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        address.is_none_or(|address| counted.assign(address, limits)).then_some(counted)
    }

    /// Maximum client connections: `limits.connections`, or what the system permits.
    pub fn max_connections(&self, limits: &Limits) -> usize {
        if limits.connections == 0 { self.permitted } else { limits.connections }
    }

    /// Count a request that needs a connection to a backend; `None`: no descriptor may be left for
    /// it. Only clients that send many requests over one connection reach this.
    pub fn admit_forwarded(self: &Arc<Self>) -> Option<ForwardedGuard> {
        let counted = self.admit_extra();
        if counted.is_none() {
            self.refused_forwarded.fetch_add(1, Ordering::Relaxed);
        }
        counted
    }

    /// Count a hedge or a mirrored copy, which is not sent if it exceeds the limit.
    pub fn admit_extra(self: &Arc<Self>) -> Option<ForwardedGuard> {
        let fits = self.forwarded.fetch_add(1, Ordering::Relaxed) < self.permitted;
        let counted = ForwardedGuard(self.clone());
        fits.then_some(counted)
    }

    /// Whether an address may send one more request.
    pub fn admit_request(&self, address: Option<IpAddr>, limits: &Limits) -> bool {
        let (Some(address), Some(rate)) = (address, NonZeroU32::new(limits.requests_per_address))
        else {
            return true;
        };
        let rates = self.rates(rate);
        let address = traffic::network(address);
        let crowded = rates.len() >= MAX_ADDRESSES;
        if crowded && self.may_sweep() {
            rates.retain_recent();
        }
        let address = if crowded && rates.len() >= MAX_ADDRESSES { OTHERS } else { address };
        let admitted = rates.check_key(&address).is_ok();
        if !admitted {
            self.refused_requests.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// At most once a second, because a sweep of all addresses takes milliseconds.
    fn may_sweep(&self) -> bool {
        let (now, last) = (clock::now().0, self.swept.load(Ordering::Relaxed));
        now.saturating_sub(last) > 1_000_000_000
            && self.swept.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The rates for the configured limit, in requests per second with a burst of as many. A
    /// changed limit starts with new rates.
    fn rates(&self, rate: NonZeroU32) -> Arc<Rates> {
        let mut rates = self.rates.lock();
        match &*rates {
            Some((known, rates)) if *known == rate.get() => rates.clone(),
            _ => {
                let fresh = Arc::new(RateLimiter::keyed(Quota::per_second(rate)));
                *rates = Some((rate.get(), fresh.clone()));
                fresh
            }
        }
    }
}

impl ConnectionGuard {
    /// Count the connection for an address, once it is known. `false`: it exceeds
    /// `limits.connections_per_address`.
    pub fn assign(&mut self, address: IpAddr, limits: &Limits) -> bool {
        let address = *self.address.insert(traffic::network(address));
        let mut connections = self.limits.connections.lock();
        let mine = connections.entry(address).or_default();
        *mine += 1;
        let fits = limits.connections_per_address == 0 || *mine <= limits.connections_per_address;
        if !fits {
            self.limits.refused_connections.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }
}

impl Observe for ClientLimits {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        samples.counts(&[
            (
                "llm_lens_client_limited_connections_total",
                self.refused_connections.load(Ordering::Relaxed),
            ),
            (
                "llm_lens_client_limited_requests_total",
                self.refused_requests.load(Ordering::Relaxed),
            ),
            (
                "llm_lens_descriptor_limited_requests_total",
                self.refused_forwarded.load(Ordering::Relaxed),
            ),
            (
                "llm_lens_client_denied_connections_total",
                self.denied_connections.load(Ordering::Relaxed),
            ),
            (
                "llm_lens_tls_handshake_failures_total",
                self.failed_handshakes.load(Ordering::Relaxed),
            ),
        ]);
    }
}

impl Drop for ForwardedGuard {
    fn drop(&mut self) {
        self.0.forwarded.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.limits.all.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut connections = self.limits.connections.lock();
        if let Some(mine) = connections.get_mut(&address) {
            *mine -= 1;
            if *mine == 0 {
                connections.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: &str) -> Limits {
        let text = format!(
            "backends: [{{name: b, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: b}}]\nlimits: {{{change}}}\n"
        );
        config::parse("test", &text).expect("good settings").limits
    }

    #[test]
    fn open_connections_are_limited() {
        let (client_limits, limits) =
            (ClientLimits::new(100), limits("connections: 3, connections_per_address: 2"));
        let [a, b] = [1, 2].map(|last| Some(IpAddr::from([10, 0, 0, last])));
        let first = client_limits.admit_connection(a, &limits).expect("the first");
        let _second = client_limits.admit_connection(a, &limits).expect("the second");
        assert!(client_limits.admit_connection(a, &limits).is_none());
        let _third = client_limits.admit_connection(b, &limits).expect("another address");
        assert!(client_limits.admit_connection(b, &limits).is_none(), "the total limit is three");
        drop(first);
        assert!(client_limits.admit_connection(a, &limits).is_some());
        assert_eq!(client_limits.connections.lock().len(), 2);
    }

    #[test]
    fn connections_are_bounded_by_the_system_unless_the_settings_say_otherwise() {
        let (client_limits, unset) = (ClientLimits::new(2), limits("connections: 0"));
        let held: Vec<_> =
            (0..2).filter_map(|_| client_limits.admit_connection(None, &unset)).collect();
        assert_eq!(held.len(), 2);
        assert!(client_limits.admit_connection(None, &unset).is_none());
        assert_eq!(client_limits.refused_connections.load(Ordering::Relaxed), 1);
        assert!(client_limits.admit_connection(None, &limits("connections: 3")).is_some());
    }

    #[test]
    fn forwarded_requests_are_bounded_by_the_system() {
        let client_limits = ClientLimits::new(2);
        let held: Vec<_> = (0..3).map(|_| client_limits.admit_forwarded()).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        assert_eq!(client_limits.refused_forwarded.load(Ordering::Relaxed), 1);
        drop(held);
        assert!(client_limits.admit_forwarded().is_some());
    }

    #[test]
    fn addresses_beyond_the_maximum_share_a_rate() {
        let (client_limits, limits) = (ClientLimits::new(100), limits("requests_per_address: 1"));
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        assert!(
            client_limits.admit_request(address(1), &limits)
                && !client_limits.admit_request(address(1), &limits)
                && client_limits.admit_request(address(2), &limits)
        );
        for number in 0..200_000 {
            client_limits.admit_request(address(number), &limits);
        }
        let rates = client_limits.rates(NonZeroU32::new(1).expect("one"));
        assert!(rates.len() <= MAX_ADDRESSES + 1, "{}", rates.len());
    }
}
