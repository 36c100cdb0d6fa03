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
    gateway.wait_until(|g| failed_calls(g).len() >= 4).await;
    let want = [
        ["bad", "b", "chat", "http_502", "error answer"],
        ["event", "b", "chat", "http_503", "error event in the answer"],
        ["cut", "b", "chat", "incomplete_stream", "no complete answer"],
        ["passed", "b", "chat", "http_500", "error answer"],
    ];
    assert_eq!(failed_calls(&gateway), want.map(|line| line.map(str::to_owned)));
}

/// The failure of a backend is in the log though another backend answers, or resumes the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_another_backend_makes_good_are_in_the_log() {
    let failing = Engine::start(|seen| {
        if String::from_utf8_lossy(&seen.body).contains("refused") {
            return sse::json(503, "{}");
        }
        let words = ["The ", "sea ", "is "].map(|word| Step::chunk(sse::content(word)));
        let begun = [Step::text(sse::STREAM_HEAD), Step::chunk(sse::role())];
        // The pause lets the words arrive before the reset.
        begun.into_iter().chain(words).chain([Step::ms(50), Step::Reset]).collect()
    })
    .await;
    let good = Engine::start(|_| sse::stream(3, 2)).await;
    let settings = format!(
        "backends: [{{name: b0, url: '{}'}}, {{name: b1, url: '{}'}}]\n\
         pools: [{{name: p0, backends: [b0]}}, {{name: p1, backends: [b1]}}]\n\
         routes: [{{name: chat, pool: p0, fallback: [p1], resume: on, retries: {{min_per_second: 100}}}}]\n",
        failing.url(),
        good.url()
    );
    let gateway = Gateway::with_command(&settings, |command| {
        command.args(["--log-format", "json"]);
    })
    .await;
    for text in ["refused", "cut"] {
        let mut client = gateway.client().await;
        let fields = format!("x-request-id: {text}\r\n");
        client.post("/v1/chat/completions", &fields, &BODY.replace("a secret", text)).await;
        let answer = client.answer().await;
        assert!(answer.status == 200 && answer.complete, "{text}: {}", answer.text());
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{text}: {}", answer.text());
    }
    gateway.wait_until(|g| failed_calls(g).len() >= 2).await;
    let want = [
        ["refused", "b0", "chat", "http_503", "error answer"],
        ["cut", "b0", "chat", "upstream_died", "no complete answer"],
    ];
    assert_eq!(failed_calls(&gateway), want.map(|line| line.map(str::to_owned)));
}

/// Request id, backend, route, code and error of the lines about failed calls, in a log of JSON.
fn failed_calls(gateway: &Gateway) -> Vec<[String; 5]> {
    let log = gateway.stderr();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
    let text =
        |line: &serde_json::Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    lines
        .filter(|line| line["message"] == "backend call failed")
        .map(|line| {
            ["request_id", "backend", "route", "code", "error"].map(|name| text(&line, name))
        })
        .collect()
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
    gateway.wait_for_log("backend call failed").await;
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
