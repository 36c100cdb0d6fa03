//! Tail latency: bad engines, and hedges.

use kit::scenario::{Answers, Scenario};
use routing::settings::{Ejection, PoolSettings};

use super::*;
use crate::support::read_until;

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

/// Of four engines one is ten times slower, one fails, and one freezes in mid-stream: as real
/// processes, and simulated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_engines_affect_no_client() {
    let _alone = crate::support::alone().await;
    let slow = Engine::start(|_| after_ms(1000)).await;
    let good = Engine::start(|_| after_ms(100)).await;
    let (frozen, dying) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (freezes, dies) = (frozen.clone(), dying.clone());
    let freezing = Engine::start(move |_| match freezes.load(Ordering::Relaxed) {
        false => after_ms(100),
        true => vec![
            Step::ms(100),
            Step::text(sse::STREAM_HEAD),
            Step::chunk(sse::role()),
            Step::chunk(sse::content("t0 ")),
            Step::Hang,
        ],
    })
    .await;
    let mortal =
        Engine::start(
            move |_| if dies.load(Ordering::Relaxed) { vec![Step::Reset] } else { after_ms(100) },
        )
        .await;
    let engines = [&slow, &good, &freezing, &mortal];
    let more = "timeouts: {between_events: 400ms, first_byte: 5s}";
    let alone = Gateway::with_settings(&settings(&[&good], "", "", more)).await;
    let (without, broken) = times(&alone, 8, 240).await;
    assert_eq!(broken, 0);
    let gateway = Gateway::with_settings(&settings(
        &engines,
        ", ejection: {max_ejected: 0.8}",
        ", retries: {min_per_second: 50}",
        more,
    ))
    .await;
    // The backends are healthy, then two of them fail, and a moment later the gateway has detected
    // it.
    let (_, broken) = times(&gateway, 8, 80).await;
    assert_eq!(broken, 0);
    frozen.store(true, Ordering::Relaxed);
    dying.store(true, Ordering::Relaxed);
    let (_, broken_at_first) = times(&gateway, 8, 80).await;
    assert!(broken_at_first <= 16, "those that were in the middle of a stream: {broken_at_first}");
    let before = engines.map(|engine| engine.seen().len());
    let (with, broken) = times(&gateway, 8, 400).await;
    let asked: Vec<usize> =
        engines.iter().zip(before).map(|(engine, before)| engine.seen().len() - before).collect();
    let (with, without) = (p99(&with), p99(&without));
    assert!(
        with <= without.mul_f64(1.3),
        "{with:?} against {without:?}: {}",
        gateway.get("/api/backends").1
    );
    // Retries hide failures before the first token; a freeze after it cannot be hidden.
    assert!(broken <= 8, "{broken}");
    agrees_with_the_simulation(&asked, (with, without), broken);
    settled(&gateway).await;
    let records = gateway.records();
    assert!(
        records.iter().any(|record| record
            .routing
            .failed_attempts
            .iter()
            .any(|attempt| &*attempt.backend == "b3")),
        "records show the failure"
    );
    assert!(
        records
            .iter()
            .filter(|record| record.outcome != Outcome::Ok)
            .all(|record| record.backend.as_deref() == Some("b2")),
        "only a freeze shows"
    );
    for (backend, cause) in [("b2", "consecutive_failures"), ("b3", "consecutive_failures")] {
        gateway.wait_for_log(&format!("backend ejected backend={backend} cause={cause}")).await;
        assert!(
            gateway.metric("llm_lens_backend_ejections_total", &format!("backend=\"{backend}\""))
                >= 1.0
        );
    }
}

