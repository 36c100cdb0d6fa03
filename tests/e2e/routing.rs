//! Pools over real sockets: selection, ejection, retries.

mod discovery;
mod edge;
mod health;
mod resume;
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
const BODY: &str =
    "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";

/// Settings with a pool `p` of engines `b0`, `b1` ..., and one route `r` to it. `pool` and `route`
/// are more members, each with a comma before it.
fn settings(engines: &[&Engine], pool: &str, route: &str, more: &str) -> String {
    settings_with(engines, &vec![""; engines.len()], pool, route, more)
}

/// `members` are more members of each backend.
fn settings_with(
    engines: &[&Engine],
    members: &[&str],
    pool: &str,
    route: &str,
    more: &str,
) -> String {
    let backends = engines.iter().zip(members).enumerate();
    let backends: Vec<String> = backends
        .map(|(n, (engine, more))| format!("{{name: b{n}, url: '{}'{more}}}", engine.url()))
        .collect();
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

/// Head, role and comment at once, and the first token after `ms` milliseconds.
fn promising(ms: u64) -> Vec<Step> {
    let mut steps = vec![
        Step::text(sse::STREAM_HEAD),
        Step::chunk(sse::role()),
        Step::chunk(": still there\n\n"),
        Step::ms(ms),
    ];
    steps.extend(sse::stream(3, 2).split_off(2));
    steps
}

/// How many requests each backend answered, by the header.
fn tally(heads: &[String]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for head in heads {
        let backend = field(head, "x-llm-lens-backend")
            .and_then(|value| value.split(';').next())
            .unwrap_or("none");
        *tally.entry(backend.to_owned()).or_default() += 1;
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_spreads_requests_over_the_pool() {
    let engines = [good().await, good().await, good().await];
    let engines: Vec<&Engine> = engines.iter().collect();
    for balance in [
        "peak_ewma",
        "prefix",
        "least_tokens",
        "least_requests",
        "round_robin",
        "weighted",
        "session",
        "hash",
    ] {
        let gateway = Gateway::with_settings(&settings(
            &engines,
            &format!(", balance: {balance}, key: 'header:x-user'"),
            "",
            "",
        ))
        .await;
        let mut heads = Vec::new();
        for n in 0..30 {
            let mut client = gateway.client().await;
            client.post(CHAT, &format!("x-user: u{n}\r\nx-request-id: q{n}\r\n"), BODY).await;
            let answer = client.answer().await;
            assert!(
                answer.complete && answer.status == 200,
                "{balance}: {} {} {}",
                answer.head,
                answer.text(),
                gateway.stderr()
            );
            heads.push(answer.head);
        }
        let counts = tally(&heads);
        assert_eq!(counts.len(), 3, "{balance}: {counts:?}");
        settled(&gateway).await;
        let record = gateway.record("q0").await;
        assert_eq!(record.routing.pool.as_deref(), Some("p"));
        assert_eq!(
            record.routing.chosen.as_deref(),
            Some(if matches!(balance, "session" | "hash") { "affinity" } else { "balanced" })
        );
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
async fn failures_before_the_first_token_are_retried() {
    let refusing = {
        let engine = good().await;
        engine.stop_listening();
        engine
    };
    let broken =
        vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role()), Step::ms(5), Step::Reset];
    let in_stream = vec![
        Step::text(sse::STREAM_HEAD),
        Step::chunk(
            "data: {\"error\":{\"message\":\"no\",\"type\":\"server_error\",\"code\":500}}\n\n",
        ),
        Step::end(),
    ];
    let torn = vec![
        Step::text(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"choices\"",
        ),
        Step::ms(5),
        Step::Reset,
    ];
    for (what, engine, code) in [
        ("no connection", refusing, "upstream_connect_failed"),
        ("a reset", always(vec![Step::Reset]).await, "upstream_closed"),
        (
            "an error",
            always(sse::json(503, "{\"error\":{\"message\":\"busy\"}}")).await,
            "http_503",
        ),
        ("too many", always(sse::json(429, "{}")).await, "http_429"),
        ("a freeze", always(vec![Step::Hang]).await, "upstream_first_byte_timeout"),
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
        let route = ", retries: {max: 1, min_per_second: 100}";
        // Round robin begins with the first.
        let gateway = Gateway::with_settings(&settings(
            &[&engine, &other],
            ", balance: round_robin, ejection: {consecutive: 0}",
            route,
            more,
        ))
        .await;
        let answer = ask(&gateway, CHAT, "x", BODY).await;
        assert!(
            answer.status == 200 && answer.complete && answer.text().ends_with("data: [DONE]\n\n"),
            "{what}: {} {}",
            answer.head,
            answer.text()
        );
        assert_eq!(
            answer.text().matches("\"role\":\"assistant\"").count(),
            1,
            "{what}: nothing of the first is heard"
        );
        settled(&gateway).await;
        let record = gateway.record("x").await;
        assert_eq!(
            (record.outcome, record.backend.as_deref()),
            (Outcome::Ok, Some("b1")),
            "{what}"
        );
        let failed: Vec<(&str, &str)> = record
            .routing
            .failed_attempts
            .iter()
            .map(|attempt| (&*attempt.backend, attempt.code.as_str()))
            .collect();
        assert_eq!(failed.len(), 1, "{what}: {failed:?}");
        assert_eq!(failed[0].0, "b0");
        assert!(
            answer.field("x-llm-lens-backend").is_some_and(|field| field.contains("failed=b0:")),
            "{}",
            answer.head
        );
        assert_eq!(failed[0].1, code, "{what}");
        assert_eq!(record.ledger_us.total(), record.total_us, "the ledger closes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_of_the_same_zone_are_preferred_while_one_is_healthy() {
    let engines = [good().await, good().await, good().await];
    let all: Vec<&Engine> = engines.iter().collect();
    let members = [", zone: far", ", zone: near", ", zone: near"];
    let gateway =
        Gateway::with_settings(&settings_with(&all, &members, "", "", "zone: near")).await;
    let counts = || engines.each_ref().map(|engine| engine.seen().len());
    for n in 0..20 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert!(counts()[0] == 0 && counts()[1] > 0 && counts()[2] > 0, "{:?}", counts());
    let elsewhere = gateway.metric("llm_lens_reloads_total", "");
    gateway.write_settings(&settings_with(&all, &members, "", "", "zone: far"));
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") > elsewhere).await;
    let before = counts();
    for n in 20..40 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(counts(), [20, before[1], before[2]]);
    engines[0].stop_listening();
    assert!(gateway.get("/api/backends").1.contains("\"zone\":\"far\""));
}

/// A budget that ends with the first read, while the head is held for that read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budget_that_ends_with_the_first_read_ends_the_stream_properly() {
    let mut body = sse::role();
    (0..60).for_each(|n| body.push_str(&sse::content(&format!("t{n}"))));
    let steps = vec![
        Step::text(sse::STREAM_HEAD),
        Step::chunk(body),
        Step::AwaitClose(Duration::from_secs(20)),
    ];
    let engines = [always(steps.clone()).await, always(steps).await];
    let limits = "rate_limits: [{name: t, unit: output_tokens, amount: 20, window: 30d, per: all}]";
    let gateway =
        Gateway::with_settings(&settings(&[&engines[0], &engines[1]], "", "", limits)).await;
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(
        answer.complete && answer.text().contains("\"finish_reason\":\"length\""),
        "{}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_all_backends_is_passed_on_and_retries_have_a_budget() {
    let engines = [
        always(sse::json(503, "{\"error\":{\"message\":\"all busy\"}}")).await,
        always(sse::json(503, "{\"error\":{\"message\":\"all busy\"}}")).await,
    ];
    let route = ", retries: {max: 3, budget: 0.1, min_per_second: 0}";
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        ", ejection: {consecutive: 0, failure_rate: 0}",
        route,
        "",
    ))
    .await;
    for n in 0..100 {
        let answer = ask(&gateway, CHAT, &n.to_string(), BODY).await;
        assert_eq!(
            (answer.status, answer.text().contains("all busy")),
            (503, true),
            "the engine's own words"
        );
    }
    let asked: usize = engines.iter().map(|engine| engine.seen().len()).sum();
    assert!((105..=110).contains(&asked), "a tenth is asked twice: {asked}");
    settled(&gateway).await;
    let [retries, denied] = ["llm_lens_retries_total", "llm_lens_retries_denied_total"]
        .map(|name| gateway.metric(name, "route=\"r\""));
    assert_eq!((retries, retries + denied), (asked as f64 - 100.0, 100.0));
    assert_eq!(
        gateway.records().iter().filter(|record| record.routing.retry_denied).count() as f64,
        denied
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_fall_back_to_others_under_their_own_names_for_the_model() {
    let edge = always(sse::json(503, "{}")).await;
    let cloud = good().await;
    let text = format!(
        "backends: [{{name: e, url: '{}'}}, {{name: c, url: '{}'}}]\n\
         pools: [{{name: edge, tier: edge, backends: [e]}}, {{name: cloud, tier: cloud, backends: [c], model: 'big \\\"one\\\"'}}]\n\
         routes: [{{name: r, pool: edge, fallback: [cloud], include_usage: inject}}]\n",
        edge.url(),
        cloud.url()
    );
    let gateway = Gateway::with_settings(&text.replace('\\', "")).await;
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(
        answer.complete
            && answer
                .field("x-llm-lens-backend")
                .is_some_and(|field| field.starts_with("c; pool=cloud; ")),
        "{}",
        answer.head
    );
    let seen = cloud.seen();
    let body: serde_json::Value = serde_json::from_slice(&seen[0].body)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&seen[0].body)));
    assert_eq!(
        (body["model"].as_str(), body["stream_options"]["include_usage"].as_bool()),
        (Some("big \"one\""), Some(true))
    );
    let body: serde_json::Value = serde_json::from_slice(&edge.seen()[0].body).expect("JSON");
    assert_eq!(body["model"], "m");
    settled(&gateway).await;
    assert_eq!(gateway.record("x").await.routing.pool.as_deref(), Some("cloud"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_where_they_can_be_served() {
    let engines = [good().await, good().await];
    let members = [
        ", models: [m], unsupported: [tools, vision], context_length: 1000",
        ", models: [m, other], context_length: 8000",
    ];
    let gateway =
        Gateway::with_settings(&settings_with(&[&engines[0], &engines[1]], &members, "", "", ""))
            .await;
    let request = |more: &str| {
        format!("{{\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]{more}}}")
    };
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
    let refused = ask(&gateway, CHAT, "x", &request(",\"model\":\"third\"")).await;
    assert_eq!((refused.status, refused.error_code().as_str()), (503, "no_backend"));
}

/// A reload in mid-stream: a removed backend finishes its streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_come_and_go_under_running_streams() {
    let engines = [
        Engine::start(|_| sse::stream(40, 20)).await,
        Engine::start(|_| sse::stream(40, 20)).await,
    ];
    let two = settings(&[&engines[0], &engines[1]], ", balance: round_robin", "", "");
    let gateway = Gateway::with_settings(&two).await;
    let streams = futures_util::future::join_all((0..8).map(|n| {
        let gateway = &gateway;
        async move { ask(gateway, CHAT, &n.to_string(), BODY).await }
    }));
    let changes = async {
        eventually("all streams run", || {
            engines.iter().map(|engine| engine.seen().len()).sum::<usize>() == 8
        })
        .await;
        gateway.write_settings(&two.replace("backends: [b0, b1]", "backends: [b1]"));
        gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") >= 1.0).await;
    };
    let (answers, ()) = tokio::join!(streams, changes);
    assert!(
        answers.iter().all(|answer| answer.complete && answer.text().ends_with("data: [DONE]\n\n"))
    );
    let before = engines[0].seen().len();
    assert_eq!(before, 4);
    for n in 0..4 {
        assert!(ask(&gateway, CHAT, &n.to_string(), BODY).await.complete);
    }
    assert_eq!(engines[0].seen().len(), before);
}

/// TTFT of a stream that is read to its end, and whether it ended properly.
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

/// Sends `requests` requests from `clients` clients; returns the sorted TTFTs and the number of
/// streams that did not end properly.
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

/// Another program writes the backends file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_of_a_file_come_and_go() {
    let engines = [good().await, good().await, good().await];
    let file = kit::gateway::folder().join("edge.txt");
    let write = |lines: &[String]| {
        let next = file.with_extension("next");
        std::fs::write(&next, format!("# who is there\n\n{}\n", lines.join("\n")))
            .expect("it is writable");
        std::fs::rename(next, &file).expect("it is writable");
    };
    write(&[engines[0].url(), engines[1].url()]);
    let text = format!(
        "backends: [{{name: model, url: 'http://127.0.0.1:1', api_key: the-key}}]\n\
         pools: [{{name: p, backends_file: '{}', template: model, balance: round_robin}}]\nroutes: [{{name: r, pool: p}}]\n",
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
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") >= 1.0).await;
    for n in 0..6 {
        assert!(ask(&gateway, CHAT, &n.to_string(), BODY).await.complete);
    }
    assert_eq!(counts(), [3, 6, 3]);
    write(&["ftp://nowhere".to_owned()]);
    gateway.wait_until(|g| g.metric("llm_lens_reload_failures_total", "") >= 1.0).await;
    gateway.wait_for_log("edge.txt:3: \"ftp://nowhere\"").await;
    assert!(ask(&gateway, CHAT, "x", BODY).await.complete);
}

/// A file that is written in pieces is not read before its last line has an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_of_a_file_that_is_still_written_are_not_used() {
    use std::io::Write as _;
    let file = kit::gateway::folder().join("edge.txt");
    std::fs::write(&file, "http://127.0.0.1:19940\n").expect("it is writable");
    let text = format!(
        "backends: [{{name: model, url: 'http://127.0.0.1:1'}}]\n\
         pools: [{{name: p, backends_file: '{}', template: model}}]\nroutes: [{{name: r, pool: p}}]\n",
        file.display()
    );
    let gateway = Gateway::with_settings(&text).await;
    let mut appended = std::fs::OpenOptions::new().append(true).open(&file).expect("it is there");
    appended.write_all(b"http://127.0.0.1:1994").expect("it is writable");
    // Longer than a complete file needs to settle, shorter than one whose last line has no end.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let backends = gateway.get("/api/backends").1;
        assert!(!backends.contains("p/127.0.0.1-1994\""), "half a line was read: {backends}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    appended.write_all(b"1\n").expect("it is writable");
    gateway
        .wait_until(|g| {
            let backends = g.get("/api/backends").1;
            assert!(!backends.contains("p/127.0.0.1-1994\""), "half a line was read: {backends}");
            backends.contains("p/127.0.0.1-19941\"")
        })
        .await;
}
