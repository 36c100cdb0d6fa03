//! Which backend, and what it is sent.

use std::collections::BTreeSet;

use pipeline::ExchangeGuard;
use pipeline::stage::{select, send};
use routing::AttemptResult;

use super::kit::{CHAT, Read, chat, of, shared};

fn backend(exchange: &ExchangeGuard) -> String {
    let upstream =
        exchange.routed.as_ref().and_then(|routed| routed.upstream()).expect("a backend");
    upstream.backend.name.to_string()
}

#[tokio::test]
async fn another_backend_is_chosen_for_what_failed_and_no_third() {
    let shared = shared("", ", pool: p", "");
    let read = chat("x");
    let mut exchange = read.routed(&shared);
    read.with_head(|head| select::prepare(&mut exchange, head, read.body()));
    select::select(&mut exchange).expect("a backend");
    let first = backend(&exchange);
    assert!(select::can_retry(&exchange));
    assert!(select::may_retry(&mut exchange), "the budget has one");
    select::record_failure(&mut exchange, "upstream_connect_failed", None, AttemptResult::Failure);
    select::select(&mut exchange).expect("another one");
    let second = backend(&exchange);
    assert_eq!(BTreeSet::from([&*first, &*second]), BTreeSet::from(["b", "c"]));
    assert!(!select::may_retry(&mut exchange), "both were asked");
}

#[tokio::test]
async fn a_backend_that_fails_is_ejected_and_the_others_get_its_requests() {
    let shared = shared("", ", pool: p", "");
    let read = chat("x");
    let mut failures = 0;
    for _ in 0..40 {
        let mut exchange = read.routed(&shared);
        select::select(&mut exchange).expect("a backend");
        if backend(&exchange) == "b" {
            failures += 1;
            exchange.sent.at = Some(plan::clock::now());
            select::close(&mut exchange, AttemptResult::Failure);
        } else {
            exchange.sent.at = Some(plan::clock::now());
            select::close(&mut exchange, AttemptResult::Success);
        }
    }
    assert!((3..=6).contains(&failures), "{failures} requests went to a backend that fails");
}

#[tokio::test]
async fn a_request_that_no_backend_can_serve_is_refused() {
    let shared = shared("", ", pool: p", "");
    let read = Read::post(CHAT, "", "{\"model\":\"unknown\",\"messages\":[]}");
    let mut exchange = read.routed(&shared);
    read.with_head(|head| select::prepare(&mut exchange, head, read.body()));
    let refusal = select::select(&mut exchange).expect_err("none has the model");
    assert_eq!((refusal.status, refusal.code), (503, "no_backend"));
}

#[tokio::test]
async fn the_head_is_made_anew_and_credentials_are_the_operators() {
    let shared =
        of("backends: [{name: b, url: 'https://engine.test:8443/base', api_key: the-operators}]\n\
         routes: [{name: r, backend: b, include_usage: inject}]\n");
    let fields = "authorization: Bearer the-clients\r\nx-api-key: the-clients\r\nconnection: x-private, close\r\nx-private: 1\r\n\
                  te: trailers\r\nx-kept: yes\r\nx-request-id: known\r\naccept-encoding: gzip\r\nexpect: 100-continue\r\n";
    let body = "{\"model\":\"m\",\"stream\":true,\"messages\":[]}";
    let read = Read::post(&format!("{CHAT}?a=b"), fields, body);
    let mut exchange = read.routed(&shared);
    select::select(&mut exchange).expect("a backend");
    let outgoing = read.with_head(|head| send::prepare(&mut exchange, head, body.len()));
    let head = String::from_utf8(outgoing.head).expect("text");
    assert!(
        head.starts_with(&format!("POST /base{CHAT}?a=b HTTP/1.1\r\nhost: engine.test:8443\r\n")),
        "{head}"
    );
    let names: Vec<String> = head
        .lines()
        .skip(1)
        .filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase()))
        .collect();
    for gone in ["x-api-key", "connection", "x-private", "te", "expect"] {
        assert!(!names.contains(&gone.to_owned()), "{gone}: {head}");
    }
    for (once, line) in [
        ("authorization", "authorization: Bearer the-operators"),
        ("x-kept", "x-kept: yes"),
        ("x-request-id", "x-request-id: known"),
        ("accept-encoding", "accept-encoding: identity"),
        (
            "content-length",
            &format!(
                "content-length: {}",
                body.len() + "\"stream_options\":{\"include_usage\":true},".len()
            ),
        ),
    ] {
        assert_eq!(names.iter().filter(|name| *name == once).count(), 1, "{once}: {head}");
        assert!(head.lines().any(|have| have == line), "{line}: {head}");
    }
    assert!(!head.contains("the-clients") && exchange.sent.usage_injected);
}
