//! If either side fails at any stage, nothing of the request is left, and it has exactly one
//! record.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kit::client::{CHAT, CHAT_STREAM};
use kit::engine::Seen;
use kit::{Client, Engine, Gateway, Step, sse};
use lens::Record;
use lens::record::Outcome;
use tokio::task::JoinSet;

use crate::raw::accept;
use crate::support::{eventually, id, read_until, settings, tarpit};

/// How soon the connection to the engine must be closed after the client disconnects.
const SOON: Duration = Duration::from_secs(1);

/// Longer than any test: a gateway that waits that long has not noticed.
const NEVER: Duration = Duration::from_secs(600);

/// Stage of a request at which one side fails.
const STAGES: [&str; 6] = ["unanswered", "headers", "prefill", "middle", "full", "done"];

/// The engine's script up to a stage.
fn until_stage(stage: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    if stage == "unanswered" {
        return steps;
    }
    steps.push(Step::text(sse::STREAM_HEAD));
    match stage {
        "headers" => {}
        "prefill" => steps.extend([Step::chunk(": ping\n\n"), Step::chunk(sse::role())]),
        "full" => (0..8).for_each(|_| steps.push(Step::chunk(sse::content(&"x".repeat(1 << 20))))),
        _ => steps.extend([
            Step::chunk(sse::role()),
            Step::chunk(sse::content("t0")),
            Step::chunk(sse::content("t1")),
            Step::chunk(sse::content("t2")),
        ]),
    }
    if stage == "done" {
        steps.extend([Step::chunk(sse::finish()), Step::chunk(sse::done())]);
    }
    steps
}

/// Content events that the record must have if a client disconnects at a stage; `None`: unknown, or
/// dependent on socket buffers.
fn content_events(stage: &str) -> Option<u64> {
    match stage {
        "headers" | "prefill" => Some(0),
        "middle" | "done" => Some(3),
        _ => None,
    }
}

/// Sends a request and waits until it reaches the stage.
async fn bring_to(gateway: &Gateway, engine: &Engine, stage: &str, request: &str) -> Client {
    let mut client = gateway.client().await;
    if stage == "full" {
        nix::sys::socket::setsockopt(
            client.socket(),
            nix::sys::socket::sockopt::RcvBuf,
            &(16 << 10),
        )
        .expect("a socket");
    }
    client.post("/v1/chat/completions", &format!("x-request-id: {request}\r\n"), CHAT_STREAM).await;
    eventually("the engine has the request", || engine.seen().iter().any(|s| id(s) == request))
        .await;
    match stage {
        "unanswered" => {}
        "headers" => drop(read_until(&mut client, "\r\n\r\n").await),
        "prefill" => drop(read_until(&mut client, "assistant").await),
        "middle" => drop(read_until(&mut client, "t2").await),
        "full" => {
            client.socket().readable().await.expect("the answer begins");
            gateway.wait_until(|g| g.metric("llm_lens_stream_buffer_bytes", "") > 0.0).await;
        }
        _ => drop(read_until(&mut client, "[DONE]\n\n").await),
    }
    client
}

/// Waits until gauges and open files are as before the first request.
async fn nothing_is_left(gateway: &Gateway, engine: &Engine, files: usize) {
    for gauge in [
        "llm_lens_in_flight_requests",
        "llm_lens_stream_buffer_bytes",
        "llm_lens_client_connections",
    ] {
        gateway.wait_until(|g| g.metric(gauge, "") == 0.0).await;
    }
    eventually("the engine has no connection", || engine.open() == 0).await;
    eventually("the gateway has no file more", || gateway.open_files() <= files).await;
    assert_eq!(gateway.metric("llm_lens_panics_total", ""), 0.0, "{}", gateway.stderr());
}

