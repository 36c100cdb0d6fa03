//! Discovery by DNS: addresses (A, AAAA) and services (SRV, RFC 2782).
//!
//! - *In*: a fully qualified name, and name servers.
//! - *Out*: its endpoints, again whenever the TTL has expired.
//! - *Never*: the cache of the system's resolver, which has no TTL, or its search list, with which
//!   a failure looks like an empty answer; an answer older than its TTL, except for the minimum of
//!   [`MIN_TTL`].

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use config::{Endpoint, MAX_DISCOVERED};
use futures_util::{StreamExt, stream};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, ResolverBuilder, TokioResolver};

use crate::Reporter;

/// Delay before a retry after a failed lookup: the first, and the maximum.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Bounds of the TTL.
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(300);
/// TTL of an empty answer.
const EMPTY_TTL: Duration = Duration::from_secs(5);
/// Maximum concurrent lookups.
const MAX_CONCURRENT_LOOKUPS: usize = 16;

/// The lookup.
#[derive(Debug)]
pub(super) enum DnsName {
    /// All addresses of a name, at one port.
    Addresses { name: String, port: u16 },
    /// The servers of a service.
    Service { name: String },
}

/// Results, and when their TTL ends.
type Answer<T> = Result<(Vec<T>, Instant), NetError>;

/// Repeats the lookup and reports each result. Never ends. An empty answer after others is reported
/// when the name has had no records for `hold`.
pub(super) async fn watch(
    question: DnsName,
    servers: &[SocketAddr],
    hold: Duration,
    reporter: Reporter,
) {
    let mut retry = RETRY.0;
    let mut known = HashMap::new();
    // Whether the last report had endpoints, and since when the name has no records.
    let (mut has_endpoints, mut empty_since) = (false, None::<Instant>);
    loop {
        // Rebuilt after a failure: the name servers of the system may have changed.
        let resolver = match resolver(servers) {
            Ok(resolver) => resolver,
            Err(error) => {
                tracing::warn!(pool = %reporter.pool, %error, "no name server available, retrying");
                tokio::time::sleep(RETRY.1).await;
                continue;
            }
        };
        loop {
            let answer = match &question {
                DnsName::Addresses { name, port } => endpoints(&resolver, name, *port, 0).await,
                DnsName::Service { name } => service(&resolver, name, &mut known).await,
            };
            match answer {
                Ok((found, until)) => {
                    retry = RETRY.0;
                    let now = Instant::now();
                    let mut wait = until.saturating_duration_since(now).clamp(MIN_TTL, MAX_TTL);
                    empty_since = found.is_empty().then(|| empty_since.unwrap_or(now));
                    let left = empty_since
                        .filter(|_| has_endpoints)
                        .map_or(Duration::ZERO, |since| hold.saturating_sub(now - since));
                    if left.is_zero() {
                        has_endpoints = !found.is_empty();
                        reporter.report(found).await;
                    } else {
                        tracing::warn!(pool = %reporter.pool, name = question.name(), ?left, "the name has no records, keeping the previous endpoints");
                        wait = wait.min(left);
                    }
                    tokio::time::sleep(wait).await;
                }
                Err(error) => {
                    tracing::warn!(pool = %reporter.pool, name = question.name(), %error, "DNS lookup failed, keeping the previous endpoints");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY.1);
                    break;
                }
            }
        }
    }
}

impl DnsName {
    fn name(&self) -> &str {
        match self {
            DnsName::Addresses { name, .. } | DnsName::Service { name } => name,
        }
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder: ResolverBuilder<_> = if servers.is_empty() {
        Resolver::builder(provider)?
    } else {
        let server = |address: &SocketAddr| {
            let at = |mut connection: ConnectionConfig| {
                connection.port = address.port();
                connection
            };
            NameServerConfig::new(
                address.ip(),
                true,
                vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())],
            )
        };
        Resolver::builder_with_config(
            ResolverConfig::from_name_servers(servers.iter().map(server).collect()),
            provider,
        )
    };
    // No cache: names are looked up only after their TTL.
    builder.options_mut().cache_size = 0;
    builder.build()
}

