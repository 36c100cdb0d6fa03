//! `aggregate`: the statistics of many gateways at one address.
//!
//! - *In*: URLs of admin listeners, names with an address for each gateway.
//! - *Out*: an HTTP server, until INT or TERM.
//! - *Never*: a credential.

use std::net::SocketAddr;

use aggregate::{Aggregator, Members};
use anyhow::{Context, Result};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::{runtime, write_stdout};

/// Arguments of `aggregate`.
#[derive(Debug, Args)]
pub(crate) struct AggregateArgs {
    /// URLs of admin listeners: <http://127.0.0.1:9090>
    #[arg(required_unless_present = "resolve", value_name = "URL")]
    urls: Vec<String>,
    /// Name with an address for each gateway, and the port of the admin listeners. It is resolved
    /// for each request.
    #[arg(long, value_name = "HOST:PORT")]
    resolve: Vec<String>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9091", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Name that requests may have in `Host`, besides addresses and localhost. `*.NAME` matches all
    /// names below it.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
}

/// Serves until a signal.
pub(crate) fn run_aggregator(args: AggregateArgs) -> Result<()> {
    runtime()?.block_on(async {
        let hosts = args.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let members = Members { urls: args.urls, names: args.resolve };
        let bound = Aggregator::bind(args.listen, members, hosts).await;
        let aggregator = bound.with_context(|| {
            format!("cannot listen on {}; choose another address with --listen", args.listen)
        })?;
        write_stdout(&format!("aggregator on http://{}\n", aggregator.address()?))?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            () = aggregator.serve() => {}
            signal = tokio::signal::ctrl_c() => signal?,
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
