//! Forwarded requests, heads of answers, and routing. Long because it is a list: one test for each
//! guarantee about a head.

use kit::client::{CHAT, CHAT_STREAM, PATIENCE};
use kit::{Client, Engine, Gateway, Step, sse};
use lens::record::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::accept;
use crate::support::{ask, eventually, field, in_time, read_until, settings};

const PATH: &str = "/v1/chat/completions";

/// Send a request line, fields and a body as they are.
async fn raw(client: &mut Client, line: &str, fields: &str, body: &[u8]) {
    let head = format!(
        "{line} HTTP/1.1\r\nhost: gateway\r\n{fields}content-length: {}\r\n\r\n",
        body.len()
    );
    client.send([head.as_bytes(), body].concat()).await;
}

fn is_uuid7(id: &str) -> bool {
    let hex = id.bytes().enumerate().all(|(at, b)| {
        if [8, 13, 18, 23].contains(&at) { b == b'-' } else { b.is_ascii_hexdigit() }
    });
    id.len() == 36
        && hex
        && id.as_bytes()[14] == b'7'
        && matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b')
}

/// A client that declines usage does not evade the limits and prices that need it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declined_usage_is_injected_and_removed() {
    let engine = Engine::start(|_| sse::stream(2, 1)).await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), "", ", include_usage: inject", "")).await;
    for options in ["{\"include_usage\":false}", "{\"include_usage\": null}", "null", "{}"] {
        let body = CHAT_STREAM.replacen('{', &format!("{{\"stream_options\":{options},"), 1);
        let answer = ask(&gateway, PATH, "r", &body).await;
        assert_eq!(answer.status, 200, "{options}");
        assert!(!answer.text().contains("\"usage\":{"), "{options}: {}", answer.text());
        let sent = String::from_utf8(engine.seen().last().unwrap().body.clone()).unwrap();
        assert!(
            sent.contains("\"include_usage\":true") || sent.contains("\"include_usage\": true"),
            "{sent}"
        );
        assert!(serde_json::from_str::<serde_json::Value>(&sent).is_ok(), "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_id_everywhere() {
    // The engine's own request id is not passed to the client.
    let engine = Engine::start(|_| {
        vec![Step::text("HTTP/1.1 200 OK\r\nX-Request-Id: the-engines\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    let longest = "i".repeat(128);
    for (given, kept) in [
        ("mine-1", true),
        ("a/b:c;d=e", true),
        (&longest, true),
        ("", false),
        ("two words", false),
        (&format!("{longest}i"), false),
        ("caf\u{e9}", false),
    ] {
        client.post(PATH, &format!("X-Request-ID: {given}\r\n"), CHAT).await;
        let answer = client.answer().await;
        let ids: Vec<_> = answer
            .head
            .lines()
            .filter(|l| l.to_ascii_lowercase().starts_with("x-request-id:"))
            .collect();
        assert_eq!(ids.len(), 1, "{}", answer.head);
        let id = answer.field("x-request-id").unwrap();
        match kept {
            true => assert_eq!(id, given),
            false => assert!(is_uuid7(id), "{given:?} became {id:?}"),
        }
        let seen = engine.seen().pop().unwrap();
        assert_eq!(field(&seen.head, "x-request-id"), Some(id));
        assert_eq!(seen.head.to_ascii_lowercase().matches("\r\nx-request-id:").count(), 1);
        assert_eq!(gateway.record(id).await.outcome, Outcome::Ok);
    }
    client.post(PATH, "", CHAT).await;
    let id = client.answer().await.field("x-request-id").unwrap().to_owned();
    assert!(is_uuid7(&id));
    // Answers of the gateway and passthrough answers have an id, too.
    client.send("GET /v1/models HTTP/1.1\r\nhost: g\r\nx-request-id: passing\r\n\r\n").await;
    assert_eq!(client.answer().await.field("x-request-id"), Some("passing"));
    assert_eq!(field(&engine.seen().pop().unwrap().head, "x-request-id"), Some("passing"));
    client.send("broken\r\n\r\n").await;
    assert!(is_uuid7(client.answer().await.field("x-request-id").unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trace_context_is_forwarded() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    client
        .post(
            PATH,
            &format!("x-request-id: traced\r\ntraceparent: {parent}\r\ntracestate: a=1,b=2\r\n"),
            CHAT,
        )
        .await;
    client.answer().await;
    let seen = engine.seen().pop().unwrap();
    assert_eq!(
        (field(&seen.head, "traceparent"), field(&seen.head, "tracestate")),
        (Some(parent), Some("a=1,b=2"))
    );
    assert_eq!(
        gateway.record("traced").await.trace_id.as_deref(),
        Some("0af7651916cd43dd8448eb211c80319c")
    );
    client.post(PATH, "x-request-id: untraced\r\ntraceparent: 00-zz-zz-01\r\n", CHAT).await;
    client.answer().await;
    assert_eq!(gateway.record("untraced").await.trace_id, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_by_hop_fields_are_not_forwarded() {
    let engine = Engine::start(|_| {
        vec![Step::text("HTTP/1.1 200 OK\r\nconnection: x-private, keep-alive\r\nkeep-alive: timeout=5\r\nx-private: 1\r\nproxy-authenticate: Basic\r\ntrailer: x-sum\r\nx-public: yes\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let fields = "Connection: keep-alive, X-Secret\r\nconnection: x-other\r\nX-Secret: 1\r\nX-Other: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: x-sum\r\nProxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nX-Public: yes\r\nUser-Agent: test\r\n";
    for (what, line) in
        [("exchange", "POST /v1/chat/completions"), ("pass-through", "POST /tokenize")]
    {
        let mut client = gateway.client().await;
        raw(&mut client, line, fields, CHAT.as_bytes()).await;
        let answer = client.answer().await;
        let seen = engine.seen().pop().unwrap();
        for gone in [
            "x-secret",
            "x-other",
            "keep-alive",
            "te",
            "trailer",
            "proxy-authorization",
            "proxy-connection",
        ] {
            assert_eq!(field(&seen.head, gone), None, "{what}: {gone} went on to the engine");
        }
        assert_eq!(
            (field(&seen.head, "x-public"), field(&seen.head, "user-agent")),
            (Some("yes"), Some("test")),
            "{what}"
        );
        assert_eq!(field(&seen.head, "host"), Some(engine.address.to_string().as_str()), "{what}");
        for gone in ["x-private", "keep-alive", "proxy-authenticate", "trailer"] {
            assert_eq!(answer.field(gone), None, "{what}: {gone} went on to the client");
        }
        assert_eq!(answer.field("x-public"), Some("yes"), "{what}");
        assert_eq!(answer.head.matches("set-cookie:").count(), 2, "{what}: {}", answer.head);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_key_is_never_shown() {
    const KEY: &str = "sk-operators-very-own";
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let closed = Engine::start(|_| vec![Step::Close]).await;
    let text = format!(
        "backends: [{{name: e, url: '{}', api_key: '${{TEST_KEY}}'}}, {{name: closed, url: '{}', api_key: '${{TEST_KEY}}'}}, {{name: open, url: '{}'}}, {{name: a, url: '{}', provider: anthropic, api_key: '${{TEST_KEY}}'}}]\n\
         routes: [{{name: closed, match: {{headers: {{x-route: closed}}}}, backend: closed}}, {{name: anthropic, match: {{headers: {{x-route: anthropic}}}}, backend: a}}, {{name: open, match: {{headers: {{x-route: open}}}}, backend: open}}, {{name: r, backend: e}}]\n",
        engine.url(),
        closed.url(),
        engine.url(),
        engine.url()
    );
    let gateway = Gateway::with_command(&text, |command| {
        command.env("TEST_KEY", KEY).env("RUST_LOG", "debug");
    })
    .await;
    let theirs = "authorization: Bearer clients\r\nx-api-key: clients\r\napi-key: clients\r\n";
    let mut client = gateway.client().await;
    // The field depends on the provider of the backend, not on the path: vLLM serves /v1/messages
    // and takes bearers only.
    for (line, more, name) in [
        ("POST /v1/chat/completions", "", "authorization"),
        ("POST /v1/messages", "", "authorization"),
        ("GET /v1/models", "", "authorization"),
        ("POST /v1/messages", "x-route: anthropic\r\n", "x-api-key"),
        ("GET /v1/models", "x-route: anthropic\r\n", "x-api-key"),
    ] {
        raw(&mut client, line, &format!("{more}{theirs}"), CHAT.as_bytes()).await;
        assert_eq!(client.answer().await.status, 200);
        let head = engine.seen().pop().unwrap().head;
        assert!(!head.contains("clients"), "{head}");
        assert!(
            field(&head, name).is_some_and(|v| v.ends_with(KEY)) && head.matches(KEY).count() == 1,
            "{head}"
        );
    }
    // Without a key of the operator, the client's is forwarded.
    raw(
        &mut client,
        "POST /v1/chat/completions",
        &format!("x-route: open\r\n{theirs}"),
        CHAT.as_bytes(),
    )
    .await;
    client.answer().await;
    assert_eq!(engine.seen().pop().unwrap().head.matches("clients").count(), 3);
    // The key is not in errors, pages or logs.
    let mut told = String::new();
    for line in ["POST /v1/chat/completions", "GET /v1/models"] {
        let mut client = gateway.client().await;
        raw(&mut client, line, "x-route: closed\r\n", CHAT.as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 502, "{line}");
        told += &(answer.head.clone() + &answer.text());
    }
    for page in ["/metrics", "/api/settings", "/api/routes", "/api/requests"] {
        told += &gateway.get(page).1;
    }
    assert!(told.contains("api_key"), "the settings page shows that there is one");
    assert!(!(told.clone() + &gateway.stderr()).contains("very-own"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uncompressed_answers_are_requested_by_default() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    for (compression, given, want) in [
        ("identity", "gzip, br", Some("identity")),
        ("identity", "", Some("identity")),
        ("forward", "gzip, br", Some("gzip, br")),
        ("forward", "", None),
    ] {
        let gateway = Gateway::with_settings(&settings(
            &engine.url(),
            "",
            &format!(", compression: {compression}"),
            "",
        ))
        .await;
        let mut client = gateway.client().await;
        let fields =
            if given.is_empty() { String::new() } else { format!("Accept-Encoding: {given}\r\n") };
        client.post(PATH, &fields, CHAT).await;
        client.answer().await;
        let head = engine.seen().pop().unwrap().head;
        assert_eq!(field(&head, "accept-encoding"), want, "{compression} {given:?}");
        assert!(head.to_ascii_lowercase().matches("accept-encoding").count() <= 1, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_injected_and_removed_from_the_answer() {
    let events = |usage: bool| {
        [
            sse::role(),
            sse::content("x"),
            sse::finish(),
            if usage { sse::usage(5, 3) } else { String::new() },
            sse::done(),
        ]
    };
    let engine = Engine::start(move |seen| {
        let body: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
        let asked = body["stream_options"]["include_usage"] == true;
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        // Events are split, so that the usage event is held in pieces.
        let text = events(asked).concat();
        steps.extend(text.as_bytes().chunks(37).map(Step::chunk));
        steps.push(Step::end());
        steps
    })
    .await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), "", ", include_usage: inject", "")).await;
    let asked = r#""stream_options":{"include_usage":true},"#;
    for (case, body, want, client_asked) in [
        (
            "absent",
            r#" {"model":"m", "stream":true,"messages":[]}"#,
            format!(r#" {{{asked}"model":"m", "stream":true,"messages":[]}}"#),
            false,
        ),
        (
            "empty",
            r#"{"stream":true,"stream_options":{ }}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true }}"#.into(),
            false,
        ),
        (
            "other",
            r#"{"stream":true,"stream_options":{"a":1}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true,"a":1}}"#.into(),
            false,
        ),
        (
            "asked",
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#.into(),
            true,
        ),
        (
            "declined",
            r#"{"stream":true,"stream_options":{"include_usage":false}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#.into(),
            false,
        ),
    ] {
        let answer = ask(&gateway, PATH, case, body).await;
        let seen = engine.seen().pop().unwrap();
        assert_eq!(String::from_utf8_lossy(&seen.body), want, "{case}");
        assert_eq!(
            field(&seen.head, "content-length"),
            Some(want.len().to_string().as_str()),
            "{case}"
        );
        assert_eq!(
            (answer.text(), answer.complete),
            (events(client_asked).concat(), true),
            "{case}"
        );
        let usage = gateway.record(case).await.usage.expect("usage");
        assert_eq!(
            (usage.completion_tokens, usage.prompt_tokens, usage.estimated),
            (Some(3), Some(5), false),
            "{case}"
        );
    }
    // Usage is not requested for answers that are not streamed, or in dialects without that option.
    for (path, body) in
        [(PATH, r#"{"stream":false}"#), (PATH, "{}"), ("/v1/messages", r#"{"stream":true}"#)]
    {
        ask(&gateway, path, "", body).await;
        assert_eq!(engine.seen().pop().unwrap().body, body.as_bytes(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn injected_members_are_not_duplicated() {
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), "", ", include_usage: inject", "")).await;
    for body in [
        r#"{"stream":true,"stream_options":null}"#,
        r#"{"stream":true,"stream_options":{"include_usage":null}}"#,
    ] {
        ask(&gateway, PATH, "", body).await;
        let sent = String::from_utf8(engine.seen().pop().unwrap().body).unwrap();
        for member in ["\"stream_options\"", "\"include_usage\""] {
            assert!(sent.matches(member).count() <= 1, "engines take the last one: {sent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_find_their_route() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let text = format!(
        "backends: [{{name: e, url: '{}'}}]\nroutes:\n\
         - {{name: both, match: {{path: '/v1/*', headers: {{x-tier: gold}}, models: [big]}}, backend: e}}\n\
         - {{name: path, match: {{path: /v1/embeddings}}, backend: e}}\n\
         - {{name: header, match: {{headers: {{X-Tier: '*'}}}}, backend: e}}\n\
         - {{name: model, match: {{models: [small, 'llama-*']}}, backend: e}}\n\
         - {{name: passing, match: {{path: '/v1/models*'}}, backend: e}}\n",
        engine.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let mut client = gateway.client().await;
    for (number, (line, fields, model, want)) in [
        ("POST /v1/chat/completions", "x-tier: gold\r\n", "big", "both"),
        ("POST /v1/chat/completions?a=b", "X-TIER: gold\r\n", "big", "both"),
        ("POST /other/chat/completions", "x-tier: gold\r\n", "big", "header"),
        ("POST /v1/chat/completions", "x-tier: Gold\r\n", "big", "header"),
        ("POST /v1/embeddings", "", "whatever", "path"),
        ("POST /v1/chat/completions", "", "small", "model"),
        ("POST /v1/chat/completions", "", "llama-3\\u002e1", "model"),
        ("POST /v1/chat/completions", "", "smaller", ""),
        ("POST /v1/chat/completions", "", "big", ""),
        ("GET /v1/models/x", "", "small", "passing"),
        ("GET /v2/models", "", "small", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("n{number}");
        raw(
            &mut client,
            line,
            &format!("x-request-id: {id}\r\n{fields}"),
            format!("{{\"model\":\"{model}\"}}").as_bytes(),
        )
        .await;
        let answer = client.answer().await;
        let record = gateway.record(&id).await;
        if want.is_empty() {
            assert_eq!(
                (answer.status, answer.error_code().as_str()),
                (404, "no_route"),
                "{line} {model}"
            );
            assert_eq!(
                (&*record.route, record.backend, record.outcome),
                ("none", None, Outcome::Rejected)
            );
        } else {
            assert_eq!((answer.status, &*record.route), (200, want), "{line} {fields} {model}");
        }
        if answer.field("connection") == Some("close") {
            client = gateway.client().await;
        }
    }
    assert_eq!(engine.seen().len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_validated_only_where_a_stage_acts_on_it() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let plain = Gateway::in_front_of(&engine.url()).await;
    let by_model =
        Gateway::with_settings(&settings(&engine.url(), "", ", match: {models: [m]}", "")).await;
    let deep = "[".repeat(100_000);
    let deep_in_object = format!("{{\"model\":\"m\",\"messages\":{}", "[".repeat(100_000));
    let latin1 = b"{\"model\":\"m\",\"user\":\"caf\xe9\"}";
    for (body, judged) in [
        (&b"{\"model\":\"m\""[..], "invalid_json"),
        (b"{\"model\":\"m\"} {}", "invalid_json"),
        (b"not json at all", "invalid_json"),
        (b"", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"\xEF\xBB\xBF{\"model\":\"m\"}", "unsupported_encoding"),
        (b"{\"model\":\"m\",\"model\":\"n\"}", "duplicate_member"),
        (b"{\"model\":\"m\",\"\\u006dodel\":\"n\"}", "duplicate_member"),
    ] {
        let mut client = plain.client().await;
        raw(&mut client, "POST /v1/chat/completions", "", body).await;
        assert_eq!(client.answer().await.status, 200, "{}", body.escape_ascii());
        assert_eq!(engine.seen().pop().unwrap().body, body, "it is the engine's to judge");
        let before = engine.seen().len();
        let mut client = by_model.client().await;
        raw(&mut client, "POST /v1/chat/completions", "", body).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (400, judged),
            "{}",
            body.escape_ascii()
        );
        if judged == "duplicate_member" {
            assert_eq!(answer.json()["error"]["param"], "model");
        }
        assert_eq!(engine.seen().len(), before);
    }
    // Bodies that attack a parser are refused.
    for gateway in [&plain, &by_model] {
        for body in [&deep, &deep_in_object] {
            let answer = ask(gateway, PATH, "deep", body).await;
            assert_eq!((answer.status, answer.error_code().as_str()), (400, "invalid_json"));
        }
    }
    // Invalid UTF-8 in a text is forwarded unchanged.
    let mut client = plain.client().await;
    raw(&mut client, "POST /v1/chat/completions", "", latin1).await;
    client.answer().await;
    assert_eq!(engine.seen().pop().unwrap().body, latin1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_requests_pass_where_no_stage_must_parse_them() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let plain = Gateway::in_front_of(&engine.url()).await;
    let by_model =
        Gateway::with_settings(&settings(&engine.url(), "", ", match: {models: [m]}", "")).await;
    let body = b"\x1f\x8b\x08\x00not really gzip";
    let mut client = plain.client().await;
    raw(&mut client, "POST /v1/chat/completions", "content-encoding: gzip\r\n", body).await;
    assert_eq!(client.answer().await.status, 200);
    let seen = engine.seen().pop().unwrap();
    assert_eq!(
        (field(&seen.head, "content-encoding"), seen.body.as_slice()),
        (Some("gzip"), &body[..])
    );
    let mut client = by_model.client().await;
    raw(&mut client, "POST /v1/chat/completions", "Content-Encoding: gzip\r\n", body).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.error_code().as_str()), (415, "unsupported_encoding"));
    raw(
        &mut client,
        "POST /v1/chat/completions",
        "content-encoding: identity\r\n",
        CHAT.as_bytes(),
    )
    .await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_in_chunks_reach_the_engine_with_a_length() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    let chunks: String = CHAT
        .as_bytes()
        .chunks(7)
        .map(|c| format!("{:x};ext=1\r\n{}\r\n", c.len(), String::from_utf8_lossy(c)))
        .collect();
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\nx-trailer: 1\r\n\r\n"
    );
    // Byte by byte, and then two at once.
    for byte in request.as_bytes() {
        client.send([*byte]).await;
    }
    assert_eq!(client.answer().await.status, 200);
    client.send(request.clone() + &request).await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.status, 200);
    for seen in engine.seen() {
        assert_eq!(
            (seen.body.as_slice(), field(&seen.head, "transfer-encoding")),
            (CHAT.as_bytes(), None)
        );
        assert_eq!(field(&seen.head, "content-length"), Some(CHAT.len().to_string().as_str()));
    }
    for (framing, body, code) in [
        ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n", "ambiguous_framing"),
        ("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n", "ambiguous_framing"),
        ("content-length: 5\r\ncontent-length: 5\r\n", "hello", "ambiguous_framing"),
        ("content-length: +5\r\n", "hello", "ambiguous_framing"),
        ("transfer-encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n", "malformed_body"),
        ("transfer-encoding: chunked\r\n", "-1\r\n\r\n", "malformed_body"),
    ] {
        let mut client = gateway.client().await;
        client.send(format!("POST {PATH} HTTP/1.1\r\nhost: g\r\n{framing}\r\n{body}")).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.error_code().as_str(), answer.field("connection")),
            (400, code, Some("close")),
            "{framing:?}"
        );
    }
    assert_eq!(engine.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_timing_has_the_timings_known_at_the_head() {
    let engine = Engine::start(|_| {
        vec![
            Step::ms(120),
            Step::text(sse::STREAM_HEAD),
            Step::chunk(sse::role() + &sse::finish() + &sse::done()),
            Step::end(),
        ]
    })
    .await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), "", ", server_timing: true", "")).await;
    let answer = ask(&gateway, PATH, "timed", CHAT_STREAM).await;
    let timing = answer.field("server-timing").expect("the route asks for it");
    let of = |name: &str| -> f64 {
        let part = timing
            .split(", ")
            .find_map(|p| p.strip_prefix(name)?.strip_prefix(";dur="))
            .unwrap_or_else(|| panic!("{name}: {timing}"));
        part.parse().expect("milliseconds")
    };
    assert!(of("engine") >= 60.0, "{timing}");
    assert!(
        of("read") >= 0.0 && of("connect") > 0.0 && of("send") >= 0.0 && of("gateway") >= 0.0,
        "{timing}"
    );
    let plain = Gateway::in_front_of(&engine.url()).await;
    assert_eq!(ask(&plain, PATH, "plain", CHAT_STREAM).await.field("server-timing"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_may_stand_behind_a_prefix() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway =
        Gateway::with_settings(&settings(&format!("{}/openai/v2/", engine.url()), "", "", ""))
            .await;
    let mut client = gateway.client().await;
    for (line, want) in [
        (
            "POST /v1/chat/completions?a=b%20c&d",
            "POST /openai/v2/v1/chat/completions?a=b%20c&d HTTP/1.1",
        ),
        (
            "POST http://elsewhere/v1/chat/completions",
            "POST /openai/v2/v1/chat/completions HTTP/1.1",
        ),
        ("GET /v1/models?limit=1", "GET /openai/v2/v1/models?limit=1 HTTP/1.1"),
    ] {
        raw(&mut client, line, "", b"{}").await;
        assert_eq!(client.answer().await.status, 200, "{line}");
        assert_eq!(engine.seen().pop().unwrap().head.lines().next(), Some(want));
    }
    gateway.wait_until(|g| g.records().len() == 3).await;
    let paths: Vec<_> = gateway.records().into_iter().map(|r| r.endpoint).collect();
    assert!(
        paths.iter().all(|p| p.starts_with("/v1/")),
        "records have the client's path: {paths:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_else_passes_through() {
    const MODELS: &str = "{\"object\":\"list\",\"data\":[]}";
    let engine = Engine::start(|seen| {
        let method = seen.head.split(' ').next().unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {} X\r\ncontent-type: application/json\r\nx-engine: yes\r\n",
            if seen.head.contains("/missing") { 404 } else { 200 }
        );
        match method {
            "OPTIONS" => vec![Step::text("HTTP/1.1 204 No Content\r\nallow: GET, POST\r\n\r\n")],
            "HEAD" => vec![Step::text(format!("{head}content-length: {}\r\n\r\n", MODELS.len()))],
            _ => {
                vec![Step::text(format!("{head}content-length: {}\r\n\r\n{MODELS}", MODELS.len()))]
            }
        }
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    client.send("GET /v1/models HTTP/1.1\r\nhost: g\r\nx-request-id: get\r\nauthorization: Bearer mine\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.field("x-engine")),
        (200, MODELS, Some("yes"))
    );
    let seen = engine.seen().pop().unwrap();
    assert_eq!(
        (field(&seen.head, "authorization"), field(&seen.head, "x-request-id")),
        (Some("Bearer mine"), Some("get"))
    );
    // The connection stays open between both kinds of requests.
    client.post(PATH, "x-request-id: chat\r\n", "{}").await;
    assert_eq!(client.answer().await.text(), MODELS);
    client
        .send("OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-request-id: options\r\n\r\n")
        .await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 204 ") && head.contains("GET, POST"), "{head}");
    client.send("GET /missing HTTP/1.1\r\nhost: g\r\nx-request-id: missing\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 404);
    client.send("HEAD /v1/models HTTP/1.1\r\nhost: g\r\nx-request-id: head\r\n\r\n").await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200 ")
            && head.to_ascii_lowercase().contains(&format!("content-length: {}", MODELS.len())),
        "{head}"
    );
    assert!(head.ends_with("\r\n\r\n"), "a body after the answer to HEAD: {head}");
    client
        .send("GET /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-request-id: again\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), MODELS);
    for (id, status, outcome) in [
        ("get", 200, Outcome::Ok),
        ("options", 204, Outcome::Ok),
        ("head", 200, Outcome::Ok),
        ("missing", 404, Outcome::UpstreamError),
        ("again", 200, Outcome::Ok),
    ] {
        let record = gateway.record(id).await;
        assert_eq!(
            (record.http_status, record.outcome, record.dialect, record.events),
            (Some(status), outcome, None, None),
            "{id}"
        );
        assert_eq!(
            (record.ledger_us.total(), &*record.route),
            (record.total_us, "default"),
            "{id}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_unknown_requests_stream_through() {
    // The engine answers the first part before it has the last: nothing is held in either
    // direction.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let engine = tokio::spawn(async move {
        let mut socket = accept(&listener).await;
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains("first") {
            assert!(socket.read_buf(&mut read).await.unwrap() > 0);
        }
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n")
            .await
            .unwrap();
        while !String::from_utf8_lossy(&read).ends_with("0\r\n\r\n") {
            assert!(socket.read_buf(&mut read).await.unwrap() > 0);
        }
        socket.write_all(b"4\r\nlate\r\n0\r\n\r\n").await.unwrap();
        String::from_utf8(read).unwrap()
    });
    let gateway = Gateway::in_front_of(&url).await;
    let mut client = gateway.client().await;
    client
        .send(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: g\r\nx-request-id: audio\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        )
        .await;
    read_until(&mut client, "early").await;
    client.send("6\r\nsecond\r\n0\r\n\r\n").await;
    read_until(&mut client, "late").await;
    let request = in_time(engine).await.unwrap();
    let body = request.split_once("\r\n\r\n").unwrap().1;
    assert!(
        request.starts_with("POST /v1/audio/transcriptions ")
            && body.contains("first")
            && body.contains("second"),
        "{request}"
    );
    assert_eq!(gateway.record("audio").await.outcome, Outcome::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_served_is_refused() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for (request, status, code) in [
        (
            "GET /v1/realtime HTTP/1.1\r\nhost: g\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            501,
            "upgrade_not_supported",
        ),
        ("POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n", 400, "invalid_host"),
        (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 0\r\n\r\n",
            400,
            "invalid_host",
        ),
        ("CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n", 400, "invalid_target"),
        ("GET / HTTP/2.5\r\nhost: g\r\n\r\n", 505, "http_version_not_supported"),
        ("GET / HTTP/1.1\r\nhost: g\r\n folded: 1\r\n\r\n", 400, "malformed_request"),
        ("GET / HTTP/1.1\nhost: g\n\n", 400, "malformed_request"),
        ("GET / HTTP/1.1\r\nhost : g\r\n\r\n", 400, "malformed_request"),
    ] {
        let mut client = gateway.client().await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.error_code().as_str()), (status, code), "{request:?}");
        assert!(client.is_closed_within(PATIENCE).await);
    }
    let many: String = (0..101).map(|i| format!("x-{i}: 1\r\n")).collect();
    let large = format!("x: {}\r\n", "x".repeat(70 << 10));
    for fields in [many, large] {
        let mut client = gateway.client().await;
        client.send(format!("GET /v1/models HTTP/1.1\r\nhost: g\r\n{fields}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.error_code().as_str()), (431, "header_too_large"));
    }
    assert!(engine.seen().is_empty());
    assert!(
        gateway.records().iter().all(|r| r.outcome == Outcome::Rejected && r.backend.is_none())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_names_create_no_metric_series() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), ", models: [known-a, known-b]", "", ""))
            .await;
    let series = |gateway: &Gateway| {
        gateway.get("/metrics").1.lines().filter(|l| !l.starts_with('#')).count()
    };
    let mut client = gateway.client().await;
    let mut ask = async |path: &str, model: &str| {
        client.post(path, "", &format!("{{\"model\":\"{model}\"}}")).await;
        client.answer().await;
    };
    ask(PATH, "stranger").await;
    ask("/odd/one/chat/completions", "stranger").await;
    gateway.wait_until(|g| g.records().len() == 2).await;
    let before = series(&gateway);
    for n in 0..50 {
        ask(&format!("/p{n}/chat/completions"), &format!("made-up-{n}")).await;
    }
    gateway.wait_until(|g| g.records().len() == 52).await;
    assert_eq!(series(&gateway), before);
    ask(PATH, "known-a").await;
    gateway.wait_until(|g| g.records().len() == 53).await;
    let text = gateway.get("/metrics").1;
    assert!(
        text.contains("gen_ai_request_model=\"known-a\"")
            && !text.contains("known-b")
            && !text.contains("made-up")
            && !text.contains("stranger"),
        "{text}"
    );
    let requests = |filter: &str| gateway.metric("llm_lens_requests_total", filter);
    assert_eq!(
        (requests("gen_ai_request_model=\"other\""), requests("gen_ai_request_model=\"known-a\"")),
        (52.0, 1.0)
    );
    // The records have the names.
    assert!(gateway.records().iter().any(|r| r.model_requested.as_deref() == Some("made-up-49")));
    eventually("the answer's model is known as well", || {
        gateway.records().iter().all(|r| r.model_answered.as_deref() == Some("m"))
    })
    .await;
}

/// A scraper that ingests native histograms prefers protobuf.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scraper_gets_the_format_that_it_asks_for() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", "")).await;
    let mut client = gateway.client().await;
    client.post(PATH, "", CHAT).await;
    client.answer().await;
    gateway.wait_until(|g| g.records().len() == 1).await;
    let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    for (accept, kind) in [
        (format!("{native},text/plain;q=0.5"), "application/vnd.google.protobuf"),
        ("*/*".to_owned(), "text/plain"),
    ] {
        let (head, body) = gateway.scrape(&accept);
        assert!(
            head.contains(&format!("content-type: {kind}"))
                && head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("llm_lens_request_duration_seconds"), "{text}");
        assert_eq!(text.contains("llm_lens_request_duration_seconds_bucket"), kind == "text/plain");
    }
}