/// The same engines, clients and rules in simulated time: requests by backend, tail latency, and
/// failures seen.
fn agrees_with_the_simulation(
    asked: &[usize],
    (tail, good_alone): (Duration, Duration),
    broken: usize,
) {
    const MS: Duration = Duration::from_millis(1);
    let ejection = Ejection { max_ejected: 0.8, ..Ejection::default() };
    let mut scenario =
        Scenario::new(PoolSettings { ejection, ..PoolSettings::named("p") }, 4, 2, 1);
    let (slow, good) = (Answers::After(MS * 1000, MS * 6), Answers::After(MS * 100, MS * 6));
    let bad = [slow, good, Answers::Freezes(MS * 100, MS * 400), Answers::Dies];
    assert_eq!(scenario.run(8, 80, &[slow, good, good, good]).broken, 0);
    scenario.run(8, 80, &bad);
    let simulated = scenario.run(8, 400, &bad);
    let shares = |asked: &[usize]| -> Vec<f64> {
        let all: usize = asked.iter().sum();
        asked.iter().map(|asked| *asked as f64 / all as f64).collect()
    };
    let (real, ideal) = (shares(asked), shares(&simulated.asked));
    let simulated_tail = p99(&simulated.ttft);
    let told = format!(
        "asked {asked:?} and {:?}, broken {broken} and {}, {tail:?} and {simulated_tail:?}, the good one alone {good_alone:?}",
        simulated.asked, simulated.broken
    );
    println!("processes and simulation: {told}");
    assert!(
        real.iter().zip(&ideal).all(|(real, ideal)| (real - ideal).abs() <= 0.05),
        "shares: {told}"
    );
    assert!(broken.abs_diff(simulated.broken) <= 8, "{told}");
    assert!(tail.div_duration_f64(simulated_tail) >= 0.9, "the tail: {told}");
    // The upper bound is relative to the good backend alone, which a busy machine delays as well.
    let (real, ideal) =
        (tail.div_duration_f64(good_alone), simulated_tail.div_duration_f64(MS * 100));
    assert!(real / ideal < 1.3, "the tail: {told}");
}

/// One of four backends stalls now and then: hedging at least halves the tail, with few additional
/// requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hedges_cut_the_tail() {
    const REQUESTS: usize = 480;
    let _alone = crate::support::alone().await;
    let turn = Arc::new(AtomicUsize::new(0));
    // Like real engines: head and role come at once, the first token later.
    let stalling = Engine::start(move |_| {
        promising(if turn.fetch_add(1, Ordering::Relaxed) % 7 == 6 { 800 } else { 10 })
    })
    .await;
    let others = [
        Engine::start(|_| after_ms(10)).await,
        Engine::start(|_| after_ms(10)).await,
        Engine::start(|_| after_ms(10)).await,
    ];
    let engines = [&stalling, &others[0], &others[1], &others[2]];
    let pool = ", balance: round_robin, ejection: {max_ttft_ratio: 0}";
    let asked = || engines.iter().map(|engine| engine.seen().len()).sum::<usize>();
    let plain = Gateway::with_settings(&settings(&engines, pool, "", "")).await;
    let (without, broken) = times(&plain, 4, REQUESTS).await;
    assert_eq!((broken, asked()), (0, REQUESTS));
    let before = asked();
    let gateway =
        Gateway::with_settings(&settings(&engines, pool, ", hedge: {after: 100ms}", "")).await;
    let (with, broken) = times(&gateway, 4, REQUESTS).await;
    assert_eq!(broken, 0);
    let (with, without) = (p99(&with), p99(&without));
    let slowest: Vec<_> = gateway
        .records()
        .into_iter()
        .filter(|record| record.total_us > 500_000)
        .map(|record| (record.id, record.backend, record.routing.hedge))
        .collect();
    assert!(
        with * 2 <= without,
        "{with:?} against {without:?}: {} hedges, {slowest:?}",
        gateway.metric("llm_lens_hedges_total", "pool=\"p\"")
    );
    let extra = asked() - before - REQUESTS;
    assert!(extra > 0 && extra * 100 < REQUESTS * 6, "{extra} of {REQUESTS}");
    settled(&gateway).await;
    assert_eq!(gateway.metric("llm_lens_hedges_total", "pool=\"p\""), extra as f64);
    assert!(gateway.metric("llm_lens_hedges_won_total", "pool=\"p\"") >= extra as f64 * 0.8);
    let hedged: Vec<_> = gateway
        .records()
        .into_iter()
        .filter_map(|record| Some((record.backend?, record.routing.hedge?)))
        .collect();
    assert_eq!(hedged.len(), extra);
    assert!(
        hedged
            .iter()
            .all(|(backend, hedge)| hedge.won == (*backend == hedge.backend)
                && hedge.after_us >= 99_000),
        "{hedged:?}"
    );
    eventually("who lost is cut off at once", || stalling.closed_early() >= extra * 8 / 10).await;
    // The percentile of the backend itself works as well, once it is known.
    let by_itself = Gateway::with_settings(&settings(&engines, pool, ", hedge: {}", "")).await;
    times(&by_itself, 4, 160).await;
    by_itself.wait_until(|g| g.get("/api/backends").1.contains("\"ttft_p95_ms\":1")).await;
    times(&by_itself, 4, 160).await;
    assert!(by_itself.metric("llm_lens_hedges_total", "pool=\"p\"") >= 1.0);
}

