//! Hostile clients and engines: whatever they send, no other request or answer is affected, and
//! nothing grows.
//!
//! Each test covers both paths through the gateway: its own exchange (POST on an inference path),
//! and pingora's proxy behind its parser (everything else).

/// Clients of the admin listener.
mod admin;
/// Authentication of the admin listener.
mod admin_auth;
/// Clients behind load balancers, lists of networks, old connections.
mod clients;
/// Where a message ends.
mod framing;
/// HTTP/2.
mod h2;
/// Hop-by-hop fields.
mod hops;
/// Slow, large and malformed input.
mod limits;
/// Paths that servers read differently, and APIs that must not be forwarded.
mod paths;
/// The playground of the dashboard.
mod playground;
/// What the check of settings shows, and what it must not.
mod settings_check;

use std::time::{Duration, Instant};

use kit::client::{CHAT, CHAT_STREAM, post};
use kit::{Client, Engine, Gateway, Step, sse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::h2raw::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM,
    WINDOW_UPDATE, frame,
};
use crate::raw::{
    Origin, Received, nothing_in_flight, receive, send_and_shut_down, send_raw, settings, try_chat,
};

/// Both paths through the gateway.
const WAYS: [&str; 2] = ["/v1/chat/completions", "/tokenize"];
/// A request that must remain a part of a body.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
/// Maximum memory that an attack may use.
const MAX_KIB: u64 = 64 << 10;

/// Asserts that the request was refused, the connection closed, and nothing forwarded.
fn assert_refused(name: &str, heard: &Received, origin: &Origin) {
    assert_eq!(heard.statuses.len(), 1, "{name}: {heard:?}");
    assert!(
        (400..500).contains(&heard.statuses[0]) || [501, 505].contains(&heard.statuses[0]),
        "{name}: {heard:?}"
    );
    assert!(heard.closed, "{name}: left open after {heard:?}");
    let seen = origin.take();
    assert!(seen.is_empty(), "{name}: the engine got {seen:?}");
}

/// Maximum growth of resident memory while `attack` runs, in KiB.
async fn growth(gateway: &Gateway, attack: impl Future<Output = ()>) -> u64 {
    let before = gateway.resident_kib();
    let mut most = before;
    let watching = async {
        loop {
            most = most.max(gateway.resident_kib());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        biased;
        () = watching => {}
        () = attack => {}
    }
    most.max(gateway.resident_kib()).saturating_sub(before)
}
