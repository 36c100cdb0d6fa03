//! Stored prompts and answers: what is stored of each API, reads and their lines in the audit log,
//! kills, keys.

use std::path::{Path, PathBuf};

use kit::client::PATIENCE;
use kit::{Engine, Gateway, Step, gateway, sse};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::audit_log::verify;
use crate::support::{ask, id, read_until};

const CHAT: &str = "/v1/chat/completions";
const MAIL: &str = "jane.roe@example.org";
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const NEXT_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
const FLAGS: &str = "input_pii: flag, input_secrets: flag, output_pii: flag, output_secrets: flag";

/// Settings of a gateway whose route stores contents. `route`: more members of it.
fn settings(engine: &Engine, folder: &Path, guardrail: &str, route: &str) -> String {
    format!(
        "backends: [{{name: e, url: '{}'}}]\nguardrails: [{{name: g, {guardrail}}}]\n\
         routes: [{{name: r, backend: e, guardrail: g, store_contents: redacted{route}}}]\n\
         audit: {{file: {:?}}}\ncontents: {{path: {:?}, key: '{KEY}', max_text: 1KiB}}\n",
        engine.url(),
        folder.join("audit.jsonl"),
        folder.join("contents"),
    )
}

fn operator(name: &str) -> String {
    format!("x-llm-lens-operator: {name}\r\n")
}

/// The id of a request by which contents are found.
async fn unique_id(gateway: &Gateway, id: &str) -> String {
    gateway.record(id).await.unique_id.expect("the client chose the id")
}

/// The page of the contents of a request.
fn page(gateway: &Gateway, unique_id: &str) -> (u16, String) {
    gateway.get_with(&format!("/api/requests/{unique_id}/contents"), &operator("ann"))
}

/// The stored contents of a request.
async fn stored(gateway: &Gateway, id: &str) -> Value {
    let unique_id = unique_id(gateway, id).await;
    gateway.wait_until(|gateway| page(gateway, &unique_id).0 != 404).await;
    let (status, body) = page(gateway, &unique_id);
    assert_eq!(status, 200, "{body}");
    let content: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&content["unique_id"], &content["request_id"]), (&json!(unique_id), &json!(id)));
    content
}

/// Texts of a part.
fn texts(part: &Value) -> Vec<&str> {
    let texts = part["texts"].as_array().expect("texts");
    texts.iter().map(|text| text["text"].as_str().expect("a text")).collect()
}

fn streamed(events: &[String]) -> Vec<Step> {
    let mut steps = vec![Step::text(sse::STREAM_HEAD)];
    steps.extend(events.iter().map(Step::chunk));
    steps.push(Step::end());
    steps
}

/// Answers by the id of the request.
fn engine(id: &str) -> Vec<Step> {
    let named = |event: Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type"))
    };
    match id {
        "stream" => streamed(&[
            sse::role(),
            sse::content("write to jane.roe@"),
            sse::content("example.org, ok"),
            sse::finish() + &sse::done(),
        ]),
        "anthropic" => streamed(&[
            named(json!({"type": "message_start", "message": {"id": "a1", "model": "m", "role": "assistant", "content": []}})),
            named(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})),
            named(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "it is jane."}})),
            named(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "roe@example.org"}})),
            named(json!({"type": "content_block_stop", "index": 0})),
            named(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}})),
            named(json!({"type": "message_stop"})),
        ]),
        // The client leaves before the rest.
        "h1" | "h2" | "h2-reset" => {
            let said = ["write to jane.roe@", "example.org, then wait. ", "so far. "];
            let mut steps = streamed(&said.map(sse::content));
            steps.pop();
            steps.push(Step::AwaitClose(PATIENCE));
            steps
        }
        "compressed" => vec![Step::text(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd",
        )],
        "passed" => sse::json(200, "{\"text\": \"jane.roe@example.org\"}"),
        "failed" => sse::json(500, "{\"error\": {\"message\": \"no\"}}"),
        _ => sse::json(
            200,
            &json!({"choices": [{"index": 0, "message": {"content": format!("mail {MAIL}.")}, "finish_reason": "stop"}]})
                .to_string(),
        ),
    }
}