/// Bytes before the first token do not win a hedge. If the backend wins, they are forwarded and
/// recorded with the times of their arrival.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role_event_does_not_win_a_hedge() {
    let _alone = crate::support::alone().await;
    for (first, second, winner) in [(2_000, 10, "b1"), (300, 2_000, "b0")] {
        let engines = [
            Engine::start(move |_| promising(first)).await,
            Engine::start(move |_| promising(second)).await,
        ];
        let gateway = Gateway::with_settings(&settings(
            &[&engines[0], &engines[1]],
            ", balance: round_robin",
            ", hedge: {after: 100ms, budget: 1}",
            "",
        ))
        .await;
        let answer = ask(&gateway, CHAT, "x", BODY).await;
        assert!(
            answer.complete && answer.text().ends_with("data: [DONE]\n\n"),
            "{}",
            answer.text()
        );
        let once = |what: &str| answer.text().matches(what).count() == 1;
        assert!(once("\"role\"") && once("t0 ") && once("t2 "), "{}", answer.text());
        settled(&gateway).await;
        let record = gateway.record("x").await;
        let hedge = record.routing.hedge.expect("a second was asked");
        assert_eq!(
            (record.backend.as_deref(), hedge.won, &*hedge.backend),
            (Some(winner), winner == "b1", "b1")
        );
        assert_eq!(record.ledger_us.total(), record.total_us, "the ledger closes");
        if winner == "b0" {
            let ttft = record.engine_ttft_us.expect("a stream");
            assert!((290_000..600_000).contains(&ttft), "{ttft}");
            let spent = |state| record.ledger_us.micros(state);
            assert!(
                spent(State::AwaitFirstToken) > 250_000,
                "what came after the head was waited for: {:?}",
                record.ledger_us
            );
            assert!(
                spent(State::AwaitFirstByte) < 100_000 && spent(State::Gateway) < 100_000,
                "{:?}",
                record.ledger_us
            );
            let marks = &record.marks_us;
            let arrival = |mark: Option<lens::record::MarkUs>| {
                mark.and_then(|mark| mark.arrival).expect("it came")
            };
            let (byte, token) = (arrival(marks.first_byte), arrival(marks.first_token));
            assert!(token - byte > 250_000, "the head came long before: {marks:?}");
        }
    }
}

