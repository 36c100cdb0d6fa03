//! What load testers get wrong: a test for each trap, against a scripted server.
//!
//! `docs/measurement.md` lists the traps and their tests. Tests of exit codes, signals and
//! reconnecting are in `tests/e2e/load_test.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testbench::client::Limits;
use testbench::interleave::run_interleaved;
use testbench::report::Slo;
use testbench::run::run_load;
use testbench::{Config, Ended, Outcome, RunError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use workload::Workload;
use workload::arrival::{Arrival, Spacing, Stop};
use workload::length::Length;
use workload::prompts::Prompts;
use workload::provider::Provider;

/// A step of an answer.
#[derive(Clone)]
enum Step {
    /// The head of a stream.
    Stream,
    /// A whole JSON answer.
    Json(&'static str),
    /// An SSE event, as a chunk of its own.
    Event(String),
    /// Text as a chunk.
    Chunk(String),
    Wait(Duration),
    WaitUntil(Instant),
    Hang,
    /// The end of a stream.
    End,
}

/// What the server saw.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
    bodies: Mutex<Vec<String>>,
}

impl Seen {
    fn count(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }
}

/// Starts a server that answers the n-th request with the steps for n.
async fn start(script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static) -> (String, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (seen, script) = (Arc::new(Seen::default()), Arc::new(script));
    let shared = seen.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let (seen, script) = (shared.clone(), script.clone());
            tokio::spawn(async move {
                let _ = connection(socket, &seen, &*script).await;
            });
        }
    });
    (url, seen)
}

async fn connection(
    mut socket: TcpStream,
    seen: &Seen,
    script: &(impl Fn(usize) -> Vec<Step> + ?Sized),
) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    loop {
        let Some(body) = request(&mut socket).await? else { return Ok(()) };
        seen.bodies.lock().expect("no panic in here").push(body);
        let number = seen.requests.fetch_add(1, Ordering::SeqCst);
        let busy = seen.busy.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most_busy.fetch_max(busy, Ordering::SeqCst);
        for step in script(number) {
            play(&mut socket, step).await?;
        }
        seen.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn play(socket: &mut TcpStream, step: Step) -> std::io::Result<()> {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let bytes = match step {
        Step::Stream => {
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_owned()
        }
        Step::Json(body) => format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        Step::Event(data) => chunk(&format!("data: {data}\n\n")),
        Step::Chunk(text) => chunk(&text),
        Step::Wait(time) => {
            tokio::time::sleep(time).await;
            return Ok(());
        }
        Step::WaitUntil(due) => {
            tokio::time::sleep_until(due.into()).await;
            return Ok(());
        }
        Step::Hang => return std::future::pending().await,
        Step::End => chunk("data: [DONE]\n\n") + "0\r\n\r\n",
    };
    socket.write_all(bytes.as_bytes()).await
}

/// Reads a request; returns its body, or none at the end of the connection.
async fn request(socket: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut read = Vec::new();
    let head = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    while read.len() < head + length {
        if socket.read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&read[head..]).into_owned()))
}

/// An event with text.
fn content(text: &str) -> Step {
    Step::Event(format!("{{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}"))
}

fn finish() -> Step {
    Step::Event("{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}".into())
}

/// A short answer.
fn answer() -> Vec<Step> {
    vec![Step::Stream, content("a"), content("b"), finish(), Step::End]
}

