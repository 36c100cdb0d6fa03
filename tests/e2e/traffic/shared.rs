//! Limits that gateways share, through a real Redis.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use kit::client::PATIENCE;
use kit::clock::SteppingClock;
use kit::redis::Redis;
use kit::{Client, Engine, Gateway, Step, sse};

use super::{CHAT, endless, request};
use crate::support::{ask, eventually, read_until, settings};

/// Burst of the limit over all gateways, and number of gateways.
const BURST: usize = 200;
const GATEWAYS: usize = 4;
/// Seconds.
const DAY: u64 = 24 * 3600;

fn shared(engine: &Engine, redis: &Redis, limit: &str, store: &str) -> String {
    let more = format!(
        "store: {{url: '{}', replicas: {GATEWAYS}{store}}}\nrate_limits: [{{name: all, per: all, shared: true, window: 30d, {limit}}}]",
        redis.url()
    );
    settings(&engine.url(), ", models: [m]", "", &more)
}

async fn gateways(text: &str) -> Vec<Gateway> {
    let all =
        futures_util::future::join_all((0..GATEWAYS).map(|_| Gateway::with_settings(text))).await;
    for gateway in &all {
        gateway.wait_until(|g| g.metric("llm_lens_store_up", "") == 1.0).await;
    }
    all
}

