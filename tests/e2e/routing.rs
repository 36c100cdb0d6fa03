//! Pools of real processes' sockets: who is asked, who is left alone, what a retry hides.

mod continuation;
mod discovery;
mod edge;
mod tail;
mod versions;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kit::{Engine, Gateway, Step, sse};
use lens::State;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_when_to_ask_again_is_asked_then() {
    let busy = |seconds: &'static str| {
        let head = format!("HTTP/1.1 429 X\r\nretry-after: {seconds}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}");
        always(vec![Step::text(head)])
    };
    let engines = [busy("2").await, good().await];
    let pool = ", balance: round_robin, ejection: {consecutive: 0}";
    let gateway = Gateway::with_settings(&settings(&[&engines[0], &engines[1]], pool, ", retries: {always: 100}", "")).await;
    let began = Instant::now();
    for n in 0..20 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "this machine is too slow for this test");
    assert_eq!(engines[0].seen().len(), 1, "it is left alone, and is not ill");
    let (_, backends) = gateway.get("/api/backends");
    assert!(backends.contains("\"state\":\"resting\"") && backends.contains("\"cause\":\"retry_after\""), "{backends}");
    assert_eq!(gateway.metric("llm_lens_backend_state", "state=\"resting\""), 1.0);
    tokio::time::sleep(Duration::from_millis(2_100).saturating_sub(began.elapsed())).await;
    for n in 20..24 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(engines[0].seen().len(), 2);

    // What it says of a client's own key is for that client.
    let engines = [busy("30").await, good().await];
    let gateway = Gateway::with_settings(&settings(&[&engines[0], &engines[1]], pool, ", retries: {always: 100}", "")).await;
    for n in 0..6 {
        let mut client = gateway.client().await;
        client.post(CHAT, &format!("x-request-id: k{n}\r\nauthorization: Bearer mine\r\n"), BODY).await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(engines[0].seen().len(), 6, "a retry goes on in the circle");

    // All say so: what one says is passed on, and each request is asked of one only, once that is known.
    let date = "Sun, 06 Nov 2095 08:49:37 GMT";
    let engines = [busy(date).await, busy("100000").await];
    let gateway = Gateway::with_settings(&settings(&[&engines[0], &engines[1]], pool, ", retries: {always: 100}", "")).await;
    for n in 0..5 {
        let answer = ask(&gateway, CHAT, &n.to_string(), BODY).await;
        assert!(answer.status == 429 && answer.field("retry-after").is_some(), "{}", answer.head);
    }
    assert_eq!(engines.iter().map(|engine| engine.seen().len()).sum::<usize>(), 2 + 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_of_the_same_zone_are_asked_while_one_is_well() {
    let engines = [good().await, good().await, good().await];
    let all: Vec<&Engine> = engines.iter().collect();
    let members = [", zone: far", ", zone: near", ", zone: near"];
    let gateway = Gateway::with_settings(&settings_with(&all, &members, "", "", "zone: near")).await;
    let counts = || engines.each_ref().map(|engine| engine.seen().len());
    for n in 0..20 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert!(counts()[0] == 0 && counts()[1] > 0 && counts()[2] > 0, "{:?}", counts());
    let elsewhere = gateway.metric("llm_lens_reloads_total", "");
    gateway.write_settings(&settings_with(&all, &members, "", "", "zone: far"));
    gateway.until(|g| g.metric("llm_lens_reloads_total", "") > elsewhere).await;
    let before = counts();
    for n in 20..40 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(counts(), [20, before[1], before[2]]);
    engines[0].stop_listening();
    assert!(gateway.get("/api/backends").1.contains("\"zone\":\"far\""));
}

/// What passes through unread tells of its backend as well: four failures and a success, again and again, are no five in a row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_through_tells_of_successes_too() {
    let turn = Arc::new(AtomicUsize::new(0));
    let shaky = Engine::start(move |_| sse::json(if turn.fetch_add(1, Ordering::Relaxed) % 5 == 4 { 200 } else { 500 }, "{}")).await;
    let well = always(sse::json(200, "{}")).await;
    let pool = ", balance: round_robin, ejection: {failure_rate: 0}";
    let gateway = Gateway::with_settings(&settings(&[&shaky, &well], pool, "", "")).await;
    for n in 0..40 {
        ask(&gateway, "/v1/rerank", &n.to_string(), "{}").await;
    }
    assert_eq!((shaky.seen().len(), well.seen().len()), (20, 20));
    assert_eq!(gateway.metric("llm_lens_backend_ejections_total", ""), 0.0);
    assert_eq!(gateway.metric("llm_lens_backend_failures_total", "backend=\"b0\""), 16.0);
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

/// A stream whose first token comes after that time.
fn after_ms(ms: u64) -> Vec<Step> {
    let mut steps = vec![Step::ms(ms)];
    steps.extend(sse::stream(3, 2));
    steps
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