/// The fully qualified name, so that no search list applies.
fn fully_qualified(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

async fn endpoints(
    resolver: &TokioResolver,
    name: &str,
    port: u16,
    weight: u32,
) -> Answer<Endpoint> {
    let (found, until) = addresses(resolver, name).await?;
    Ok((
        found.into_iter().map(|address| Endpoint { address, port, weight, zone: None }).collect(),
        until,
    ))
}

/// The addresses of a name. IPv6 is used only without IPv4, so that an engine with both counts
/// once.
async fn addresses(resolver: &TokioResolver, name: &str) -> Answer<IpAddr> {
    let of = |answer: Lookup| {
        (
            answer.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>(),
            answer.valid_until(),
        )
    };
    let (found, until) =
        resolver.ipv4_lookup(fully_qualified(name)).await.map(of).or_else(empty_or_failed)?;
    if !found.is_empty() {
        return Ok((found, until));
    }
    resolver.ipv6_lookup(fully_qualified(name)).await.map(of).or_else(empty_or_failed)
}

/// The servers of the best priority. The others are ignored: failover is the job of a pool's
/// fallback. A server whose lookup fails keeps its previous addresses; the service lookup fails
/// only if no server has any.
async fn service(
    resolver: &TokioResolver,
    name: &str,
    known: &mut HashMap<String, Vec<IpAddr>>,
) -> Answer<Endpoint> {
    let answer = match resolver.srv_lookup(fully_qualified(name)).await {
        Ok(answer) => answer,
        Err(error) => return empty_or_failed(error),
    };
    let servers = || {
        answer
            .answers()
            .iter()
            .filter_map(|record| if let RData::SRV(srv) = &record.data { Some(srv) } else { None })
    };
    let best = servers().map(|srv| srv.priority).min();
    let wanted = servers()
        .filter(|srv| Some(srv.priority) == best && !srv.target.is_root())
        .take(MAX_DISCOVERED);
    let wanted: Vec<(String, u16, u16)> =
        wanted.map(|srv| (srv.target.to_string(), srv.port, srv.weight)).collect();
    let look = |(target, port, weight): (String, u16, u16)| async move {
        (addresses(resolver, &target).await, target, port, weight)
    };
    let looked: Vec<_> =
        stream::iter(wanted).map(look).buffered(MAX_CONCURRENT_LOOKUPS).collect().await;
    let (mut found, mut until, mut now, mut failure) =
        (Vec::new(), answer.valid_until(), HashMap::new(), None);
    for (looked, target, port, weight) in looked {
        let there = match (looked, known.get(&target)) {
            (Ok((there, valid)), _) => {
                until = until.min(valid);
                there
            }
            (Err(_), Some(there)) => there.clone(),
            (Err(error), None) => {
                tracing::warn!(name, host = target, %error, "SRV target lookup failed, retrying soon");
                until = until.min(Instant::now() + RETRY.0);
                failure = Some(error);
                continue;
            }
        };
        // Weight 0 becomes 1: the target gets almost no requests.
        let weight = u32::from(weight).max(1);
        found.extend(there.iter().map(|address| Endpoint {
            address: *address,
            port,
            weight,
            zone: None,
        }));
        now.insert(target, there);
    }
    match failure {
        Some(error) if found.is_empty() => Err(error),
        _ => {
            *known = now;
            Ok((found, until))
        }
    }
}

/// NXDOMAIN and NODATA empty the set; a resolver failure keeps the previous one.
fn empty_or_failed<T>(error: NetError) -> Answer<T> {
    match &error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            Ok((Vec::new(), Instant::now() + EMPTY_TTL))
        }
        _ => Err(error),
    }
}