/// Sends `requests` requests to each gateway from two clients; returns the number of answers by
/// status.
async fn load(gateways: &[Gateway], requests: usize) -> BTreeMap<u16, usize> {
    let counts = Mutex::new(BTreeMap::new());
    let one = |gateway| {
        let counts = &counts;
        async move {
            for _ in 0..requests / 2 {
                let status = ask(gateway, CHAT, "x", &request(",\"max_tokens\":1")).await.status;
                *counts.lock().expect("no panic").entry(status).or_insert(0) += 1;
            }
        }
    };
    futures_util::future::join_all(
        gateways.iter().flat_map(|gateway| [one(gateway), one(gateway)]),
    )
    .await;
    counts.into_inner().expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_gateways_admit_what_one_would_and_a_crash_admits_no_more() {
    let _alone = crate::support::alone().await;
    let (engine, redis) = (Engine::start(|_| sse::chat_answer()).await, Redis::start().await);
    let mut gateways =
        gateways(&shared(&engine, &redis, &format!("unit: requests, amount: {BURST}"), "")).await;
    let first = load(&gateways, 30).await;
    assert_eq!(first, [(200, 4 * 30)].into());
    // One crashes; its leased units are lost, and not granted twice.
    gateways.pop().expect("four").signal(nix::sys::signal::Signal::SIGKILL);
    let second = load(&gateways, 60).await;
    let admitted = first[&200] + second[&200];
    let slice = BURST / 20;
    assert!(
        (BURST - GATEWAYS * slice..=BURST).contains(&admitted),
        "{admitted} of {BURST}: {second:?}"
    );
    assert_eq!(second.keys().copied().collect::<Vec<_>>(), [200, 429]);
    // Idle slices are returned, and any gateway can use the rest of the limit.
    let left = (BURST - slice).saturating_sub(admitted);
    let last = &gateways[0];
    eventually("what lay idle elsewhere is there", || {
        last.metric("llm_lens_store_successes_total", "") > 0.0
    })
    .await;
    let (mut third, until) = (0, std::time::Instant::now() + PATIENCE);
    while third < left {
        assert!(std::time::Instant::now() < until, "{third} of {left}");
        third += load(std::slice::from_ref(last), 10).await.get(&200).copied().unwrap_or(0);
    }
    third += load(std::slice::from_ref(last), 2 * BURST).await.get(&200).copied().unwrap_or(0);
    assert!(admitted + third <= BURST, "{admitted} and {third}");
    let questions: f64 =
        gateways.iter().map(|gateway| gateway.metric("llm_lens_store_successes_total", "")).sum();
    assert!(questions < 700.0, "most requests pass without a call to the store: {questions}");
    let no = ask(last, CHAT, "no", &request("")).await;
    assert!(no.text().contains("\"all\\\"") || no.text().contains("all"), "{}", no.text());
    assert!(no.field("retry-after").is_some(), "{}", no.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_store_falls_back_to_the_configured_mode() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|_| sse::chat_answer()).await;
    for (mode, more_than_all) in [("local", false), ("open", true), ("closed", false)] {
        let mut redis = Redis::start().await;
        let gateways = gateways(&shared(
            &engine,
            &redis,
            &format!("unit: requests, amount: {BURST}"),
            &format!(", on_failure: {mode}"),
        ))
        .await;
        let before = load(&gateways, 10).await;
        assert_eq!(before, [(200, 40)].into());
        redis.kill();
        let without = load(&gateways, 150).await;
        let passed = without.get(&200).copied().unwrap_or(0);
        let slices = GATEWAYS * BURST / 20;
        match mode {
            // Each gateway admits its share and what it had leased.
            "local" => assert!(passed <= BURST + slices && passed >= BURST / 2, "{without:?}"),
            "open" => assert_eq!(passed, GATEWAYS * 150),
            _ => assert!(passed <= slices, "{without:?}"),
        }
        assert_eq!(passed > BURST + slices, more_than_all);
        assert!(without.keys().all(|status| matches!(status, 200 | 429)), "no 5xx: {without:?}");
        assert!(gateways.iter().all(|gateway| gateway.metric("llm_lens_store_up", "") == 0.0));
        assert!(
            gateways
                .iter()
                .any(|gateway| gateway.metric("llm_lens_store_fallbacks_total", "") > 0.0)
        );
        redis.restart().await;
        for gateway in &gateways {
            gateway.wait_until(|g| g.metric("llm_lens_store_up", "") == 1.0).await;
        }
        // The store has lost its counts: it may admit its burst once more, but not more. Debts are
        // paid first.
        let after = load(&gateways, 150).await;
        let passed = after.get(&200).copied().unwrap_or(0);
        assert!(
            passed <= BURST && after.keys().all(|status| matches!(status, 200 | 429)),
            "{mode}: {after:?}"
        );
        // Each gateway pays its own debt of some 150 before it admits a request.
        assert!(mode != "open" || passed <= BURST - 150 + slices, "{after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_when_the_tokens_of_all_gateways_are_gone() {
    let _alone = crate::support::alone().await;
    let (engine, redis) = (endless().await, Redis::start().await);
    let text = shared(&engine, &redis, "unit: output_tokens, amount: 300", "");
    let gateways = gateways(&text).await;
    let stream = |gateway| async move {
        let answer = ask(gateway, CHAT, "s", &request(",\"stream\":true,\"max_tokens\":10")).await;
        (
            answer.status,
            answer.text().matches("\"content\":\"t").count(),
            answer.text().contains("\"finish_reason\":\"length\""),
        )
    };
    let answers = futures_util::future::join_all(gateways.iter().map(stream)).await;
    assert!(answers.iter().all(|(status, _, length)| *status == 200 && *length), "{answers:?}");
    let said: usize = answers.iter().map(|(_, said, _)| said).sum();
    // Tokens generated before the next call to the store exceed the limit: a tenth of a second of
    // four streams, on a busy machine.
    assert!((290..300 + GATEWAYS * 150).contains(&said), "{said}");
}

/// Random arrivals, some of which disconnect, clocks that step by weeks, and a gateway that
/// crashes: the usage of all streams stays within the documented bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_streams_of_four_gateways_stay_within_the_bound() {
    let _alone = crate::support::alone().await;
    const AMOUNT: u64 = 2000;
    const BURST: u64 = 400;
    const SECONDS: u64 = 10;
    const PROMPT: u64 = 7;
    const ANSWER: u64 = 30;
    let (engine, redis) =
        (Engine::start(|_| sse::stream(ANSWER as usize, 2)).await, Redis::start().await);
    let limit = format!("unit: total_tokens, amount: {AMOUNT}, burst: {BURST}");
    let text =
        shared(&engine, &redis, &limit, "").replace("window: 30d", &format!("window: {SECONDS}s"));
    let clocks = [(); GATEWAYS].map(|()| SteppingClock::without_offset());
    let started =
        clocks.iter().map(|clock| Gateway::with_command(&text, |command| clock.apply_to(command)));
    let mut gateways = futures_util::future::join_all(started).await;
    for gateway in &gateways {
        gateway.wait_until(|g| g.metric("llm_lens_store_up", "") == 1.0).await;
    }
    let began = std::time::Instant::now();
    let stepping = async {
        let mut draw = drawing(0);
        while began.elapsed() < Duration::from_secs(3) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            clocks[draw(4) as usize].step_to(draw(80 * DAY) as i64 - 40 * DAY as i64);
        }
    };
    let visitor = |gateway, seed: u64| async move {
        let mut draw = drawing(seed);
        while began.elapsed() < Duration::from_secs(3) {
            tokio::time::sleep(Duration::from_millis(draw(30))).await;
            let body = request(&format!(",\"stream\":true,\"max_tokens\":{}", 1 + draw(60)));
            let asked = ask(gateway, CHAT, "x", &body);
            // One in three clients disconnects.
            let patience = if draw(3) == 0 { 10 + draw(50) } else { 10_000 };
            let _ = tokio::time::timeout(Duration::from_millis(patience), asked).await;
        }
    };
    let visitors = gateways
        .iter()
        .enumerate()
        .flat_map(|(at, gateway)| (0..4).map(move |n| visitor(gateway, (4 * at + n) as u64)));
    tokio::join!(futures_util::future::join_all(visitors), stepping);
    let lasted = began.elapsed().as_secs_f64();
    for gateway in &gateways {
        crate::support::settled(gateway).await;
    }
    let records: Vec<_> = gateways.iter().flat_map(Gateway::records).collect();
    let days: std::collections::BTreeSet<u64> =
        records.iter().map(|record| record.started_at / 1_000_000 / DAY).collect();
    assert!(days.len() > 2, "the clocks did step: {days:?}");
    let taken: u64 = records
        .iter()
        .filter(|record| record.sent_us.is_some())
        .map(|record| {
            PROMPT + record.usage.as_ref().and_then(|usage| usage.completion_tokens).unwrap_or(0)
        })
        .sum();
    let slices = GATEWAYS as u64 * BURST / 20;
    // Streams that already exceeded their reservation when the last debt was reported: at most one
    // per client.
    let running = 4 * GATEWAYS as u64 * ANSWER;
    let bound = BURST as f64 + AMOUNT as f64 * lasted / SECONDS as f64 + (slices + running) as f64;
    assert!(taken as f64 <= bound, "{taken} taken, {bound} allowed");
    assert!(taken >= BURST, "and the limit is used: {taken}");
    // Units lost in a crash are not granted twice: the other three admit no more than is left.
    gateways.pop().expect("four").signal(nix::sys::signal::Signal::SIGKILL);
    let statuses = load(&gateways, 40).await;
    assert!(statuses.keys().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
}

/// Deterministic pseudo-random numbers.
fn drawing(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut random = seed;
    move |most| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    }
}

/// A limit on concurrent streams over all gateways. Those of a crashed gateway are released after
/// ten seconds; all others stay counted, even if the store loses its data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_at_a_time_are_counted_across_gateways() {
    const STREAMS: usize = 10;
    let (engine, mut redis) = (
        Engine::start(|_| {
            vec![
                Step::text(sse::STREAM_HEAD),
                Step::chunk(sse::role()),
                Step::AwaitClose(Duration::from_secs(120)),
            ]
        })
        .await,
        Redis::start().await,
    );
    let text = shared(&engine, &redis, &format!("unit: streams, amount: {STREAMS}"), "")
        .replace(", window: 30d", "");
    let mut gateways = gateways(&text).await;
    let mut streams: Vec<Vec<Client>> = Vec::new();
    for gateway in &gateways {
        let mut mine = Vec::new();
        for _ in 0..3 {
            mine.extend(open(gateway).await);
        }
        streams.push(mine);
    }
    assert_eq!(streams.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
    // A client that leaves releases its stream.
    streams[0].pop();
    let other = &gateways[3];
    eventually_open(other, &mut streams[3], 1).await;
    // All gateways report their streams to a restarted store.
    redis.kill();
    redis.restart().await;
    for gateway in &gateways {
        gateway.wait_until(|g| g.metric("llm_lens_store_up", "") == 1.0).await;
    }
    for gateway in &gateways {
        let answered = gateway.metric("llm_lens_store_successes_total", "");
        gateway
            .wait_until(|g| g.metric("llm_lens_store_successes_total", "") > answered + 1.0)
            .await;
    }
    assert!(open(&gateways[0]).await.is_none());
    // One gateway crashes with three streams.
    gateways.remove(1).signal(nix::sys::signal::Signal::SIGKILL);
    assert!(open(&gateways[0]).await.is_none());
    eventually_open(&gateways[0], &mut streams[0], 3).await;
    assert!(open(&gateways[0]).await.is_none());
}

/// Opens another stream; `None` if the limit is reached.
async fn open(gateway: &Gateway) -> Option<Client> {
    let mut client = gateway.client().await;
    client.post(CHAT, "", &request(",\"stream\":true")).await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.contains(" 200 ") || head.contains(" 429 "), "{head}");
    head.contains(" 200 ").then_some(client)
}

