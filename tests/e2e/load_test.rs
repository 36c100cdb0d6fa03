//! `llm-lens run`: the load generator as people and scripts use it.

use std::collections::HashSet;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kit::engine::Seen;
use kit::{Engine, Gateway, Step, sse};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::raw::Folder;

/// Runs the load generator to its end.
async fn load(args: &[&str]) -> Output {
    let mut command = Command::new(kit::gateway::binary());
    command.arg("run").args(args).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().expect("the binary runs"))
        .await
        .expect("it does not panic")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server may announce keep-alive and close after each answer: a reused connection that closes
/// before any byte of an answer is replaced, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_on_connections_that_the_server_closed_are_sent_again() {
    // Closes with the request in hand, which the client cannot see before it sends.
    let engine = Engine::start(second_answer(vec![Step::Close])).await;
    for arrival in [["--concurrency", "2"], ["--rate", "200"]] {
        let url = engine.url();
        let args = ["--base-url", &url, "--model", "m", "--requests", "30"];
        let output = load(&[&args[..], &arrival].concat()).await;
        assert!(text(&output.stdout).contains("30 requests in"), "{}", text(&output.stdout));
        assert!(text(&output.stdout).contains(" s, 0 failed"), "{}", text(&output.stdout));
    }
    assert!(engine.seen().len() > 60, "no connection was reused");
}

/// Answers the first request of each connection, and the second one with these steps.
fn second_answer(second: Vec<Step>) -> impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static {
    let served = Mutex::new(HashSet::new());
    move |seen| {
        let first = served.lock().expect("no test panicked in here").insert(seen.connection);
        if first { sse::stream(3, 1) } else { second.clone() }
    }
}

/// A connection that closes in the middle of an answer, or without one at its first use, is a
/// failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_a_server_began_to_answer_are_not_sent_again() {
    let torn_head = vec![Step::text("HTTP/1.1 200 OK\r\ncontent-ty"), Step::Close];
    let torn_body = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role()), Step::Close];
    for second in [torn_head, torn_body] {
        let engine = Engine::start(second_answer(second)).await;
        let url = engine.url();
        let output = load(&["--base-url", &url, "--model", "m", "--requests", "4"]).await;
        assert!(text(&output.stdout).contains(" s, 2 failed"), "{}", text(&output.stdout));
        assert_eq!(engine.seen().len(), 4, "{}", text(&output.stdout));
    }
    let engine = Engine::start(|_| vec![Step::Close]).await;
    let url = engine.url();
    let output = load(&["--base-url", &url, "--model", "m", "--requests", "4"]).await;
    assert!(text(&output.stdout).contains(" s, 4 failed"), "{}", text(&output.stdout));
    assert_eq!(engine.seen().len(), 4, "{}", text(&output.stdout));
}

