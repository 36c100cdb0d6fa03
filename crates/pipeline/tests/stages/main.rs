//! The stages without a socket: each by itself, then the pipeline up to where it would connect.

mod backends;
mod kit;
mod whole;

use std::future::{Future, poll_fn};
use std::sync::atomic::Ordering;
use std::task::Poll;

use kit::{CHAT, Read, chat, shared};
use pipeline::stage::{admission, guardrail_input, inspect, rate_limit, route, validate};
use plan::origin;

/// Accept and authenticate: what the head shows decides before a body is read.
#[tokio::test]
async fn a_key_is_asked_for_where_every_route_asks_for_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.yaml");
    let hash = traffic::KeyHasher::new("a-secret-for-tests-only").hash("llk_known");
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = |more: &str| format!("keys:\n  - {{id: k, owner: o, hash: '{hash}'{more}}}\n");
    let auth = format!("auth: {{keys: '{}', secret: a-secret-for-tests-only}}", file.display());
    for (fields, more, code) in [
        ("", "", Some("missing_api_key")),
        ("authorization: Bearer llk_other\r\n", "", Some("invalid_api_key")),
        ("authorization: Basic eDp5\r\n", "", Some("invalid_api_key")),
        ("authorization: Bearer llk_known\r\n", "", None),
        ("x-api-key: llk_known\r\n", "", None),
        ("authorization: Bearer llk_known\r\n", ", revoked: true", Some("invalid_api_key")),
    ] {
        std::fs::write(&file, key(more)).expect("written");
        let (exchange, admitted) = Read::post(CHAT, fields, "{}").open(&shared("", "", &auth));
        assert_eq!(admitted.err().map(|refusal| refusal.code), code, "{fields}{more}");
        assert!(exchange.caller.is_none(), "which route it is for is not known yet");
    }
    for (more, code) in [
        (", routes: [other]", Some("route_not_allowed")),
        (", models: [n]", Some("model_not_allowed")),
        ("", None),
    ] {
        std::fs::write(&file, key(more)).expect("written");
        let shared = shared("", "", &auth);
        let read = Read::post(
            CHAT,
            "authorization: Bearer llk_known\r\n",
            "{\"model\":\"m\",\"messages\":[]}",
        );
        let mut exchange = read.routed(&shared);
        let authorized = pipeline::stage::authenticate::authorize(&mut exchange);
        assert_eq!(authorized.err().map(|refusal| refusal.code), code, "{more}");
        assert_eq!(
            exchange.caller.as_ref().map(|caller| &*caller.owner),
            code.is_none().then_some("o")
        );
    }
    // Models that the server may use instead.
    std::fs::write(&file, key(", models: [m]")).expect("written");
    for (member, allowed) in [
        (r#""models":["m"]"#, true),
        (r#""models":["m","n"]"#, false),
        (r#""fallbacks":["m",{"m":["m"]}]"#, true),
        (r#""fallbacks":["n"]"#, false),
        (r#""fallbacks":[{"model":"n","messages":[]}]"#, false),
        (r#""context_window_fallbacks":[{"m":["n"]}]"#, false),
    ] {
        let body = format!("{{\"model\":\"m\",\"messages\":[],{member}}}");
        let read = Read::post(CHAT, "authorization: Bearer llk_known\r\n", &body);
        let mut exchange = read.routed(&shared("", "", &auth));
        let authorized = pipeline::stage::authenticate::authorize(&mut exchange);
        let code = authorized.err().map(|refusal| refusal.code);
        assert_eq!(code, (!allowed).then_some("model_not_allowed"), "{member}");
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_told_and_one_that_is_built_to_hurt_is_refused() {
    let shared = shared("", "", "");
    let deep = format!("{{\"model\":\"m\",\"messages\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for (body, refused, code) in
        [("not json", false, "invalid_json"), (deep.as_str(), true, "invalid_json")]
    {
        let read = Read::post(CHAT, "", body);
        let (mut exchange, _) = read.open(&shared);
        let looked =
            read.with_head(|head| inspect::read_body(&mut exchange, head, false, read.body()));
        match (looked, refused) {
            (Err(refusal), true) | (Ok(Some(refusal)), false) => {
                assert_eq!((refusal.status, refusal.code), (400, code), "{body:.20}")
            }
            other => panic!("{body:.20}: {other:?}"),
        }
        assert!(exchange.inspected().facts.is_none());
    }
    let read = chat("x");
    let (mut exchange, _) = read.open(&shared);
    let encoded = read
        .with_head(|head| inspect::read_body(&mut exchange, head, true, b"\x1f\x8b"))
        .expect("no abuse")
        .expect("a refusal");
    assert_eq!((encoded.status, encoded.code), (415, "unsupported_encoding"));
}

#[tokio::test]
async fn the_first_route_whose_conditions_hold_is_chosen() {
    let shared = kit::of(
        "backends: [{name: b, url: 'http://127.0.0.1:1'}]\n\
         routes: [{name: model, match: {models: ['m-*']}, backend: b}, {name: field, match: {headers: {x-tier: gold}}, backend: b}, \
         {name: path, match: {path: /v1/completions}, backend: b}]\n",
    );
    for (path, fields, model, want) in [
        (CHAT, "", "m-1", Some("model")),
        (CHAT, "x-tier: gold\r\n", "m-1", Some("model")),
        (CHAT, "X-Tier: gold\r\n", "n", Some("field")),
        (CHAT, "x-tier: silver\r\n", "n", None),
        ("/v1/completions?a=b", "", "n", Some("path")),
        ("/v1/completions/", "", "n", Some("path")),
        ("/openai/deployments/m-9/chat/completions", "", "n", Some("model")),
    ] {
        let read = Read::post(path, fields, &format!("{{\"model\":\"{model}\"}}"));
        let (mut exchange, _) = read.open(&shared);
        read.with_head(|head| inspect::read_body(&mut exchange, head, false, read.body()))
            .expect("a body");
        let selected = read.with_head(|head| route::select(&mut exchange, head));
        let name = exchange.routed.as_ref().map(|routed| routed.route.route.name.to_string());
        assert_eq!(name.as_deref(), want, "{path} {fields}{model}");
        assert_eq!(
            selected.err().map(|refusal| refusal.code),
            want.is_none().then_some("no_route")
        );
    }
}

#[tokio::test]
async fn pages_and_hosts_are_those_that_the_route_names() {
    let shared =
        shared("", ", hosts: [gateway, '*.example.org'], cors: ['https://app.example.org']", "");
    let plan = shared.plan.load_full();
    let route = &plan.routes[0].route;
    let host = |name: &str| {
        let read = Read::post(CHAT, "", "");
        let text = String::from_utf8(read.buffer)
            .expect("text")
            .replace("host: gateway", &format!("host: {name}"));
        let mut fields = http1::head::field_buffer();
        let head = http1::head::parse_request(text.as_bytes(), &mut fields, Default::default())
            .expect("a head");
        origin::has_host(route, &head)
    };
    assert!(host("gateway") && host("GATEWAY:8080") && host("a.example.org"));
    assert!(!host("example.org") && !host("evil-example.org") && !host("other"));
    let fields = |origin: &str| {
        Read::post(CHAT, &format!("origin: {origin}\r\n"), "")
            .with_head(|head| origin::fields(route, head))
    };
    assert!(fields("https://app.example.org").is_some_and(|fields| {
        fields.contains("access-control-allow-origin: https://app.example.org\r\n")
    }));
    assert_eq!(fields("https://evil.example.org"), None);
}

#[tokio::test]
async fn a_limit_is_reserved_told_of_and_given_back() {
    let shared =
        shared("", "", "rate_limits: [{name: t, unit: input_tokens, amount: 250, window: 1h}]");
    let read = chat(&"x".repeat(400));
    let mut running = Vec::new();
    for _ in 0..2 {
        let mut exchange = read.routed(&shared);
        rate_limit::reserve(&mut exchange).await.expect("two fit");
        running.push(exchange);
    }
    let mut third = read.routed(&shared);
    let refusal = rate_limit::reserve(&mut third).await.expect_err("two are all");
    assert_eq!((refusal.status, refusal.code), (429, "rate_limit_exceeded"));
    assert!(
        refusal.fields.contains("retry-after: ") && refusal.message.contains("\"t\""),
        "{refusal:?}"
    );
    // What never reached an engine costs nothing.
    drop(running);
    rate_limit::reserve(&mut third).await.expect("they gave it back");
}

/// A gateway that has not tried its store yet does not take it for unreachable.
#[tokio::test]
async fn requests_wait_for_the_first_attempt_to_reach_the_store() {
    for (on_failure, passes) in [("closed", false), ("open", true), ("local", true)] {
        // Nothing listens there.
        let more = format!(
            "store: {{url: 'redis://127.0.0.1:1', on_failure: {on_failure}}}\n\
             rate_limits: [{{name: t, unit: requests, amount: 5, window: 1h, shared: true}}]"
        );
        let shared = shared("", "", &more);
        let plan = shared.plan.load_full();
        let store = plan.store.as_ref().expect("a store");
        let read = chat("x");
        let mut exchange = read.routed(&shared);
        let mut reserve = Box::pin(rate_limit::reserve(&mut exchange));
        let first = poll_fn(|cx| Poll::Ready(reserve.as_mut().poll(cx))).await;
        assert!(first.is_pending(), "{on_failure}");
        assert_eq!(store.without.load(Ordering::Relaxed), 0);
        store.connect().await;
        assert_eq!(reserve.await.is_ok(), passes, "{on_failure}");
        assert_eq!(store.without.load(Ordering::Relaxed), 1);
        // Later requests know.
        let mut second = read.routed(&shared);
        let mut reserve = Box::pin(rate_limit::reserve(&mut second));
        let later = poll_fn(|cx| Poll::Ready(reserve.as_mut().poll(cx))).await;
        assert!(later.is_ready(), "{on_failure}");
    }
}

#[tokio::test]
async fn prompts_are_refused_changed_or_passed_as_the_guardrail_says() {
    let off = "input_injection: off, input_toxicity: off, output_pii: off, output_secrets: off, input_secrets: off";
    let guarded = |members: &str| {
        shared("", ", guardrail: s", &format!("guardrails: [{{name: s, {off}, {members}}}]"))
    };
    let mail = chat("write to jane.roe@example.org today");
    for (members, code) in [
        ("input_pii: block", Some("content_blocked")),
        ("mode: observe, input_pii: block", None),
        ("input_pii: off", None),
    ] {
        let shared = guarded(members);
        let mut exchange = mail.routed(&shared);
        let checked = guardrail_input::check_prompt(&mut exchange, mail.body()).await;
        match (checked, code) {
            (Err(refusal), Some(code)) => {
                assert_eq!((refusal.status, refusal.code), (400, code));
                assert!(!refusal.message.contains("jane"), "{}", refusal.message);
            }
            (Ok(None), None) => {}
            other => panic!("{members}: {other:?}"),
        }
    }
    let shared = guarded("input_pii: redact");
    let mut exchange = mail.routed(&shared);
    let body = guardrail_input::check_prompt(&mut exchange, mail.body())
        .await
        .expect("it passes")
        .expect("another body");
    let body = String::from_utf8(body).expect("text");
    assert!(
        !body.contains("jane") && body.contains("today") && body.starts_with("{\"model\":\"m\""),
        "{body}"
    );
    let harmless = chat("nothing to see");
    let mut exchange = harmless.routed(&shared);
    assert_eq!(
        guardrail_input::check_prompt(&mut exchange, harmless.body()).await.expect("it passes"),
        None
    );
}

#[tokio::test]
async fn a_strict_route_names_the_member_that_is_wrong() {
    let strict = shared(", context_length: 100", ", validation: strict", "");
    for (body, want) in [
        ("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", None),
        (
            "{\"model\":\"other\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
            Some((404, "model_not_found", "model")),
        ),
        (
            "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"temperature\":9}",
            Some((400, "invalid_value", "temperature")),
        ),
        (
            "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":101}",
            Some((400, "context_length_exceeded", "max_tokens")),
        ),
    ] {
        let read = Read::post(CHAT, "", body);
        let exchange = read.routed(&strict);
        let checked =
            validate::check(&exchange, read.body()).and_then(|()| validate::fits(&exchange));
        let got = checked
            .err()
            .map(|refusal| (refusal.status, refusal.code, refusal.param.unwrap_or_default()));
        assert_eq!(got, want, "{body}");
        // A transparent route passes on what it is given.
        let shared = shared("", "", "");
        let exchange = read.routed(&shared);
        assert!(validate::check(&exchange, read.body()).is_ok());
    }
}

#[tokio::test]
async fn a_prompt_is_counted_by_the_file_of_its_route() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokenizer.json");
    let model =
        "{\"type\":\"WordLevel\",\"vocab\":{\"<unk>\":0,\"hello\":1},\"unk_token\":\"<unk>\"}";
    let text = format!(
        "{{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],\"normalizer\":null,\
         \"pre_tokenizer\":{{\"type\":\"WhitespaceSplit\"}},\"post_processor\":null,\"decoder\":null,\"model\":{model}}}"
    );
    std::fs::write(&file, text).expect("written");
    let shared = shared("", &format!(", tokenizer: '{}'", file.display()), "");
    let read = chat(&"hello there ".repeat(40));
    let mut exchange = read.routed(&shared);
    let estimated = exchange.expected.input;
    pipeline::stage::count_tokens::count(&mut exchange, read.body()).await;
    assert!(exchange.prompt_counted && estimated != 84, "{estimated}");
    assert_eq!(
        exchange.expected.input,
        80 + 4,
        "its words, and what a template puts around a message"
    );
}

/// One request runs, one waits, a third is shed at once. A request that waits too long leaves the
/// queue.
#[tokio::test(start_paused = true)]
async fn a_backend_that_is_full_queues_and_sheds() {
    let shared = shared(", admission: {max_requests: 1, queue: 1, max_wait: 5s}", "", "");
    let mut first = chat("x").routed(&shared);
    let queue = admission::queue(&first).expect("the backend has a queue");
    admission::enter(&mut first, &queue, None).await.expect("there is room");
    let mut second = chat("x").routed(&shared);
    let waiting = {
        let queue = queue.clone();
        tokio::spawn(
            async move { admission::enter(&mut second, &queue, None).await.map(|()| second) },
        )
    };
    tokio::task::yield_now().await;
    let mut third = chat("x").routed(&shared);
    let shed = admission::enter(&mut third, &queue, None).await.expect_err("the queue is full");
    assert_eq!((shed.status, shed.code), (503, "overloaded"));
    drop(first);
    let second = waiting.await.expect("no panic").expect("its turn came");
    let began = tokio::time::Instant::now();
    let late = admission::enter(&mut third, &queue, None).await.expect_err("no request ends");
    assert_eq!((late.code, began.elapsed().as_secs()), ("overloaded", 5));
    drop(second);
    admission::enter(&mut third, &queue, None).await.expect("there is room again");
}