fn request(text: &str, stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": text}]})
        .to_string()
}

/// Files below a folder, as bytes.
fn bytes(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    files.map(|file| (file.path(), std::fs::read(file.path()).expect("readable"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_and_answers_of_each_api_are_stored_redacted() {
    let engine = Engine::start(|seen| engine(id(seen))).await;
    let folder = gateway::folder();
    let more = ", compression: forward, passthrough: ['/v1/audio/*']";
    let gateway = Gateway::with_settings(&settings(&engine, &folder, FLAGS, more)).await;
    let prompt = format!("who is {MAIL}? ssn 078-05-1120");
    for (name, path, streams) in
        [("stream", CHAT, true), ("whole", CHAT, false), ("anthropic", "/v1/messages", true)]
    {
        let answer = ask(&gateway, path, name, &request(&prompt, streams)).await;
        assert!(answer.status == 200 && answer.complete, "{name}: {}", answer.text());
        let content = stored(&gateway, name).await;
        let want = ["be kind", "who is [EMAIL_ADDRESS]? ssn [US_SSN]"];
        assert_eq!(texts(&content["prompt"]), want, "{name}: {content}");
        assert_eq!(content["prompt"]["texts"][1]["role"], "user");
        let want = match name {
            "stream" => "write to [EMAIL_ADDRESS], ok",
            "whole" => "mail [EMAIL_ADDRESS].",
            _ => "it is [EMAIL_ADDRESS]",
        };
        assert_eq!(texts(&content["answer"]), [want], "{name}: {content}");
        assert_eq!(content["answer"]["texts"][0]["channel"], "content");
        for part in ["prompt", "answer"] {
            assert_eq!(
                (&content[part]["cut"], content[part].get("incomplete")),
                (&json!(false), None)
            );
        }
    }
    // Answers that are not parsed, that failed, and requests that are passed through.
    for (name, path, why) in [
        ("compressed", CHAT, "not_parsed"),
        ("failed", CHAT, "upstream_error"),
        ("passed", "/v1/audio/speech", "not_parsed"),
    ] {
        ask(&gateway, path, name, &request(&prompt, false)).await;
        let content = stored(&gateway, name).await;
        assert!(texts(&content["answer"]).is_empty(), "{name}: {content}");
        assert_eq!(content["answer"]["incomplete"], why, "{name}: {content}");
        assert_eq!(content["prompt"]["incomplete"] == "not_parsed", name == "passed", "{content}");
    }
    // The newest texts of a long prompt.
    let long = format!("{} and {MAIL}", "word ".repeat(300));
    ask(&gateway, CHAT, "long", &request(&long, false)).await;
    let content = stored(&gateway, "long").await;
    assert_eq!(content["prompt"]["cut"], true);
    let [text] = &texts(&content["prompt"])[..] else { panic!("one text: {content}") };
    assert!(text.len() < 1024 && text.ends_with("word  and [EMAIL_ADDRESS]"), "{text}");

    assert_eq!(gateway.metric("llm_lens_contents_stored_total", ""), 7.0);
    assert_eq!(gateway.metric("llm_lens_contents_dropped_total", ""), 0.0);
    for (path, file) in bytes(&folder.join("contents")) {
        let is_in = |word: &str| file.windows(word.len()).any(|part| part == word.as_bytes());
        assert!(!is_in("jane") && !is_in("EMAIL") && !is_in("be kind"), "{path:?}");
    }
    let said = gateway.stderr() + &gateway.get("/api/settings").1 + &gateway.get("/api/requests").1;
    for secret in [KEY, MAIL, "078-05-1120", "be kind"] {
        assert!(!said.contains(secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_prompts_are_stored_and_reads_are_in_the_audit_log() {
    let engine = Engine::start(|seen| engine(id(seen))).await;
    let folder = gateway::folder();
    let guardrail = "input_pii: block, input_secrets: flag, output_pii: mask, output_secrets: mask";
    let gateway = Gateway::with_settings(&settings(&engine, &folder, guardrail, "")).await;
    let answer = ask(&gateway, CHAT, "blocked", &request(&format!("card {MAIL}"), false)).await;
    assert_eq!(answer.error_code(), "content_blocked");
    let content = stored(&gateway, "blocked").await;
    assert_eq!(texts(&content["prompt"]), ["be kind", "card [EMAIL_ADDRESS]"]);
    assert_eq!(content["answer"]["incomplete"], "blocked");

    let found = unique_id(&gateway, "blocked").await;
    let path = |id: &str| format!("/api/requests/{id}/contents");
    let (status, body) = gateway.get(&path(&found));
    assert!(status == 400 && body.contains("x-llm-lens-operator"), "{status}: {body}");
    let (status, body) = gateway.get_with(&path(&found), &operator(&"x".repeat(129)));
    assert!(status == 400 && body.contains("at most 128"), "{status}: {body}");
    let (status, body) = gateway.get_with(&(path(&found) + "?x=1"), &operator("ann"));
    assert!(status == 400 && body.contains("no parameters"), "{status}: {body}");
    let unknown = format!("{}ffff-ffffffffffff", &found[..19]);
    for (id, status) in
        [(&*unknown, 404), ("018f0000-0000-7000-8000-000000000000", 410), ("blocked", 400)]
    {
        assert_eq!(page(&gateway, id).0, status, "{id}");
    }
    let log = std::fs::read_to_string(folder.join("audit.jsonl")).expect("a log");
    let reads: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|line| line["event"] == "contents_read")
        .collect();
    let results = |id: &str| -> Vec<&str> {
        let of_id = reads.iter().filter(|line| line["unique_id"] == id);
        of_id.map(|line| line["result"].as_str().expect("a word")).collect()
    };
    assert_eq!(results(&found).last(), Some(&"found"));
    assert_eq!(results(&unknown), ["not_stored"]);
    assert_eq!(results("018f0000-0000-7000-8000-000000000000"), ["expired"]);
    assert!(reads.iter().all(|line| line["operator"] == "ann" && line["address"] == "127.0.0.1"));
    assert!(!log.contains("card"), "{log}");
    let (code, text) = verify(&[&folder.join("audit.jsonl")], &[]);
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_survive_a_kill_and_need_their_key() {
    let engine = Engine::start(|seen| engine(id(seen))).await;
    let folder = gateway::folder();
    let settings = settings(&engine, &folder, FLAGS, "");
    let mut ids = Vec::new();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut gateway = Gateway::with_settings(&settings).await;
        let name = format!("{signal}");
        ask(&gateway, CHAT, &name, &request("hello", false)).await;
        stored(&gateway, &name).await;
        ids.push(unique_id(&gateway, &name).await);
        gateway.signal(signal);
        assert!(gateway.ended(PATIENCE).await.is_some());
    }
    let rotated = settings.replace(KEY, NEXT_KEY);
    let gateway = Gateway::with_settings(&rotated).await;
    for id in &ids {
        let (status, body) = page(&gateway, id);
        assert!(status == 503 && body.contains("contents.previous_keys"), "{status}: {body}");
        assert!(!body.contains(KEY) && !body.contains("hello"), "{body}");
    }
    drop(gateway);
    let previous = format!("key: '{NEXT_KEY}', previous_keys: '{},{KEY}'", "7".repeat(64));
    let gateway =
        Gateway::with_settings(&rotated.replace(&format!("key: '{NEXT_KEY}'"), &previous)).await;
    for id in &ids {
        let (status, body) = page(&gateway, id);
        assert!(status == 200 && body.contains("hello"), "{status}: {body}");
    }
}

/// A client that leaves, by closing its connection or by resetting its stream, has got a part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_until_the_client_left_is_stored() {
    let engine = Engine::start(|seen| engine(id(seen))).await;
    let folder = gateway::folder();
    let gateway = Gateway::with_settings(&settings(&engine, &folder, FLAGS, "")).await;
    let body = request("hello", true);
    let mut client = gateway.client().await;
    client.post(CHAT, "x-request-id: h1\r\n", &body).await;
    read_until(&mut client, "so far").await;
    drop(client);
    for name in ["h2", "h2-reset"] {
        let socket = tokio::net::TcpStream::connect(gateway.address()).await.expect("it listens");
        let (mut send, connection) = ::h2::client::handshake(socket).await.expect("h2c");
        let connection = tokio::spawn(connection);
        let head = http::Request::post(format!("http://gateway{CHAT}"))
            .header("x-request-id", name)
            .header("content-type", "application/json");
        let (answer, mut stream) =
            send.send_request(head.body(()).expect("a request"), false).expect("a stream");
        stream.send_data(body.clone().into(), true).expect("open");
        let mut answer = answer.await.expect("a head").into_body();
        let mut text = String::new();
        while !text.contains("so far") {
            let part = answer.data().await.expect("more").expect("open");
            answer.flow_control().release_capacity(part.len()).expect("read");
            text.push_str(&String::from_utf8_lossy(&part));
        }
        if name == "h2-reset" {
            stream.send_reset(::h2::Reason::CANCEL);
            gateway.record(name).await;
        }
        connection.abort();
    }
    for name in ["h1", "h2", "h2-reset"] {
        let content = stored(&gateway, name).await;
        assert_eq!(content["answer"]["incomplete"], "client_gone", "{name}: {content}");
        let [text] = &texts(&content["answer"])[..] else { panic!("{name}: {content}") };
        let want = "write to [EMAIL_ADDRESS], then wait. so";
        assert!(text.starts_with(want), "{name}: {content}");
    }
}

/// A read that the audit log cannot have shows nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_are_not_shown_without_a_line_in_the_audit_log() {
    let engine = Engine::start(|seen| engine(id(seen))).await;
    let folder = gateway::folder();
    let settings = settings(&engine, &folder, FLAGS, "");
    let log = format!("{:?}", folder.join("audit.jsonl"));
    let gateway = Gateway::with_settings(&settings.replace(&log, "/dev/full")).await;
    ask(&gateway, CHAT, "one", &request("hello", false)).await;
    gateway.wait_until(|gateway| gateway.metric("llm_lens_contents_stored_total", "") == 1.0).await;
    let (status, body) = page(&gateway, &unique_id(&gateway, "one").await);
    assert!(status == 503 && body.contains("audit log"), "{status}: {body}");
    assert!(!body.contains("hello"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_that_do_not_opt_in_store_nothing() {
    let engine = Engine::start(|seen| engine(id(seen))).await;
    let folder = gateway::folder();
    let settings = settings(&engine, &folder, FLAGS, "");
    let off = settings.replace("store_contents: redacted", "store_contents: \"off\"");
    let gateway = Gateway::with_settings(&off).await;
    ask(&gateway, CHAT, "one", &request("hello", false)).await;
    let (status, body) = page(&gateway, &unique_id(&gateway, "one").await);
    assert!(status == 404 && body.contains("store_contents"), "{status}: {body}");
    drop(gateway);
    assert!(bytes(&folder.join("contents")).is_empty());
    let without = off.lines().filter(|line| !line.starts_with("contents"));
    let gateway = Gateway::with_settings(&without.collect::<Vec<_>>().join("\n")).await;
    let (status, body) = page(&gateway, "018f0000-0000-7000-8000-000000000000");
    assert!(status == 404 && body.contains("contents.path"), "{status}: {body}");
}
