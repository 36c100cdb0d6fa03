//! Admission: permits, the queue, and shedding.

use std::time::{Duration, Instant};

use kit::{Engine, Gateway, Step, sse};
use lens::record::Outcome;

use super::{CHAT, Keyed, bearer, endless, request};
use crate::support::{ask, field, id, read_until, settings, settled};

/// How long the engine takes for a request.
const SERVICE: Duration = Duration::from_millis(40);
/// Maximum concurrent requests of the engine.
const PLACES: usize = 4;

async fn slow_engine() -> Engine {
    Engine::start(|_| {
        let mut steps = vec![Step::ms(SERVICE.as_millis() as u64)];
        steps.extend(sse::chat_answer());
        steps
    })
    .await
}

fn admission(engine: &Engine, members: &str) -> String {
    settings(&engine.url(), &format!(", models: [m], admission: {{{members}}}"), "", "")
}

/// Clients that send their next request as soon as they have an answer, for `time`; returns fields,
/// status and duration of each request.
async fn load(gateway: &Gateway, clients: &[&str], time: Duration) -> Vec<(String, u16, Duration)> {
    let until = Instant::now() + time;
    let one = |fields: String| async move {
        let (mut client, mut answers) = (gateway.client().await, Vec::new());
        while Instant::now() < until {
            let asked = Instant::now();
            client.post(CHAT, &fields, &request(",\"max_tokens\":5")).await;
            let Some(answer) = client.maybe_answer().await else {
                client = gateway.client().await;
                continue;
            };
            answers.push((fields.clone(), answer.status, asked.elapsed()));
            if answer.status != 200 {
                // Clients back off; the load is still five times the capacity.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        answers
    };
    let all =
        futures_util::future::join_all(clients.iter().map(|fields| one((*fields).to_owned())))
            .await;
    all.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_keeps_goodput_and_higher_priority_is_admitted_first() {
    let _alone = crate::support::alone().await;
    let engine = slow_engine().await;
    let members = format!("max_requests: {PLACES}, queue: 8, max_wait: 200ms");
    let gateway = Gateway::with_settings(&admission(&engine, &members)).await;
    let time = Duration::from_secs(3);
    let served = |answers: &[(String, u16, Duration)]| {
        answers.iter().filter(|(_, status, _)| *status == 200).count()
    };
    // As many clients as permits: the engine is as busy as it can be, and no request waits.
    let peak = served(&load(&gateway, &[""; PLACES], time).await);
    let low = "x-llm-lens-priority: 1\r\n";
    let mut clients = vec![low; 5 * PLACES - 2];
    clients.extend(["x-llm-lens-priority: 5\r\n"; 2]);
    let answers = load(&gateway, &clients, time).await;
    let goodput = served(&answers);
    assert!(
        goodput * 10 >= peak * 9,
        "{goodput} served at five times the capacity, {peak} at the peak"
    );
    let (high, lower): (Vec<_>, Vec<_>) =
        answers.iter().cloned().partition(|(fields, ..)| fields != low);
    assert!(high.iter().all(|(_, status, _)| *status == 200), "the important are never shed");
    let mut waits: Vec<Duration> = high.iter().map(|(.., took)| *took).collect();
    waits.sort_unstable();
    assert!(
        waits[waits.len() / 2] < SERVICE * 3,
        "and wait for one place only: {:?}",
        waits[waits.len() / 2]
    );
    let shed = lower.iter().filter(|(_, status, _)| *status == 503).count();
    assert!(shed > 0);
    // Time of the gateway for shed requests, from its ledger: that of the client includes the load
    // of this machine.
    let mut took: Vec<u64> = gateway
        .records()
        .iter()
        .filter(|r| {
            r.error_code.as_deref() == Some("overloaded")
                && r.ledger_us.micros(lens::State::Queue) < 1000
        })
        .map(|r| r.total_us)
        .collect();
    took.sort_unstable();
    assert!(!took.is_empty() && took[took.len() / 2] < 5000, "{took:?}");
    settled(&gateway).await;
    let count = |reason: &str| {
        gateway.metric("llm_lens_shed_requests_total", &format!("reason=\"{reason}\""))
    };
    assert_eq!(
        (count("queue_full") + count("too_late") + count("timed_out")) as usize,
        shed,
        "the metrics tell the story"
    );
    assert!(
        gateway.metric("llm_lens_queued_requests_total", "") > 0.0
            && gateway.metric("llm_lens_queue_seconds_count", "") > 0.0
    );
    assert_eq!(
        (
            gateway.metric("llm_lens_queue_depth", ""),
            gateway.metric("llm_lens_admitted_in_flight", "")
        ),
        (0.0, 0.0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_task_is_accounted_as_waiting() {
    let engine = endless().await;
    let gateway =
        Gateway::with_settings(&admission(&engine, "max_requests: 1, max_wait: 300ms")).await;
    let mut first = gateway.client().await;
    first.post(CHAT, "", &request(",\"stream\":true")).await;
    read_until(&mut first, "t1").await;
    let shed = ask(&gateway, CHAT, "late", &request("")).await;
    assert_eq!((shed.status, shed.error_code().as_str()), (503, "overloaded"));
    assert!(
        shed.field("retry-after")
            .is_some_and(|after| after.parse::<u64>().is_ok_and(|after| after >= 1))
    );
    let late = gateway.record("late").await;
    assert!(
        (300_000..2_000_000).contains(&late.ledger_us.micros(lens::State::Queue)),
        "{:?}",
        late.ledger_us
    );
    assert_eq!((late.outcome, late.ledger_us.total()), (Outcome::Rejected, late.total_us));
    // A queued request whose client disconnects leaves the queue, and a queued one is served when
    // the first stream ends.
    let mut leaves = gateway.client().await;
    leaves.post(CHAT, "", &request("")).await;
    gateway.wait_until(|g| g.metric("llm_lens_queue_depth", "") == 1.0).await;
    drop(leaves);
    gateway.wait_until(|g| g.metric("llm_lens_queue_depth", "") == 0.0).await;
    let mut second = gateway.client().await;
    second.post(CHAT, "x-request-id: second\r\n", &request(",\"stream\":true")).await;
    gateway.wait_until(|g| g.metric("llm_lens_queue_depth", "") == 1.0).await;
    drop(first);
    read_until(&mut second, "t1").await;
    drop(second);
    settled(&gateway).await;
    assert!(gateway.record("second").await.ledger_us.micros(lens::State::Queue) > 0);
    assert_eq!(gateway.metric("llm_lens_admitted_in_flight", ""), 0.0);
}

/// A tenant with many long requests delays the short one of another by one of them, not by all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_take_turns() {
    let engine = Engine::start(|seen| {
        let name = field(&seen.head, "x-request-id").unwrap_or_default().to_owned();
        let mut steps = vec![Step::ms(if name.starts_with("long") { 120 } else { 10 })];
        steps.extend(sse::chat_answer());
        steps
    })
    .await;
    let (keyed, keys) = Keyed::start_with(
        &engine,
        ", admission: {max_requests: 1}",
        "",
        "",
        &[&["--owner", "a"], &["--owner", "b"]],
    )
    .await;
    let gateway = &keyed.gateway;
    let ask = |key: usize, name: String, tokens: u32| {
        let fields = format!("x-request-id: {name}\r\n{}", bearer(&keys[key]));
        async move {
            let mut client = gateway.client().await;
            client.post(CHAT, &fields, &request(&format!(",\"max_tokens\":{tokens}"))).await;
            assert_eq!(client.answer().await.status, 200);
        }
    };
    let long = futures_util::future::join_all((0..6).map(|at| ask(0, format!("long{at}"), 2000)));
    let short = async {
        gateway.wait_until(|g| g.metric("llm_lens_queue_depth", "") == 5.0).await;
        ask(1, "short".into(), 10).await;
    };
    tokio::join!(long, short);
    let order: Vec<String> = engine
        .seen()
        .iter()
        .map(|seen| field(&seen.head, "x-request-id").unwrap_or_default().to_owned())
        .collect();
    let at = order.iter().position(|name| name == "short").expect("it was served");
    assert!(at <= 2, "{order:?}");
}

/// Whose requests share a turn: those of an owner, of a key, or with the same value of a header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_owners_keys_or_header_values() {
    for (tenant, want) in [
        ("", ["a1", "b1", "a2", "a3"]),
        (", tenant: key", ["a1", "a3", "b1", "a2"]),
        (", tenant: 'header:X-Team'", ["a1", "a2", "a3", "b1"]),
    ] {
        let engine = Engine::start(|seen| match id(seen) {
            "first" => vec![Step::AwaitClose(Duration::from_secs(60))],
            _ => sse::chat_answer(),
        })
        .await;
        let (keyed, keys) = Keyed::start_with(
            &engine,
            &format!(", admission: {{max_requests: 1{tenant}}}"),
            "",
            "",
            &[&["--owner", "a"], &["--owner", "a"], &["--owner", "b"]],
        )
        .await;
        let gateway = &keyed.gateway;
        let send = async |name: &str, key: usize, team: &str| {
            let fields =
                format!("x-request-id: {name}\r\nx-team: {team}\r\n{}", bearer(&keys[key]));
            let mut client = gateway.client().await;
            client.post(CHAT, &fields, &request(",\"max_tokens\":20")).await;
            client
        };
        let first = send("first", 0, "x").await;
        gateway.wait_until(|g| g.metric("llm_lens_admitted_in_flight", "") == 1.0).await;
        let mut clients = Vec::new();
        for (name, key, team) in [("a1", 0, "x"), ("a2", 0, "y"), ("a3", 1, "z"), ("b1", 2, "x")] {
            clients.push(send(name, key, team).await);
            let waiting = clients.len() as f64;
            gateway.wait_until(|g| g.metric("llm_lens_queue_depth", "") == waiting).await;
        }
        drop(first);
        for client in &mut clients {
            assert_eq!(client.answer().await.status, 200);
        }
        let seen = engine.seen();
        let order: Vec<_> = seen.iter().map(id).filter(|name| *name != "first").collect();
        assert_eq!(order, want, "{tenant}");
    }
}