/// Open files of an idle gateway.
async fn files_at_rest(gateway: &Gateway) -> usize {
    let mut least = usize::MAX;
    for _ in 0..20 {
        least = least.min(gateway.open_files());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    least
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_disconnect_closes_the_upstream_connection() {
    let engine = Engine::start(|seen| {
        let mut steps = until_stage(id(seen));
        steps.push(Step::AwaitClose(NEVER));
        steps
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let files = files_at_rest(&gateway).await;
    for (number, stage) in STAGES.into_iter().enumerate() {
        let client = bring_to(&gateway, &engine, stage, stage).await;
        assert_eq!(engine.closed_early(), number, "{stage}: it left before its client did");
        drop(client);
        let took = eventually(stage, || engine.closed_early() == number + 1).await;
        assert!(took < SOON, "{stage}: the engine went on for {took:?}");
        let record = gateway.record(stage).await;
        // A client that received `[DONE]` has the whole answer.
        let want = if stage == "done" {
            (Outcome::Ok, None)
        } else {
            (Outcome::ClientGone, Some("client_closed"))
        };
        assert_eq!((record.outcome, record.error_code.as_deref()), want, "{stage}");
        if let Some(events) = content_events(stage) {
            assert_eq!(record.content_events, Some(events), "{stage}");
        }
        assert_eq!(record.http_status, (stage != "unanswered").then_some(200), "{stage}");
        assert_eq!(record.ledger_us.total(), record.total_us, "{stage}");
    }
    nothing_is_left(&gateway, &engine, files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_its_request_is_sent_is_noticed() {
    // The other end does not read, so that the request fills the sockets and waits.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::in_front_of(&format!("http://{}", listener.local_addr().unwrap())).await;
    let files = files_at_rest(&gateway).await;
    let mut client = gateway.client().await;
    client
        .post(
            "/v1/completions",
            "x-request-id: sending\r\n",
            &format!("{{\"prompt\":\"{}\"}}", "x".repeat(24 << 20)),
        )
        .await;
    let _engine_side = accept(&listener).await;
    let began = Instant::now();
    drop(client);
    let record = gateway.record("sending").await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(
        (record.outcome, record.sent_us, record.content_events),
        (Outcome::ClientGone, None, None)
    );
    eventually("the gateway has no file more", || gateway.open_files() <= files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_its_request_is_whole_never_reaches_the_engine() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let files = files_at_rest(&gateway).await;
    for cut in [1, 30, 120, 1 << 16] {
        let mut client = gateway.client().await;
        let request = kit::client::post(
            "/v1/chat/completions",
            &format!("x-request-id: cut-{cut}\r\n"),
            &"x".repeat(1 << 20),
        );
        client.send(&request[..cut]).await;
        if cut > 1000 {
            gateway.wait_until(|g| g.metric("llm_lens_in_flight_requests", "") == 1.0).await;
        }
    }
    let record = gateway.record(&format!("cut-{}", 1 << 16)).await;
    assert_eq!((record.outcome, record.backend), (Outcome::ClientGone, None));
    nothing_is_left(&gateway, &engine, files).await;
    assert!(engine.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_we_connect_is_noticed() {
    let (address, _full) = tarpit().await;
    let gateway = Gateway::with_settings(&settings(
        &format!("http://{address}"),
        "",
        "",
        "timeouts: {connect: 60s}",
    ))
    .await;
    let files = files_at_rest(&gateway).await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: tar\r\n", CHAT).await;
    gateway.wait_until(|g| g.metric("llm_lens_in_flight_requests", "route=\"r\"") == 1.0).await;
    let began = Instant::now();
    drop(client);
    let record = gateway.record("tar").await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!((record.outcome, record.sent_us), (Outcome::ClientGone, None));
    eventually("the gateway has no file more", || gateway.open_files() <= files).await;
}

/// The script of an engine for a failure named by the request id: stage, side, round.
fn deadly(seen: &Seen) -> Vec<Step> {
    let mut words = id(seen).split('-');
    let (stage, who) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut steps = until_stage(stage);
    match who {
        "client" => steps.push(Step::AwaitClose(NEVER)),
        "fin" => steps.push(Step::Close),
        "rst" => steps.push(Step::Reset),
        // The client leaves as soon as it is served, whatever the engine does at that time.
        "both" => steps.extend([Step::ms(1), Step::Reset]),
        _ if stage == "unanswered" => steps = [sse::chat_answer(), vec![Step::Close]].concat(),
        _ => steps.extend([Step::end(), Step::Close]),
    }
    steps
}

/// Asserts that the record names the side that failed.
fn assert_record_names_failed_side(record: &Record) {
    let mut words = record.id.split('-');
    let (stage, who) =
        (words.next().expect("stage-who-round"), words.next().expect("stage-who-round"));
    match who {
        "client" => {
            let want = if stage == "done" { Outcome::Ok } else { Outcome::ClientGone };
            assert_eq!(record.outcome, want, "{record:?}");
            assert!(
                content_events(stage).is_none_or(|n| record.content_events == Some(n)),
                "{record:?}"
            );
        }
        "fin" | "rst" => assert_eq!(record.outcome, Outcome::UpstreamFailed, "{record:?}"),
        "both" if stage == "done" => {
            assert!(
                matches!(
                    record.outcome,
                    Outcome::Ok | Outcome::ClientGone | Outcome::UpstreamFailed
                ),
                "{record:?}"
            )
        }
        "both" => assert!(
            matches!(record.outcome, Outcome::ClientGone | Outcome::UpstreamFailed),
            "{record:?}"
        ),
        // A stream without a finish reason is a failure of the engine, although it ended.
        _ => assert!(matches!(record.outcome, Outcome::Ok | Outcome::UpstreamError), "{record:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_at_every_stage_leak_nothing() {
    const ROUNDS: usize = 6;
    // The side that fails: the client, the engine with FIN, the engine with RST, both, neither.
    const WHO: [&str; 5] = ["client", "fin", "rst", "both", "none"];
    let engine = Engine::start(deadly).await;
    let engine = Arc::new(engine);
    let gateway = Arc::new(Gateway::in_front_of(&engine.url()).await);
    let files = files_at_rest(&gateway).await;
    let mut asked = HashSet::new();
    for round in 0..ROUNDS {
        let mut all = JoinSet::new();
        for stage in STAGES.into_iter().filter(|s| *s != "full" || round == 0) {
            for who in WHO {
                let request = format!("{stage}-{who}-{round}");
                asked.insert(request.clone());
                let (gateway, engine) = (gateway.clone(), engine.clone());
                all.spawn(async move {
                    match who {
                        "client" => drop(bring_to(&gateway, &engine, stage, &request).await),
                        "both" => {
                            let mut client = gateway.client().await;
                            client
                                .post(
                                    "/v1/chat/completions",
                                    &format!("x-request-id: {request}\r\n"),
                                    CHAT_STREAM,
                                )
                                .await;
                            eventually("the engine has the request", || {
                                engine.seen().iter().any(|s| id(s) == request)
                            })
                            .await;
                        }
                        _ => {
                            let mut client = gateway.client().await;
                            client
                                .post(
                                    "/v1/chat/completions",
                                    &format!("x-request-id: {request}\r\n"),
                                    CHAT_STREAM,
                                )
                                .await;
                            let answer = client.answer().await;
                            assert_eq!(
                                answer.complete,
                                stage == "unanswered" || who == "none" && stage == "done",
                                "{request}: {}",
                                answer.status
                            );
                        }
                    }
                });
            }
        }
        while let Some(ended) = all.join_next().await {
            ended.expect("no death hurts the living");
        }
    }
    nothing_is_left(&gateway, &engine, files).await;
    let records = gateway.records();
    assert_eq!(records.len(), asked.len(), "one record for each request");
    assert_eq!(records.iter().map(|r| r.id.clone()).collect::<HashSet<_>>(), asked);
    for record in &records {
        assert_record_names_failed_side(record);
        assert_eq!(record.ledger_us.total(), record.total_us);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_last_do_not_grow_the_gateway() {
    // The ring is bounded: a client that does not read slows the engine down and does not grow the
    // gateway.
    let engine = Engine::start(|_| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        (0..256).for_each(|_| steps.push(Step::chunk(sse::content(&"x".repeat(256 << 10)))));
        steps
    })
    .await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), "", "", "limits: {stream_buffer: 128KiB}"))
            .await;
    let before = gateway.resident_kib();
    let mut clients = Vec::new();
    for number in 0..16 {
        let mut client = gateway.client().await;
        nix::sys::socket::setsockopt(
            client.socket(),
            nix::sys::socket::sockopt::RcvBuf,
            &(16 << 10),
        )
        .unwrap();
        client
            .post("/v1/chat/completions", &format!("x-request-id: deaf-{number}\r\n"), CHAT_STREAM)
            .await;
        clients.push(client);
    }
    gateway
        .wait_until(|g| g.metric("llm_lens_stream_buffer_bytes", "") >= 16.0 * 128.0 * 1024.0)
        .await;
    let ring = gateway.metric("llm_lens_stream_buffer_bytes", "");
    // A whole event is queued at once.
    let most = 16.0 * (128.0 + 256.0 + 1.0) * 1024.0;
    assert!(ring < most, "{ring} bytes for 16 rings of 128 KiB");
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB for 16 clients that do not read");
    drop(clients);
    gateway
        .wait_until(|g| {
            g.metric("llm_lens_in_flight_requests", "") == 0.0
                && g.metric("llm_lens_stream_buffer_bytes", "") == 0.0
        })
        .await;
    assert_eq!(gateway.records().len(), 16);
}
