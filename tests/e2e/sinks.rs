//! Sinks of records, and the log.

use kit::client::PATIENCE;
use kit::{Engine, Gateway, Step, gateway, sse};
use nix::sys::signal::Signal;

const BODY: &str =
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"a secret prompt"}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_log_has_a_line_per_request_and_no_content() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let file = gateway::folder().join("access.jsonl");
    let settings = format!(
        "access_log: {{file: {:?}}}\nbackends: [{{name: b, url: \"{}\"}}]\nroutes: [{{name: chat, match: {{path: /v1/*}}, backend: b}}]\n",
        file.display(),
        engine.url()
    );
    let mut gateway = Gateway::with_settings(&settings).await;
    for (path, id) in [("/v1/chat/completions", "good"), ("/nowhere/chat/completions", "lost")] {
        let mut client = gateway.client().await;
        client
            .post(
                path,
                &format!("authorization: Bearer sk-credential\r\nx-request-id: {id}\r\n"),
                BODY,
            )
            .await;
        client.answer().await;
        gateway.record(id).await;
    }
    let (status, sinks) = gateway.get("/api/sinks");
    assert!(status == 200 && sinks.contains("access_log"), "{sinks}");
    // Shutdown writes the queued records.
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended(PATIENCE).await.is_some());
    let text = std::fs::read_to_string(&file).expect("the log");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let word = |line: usize, name: &str| lines[line][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(
        (word(0, "id"), word(0, "route"), word(0, "outcome")),
        ("good".into(), "chat".into(), "ok".into())
    );
    assert_eq!(
        (word(1, "id"), word(1, "error_code"), lines[1]["status"].as_u64()),
        ("lost".into(), "no_route".into(), Some(404))
    );
    assert!(lines[0]["ttft_us"].as_u64().is_some_and(|ttft| ttft > 0), "{text}");
    assert!(!text.contains("secret") && !text.contains("credential"), "{text}");
}

/// logrotate renames the file, and sends HUP or no signal at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_logs_are_created_again() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let folder = gateway::folder();
    let access = folder.join("access.jsonl");
    let settings = format!(
        "access_log: {{file: {:?}}}\nbackends: [{{name: b, url: \"{}\"}}]\nroutes: [{{name: chat, backend: b}}]\n",
        access.display(),
        engine.url()
    );
    let gateway = Gateway::with_settings(&settings).await;
    for (turn, signal) in [None, Some(Signal::SIGHUP), None].into_iter().enumerate() {
        let id = format!("request-{turn}");
        let mut client = gateway.client().await;
        client.post("/v1/chat/completions", &format!("x-request-id: {id}\r\n"), BODY).await;
        client.answer().await;
        let text = || std::fs::read_to_string(&access).unwrap_or_default();
        gateway.wait_until(|_| text().contains(&id)).await;
        assert_eq!(text().lines().count(), 1, "{}", text());
        std::fs::rename(&access, folder.join(format!("access.{turn}"))).expect("it is there");
        if let Some(signal) = signal {
            gateway.signal(signal);
        }
    }
}

/// An engine that fails after it was connected is in the log, too; a client's mistake is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_engines_are_in_the_log() {
    let event = "data: {\"error\":{\"message\":\"It died.\",\"code\":503}}\n\n";
    let begun = || vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("a"))];
    let engine = Engine::start(move |seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        match body.contains("mistake") {
            _ if seen.head.starts_with("GET") => sse::json(500, "{}"),
            true => sse::json(400, "{}"),
            false if body.contains("event") => {
                [begun(), vec![Step::chunk(event), Step::end()]].concat()
            }
            false if body.contains("cut") => [begun(), vec![Step::end()]].concat(),
            false => sse::json(502, "{}"),
        }
    })
    .await;
    let settings = format!(
        "backends: [{{name: b, url: '{}'}}]\nroutes: [{{name: chat, backend: b}}]\n",
        engine.url()
    );
    let gateway = Gateway::with_command(&settings, |command| {
        command.args(["--log-format", "json"]);
    })
    .await;
    for (id, text) in [("mistake", "mistake"), ("bad", "x"), ("event", "event"), ("cut", "cut")] {
        let body = format!(
            "{{\"model\":\"m\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}"
        );
        let mut client = gateway.client().await;
        let fields = format!("x-request-id: {id}\r\n");
        client.post("/v1/chat/completions", &fields, &body).await;
        client.maybe_answer().await;
    }
    let mut client = gateway.client().await;
    client.send("GET /v1/models HTTP/1.1\r\nhost: a\r\nx-request-id: passed\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 500);
    let lines = |g: &Gateway| -> Vec<[String; 5]> {
        let log = g.stderr();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
        let text = |line: &serde_json::Value, name: &str| {
            line[name].as_str().unwrap_or_default().to_owned()
        };
        lines
            .filter(|line| line["message"] == "backend call failed")
            .map(|line| {
                ["request_id", "backend", "route", "code", "error"].map(|name| text(&line, name))
            })
            .collect()
    };
    gateway.wait_until(|g| lines(g).len() >= 4).await;
    let want = [
        ["bad", "b", "chat", "http_502", "error answer"],
        ["event", "b", "chat", "http_503", "error event in the answer"],
        ["cut", "b", "chat", "incomplete_stream", "no complete answer"],
        ["passed", "b", "chat", "http_500", "error answer"],
    ];
    assert_eq!(lines(&gateway), want.map(|line| line.map(str::to_owned)));
}