/// Opens more streams, as earlier ones are released.
async fn eventually_open(gateway: &Gateway, streams: &mut Vec<Client>, more: usize) {
    let until = std::time::Instant::now() + Duration::from_secs(30);
    for _ in 0..more {
        loop {
            if let Some(client) = open(gateway).await {
                streams.push(client);
                break;
            }
            assert!(std::time::Instant::now() < until, "no place became free");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn waiting() -> Vec<Step> {
    vec![
        Step::text(sse::STREAM_HEAD),
        Step::chunk(sse::role()),
        Step::AwaitClose(Duration::from_secs(120)),
    ]
}

/// The store executes a command, but its answer is late: the stream is not counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_store_answer_counts_no_stream() {
    let (engine, redis) = (Engine::start(|_| waiting()).await, Redis::start().await);
    let text = shared(&engine, &redis, "unit: streams, amount: 4", ", on_failure: closed")
        .replace(", window: 30d", "");
    let gateway = Gateway::with_settings(&text).await;
    gateway.wait_until(|g| g.metric("llm_lens_store_up", "") == 1.0).await;
    let mut streams = vec![open(&gateway).await.expect("a place")];
    redis.command(&["CLIENT", "PAUSE", "400", "ALL"]);
    assert!(open(&gateway).await.is_none(), "the store does not answer");
    gateway.wait_until(|g| g.metric("llm_lens_store_failures_total", "") >= 1.0).await;
    eventually_open(&gateway, &mut streams, 3).await;
    assert!(open(&gateway).await.is_none());
}

/// A change of the number of replicas keeps the limit: running streams stay counted, and are
/// released at their end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counted_streams_survive_a_reload() {
    let (engine, redis) = (Engine::start(|_| waiting()).await, Redis::start().await);
    let text = shared(&engine, &redis, "unit: streams, amount: 2", "").replace(", window: 30d", "");
    let gateway = Gateway::with_settings(&text).await;
    gateway.wait_until(|g| g.metric("llm_lens_store_up", "") == 1.0).await;
    let mut streams =
        vec![open(&gateway).await.expect("a place"), open(&gateway).await.expect("another")];
    gateway.write_settings(&text.replace("replicas: 4", "replicas: 3"));
    gateway
        .wait_until(|g| {
            g.metric("llm_lens_reloads_total", "") >= 1.0
                && g.metric("llm_lens_store_up", "") == 1.0
        })
        .await;
    assert!(open(&gateway).await.is_none());
    streams.clear();
    eventually_open(&gateway, &mut streams, 2).await;
    assert!(open(&gateway).await.is_none());
}

/// Streams that run during a drain are charged, also those cut at the end of the grace, and leases
/// are returned: the store has exactly the usage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_ends_leaves_the_store_with_what_was_used() {
    for (grace, events) in [("20s", 60), ("1s", 2000)] {
        let (engine, redis) =
            (Engine::start(move |_| sse::stream(events, 20)).await, Redis::start().await);
        let text = shared(&engine, &redis, "unit: output_tokens, amount: 100000", "")
            .replace("window: 30d", "window: month");
        let mut gateway =
            Gateway::with_settings(&format!("{text}shutdown: {{grace: {grace}}}\n")).await;
        gateway.wait_until(|g| g.metric("llm_lens_store_up", "") == 1.0).await;
        let mut client = gateway.client().await;
        client.post(CHAT, "", &request(",\"stream\":true,\"max_tokens\":10")).await;
        let mut said = read_until(&mut client, "\"content\"").await;
        gateway.signal(nix::sys::signal::Signal::SIGTERM);
        let mut rest = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(client.socket(), &mut rest).await;
        said.push_str(&String::from_utf8_lossy(&rest));
        assert!(gateway.ended(Duration::from_secs(20)).await.is_some());
        let key = redis.command(&["KEYS", "*"]);
        let used: usize =
            redis.command(&["GET", &key]).parse().unwrap_or_else(|_| panic!("{key:?}"));
        let tokens = said.matches("\"content\":\"t").count();
        // Of a stream that is cut some tokens may have been read and not written.
        assert!(
            if events == 60 { used == tokens } else { used >= tokens && used <= tokens + 3 },
            "{used} in the store, {tokens} said"
        );
    }
}

/// The first requests of a gateway use the store, whatever applies while it is unreachable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_requests_of_a_gateway_use_the_store() {
    let (engine, redis) = (Engine::start(|_| sse::chat_answer()).await, Redis::start().await);
    for on_failure in ["closed", "open", "local"] {
        let store = format!(", on_failure: {on_failure}");
        let gateway = Gateway::with_settings(&shared(
            &engine,
            &redis,
            "unit: requests, amount: 1000",
            &store,
        ))
        .await;
        let requests =
            (0..6).map(|_| async { ask(&gateway, CHAT, "x", &request("")).await.status });
        let statuses = futures_util::future::join_all(requests).await;
        assert_eq!(statuses, [200; 6], "{on_failure}");
        assert_eq!(gateway.metric("llm_lens_store_fallbacks_total", ""), 0.0, "{on_failure}");
        assert!(gateway.metric("llm_lens_store_successes_total", "") > 0.0, "{on_failure}");
    }
}
