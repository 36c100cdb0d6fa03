//! Pools of real processes' sockets: who is asked, who is left alone, what a retry hides.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kit::{Engine, Gateway, Step, sse};
use lens::record::Outcome;

use crate::support::{ask, eventually, field, settled};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";

/// Settings with a pool `p` of engines `b0`, `b1` ..., and one route `r` to it. `pool` and `route` are more members, each with a comma before it.
fn settings(engines: &[&Engine], pool: &str, route: &str, more: &str) -> String {
    settings_with(engines, &vec![""; engines.len()], pool, route, more)
}

/// `members` are more members of each backend.
fn settings_with(engines: &[&Engine], members: &[&str], pool: &str, route: &str, more: &str) -> String {
    let backends = engines.iter().zip(members).enumerate();
    let backends: Vec<String> = backends.map(|(n, (engine, more))| format!("{{name: b{n}, url: '{}'{more}}}", engine.url())).collect();
    let names: Vec<String> = (0..engines.len()).map(|n| format!("b{n}")).collect();
    format!(
        "backends: [{}]\npools: [{{name: p, backends: [{}]{pool}}}]\nroutes: [{{name: r, pool: p{route}}}]\n{more}\n",
        backends.join(", "),
        names.join(", ")
    )
}

async fn good() -> Engine {
    Engine::start(|_| sse::stream(3, 2)).await
}

/// An engine that answers each request with the same steps.
async fn always(steps: Vec<Step>) -> Engine {
    Engine::start(move |_| steps.clone()).await
}

