//! Backends by their names in DNS: addresses (A, AAAA), and services (SRV, RFC 2782).
//!
//! - *In*: a name, and who is asked.
//! - *Out*: who is there, each time the answer's time to live is over.
//! - *Never*: the system's cache, which knows no time to live. An answer older than it says, but for [`OFTEN`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use config::Endpoint;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, ResolverBuilder, TokioResolver};

use super::{RETRY, Teller};

/// A time to live is not believed to be shorter, nor longer.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(300);
/// A name that is not there is looked for again after so long.
const NOBODY: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug)]
pub(super) enum Question {
    /// All addresses of a name, at one port.
    Addresses { name: String, port: u16 },
    /// The servers of a service.
    Service { name: String },
}

/// Ask for ever.
pub(super) async fn watch(question: Question, servers: &[SocketAddr], mut tell: Teller) {
    let mut retry = RETRY.0;
    loop {
        // Made anew after a failure: the system may have been told of other servers since.
        let resolver = match resolver(servers) {
            Ok(resolver) => resolver,
            Err(error) => {
                log::warn!("pool {}: no name server can be asked: {error}", tell.pool);
                tokio::time::sleep(RETRY.1).await;
                continue;
            }
        };
        loop {
            let wait = match ask(&resolver, &question).await {
                Ok((found, until)) => {
                    retry = RETRY.0;
                    tell.tell(found).await;
                    until.saturating_duration_since(Instant::now()).clamp(OFTEN, SELDOM)
                }
                Err(error) => {
                    log::warn!("pool {}: looking up {} failed, who was there stays: {error}", tell.pool, question.name());
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY.1);
                    break;
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}

impl Question {
    fn name(&self) -> &str {
        match self {
            Question::Addresses { name, .. } | Question::Service { name } => name,
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
            NameServerConfig::new(address.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
        };
        Resolver::builder_with_config(ResolverConfig::from_name_servers(servers.iter().map(server).collect()), provider)
    };
    let options = builder.options_mut();
    // We ask when an answer is over, and no sooner: there is nothing to be remembered.
    options.cache_size = 0;
    // An engine with two addresses is one engine.
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    builder.build()
}

/// Who is there, and until when that holds.
async fn ask(resolver: &TokioResolver, question: &Question) -> Result<(Vec<Endpoint>, Instant), NetError> {
    match question {
        Question::Addresses { name, port } => addresses(resolver, name, *port, 0).await,
        Question::Service { name } => service(resolver, name).await,
    }
}

async fn addresses(resolver: &TokioResolver, name: &str, port: u16, weight: u32) -> Result<(Vec<Endpoint>, Instant), NetError> {
    match resolver.lookup_ip(name).await {
        Ok(answer) => Ok((answer.iter().map(|address| Endpoint { address, port, weight, zone: None }).collect(), answer.valid_until())),
        Err(error) => nobody(error),
    }
}

/// The servers of the best priority: the others are for when none of these is there, which is a pool's fallback to say.
async fn service(resolver: &TokioResolver, name: &str) -> Result<(Vec<Endpoint>, Instant), NetError> {
    let answer = match resolver.srv_lookup(name).await {
        Ok(answer) => answer,
        Err(error) => return nobody(error),
    };
    let servers = || answer.answers().iter().filter_map(|record| if let RData::SRV(srv) = &record.data { Some(srv) } else { None });
    let best = servers().map(|srv| srv.priority).min();
    let (mut found, mut until) = (Vec::new(), answer.valid_until());
    for server in servers().filter(|srv| Some(srv.priority) == best && !srv.target.is_root()) {
        // Of weight 0 is who should get next to nothing.
        let (there, valid) = addresses(resolver, &server.target.to_string(), server.port, u32::from(server.weight).max(1)).await?;
        found.extend(there);
        until = until.min(valid);
    }
    Ok((found, until))
}

/// That nobody is there is an answer; that nobody could say is none.
fn nobody(error: NetError) -> Result<(Vec<Endpoint>, Instant), NetError> {
    match &error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) => {
            Ok((Vec::new(), Instant::now() + NOBODY))
        }
        _ => Err(error),
    }
}
