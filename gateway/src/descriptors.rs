//! The process's limit of file descriptors.
//!
//! - *In*: the limits that the process was started with.
//! - *Out*: the soft limit, raised to the hard limit.
//! - *Never*: a start that fails because of it.
//!
//! Each stream needs two descriptors. systemd starts services with a soft limit of 1,024, which
//! other proxies raise as well; only programs that use `select` need it that low.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raise the soft limit to the hard limit.
pub(crate) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
            tracing::info!(from = soft, to = hard, "descriptor limit raised");
        }
        Ok(())
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "descriptor limit cannot be raised");
    }
}