/// How many requests each backend answered, by the header.
fn tally(heads: &[String]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for head in heads {
        let backend = field(head, "x-llm-lens-backend").and_then(|value| value.split(';').next()).unwrap_or("none");
        *tally.entry(backend.to_owned()).or_default() += 1;
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_spreads_requests_over_the_pool() {
    let engines = [good().await, good().await, good().await];
    let engines: Vec<&Engine> = engines.iter().collect();
    for balance in ["peak_ewma", "prefix", "least_tokens", "least_requests", "round_robin", "weighted", "session", "hash"] {
        let gateway = Gateway::with_settings(&settings(&engines, &format!(", balance: {balance}, key: 'header:x-user'"), "", "")).await;
        let mut heads = Vec::new();
        for n in 0..30 {
            let mut client = gateway.client().await;
            client.post(CHAT, &format!("x-user: u{n}\r\nx-request-id: q{n}\r\n"), BODY).await;
            let answer = client.answer().await;
            assert!(answer.complete && answer.status == 200, "{balance}: {} {} {}", answer.head, answer.text(), gateway.stderr());
            heads.push(answer.head);
        }
        let counts = tally(&heads);
        assert_eq!(counts.len(), 3, "{balance}: {counts:?}");
        settled(&gateway).await;
        let record = gateway.record("q0").await;
        assert_eq!(record.routing.pool.as_deref(), Some("p"));
        assert_eq!(record.routing.chosen.as_deref(), Some(if matches!(balance, "session" | "hash") { "affinity" } else { "balanced" }));
        if balance == "round_robin" {
            assert!(counts.values().all(|count| *count == 10), "{counts:?}");
        }
        // The same user comes to the same backend.
        if balance == "session" {
            let mut homes = Vec::new();
            for _ in 0..10 {
                let mut client = gateway.client().await;
                client.post(CHAT, "x-user: u1\r\n", BODY).await;
                homes.push(client.answer().await.head);
            }
            assert_eq!(tally(&homes).len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_before_the_first_token_is_asked_of_another() {
    let refusing = {
        let engine = good().await;
        engine.stop_listening();
        engine
    };
    let broken = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role()), Step::ms(5), Step::Reset];
    let in_stream = vec![
        Step::text(sse::STREAM_HEAD),
        Step::chunk("data: {\"error\":{\"message\":\"no\",\"type\":\"server_error\",\"code\":500}}\n\n"),
        Step::end(),
    ];
    let torn = vec![
        Step::text("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"choices\""),
        Step::ms(5),
        Step::Reset,
    ];
    for (what, engine, code) in [
        ("no connection", refusing, "backend_connect_failed"),
        ("a reset", always(vec![Step::Reset]).await, "backend_closed"),
        ("an error", always(sse::json(503, "{\"error\":{\"message\":\"busy\"}}")).await, "http_503"),
        ("too many", always(sse::json(429, "{}")).await, "http_429"),
        ("a freeze", always(vec![Step::Hang]).await, "backend_first_byte_timeout"),
        (
            "a role and then nothing",
            always(vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role()), Step::Hang]).await,
            "upstream_idle_timeout",
        ),
        ("a role and then a reset", always(broken).await, "upstream_died"),
        ("an error in the stream", always(in_stream).await, "http_500"),
        ("half a document", always(torn).await, "upstream_died"),
    ] {
        let other = good().await;
        let more = "timeouts: {first_byte: 300ms, between_events: 300ms}";
        let route = ", retries: {most: 1, always: 100}";
        // Round robin begins with the first.
        let gateway =
            Gateway::with_settings(&settings(&[&engine, &other], ", balance: round_robin, ejection: {consecutive: 0}", route, more)).await;
        let answer = ask(&gateway, CHAT, "x", BODY).await;
        assert!(
            answer.status == 200 && answer.complete && answer.text().ends_with("data: [DONE]\n\n"),
            "{what}: {} {}",
            answer.head,
            answer.text()
        );
        assert_eq!(answer.text().matches("\"role\":\"assistant\"").count(), 1, "{what}: nothing of the first is heard");
        settled(&gateway).await;
        let record = gateway.record("x").await;
        assert_eq!((record.outcome, record.backend.as_deref()), (Outcome::Ok, Some("b1")), "{what}");
        let failed: Vec<(&str, &str)> =
            record.routing.failed_attempts.iter().map(|attempt| (&*attempt.backend, attempt.code.as_str())).collect();
        assert_eq!(failed.len(), 1, "{what}: {failed:?}");
        assert_eq!(failed[0].0, "b0");
        assert!(answer.field("x-llm-lens-backend").is_some_and(|field| field.contains("failed=b0:")), "{}", answer.head);
        assert!(failed[0].1 == code || !code.starts_with("http_"), "{what}: {failed:?}");
        assert_eq!(record.ledger_us.total(), record.total_us, "the ledger closes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_does_wrong_is_asked_of_nobody_else_and_ejects_nobody() {
    let engines = [always(sse::json(400, "{\"error\":{\"message\":\"wrong\"}}")).await, always(sse::json(404, "{}")).await];
    let gateway = Gateway::with_settings(&settings(&[&engines[0], &engines[1]], ", balance: round_robin", "", "")).await;
    for n in 0..40 {
        let answer = ask(&gateway, CHAT, &n.to_string(), BODY).await;
        assert_eq!(answer.status, if n % 2 == 0 { 400 } else { 404 });
    }
    assert_eq!(engines.iter().map(|engine| engine.seen().len()).sum::<usize>(), 40);
    assert_eq!(gateway.metric("llm_lens_backend_ejections_total", "backend=\"b0\""), 0.0);
}

/// The same when the engine says so in its stream: nobody else is asked, nobody is left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_mistake_that_is_told_in_the_stream_is_his_too() {
    let wrong = "data: {\"error\":{\"message\":\"too long\",\"type\":\"BadRequestError\",\"code\":400}}\n\ndata: [DONE]\n\n";
    let steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(wrong), Step::end()];
    let engines = [always(steps.clone()).await, always(steps).await];
    let pool = ", balance: round_robin, ejection: {consecutive: 2}";
    let gateway = Gateway::with_settings(&settings(&[&engines[0], &engines[1]], pool, "", "")).await;
    for n in 0..20 {
        assert!(ask(&gateway, CHAT, &n.to_string(), BODY).await.text().contains("BadRequestError"));
    }
    assert_eq!(engines.iter().map(|engine| engine.seen().len()).sum::<usize>(), 20);
    for backend in ["b0", "b1"] {
        assert_eq!(gateway.metric("llm_lens_backend_ejections_total", &format!("backend=\"{backend}\"")), 0.0);
    }
}

/// A budget that ends with the very first read, while the head is kept back for that read's sake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_ends_before_the_head_is_told_ends_the_stream_properly() {
    let mut body = sse::role();
    (0..60).for_each(|n| body.push_str(&sse::content(&format!("t{n}"))));
    let steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(body), Step::AwaitClose(Duration::from_secs(20))];
    let engines = [always(steps.clone()).await, always(steps).await];
    let limits = "rate_limits: [{name: t, of: output_tokens, amount: 20, every: 30d, per: all}]";
    let gateway = Gateway::with_settings(&settings(&[&engines[0], &engines[1]], "", "", limits)).await;
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(answer.complete && answer.text().contains("\"finish_reason\":\"length\""), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_everybody_has_is_passed_on_and_retries_have_a_budget() {
    let engines = [
        always(sse::json(503, "{\"error\":{\"message\":\"all busy\"}}")).await,
        always(sse::json(503, "{\"error\":{\"message\":\"all busy\"}}")).await,
    ];
    let route = ", retries: {most: 3, budget: 0.1, always: 0}";
    let gateway =
        Gateway::with_settings(&settings(&[&engines[0], &engines[1]], ", ejection: {consecutive: 0, failure_rate: 0}", route, "")).await;
    for n in 0..100 {
        let answer = ask(&gateway, CHAT, &n.to_string(), BODY).await;
        assert_eq!((answer.status, answer.text().contains("all busy")), (503, true), "the engine's own words");
    }
    let asked: usize = engines.iter().map(|engine| engine.seen().len()).sum();
    assert!((105..=110).contains(&asked), "a tenth is asked twice: {asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_is_left_alone_and_tried_again() {
    let sick = Arc::new(AtomicBool::new(true));
    let patient = sick.clone();
    let engine = Engine::start(move |_| if patient.load(Ordering::Relaxed) { sse::json(500, "{}") } else { sse::stream(3, 2) }).await;
    let other = good().await;
    let pool = ", balance: round_robin, ejection: {consecutive: 3, base: 500ms}";
    let gateway = Gateway::with_settings(&settings(&[&engine, &other], pool, ", retries: {always: 100}", "")).await;
    for n in 0..20 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(engine.seen().len(), 3, "three failures in a row, and it is left alone");
    let state = |gateway: &Gateway, state: &str| gateway.metric("llm_lens_backend_state", &format!("backend=\"b0\",state=\"{state}\""));
    assert_eq!(state(&gateway, "ejected"), 1.0);
    assert!(gateway.get("/api/backends").1.contains("consecutive_failures"));
    assert!(gateway.stderr().contains("backend b0 is left alone"), "{}", gateway.stderr());
    sick.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(600)).await;
    // The next request tries it.
    let answer = ask(&gateway, CHAT, "trial", BODY).await;
    assert!(
        answer.field("x-llm-lens-backend").is_some_and(|field| field.starts_with("b0; ") && field.contains("reason=trial")),
        "{}",
        answer.head
    );
    settled(&gateway).await;
    assert_eq!(state(&gateway, "up"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_take_a_backend_down_and_up() {
    let sick = Arc::new(AtomicBool::new(false));
    let patient = sick.clone();
    let engine = Engine::start(move |seen| match seen.head.starts_with("GET /health ") {
        true if patient.load(Ordering::Relaxed) => sse::json(503, "{}"),
        true => sse::json(200, "{}"),
        false => sse::stream(3, 2),
    })
    .await;
    let other = good().await;
    let health = ", health: {interval: 100ms, timeout: 1s, unhealthy: 2, healthy: 2}";
    let text = settings_with(&[&engine, &other], &[health, ""], ", balance: round_robin", "", "");
    let gateway = Gateway::with_settings(&text).await;
    let asked = || engine.seen().iter().filter(|seen| seen.head.starts_with("POST")).count();
    eventually("it is checked", || engine.seen().len() >= 2).await;
    sick.store(true, Ordering::Relaxed);
    gateway.until(|g| g.metric("llm_lens_backend_state", "backend=\"b0\",state=\"down\"") == 1.0).await;
    let before = asked();
    for n in 0..6 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(asked(), before);
    sick.store(false, Ordering::Relaxed);
    gateway.until(|g| g.metric("llm_lens_backend_state", "backend=\"b0\",state=\"up\"") == 1.0).await;
    for n in 0..6 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(asked(), before + 3);
    assert!(gateway.stderr().contains("backend b0 is down: it answered 503"), "{}", gateway.stderr());
    // Who is not checked any more is not down any more.
    sick.store(true, Ordering::Relaxed);
    gateway.until(|g| g.metric("llm_lens_backend_state", "backend=\"b0\",state=\"down\"") == 1.0).await;
    gateway.write_settings(&text.replace(health, ""));
    gateway.until(|g| g.metric("llm_lens_backend_state", "backend=\"b0\",state=\"up\"") == 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_fall_back_to_others_under_their_own_names_for_the_model() {
    let edge = always(sse::json(503, "{}")).await;
    let cloud = good().await;
    let text = format!(
        "backends: [{{name: e, url: '{}'}}, {{name: c, url: '{}'}}]\n\
         pools: [{{name: edge, tier: edge, backends: [e]}}, {{name: cloud, tier: cloud, backends: [c], model: 'big \\\"one\\\"'}}]\n\
         routes: [{{name: r, pool: edge, fallback: [cloud], usage: inject}}]\n",
        edge.url(),
        cloud.url()
    );
    let gateway = Gateway::with_settings(&text.replace('\\', "")).await;
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(
        answer.complete && answer.field("x-llm-lens-backend").is_some_and(|field| field.starts_with("c; pool=cloud; ")),
        "{}",
        answer.head
    );
    let seen = cloud.seen();
    let body: serde_json::Value =
        serde_json::from_slice(&seen[0].body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&seen[0].body)));
    assert_eq!((body["model"].as_str(), body["stream_options"]["include_usage"].as_bool()), (Some("big \"one\""), Some(true)));
    let body: serde_json::Value = serde_json::from_slice(&edge.seen()[0].body).expect("JSON");
    assert_eq!(body["model"], "m");
    settled(&gateway).await;
    assert_eq!(gateway.record("x").await.routing.pool.as_deref(), Some("cloud"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_where_they_can_be_served() {
    let engines = [good().await, good().await];
    let members = [", models: [m], lacks: [tools, vision], context_length: 1000", ", models: [m, other], context_length: 8000"];
    let gateway = Gateway::with_settings(&settings_with(&[&engines[0], &engines[1]], &members, "", "", "")).await;
    let request = |more: &str| format!("{{\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]{more}}}");
    for body in [
        request(",\"model\":\"other\""),
        request(",\"model\":\"m\",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"),
        request(",\"model\":\"m\",\"max_tokens\":2000"),
        "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"http://x/y.png\"}}]}]}".into(),
    ] {
        for _ in 0..5 {
            let answer = ask(&gateway, CHAT, "x", &body).await;
            assert_eq!(tally(std::slice::from_ref(&answer.head)), [("b1".to_owned(), 1)].into(), "{body}");
        }
    }
    // The same of pools with one backend each.
    let text = format!(
        "backends: [{{name: a, url: '{}', context_length: 100}}, {{name: b1, url: '{}'}}]\npools: [{{name: p, backends: [a]}}, {{name: q, backends: [b1]}}]\n\
         routes: [{{name: r, pool: p, fallback: [q]}}]\n",
        engines[0].url(),
        engines[1].url()
    );
    let pools = Gateway::with_settings(&text).await;
    let answer = ask(&pools, CHAT, "x", &request(",\"model\":\"m\",\"max_tokens\":2000")).await;
    assert_eq!(tally(std::slice::from_ref(&answer.head)), [("b1".to_owned(), 1)].into());
    let nobody = ask(&gateway, CHAT, "x", &request(",\"model\":\"third\"")).await;
    assert_eq!((nobody.status, nobody.error_code().as_str()), (503, "no_backend"));
}

/// A change of the settings in the middle of streams: who is taken out of a pool finishes what he began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_come_and_go_under_running_streams() {
    let engines = [Engine::start(|_| sse::stream(40, 20)).await, Engine::start(|_| sse::stream(40, 20)).await];
    let two = settings(&[&engines[0], &engines[1]], ", balance: round_robin", "", "");
    let gateway = Gateway::with_settings(&two).await;
    let streams = futures_util::future::join_all((0..8).map(|n| {
        let gateway = &gateway;
        async move { ask(gateway, CHAT, &n.to_string(), BODY).await }
    }));
    let changes = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        gateway.write_settings(&two.replace("backends: [b0, b1]", "backends: [b1]"));
        gateway.until(|g| g.metric("llm_lens_reloads_total", "") >= 1.0).await;
    };
    let (answers, ()) = tokio::join!(streams, changes);
    assert!(answers.iter().all(|answer| answer.complete && answer.text().ends_with("data: [DONE]\n\n")));
    let before = engines[0].seen().len();
    assert_eq!(before, 4);
    for n in 0..4 {
        assert!(ask(&gateway, CHAT, &n.to_string(), BODY).await.complete);
    }
    assert_eq!(engines[0].seen().len(), before);
}

/// The time to the first token of a stream that is read to its end; whether that was a proper one.
async fn ttft(gateway: &Gateway, id: &str) -> (Duration, bool) {
    let began = Instant::now();
    let mut client = gateway.client().await;
    client.post(CHAT, &format!("x-request-id: {id}\r\n"), BODY).await;
    let mut read = Vec::new();
    let mut first = None;
    while tokio::io::AsyncReadExt::read_buf(client.socket(), &mut read).await.is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&read);
        if first.is_none() && text.contains("\"content\":\"t") {
            first = Some(began.elapsed());
        }
        if text.ends_with("0\r\n\r\n") {
            return (first.unwrap_or_else(|| began.elapsed()), text.contains("data: [DONE]"));
        }
    }
    (first.unwrap_or_else(|| began.elapsed()), false)
}

/// So many requests of so many clients; times to first token in order, and how many did not end well.
async fn times(gateway: &Gateway, clients: usize, requests: usize) -> (Vec<Duration>, usize) {
    let all = Mutex::new(Vec::new());
    let client = |number: usize| {
        let all = &all;
        async move {
            for n in 0..requests / clients {
                let timed = ttft(gateway, &format!("c{number}-{n}")).await;
                all.lock().expect("no panic").push(timed);
            }
        }
    };
    futures_util::future::join_all((0..clients).map(client)).await;
    let all = all.into_inner().expect("no panic");
    let broken = all.iter().filter(|(_, well)| !well).count();
    let mut times: Vec<Duration> = all.into_iter().map(|(time, _)| time).collect();
    times.sort();
    (times, broken)
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

/// A stream whose first token comes after that time.
fn after_ms(ms: u64) -> Vec<Step> {
    let mut steps = vec![Step::ms(ms)];
    steps.extend(sse::stream(3, 2));
    steps
}

/// Of four engines one is ten times slower, one dies, and one freezes in mid-stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_engines_are_nobodys_business() {
    let _alone = crate::support::alone().await;
    let slow = Engine::start(|_| after_ms(1000)).await;
    let good = Engine::start(|_| after_ms(100)).await;
    let (frozen, dying) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (freezes, dies) = (frozen.clone(), dying.clone());
    let freezing = Engine::start(move |_| match freezes.load(Ordering::Relaxed) {
        false => after_ms(100),
        true => vec![Step::ms(100), Step::text(sse::STREAM_HEAD), Step::chunk(sse::role()), Step::chunk(sse::content("t0 ")), Step::Hang],
    })
    .await;
    let mortal = Engine::start(move |_| if dies.load(Ordering::Relaxed) { vec![Step::Reset] } else { after_ms(100) }).await;
    let more = "timeouts: {between_events: 400ms, first_byte: 5s}";
    let alone = Gateway::with_settings(&settings(&[&good], "", "", more)).await;
    let (without, broken) = times(&alone, 8, 240).await;
    assert_eq!(broken, 0);
    let gateway =
        Gateway::with_settings(&settings(&[&slow, &good, &freezing, &mortal], ", ejection: {most: 0.8}", ", retries: {always: 50}", more))
            .await;
    // They are known as good, then they are not, and a moment later that is known.
    let (_, broken) = times(&gateway, 8, 80).await;
    assert_eq!(broken, 0);
    frozen.store(true, Ordering::Relaxed);
    dying.store(true, Ordering::Relaxed);
    let (_, broken_at_first) = times(&gateway, 8, 80).await;
    assert!(broken_at_first <= 16, "those that were in the middle of a stream: {broken_at_first}");
    let (with, broken) = times(&gateway, 8, 400).await;
    let (with, without) = (p99(&with), p99(&without));
    assert!(with <= without.mul_f64(1.3), "{with:?} against {without:?}: {}", gateway.get("/api/backends").1);
    // What a retry can hide is hidden; what froze after its first token cannot be.
    assert!(broken <= 8, "{broken}");
    settled(&gateway).await;
    let records = gateway.records();
    assert!(
        records.iter().any(|record| record.routing.failed_attempts.iter().any(|attempt| &*attempt.backend == "b3")),
        "a death is told in records"
    );
    assert!(
        records.iter().filter(|record| record.outcome != Outcome::Ok).all(|record| record.backend.as_deref() == Some("b2")),
        "only a freeze shows"
    );
    for (backend, cause) in [("b2", "consecutive_failures"), ("b3", "consecutive_failures")] {
        assert!(gateway.stderr().contains(&format!("backend {backend} is left alone")), "{cause}: {}", gateway.stderr());
        assert!(gateway.metric("llm_lens_backend_ejections_total", &format!("backend=\"{backend}\"")) >= 1.0);
    }
}

/// One of four stalls now and then: asking another then halves the tail at least, for few more requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hedges_cut_the_tail() {
    const REQUESTS: usize = 480;
    let _alone = crate::support::alone().await;
    let turn = Arc::new(AtomicUsize::new(0));
    let stalling = Engine::start(move |_| after_ms(if turn.fetch_add(1, Ordering::Relaxed) % 7 == 6 { 800 } else { 10 })).await;
    let others = [Engine::start(|_| after_ms(10)).await, Engine::start(|_| after_ms(10)).await, Engine::start(|_| after_ms(10)).await];
    let engines = [&stalling, &others[0], &others[1], &others[2]];
    let pool = ", balance: round_robin, ejection: {slower_than: 0}";
    let asked = || engines.iter().map(|engine| engine.seen().len()).sum::<usize>();
    let plain = Gateway::with_settings(&settings(&engines, pool, "", "")).await;
    let (without, broken) = times(&plain, 4, REQUESTS).await;
    assert_eq!((broken, asked()), (0, REQUESTS));
    let before = asked();
    let gateway = Gateway::with_settings(&settings(&engines, pool, ", hedge: {after: 100ms}", "")).await;
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
    let hedged: Vec<_> = gateway.records().into_iter().filter_map(|record| Some((record.backend?, record.routing.hedge?))).collect();
    assert_eq!(hedged.len(), extra);
    assert!(hedged.iter().all(|(backend, hedge)| hedge.won == (*backend == hedge.backend) && hedge.after_us >= 99_000), "{hedged:?}");
    eventually("who lost is cut off at once", || stalling.closed_early() >= extra * 8 / 10).await;
    // The percentile of the backend itself serves as well, when it is known.
    let by_itself = Gateway::with_settings(&settings(&engines, pool, ", hedge: {}", "")).await;
    times(&by_itself, 4, 160).await;
    by_itself.until(|g| g.get("/api/backends").1.contains("\"ttft_p95_ms\":1")).await;
    times(&by_itself, 4, 160).await;
    assert!(by_itself.metric("llm_lens_hedges_total", "pool=\"p\"") >= 1.0);
}

/// An engine that does one request after the other, each in that time.
async fn one_by_one(service: Duration) -> Engine {
    let (began, busy_until) = (Instant::now(), Arc::new(Mutex::new(Duration::ZERO)));
    Engine::start(move |seen| {
        let now = seen.at.duration_since(began);
        let mut busy_until = busy_until.lock().expect("no panic");
        *busy_until = busy_until.max(now) + service;
        let mut steps = vec![Step::At(busy_until.saturating_sub(now))];
        steps.extend(sse::stream(3, 2));
        steps
    })
    .await
}

/// Requests that come by themselves, in bursts that are more than the edge can do; the mean time to first token.
async fn mean_of_bursts(gateway: &Gateway, seconds: u64) -> Duration {
    let (began, times) = (Instant::now(), Mutex::new(Vec::new()));
    let arrivals: Vec<Duration> = (0..seconds)
        .flat_map(|second| {
            // Twelve a second, half of them in the first quarter.
            let burst = (0..6).map(move |n| Duration::from_millis(1000 * second + 40 * n));
            burst.chain((0..6).map(move |n| Duration::from_millis(1000 * second + 300 + 110 * n)))
        })
        .collect();
    let one = |at: Duration, n: usize| {
        let (times, gateway) = (&times, &*gateway);
        async move {
            tokio::time::sleep(at.saturating_sub(began.elapsed())).await;
            let (time, well) = ttft(gateway, &format!("a{n}")).await;
            assert!(well);
            times.lock().expect("no panic").push(time);
        }
    };
    futures_util::future::join_all(arrivals.into_iter().enumerate().map(|(n, at)| one(at, n))).await;
    let times = times.into_inner().expect("no panic");
    times.iter().sum::<Duration>() / times.len() as u32
}

/// An edge that is near and has one engine, a cloud that is far and has many: the policy is better than either alone, and knows beforehand how long it
/// takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_beats_edge_and_cloud_alone() {
    let _alone = crate::support::alone().await;
    let edge = one_by_one(Duration::from_millis(70)).await;
    let cloud = Engine::start(|_| after_ms(40)).await;
    let far = kit::delay::Delay::to(cloud.address, Duration::from_millis(40)).await;
    let text = |route: &str| {
        format!(
            "backends: [{{name: e, url: '{}'}}, {{name: c, url: '{}'}}]\n\
             pools: [{{name: edge, tier: edge, backends: [e]}}, {{name: cloud, tier: cloud, backends: [c]}}]\n\
             routes: [{{name: r, {route}}}]\n",
            edge.url(),
            far.url()
        )
    };
    let only_edge = mean_of_bursts(&Gateway::with_settings(&text("pool: edge")).await, 5).await;
    let only_cloud = mean_of_bursts(&Gateway::with_settings(&text("pool: cloud")).await, 3).await;
    let gateway = Gateway::with_settings(&text("pool: edge, fallback: [cloud], offload: {}")).await;
    mean_of_bursts(&gateway, 3).await;
    let policy = mean_of_bursts(&gateway, 8).await;
    let told = gateway.get("/api/backends").1;
    assert!(policy < only_edge && policy < only_cloud, "{policy:?}; edge {only_edge:?}, cloud {only_cloud:?}: {told}");
    settled(&gateway).await;
    let mut errors: Vec<f64> = gateway
        .records()
        .iter()
        .take(90)
        .filter_map(|record| {
            let (predicted, took) = (record.routing.predicted_ttft_us? as f64, record.engine_ttft_us? as f64);
            Some((predicted - took).abs() / took)
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    assert!(median < 0.2, "{median} of {}: {told}", errors.len());
    for (pool, why) in [("edge", "edge_better"), ("cloud", "cloud_better")] {
        assert!(
            gateway.records().iter().any(|r| r.routing.pool.as_deref() == Some(pool) && r.routing.offload.as_deref() == Some(why)),
            "{pool} {why}"
        );
    }
    let explained: serde_json::Value = serde_json::from_str(&gateway.get("/api/routes/explain?route=r&prompt_tokens=7").1).expect("JSON");
    assert_eq!((explained["goes_to"].as_str(), explained["offload"].as_str()), (Some("edge"), Some("edge_better")), "{explained:#}");
    assert!(
        explained["pools"][1]["backends"][0]["predicted"]["ttft"].as_f64().is_some_and(|ttft| (0.1..0.2).contains(&ttft)),
        "{explained:#}"
    );
    assert_eq!(gateway.get("/api/routes/explain?route=nowhere").0, 400);
    assert_eq!(gateway.get("/api/routes/explain?prompt_tokens=many").0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_for_the_edge_goes_to_the_cloud() {
    let dead = Arc::new(AtomicBool::new(false));
    let dies = dead.clone();
    let edge = Engine::start(move |_| if dies.load(Ordering::Relaxed) { vec![Step::Reset] } else { sse::stream(3, 2) }).await;
    let cloud = good().await;
    let text = format!(
        "backends: [{{name: e, url: '{}'}}, {{name: c, url: '{}'}}]\npools: [{{name: edge, backends: [e]}}, {{name: cloud, backends: [c]}}]\n\
         routes: [{{name: r, pool: edge, fallback: [cloud], offload: {{ttft: 5s, prompt_tokens: 100, output_tokens: 600, tools: true, header: 'x-hard: Yes'}}}}]\n",
        edge.url(),
        cloud.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let request = |content: &str, more: &str| {
        format!("{{\"model\":\"m\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"{content}\"}}]{more}}}")
    };
    for (fields, body, want) in [
        ("", request("hi", ""), "e; pool=edge; reason=only; offload=stays"),
        ("x-hard: no\r\n", request("hi", ""), "e; pool=edge; reason=only; offload=stays"),
        ("x-hard: Yes\r\n", request("hi", ""), "c; pool=cloud; reason=only; offload=asked"),
        ("", request(&"word ".repeat(100), ""), "c; pool=cloud; reason=only; offload=prompt_tokens"),
        ("", request("hi", ",\"max_tokens\":601"), "c; pool=cloud; reason=only; offload=output_tokens"),
        (
            "",
            request("hi", ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"),
            "c; pool=cloud; reason=only; offload=tools",
        ),
    ] {
        let mut client = gateway.client().await;
        client.post(CHAT, fields, &body).await;
        assert_eq!(client.answer().await.field("x-llm-lens-backend"), Some(want));
    }
    dead.store(true, Ordering::Relaxed);
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(
        answer.complete && answer.field("x-llm-lens-backend").is_some_and(|field| field.starts_with("c; pool=cloud; ")),
        "{}",
        answer.head
    );
}

/// Blue and green under load: by the admin listener and by the file, forth and back, and nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_switched_and_taken_back_under_load() {
    let _alone = crate::support::alone().await;
    let engines = [Engine::start(|_| sse::stream(10, 10)).await, Engine::start(|_| sse::stream(10, 10)).await];
    let text = format!(
        "backends: [{{name: b, url: '{}'}}, {{name: g, url: '{}'}}]\npools: [{{name: blue, backends: [b]}}, {{name: green, backends: [g]}}]\n\
         routes: [{{name: r, pool: blue, candidate: {{pool: green, share: 0}}}}]\n",
        engines[0].url(),
        engines[1].url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let (ends, began) = (AtomicBool::new(false), Instant::now());
    let heads = Mutex::new(Vec::new());
    let client = |number: usize| {
        let (gateway, ends, heads) = (&gateway, &ends, &heads);
        async move {
            for n in 0.. {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let at = began.elapsed();
                let answer = ask(gateway, CHAT, &format!("{number}-{n}"), BODY).await;
                assert!(answer.status == 200 && answer.complete && answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.head);
                let backend = field(&answer.head, "x-llm-lens-backend").unwrap_or_default().starts_with("g;");
                heads.lock().expect("no panic").push((at, backend));
            }
        }
    };
    let switching = async {
        let mut switched = Vec::new();
        let after = |ms| tokio::time::sleep(Duration::from_millis(ms));
        for (by_file, share) in [(false, "1"), (false, "0"), (true, "1.0"), (true, "0.0")] {
            after(600).await;
            switched.push((began.elapsed(), share.starts_with('1')));
            if by_file {
                gateway.write_settings(&text.replace("share: 0", &format!("share: {share}")));
            } else {
                let (status, told) = gateway.post(&format!("/api/routes/release?route=r&share={share}"), "x-llm-lens-operator: me\r\n");
                assert_eq!(status, 200, "{told}");
            }
            after(1500).await;
        }
        ends.store(true, Ordering::Relaxed);
        switched
    };
    let (_, switched) = tokio::join!(futures_util::future::join_all((0..6).map(client)), switching);
    let heads = heads.into_inner().expect("no panic");
    for (number, (at, to_green)) in switched.iter().enumerate() {
        let until = switched.get(number + 1).map_or(Duration::MAX, |(next, _)| *next);
        // From a second after it on, all are where they should be.
        let late: Vec<_> = heads.iter().filter(|(begun, _)| *begun > *at + Duration::from_secs(1) && *begun < until).collect();
        assert!(!late.is_empty() && late.iter().all(|(_, green)| green == to_green), "{number}: {late:?}");
    }
    // What the page of a stranger could send does nothing.
    assert_eq!(gateway.post("/api/routes/release?route=r&share=1", "").0, 400);
    assert_eq!(gateway.metric("llm_lens_candidate_share", "route=\"r\""), 0.0);
}

/// A new version gets a share by key, and loses it when it is worse; what it fails at, the old one answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_is_worse_is_taken_back() {
    for (candidate, why) in [(sse::json(500, "{}"), "of its requests fail"), (after_ms(60), "95th percentile")] {
        let (old, new) = (good().await, always(candidate).await);
        let text = format!(
            "backends: [{{name: o, url: '{}'}}, {{name: n, url: '{}'}}]\npools: [{{name: old, backends: [o]}}, {{name: new, backends: [n]}}]\n\
             routes: [{{name: r, pool: old, retries: {{always: 1000}}, candidate: {{pool: new, share: 0.4, key: 'header:x-user', min_requests: 30, slower: 3}}}}]\n",
            old.url(),
            new.url()
        );
        let gateway = Gateway::with_settings(&text).await;
        let mut homes: BTreeMap<String, bool> = BTreeMap::new();
        for n in 0..160 {
            let user = format!("u{}", n % 20);
            let mut client = gateway.client().await;
            client.post(CHAT, &format!("x-user: {user}\r\n"), BODY).await;
            let answer = client.answer().await;
            assert!(answer.status == 200 && answer.complete, "{why}: {}", answer.text());
            if why.starts_with("95th") && gateway.metric("llm_lens_candidate_rolled_back", "route=\"r\"") == 0.0 {
                let new = answer.field("x-llm-lens-backend").is_some_and(|field| field.contains("version=candidate"));
                assert_eq!(*homes.entry(user).or_insert(new), new, "a user stays with a version");
            }
        }
        gateway.until(|g| g.metric("llm_lens_candidate_rolled_back", "route=\"r\"") == 1.0).await;
        assert!(gateway.stderr().contains("the candidate is taken back") && gateway.stderr().contains(why), "{}", gateway.stderr());
        let before = new.seen().len();
        for n in 0..20 {
            let mut client = gateway.client().await;
            client.post(CHAT, &format!("x-user: u{n}\r\n"), BODY).await;
            assert_eq!(client.answer().await.status, 200);
        }
        assert_eq!(new.seen().len(), before);
    }
}

/// An engine that goes on with the last message where it is asked to, and says these words in all; it dies behind so many of them, if it does.
async fn reciter(dies_behind: Option<usize>) -> Engine {
    const WORDS: [&str; 8] = ["The ", "sea ", "is ", "wide,", " deep", " and", " c\\u00f6ld", "."];
    Engine::start(move |seen| {
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let begun = body["messages"].as_array().and_then(|all| all.last()).filter(|last| last["role"] == "assistant");
        let said = begun.and_then(|last| last["content"].as_str()).unwrap_or_default().to_owned();
        assert_eq!(begun.is_some(), body["continue_final_message"] == true && body["add_generation_prompt"] == false);
        let plain = |word: &str| word.replace("\\u00f6", "ö");
        let mut length = 0;
        let known = WORDS
            .iter()
            .take_while(|word| (length + plain(word).len() <= said.len()).then(|| length += plain(word).len()).is_some())
            .count();
        assert_eq!(WORDS[..known].concat().replace("\\u00f6", "ö"), said, "nothing is repeated or lost");
        let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role())];
        for (at, word) in WORDS.iter().enumerate().skip(known) {
            if dies_behind == Some(at) {
                // In the middle of the next event.
                steps.extend([Step::chunk(&sse::content(word)[..60]), Step::ms(5), Step::Reset]);
                return steps;
            }
            steps.extend([Step::ms(3), Step::chunk(sse::content(word))]);
        }
        steps.extend([
            Step::chunk(sse::finish()),
            Step::chunk(sse::usage(5, (WORDS.len() - known) as u64)),
            Step::chunk(sse::done()),
            Step::end(),
        ]);
        steps
    })
    .await
}

/// What a client has heard of a stream.
fn heard(text: &str) -> (String, usize, bool) {
    let events: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}")))
        .collect();
    let said = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    let roles = events.iter().filter(|event| event["choices"][0]["delta"]["role"].is_string()).count();
    (said, roles, events.iter().any(|event| event["error"].is_object()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_survives_the_death_of_its_backend() {
    for (route, marked) in [(", continuation: on", false), (", continuation: marked, usage: inject", true)] {
        let engines = [reciter(Some(3)).await, reciter(Some(6)).await, reciter(None).await];
        let engines: Vec<&Engine> = engines.iter().collect();
        let gateway =
            Gateway::with_settings(&settings(&engines, ", balance: round_robin", &format!("{route}, retries: {{always: 100}}"), "")).await;
        let answer = ask(&gateway, CHAT, "x", &BODY.replace("\"stream\":true", "\"stream\":true,\"max_tokens\":50")).await;
        let (said, roles, failed) = heard(&answer.text());
        assert_eq!((said.as_str(), roles, failed), ("The sea is wide, deep and cöld.", 1, false), "{}", answer.text());
        assert!(answer.complete && answer.text().ends_with("data: [DONE]\n\n"));
        assert_eq!(answer.text().contains(": continued by b1\n\n"), marked);
        settled(&gateway).await;
        let record = gateway.record("x").await;
        assert_eq!((record.outcome, record.backend.as_deref()), (Outcome::Ok, Some("b2")));
        let seams: Vec<(&str, u64)> = record.routing.seams.iter().map(|seam| (&*seam.backend, seam.after_tokens)).collect();
        // Of who has died nobody knows how many tokens these were: a quarter of 25 bytes, which is more than six events.
        assert_eq!(seams, [("b1", 3), ("b2", 7)]);
        let usage = record.usage.as_ref().expect("usage");
        assert_eq!((usage.completion_tokens, usage.estimated), (Some(7 + 2), true));
        assert_eq!(record.finish_reasons, ["stop"]);
        assert_eq!(record.ledger_us.total(), record.total_us);
        // What may still be said is less by what was said.
        let bodies: Vec<serde_json::Value> =
            engines.iter().map(|engine| serde_json::from_slice(&engine.seen()[0].body).expect("JSON")).collect();
        assert_eq!(bodies.iter().map(|body| body["max_tokens"].as_u64()).collect::<Vec<_>>(), [Some(50), Some(47), Some(43)]);
    }
}

/// Off, or where it cannot be right, and when nobody is left: the ordinary error, and no end that looks like one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_cannot_go_on_ends_with_an_error() {
    let with = |more: &str| BODY.replace("\"stream\":true", &format!("\"stream\":true{more}"));
    for (route, body, asked) in [
        ("", with(""), 1),
        (", continuation: on", with(",\"response_format\":{\"type\":\"json_object\"}"), 1),
        (", continuation: on", with(",\"logprobs\":true"), 1),
        (", continuation: on", with(",\"n\":2"), 1),
        (", continuation: on", with(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"), 1),
        // The second dies where the first did.
        (", continuation: on", with(""), 2),
    ] {
        let engines = [reciter(Some(3)).await, reciter(Some(3)).await];
        let gateway = Gateway::with_settings(&settings(&[&engines[0], &engines[1]], ", balance: round_robin", route, "")).await;
        let answer = ask(&gateway, CHAT, "x", &body).await;
        let text = answer.text();
        assert!(!answer.complete && !text.contains("[DONE]"), "{route} {body}: {text}");
        let error = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter_map(|data| serde_json::from_str::<serde_json::Value>(data).ok())
            .find(|event| event["error"].is_object());
        assert!(error.is_some(), "{route} {body}: {text}");
        assert_eq!(engines.iter().map(|engine| engine.seen().len()).sum::<usize>(), asked, "{route} {body}");
        settled(&gateway).await;
        assert_eq!(gateway.record("x").await.outcome, Outcome::UpstreamFailed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_engines_say_of_themselves_is_shown_while_it_is_fresh() {
    let silent = Arc::new(AtomicBool::new(false));
    let says = silent.clone();
    let engine = Engine::start(move |seen| match seen.head.starts_with("GET /prefix/metrics ") {
        true if says.load(Ordering::Relaxed) => sse::json(404, "{}"),
        true => {
            let page = "# TYPE x gauge\nvllm:num_requests_running{engine=\"0\"} 3.0\nvllm:num_requests_waiting{engine=\"0\"} 7.0\nvllm:kv_cache_usage_perc 0.5\n";
            vec![Step::text(format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{page}", page.len()))]
        }
        false => sse::stream(2, 1),
    })
    .await;
    let text = format!(
        "backends: [{{name: b0, url: '{}/prefix', signals: {{interval: 200ms}}}}]\npools: [{{name: p, backends: [b0]}}]\nroutes: [{{name: r, pool: p}}]\n",
        engine.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    gateway.until(|g| g.get("/metrics").1.lines().any(|line| line.starts_with("llm_lens_engine_waiting{") && line.ends_with(" 7"))).await;
    assert_eq!(gateway.metric("llm_lens_engine_cache_ratio", "backend=\"b0\""), 0.5);
    assert!(ask(&gateway, CHAT, "x", BODY).await.complete);
    settled(&gateway).await;
    assert_eq!(gateway.record("x").await.routing.engine_waiting, Some(7));
    silent.store(true, Ordering::Relaxed);
    gateway.until(|g| !g.get("/metrics").1.contains("llm_lens_engine_waiting{")).await;
}

/// Another program writes who is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_of_a_file_come_and_go() {
    let engines = [good().await, good().await, good().await];
    let file = kit::gateway::folder().join("edge.txt");
    let write = |lines: &[String]| {
        let next = file.with_extension("next");
        std::fs::write(&next, format!("# who is there\n\n{}\n", lines.join("\n"))).expect("it is writable");
        std::fs::rename(next, &file).expect("it is writable");
    };
    write(&[engines[0].url(), engines[1].url()]);
    let text = format!(
        "backends: [{{name: model, url: 'http://127.0.0.1:1', api_key: the-key}}]\n\
         pools: [{{name: p, backends_file: '{}', like: model, balance: round_robin}}]\nroutes: [{{name: r, pool: p}}]\n",
        file.display()
    );
    let gateway = Gateway::with_settings(&text).await;
    let counts = || engines.iter().map(|engine| engine.seen().len()).collect::<Vec<_>>();
    for n in 0..6 {
        assert!(ask(&gateway, CHAT, &n.to_string(), BODY).await.complete);
    }
    assert_eq!(counts(), [3, 3, 0]);
    assert_eq!(field(&engines[0].seen()[0].head, "authorization"), Some("Bearer the-key"));
    write(&[engines[1].url(), engines[2].url()]);
    gateway.until(|g| g.metric("llm_lens_reloads_total", "") >= 1.0).await;
    for n in 0..6 {
        assert!(ask(&gateway, CHAT, &n.to_string(), BODY).await.complete);
    }
    assert_eq!(counts(), [3, 6, 3]);
    write(&["ftp://nowhere".to_owned()]);
    gateway.until(|g| g.metric("llm_lens_reload_failures_total", "") >= 1.0).await;
    assert!(gateway.stderr().contains("edge.txt:3: \"ftp://nowhere\""), "{}", gateway.stderr());
    assert!(ask(&gateway, CHAT, "x", BODY).await.complete);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_asked_the_same_and_nobody_hears_it() {
    let (engine, shadow) = (good().await, Engine::start(|_| after_ms(300)).await);
    let text = format!(
        "backends: [{{name: e, url: '{}'}}, {{name: s, url: '{}'}}]\npools: [{{name: p, backends: [e]}}, {{name: q, backends: [s], model: new}}]\n\
         routes: [{{name: r, pool: p, mirror: {{pool: q, share: 1}}}}]\n",
        engine.url(),
        shadow.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let began = Instant::now();
    for n in 0..5 {
        let answer = ask(&gateway, CHAT, &n.to_string(), BODY).await;
        assert!(answer.complete && answer.text().ends_with("data: [DONE]\n\n"));
    }
    assert!(began.elapsed() < Duration::from_millis(1000), "nobody waits for it");
    gateway.until(|g| g.metric("llm_lens_mirrored_requests_total", "route=\"r\",ended=\"well\"") == 5.0).await;
    let mean = gateway.metric("llm_lens_mirrored_ttft_microseconds_total", "route=\"r\"")
        / gateway.metric("llm_lens_mirrored_first_tokens_total", "route=\"r\"");
    assert!((0.3e6..0.6e6).contains(&mean), "{mean}");
    let body: serde_json::Value = serde_json::from_slice(&shadow.seen()[0].body).expect("JSON");
    assert_eq!((body["model"].as_str(), engine.seen().len(), shadow.seen().len()), (Some("new"), 5, 5));
    assert_eq!(gateway.records().len(), 5);
}
