//! The mock engine as a process of its own.
//!
//! In: an optional `--listen ADDR`; a free loopback port by default.
//! Out: the bound address as the only line on stdout, then answers.
//! Never: uses more than one thread, so that it leaves a core to the proxy.

use anyhow::Result;
use clap::Parser;
use llm_lens_benches::{engine, peers};
use std::net::SocketAddr;

/// A cheap OpenAI-compatible mock engine, steered by the x-mock header.
#[derive(Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let listener = peers::port::listen(args.listen)?;
    println!("{}", listener.local_addr()?);
    engine::serve(listener).await
}
