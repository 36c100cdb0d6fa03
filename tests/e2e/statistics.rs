//! Statistics of the last minutes, and the live stream.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use kit::client::PATIENCE;
use kit::{Client, Engine, Gateway, sse};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::raw::Process;
use crate::support::{ask, in_time, read_until};

const PATH: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

fn settings(engine: &Engine) -> String {
    format!(
        "backends: [{{name: b, url: \"{}\", models: [m]}}]\nroutes: [{{name: chat, match: {{path: /v1/*}}, backend: b}}]\n",
        engine.url()
    )
}

fn page(gateway: &Gateway, path: &str) -> Value {
    let (status, body) = gateway.get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Waits until the statistics have counted this number of requests.
async fn counted(gateway: &Gateway, requests: u64) {
    let all = |g: &Gateway| page(g, "/api/stats?window=start&by=route")["windows"][0].clone();
    let count = |g: &Gateway| -> u64 {
        let groups = all(g)["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().filter_map(|group| group["requests"].as_u64()).sum()
    };
    gateway.wait_until(|g| count(g) == requests).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_have_counts_errors_and_percentiles_by_label() {
    let engine = Engine::start(|_| sse::stream(5, 2)).await;
    let gateway = Gateway::with_settings(&settings(&engine)).await;
    for id in ["a", "b", "c"] {
        ask(&gateway, PATH, id, BODY).await;
    }
    ask(&gateway, PATH, "other-model", &BODY.replace("\"m\"", "\"unknown\"")).await;
    ask(&gateway, "/nowhere/chat/completions", "lost", BODY).await;
    counted(&gateway, 5).await;
    let stats = page(&gateway, "/api/stats?by=route,model");
    let windows = stats["windows"].as_array().expect("windows");
    assert_eq!(windows.len(), 4);
    for window in windows {
        let groups = window["groups"].as_array().expect("groups");
        let of = |route: &str, model: &str| {
            let mut groups = groups.iter();
            groups.find(|g| g["route"] == route && g["model"] == model).expect("a group").clone()
        };
        let good = of("chat", "m");
        assert_eq!((&good["requests"], &good["outcomes"]["ok"]), (&3.into(), &3.into()), "{good}");
        let ttft = &good["timings"]["client_ttft"];
        assert_eq!(ttft["count"], 3, "{good}");
        assert!(ttft["p50_us"].as_u64() <= ttft["p99_us"].as_u64(), "{ttft}");
        assert!(ttft["deviation_us"].as_f64().is_some(), "{ttft}");
        assert!(good["requests_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{good}");
        assert_eq!(of("chat", "other")["requests"], 1);
        assert_eq!(of("none", "m")["errors"]["no_route"], 1);
    }
    let only = page(&gateway, "/api/stats?window=1m&route=chat&model=m&by=backend");
    assert_eq!(only["windows"][0]["groups"][0]["backend"], "b");
    assert_eq!(only["windows"][0]["groups"][0]["requests"], 3);
    for (wrong, named) in [
        ("window=2m", "window must be one of 1m, 5m, 15m, start"),
        ("by=route,host", "by must be a list of route, backend, operation, model, owner"),
        ("model=unknown", "no backend declares the model"),
        ("rout=x", "unknown parameter"),
    ] {
        let (status, body) = gateway.get(&format!("/api/stats?{wrong}"));
        assert!(status == 400 && body.contains(named), "{wrong}: {status} {body}");
    }
    // The figures are those of the metrics.
    let metric = gateway.metric("llm_lens_client_ttft_seconds_count", "route=\"chat\"");
    assert_eq!(metric, 4.0);
}

async fn run_stats(arguments: Vec<String>) -> Output {
    let run = move || {
        std::process::Command::new(kit::gateway::binary())
            .arg("stats")
            .args(arguments)
            .output()
            .expect("the binary runs")
    };
    in_time(tokio::task::spawn_blocking(run)).await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_merges_gateways_and_fails_plainly() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let (one, other) = (
        Gateway::with_settings(&settings(&engine)).await,
        Gateway::with_settings(&settings(&engine)).await,
    );
    for (gateway, requests) in [(&one, 2), (&other, 3)] {
        for number in 0..requests {
            ask(gateway, PATH, &format!("r{number}"), BODY).await;
        }
        counted(gateway, requests).await;
    }
    let urls = [one.admin(), other.admin()].map(|address| format!("http://{address}"));
    let all = [urls.to_vec(), ["--merge", "--json", "--window", "1m"].map(str::to_owned).to_vec()];
    let merged = run_stats(all.concat()).await;
    assert!(merged.status.success(), "{merged:?}");
    let json: Value = serde_json::from_slice(&merged.stdout).expect("JSON");
    assert_eq!(json[0]["gateway"], "2 of 2 gateways");
    assert_eq!(json[0]["groups"][0]["requests"], 5, "{json:#}");
    let tables = run_stats(urls.to_vec()).await;
    let text = String::from_utf8_lossy(&tables.stdout).into_owned();
    assert_eq!(text.matches("window 5m").count(), 2, "{text}");
    // A gateway that is not there is an error, and the others are printed.
    let nowhere = "http://127.0.0.1:1".to_owned();
    let partial = run_stats(vec![urls[0].clone(), nowhere, "--merge".into()]).await;
    let (out, err) =
        (String::from_utf8_lossy(&partial.stdout), String::from_utf8_lossy(&partial.stderr));
    assert_eq!(partial.status.code(), Some(1));
    assert!(out.starts_with("1 of 2 gateways") && err.contains("http://127.0.0.1:1"), "{out}{err}");
}

/// The aggregator has the figures of all gateways, and no credential: its caller's is sent to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregator_merges_gateways_with_the_token_of_its_caller() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let auth = "admin: {address: '127.0.0.1:0', auth: {tokens: [{name: g, token: the-token-of-grafana}]}}\n";
    let text = format!("{auth}{}", settings(&engine));
    let (one, other) = (Gateway::with_settings(&text).await, Gateway::with_settings(&text).await);
    for (gateway, requests) in [(&one, 2), (&other, 3)] {
        for number in 0..requests {
            ask(gateway, PATH, &format!("r{number}"), BODY).await;
        }
    }
    let mut command = Command::new(kit::gateway::binary());
    command.args(["aggregate", "--listen", "127.0.0.1:0", "--host", "agg.internal"]);
    command.args(["--resolve", &format!("localhost:{}", one.admin().port())]);
    command.arg(format!("http://{}", other.admin())).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut aggregator = Process(command.spawn().expect("the binary runs"));
    let mut line = String::new();
    let out = aggregator.0.stdout.take().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("aggregator on http://").expect("an address");
    let address: SocketAddr = address.parse().expect("an address");
    let get = async |path: &str, fields: &str| {
        let mut client = Client::connect(address).await;
        client.send(format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{fields}\r\n")).await;
        let answer = client.answer().await;
        (answer.status, answer.text())
    };
    let host = "host: 127.0.0.1\r\n";
    let authorized = format!("{host}authorization: Bearer the-token-of-grafana\r\n");
    let (status, denied) = get("/api/stats", host).await;
    assert!(status == 502 && denied.contains("token"), "{denied}");
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, merged) = get("/api/stats?window=1m", &authorized).await;
        assert!(merged.contains("\"gateways\":{\"of\":2,\"problems\":[],\"read\":2}"), "{merged}");
        // Requests are counted some milliseconds after their end.
        if merged.contains("\"requests\":5,") {
            break;
        }
        assert!(Instant::now() < until, "{merged}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (path, fields, want) in [
        ("/api/stats?rout=x", &*authorized, 400),
        ("/api/stats", "host: evil.example\r\n", 421),
        ("/livez", "host: agg.internal:9091\r\n", 200),
        ("/readyz", host, 200),
    ] {
        let (status, answer) = get(path, fields).await;
        assert_eq!(status, want, "{path}: {answer}");
    }
}

/// Connects to the live stream.
async fn watch(gateway: &Gateway, query: &str, fields: &str) -> Client {
    let mut watcher = Client::connect(gateway.admin()).await;
    watcher.send(format!("GET /api/live{query} HTTP/1.1\r\nhost: 127.0.0.1\r\n{fields}\r\n")).await;
    watcher
}

fn ids(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_prefix("id: ").map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_get_records_and_seconds_and_resume() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let mut gateway = Gateway::with_settings(&settings(&engine)).await;
    let mut watcher = watch(&gateway, "?route=chat&outcome=ok", "").await;
    let mut records = watch(&gateway, "?events=record", "").await;
    let head = read_until(&mut watcher, "retry: ").await;
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    read_until(&mut records, "retry: ").await;
    ask(&gateway, "/nowhere/chat/completions", "lost", BODY).await;
    ask(&gateway, PATH, "first", BODY).await;
    // The record, and the second in which it ended.
    let text = read_until(&mut watcher, "\"outcomes\":{\"ok\":1}").await;
    assert!(text.contains("event: record") && text.contains("\"id\":\"first\""), "{text}");
    assert!(!text.contains("\"id\":\"lost\""), "{text}");
    assert!(text.contains("event: second"), "{text}");
    let text = read_until(&mut records, "\"id\":\"first\"").await;
    assert!(text.contains("\"id\":\"lost\"") && !text.contains("event: second"), "{text}");
    drop(records);
    // A client that was away gets what it has missed, and nothing else.
    let last = ids(&text).pop().expect("an id");
    ask(&gateway, PATH, "missed", BODY).await;
    gateway.record("missed").await;
    let fields = format!("last-event-id: {last}\r\n");
    let mut resumed = watch(&gateway, "?events=record", &fields).await;
    let text = read_until(&mut resumed, "\"id\":\"missed\"").await;
    assert!(!text.contains("\"id\":\"first\"") && !text.contains("event: gap"), "{text}");
    let mut restarted = watch(&gateway, "?events=record", "last-event-id: 7-7\r\n").await;
    let text = read_until(&mut restarted, "\"id\":\"missed\"").await;
    assert!(text.contains("\"reason\":\"restart\"") && text.contains("\"id\":\"first\""), "{text}");
    for (query, fields) in [("?events=all", ""), ("?limit=1", ""), ("", "last-event-id: x\r\n")] {
        let mut refused = watch(&gateway, query, fields).await;
        read_until(&mut refused, "HTTP/1.1 400").await;
    }
    // The end of the stream is the end of its chunks.
    gateway.signal(Signal::SIGTERM);
    read_until(&mut watcher, "\r\n0\r\n\r\n").await;
    assert!(gateway.ended(PATIENCE).await.is_some());
}

/// A WebSocket to the live stream, or the status of the refusal.
async fn websocket(
    gateway: &Gateway,
    query: &str,
    origin: Option<&'static str>,
) -> Result<WebSocketStream<TcpStream>, u16> {
    let uri = format!("ws://{}/api/live{query}", gateway.admin());
    let mut request = uri.into_client_request().expect("a request");
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", HeaderValue::from_static(origin));
    }
    let socket = TcpStream::connect(gateway.admin()).await.expect("the gateway accepts");
    match tokio_tungstenite::client_async(request, socket).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(refused)) => Err(refused.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// The next message that is no ping.
async fn next_message(socket: &mut WebSocketStream<TcpStream>) -> Message {
    let next = async {
        loop {
            match socket.next().await.expect("a message").expect("a valid one") {
                Message::Ping(_) => {}
                message => return message,
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("a message in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_stream_is_served_over_websockets() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let mut gateway = Gateway::with_settings(&settings(&engine)).await;
    let mut socket = websocket(&gateway, "?events=record", None).await.expect("it opens");
    ask(&gateway, PATH, "first", BODY).await;
    let first = next_message(&mut socket).await.into_text().expect("a text");
    let first: Value = serde_json::from_str(&first).expect("JSON");
    assert_eq!((&first["event"], &first["data"]["id"]), (&"record".into(), &"first".into()));
    // A client that was away continues after the last event that it has seen.
    drop(socket);
    ask(&gateway, PATH, "missed", BODY).await;
    let query = format!("?events=record&after={}", first["id"].as_str().expect("an id"));
    let mut socket = websocket(&gateway, &query, None).await.expect("it opens");
    let missed = next_message(&mut socket).await.into_text().expect("a text");
    assert!(missed.contains("\"id\":\"missed\""), "{missed}");
    // A page of another origin must not read the stream.
    let refused = websocket(&gateway, "", Some("https://evil.example")).await;
    assert_eq!(refused.err(), Some(403));
    assert_eq!(websocket(&gateway, "?after=x", None).await.err(), Some(400));
    // A client has nothing to say.
    let mut talker = websocket(&gateway, "", None).await.expect("it opens");
    talker.send(Message::text("stop")).await.expect("it is sent");
    let Message::Close(Some(frame)) = next_message(&mut talker).await else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 1003);
    gateway.signal(Signal::SIGTERM);
    let Message::Close(Some(frame)) = next_message(&mut socket).await else { panic!("no close") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "the gateway drains"));
    drop(socket);
    assert!(gateway.ended(PATIENCE).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_comes_too_late_gets_a_gap() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let text = settings(&engine) + "limits: {records: 3}\n";
    let gateway = Gateway::with_settings(&text).await;
    let mut watcher = watch(&gateway, "?events=record", "").await;
    ask(&gateway, PATH, "seen", BODY).await;
    let text = read_until(&mut watcher, "\"id\":\"seen\"").await;
    drop(watcher);
    for number in 0..6 {
        ask(&gateway, PATH, &format!("r{number}"), BODY).await;
    }
    gateway.record("r5").await;
    let last = ids(&text).pop().expect("an id");
    let mut late = watch(&gateway, "?events=record", &format!("last-event-id: {last}\r\n")).await;
    let text = read_until(&mut late, "\"id\":\"r5\"").await;
    assert!(text.contains(r#"{"reason":"overrun","skipped":3}"#), "{text}");
    assert!(text.contains("\"id\":\"r3\"") && !text.contains("\"id\":\"r2\""), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objectives_have_budgets_burn_rates_and_goodput() {
    let engine = Engine::start(|seen| match String::from_utf8_lossy(&seen.body).contains("fail") {
        true => sse::json(503, "{}"),
        false => sse::stream(3, 2),
    })
    .await;
    // Every first token takes longer than a microsecond, and no request more than a minute.
    let text = settings(&engine)
        + "objectives: [{route: chat, ttft: {p95: 1us}, tpot: {p50: 1m}, availability: 50, window: 7d}]\n";
    let gateway = Gateway::with_settings(&text).await;
    for id in ["a", "b", "c"] {
        ask(&gateway, PATH, id, BODY).await;
    }
    ask(&gateway, PATH, "d", &BODY.replace("hi", "fail")).await;
    counted(&gateway, 4).await;
    let objectives = page(&gateway, "/api/objectives?route=chat")["objectives"].clone();
    let of = |slo: &str| {
        let mut all = objectives.as_array().expect("a list").iter();
        all.find(|one| one["slo"] == slo).unwrap_or_else(|| panic!("{slo}: {objectives}"))
    };
    let near =
        |value: &Value, wanted: f64| (value.as_f64().expect("a number") - wanted).abs() < 1e-6;
    let availability = of("availability");
    assert_eq!((&availability["events"], &availability["misses"]), (&4.into(), &1.into()));
    assert!(near(&availability["burn_rate"], 0.5) && near(&availability["budget_remaining"], 0.5));
    assert_eq!(availability["burn_rates"][0]["window"], "5m");
    assert!(near(&availability["burn_rates"][0]["burn_rate"], 0.5), "{availability}");
    let ttft = of("ttft");
    assert_eq!((&ttft["events"], &ttft["misses"]), (&3.into(), &3.into()), "{ttft}");
    assert!(near(&ttft["burn_rate"], 20.0) && near(&ttft["budget_remaining"], -19.0), "{ttft}");
    assert_eq!(of("tpot")["misses"], 0);
    let goodput =
        page(&gateway, "/api/stats?window=1m")["windows"][0]["groups"][0]["goodput"].clone();
    assert_eq!((&goodput["judged"], &goodput["good"]), (&4.into(), &0.into()), "{goodput}");
    for (name, filter, value) in [
        ("llm_lens_slo_misses_total", "slo=\"availability\"", 1.0),
        ("llm_lens_slo_events_total", "slo=\"ttft\"", 3.0),
        ("llm_lens_slo_objective_ratio", "slo=\"availability\"", 0.5),
        ("llm_lens_slo_burn_ratio", "slo=\"availability\",window=\"1h\"", 0.5),
        ("llm_lens_slo_budget_remaining_ratio", "slo=\"availability\"", 0.5),
    ] {
        assert!((gateway.metric(name, filter) - value).abs() < 1e-6, "{name}");
    }
}
