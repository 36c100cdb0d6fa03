//! The bytes of answers for every kind of client, and their records. Long because it is a list: one
//! test for each way to split and frame an answer.

use std::future::poll_fn;

use bytes::Bytes;
use kit::client::{CHAT, CHAT_STREAM, PATIENCE, post};
use kit::{Client, Engine, Gateway, Step, sse};
use lens::Record;
use lens::record::Outcome;

use crate::raw::accept;
use crate::support::{ask, id, in_time, read_until, settings, short_chat, with_length};

const PATH: &str = "/v1/chat/completions";

fn chunked(content_type: &str, pieces: &[&[u8]]) -> Vec<Step> {
    let mut steps = vec![Step::text(format!(
        "HTTP/1.1 200 OK\r\n{content_type}transfer-encoding: chunked\r\n\r\n"
    ))];
    // A pause, so that pieces are reads of their own; nothing depends on it.
    pieces.iter().for_each(|piece| steps.extend([Step::chunk(piece), Step::ms(5)]));
    steps.push(Step::end());
    steps
}

/// Splits a text in three around a position.
fn thirds(text: &[u8], at: usize) -> [&[u8]; 3] {
    [&text[..at - 1], &text[at - 1..at + 1], &text[at + 1..]]
}

const SSE: &str = "content-type: text/event-stream; charset=utf-8\r\n";

/// A case: its name, its path, its body, and the engine's script for it.
type Case = (&'static str, &'static str, Vec<u8>, Vec<Step>);

fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    let stream = short_chat();
    let utf8 = sse::role()
        + &sse::content("na\u{ef}ve \u{1f980}\u{1f980}")
        + &sse::finish()
        + &sse::done();
    let crab = utf8.find('\u{1f980}').expect("a crab") + 2;
    all.push(("utf8", PATH, utf8.clone().into(), chunked(SSE, &thirds(utf8.as_bytes(), crab))));
    let crlf = stream.replace('\n', "\r\n");
    let lf = crlf.find("\r\n\r\n").expect("an event") + 1;
    all.push(("crlf", PATH, crlf.clone().into(), chunked(SSE, &thirds(crlf.as_bytes(), lf))));
    let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
    let mut one_by_one = vec![Step::text(sse::STREAM_HEAD)];
    one_by_one.extend(bytes.iter().map(Step::chunk));
    one_by_one.push(Step::end());
    all.push(("bytes", PATH, stream.clone().into(), one_by_one));
    all.push(("at-once", PATH, stream.clone().into(), chunked(SSE, &[stream.as_bytes()])));
    let many = sse::role()
        + &(0..5_000).map(|i| sse::content(&format!("t{i}"))).collect::<String>()
        + &sse::finish()
        + &sse::done();
    let Step::Write(mut whole) = Step::chunk(&many) else { unreachable!() };
    whole.splice(..0, sse::STREAM_HEAD.bytes());
    whole.extend_from_slice(b"0\r\n\r\n");
    all.push(("many", PATH, many.into(), vec![Step::Write(whole)]));
    all.push(("length", PATH, stream.clone().into(), vec![with_length(&stream)]));
    let http10 = format!("HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{stream}");
    all.push(("http10", PATH, stream.clone().into(), vec![Step::text(http10), Step::Close]));
    let lines = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"hi\"},\"done\":false}\n{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":2,\"eval_count\":1}\n";
    all.push((
        "ndjson",
        "/api/chat",
        lines.into(),
        chunked("content-type: application/x-ndjson\r\n", &thirds(lines.as_bytes(), 30)),
    ));
    let odd = sse::role()
        + "data: no json at all\n\nevent: x\nid: 7\nretry: 5\ndata: {\ndata: }\n\n: note\n\n"
        + &sse::content("x")
        + &sse::finish()
        + "data:[DONE]\n\n";
    all.push(("odd", PATH, odd.clone().into(), chunked(SSE, &[odd.as_bytes()])));
    let large = sse::role()
        + &sse::content(&"x".repeat(2 << 20))
        + &sse::content("y")
        + &sse::finish()
        + &sse::done();
    all.push(("large", PATH, large.clone().into(), chunked(SSE, &[large.as_bytes()])));
    let gzip = [b"\x1f\x8b\x08\x00", stream.as_bytes()].concat();
    all.push((
        "gzip",
        PATH,
        gzip.clone(),
        chunked(
            "content-type: text/event-stream\r\ncontent-encoding: gzip\r\n",
            &thirds(&gzip, 20),
        ),
    ));
    let html = "<html>\r\n\r\ndata: {}\n\n</html>";
    all.push((
        "html",
        PATH,
        html.into(),
        chunked("content-type: text/html\r\n", &[html.as_bytes()]),
    ));
    all.push(("untyped", PATH, stream.clone().into(), chunked("", &[stream.as_bytes()])));
    let trailers = format!(
        "{}{:x}\r\n{stream}\r\n0\r\nx-sum: 1\r\nx-time: 2\r\n\r\n",
        sse::STREAM_HEAD,
        stream.len()
    );
    all.push(("trailers", PATH, stream.clone().into(), vec![Step::text(trailers)]));
    let extensions = format!(
        "{}{:X};a=b;c=\"d\"\r\n{stream}\r\n000;last\r\n\r\n",
        sse::STREAM_HEAD,
        stream.len()
    );
    all.push(("extensions", PATH, stream.clone().into(), vec![Step::text(extensions)]));
    let interim = format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{}",
        sse::STREAM_HEAD
    );
    all.push((
        "interim",
        PATH,
        stream.clone().into(),
        vec![Step::text(interim), Step::chunk(&stream), Step::end()],
    ));
    let whole = "{ \"choices\" : [ {\"index\":0, \"message\": {\"content\":\"hi\"}, \"finish_reason\":\"stop\"} ] }\n\n";
    all.push((
        "whole",
        PATH,
        whole.into(),
        chunked("content-type: application/json\r\n", &thirds(whole.as_bytes(), 9)),
    ));
    all.push((
        "empty",
        PATH,
        Vec::new(),
        vec![Step::text(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n",
        )],
    ));
    all
}

