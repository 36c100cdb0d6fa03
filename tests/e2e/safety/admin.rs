use std::io::{Read, Write};

use super::*;

/// Sends a request to the admin listener with this `Host`; returns the whole answer.
fn with_host(gateway: &Gateway, method: &str, path: &str, host: &str) -> String {
    let mut socket = std::net::TcpStream::connect(gateway.admin).expect("it listens");
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nx-llm-lens-operator: me\r\nconnection: close\r\n\r\n"
    )
    .expect("it is read");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Clients that pipeline requests and read nothing, and clients that are silent: more than the
/// listener serves. Probes and scrapes are answered, and so is a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_whatever_other_admin_clients_do() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|_| sse::stream(3, 0)).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for _ in 0..300 {
        crate::support::ask(&gateway, "/v1/chat/completions", "x", CHAT_STREAM).await;
    }
    let pipelined = "GET /api/requests?limit=1000 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".repeat(40);
    let mut held = Vec::new();
    for number in 0..160 {
        let mut socket = TcpStream::connect(gateway.admin).await.expect("it accepts");
        if number % 2 == 0 {
            // The gateway may close it at any time.
            let _ = socket.write_all(pipelined.as_bytes()).await;
        }
        held.push(socket);
    }
    for path in ["/healthz", "/readyz", "/metrics", "/healthz", "/api/backends"] {
        let began = Instant::now();
        assert_eq!(gateway.get(path).0, 200, "{path}");
        // Silent connections would be closed after ten seconds only, and unread ones later.
        assert!(began.elapsed() < Duration::from_secs(5), "{path}: {:?}", began.elapsed());
    }
    drop(held);
}

/// A web page may let its own name resolve to the listener.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_pages_are_served_to_known_hosts_only() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let more = "admin: {address: \"127.0.0.1:0\", hosts: [lens.internal]}";
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", more)).await;
    const PATHS: [(&str, &str); 10] = [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/api/settings"),
        ("GET", "/api/requests"),
        ("GET", "/api/usage"),
        ("GET", "/api/nothing"),
        ("POST", "/api/routes"),
        ("POST", "/api/routes/release?route=r&share=1"),
    ];
    for (method, path) in PATHS {
        for host in ["evil.example:9090", "lens.internal.evil.example"] {
            let answer = with_host(&gateway, method, path, host);
            assert!(answer.starts_with("HTTP/1.1 421 "), "{method} {path} for {host}: {answer}");
            assert!(answer.contains("admin.hosts"), "it says what to do: {answer}");
        }
        for host in ["127.0.0.1:9090", "localhost", "[::1]", "lens.internal:80"] {
            let answer = with_host(&gateway, method, path, host);
            assert!(!answer.starts_with("HTTP/1.1 421 "), "{method} {path} for {host}: {answer}");
            assert!(answer.contains("x-content-type-options: nosniff\r\n"), "{path}: {answer}");
        }
    }
    assert!(with_host(&gateway, "GET", "/metrics", "lens.internal").starts_with("HTTP/1.1 200 "));
}
