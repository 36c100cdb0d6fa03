use std::io::{Read, Write};

use super::*;

/// Sends a request to the admin listener with this `Host`; returns the whole answer.
fn with_host(gateway: &Gateway, method: &str, path: &str, host: &str) -> String {
    let fields = format!("host: {host}\r\nx-llm-lens-operator: me\r\n");
    with_fields(gateway, &format!("{method} {path}"), &fields)
}

/// The answer to a request with these fields.
fn with_fields(gateway: &Gateway, request: &str, fields: &str) -> String {
    let mut socket = std::net::TcpStream::connect(gateway.admin).expect("it listens");
    write!(socket, "{request} HTTP/1.1\r\n{fields}connection: close\r\n\r\n").expect("it is read");
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

/// Whether the admin listener answers a probe from this loopback address.
async fn is_served_from(gateway: &Gateway, address: [u8; 4]) -> bool {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((address, 0).into()).expect("a loopback address");
    let mut socket = socket.connect(gateway.admin).await.expect("it accepts");
    let mut answer = String::new();
    // A connection that is closed unread may be reset.
    let _ = socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await;
    let _ = socket.read_to_string(&mut answer).await;
    answer.contains(" 200 OK\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_admits_the_networks_of_its_lists() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    for lists in
        ["allow: [127.0.0.1]", "deny: [127.0.0.2]", "allow: [127.0.0.0/8], deny: [127.0.0.2/32]"]
    {
        let more = format!("admin: {{address: '127.0.0.1:0', {lists}}}");
        let gateway = Gateway::with_settings(&settings(&engine.url(), &more)).await;
        assert!(!is_served_from(&gateway, [127, 0, 0, 2]).await, "{lists}");
        assert!(is_served_from(&gateway, [127, 0, 0, 1]).await, "{lists}");
        let denied = gateway.metric("llm_lens_client_denied_connections_total", "");
        assert_eq!(denied, 1.0, "{lists}");
    }
}

/// A web page may let its own name resolve to the listener.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_pages_are_served_to_known_hosts_only() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let more = "admin: {address: \"127.0.0.1:0\", hosts: [lens.internal]}";
    let gateway = Gateway::with_settings(&settings(&engine.url(), more)).await;
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

/// A misspelled filter would give a wrong answer instead of an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_filtered_and_unknown_parameters_are_refused() {
    let engine = Engine::start(|seen| {
        let wait = if crate::support::id(seen) == "slow" { 300 } else { 0 };
        let mut steps = vec![Step::ms(wait)];
        steps.extend(sse::chat_answer());
        steps
    })
    .await;
    let gateway = Gateway::with_settings(&settings(&engine.url(), "")).await;
    for id in ["fast", "slow"] {
        crate::support::ask(&gateway, "/v1/chat/completions", id, CHAT).await;
        gateway.record(id).await;
    }
    let ids = |query: &str| -> Vec<String> {
        let (status, body) = gateway.get(&format!("/api/requests?{query}"));
        assert_eq!(status, 200, "{query}: {body}");
        let page: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let records = page["requests"].as_array().expect("a list").clone();
        records.iter().map(|r| r["id"].as_str().expect("an id").to_owned()).collect()
    };
    let route = gateway.record("fast").await.route;
    for (query, want) in [
        ("id=fast".to_owned(), vec!["fast"]),
        (format!("route={route}"), vec!["slow", "fast"]),
        ("route=nope".to_owned(), vec![]),
        ("outcome=ok&limit=1".to_owned(), vec!["slow"]),
        ("outcome=timeout".to_owned(), vec![]),
        ("slower_than=250ms".to_owned(), vec!["slow"]),
    ] {
        assert_eq!(ids(&query), want, "{query}");
    }
    for (path, named) in [
        ("/api/requests?rout=r", "limit, id, route, outcome, slower_than"),
        ("/api/requests?outcome=fine", "upstream_failed"),
        ("/api/requests?slower_than=5", "has no unit"),
        ("/api/routes?route=r", "no parameters"),
        ("/api/backends?x=1", "no parameters"),
        ("/api/usage?owner=x", "by, per, from"),
        ("/api/guardrails?name=x", "route"),
        ("/api/routes/explain?prompt=1", "prompt_tokens"),
    ] {
        let (status, body) = gateway.get(path);
        assert!(status == 400 && body.contains(named), "{path}: {status} {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_the_process_are_exported() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let value = |name: &str| gateway.metric(name, "");
    let resident = value("process_resident_memory_bytes") / 1024.0;
    let known = gateway.resident_kib() as f64;
    assert!((resident - known).abs() < known / 2.0, "{resident} {known}");
    assert!(value("process_open_fds") > 3.0);
    assert!(value("process_max_fds") > value("process_open_fds"));
    assert!(value("process_start_time_seconds") > 1.7e9);
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    let (_, text) = gateway.get("/metrics");
    assert!(text.contains("\nprocess_cpu_seconds_total "));
    assert!(text.contains("\nllm_lens_log_lines_dropped_total 0\n"));
    assert!(!text.contains("llm_lens_certificate_expiry"), "no listener serves TLS");
}

/// Browsers get the dashboard, and programs the list of paths that they always had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_get_the_dashboard() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&settings(&engine.url(), "")).await;
    let (status, list) = gateway.get("/");
    assert!(status == 200 && list.starts_with("/metrics "), "{list}");
    let page =
        with_fields(&gateway, "GET /", "host: a.localhost\r\naccept: text/html,*/*;q=0.8\r\n");
    assert!(page.contains("content-type: text/html; charset=utf-8\r\n"), "{page}");
    assert!(page.contains("content-security-policy: default-src 'none'; "), "{page}");
    assert!(page.contains("x-content-type-options: nosniff\r\n"), "{page}");
    let script = with_fields(&gateway, "GET /dashboard/lib/dom.js", "host: localhost\r\n");
    assert!(script.contains("content-type: text/javascript; charset=utf-8\r\n"), "{script}");
    for path in ["/dashboard/", "/dashboard/none.js", "/dashboard/../Cargo.toml"] {
        assert_eq!(gateway.get(path).0, 404, "{path}");
    }
}