fn check_record(name: &str, record: &Record) {
    let not_parsed = record.not_parsed.as_deref();
    match name {
        "large" => assert_eq!(
            (not_parsed, record.outcome),
            (Some("event_too_large"), Outcome::Ok),
            "{record:?}"
        ),
        "gzip" => assert_eq!((not_parsed, record.events), (Some("compressed"), None), "{record:?}"),
        "html" | "untyped" => {
            assert_eq!((not_parsed, record.events), (Some("content_type"), None), "{record:?}")
        }
        "many" => assert_eq!(
            (not_parsed, record.events, record.content_events),
            (None, Some(5_003), Some(5_000)),
            "{record:?}"
        ),
        "odd" => assert_eq!(
            (not_parsed, record.comments, record.content_events, record.outcome),
            (None, Some(1), Some(1), Outcome::Ok),
            "{record:?}"
        ),
        "ndjson" => assert_eq!(
            (not_parsed, record.events, record.content_events),
            (None, Some(2), Some(1)),
            "{record:?}"
        ),
        "whole" => assert_eq!(
            (not_parsed, record.events, record.stream),
            (None, Some(1), false),
            "{record:?}"
        ),
        "empty" => assert_eq!((not_parsed, record.events), (None, Some(0)), "{record:?}"),
        _ => assert_eq!(
            (not_parsed, record.events, record.content_events, record.outcome),
            (None, Some(4), Some(1), Outcome::Ok),
            "{name}: {record:?}"
        ),
    }
}

async fn engine_of_cases() -> Engine {
    Engine::start(|seen| cases().into_iter().find(|c| id(seen).starts_with(c.0)).expect("a case").3)
        .await
}