/// Both backends start and then stall: the timeout is that between events, not that for the first
/// byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stall_of_both_hedged_backends_times_out() {
    let mut stalling = promising(60_000);
    stalling.remove(2); // The comment, which would let the head pass.
    let engines = [always(stalling.clone()).await, always(stalling).await];
    let more = "timeouts: {first_byte: 20s, between_events: 400ms}";
    let route = ", hedge: {after: 100ms, budget: 1}, retries: {max: 0}";
    let gateway =
        Gateway::with_settings(&settings(&[&engines[0], &engines[1]], "", route, more)).await;
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(
        answer.status == 504 && answer.text().contains("upstream_idle_timeout"),
        "{} {}",
        answer.head,
        answer.text()
    );
    for engine in &engines {
        eventually("both are cut off", || engine.closed_early() == 1).await;
    }
    settled(&gateway).await;
}

/// Without a second backend the first one is canceled; the wait is attributed to the engine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_not_hedged_is_measured_as_usual() {
    let _alone = crate::support::alone().await;
    for role in [true, false] {
        let mut steps = promising(500);
        if !role {
            // The head alone.
            steps.drain(1..3);
        }
        let engines = [always(steps.clone()).await, always(steps).await];
        let route = ", hedge: {after: 200ms, budget: 0}";
        let gateway =
            Gateway::with_settings(&settings(&[&engines[0], &engines[1]], "", route, "")).await;
        let answer = ask(&gateway, CHAT, "x", BODY).await;
        assert!(
            answer.complete && answer.text().ends_with("data: [DONE]\n\n"),
            "{}",
            answer.text()
        );
        settled(&gateway).await;
        let record = gateway.record("x").await;
        assert!(record.routing.hedge.is_none());
        let spent = |state| record.ledger_us.micros(state);
        assert!(
            spent(State::AwaitFirstToken) > 450_000 && spent(State::Gateway) < 60_000,
            "role {role}: {:?}",
            record.ledger_us
        );
        assert_eq!(record.ledger_us.total(), record.total_us);
    }
}

/// A hedge that sends head and role and closes does not win, and a first backend that answers 429
/// during a hedge is not recorded as slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_answer_does_not_win_and_is_not_measured() {
    let _alone = crate::support::alone().await;
    let route = ", hedge: {after: 100ms, budget: 1}, retries: {max: 0}";
    let empty = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role()), Step::end()];
    let engines = [Engine::start(|_| promising(500)).await, always(empty).await];
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        ", balance: round_robin",
        route,
        "",
    ))
    .await;
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(answer.complete && answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    settled(&gateway).await;
    assert_eq!(gateway.record("x").await.backend.as_deref(), Some("b0"));
    assert_eq!(
        gateway.metric("llm_lens_backend_failures_total", "backend=\"b1\""),
        1.0,
        "which is its fault"
    );

    let mut busy = vec![Step::ms(250)];
    busy.extend(sse::json(429, "{}"));
    let engines = [always(busy).await, Engine::start(|_| promising(500)).await];
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        ", balance: round_robin",
        route,
        "",
    ))
    .await;
    assert!(ask(&gateway, CHAT, "y", BODY).await.complete);
    settled(&gateway).await;
    let record = gateway.record("y").await;
    assert_eq!(
        (record.backend.as_deref(), record.routing.hedge.map(|hedge| hedge.won)),
        (Some("b1"), Some(true))
    );
    let failed: Vec<_> = record
        .routing
        .failed_attempts
        .iter()
        .map(|attempt| (&*attempt.backend, &*attempt.code))
        .collect();
    assert_eq!(failed, [("b0", "http_429")]);
    let all: serde_json::Value =
        serde_json::from_str(&gateway.get("/api/backends").1).expect("JSON");
    assert!(
        all["backends"][0]["ttft_ms"].is_null() && all["backends"][1]["ttft_ms"].is_number(),
        "{all}"
    );
    assert_eq!(gateway.metric("llm_lens_backend_failures_total", ""), 0.0);
}

