use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::admin_auth::{GRAFANA, OPERATOR, OPS, bearer, request, send, status};
use super::*;
use crate::tls::Certificates;

const CALL: &str = "{\"request\": {\"model\": \"m\", \"stream\": true, \"messages\": []}}";

/// Settings with routes by header and by default, and more members of `admin`.
fn with_routes(engine: &Engine, admin: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'{admin}}}\nbackends: [{{name: e, url: '{}', models: [m]}}]\n\
         routes:\n- {{name: gold, backend: e, match: {{headers: {{x-tier: gold}}}}, hosts: ['*.llm.example']}}\n\
         - {{name: embeddings, backend: e, match: {{path: /v1/embeddings}}}}\n- {{name: rest, backend: e}}\n",
        engine.url()
    )
}

/// Opens a call; the connection stays open.
async fn open(gateway: &Gateway, body: &str) -> TcpStream {
    let mut socket = TcpStream::connect(gateway.admin).await.expect("it accepts");
    let request = format!(
        "POST /api/playground HTTP/1.1\r\nhost: 127.0.0.1\r\n{OPERATOR}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.expect("it is read");
    socket
}

/// Reads until `needle` has arrived.
async fn read_until(socket: &mut TcpStream, needle: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(needle) {
            let count = socket.read_buf(&mut read).await.expect("an answer");
            assert!(count > 0, "no {needle}: {}", String::from_utf8_lossy(&read));
        }
    };
    tokio::time::timeout(kit::client::PATIENCE, reading).await.expect("in time");
    String::from_utf8_lossy(&read).into_owned()
}

