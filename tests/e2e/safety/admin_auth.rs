use nix::sys::signal::Signal;

use super::*;
use crate::raw::Folder;

pub const OPS: &str = "the-token-of-operators";
pub const GRAFANA: &str = "the-token-of-grafana";
pub const OPERATOR: &str = "x-llm-lens-operator: test\r\n";

/// Settings with a canary, both tokens, and more sections.
fn with_auth(engine: &Engine, more: &str) -> String {
    let tokens = format!(
        "[{{name: ops, token: {OPS}, role: operator}}, {{name: grafana, token: {GRAFANA}}}]"
    );
    with_admin(engine, &format!("address: '127.0.0.1:0', auth: {{tokens: {tokens}}}"), more)
}

fn with_admin(engine: &Engine, admin: &str, more: &str) -> String {
    let url = engine.url();
    format!(
        "admin: {{{admin}}}\nbackends: [{{name: a, url: '{url}'}}, {{name: b, url: '{url}'}}]\n\
         pools: [{{name: old, backends: [a]}}, {{name: new, backends: [b]}}]\n\
         routes: [{{name: r, pool: old, canary: {{pool: new, share: 0.5}}}}]\n{more}\n"
    )
}

pub fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// Sends a request from a loopback address; returns the whole answer.
pub async fn send(gateway: &Gateway, from: u8, request: &str, fields: &str, body: &str) -> String {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, from], 0).into()).expect("a loopback address");
    let mut socket = socket.connect(gateway.admin).await.expect("it accepts");
    let text = format!(
        "{request} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {}\r\n\
         {fields}\r\n{body}",
        body.len()
    );
    socket.write_all(text.as_bytes()).await.expect("it is read");
    let mut answer = String::new();
    let read = socket.read_to_string(&mut answer);
    tokio::time::timeout(kit::client::PATIENCE, read).await.expect("in time").expect("an answer");
    answer
}

