//! The pipeline as a whole, up to where it would connect; and settling, however a request ends.

use std::sync::atomic::Ordering;

use lens::record::Outcome;
use pipeline::ExchangeGuard;
use pipeline::stage::rate_limit;

use super::kit::{CHAT, Client, Read, chat, records, shared};
use plan::Target;

async fn serve(mut exchange: ExchangeGuard, read: Read, client: &mut Client) -> bool {
    pipeline::serve(&mut exchange, read.incoming(), client).await
}

#[tokio::test]
async fn a_refusal_is_one_error_object_and_one_record() {
    let secrets = "guardrails: [{name: s, input_secrets: block}]";
    let key = "AKIAIOSFODNN7EXAMPLQ";
    for (route, more, read, status, code) in [
        (", match: {path: /no_route_group}", "", chat("x"), 404, "no_route"),
        (
            ", pool: p",
            "",
            Read::post(CHAT, "", "{\"model\":\"unknown\",\"messages\":[]}"),
            503,
            "no_backend",
        ),
        (", guardrail: s", secrets, chat(&format!("my key is {key}")), 400, "content_blocked"),
        (
            ", validation: strict",
            "",
            Read::post(CHAT, "", "{\"model\":\"m\"}"),
            400,
            "invalid_value",
        ),
        (
            "",
            "rate_limits: [{name: t, unit: input_tokens, amount: 5, window: 1h}]",
            chat(&"x".repeat(400)),
            429,
            "rate_limit_exceeded",
        ),
        // Nothing listens there.
        ("", "", chat("x"), 502, "upstream_connect_failed"),
    ] {
        let shared = shared("", route, more);
        let mut client = Client::default();
        let (exchange, admitted) = read.open(&shared);
        admitted.expect("admitted");
        let id = exchange.accepted.id.clone();
        serve(exchange, read, &mut client).await;
        assert_eq!(
            (client.status, client.code().as_str(), client.ended),
            (Some(status), code, Some(true)),
            "{code}"
        );
        assert!(
            client.fields.contains(&format!("x-request-id: {id}\r\n")),
            "{code}: {}",
            client.fields
        );
        assert!(!String::from_utf8_lossy(&client.body).contains(key));
        let records = records(&shared);
        assert_eq!(records.len(), 1, "{code}");
        let record = &records[0];
        assert_eq!(
            (&*record.id, record.http_status, record.error_code.as_deref()),
            (&*id, Some(status), Some(code))
        );
        assert_eq!(record.ledger_us.total(), record.total_us, "{code}: the ledger closes");
        assert_eq!(shared.observatory.gauges().panics.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn a_request_that_is_dropped_anywhere_settles() {
    let shared =
        shared("", "", "rate_limits: [{name: t, unit: total_tokens, amount: 1000, window: 1h}]");
    for step in 0..3 {
        let read = chat("x");
        let mut exchange = if step == 0 { read.open(&shared).0 } else { read.routed(&shared) };
        if step == 2 {
            rate_limit::reserve(&mut exchange).await.expect("it fits");
        }
        drop(exchange);
        let records = records(&shared);
        assert_eq!((records.len(), records[0].outcome), (step + 1, Outcome::ClientGone));
        assert_eq!(records[0].ledger_us.total(), records[0].total_us);
    }
}

/// A client that leaves while its prompt is checked gets no answer, and its request ends there.
#[tokio::test]
async fn a_client_that_left_is_not_answered() {
    let shared = shared(
        "",
        ", guardrail: s",
        "guardrails: [{name: s, judges: [{name: j, backend: c, input: block}]}]",
    );
    let read = chat("x");
    let (exchange, _) = read.open(&shared);
    let mut client = Client::default();
    client.gone.store(true, Ordering::Relaxed);
    assert!(!serve(exchange, read, &mut client).await);
    assert_eq!(client.status, None);
    let record = &records(&shared)[0];
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::ClientGone, Some("client_closed"))
    );
}

/// Requests that the gateway sheds because a backend is at capacity do not count: their clients
/// send them again.
#[tokio::test]
async fn shed_requests_give_back_their_place_in_limits() {
    let limits = "rate_limits: [{name: t, unit: requests, amount: 3, window: day, per: all}]";
    for (backend, code) in [
        (", admission: {max_requests: 1, queue: 0}", "overloaded"),
        (", max_connections: 1", "backend_busy"),
    ] {
        let shared = shared(backend, "", limits);
        let plan = shared.plan.load_full();
        let upstream = plan.routes[0].upstream(Target::default()).expect("a backend").clone();
        let full = (
            upstream.queue.as_ref().map(|queue| queue.enter(1, 0).expect("it is free")),
            upstream.permit().expect("it is free"),
        );
        for _ in 0..4 {
            let read = chat("x");
            let mut client = Client::default();
            let (exchange, admitted) = read.open(&shared);
            admitted.expect("admitted");
            serve(exchange, read, &mut client).await;
            assert_eq!((client.status, client.code().as_str()), (Some(503), code));
        }
        drop(full);
        // Requests that fail for another reason count.
        for left in [2, 1, 0] {
            let read = chat("x");
            let mut client = Client::default();
            let (exchange, _) = read.open(&shared);
            serve(exchange, read, &mut client).await;
            assert_eq!(client.code(), "upstream_connect_failed", "{code}: {left} left");
        }
        let mut fourth = chat("x").routed(&shared);
        assert_eq!(rate_limit::reserve(&mut fourth).await.map_err(|no| no.status), Err(429));
    }
}

/// The same for clients that leave while their requests wait.
#[tokio::test]
async fn clients_that_leave_the_queue_give_back_their_place_in_limits() {
    let limits = "rate_limits: [{name: t, unit: requests, amount: 1, window: day, per: all}]";
    let shared = shared(", admission: {max_requests: 1, queue: 4, max_wait: 1m}", "", limits);
    let plan = shared.plan.load_full();
    let upstream = plan.routes[0].upstream(Target::default()).expect("a backend").clone();
    let queue = upstream.queue.as_ref().expect("the settings have one");
    let _full = queue.enter(1, 0).expect("it is free");
    for _ in 0..3 {
        let read = chat("x");
        let mut client = Client::default();
        client.gone.store(true, Ordering::Relaxed);
        let (exchange, admitted) = read.open(&shared);
        admitted.expect("admitted");
        assert!(!serve(exchange, read, &mut client).await);
    }
    for record in records(&shared) {
        assert_eq!(record.error_code.as_deref(), Some("client_closed"));
    }
    let mut next = chat("x").routed(&shared);
    assert_eq!(rate_limit::reserve(&mut next).await.map_err(|no| no.status), Ok(()));
}