/// A run whose engine answers four requests and no more. `signals` are sent once others are in
/// flight.
async fn interrupted(signals: &[Signal], more: &[&str]) -> (Output, Folder) {
    let gate = Arc::new(AtomicBool::new(false));
    let held = gate.clone();
    let number = AtomicUsize::new(0);
    let engine = Engine::start(move |_| match number.fetch_add(1, Ordering::SeqCst) {
        0..4 => sse::stream(3, 1),
        _ => vec![Step::Until(held.clone())],
    })
    .await;
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    let child = Command::new(kit::gateway::binary())
        .args(["run", "--base-url", &engine.url(), "--model", "m", "--duration", "10m"])
        .args(["--json", &path("a.json"), "--csv", &path("a.csv")])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let until = Instant::now() + Duration::from_secs(30);
    while engine.seen().len() < 6 {
        assert!(Instant::now() < until, "the run sent {} requests", engine.seen().len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for signal in signals {
        kill(Pid::from_raw(child.id() as i32), *signal).expect("it runs");
    }
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().expect("it ends"));
    (output.await.expect("it does not panic"), folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_stops_the_run_and_keeps_its_results() {
    for (signal, code, arrival) in [
        (Signal::SIGINT, 130, ["--concurrency", "2"]),
        (Signal::SIGTERM, 143, ["--rate", "50"]),
        (Signal::SIGHUP, 129, ["--concurrency", "2"]),
    ] {
        // A run ignores HUP if its parent does, as under `nohup`.
        if is_ignored(signal) {
            continue;
        }
        let (output, folder) = interrupted(&[signal], &arrival).await;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{out}{err}");
        assert!(out.starts_with("interrupted; cancelled "), "{out}");
        assert!(out.contains("\n4 requests in") && out.contains(" s, 0 failed"), "{out}");
        let report = report(&folder, "a.json");
        assert_eq!((&report["requests"], &report["failed"]), (&json!(4), &json!(0)), "{report}");
        assert_eq!(report["ended"], "interrupted");
        assert!(report["cancelled"].as_u64() >= Some(2), "{report}");
        assert_eq!(report["timings"]["ttft"]["count"], 4);
        let csv = std::fs::read_to_string(folder.0.join("a.csv")).expect("a file");
        assert_eq!(csv.lines().count(), 5, "{csv}");
    }
}

/// Whether this process, and so its children, ignores a signal.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    let mask = u64::from_str_radix(ignored.trim(), 16).expect("hexadecimal");
    mask & 1 << (signal as u32 - 1) != 0
}

/// The report waits for the gateway's records; a second signal does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_run_at_once() {
    let asked = AtomicUsize::new(0);
    let admin = Engine::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => sse::json(200, "{\"requests\":[]}"),
        _ => vec![Step::Hang],
    })
    .await;
    let url = admin.url();
    let (output, folder) = interrupted(
        &[Signal::SIGINT, Signal::SIGTERM],
        &["--concurrency", "2", "--gateway-admin", &url],
    )
    .await;
    // Signals of different kinds may arrive in any order.
    assert!([130, 143].map(Some).contains(&output.status.code()), "{output:?}");
    assert!(output.stdout.is_empty() && !folder.0.join("a.json").exists(), "{output:?}");
}