pub async fn request(gateway: &Gateway, line: &str, fields: &str) -> String {
    send(gateway, 1, line, fields, "").await
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

/// Signs in; returns the answer, and the field with its cookie.
async fn sign_in(gateway: &Gateway, token: &str, fields: &str) -> (String, String) {
    let body = format!("{{\"token\": \"{token}\"}}");
    let fields = format!("{OPERATOR}{fields}");
    let answer = send(gateway, 1, "POST /api/session", &fields, &body).await;
    let cookie = answer.split("set-cookie: ").nth(1).and_then(|rest| rest.split(';').next());
    let cookie = format!("cookie: other=1; {}\r\n", cookie.unwrap_or_default());
    (answer, cookie)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_admin_page_needs_a_token_but_probes_and_the_dashboard() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&with_auth(&engine, "")).await;
    let list = request(&gateway, "GET /", &bearer(GRAFANA)).await;
    let paths: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split(' ').next().filter(|path| path.starts_with('/')))
        .collect();
    assert!(paths.len() > 15 && paths.contains(&"/metrics"), "{paths:?}");
    for path in paths.iter().copied().chain(["/", "/api/none", "/none", "/dashboard"]) {
        if ["/healthz", "/readyz"].contains(&path) {
            assert_eq!(status(&request(&gateway, &format!("GET {path}"), "").await), 200, "{path}");
            continue;
        }
        let without = request(&gateway, &format!("GET {path}"), "").await;
        assert_eq!(status(&without), 401, "{path}: {without}");
        assert!(without.contains("www-authenticate: Bearer realm=\"llm-lens admin\"\r\n"));
        // The stream does not end.
        if path != "/api/live" {
            let with = request(&gateway, &format!("GET {path}"), &bearer(GRAFANA)).await;
            assert_ne!(status(&with), 401, "{path}: {with}");
            assert!(with.contains("cache-control: no-store\r\n"), "{path}: {with}");
        }
    }
    let page = request(&gateway, "GET /", "accept: text/html\r\n").await;
    assert!(status(&page) == 200 && page.contains("<script"), "{page}");
    assert_eq!(status(&request(&gateway, "GET /dashboard/main.js", "").await), 200);
    let wrong = request(&gateway, "GET /metrics", &bearer("a-token-of-no-client")).await;
    assert!(status(&wrong) == 401 && wrong.contains("error=\"invalid_token\""), "{wrong}");
    let metrics = request(&gateway, "GET /metrics", &bearer(GRAFANA)).await;
    let denied = "llm_lens_admin_denied_requests_total{reason=\"wrong_token\"} 1\n";
    assert!(status(&metrics) == 200 && metrics.contains(denied), "{metrics}");
    // What another site could do if its name resolved to the listener.
    let fields = format!("{}host: evil.example\r\n", bearer(OPS));
    assert_eq!(status(&request(&gateway, "GET /api/settings", &fields).await), 421);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_need_the_role_the_header_and_the_same_origin_and_are_audited() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let folder = Folder::new();
    let file = folder.0.join("audit.jsonl");
    let audit = format!("audit: {{file: '{}'}}", file.display());
    let gateway = Gateway::with_settings(&with_auth(&engine, &audit)).await;
    const CHANGE: &str = "POST /api/routes/release?route=r&share=0.25";
    let (_, cookie) = sign_in(&gateway, OPS, "").await;
    for (fields, want) in [
        (String::new(), 401),
        (OPERATOR.to_owned(), 401),
        (bearer(OPS), 400),
        (bearer(GRAFANA) + OPERATOR, 403),
        (bearer(OPS) + OPERATOR + "origin: https://evil.example\r\n", 403),
        (bearer(OPS) + OPERATOR + "sec-fetch-site: cross-site\r\n", 403),
        (cookie.clone() + OPERATOR + "sec-fetch-site: same-site\r\n", 403),
        (bearer(OPS) + OPERATOR, 200),
        (cookie.clone() + OPERATOR + "origin: http://127.0.0.1\r\n", 200),
    ] {
        let answer = request(&gateway, CHANGE, &fields).await;
        assert_eq!(status(&answer), want, "{fields}: {answer}");
    }
    let wrong =
        request(&gateway, "POST /api/routes/release?route=x", &(bearer(OPS) + OPERATOR)).await;
    assert_eq!(status(&wrong), 400, "{wrong}");
    crate::support::eventually("the audit log has all lines", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() == 5)
    })
    .await;
    let text = std::fs::read_to_string(&file).expect("the log");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let shown = |line: &serde_json::Value| {
        ["method", "path", "token", "role", "result"]
            .map(|name| line[name].as_str().unwrap_or_default().to_owned())
            .join(" ")
    };
    let release = "POST /api/routes/release";
    assert_eq!(
        lines.iter().map(shown).collect::<Vec<_>>(),
        [
            "POST /api/session ops operator success".to_owned(),
            format!("{release} grafana viewer refused"),
            format!("{release} ops operator success"),
            format!("{release} ops operator success"),
            format!("{release} ops operator refused"),
        ]
    );
    assert!(lines.iter().all(|line| line["event"] == "admin_change"), "{text}");
    assert_eq!(lines[2]["query"], "route=r&share=0.25");
    assert_eq!(lines[2]["client"], "127.0.0.1");
    let (code, told) = crate::audit_log::verify(&[&file], &[]);
    assert_eq!(code, Some(0), "{told}");
    let settings = request(&gateway, "GET /api/settings", &bearer(OPS)).await;
    let metrics = request(&gateway, "GET /metrics", &bearer(OPS)).await;
    assert!(metrics.contains("llm_lens_canary_share{route=\"r\"} 0.25\n"), "{metrics}");
    for shown in [text, settings, metrics, gateway.stderr()] {
        assert!(!shown.contains(OPS) && !shown.contains(GRAFANA), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_signs_in_with_a_cookie_and_out() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let proxies = "trusted_proxies: [127.0.0.1]";
    let gateway = Gateway::with_settings(&with_auth(&engine, proxies)).await;
    let (wrong, _) = sign_in(&gateway, "wrong", "").await;
    assert!(status(&wrong) == 401 && !wrong.contains("set-cookie"), "{wrong}");
    for (fields, body) in [
        (OPERATOR, "{\"token\": 1}".to_owned()),
        (OPERATOR, "x".repeat(5000)),
        ("", format!("{{\"token\": \"{OPS}\"}}")),
    ] {
        let answer = send(&gateway, 1, "POST /api/session", fields, &body).await;
        assert!(status(&answer) == 400 && !answer.contains(OPS), "{answer}");
    }
    let (plain, cookie) = sign_in(&gateway, GRAFANA, "").await;
    assert_eq!(status(&plain), 200, "{plain}");
    assert!(plain.contains("; HttpOnly; SameSite=Strict\r\n") && !plain.contains(GRAFANA));
    let (secure, _) = sign_in(&gateway, GRAFANA, "x-forwarded-proto: https\r\n").await;
    assert!(secure.contains("; HttpOnly; SameSite=Strict; Secure\r\n"), "{secure}");
    let page = request(&gateway, "GET /api/session", &cookie).await;
    assert!(page.contains("\"name\":\"grafana\",\"role\":\"viewer\""), "{page}");
    assert_eq!(status(&request(&gateway, "GET /api/settings", &cookie).await), 200);
    let metrics = request(&gateway, "GET /metrics", &cookie).await;
    assert!(metrics.contains("\nllm_lens_admin_sessions 2\n"), "{metrics}");
    let mut live = watch(&gateway, &cookie).await;
    let out = request(&gateway, "DELETE /api/session", &(cookie.clone() + OPERATOR)).await;
    assert!(status(&out) == 204 && out.contains("Max-Age=0"), "{out}");
    assert_eq!(status(&request(&gateway, "GET /api/settings", &cookie).await), 401);
    ended(&mut live).await;
}

/// Opens a live stream, and waits until it has begun.
async fn watch(gateway: &Gateway, fields: &str) -> TcpStream {
    let mut socket = TcpStream::connect(gateway.admin).await.expect("it accepts");
    let request = format!("GET /api/live HTTP/1.1\r\nhost: 127.0.0.1\r\n{fields}\r\n");
    socket.write_all(request.as_bytes()).await.expect("it is read");
    let mut read = String::new();
    while !read.contains("retry: ") {
        let mut bytes = [0; 1024];
        let count = socket.read(&mut bytes).await.expect("an answer");
        assert!(count > 0, "{read}");
        read.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    socket
}

/// Waits until a live stream has ended with its last chunk.
async fn ended(socket: &mut TcpStream) {
    let mut rest = String::new();
    let read = async {
        while !rest.ends_with("0\r\n\r\n") {
            let mut bytes = [0; 4096];
            let count = socket.read(&mut bytes).await.expect("the rest");
            assert!(count > 0, "no clean end: {rest}");
            rest.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    tokio::time::timeout(kit::client::PATIENCE, read).await.expect("the stream ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_ends_the_sessions_and_streams_of_removed_tokens() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let text = with_auth(&engine, "");
    let gateway = Gateway::with_settings(&text).await;
    let ((_, ops), (_, grafana)) =
        (sign_in(&gateway, OPS, "").await, sign_in(&gateway, GRAFANA, "").await);
    let (mut by_cookie, mut by_token) =
        (watch(&gateway, &grafana).await, watch(&gateway, &bearer(GRAFANA)).await);
    gateway.write_settings(&text.replace(GRAFANA, "another-token-of-grafana"));
    gateway.signal(Signal::SIGHUP);
    ended(&mut by_cookie).await;
    ended(&mut by_token).await;
    assert_eq!(status(&request(&gateway, "GET /api/settings", &grafana).await), 401);
    assert_eq!(status(&request(&gateway, "GET /api/settings", &bearer(GRAFANA)).await), 401);
    let new = bearer("another-token-of-grafana");
    assert_eq!(status(&request(&gateway, "GET /api/settings", &new).await), 200);
    assert_eq!(status(&request(&gateway, "GET /api/settings", &ops).await), 200);
    // Without authentication, a reload reports what it removed.
    gateway.write_settings(&with_admin(&engine, "address: '127.0.0.1:0'", ""));
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|gateway| gateway.get("/api/settings").1.contains("\"admin.auth\"")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_with_wrong_tokens_are_bounded_by_address() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&with_auth(&engine, "")).await;
    let (_, cookie) = sign_in(&gateway, OPS, "").await;
    let mut last = String::new();
    for _ in 0..30 {
        last = request(&gateway, "GET /metrics", &bearer("a-guess-of-a-token")).await;
    }
    assert!(status(&last) == 429 && last.contains("retry-after: "), "{last}");
    let (right, _) = sign_in(&gateway, OPS, "").await;
    assert_eq!(status(&right), 429, "{right}");
    // Sessions, and other addresses, are served.
    assert_eq!(status(&request(&gateway, "GET /api/settings", &cookie).await), 200);
    let other = send(&gateway, 2, "GET /metrics", &bearer(OPS), "").await;
    let count = |reason: &str| {
        let name = format!("llm_lens_admin_denied_requests_total{{reason=\"{reason}\"}} ");
        let value = other.split(&name).nth(1).and_then(|rest| rest.lines().next());
        value.and_then(|value| value.parse::<u64>().ok()).expect("a count")
    };
    assert!(count("wrong_token") >= 20 && count("too_many_attempts") >= 2, "{other}");
    assert_eq!(gateway.stderr().matches("too many attempts with wrong tokens").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_authentication_pages_are_open_and_changes_keep_their_checks() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let settings = with_admin(&engine, "address: '127.0.0.1:0'", "");
    let gateway = Gateway::with_settings(&settings).await;
    let session = request(&gateway, "GET /api/session", "").await;
    assert!(session.contains("{\"auth\":false,\"name\":null,\"role\":\"operator\""), "{session}");
    let (answer, _) = sign_in(&gateway, OPS, "").await;
    assert!(status(&answer) == 404 && answer.contains("admin.auth is not set"), "{answer}");
    const CHANGE: &str = "POST /api/routes/release?route=r&share=0.25";
    for (fields, want) in [
        ("", 400),
        ("x-llm-lens-operator: a\r\norigin: http://localhost:3000\r\n", 403),
        ("x-llm-lens-operator: a\r\nsec-fetch-site: same-site\r\n", 403),
        (OPERATOR, 200),
    ] {
        assert_eq!(status(&request(&gateway, CHANGE, fields).await), want, "{fields}");
    }
    let is_logged = || gateway.stderr().contains("admin change ");
    crate::support::eventually("the change is logged", is_logged).await;
}

/// The command-line tools send the token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_read_the_token_from_the_environment() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&with_auth(&engine, "")).await;
    let url = format!("http://{}", gateway.admin);
    let stats = |name: &str| {
        let mut command = std::process::Command::new(kit::gateway::binary());
        let command = command.args(["stats", &url]).env(name, GRAFANA);
        let output = command.output().expect("the binary runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(stats("LLM_LENS_ADMIN_TOKEN"), (true, String::new()));
    let (is_success, told) = stats("ANOTHER_VARIABLE");
    assert!(!is_success && told.contains("a token of admin.auth is required"), "{told}");
}
