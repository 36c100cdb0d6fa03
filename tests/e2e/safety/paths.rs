//! Paths: one reading for routes, keys, guardrails and backends, and no API of an operator.

use super::*;

/// A gateway that holds the operator's key for its backend.
async fn with_key(engine: &Engine, routes: &str) -> Gateway {
    let text = format!(
        "backends: [{{name: b, url: '{}/tenant-a', api_key: sk-operator, models: [cheap, dear]}}]\n\
         prices: [{{input: 100, output: 100}}]\nroutes: [{routes}]\n",
        engine.url()
    );
    Gateway::with_settings(&text).await
}

/// Whether a chat to that path gets 200 over HTTP/2.
async fn is_ok_over_h2(gateway: &Gateway, path: &str) -> bool {
    let frames = [
        frame(HEADERS, END_HEADERS, 1, &h2raw::post(path)),
        frame(DATA, END_STREAM, 1, CHAT.as_bytes()),
    ];
    let (_, answered) = h2raw::one_stream(gateway.address(), &frames).await;
    answered.iter().any(h2raw::Frame::is_ok)
}

fn text(seen: &kit::engine::Seen) -> String {
    String::from_utf8_lossy(&seen.body).into_owned()
}

const ODD: [&str; 11] = [
    "/v1/chat/completion%73",
    "/v1//chat/completions",
    "/v1/./chat/completions",
    "/public/../v1/chat/completions",
    "/public/%2e%2e/v1/chat/completions",
    "/public/%2E./v1/chat/completions",
    "/v1/chat%2fcompletions",
    "/v1/chat%5ccompletions",
    "/v1/chat/completions;a=b",
    "/../tenant-b/v1/chat/completions",
    "/%252e%252e/tenant-b/v1/chat/completions",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_with_two_readings_are_refused_over_both_protocols() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = with_key(
        &engine,
        "{name: public, backend: b, match: {path: '/public/*'}}, \
         {name: chat, backend: b, validation: strict}",
    )
    .await;
    for path in ODD {
        for method in ["POST", "GET"] {
            let mut client = gateway.client().await;
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{CHAT}",
                CHAT.len()
            );
            client.send(request).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 400, "{method} {path}: {}", answer.text());
            assert_eq!(answer.error_code(), "invalid_target", "{method} {path}");
        }
        assert!(!is_ok_over_h2(&gateway, path).await, "{path} over HTTP/2");
    }
    assert_eq!(engine.seen().len(), 0, "nothing was forwarded");
    assert!(is_ok_over_h2(&gateway, "/public/v1/chat/completions").await, "one reading");
    nothing_in_flight(&gateway).await;
}

