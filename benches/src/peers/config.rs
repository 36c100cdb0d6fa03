//! Configurations of nginx and HAProxy as good streaming proxies, and of the gateway with a
//! guardrail, or with keys and limits.
//!
//! In: where to listen, the engine, a folder and a connection bound.
//! Out: the text of a configuration with one worker, kept-alive upstream
//! connections, no response buffering and no access log.
//! Never: a handicap for a peer; every setting is one that an operator would use.

use crate::peers::port::BACKLOG;
use std::net::SocketAddr;
use std::path::Path;

/// Options of a peer.
#[derive(Clone, Copy, Debug)]
pub struct PeerOptions<'a> {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The engine.
    pub engine: SocketAddr,
    /// Working folder of the peer.
    pub folder: &'a Path,
    /// Maximum concurrent client connections.
    pub connections: u64,
}

/// An nginx configuration.
#[must_use]
pub fn nginx(options: &PeerOptions<'_>) -> String {
    let (listen, engine) = (options.listen, options.engine);
    let folder = options.folder.display();
    let connections = options.connections * 2 + 512;
    format!(
        "daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  tcp_nodelay on;
  keepalive_timeout 300s;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream engine {{
    server {engine};
    keepalive 128;
    keepalive_requests 100000000;
  }}
  server {{
    listen {listen} backlog={BACKLOG};
    client_body_buffer_size 128k;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
"
    )
}

/// A HAProxy configuration.
#[must_use]
pub fn haproxy(options: &PeerOptions<'_>) -> String {
    let (listen, engine, connections) = (options.listen, options.engine, options.connections);
    format!(
        "global
  nbthread 1
  maxconn {connections}
defaults
  mode http
  backlog {BACKLOG}
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
  option http-no-delay
  http-reuse always
frontend clients
  bind {listen}
  default_backend engines
backend engines
  server engine {engine}
"
    )
}

/// Settings of the gateway with a default guardrail: findings in prompts are flagged, those in
/// answers masked, and both classifiers run.
#[must_use]
pub fn with_guardrail(options: &PeerOptions<'_>, admin: SocketAddr) -> String {
    let (listen, engine) = (options.listen, options.engine);
    format!(
        "listeners: [{{address: '{listen}'}}]
admin: {{address: '{admin}'}}
workers: 1
backends: [{{name: engine, url: 'http://{engine}'}}]
guardrails: [{{name: default}}]
routes: [{{name: default, backend: engine, guardrail: default}}]
"
    )
}

/// Settings of the gateway with 10,000 keys, and five limits that no load here reaches. The key
/// that the client sends to every peer is one of them.
///
/// # Errors
/// When the file of keys cannot be written.
pub fn limited(options: &PeerOptions<'_>, admin: SocketAddr) -> std::io::Result<String> {
    const SECRET: &str = "a-secret-of-the-bench";
    let hasher = traffic::KeyHasher::new(SECRET);
    let hex =
        |key: &str| hasher.hash(key).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = |at: usize| {
        let key = if at == 4711 { "bench".to_owned() } else { format!("llk_{at:064}") };
        format!("- {{id: k_{at}, owner: owner-{}, hash: '{}'}}\n", at % 100, hex(&key))
    };
    let keys = options.folder.join("keys.yaml");
    std::fs::write(&keys, "keys:\n".to_owned() + &(0..10_000).map(line).collect::<String>())?;
    let (listen, engine, keys) = (options.listen, options.engine, keys.display());
    Ok(format!(
        "listeners: [{{address: '{listen}'}}]
admin: {{address: '{admin}'}}
workers: 1
backends: [{{name: engine, url: 'http://{engine}', models: [mock-8b-instruct]}}]
auth: {{keys: '{keys}', secret: {SECRET}}}
prices: [{{input: 1, output: 2}}]
rate_limits:
- {{name: requests, unit: requests, amount: 1000000000, per: key}}
- {{name: tokens, unit: total_tokens, amount: 1000000000000, per: key}}
- {{name: output, unit: output_tokens, amount: 1000000000000, per: owner}}
- {{name: streams, unit: streams, amount: 1000000, per: key}}
- {{name: purse, unit: cost, amount: 1000000, per: owner}}
routes: [{{name: default, backend: engine}}]
"
    ))
}