/// Each error is named by its status, with the server's message and the URL, and a run whose first
/// requests all fail alike ends early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_named_and_a_run_that_only_fails_ends_early() {
    let missing = r#"{"error":{"message":"The model `m` does not exist.","type":"NotFoundError","code":404}}"#;
    let engine = Engine::start(|_| sse::json(404, missing)).await;
    let url = format!("{}/v1/chat", engine.url());
    for arrival in [["--concurrency", "2"], ["--rate", "500"]] {
        let args = ["--base-url", &url, "--model", "m", "--requests", "2000"];
        let output = load(&[&args[..], &arrival].concat()).await;
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{out}");
        assert!(out.starts_with("stopped, since all requests fail alike; cancelled "), "{out}");
        let name = " x status 404 NotFoundError: The model `m` does not exist.\n";
        assert!(out.contains(name), "{out}");
        assert!(out.contains(&format!("sent to {url}/v1/chat/completions\n")), "{out}");
    }
    assert!(engine.seen().len() < 400, "{}", engine.seen().len());
    // Ten requests were wanted, and different errors show something new.
    let number = AtomicUsize::new(0);
    let event = "data: {\"error\":{\"message\":\"The engine died.\",\"code\":500}}\n\n";
    let engine = Engine::start(move |_| match number.fetch_add(1, Ordering::SeqCst) % 3 {
        0 => sse::json(429, r#"{"error":{"message":"Zu viel.","type":"rate_limit"}}"#),
        1 => sse::json(503, r#"{"error":{"message":"Pause."}}"#),
        _ => vec![Step::text(sse::STREAM_HEAD), Step::chunk(event), Step::end()],
    })
    .await;
    let folder = Folder::new();
    let (url, file) = (engine.url(), folder.0.join("a.json").display().to_string());
    let output =
        load(&["--base-url", &url, "--model", "m", "--requests", "30", "--json", &file]).await;
    let out = text(&output.stdout);
    assert!(out.starts_with("30 requests in"), "{out}");
    for line in [
        "  10 x status 429 rate_limit: Zu viel.\n",
        "  10 x status 503: Pause.\n",
        "  10 x error event 500 after status 200: The engine died.\n",
    ] {
        assert!(out.contains(line), "{line:?} is not in {out}");
    }
    let report = report(&folder, "a.json");
    assert_eq!(report["errors"]["status 429 rate_limit"], 10, "{report}");
    assert_eq!(report["messages"]["status 503"], "Pause.");
    assert_eq!(report["ended"], "completed");
}

/// Files are tried before the load: one that cannot be written is an error without a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_written_are_found_before_the_load() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let (folder, url) = (Folder::new(), engine.url());
    let missing = folder.0.join("missing/a.json").display().to_string();
    let is_folder = folder.0.display().to_string();
    let other = folder.0.join("b.csv").display().to_string();
    let args = ["--base-url", &url, "--model", "m", "--requests", "3"];
    for (option, path) in [
        ("--json", &missing),
        ("--csv", &missing),
        ("--markdown", &missing),
        ("--json", &is_folder),
    ] {
        let files = [option, path, "--csv", &other];
        let files = if option == "--csv" { &files[..2] } else { &files[..] };
        let output = load(&[&args[..], files].concat()).await;
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(&format!("{option}: cannot write {path}: ")), "{err}");
    }
    assert!(engine.seen().is_empty() && !folder.0.join("b.csv").exists());
    // Only a run that is measured replaces a file.
    std::fs::write(&other, "old").expect("a file");
    load(&[&args[..], &["--csv", &other, "--json", &missing]].concat()).await;
    assert_eq!(std::fs::read_to_string(&other).expect("a file"), "old");
    let output = load(&[&args[..], &["--csv", &other]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(std::fs::read_to_string(&other).expect("a file").lines().count(), 4);
}

/// A file that cannot be written at the end loses neither the table nor the other files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_fails_at_the_end_leaves_the_table_and_the_others() {
    let folder = Folder::new();
    let going = folder.0.join("going");
    std::fs::create_dir(&going).expect("a folder");
    let removed = going.clone();
    let engine = Engine::start(move |_| {
        let _ = std::fs::remove_dir_all(&removed);
        sse::stream(3, 1)
    })
    .await;
    let (url, json) = (engine.url(), going.join("a.json").display().to_string());
    let csv = folder.0.join("b.csv").display().to_string();
    let args = ["--base-url", &url, "--model", "m", "--requests", "3"];
    let output = load(&[&args[..], &["--json", &json, "--csv", &csv]].concat()).await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(out.starts_with("3 requests in") && out.contains("TTFT"), "{out}");
    assert!(err.contains(&format!("cannot write {json}: ")), "{err}");
    assert_eq!(std::fs::read_to_string(&csv).expect("a file").lines().count(), 4);
}

