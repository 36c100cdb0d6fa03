//! The store of records behind the admin listener.

use kit::client::PATIENCE;
use kit::{Engine, Gateway, gateway, sse};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const BODY: &str =
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"a secret prompt"}]}"#;

fn query(gateway: &Gateway, path: &str) -> Value {
    let (status, body) = gateway.get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Sends a request, and waits until its record is stored.
async fn store(gateway: &Gateway, id: &str) {
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", &format!("x-request-id: {id}\r\n"), BODY).await;
    client.answer().await;
    let is_stored = |gateway: &Gateway| {
        let found = query(gateway, &format!("/api/records?id={id}"));
        found["records"].as_array().is_some_and(|records| records.len() == 1)
    };
    gateway.wait_until(is_stored).await;
}

async fn engine_and_settings() -> (Engine, String) {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let settings = format!(
        "record_store: {{path: {:?}}}\nbackends: [{{name: b, url: \"{}\"}}]\nroutes: [{{name: chat, match: {{path: /v1/*}}, backend: b}}]\n",
        gateway::folder().join("records").display(),
        engine.url()
    );
    (engine, settings)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_found_by_pages_and_wrong_queries_are_refused() {
    let (_engine, settings) = engine_and_settings().await;
    let gateway = Gateway::with_settings(&settings).await;
    for id in ["first", "second", "third"] {
        store(&gateway, id).await;
    }
    let first = query(&gateway, "/api/records?route=chat&outcome=ok&limit=2&from=1h");
    assert_eq!(first["records"][0]["id"], "third", "{first}");
    let next = first["next"].as_str().expect("there is a third record");
    let path = format!("/api/records?route=chat&outcome=ok&limit=2&after={next}");
    let second = query(&gateway, &path);
    assert_eq!((&second["records"][0]["id"], &second["next"]), (&"first".into(), &Value::Null));
    // While a request is recent, the times of its events are known.
    let recent = query(&gateway, "/api/requests?id=third");
    let (record, times) = (&recent["requests"][0], &recent["event_times"][0]);
    for side in ["arrival", "written"] {
        let at: Vec<u64> = serde_json::from_value(times[side]["at_us"].clone()).expect("times");
        assert_eq!((times[side]["events"].as_u64(), at.len()), (Some(3), 3), "{recent}");
        assert!(at.is_sorted() && at.last() <= record["total_us"].as_u64().as_ref(), "{recent}");
    }
    assert!(query(&gateway, "/api/requests").get("event_times").is_none());
    for (path, known) in [
        ("/api/records?rout=x", "known: limit, after, id"),
        ("/api/records?outcome=good", "client_gone"),
        ("/api/records?after=x", "is not a cursor"),
        ("/api/records?id=first&route=chat", "cannot be combined"),
        ("/api/records?from=soon", "a time such as"),
        ("/api/records?limit=0", "from 1 to 1000"),
        ("/api/records?status=ok", "such as 200"),
        ("/api/facets?fields=colour", "route, backend, model"),
        ("/api/charts?by=caller", "one of route, backend, model, owner, outcome"),
        ("/api/charts?step=90s", "multiple of 1m"),
    ] {
        let (status, body) = gateway.get(path);
        assert!(status == 400 && body.contains(known), "{path}: {status} {body}");
    }
}

/// The gateway that starts next has what this one has stored, whether it ended or was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_records_survive_an_end_and_a_kill() {
    let (_engine, settings) = engine_and_settings().await;
    for (before, signal) in [(0, Signal::SIGTERM), (2, Signal::SIGKILL)] {
        let mut gateway = Gateway::with_settings(&settings).await;
        assert_eq!(
            query(&gateway, "/api/records")["records"].as_array().map(Vec::len),
            Some(before)
        );
        for number in before..before + 2 {
            store(&gateway, &format!("id-{number}")).await;
        }
        gateway.signal(signal);
        assert!(gateway.ended(PATIENCE).await.is_some());
    }
    let gateway = Gateway::with_settings(&settings).await;
    let record = query(&gateway, "/api/records?id=id-1");
    assert_eq!(record["records"][0]["endpoint"], "/v1/chat/completions", "{record}");
    assert!(!record.to_string().contains("secret"), "{record}");
    let facets = query(&gateway, "/api/facets?fields=model,outcome");
    assert_eq!(facets["facets"]["model"]["values"][0], json!({"value": "m", "records": 4}));
    let chart = query(&gateway, "/api/charts?from=1h&step=1h&by=route");
    let points = chart["series"][0]["points"].as_array().expect("points");
    let requests: u64 = points.iter().filter_map(|point| point["requests"].as_u64()).sum();
    assert!(requests == 4 && points[0]["client_ttft_us"]["p50"].as_u64() > Some(0), "{chart}");
    let gaps = &points[0]["client_itl_us"];
    assert!(gaps["count"].as_u64() >= Some(4) && gaps["p99"].as_u64() > Some(0), "{chart}");
    let metrics = gateway.get("/metrics").1;
    for line in [
        "llm_lens_record_store_repeated_records_total 0",
        r#"llm_lens_sink_records_total{sink="store"} 0"#,
        r#"llm_lens_sink_state{sink="store",state="closed"} 1"#,
    ] {
        assert!(metrics.contains(line), "missing {line}");
    }
    assert!(gateway.metric("llm_lens_record_store_size_bytes", "") > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_record_store_its_pages_name_the_setting() {
    let settings =
        "backends: [{name: b, url: \"http://127.0.0.1:1\"}]\nroutes: [{name: chat, backend: b}]\n";
    let gateway = Gateway::with_settings(settings).await;
    let (status, body) = gateway.get("/api/records");
    assert!(status == 404 && body.contains("record_store.path"), "{status} {body}");
}