/// A refused path is answered in the format of the API that it stands for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_paths_have_the_error_format_of_their_api() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let version = "anthropic-version: 2023-06-01\r\n";
    for (path, fields, is_format) in [
        ("/v1//messages", "", "anthropic"),
        ("/x/../v1/messages", "", "anthropic"),
        ("/v1/%6d", version, "anthropic"),
        ("/v1//models", version, "anthropic"),
        ("/api//chat", "", "ollama"),
        ("/v1//chat/completions", "", "openai"),
    ] {
        let mut client = gateway.client().await;
        client.post(path, fields, CHAT).await;
        let answer = client.answer().await;
        let body = answer.json();
        let format = match (&body["type"], &body["error"]) {
            (kind, _) if kind == "error" => "anthropic",
            (_, error) if error.is_string() => "ollama",
            _ => "openai",
        };
        assert_eq!((answer.status, format), (400, is_format), "{path}: {body}");
        assert!(answer.text().contains("invalid_target"), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slash_at_the_end_selects_the_same_route() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = with_key(
        &engine,
        "{name: chat, backend: b, match: {path: /v1/chat/completions}, validation: strict}, \
         {name: rest, backend: b}",
    )
    .await;
    let invalid = "{\"model\":\"cheap\",\"max_tokens\":-5,\"messages\":[]}";
    for path in ["/v1/chat/completions", "/v1/chat/completions/"] {
        let mut client = gateway.client().await;
        client.post(path, "", invalid).await;
        assert_eq!(client.answer().await.status, 400, "{path}");
    }
    assert_eq!(engine.seen().len(), 0);
}

/// Management calls never carry the operator's key, unless the route names their path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_model_apis_are_forwarded_with_the_key_of_the_operator() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let named = "['/v1/files*', '/v1/my notes/*']";
    let gateway =
        with_key(&engine, &format!("{{name: r, backend: b, passthrough: {named}}}")).await;
    for (method, path, status) in [
        ("DELETE", "/v1/models/ft:x", 404),
        ("POST", "/v1/fine_tuning/jobs", 404),
        ("GET", "/v1/organization/admin_api_keys", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/sleep", 404),
        ("POST", "/key/generate", 404),
        ("POST", "/v1/threads/t/messages", 404),
        ("POST", "/reset_prefix_cache", 404),
        ("DELETE", "/api/delete", 404),
        ("POST", "/api/pull", 404),
        ("POST", "/slots/0?action=erase", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v1/responses/r1", 404),
        ("OPTIONS", "/key/generate", 404),
        ("OPTIONS", "/v1/responses/r1", 404),
        ("TRACE", "/", 405),
        ("TRACE", "/v1/files/x", 405),
        ("GET", "/v1beta/openai/models", 200),
        ("OPTIONS", "/v1/chat/completions", 200),
        ("OPTIONS", "/v1/files/x", 200),
        ("GET", "/health", 200),
        ("POST", "/tokenize", 200),
        ("POST", "/v1/audio/speech", 200),
        ("DELETE", "/v1/files/x", 200),
        // Patterns are compared with the path that is matched, which has one spelling.
        ("DELETE", "/v1/my%20notes/x", 200),
        ("DELETE", "/v1/%66iles/x", 400),
        ("DELETE", "/v1/files%2Fx", 400),
    ] {
        let before = engine.seen().len();
        let mut client = gateway.client().await;
        client
            .send(format!(
                "{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer mine\r\n\
                 x-http-method-override: DELETE\r\nX-Original-URL: /key/generate\r\n\
                 content-length: 0\r\n\r\n"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        let forwarded = engine.seen().len() - before;
        assert_eq!(forwarded, usize::from(status == 200), "{method} {path}");
        if let (200, Some(seen)) = (status, engine.seen().pop()) {
            let head = seen.head.to_ascii_lowercase();
            assert!(!head.contains("override") && !head.contains("x-original-url"), "{head}");
            assert!(!head.contains("bearer mine"), "{head}");
            assert_eq!(head.contains("sk-operator"), method != "OPTIONS", "{head}");
        }
        if status == 404 {
            assert_eq!(answer.error_code(), "unknown_endpoint");
            assert!(answer.text().contains(path.split('?').next().unwrap()), "{}", answer.text());
        }
    }
}

/// What is checked is what the backend serves: the model of the path counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_of_a_path_is_the_model_of_the_request() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let strict = with_key(&engine, "{name: r, backend: b, validation: strict}").await;
    for (path, body, status) in [
        ("/openai/deployments/other/chat/completions?api-version=1", "cheap", 404),
        ("/v1/engines/other/completions", "cheap", 404),
        ("/v1/models/other/chat/completions", "cheap", 404),
        ("/openai/deployments/dear/chat/completions", "other", 200),
    ] {
        let mut client = strict.client().await;
        let body = format!(
            "{{\"model\":\"{body}\",\"prompt\":\"x\",\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}]}}"
        );
        client.post(path, "x-request-id: m\r\n", &body).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(status == 200 || answer.error_code() == "model_not_found", "{path}");
    }
    let seen = engine.seen();
    assert_eq!(seen.len(), 1);
    assert!(text(&seen[0]).contains("\"model\":\"dear\""), "{}", text(&seen[0]));
    let renamed = format!(
        "backends: [{{name: b, url: '{}'}}]\npools: [{{name: p, backends: [b], model: org/linden}}]\n\
         routes: [{{name: r, pool: p}}]\n",
        engine.url()
    );
    let gateway = Gateway::with_settings(&renamed).await;
    let mut client = gateway.client().await;
    client.post("/openai/deployments/alias/chat/completions?api-version=1", "", CHAT).await;
    assert_eq!(client.answer().await.status, 200);
    let seen = engine.seen();
    let last = seen.last().unwrap();
    assert!(
        last.head
            .starts_with("POST /openai/deployments/org%2Flinden/chat/completions?api-version=1 "),
        "{}",
        last.head
    );
    assert!(text(last).contains("\"model\":\"org/linden\""), "{}", text(last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_replace_the_method_or_the_path_are_removed_from_inference() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = with_key(&engine, "{name: r, backend: b}").await;
    let mut client = gateway.client().await;
    let fields = "x-http-method: DELETE\r\nX-Method-Override: DELETE\r\nx-rewrite-url: /x\r\n";
    client.post("/v1/chat/completions", fields, CHAT).await;
    assert_eq!(client.answer().await.status, 200);
    let head = engine.seen().pop().unwrap().head.to_ascii_lowercase();
    assert!(!head.contains("method") && !head.contains("rewrite"), "{head}");
}

/// A method of 60,000 letters costs an engine what it costs the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_methods_are_refused_over_both_protocols() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let method = "A".repeat(60_000);
    let mut client = gateway.client().await;
    client.send(format!("{method} /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.error_code()), (400, "malformed_request"));
    let method = "A".repeat(40);
    let head = h2raw::head(&[
        (":method", method.as_str()),
        (":scheme", "http"),
        (":path", "/v1/models"),
        (":authority", "a"),
    ]);
    let frames = [frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)];
    let (_, answered) = h2raw::one_stream(gateway.address(), &frames).await;
    assert!(!answered.is_empty() && !answered.iter().any(h2raw::Frame::is_ok), "{answered:?}");
    assert!(engine.seen().is_empty());
}