/// A 200 is no success by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_whole_are_failures() {
    let stream = |events: &[String]| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        steps.extend(events.iter().map(Step::chunk));
        steps.push(Step::end());
        steps
    };
    let html = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\n<p>Hi</p>";
    let error = "data: {\"error\":{\"message\":\"It died.\",\"code\":\"upstream_died\"}}\n\n";
    let torn = vec![Step::text(sse::STREAM_HEAD), Step::chunk(error), Step::Close];
    for (answer, name) in [
        (stream(&[sse::role(), sse::content("a")]), "incomplete_stream\n"),
        (stream(&[sse::role()]), "incomplete_stream\n"),
        (stream(&[": ping\n\n".to_owned()]), "incomplete_stream\n"),
        (stream(&[]), "incomplete_stream\n"),
        (stream(&[sse::done()]), "no generated text\n"),
        (vec![Step::text(html)], "not an event stream: content-type text/html\n"),
        (sse::chat_answer(), "not an event stream: content-type application/json\n"),
        (torn, "error event upstream_died after status 200: It died.\n"),
    ] {
        let engine = Engine::start(move |_| answer.clone()).await;
        let url = engine.url();
        let output = load(&["--base-url", &url, "--model", "m", "--requests", "2"]).await;
        let out = text(&output.stdout);
        assert!(out.contains(&format!("  2 x {name}")), "{name:?} is not in {out}");
        assert_eq!(output.status.code(), Some(1), "{out}");
    }
    // A finish reason is the end of an answer, and one without text may be right.
    for answer in [
        stream(&[sse::role(), sse::content("a"), sse::finish()]),
        stream(&[sse::role(), sse::finish(), sse::done()]),
    ] {
        let engine = Engine::start(move |_| answer.clone()).await;
        let url = engine.url();
        let output = load(&["--base-url", &url, "--model", "m", "--requests", "2"]).await;
        assert!(text(&output.stdout).contains(" s, 0 failed"), "{}", text(&output.stdout));
    }
    for (answer, name) in [
        (sse::json(200, "{\"choices\":[]}"), "no generated text\n"),
        (sse::json(200, "{\"choices\":[{\"message\""), "incomplete_answer\n"),
        (vec![Step::text(html)], "not JSON: content-type text/html\n"),
        (sse::stream(2, 0), "not JSON: content-type text/event-stream\n"),
    ] {
        let engine = Engine::start(move |_| answer.clone()).await;
        let url = engine.url();
        let output =
            load(&["--base-url", &url, "--model", "m", "--requests", "2", "--no-stream"]).await;
        let out = text(&output.stdout);
        assert!(out.contains(&format!("  2 x {name}")), "{name:?} is not in {out}");
    }
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let url = engine.url();
    let output =
        load(&["--base-url", &url, "--model", "m", "--requests", "2", "--no-stream"]).await;
    assert!(text(&output.stdout).contains(" s, 0 failed"), "{}", text(&output.stdout));
}

/// Through the gateway, too, a failure is named by the error event: the connection that breaks
/// after it is no failure of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_in_streams_of_the_gateway_are_named_by_their_code() {
    let begun = || vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("a"))];
    for (end, code) in [(Step::Close, "upstream_died"), (Step::end(), "incomplete_stream")] {
        let engine = Engine::start(move |_| [begun(), vec![end.clone()]].concat()).await;
        let gateway = Gateway::in_front_of(&engine.url()).await;
        let url = format!("http://{}", gateway.addresses[0]);
        let output = load(&["--base-url", &url, "--model", "m", "--requests", "3"]).await;
        let out = text(&output.stdout);
        let line = format!("  3 x error event {code} after status 200: The backend's ");
        assert!(out.contains(&line), "{line:?} is not in {out}");
    }
}

/// Without `--model`, the server names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_is_the_first_one_that_the_server_lists() {
    let engine = Engine::start(|seen| {
        if seen.head.starts_with("GET /v1/models ") {
            assert!(seen.head.contains("authorization: Bearer k-1"), "{}", seen.head);
            return sse::json(200, r#"{"data":[{"id":"tiny"},{"id":"large"}]}"#);
        }
        assert!(text(&seen.body).contains("\"model\":\"tiny\""), "{}", text(&seen.body));
        sse::stream(3, 1)
    })
    .await;
    let url = format!("{}/v1", engine.url());
    let mut command = Command::new(kit::gateway::binary());
    command.args(["run", "--base-url", &url, "--requests", "3", "--api-key-env", "BENCH_KEY"]);
    command.env("BENCH_KEY", "k-1").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await;
    let output = output.expect("it does not panic");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("model tiny (2 at the server"), "{output:?}");
    // Servers without a list.
    for answer in [sse::json(404, r#"{"detail":"Not Found"}"#), sse::json(200, r#"{"data":[]}"#)] {
        let engine = Engine::start(move |_| answer.clone()).await;
        let output = load(&["--base-url", &engine.url(), "--requests", "3"]).await;
        let err = text(&output.stderr);
        assert_eq!((output.status.code(), engine.seen().len()), (Some(1), 1), "{err}");
        assert!(err.contains("--model") && err.contains("/v1/models"), "{err}");
    }
}