/// A stream that ends after comments only was not answered: the next pool is tried. The comments
/// pass at once, so that no proxy closes the connection meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alives_pass_while_another_backend_may_answer() {
    let (pinged, may_end) = (Step::chunk(": ping\n\n"), Arc::new(AtomicBool::new(false)));
    let mut steps = vec![Step::text(sse::STREAM_HEAD)];
    (0..3).for_each(|_| steps.extend([pinged.clone(), Step::ms(100)]));
    steps.extend([Step::Until(may_end.clone()), Step::end()]);
    let (silent, other) = (always(steps).await, good().await);
    let gateway = Gateway::with_settings(&format!(
        "backends: [{{name: a, url: '{}'}}, {{name: b, url: '{}'}}]\npools: [{{name: first, backends: [a]}}, {{name: second, backends: [b]}}]\nroutes: [{{name: r, pool: first, fallback: [second], include_usage: inject}}]\n",
        silent.url(),
        other.url()
    ))
    .await;
    let mut client = gateway.client().await;
    client.post(CHAT, "x-request-id: x\r\n", BODY).await;
    let before = read_until(&mut client, ": ping").await;
    assert!(before.starts_with("HTTP/1.1 200") && !before.contains("data:"), "{before}");
    assert_eq!(other.seen().len(), 0);
    may_end.store(true, Ordering::Relaxed);
    let rest = read_until(&mut client, "\r\n0\r\n\r\n").await;
    for event in [sse::role(), sse::content("t0 "), sse::content("t2 "), sse::finish(), sse::done()]
    {
        assert_eq!(rest.matches(&*event).count(), 1, "{event}: {rest}");
    }
    assert!(!rest.contains("HTTP/1.1"), "a second head: {rest}");
    settled(&gateway).await;
    let record = gateway.record("x").await;
    let failed: Vec<_> = record
        .routing
        .failed_attempts
        .iter()
        .map(|attempt| (&*attempt.backend, &*attempt.code))
        .collect();
    assert_eq!(failed, [("a", "incomplete_stream")]);
    assert_eq!(
        (record.outcome, record.backend.as_deref(), record.http_status),
        (Outcome::Ok, Some("b"), Some(200))
    );
    let ttft = record.engine_ttft_us.expect("a stream");
    assert!(ttft < 250_000, "measured from the request to the backend that answers: {ttft}");
    assert_eq!(record.ledger_us.total(), record.total_us, "the ledger closes");
}

/// Behind comments, the client has the head of a stream: it gets an error event, and no end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_of_all_backends_behind_keep_alives_is_an_error_event() {
    let pinging = |end: Vec<Step>| {
        [vec![Step::text(sse::STREAM_HEAD), Step::chunk(": ping\n\n"), Step::ms(20)], end].concat()
    };
    let died = (Outcome::UpstreamFailed, "upstream_died", "upstream_died");
    let refused = (Outcome::UpstreamError, "http_400", "upstream_error_answer");
    for (id, last, (outcome, code, shown)) in [
        ("closed", pinging(vec![Step::Close]), died),
        ("error", sse::json(400, "{\"error\":{\"message\":\"no\"}}"), refused),
        ("whole", sse::json(200, "{}"), died),
    ] {
        let engines = [always(pinging(vec![Step::Close])).await, always(last).await];
        let route = ", retries: {min_per_second: 10}";
        let gateway = Gateway::with_settings(&settings(
            &[&engines[0], &engines[1]],
            ", balance: round_robin",
            route,
            "",
        ))
        .await;
        let answer = ask(&gateway, CHAT, id, BODY).await;
        let text = answer.text();
        assert_eq!((answer.status, answer.complete), (200, false), "{id}: {text}");
        assert!(text.starts_with(": ping\n\n"), "{id}: {text}");
        let event = crate::support::last_data(&text);
        assert_eq!(event["error"]["code"], shown, "{id}: {text}");
        settled(&gateway).await;
        let record = gateway.record(id).await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref(), record.http_status),
            (outcome, Some(code), Some(200)),
            "{id}"
        );
        let failed: Vec<_> =
            record.routing.failed_attempts.iter().map(|attempt| &*attempt.backend).collect();
        assert_eq!(failed, ["b0"], "{id}");
    }
}