/// Each line is a JSON object, and the line of a request has its id wherever in the gateway it was
/// written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_the_log_are_json_and_name_their_request() {
    let gone = crate::raw::free_address();
    let settings = format!(
        "backends: [{{name: b, url: 'http://{gone}'}}]\nroutes: [{{name: chat, backend: b}}]\n"
    );
    let gateway = Gateway::with_command(&settings, |command| {
        command.args(["--log", "debug", "--log-format", "json"]);
    })
    .await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: lost\r\n", BODY).await;
    assert_eq!(client.answer().await.status, 502);
    gateway.wait_until(|g| g.stderr().contains("backend call failed")).await;
    let log = gateway.stderr();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let failed = lines
        .iter()
        .find(|line| line["message"] == "backend call failed")
        .expect("a line about the backend");
    assert_eq!(
        (failed["request_id"].as_str(), failed["level"].as_str()),
        (Some("lost"), Some("WARN")),
        "{failed}"
    );
    assert!(
        failed["timestamp"].as_str().is_some_and(|time| time.ends_with('Z'))
            && failed["error"].is_string(),
        "{failed}"
    );
    assert!(!log.contains("secret"), "{log}");
}

/// Records are found by filter, id and cursor, counted and charted, also after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_store_is_queried_and_survives_a_restart() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let folder = gateway::folder().join("records");
    let settings = format!(
        "record_store: {{path: {:?}}}\nbackends: [{{name: b, url: \"{}\"}}]\nroutes: [{{name: chat, match: {{path: /v1/*}}, backend: b}}]\n",
        folder.display(),
        engine.url()
    );
    let mut gateway = Gateway::with_settings(&settings).await;
    for id in ["first", "second", "third"] {
        let mut client = gateway.client().await;
        client.post("/v1/chat/completions", &format!("x-request-id: {id}\r\n"), BODY).await;
        client.answer().await;
        gateway.record(id).await;
    }
    let query = |gateway: &Gateway, path: &str| -> serde_json::Value {
        let (status, body) = gateway.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    };
    gateway
        .wait_until(|gateway| {
            let records = query(gateway, "/api/records");
            records["records"].as_array().is_some_and(|records| records.len() == 3)
        })
        .await;
    let first = query(&gateway, "/api/records?route=chat&outcome=ok&limit=2&from=1h");
    assert_eq!(first["records"][0]["id"], "third", "{first}");
    let next = first["next"].as_str().expect("there is a third record");
    let second =
        query(&gateway, &format!("/api/records?route=chat&outcome=ok&limit=2&after={next}"));
    assert_eq!(
        (&second["records"][0]["id"], &second["next"]),
        (&"first".into(), &serde_json::Value::Null)
    );
    for (path, known) in [
        ("/api/records?rout=x", "known: limit, after, id"),
        ("/api/records?outcome=good", "client_gone"),
        ("/api/records?after=x", "is not a cursor"),
        ("/api/records?from=soon", "a time such as"),
        ("/api/facets?fields=colour", "route, backend, model"),
        ("/api/charts?by=caller", "one of route, backend, model, owner, outcome"),
    ] {
        let (status, body) = gateway.get(path);
        assert!(status == 400 && body.contains(known), "{path}: {status} {body}");
    }
    // The gateway that starts next reads what this one has written.
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended(PATIENCE).await.is_some());
    let gateway = Gateway::with_settings(&settings).await;
    let record = query(&gateway, "/api/records?id=second");
    assert_eq!(record["records"][0]["endpoint"], "/v1/chat/completions", "{record}");
    assert!(!record.to_string().contains("secret"), "{record}");
    let facets = query(&gateway, "/api/facets?fields=model,outcome");
    assert_eq!(
        facets["facets"]["model"]["values"][0],
        serde_json::json!({"value": "m", "records": 3})
    );
    let chart = query(&gateway, "/api/charts?from=1h&step=1h&by=route");
    let points = chart["series"][0]["points"].as_array().expect("points");
    let requests: u64 = points.iter().filter_map(|point| point["requests"].as_u64()).sum();
    assert!(requests == 3 && points[0]["client_ttft_us"]["p50"].as_u64() > Some(0), "{chart}");
    assert!(gateway.get("/metrics").1.contains("llm_lens_record_store_records_total 0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_record_store_its_pages_name_the_setting() {
    let settings =
        "backends: [{name: b, url: \"http://127.0.0.1:1\"}]\nroutes: [{name: chat, backend: b}]\n";
    let gateway = Gateway::with_settings(settings).await;
    let (status, body) = gateway.get("/api/records");
    assert!(status == 404 && body.contains("record_store.path"), "{status} {body}");
}