fn after(wait: Duration) -> Vec<Step> {
    [vec![Step::Wait(wait)], answer()].concat()
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Generated prompts of so many words.
fn made(words: u32) -> Arc<Workload> {
    Arc::new(Workload::new(Prompts::Made(Length::Fixed(words))))
}

fn config(base_url: String, arrival: Arrival, requests: u64) -> Config {
    Config {
        base_url,
        model: "m".into(),
        arrival,
        stop: Stop::Requests(requests),
        warm_up: 0,
        stream: true,
        provider: Provider::default(),
        workload: made(4),
        key: None,
        timeout: Duration::from_secs(60),
        limits: Limits::default(),
        seed: 1,
        progress: false,
    }
}

const ONE: Arrival = Arrival::Closed { concurrency: 1 };

async fn load(config: Config) -> Outcome {
    run_load(config, std::future::pending()).await.expect("a valid configuration")
}

/// The outcome of one request that is answered with these steps.
async fn one(steps: Vec<Step>) -> Outcome {
    let (url, _) = start(move |_| steps.clone()).await;
    load(config(url, ONE, 1)).await
}

/// The server stalls for 500 ms. A closed loop waits with it, and one request is slow; an open loop
/// counts all that were due in the meantime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_coordinated_omission() {
    let slow = async |arrival| {
        let end = Mutex::new(None);
        let (url, _) = start(move |number| {
            let mut end = end.lock().expect("no panic in here");
            if number == 10 {
                *end = Some(Instant::now() + ms(500));
            }
            let wait = end.map(Step::WaitUntil);
            wait.into_iter().chain(answer()).collect()
        })
        .await;
        let outcome = load(config(url, arrival, 60)).await;
        for sample in &outcome.samples {
            let sum = sample.ttft_from_send_us.map(|us| us + sample.late_us);
            assert_eq!(sample.ttft_us, sum, "from the intended start");
            assert!(sample.slip_us <= sample.late_us, "{sample:?}");
        }
        outcome.samples.iter().filter(|sample| sample.ttft_us >= Some(100_000)).count()
    };
    // 500 ms at 100 requests a second. The closed loop shows the stall once, whatever else is slow.
    let open = slow(Arrival::open(Spacing::Constant, 100.0)).await;
    assert!(open >= 30, "{open} slow requests");
    assert!(slow(ONE).await < open);
}

/// A client that reads until its buffer is full sees the first token with the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_client_buffer_delays_the_first_token() {
    let steps =
        vec![Step::Stream, content("a"), Step::Wait(ms(300)), content("b"), finish(), Step::End];
    let outcome = one(steps).await;
    let sample = &outcome.samples[0];
    let after_first = sample.total_us - sample.ttft_us.expect("a first token");
    assert!(after_first >= 290_000, "{sample:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_chunks_are_counted_as_tokens() {
    let usage = "{\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":41}}";
    let steps = vec![
        Step::Stream,
        content("several words in one"),
        Step::Wait(ms(200)),
        content(" chunk"),
        finish(),
        Step::Event(usage.into()),
        Step::End,
    ];
    let outcome = one(steps).await;
    let sample = &outcome.samples[0];
    assert_eq!((sample.tokens, sample.estimated, sample.content_events), (Some(41), false, 2));
    // The gap between the chunks, over the 40 tokens after the first one.
    let tpot = sample.tpot_us.expect("a time per token");
    let gap = sample.itl_us.expect("a gap").max as f64;
    assert!(tpot >= 4_900.0 && (tpot - gap / 40.0).abs() < 0.02 * tpot, "{sample:?}");
}