/// If both fail, the client gets the engine's own error, not that of the backend without an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_error_is_forwarded_although_hedged() {
    let mut fails = vec![Step::ms(250)];
    fails.extend(sse::json(500, "{\"error\":{\"message\":\"out of memory\"}}"));
    let engines = [always(fails).await, always(vec![Step::ms(400), Step::Reset]).await];
    let route = ", hedge: {after: 100ms, budget: 1}, retries: {max: 0}";
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        ", balance: round_robin",
        route,
        "",
    ))
    .await;
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(
        answer.status == 500 && answer.text().contains("out of memory"),
        "{} {}",
        answer.head,
        answer.text()
    );
    settled(&gateway).await;
    let record = gateway.record("x").await;
    assert_eq!((record.outcome, record.backend.as_deref()), (Outcome::UpstreamError, Some("b0")));
    assert_eq!(
        record.routing.hedge.as_ref().map(|hedge| (&*hedge.backend, hedge.won)),
        Some(("b1", false))
    );
    assert!(
        record.ledger_us.micros(State::Gateway) < 60_000,
        "the wait for the other one is not the gateway's: {:?}",
        record.ledger_us
    );
    for backend in ["b0", "b1"] {
        assert_eq!(
            gateway.metric("llm_lens_backend_failures_total", &format!("backend=\"{backend}\"")),
            1.0,
            "{backend}"
        );
    }
}

/// An empty stream is not an error to forward: a third backend is tried when the second one fails,
/// too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_backend_is_not_used_although_the_other_failed() {
    let empty =
        vec![Step::ms(200), Step::text(sse::STREAM_HEAD), Step::chunk(sse::role()), Step::end()];
    let engines = [
        always(empty).await,
        always(vec![Step::ms(300), Step::Reset]).await,
        Engine::start(|_| promising(10)).await,
    ];
    let more = settings_with(
        &[&engines[0], &engines[1], &engines[2]],
        &["", ", weight: 1", ""],
        ", balance: round_robin",
        ", hedge: {after: 100ms, budget: 1}, retries: {min_per_second: 10}",
        "",
    );
    let gateway = Gateway::with_settings(&more).await;
    for n in 0..6 {
        let answer = ask(&gateway, CHAT, &format!("e{n}"), BODY).await;
        assert!(
            answer.complete && answer.text().ends_with("data: [DONE]\n\n"),
            "{n}: {} {}",
            answer.head,
            answer.text()
        );
    }
    settled(&gateway).await;
}

/// A host that does not accept connections is late, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_does_not_accept_is_late() {
    let _alone = crate::support::alone().await;
    let (address, _full) = crate::support::tarpit().await;
    let other = Engine::start(|_| promising(50)).await;
    let text = format!(
        "backends: [{{name: gone, url: 'http://{address}'}}, {{name: other, url: '{}'}}]\npools: [{{name: p, backends: [gone, other], balance: round_robin}}]\n\
         routes: [{{name: r, pool: p, hedge: {{after: 100ms, budget: 1}}}}]\ntimeouts: {{connect: 4s}}\n",
        other.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let began = Instant::now();
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(
        answer.complete && began.elapsed() < Duration::from_secs(2),
        "{:?} {}",
        began.elapsed(),
        answer.text()
    );
    settled(&gateway).await;
    let record = gateway.record("x").await;
    assert_eq!(
        (record.backend.as_deref(), record.routing.hedge.map(|hedge| hedge.won)),
        (Some("other"), Some(true))
    );
    let spent = |state| record.ledger_us.micros(state);
    assert!(
        spent(State::Connect) > 90_000 && spent(State::Gateway) < 60_000,
        "{:?}",
        record.ledger_us
    );
    assert_eq!(record.ledger_us.total(), record.total_us);
}