/// An event over the limit of a mebibyte is not parsed. Everything after it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_event_does_not_end_measuring() {
    let event = |kind: &str, members: &str| {
        format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{members}}}\n\n")
    };
    let image = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo0NTY3ODkr".repeat(34_000);
    let stream = [
        event("response.created", "\"response\":{\"id\":\"r1\",\"model\":\"m\"}"),
        event(
            "response.image_generation_call.partial_image",
            &format!("\"output_index\":0,\"partial_image_b64\":\"{image}\""),
        ),
        event("response.output_text.delta", "\"output_index\":1,\"delta\":\"Here is the fox.\""),
        event("response.completed", "\"response\":{\"id\":\"r1\",\"status\":\"completed\",\"usage\":{\"input_tokens\":210,\"output_tokens\":1310,\"total_tokens\":1520}}"),
    ]
    .concat();
    let whole = format!(
        "{{\"choices\":[{{\"index\":0,\"message\":{{\"content\":\"{}\"}},\"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":11,\"completion_tokens\":290000,\"total_tokens\":290011}}}}",
        "A sentence. ".repeat(120_000)
    );
    let (sent, body) = (stream.clone(), whole.clone());
    let engine = Engine::start(move |seen| match seen.head.starts_with("POST /v1/responses") {
        true => vec![Step::text(sse::STREAM_HEAD), Step::chunk(&sent), Step::end()],
        false => sse::json(200, &body),
    })
    .await;
    let plain = Gateway::in_front_of(&engine.url()).await;
    // A limit and a guardrail read in their own ways.
    let limit = "rate_limits: [{name: t, unit: output_tokens, amount: 1000000000, window: 1m}]";
    let counted = Gateway::with_settings(&settings(&engine.url(), "", "", limit)).await;
    let guardrail = "guardrails: [{name: g, mode: observe}]";
    let observed =
        Gateway::with_settings(&settings(&engine.url(), "", ", guardrail: g", guardrail)).await;
    // A pool holds back what comes before the first token, and may continue a stream.
    let pool = |route: &str| {
        format!(
            "backends: [{{name: e, url: '{0}'}}, {{name: f, url: '{0}'}}]\n\
             pools: [{{name: p, backends: [e, f]}}]\nroutes: [{{name: r, pool: p{route}}}]\n",
            engine.url()
        )
    };
    let injected = Gateway::with_settings(&pool(", include_usage: inject")).await;
    let resumed = Gateway::with_settings(&pool(", resume: on")).await;
    for gateway in [&plain, &counted, &observed, &injected, &resumed] {
        let answer = ask(
            gateway,
            "/v1/responses",
            "s",
            "{\"model\":\"m\",\"stream\":true,\"input\":\"hi\"}",
        )
        .await;
        assert!(answer.complete && answer.text() == stream, "{}", answer.text().len());
        let record = gateway.record("s").await;
        let usage = record.usage.expect("usage");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (Some(210), Some(1310)));
        assert_eq!((record.content_events, record.outcome), (Some(1), Outcome::Ok));
        assert_eq!(record.finish_reasons, ["completed"]);
        assert_eq!(record.not_parsed.as_deref(), Some("event_too_large"));
        let answer = ask(gateway, "/v1/chat/completions", "w", CHAT).await;
        assert!(answer.complete && answer.text() == whole);
        let usage = gateway.record("w").await.usage.expect("usage");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (Some(11), Some(290_000)));
    }
}

