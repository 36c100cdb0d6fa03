//! A TCP forwarder on one thread: the lower limit for any proxy.
//!
//! In: `--upstream ADDR`, and an optional `--listen ADDR`.
//! Out: the bound address as the only line on stdout, then bytes both ways.
//! Never: inspects a byte; shares or reuses an upstream connection.

use anyhow::{Context, Result};
use clap::Parser;
use llm_lens_benches::peers;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// A single-threaded TCP forwarder.
#[derive(Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address of the engine.
    #[arg(long)]
    upstream: SocketAddr,
}

async fn forward(mut client: TcpStream, upstream: SocketAddr) -> Result<()> {
    let mut engine = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    engine.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut engine).await?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let listener = peers::port::listen(args.listen)?;
    println!("{}", listener.local_addr()?);
    loop {
        let (client, _) = listener.accept().await.context("accept")?;
        tokio::spawn(async move {
            // A side that resets its connection ends this pair only.
            let _ = forward(client, args.upstream).await;
        });
    }
}