/// The admin listener is read before the load; one that has no record of the run is an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_admin_listener_is_an_error() {
    let engine = Engine::start(|seen| match seen.head.starts_with("POST") {
        true => sse::stream(3, 1),
        false => sse::json(404, r#"{"detail":"Not Found"}"#),
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let (data, admin) =
        (format!("http://{}", gateway.addresses[0]), format!("http://{}", gateway.admin));
    let of = |base: &str, admin: &str| {
        ["--base-url", base, "--model", "m", "--requests", "3", "--gateway-admin", admin]
            .map(str::to_owned)
    };
    let run = async |args: [String; 8]| load(&args.each_ref().map(String::as_str)).await;
    let dead = format!("http://{}", crate::raw::free_address());
    for wrong in [&data, &dead] {
        let output = run(of(&data, wrong)).await;
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains("--gateway-admin") && err.contains(wrong), "{err}");
        assert!(err.contains("admin listener"), "{err}");
    }
    assert!(!engine.seen().iter().any(|seen| seen.head.starts_with("POST")), "load was sent");
    // A gateway that the requests do not pass.
    let output = run(of(&engine.url(), &admin)).await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("has no record of any request of this run"), "{err}");
    assert!(out.contains("3 requests in"), "the run is lost: {out}");
    let output = run(of(&data, &admin)).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("3 requests joined, 0 without"), "{output:?}");
}

/// An open loop reports what it offered, and that the server did not keep up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_reports_the_offered_rate() {
    // One request at a time, 20 ms each.
    let free_at = Mutex::new(Instant::now());
    let engine = Engine::start(move |seen| {
        let mut free = free_at.lock().expect("no test panicked in here");
        *free = (*free).max(seen.at) + Duration::from_millis(20);
        let mut steps = vec![Step::At(free.duration_since(seen.at))];
        steps.extend(sse::stream(1, 0));
        steps
    })
    .await;
    let folder = Folder::new();
    let (url, file) = (engine.url(), folder.0.join("a.json").display().to_string());
    let args = ["--base-url", &url, "--model", "m", "--requests", "60", "--json", &file];
    let output = load(&[&args[..], &["--rate", "200", "--spacing", "constant"]].concat()).await;
    let out = text(&output.stdout);
    assert!(out.contains("\noffered 200.00 requests/s for 0.3"), "{out}");
    assert!(out.contains("\nthe server did not keep up: median latency grew from "), "{out}");
    let report = report(&folder, "a.json");
    assert_eq!(report["configuration"]["arrival"], json!({"kind": "constant", "rate": 200.0}));
    let closed = load(&args).await;
    assert!(!text(&closed.stdout).contains("offered"), "{}", text(&closed.stdout));
}

fn report(folder: &Folder, name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder.0.join(name)).expect("a report")).expect("JSON")
}

/// Runs `gate` to its end.
async fn gate(args: &[&str]) -> Output {
    let mut command = Command::new(kit::gateway::binary());
    command.arg("gate").args(args).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().expect("the binary runs"))
        .await
        .expect("it does not panic")
}

