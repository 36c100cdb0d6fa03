//! The simulated engine and the load generator: both ends of the same answers.

use std::sync::Arc;
use std::time::Duration;

use simulator::{Engine, Fault, Profile, TruthHandle};
use testbench::client::Limits;
use testbench::run::run_load;
use testbench::{Config, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use workload::Workload;
use workload::arrival::{Arrival, Stop};
use workload::length::Length;
use workload::prompts::Prompts;
use workload::provider::Provider;

/// 10 ms to the first token, 2 ms a token.
fn profile() -> Profile {
    Profile {
        base: Duration::from_millis(10),
        prefill: Duration::ZERO,
        decode: Duration::from_millis(2),
        jitter: 0.0,
        tokens: 8,
        stall: Duration::from_millis(50),
        ..Profile::fast()
    }
}

async fn start(profile: Profile) -> (String, TruthHandle) {
    let engine = Engine::bind(([127, 0, 0, 1], 0).into(), profile).await.expect("loopback");
    let (address, truth) = (engine.address().expect("an address"), engine.truth());
    tokio::spawn(engine.serve());
    (format!("http://{address}"), truth)
}

async fn load(url: &str, requests: u64, stream: bool) -> Outcome {
    let config = Config {
        base_url: url.into(),
        model: "sim-8b".into(),
        provider: Provider::default(),
        arrival: Arrival::Closed { concurrency: 4 },
        stop: Stop::Requests(requests),
        warm_up: 0,
        stream,
        workload: Arc::new(Workload::new(Prompts::Made(Length::Fixed(16)))),
        key: None,
        timeout: Duration::from_secs(30),
        limits: Limits::default(),
        seed: 1,
        progress: false,
    };
    run_load(config, std::future::pending()).await.expect("a run")
}

/// Waits until the truth has all requests: the last one is added after its last byte.
async fn complete(truth: &TruthHandle) {
    let complete = async {
        while !truth.is_complete() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), complete).await.expect("the answers end");
}

async fn get(url: &str, target: &str) -> String {
    let address = url.trim_start_matches("http://");
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("a server");
    let request = format!("GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    answer
}

/// The client cannot have a token before it was written, and the engine writes none early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_truth_lies_between_the_schedule_and_what_the_client_measures() {
    let (url, truth) = start(profile()).await;
    let outcome = load(&url, 20, true).await;
    assert!(outcome.samples.iter().all(testbench::Sample::is_ok), "{:?}", outcome.messages);
    complete(&truth).await;
    let truth = truth.read(|truth| truth.outcome(0));
    assert_eq!((truth.ttft.count(), truth.itl.count()), (20, 20 * 7));
    let least = |micros: &lens::Micros| micros.percentile(0.0).expect("values");
    assert!(least(&truth.ttft) >= 9_990, "{}", least(&truth.ttft));
    assert!(truth.ttft.sum() <= outcome.ttft.sum(), "sums are exact");
    assert!(truth.total.sum() <= outcome.total.sum());
    assert!(truth.samples.iter().all(|sample| sample.tokens == Some(8)));
}

/// Each failure of the script is a failure at the client, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_counts_the_failures_of_the_script() {
    for stream in [true, false] {
        let faults = Fault::ALL.map(|(_, fault)| (fault, 0.1)).to_vec();
        let (url, truth) = start(Profile { faults, ..profile() }).await;
        let outcome = load(&url, 80, stream).await;
        let failed = outcome.samples.iter().filter(|sample| sample.is_failed()).count();
        complete(&truth).await;
        let (totals, kinds) = truth.read(|truth| {
            let (rows, _) = truth.page(0, 1_000);
            let kinds: std::collections::BTreeSet<_> =
                rows.iter().filter_map(|row| row.fault.clone()).collect();
            (truth.totals(), kinds)
        });
        assert_eq!(totals.requests, 80, "no failure is sent again");
        assert_eq!(totals.failed, failed as u64, "stream {stream}: {:?}", outcome.messages);
        assert_eq!(kinds.len(), Fault::ALL.len(), "{kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_have_metrics_and_the_truth() {
    let (url, truth) = start(Profile { tokens_per_event: 3, ..profile() }).await;
    load(&url, 5, true).await;
    complete(&truth).await;
    let metrics = get(&url, "/metrics").await;
    assert!(metrics.contains("vllm:num_requests_running{engine=\"0\",model_name=\"sim-8b\"} 0.0"));
    assert!(
        metrics.contains("vllm:generation_tokens_total{engine=\"0\",model_name=\"sim-8b\"} 40.0")
    );
    let page = get(&url, "/truth?from=3&limit=1").await;
    let (_, body) = page.split_once("\r\n\r\n").expect("a body");
    let page: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!((page["next"].as_u64(), page["rows"][0]["tokens"].as_u64()), (Some(4), Some(8)));
    let sizes: Vec<u64> = page["rows"][0]["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| event[1].as_u64().expect("tokens"))
        .collect();
    assert_eq!(sizes, [3, 3, 2]);
    let summary = get(&url, "/truth/summary").await;
    assert!(summary.contains("\"timer_late\"") && summary.contains("\"behind_schedule\""));
    assert!(get(&url, "/truth?limit=0").await.contains("limit must be from 1 to 1000"));
    assert!(get(&url, "/nothing").await.starts_with("HTTP/1.1 404 "));
}

/// A client that leaves frees its slot, and its truth says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_its_answer() {
    let slow = Profile { decode: Duration::from_secs(10), slots: 1, ..profile() };
    let (url, truth) = start(slow).await;
    let address = url.trim_start_matches("http://").to_owned();
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = tokio::net::TcpStream::connect(&address).await.expect("a server");
    socket.write_all(request.as_bytes()).await.expect("a request");
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("content\":\" the\"") {
        assert!(socket.read_buf(&mut read).await.expect("an answer") > 0);
    }
    assert!(!truth.is_complete());
    drop(socket);
    complete(&truth).await;
    assert_eq!(truth.read(|truth| truth.totals().disconnected), 1);
    assert!(
        get(&url, "/metrics")
            .await
            .contains("num_requests_running{engine=\"0\",model_name=\"sim-8b\"} 0.0")
    );
}
