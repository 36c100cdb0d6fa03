//! The process's limit of file descriptors, and the client connections that it permits.
//!
//! - *In*: the limits that the process was started with.
//! - *Out*: the soft limit, raised to the hard limit; a bound on client connections, the same on
//!   requests that need a connection to a backend, because HTTP/2 clients send many over one
//!   connection, and bounds on idle connections to backends and on watchers of the live stream.
//! - *Never*: a start that fails because of it.
//!
//! Each stream needs two descriptors. systemd starts services with a soft limit of 1,024, which
//! other proxies raise as well; only programs that use `select` need it that low. A process without
//! a free descriptor can neither accept nor connect, so client connections are bounded by what the
//! limit leaves, as HAProxy derives `maxconn`.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors kept for everything but clients and their backends: 64 admin connections,
/// [`MAX_IDLE_PASS_THROUGH`], and 32 for listeners, logs, databases, health checks, name lookups.
const RESERVE: u64 = 64 + MAX_IDLE_PASS_THROUGH as u64 + 32;
/// Idle connections to backends of pass-through requests, for each listener.
pub const MAX_IDLE_PASS_THROUGH: usize = 32;
/// Descriptors of a worker's runtime.
const PER_WORKER: u64 = 8;
/// Client connections for each idle connection to a backend.
const CLIENTS_PER_IDLE: usize = 4;
/// Client connections for each watcher of the live stream.
const CLIENTS_PER_WATCHER: usize = 8;
/// Descriptors of [`CLIENTS_PER_WATCHER`] client connections: themselves, the backends that answer
/// them, two idle connections, and a watcher.
const PER_CLIENTS: u64 =
    (2 * CLIENTS_PER_WATCHER + CLIENTS_PER_WATCHER / CLIENTS_PER_IDLE + 1) as u64;
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
    let most = limit.saturating_sub(reserve) / PER_CLIENTS * CLIENTS_PER_WATCHER as u64;
    usize::try_from(most.max(limit / MIN_SHARE).max(1)).unwrap_or(usize::MAX)
}

/// Idle connections to backends, if so many client connections are permitted.
pub fn max_idle(connections: usize) -> usize {
    connections / CLIENTS_PER_IDLE
}

/// Watchers of the live stream, if so many client connections are permitted.
pub fn max_watchers(connections: usize) -> usize {
    connections / CLIENTS_PER_WATCHER
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
    fn all_connections_share_what_the_reserve_leaves() {
        for (limit, workers, clients) in [(1024, 4, 360), (256, 2, 40), (1 << 20, 16, 441_392)] {
            assert_eq!(max_connections(limit, workers), clients);
            let all = 2 * clients + max_idle(clients) + max_watchers(clients) + 128 + 8 * workers;
            assert!((limit as usize - 18..=limit as usize).contains(&all), "{limit}: {all}");
        }
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