/// 300 requests that are due within a millisecond are all sent before the first answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_bursts_start_late_because_one_worker_hoards() {
    let (url, seen) = start(|_| after(ms(1_500))).await;
    let outcome = load(config(url, Arrival::open(Spacing::Constant, 1e6), 300)).await;
    assert_eq!(outcome.samples.iter().filter(|sample| sample.is_ok()).count(), 300);
    let busy = Seen::count(&seen.most_busy);
    assert!(busy >= 290, "{busy} requests at once");
    assert!(outcome.samples.iter().all(|sample| sample.due_us < 1_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_errors_count_as_success() {
    let error = || Step::Event("{\"error\":{\"message\":\"It died.\",\"code\":500}}".into());
    for steps in [
        vec![Step::Stream, content("a"), error(), Step::End],
        vec![Step::Stream, error(), Step::End],
        vec![Step::Json("{\"error\":{\"message\":\"overloaded\"}}")],
        vec![Step::Stream, Step::End],
    ] {
        let outcome = one(steps).await;
        assert!(!outcome.samples[0].is_ok(), "{:?}", outcome.samples);
        assert_eq!((outcome.ttft.count(), outcome.total.count()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_limits_of_workers_add_up_above_the_global_one() {
    let (url, seen) = start(|_| after(ms(20))).await;
    load(config(url, Arrival::Closed { concurrency: 7 }, 70)).await;
    assert_eq!((Seen::count(&seen.most_busy), Seen::count(&seen.requests)), (7, 70));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_sequences_restart_in_each_worker() {
    let (url, seen) = start(|_| answer()).await;
    let mut config = config(url, Arrival::Closed { concurrency: 5 }, 40);
    config.workload = made(20);
    load(config).await;
    let mut bodies = seen.bodies.lock().expect("no panic in here").clone();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 40, "prompts are repeated");
}

/// The request ends with its last byte; the time per token ends with the last token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_latency_ends_at_different_events() {
    let steps = vec![
        Step::Stream,
        content("a"),
        Step::Wait(ms(20)),
        content("b"),
        finish(),
        Step::Wait(ms(300)),
        Step::End,
    ];
    let outcome = one(steps).await;
    let sample = &outcome.samples[0];
    let gap = sample.itl_us.expect("a gap").max as f64;
    assert!(sample.total_us >= 315_000, "{sample:?}");
    assert!(sample.tpot_us.expect("a time per token") <= 1.02 * gap, "{sample:?}");
}

#[test]
fn trap_unknown_keys_are_dropped() {
    for bad in ["ttft=1s,tpt=50ms", "latency=1s", "ttft"] {
        assert!(bad.parse::<Slo>().is_err(), "{bad}");
    }
}

/// An event may have several `data:` lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_repeated_data_lines_are_separate_events() {
    let event = "data: {\"choices\":[{\"index\":0,\ndata: \"delta\":{\"content\":\"a\"}}]}\n\n";
    let outcome = one(vec![Step::Stream, Step::Chunk(event.into()), finish(), Step::End]).await;
    let sample = &outcome.samples[0];
    assert!(sample.is_ok() && sample.content_events == 1, "{sample:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_cancelled_requests_are_in_the_distributions() {
    let (url, seen) = start(|number| if number < 4 { answer() } else { vec![Step::Hang] }).await;
    let all_hang = async {
        while Seen::count(&seen.requests) < 6 {
            tokio::time::sleep(ms(5)).await;
        }
    };
    let config = config(url, Arrival::Closed { concurrency: 2 }, 100);
    let outcome = run_load(config, all_hang).await.expect("a valid configuration");
    assert_eq!((outcome.ended, outcome.cancelled), (Ended::Interrupted, 2));
    assert_eq!((outcome.samples.len(), outcome.total.count()), (4, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_connections_exhaust_the_ports() {
    let (url, seen) = start(|_| answer()).await;
    load(config(url.clone(), Arrival::Closed { concurrency: 3 }, 60)).await;
    assert_eq!(Seen::count(&seen.connections), 3, "connections are used again");
    let too_many = config(url, Arrival::Closed { concurrency: 15_001 }, 60);
    let refused = run_load(too_many, std::future::pending()).await;
    assert!(matches!(refused, Err(RunError::Config(why)) if why.contains("at most 15000")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_a_server_that_does_not_answer_hangs_the_run() {
    for steps in [vec![Step::Hang], vec![Step::Stream, content("a"), Step::Hang]] {
        let (url, _) = start(move |_| steps.clone()).await;
        let mut config = config(url, ONE, 2);
        config.timeout = ms(100);
        let ended = tokio::time::timeout(Duration::from_secs(30), load(config)).await;
        let outcome = ended.expect("the run ends");
        let errors: Vec<_> = outcome.samples.iter().map(|sample| sample.error.as_deref()).collect();
        assert_eq!(errors, [Some("timeout"); 2]);
        assert_eq!(outcome.total.count(), 0);
    }
}

/// Events without text, such as a role or the text of a special token, are no tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_events_without_text_halve_the_gaps() {
    let mut steps = vec![Step::Stream];
    for text in ["a", "b", "c"] {
        steps.extend([content(""), Step::Wait(ms(60)), content(text), Step::Wait(ms(60))]);
    }
    steps.extend([finish(), Step::End]);
    let outcome = one(steps).await;
    let sample = &outcome.samples[0];
    assert_eq!(sample.content_events, 3);
    assert!(sample.ttft_us >= Some(55_000), "an empty event is no first token: {sample:?}");
    assert!(sample.itl_us.expect("gaps").p50 >= 100_000, "{sample:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_reasoning_is_ignored_in_the_time_to_first_token() {
    let thought = "{\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}]}";
    let steps = vec![
        Step::Stream,
        Step::Event(thought.into()),
        Step::Wait(ms(300)),
        content("a"),
        finish(),
        Step::End,
    ];
    let outcome = one(steps).await;
    let sample = &outcome.samples[0];
    assert!(sample.total_us - sample.ttft_us.expect("a first token") >= 290_000, "{sample:?}");
    assert_eq!(sample.content_events, 2);
}

/// The time of an event is the time of the read that completed it. If it were taken after parsing,
/// events of one read would have different times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_times_are_taken_after_parsing() {
    let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n";
    let text = Step::Chunk(event.repeat(40));
    let outcome = one(vec![Step::Stream, Step::Wait(ms(50)), text, finish(), Step::End]).await;
    let sample = &outcome.samples[0];
    assert_eq!((sample.content_events, sample.coalesced_events), (40, 39), "{sample:?}");
    assert_eq!(sample.tpot_us, None, "one read has no time per token: {sample:?}");
    assert_eq!(outcome.client.windows[0].coalesced_events, 39);
}

/// The client's error is measured in each window of a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_the_client_is_slow_and_does_not_notice() {
    let (url, _) = start(|_| after(ms(5))).await;
    let mut config = config(url, Arrival::open(Spacing::Constant, 100.0), 40);
    let outcome = load(config.clone()).await;
    let client = &outcome.client;
    assert!(client.clock_resolution_ns > 0 && !client.windows.is_empty(), "{client:?}");
    let requests: u64 = client.windows.iter().map(|window| window.requests).sum();
    assert_eq!(requests, 40);
    assert!(client.windows[0].timer_p99_us.is_some() && client.windows[0].slip_p99_us.is_some());
    // No client is as exact as this.
    config.limits = Limits { error: Duration::ZERO };
    let outcome = load(config).await;
    let window = outcome.client.invalid().next().expect("an invalid window");
    assert!(window.broken.contains(&"slip") && window.broken.contains(&"timer"), "{window:?}");
}

/// Both servers get the same load in turn, and the second one is slower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interleaved_blocks_alternate_between_two_servers() {
    let (base, at_base) = start(|_| after(ms(5))).await;
    let (slow, at_slow) = start(|_| after(ms(50))).await;
    let prompts = made(20);
    let one = |url| {
        let arrival = Arrival::Closed { concurrency: 2 };
        Config { workload: prompts.clone(), ..config(url, arrival, 10) }
    };
    let never = std::future::pending();
    let ran = run_interleaved(&one(base), &one(slow), 6, never).await.expect("valid");
    assert_eq!((ran.0.len(), ran.1), (6, Ended::Completed));
    let mut all = Outcome::default();
    for pair in ran.0 {
        let mean = |outcome: &Outcome| outcome.ttft.sum() / outcome.ttft.count();
        assert!(mean(&pair.candidate) >= mean(&pair.base).max(50_000), "{pair:?}");
        all.append(pair.base);
    }
    assert_eq!((all.samples.len(), all.ttft.count()), (60, 60));
    assert!(all.samples.last().expect("60").due_us >= all.samples[0].due_us + 25_000);
    let mut bodies = at_base.bodies.lock().expect("no panic in here").clone();
    bodies.extend(at_slow.bodies.lock().expect("no panic in here").clone());
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 120, "a cache behind both would serve the second server");
}

/// The starts of a burst are due at one instant, and do not wait for connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_starts_at_one_instant_on_connections_that_are_open() {
    let (url, seen) = start(|_| after(ms(30))).await;
    let arrival = Arrival::Burst { size: 40, interval: ms(300) };
    let outcome = load(config(url, arrival, 80)).await;
    assert!(outcome.samples.iter().all(testbench::Sample::is_ok));
    let due: std::collections::BTreeSet<u64> = outcome.samples.iter().map(|s| s.due_us).collect();
    assert_eq!(due, [300_000, 600_000].into());
    assert_eq!(Seen::count(&seen.connections), 40);
    assert!(Seen::count(&seen.most_busy) >= 20, "{}", Seen::count(&seen.most_busy));
}

/// Each user pauses between its turns, and sends what the server answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_carry_the_answer_on_in_both_loops() {
    for arrival in [Arrival::Closed { concurrency: 2 }, Arrival::open(Spacing::Constant, 100.0)] {
        let (url, seen) = start(|_| answer()).await;
        let mut workload = Workload::clone(&made(3));
        workload.turns = Length::Fixed(3);
        workload.think_time = "20ms".parse().expect("a time");
        let config = Config { workload: Arc::new(workload), ..config(url, arrival, 12) };
        let begun = Instant::now();
        let outcome = load(config).await;
        assert!(begun.elapsed() >= ms(40));
        assert_eq!(outcome.samples.len(), 12);
        let turns = |turn| outcome.samples.iter().filter(|s| s.turn == turn).count();
        assert!(turns(0) >= 4 && turns(2) >= 1, "{:?}", outcome.samples);
        let bodies = seen.bodies.lock().expect("no panic in here").clone();
        let carried = bodies.iter().filter(|body| {
            let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
            body["messages"].as_array().is_some_and(|m| m.len() == 5)
                && body["messages"][1]["content"] == "ab"
        });
        assert_eq!(carried.count(), turns(2));
    }
}

/// Requests that the workload cancels are neither failures nor in a distribution.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_the_workload_cancels_are_counted_apart() {
    let steps = vec![Step::Stream, content("a"), Step::Hang];
    let (url, _) = start(move |_| steps.clone()).await;
    let mut workload = Workload::clone(&made(3));
    workload.cancel = Some(workload::Cancel { share: 1.0, after: "30ms".parse().expect("a time") });
    let config = Config { workload: Arc::new(workload), ..config(url, ONE, 3) };
    let outcome = load(config.clone()).await;
    assert!(outcome.samples.iter().all(|s| s.cancelled && !s.is_failed() && !s.is_ok()));
    assert_eq!((outcome.samples.len(), outcome.ttft.count()), (3, 0));
    let report =
        testbench::report::Report { config: &config, outcome: &outcome, slo: None, joined: None };
    let json = report.json();
    assert_eq!((&json["failed"], &json["cancelled_by_workload"]), (&0.into(), &3.into()));
    assert!(report.table().contains("0 failed, 3 cancelled by the workload"), "{}", report.table());
}

/// Starts are on a thread of their own, so that they are not late by the steps of the runtime's
/// timers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stages_and_traces_end_by_themselves() {
    let (url, seen) = start(|_| answer()).await;
    let stage = |from, to| workload::arrival::Stage { from, to, duration: Some(ms(200)) };
    let stages = vec![stage(0.0, 100.0), stage(50.0, 50.0)];
    let arrival = Arrival::Open { spacing: Spacing::Constant, stages };
    let ends = |arrival, url: &str| Config { stop: Stop::AtEnd, ..config(url.into(), arrival, 1) };
    let outcome = load(ends(arrival, &url)).await;
    assert_eq!((outcome.samples.len(), Seen::count(&seen.requests)), (20, 20));
    let trace = Arrival::Trace([ms(0), ms(5), ms(120)].into());
    let outcome = load(ends(trace, &url)).await;
    let due: Vec<u64> = outcome.samples.iter().map(|s| s.due_us).collect();
    assert_eq!(due, [0, 5_000, 120_000]);
    let endless = load_error(ends(ONE, &url)).await;
    assert!(endless.contains("have no end"), "{endless}");
}

async fn load_error(config: Config) -> String {
    let ended = run_load(config, std::future::pending()).await;
    ended.expect_err("an invalid configuration").to_string()
}

/// Bodies are made ahead of their time, and still the same seed sends the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_seed_sends_the_same_after_a_warm_up() {
    let sent = async |seed| {
        let (url, seen) = start(|_| answer()).await;
        let arrival = Arrival::open(Spacing::Poisson, 400.0);
        load(Config { warm_up: 7, seed, ..config(url, arrival, 20) }).await;
        let bodies = seen.bodies.lock().expect("no panic in here").clone();
        assert_eq!(bodies.len(), 27);
        std::collections::BTreeSet::from_iter(bodies)
    };
    let first = sent(5).await;
    assert_eq!(first.len(), 27, "prompts are repeated");
    assert_eq!(first, sent(5).await);
    assert_ne!(first, sent(6).await);
}
