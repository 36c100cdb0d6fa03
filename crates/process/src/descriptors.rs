//! The process's limit of file descriptors, and the client connections that it permits.
//!
//! - *In*: the limits that the process was started with.
//! - *Out*: the soft limit, raised to the hard limit; a bound on client connections, and the same
//!   on requests that need a connection to a backend: HTTP/2 clients send many over one connection.
//! - *Never*: a start that fails because of it.
//!
//! Each stream needs two descriptors. systemd starts services with a soft limit of 1,024, which
//! other proxies raise as well; only programs that use `select` need it that low. A process without
//! a free descriptor can neither accept nor connect, so client connections are bounded by what the
//! limit leaves, as HAProxy derives `maxconn`.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors kept for everything but clients and their backends: 64 admin connections, listeners,
/// logs, databases, health checks, name lookups.
const RESERVE: u64 = 64 + 32;
/// Descriptors of a worker's runtime.
const PER_WORKER: u64 = 8;
/// Descriptors of a client connection: itself, and the backend that answers it.
const PER_CLIENT: u64 = 2;
/// Share of a limit that clients get at least, if the limit is smaller than the reserve.
const MIN_SHARE: u64 = 8;

/// Raise the soft limit to the hard limit. Returns the limit in force.
pub fn raise_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => {
                tracing::info!(from = soft, to = hard, "descriptor limit raised");
                hard
            }
            Err(error) => {
                tracing::warn!(%error, "descriptor limit cannot be raised");
                soft
            }
        },
        Ok((soft, _)) => soft,
        Err(error) => {
            tracing::warn!(%error, "descriptor limit is unknown");
            u64::MAX
        }
    }
}

/// Client connections that a limit of descriptors permits.
pub fn max_connections(limit: u64, workers: usize) -> usize {
    let reserve = RESERVE.saturating_add(PER_WORKER.saturating_mul(workers as u64));
    let most = limit.saturating_sub(reserve) / PER_CLIENT;
    usize::try_from(most.max(limit / MIN_SHARE).max(1)).unwrap_or(usize::MAX)
}

/// Warn if `limits.connections` is more than the descriptors permit.
pub fn check(connections: usize, permitted: usize) {
    if connections > permitted {
        tracing::warn!(
            connections,
            permitted,
            "limits.connections exceeds what the descriptor limit permits, raise the limit (ulimit -n, LimitNOFILE)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_half_of_what_the_reserve_leaves() {
        assert_eq!(max_connections(1024, 4), (1024 - 96 - 32) / 2);
        assert_eq!(max_connections(256, 2), 72);
        assert_eq!(max_connections(1 << 20, 16), ((1 << 20) - 96 - 128) / 2);
    }

    #[test]
    fn every_limit_leaves_some_connections() {
        for limit in 0..4096 {
            let most = max_connections(limit, 8);
            assert!(most >= 1 && (most as u64) <= limit.max(2) / 2, "{limit}: {most}");
        }
        assert!(max_connections(u64::MAX, 8) > 1 << 40);
    }
}
