//! A pingora reverse proxy that only forwards: the baseline of the framework.
//!
//! In: `--listen ADDR` and `--upstream ADDR`, both plain TCP addresses.
//! Out: every request passed on to that one upstream, on one worker thread.
//! Never: reads a body, adds a header, keeps state or logs a request.

use anyhow::Result;
use async_trait::async_trait;
use clap::Parser;
use pingora::prelude::{HttpPeer, http_proxy_service};
use pingora::proxy::{ProxyHttp, Session};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use std::net::SocketAddr;

/// An idle pingora proxy.
#[derive(Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the engine.
    #[arg(long)]
    upstream: SocketAddr,
}

struct IdleProxy {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for IdleProxy {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let conf = ServerConf {
        threads: 1,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let proxy = IdleProxy { upstream: args.upstream };
    let mut service = http_proxy_service(&server.configuration, proxy);
    service.add_tcp(&args.listen.to_string());
    server.add_service(service);
    server.run_forever();
}