/// From the load to the decision: a report of `run` is one that `gate` reads, and every way not to
/// compare has an exit code of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_of_runs_are_judged() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    let (url, base, other) = (engine.url(), path("base.json"), path("other.json"));
    let args = ["--base-url", &url, "--model", "m", "--slo", "ttft=10s"];
    // 21 s of requests, so that there are blocks enough.
    let rate = ["--rate", "40", "--spacing", "constant", "--duration", "21s"];
    let output = load(&[&args[..], &rate, &["--json", &base]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("\nclient: worst second: slip p99 "), "{output:?}");
    let report = report(&folder, "base.json");
    assert!(report["client"]["windows"].as_array().is_some_and(|all| all.len() >= 10), "{report}");
    assert!(report["timings"]["ttft"]["percentiles_us"]["p99.9"].is_null());
    clear_windows(&folder, "base.json");

    let (markdown, junit, json) = (path("gate.md"), path("gate.xml"), path("gate.json"));
    let files = ["--markdown", &markdown, "--junit", &junit, "--json", &json];
    let judge = async |candidate: &str, checks: &[&str]| {
        let runs = ["--baseline", &base, "--candidate", candidate];
        gate(&[&runs[..], checks, &files].concat()).await
    };
    let code = |output: &Output| output.status.code();
    // A run against itself: no change.
    let output = judge(&base, &["--fail-on", "ttft.p50=+400%,goodput=-20%"]).await;
    assert_eq!(code(&output), Some(0), "{output:?}");
    assert!(text(&output.stdout).starts_with("gate: pass\n"), "{output:?}");
    let output = judge(&base, &["--fail-on", "ttft.p50=+400%", "--bound", "ttft.p50=1us"]).await;
    assert_eq!(code(&output), Some(1), "{output:?}");
    for (file, part) in
        [(&markdown, "gate: regression"), (&junit, "<failure "), (&json, "\"bound\": 1.0")]
    {
        let written = std::fs::read_to_string(file).expect("a file");
        assert!(written.contains(part), "{part:?} is not in {written}");
    }
    let output = judge(&path("missing.json"), &["--fail-on", "ttft.p50=+5%"]).await;
    assert_eq!(code(&output), Some(2), "{output:?}");
    assert!(std::fs::read_to_string(&junit).expect("a file").contains("<error "));
    load(&[&args[..], &["--requests", "30", "--json", &other]].concat()).await;
    clear_windows(&folder, "other.json");
    let output = judge(&other, &["--fail-on", "ttft.p50=+5%"]).await;
    assert_eq!(code(&output), Some(2), "{output:?}");
    assert!(text(&output.stdout).contains("arrival: "), "{output:?}");
    let allow = ["--fail-on", "ttft.p50=+5%", "--allow", "arrival,stop"];
    let output = judge(&other, &allow).await;
    assert_eq!(code(&output), Some(3), "{output:?}");
    assert!(text(&output.stdout).contains("is too short"), "{output:?}");
    // Wrong arguments are not a regression either.
    let output = judge(&base, &["--fail-on", "ttft.p50=5"]).await;
    assert_eq!(code(&output), Some(2), "{output:?}");
}

/// Makes the windows of a report valid: other tests may keep the client from the CPU.
fn clear_windows(folder: &Folder, name: &str) {
    let mut all = report(folder, name);
    let clear = |report: &mut serde_json::Value| {
        for window in report["client"]["windows"].as_array_mut().expect("windows") {
            window["broken"] = json!([]);
        }
    };
    match all["interleaved"].as_array_mut() {
        Some(pairs) => pairs.iter_mut().for_each(|pair| {
            clear(&mut pair["base"]);
            clear(&mut pair["candidate"]);
        }),
        None => clear(&mut all),
    }
    std::fs::write(folder.0.join(name), all.to_string()).expect("writable");
}