async fn call(gateway: &Gateway, body: &str) -> String {
    send(gateway, 1, "POST /api/playground", OPERATOR, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_playground_streams_as_the_answer_arrives_and_leaves_a_record() {
    let go = Arc::new(AtomicBool::new(false));
    let until = go.clone();
    let engine = Engine::start(move |_| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("first "))];
        steps.push(Step::Until(until.clone()));
        steps.extend([Step::chunk(sse::content("second")), Step::chunk(sse::finish())]);
        steps.extend([Step::chunk(sse::done()), Step::end()]);
        steps
    })
    .await;
    let gateway = Gateway::with_settings(&with_routes(&engine, "")).await;
    let page = request(&gateway, "GET /api/playground", "").await;
    let listener = format!("\"listener\":\"http://{}\"", gateway.address());
    for want in ["\"problem\":null", &listener, "\"routes\":[\"gold\",\"rest\"]", "[\"m\"]"] {
        assert!(page.contains(want), "{want}: {page}");
    }
    let mut socket = open(&gateway, CALL).await;
    let head = read_until(&mut socket, "first ").await;
    assert!(!go.load(Ordering::SeqCst) && !head.contains("second"), "{head}");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for field in ["content-type: text/event-stream\r\n", "x-llm-lens-playground: answer\r\n"] {
        assert!(head.contains(field), "{field}: {head}");
    }
    // A client has one call at a time.
    let second = call(&gateway, CALL).await;
    assert!(status(&second) == 429 && second.contains("still running"), "{second}");
    go.store(true, Ordering::SeqCst);
    read_until(&mut socket, "0\r\n\r\n").await;
    let id = crate::support::field(&head, "x-request-id").expect("an id").to_owned();
    let record = gateway.record(&id).await;
    assert_eq!((&*record.route, record.http_status), ("rest", Some(200)));
    // With a route, the request has what the route requires.
    let body = CALL.replacen('{', "{\"route\": \"gold\", ", 1);
    let gold = call(&gateway, &body).await;
    let id = crate::support::field(&gold, "x-request-id").expect("an id").to_owned();
    assert_eq!(&*gateway.record(&id).await.route, "gold", "{gold}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_the_playground_ends_its_request() {
    let engine = Engine::start(|_| {
        let first = [Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("first "))];
        first.into_iter().chain([Step::AwaitClose(kit::client::PATIENCE), Step::Close]).collect()
    })
    .await;
    let gateway = Gateway::with_settings(&with_routes(&engine, "")).await;
    let mut socket = open(&gateway, CALL).await;
    let head = read_until(&mut socket, "first ").await;
    drop(socket);
    let id = crate::support::field(&head, "x-request-id").expect("an id").to_owned();
    assert_eq!(gateway.record(&id).await.outcome, lens::record::Outcome::ClientGone);
    let mut again = open(&gateway, CALL).await;
    assert!(read_until(&mut again, "first ").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_playground_refuses_what_is_wrong() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&with_routes(&engine, "")).await;
    let large = format!("{{\"request\": {{\"model\": \"{}\"}}}}", "x".repeat(256 << 10));
    let with = |member: &str| CALL.replacen('{', &format!("{{{member}, "), 1);
    for (body, want, told) in [
        ("", 400, "the body must be"),
        ("{\"request\": []}", 400, "the body must be"),
        (&*with("\"more\": 1"), 400, "the body must be"),
        (&*with("\"route\": \"none\""), 400, "does not exist"),
        (&*with("\"route\": \"embeddings\""), 400, "has another path"),
        (&*with("\"key\": \"a\\nb\""), 400, "characters that a field cannot have"),
        (&*large, 413, "262144 bytes"),
    ] {
        let answer = call(&gateway, body).await;
        assert!(status(&answer) == want && answer.contains(told), "{answer}");
        assert!(!answer.contains("x-llm-lens-playground"), "{answer}");
    }
    let without = send(&gateway, 1, "POST /api/playground", "", CALL).await;
    assert_eq!(status(&without), 400, "{without}");
    let foreign = format!("{OPERATOR}origin: https://evil.example\r\n");
    assert_eq!(status(&send(&gateway, 1, "POST /api/playground", &foreign, CALL).await), 403);
    assert!(engine.seen().is_empty());
    // An error of the gateway is an answer.
    let unknown = CALL.replace("\"m\"", "1");
    let answer = call(&gateway, &unknown).await;
    assert!(answer.contains("x-llm-lens-playground: answer\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_playground_needs_an_operator_or_a_private_listener() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let tokens = format!(
        ", auth: {{tokens: [{{name: o, token: {OPS}, role: operator}}, {{name: v, token: {GRAFANA}}}]}}"
    );
    let gateway = Gateway::with_settings(&with_routes(&engine, &tokens)).await;
    for (fields, want) in [(String::new(), 401), (bearer(GRAFANA), 403), (bearer(OPS), 200)] {
        let fields = format!("{OPERATOR}{fields}");
        let answer = send(&gateway, 1, "POST /api/playground", &fields, CALL).await;
        assert_eq!(status(&answer), want, "{answer}");
    }
    // The token of the admin listener is no credential of the gateway.
    let seen = engine.seen();
    assert!(seen.len() == 1 && !seen[0].head.contains("authorization"), "{seen:?}");
    for (admin, is_on) in [("", false), (&*tokens, true)] {
        let settings = with_routes(&engine, admin).replace("127.0.0.1:0", "0.0.0.0:0");
        let gateway = Gateway::with_settings(&settings).await;
        let fields = format!("{OPERATOR}{}", bearer(OPS));
        let answer = send(&gateway, 1, "POST /api/playground", &fields, CALL).await;
        assert_eq!(status(&answer), if is_on { 200 } else { 403 }, "{answer}");
        let page = request(&gateway, "GET /api/playground", &bearer(OPS)).await;
        assert_eq!(page.contains("\"problem\":null"), is_on, "{page}");
        assert_eq!(gateway.stderr().contains("has no login"), !is_on);
    }
}

/// A listener with TLS is used as well. Another certificate than that of its file is refused: here,
/// the file has changed without its key, so that the listener still serves the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_playground_accepts_the_certificate_of_the_listener_only() {
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (cert, key) = (certificates.shown("cert.pem"), certificates.shown("key.pem"));
    let gateway = Gateway::with_settings(&format!(
        "listeners: [{{address: '127.0.0.1:0', tls: {{cert: '{cert}', key: '{key}'}}}}]\n\
         backends: [{{name: e, url: '{}'}}]\nroutes: [{{name: rest, backend: e}}]\n",
        engine.url()
    ))
    .await;
    let page = request(&gateway, "GET /api/playground", "").await;
    assert!(page.contains(&format!("\"listener\":\"https://{}\"", gateway.address())), "{page}");
    let answer = call(&gateway, CALL).await;
    assert!(status(&answer) == 200 && answer.contains("x-llm-lens-playground"), "{answer}");
    std::fs::copy(others.file("cert.pem"), certificates.file("cert.pem")).expect("writable");
    let refused = call(&gateway, CALL).await;
    assert!(status(&refused) == 502 && refused.contains("TLS: "), "{refused}");
}