/// The last event may be the large one. Its usage counts, and the stream is not taken for cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_in_an_oversized_event_is_complete() {
    let image = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo0NTY3ODkr".repeat(34_000);
    let numbers = "1234567,".repeat(200_000) + "1";
    let usage = "\"usage\":{\"input_tokens\":210,\"output_tokens\":1310,\"total_tokens\":1520}";
    let output =
        format!("\"output\":[{{\"type\":\"image_generation_call\",\"result\":\"{image}\"}}]");
    let responses = format!(
        "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"A fox.\"}}\n\nevent: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"id\":\"r\",{output},{usage}}}}}\n\n"
    );
    let ollama = format!(
        "{{\"response\":\"A fox.\",\"done\":false}}\n{{\"response\":\"\",\"done\":true,\"context\":[{numbers}],\"prompt_eval_count\":210,\"eval_count\":1310}}\n"
    );
    let whole_response = format!("{{\"id\":\"r\",\"object\":\"response\",{output},{usage}}}");
    let whole_message = format!(
        "{{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{{\"type\":\"text\",\"text\":\"{image}\"}}],\"stop_reason\":\"end_turn\",{usage}}}"
    );
    let cases = [
        ("/v1/responses", "text/event-stream", responses),
        ("/api/generate", "application/x-ndjson", ollama),
        ("/v1/responses", "application/json", whole_response),
        ("/v1/messages", "application/json", whole_message),
    ];
    for (path, content_type, body) in cases {
        let sent = body.clone();
        let engine = Engine::start(move |_| {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n");
            vec![
                Step::text(head + "transfer-encoding: chunked\r\n\r\n"),
                Step::chunk(&sent),
                Step::end(),
            ]
        })
        .await;
        let gateway = Gateway::in_front_of(&engine.url()).await;
        let answer = ask(&gateway, path, "large", CHAT_STREAM).await;
        assert!(answer.complete && answer.text() == body, "{path} {content_type}");
        let record = gateway.record("large").await;
        assert_eq!(record.outcome, Outcome::Ok, "{path} {content_type}: {:?}", record.error_code);
        let usage = record.usage.expect("usage");
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens, usage.estimated),
            (Some(210), Some(1310), false),
            "{path} {content_type}"
        );
        assert_eq!(gateway.metric("llm_lens_backend_failures_total", ""), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_gets_the_engines_bytes() {
    let engine = engine_of_cases().await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    // All on one connection: each answer shows that the previous one ended properly.
    let mut client = gateway.client().await;
    for (name, path, body, _) in cases() {
        client.post(path, &format!("x-request-id: {name}\r\n"), CHAT_STREAM).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.complete), (200, true), "{name}: {}", answer.head);
        assert!(
            answer.body == body,
            "{name}: {} bytes for {}:\n{}",
            answer.body.len(),
            body.len(),
            answer.text().get(..2000).unwrap_or(&answer.text())
        );
        let record = gateway.record(name).await;
        assert_eq!(record.bytes_to_client, body.len() as u64, "{name}");
        check_record(name, &record);
        match name {
            "length" => {
                assert_eq!(answer.field("content-length"), Some(body.len().to_string().as_str()))
            }
            "gzip" => assert_eq!(answer.field("content-encoding"), Some("gzip")),
            "untyped" => assert_eq!(answer.field("content-type"), None),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http10_client_gets_the_end_by_close() {
    let engine = engine_of_cases().await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for (name, path, body, _) in cases()
        .into_iter()
        .filter(|c| matches!(c.0, "utf8" | "length" | "http10" | "ndjson" | "many"))
    {
        let mut client = gateway.client().await;
        client
            .send(
                post(path, &format!("x-request-id: {name}\r\n"), CHAT_STREAM)
                    .replace(" HTTP/1.1\r\n", " HTTP/1.0\r\n"),
            )
            .await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.field("transfer-encoding"), answer.field("connection")),
            (200, None, Some("close")),
            "{name}"
        );
        assert!(answer.complete && answer.body == body, "{name}: {}", answer.text());
        assert!(client.is_closed_within(PATIENCE).await);
        check_record(name, &gateway.record(name).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_forwarded_at_once() {
    // The engine continues only after the client has everything sent so far.
    let (go, _) = tokio::sync::broadcast::channel::<()>(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut said = go.subscribe();
    let engine = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = accept(&listener).await;
        let mut request = [0; 4096];
        assert!(socket.read(&mut request).await.unwrap() > 0);
        socket.write_all(sse::STREAM_HEAD.as_bytes()).await.unwrap();
        for event in ["head", ": comment\n\n", "data: {\"a\":1}\n\n", "data: [DONE]\n\n"] {
            if event != "head" {
                let Step::Write(chunk) = Step::chunk(event) else { unreachable!() };
                socket.write_all(&chunk).await.unwrap();
            }
            said.recv().await.unwrap();
        }
        socket.write_all(b"0\r\n\r\n").await.unwrap();
    });
    let gateway = Gateway::in_front_of(&url).await;
    let mut client = gateway.client().await;
    client.post(PATH, "", CHAT_STREAM).await;
    for event in ["\r\n\r\n", ": comment\n\n", "data: {\"a\":1}\n\n", "data: [DONE]\n\n"] {
        read_until(&mut client, event).await;
        go.send(()).unwrap();
    }
    read_until(&mut client, "0\r\n\r\n").await;
    in_time(engine).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_a_row_are_answered_in_a_row() {
    let engine = Engine::start(|seen| {
        let wait = if id(seen) == "a" { 50 } else { 0 };
        vec![
            Step::ms(wait),
            Step::text(sse::STREAM_HEAD),
            Step::chunk(sse::content(id(seen))),
            Step::chunk(sse::finish() + &sse::done()),
            Step::end(),
        ]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    let of = |id: &str| post(PATH, &format!("x-request-id: {id}\r\n"), CHAT_STREAM);
    // Some at once, some one after the other.
    client.send(["a", "b", "c", "d", "e"].map(of).concat()).await;
    for id in ["a", "b", "c", "d", "e"] {
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.field("x-request-id"), answer.complete),
            (200, Some(id), true)
        );
        assert!(answer.text().contains(&format!("\"{id}\"")), "{}", answer.text());
    }
    for id in ["f", "g"] {
        client.send(of(id)).await;
        assert_eq!(client.answer().await.field("x-request-id"), Some(id));
    }
    // The next request may arrive while an answer is in flight.
    client.send(of("a")).await;
    read_until_sent(&engine, 8).await;
    client.send(of("h")).await;
    assert_eq!(client.answer().await.field("x-request-id"), Some("a"));
    assert_eq!(client.answer().await.field("x-request-id"), Some("h"));
    assert_eq!(gateway.metric("llm_lens_client_connections", ""), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_both_kinds_may_come_in_a_row() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    let chat = |id: &str| post(PATH, &format!("x-request-id: {id}\r\n"), CHAT_STREAM);
    let other = |id: &str| post("/tokenize", &format!("x-request-id: {id}\r\n"), "{}");
    let get =
        |id: &str| format!("GET /v1/models HTTP/1.1\r\nhost: g\r\nx-request-id: {id}\r\n\r\n");
    client.send([chat("a"), get("b"), get("c"), chat("d"), other("e"), chat("f")].concat()).await;
    for id in ["a", "b", "c", "d", "e", "f"] {
        let answer = client
            .maybe_answer()
            .await
            .unwrap_or_else(|| panic!("the connection ended before the answer to {id}"));
        assert_eq!((answer.status, answer.field("x-request-id")), (200, Some(id)));
    }
    assert_eq!(engine.seen().len(), 6);
}

async fn read_until_sent(engine: &Engine, requests: usize) {
    crate::support::eventually("the engine has them", || engine.seen().len() == requests).await;
}

/// An HTTP/2 connection by prior knowledge.
async fn h2c(gateway: &Gateway) -> h2::client::SendRequest<Bytes> {
    let mut client: Client = gateway.client().await;
    let socket = std::mem::replace(
        client.socket(),
        tokio::net::TcpStream::connect(gateway.address()).await.expect("the gateway accepts"),
    );
    let (send, connection) =
        h2::client::handshake(socket).await.expect("the gateway speaks HTTP/2");
    // Ends with the test's runtime, or with the connection.
    tokio::spawn(connection);
    send
}

/// Sends a request on a stream; returns status, fields and body, and whether the stream ended
/// properly.
async fn ask_h2(
    send: &h2::client::SendRequest<Bytes>,
    path: &str,
    id: &str,
    body: &str,
) -> (http::response::Parts, Vec<u8>, bool) {
    let request = http::Request::post(format!("http://gateway{path}"))
        .header("content-type", "application/json")
        .header("x-request-id", id)
        .body(())
        .expect("a request");
    let mut send = send.clone().ready().await.expect("the connection lives");
    let (answer, mut stream) = send.send_request(request, false).expect("a stream");
    stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).expect("room");
    let (parts, mut answer) = in_time(answer).await.expect("an answer").into_parts();
    let mut all = Vec::new();
    while let Some(piece) = in_time(poll_fn(|cx| answer.poll_data(cx))).await {
        let Ok(piece) = piece else { return (parts, all, false) };
        answer.flow_control().release_capacity(piece.len()).expect("it was taken");
        all.extend_from_slice(&piece);
    }
    (parts, all, true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_clients_get_the_same() {
    let engine = engine_of_cases().await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let send = h2c(&gateway).await;
    for (name, path, body, _) in cases() {
        let id = format!("{name}-h2");
        let (parts, got, complete) = ask_h2(&send, path, &id, CHAT_STREAM).await;
        assert_eq!((parts.status.as_u16(), complete), (200, true), "{name}");
        assert!(got == body, "{name}: {} bytes for {}", got.len(), body.len());
        assert_eq!(parts.headers["x-request-id"], id.as_str());
        for hop in ["transfer-encoding", "connection", "keep-alive"] {
            assert!(!parts.headers.contains_key(hop), "{name}: {parts:?}");
        }
        let record = gateway.record(&id).await;
        assert_eq!(record.bytes_to_client, body.len() as u64, "{name}");
        check_record(name, &record);
    }
    let seen = engine.seen().pop().unwrap();
    assert_eq!(
        (seen.body.as_slice(), crate::support::field(&seen.head, "content-length")),
        (CHAT_STREAM.as_bytes(), Some(CHAT_STREAM.len().to_string().as_str()))
    );
    // All of it was one connection.
    assert_eq!(gateway.metric("llm_lens_client_connections", ""), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_an_http2_connection() {
    let engine = Engine::start(|seen| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        (0..10).for_each(|n| {
            steps.extend([Step::ms(10), Step::chunk(sse::content(&format!("{}-{n}", id(seen))))])
        });
        steps.extend([Step::chunk(sse::finish() + &sse::done()), Step::end()]);
        steps
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let send = h2c(&gateway).await;
    let mut all = tokio::task::JoinSet::new();
    for n in 0..80 {
        let send = send.clone();
        all.spawn(async move {
            let id = format!("s{n}");
            let (parts, body, complete) = ask_h2(&send, PATH, &id, CHAT_STREAM).await;
            let want: String =
                (0..10).map(|n| sse::content(&format!("{id}-{n}"))).collect::<String>()
                    + &sse::finish()
                    + &sse::done();
            assert_eq!(
                (parts.status.as_u16(), complete, String::from_utf8_lossy(&body).into_owned()),
                (200, true, want)
            );
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
    gateway.wait_until(|g| g.records().len() == 80).await;
    assert!(
        gateway.records().iter().all(|r| r.outcome == Outcome::Ok && r.content_events == Some(10))
    );
    gateway.wait_until(|g| g.metric("llm_lens_in_flight_requests", "") == 0.0).await;
    assert_eq!(gateway.metric("llm_lens_client_connections", ""), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_streams_fail_one_by_one() {
    let engine = Engine::start(|seen| match id(seen) {
        "none" => vec![Step::Close],
        "left" => vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("x")), Step::Hang],
        _ => sse::chat_answer(),
    })
    .await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), "", "", "limits: {request_body: 64KiB}"))
            .await;
    let send = h2c(&gateway).await;
    let (parts, body, complete) = ask_h2(&send, PATH, "none", CHAT_STREAM).await;
    assert_eq!((parts.status.as_u16(), complete), (502, true));
    assert!(String::from_utf8_lossy(&body).contains("upstream_closed"));
    let (parts, _, _) = ask_h2(&send, PATH, "large", &"x".repeat(65 << 10)).await;
    assert_eq!(parts.status.as_u16(), 413);
    // A stream reset by the client closes its own upstream connection, and no other.
    let request = http::Request::post(format!("http://gateway{PATH}"))
        .header("x-request-id", "left")
        .body(())
        .unwrap();
    let mut ready = send.clone().ready().await.unwrap();
    let (answer, mut stream) = ready.send_request(request, false).unwrap();
    stream.send_data(Bytes::from_static(CHAT_STREAM.as_bytes()), true).unwrap();
    let mut answer = in_time(answer).await.unwrap().into_body();
    assert!(in_time(poll_fn(|cx| answer.poll_data(cx))).await.unwrap().is_ok());
    stream.send_reset(h2::Reason::CANCEL);
    let took =
        crate::support::eventually("the engine is left", || engine.closed_early() == 1).await;
    assert!(took.as_secs() < 1, "{took:?}");
    assert_eq!(gateway.record("left").await.outcome, Outcome::ClientGone);
    let (parts, _, complete) = ask_h2(&send, PATH, "fine", CHAT_STREAM).await;
    assert_eq!((parts.status.as_u16(), complete), (200, true));
    gateway.wait_until(|g| g.metric("llm_lens_in_flight_requests", "") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_reset_follows_the_data() {
    let engine = Engine::start(|_| {
        vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("x")), Step::Close]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let send = h2c(&gateway).await;
    // Again and again: the reset must not overtake what was written before it.
    for _ in 0..20 {
        let (_, body, complete) = ask_h2(&send, PATH, "dies", CHAT_STREAM).await;
        let text = String::from_utf8(body).unwrap();
        assert!(
            !complete && text.starts_with(&sse::content("x")) && text.contains("upstream_died"),
            "{complete} {text:?}"
        );
    }
}

/// A dialect's stream, and what the record must say.
struct Dialect {
    name: &'static str,
    path: &'static str,
    content_type: &'static str,
    /// The stream; a `|` is before the first event with generated text.
    stream: String,
    /// Marks that must be there: role, reasoning, content, tool call.
    marks: [bool; 4],
    events: u64,
    content_events: u64,
    comments: u64,
    /// Prompt and completion tokens in the usage.
    usage: [u64; 2],
    finish: &'static str,
}

fn dialects() -> Vec<Dialect> {
    let typed =
        |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n");
    let text = |text: &str, reason: &str| {
        format!(
            "data: {{\"id\":\"c\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    let line = |rest: &str| format!("{{\"model\":\"m\",\"created_at\":\"x\",{rest}}}\n");
    vec![
        Dialect {
            name: "openai-chat",
            path: PATH,
            content_type: "text/event-stream",
            stream: [
                ": ping\n\n", &sse::role(), &sse::usage(0, 0), "|", &sse::delta("\"reasoning_content\":\"hm\""), &sse::content(""), &sse::content("x"),
                &sse::delta("\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]"), &sse::finish(), &sse::usage(7, 3), &sse::done(),
            ]
            .concat(),
            marks: [true; 4],
            events: 9,
            content_events: 3,
            comments: 1,
            usage: [7, 3],
            finish: "stop",
        },
        Dialect {
            name: "openai-completions",
            path: "/v1/completions",
            content_type: "text/event-stream",
            stream: [": ping\n\n", &text("", "null"), "|", &text("a", "null"), &text("b", "null"), &text("", "\"length\""), &sse::usage(4, 2), &sse::done()].concat(),
            marks: [false, false, true, false],
            events: 6,
            content_events: 2,
            comments: 1,
            usage: [4, 2],
            finish: "length",
        },
        Dialect {
            name: "openai-responses",
            path: "/v1/responses",
            content_type: "text/event-stream",
            stream: [
                &typed("response.created", ",\"response\":{\"id\":\"r\",\"object\":\"response\",\"model\":\"m\",\"status\":\"in_progress\"}"),
                &typed("response.in_progress", ",\"response\":{\"id\":\"r\",\"model\":\"m\"}"),
                &typed("response.output_item.added", ",\"output_index\":0,\"item\":{\"type\":\"message\",\"role\":\"assistant\",\"content\":[]}"),
                "|",
                &typed("response.reasoning_summary_text.delta", ",\"output_index\":0,\"delta\":\"hm\""),
                &typed("response.output_text.delta", ",\"output_index\":0,\"delta\":\"hi\""),
                &typed("response.output_text.done", ",\"output_index\":0,\"text\":\"hi\""),
                &typed("response.function_call_arguments.delta", ",\"output_index\":1,\"delta\":\"{}\""),
                &typed("response.completed", ",\"response\":{\"id\":\"r\",\"status\":\"completed\",\"model\":\"m\",\"usage\":{\"input_tokens\":9,\"output_tokens\":4}}"),
            ]
            .concat(),
            marks: [true; 4],
            events: 8,
            content_events: 3,
            comments: 0,
            usage: [9, 4],
            finish: "completed",
        },
        Dialect {
            name: "anthropic",
            path: "/v1/messages",
            content_type: "text/event-stream",
            stream: [
                &typed("message_start", ",\"message\":{\"id\":\"x\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"usage\":{\"input_tokens\":11,\"output_tokens\":1}}"),
                &typed("ping", ""),
                &typed("content_block_start", ",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\"}"),
                "|",
                &typed("content_block_delta", ",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}"),
                &typed("content_block_stop", ",\"index\":0"),
                &typed("content_block_start", ",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}"),
                &typed("content_block_delta", ",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}"),
                &typed("content_block_start", ",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}"),
                &typed("content_block_delta", ",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}"),
                &typed("message_delta", ",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"output_tokens\":6}"),
                &typed("message_stop", ""),
            ]
            .concat(),
            marks: [true; 4],
            events: 11,
            content_events: 4,
            comments: 0,
            usage: [11, 6],
            finish: "tool_use",
        },
        Dialect {
            name: "ollama",
            path: "/api/chat",
            content_type: "application/x-ndjson",
            stream: [
                &line("\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false"),
                "|",
                &line("\"message\":{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"hm\"},\"done\":false"),
                &line("\"message\":{\"role\":\"assistant\",\"content\":\"hi\"},\"done\":false"),
                &line("\"message\":{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}}]},\"done\":false"),
                &line("\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":8,\"eval_count\":3"),
            ]
            .concat(),
            marks: [true; 4],
            events: 5,
            content_events: 3,
            comments: 0,
            usage: [8, 3],
            finish: "stop",
        },
        Dialect {
            name: "generate",
            path: "/generate_stream",
            content_type: "text/event-stream",
            stream: [
                ":\n\n",
                "data:{\"index\":1,\"token\":{\"id\":1,\"text\":\"<s>\",\"special\":true},\"generated_text\":null,\"details\":null}\n\n",
                "|",
                "data:{\"index\":2,\"token\":{\"id\":2,\"text\":\"hi\",\"special\":false},\"generated_text\":null,\"details\":null}\n\n",
                "data:{\"index\":3,\"token\":{\"id\":3,\"text\":\" you\",\"special\":false},\"generated_text\":\"hi you\",\"details\":{\"finish_reason\":\"eos_token\",\"generated_tokens\":3,\"input_length\":5}}\n\n",
            ]
            .concat(),
            marks: [false, false, true, false],
            events: 3,
            content_events: 2,
            comments: 1,
            usage: [5, 3],
            finish: "eos_token",
        },
        Dialect {
            name: "llamacpp-completion",
            path: "/completion",
            content_type: "text/event-stream",
            stream: [
                "data: {\"index\":0,\"content\":\"\",\"stop\":false,\"tokens_predicted\":0,\"tokens_evaluated\":6}\n\n",
                "|",
                "data: {\"index\":0,\"content\":\"hi\",\"stop\":false,\"tokens_predicted\":1,\"tokens_evaluated\":6}\n\n",
                "data: {\"index\":0,\"content\":\" you\",\"stop\":false,\"tokens_predicted\":2,\"tokens_evaluated\":6}\n\n",
                "data: {\"index\":0,\"content\":\"\",\"stop\":true,\"stop_type\":\"limit\",\"tokens_predicted\":2,\"tokens_evaluated\":6}\n\n",
            ]
            .concat(),
            marks: [false, false, true, false],
            events: 4,
            content_events: 2,
            comments: 0,
            usage: [6, 2],
            finish: "limit",
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_generated_text_is_a_first_token() {
    // Silence of the engine before the first token.
    const SILENCE_MS: u64 = 120;
    /// Tolerance for reading the bytes before the silence late, on a busy machine.
    const SLACK_MS: u64 = 60;
    let engine = Engine::start(|seen| {
        let dialect = dialects().into_iter().find(|d| d.name == id(seen)).expect("a dialect");
        let (before, after) = dialect.stream.split_once('|').expect("the first token's place");
        vec![
            Step::text(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ntransfer-encoding: chunked\r\n\r\n",
                dialect.content_type
            )),
            Step::chunk(before),
            Step::ms(SILENCE_MS),
            Step::chunk(after),
            Step::end(),
        ]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for d in dialects() {
        let answer = ask(&gateway, d.path, d.name, CHAT_STREAM).await;
        assert!(
            answer.complete && answer.text() == d.stream.replacen('|', "", 1),
            "{}: {}",
            d.name,
            answer.text()
        );
        let record = gateway.record(d.name).await;
        let what = format!("{}: {record:#?}", d.name);
        assert_eq!(
            (record.dialect.as_deref(), record.outcome, record.stream),
            (Some(d.name), Outcome::Ok, true),
            "{what}"
        );
        assert_eq!(
            (record.events, record.content_events, record.comments),
            (Some(d.events), Some(d.content_events), Some(d.comments)),
            "{what}"
        );
        let usage = record.usage.as_ref().expect("stated usage");
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens, usage.estimated),
            (Some(d.usage[0]), Some(d.usage[1]), false),
            "{what}"
        );
        assert_eq!(record.finish_reasons, [d.finish], "{what}");
        let m = &record.marks_us;
        assert_eq!(
            [m.role, m.reasoning, m.content, m.tool_call].map(|mark| mark.is_some()),
            d.marks,
            "{what}"
        );
        let arrival = |mark: Option<lens::record::MarkUs>| {
            mark.and_then(|m| m.arrival).unwrap_or_else(|| panic!("{what}"))
        };
        assert!(
            arrival(m.first_token) >= arrival(m.first_event) + (SILENCE_MS - SLACK_MS) * 1000,
            "{what}"
        );
        assert!(
            m.role.is_none_or(|role| role.arrival < m.first_token.and_then(|t| t.arrival)),
            "{what}"
        );
        assert_eq!(
            Some(arrival(m.first_token)),
            [m.reasoning, m.content, m.tool_call]
                .into_iter()
                .flatten()
                .filter_map(|m| m.arrival)
                .min(),
            "{what}"
        );
        assert!(
            arrival(m.last_token) >= arrival(m.first_token)
                && m.first_token.and_then(|t| t.written) >= m.first_token.and_then(|t| t.arrival),
            "{what}"
        );
    }
}

/// A head and a body from one read are sent in one write: two writes would wake every client twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_read_is_one_write() {
    let engine = Engine::start(|seen| {
        if id(seen).starts_with("whole") {
            sse::chat_answer()
        } else {
            vec![with_length(&short_chat())]
        }
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for (name, body, last) in [("whole", CHAT, "}"), ("streamed", CHAT_STREAM, "[DONE]")] {
        for time in 0..20 {
            let mut client = gateway.client().await;
            client
                .post("/v1/chat/completions", &format!("x-request-id: {name}-{time}\r\n"), body)
                .await;
            let mut first = [0; 16 << 10];
            let n = tokio::io::AsyncReadExt::read(client.socket(), &mut first).await.unwrap();
            let text = String::from_utf8_lossy(&first[..n]);
            assert!(
                text.starts_with("HTTP/1.1 200") && text.trim_end().ends_with(last),
                "{name}-{time}: the first read was {text:?}"
            );
        }
    }
}

/// Repeated requests, comments and roles are no generated tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_text_has_no_generated_tokens() {
    let tools = "x".repeat(8000);
    let created = format!(
        "data: {{\"type\":\"response.created\",\"response\":{{\"tools\":\"{tools}\"}}}}\n\n"
    );
    let completed = "data: {\"type\":\"response.completed\",\"response\":{}}\n\n";
    let pings = ": ping\n\n".repeat(100);
    for (path, events) in [
        ("/v1/chat/completions", vec![pings, sse::role(), sse::finish(), sse::done()]),
        ("/v1/responses", vec![created, completed.to_owned()]),
    ] {
        let engine = Engine::start(move |_| {
            let mut steps = vec![Step::text(sse::STREAM_HEAD)];
            steps.extend(events.iter().map(Step::chunk));
            steps.push(Step::end());
            steps
        })
        .await;
        let gateway = Gateway::in_front_of(&engine.url()).await;
        let mut client = gateway.client().await;
        client
            .post(
                path,
                "x-request-id: x\r\n",
                r#"{"model":"m","stream":true,"input":"a","messages":[]}"#,
            )
            .await;
        assert!(client.answer().await.complete, "{path}");
        let usage = gateway.record("x").await.usage;
        let tokens = usage.and_then(|usage| usage.completion_tokens);
        assert_eq!(tokens.unwrap_or(0), 0, "{path}");
    }
}