/// Two servers in turn, and the slower one is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slower_server_is_found_by_interleaved_blocks() {
    let engine = |wait: u64| {
        Engine::start(move |_| {
            let mut steps = vec![Step::At(Duration::from_millis(wait))];
            steps.extend(sse::stream(2, 1));
            steps
        })
    };
    let (base, slow) = (engine(20).await, engine(200).await);
    let folder = Folder::new();
    let (first, second) = (base.url(), slow.url());
    let file = folder.0.join("ab.json").display().to_string();
    let servers = ["--base-url", &first, "--against", &second, "--model", "m", "--rate", "40"];
    let blocks = ["--pairs", "10", "--block", "500ms", "--json", &file];
    let output = load(&[&servers[..], &blocks].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).starts_with("10 of 10 pairs are complete\n"), "{output:?}");
    clear_windows(&folder, "ab.json");
    let checks = ["--fail-on", "ttft.p50=+50%"];
    let output = gate(&[&["--interleaved", &file][..], &checks].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stdout).contains("10 pairs of interleaved blocks"), "{output:?}");
    // The options of pairs do nothing without a second server.
    let output = load(&["--base-url", &first, "--model", "m", "--pairs", "3"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// The workload file that `--init` prints runs, arguments replace parts of it, and each report is
/// written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_file_is_printed_checked_and_run() {
    let printed = load(&["--init"]).await;
    assert!(printed.status.success());
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    std::fs::write(path("bench.yaml"), &printed.stdout).expect("a folder");
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let url = engine.url();
    let (config, json, html) = (path("bench.yaml"), path("a.json"), path("a.html"));
    let args = ["--config", &config, "--base-url", &url, "--model", "m", "--rate", "300"];
    let more = ["--requests", "20", "--definitions", "vllm", "--json", &json, "--html", &html];
    let output = load(&[&args[..], &more].concat()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert!(out.contains("20 requests in") && out.contains("first event of a choice"), "{out}");
    let report = report(&folder, "a.json");
    assert_eq!(report["configuration"]["prompts"]["kind"], "lognormal");
    assert_eq!(
        report["configuration"]["max_tokens"],
        json!({"kind": "uniform", "min": 16, "max": 128})
    );
    assert_eq!(report["definitions"][0]["tool"], "vllm");
    let page = std::fs::read_to_string(&html).expect("a file");
    assert!(page.contains("Percentiles of requests") && !page.contains("<script"));

    std::fs::write(path("bad.yaml"), "arival: {}\nstop: {}\n").expect("a folder");
    let output = load(&["--config", &path("bad.yaml")]).await;
    let err = text(&output.stderr);
    assert!(err.contains("bad.yaml:1:1: arival: unknown key; did you mean \"arrival\"?"), "{err}");
    assert!(err.contains("bad.yaml:2:7: stop: write either"), "{err}");
    let output = load(&["--requests", "1"]).await;
    assert!(text(&output.stderr).contains("the server is missing"), "{}", text(&output.stderr));
}

/// A trace is sent with its lengths, at its times divided by the pace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_traffic_is_sent_again() {
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    let trace = r#"{"timestamp": 1000, "input_length": 5, "output_length": 7, "hash_ids": []}
{"timestamp": 1800, "input_length": 9, "output_length": 3, "hash_ids": []}"#;
    std::fs::write(path("t.jsonl"), trace).expect("a folder");
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let url = engine.url();
    let (trace, json) = (path("t.jsonl"), path("a.json"));
    let args = ["--base-url", &url, "--model", "m", "--replay", &trace, "--pace", "4"];
    let output = load(&[&args[..], &["--json", &json]].concat()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = report(&folder, "a.json");
    let due: Vec<u64> = report["samples"]
        .as_array()
        .expect("samples")
        .iter()
        .map(|sample| sample["due_us"].as_u64().expect("a time"))
        .collect();
    assert_eq!(due, [0, 200_000]);
    assert_eq!(report["configuration"]["arrival"]["kind"], "trace");
    let limits: Vec<u64> = engine
        .seen()
        .iter()
        .map(|seen| {
            let body: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
            body["max_tokens"].as_u64().expect("a number")
        })
        .collect();
    assert_eq!(limits, [7, 3]);
}

/// A search ends with a rate, and a sweep with a row for each run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_and_sweeps_end_with_a_table_and_a_page() {
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let url = engine.url();
    let server = ["--base-url", &url, "--model", "m"];
    std::fs::write(path("s.yaml"), "sweep: {concurrency: [1, 2], max_tokens: [4, 8]}\n")
        .expect("a folder");
    let (config, json, html) = (path("s.yaml"), path("s.json"), path("s.html"));
    let files = ["--requests", "10", "--json", &json, "--html", &html];
    let output = load(&[&["--config", &config], &server[..], &files].concat()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = report(&folder, "s.json");
    let points = report["sweep"]["points"].as_array().expect("points");
    assert_eq!(points.len(), 4);
    assert_eq!(points[3]["settings"], json!({"concurrency": 2, "max_tokens": "8"}));
    assert!(std::fs::read_to_string(&html).expect("a file").contains("Throughput and speed"));
    // No server answers in a microsecond.
    let find =
        ["--find", "max-rate", "--slo", "ttft.p95=1us", "--rate", "20", "--duration", "300ms"];
    let output = load(&[&server[..], &find].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("no rate that was tried meets ttft.p95=1us"));
}
