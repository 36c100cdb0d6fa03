//! Rate limits: refusals, reservations, ended streams, charges of clients that disconnect.

use std::time::Duration;

use kit::{Engine, Gateway, Step, sse};
use lens::record::Outcome;
use serde_json::{Value, json};

use super::{CHAT, Keyed, bearer, endless, request};
use crate::support::{ask, eventually, id, read_until, settings, settled};

fn limited(engine: &Engine, route: &str, limits: &str) -> String {
    settings(&engine.url(), ", models: [m]", route, &format!("rate_limits: [{limits}]"))
}

/// What is left of a limit on tokens, from the head of an answer.
fn left(answer: &kit::client::Answer) -> u64 {
    answer
        .field("x-ratelimit-remaining-tokens")
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{}", answer.head))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_requests_says_which_and_when() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&limited(
        &engine,
        "",
        "{name: slow-down, unit: requests, amount: 2, window: 10m, per: address, warn_at: 0.9}",
    ))
    .await;
    let first = ask(&gateway, CHAT, "a", &request("")).await;
    assert_eq!(
        (
            first.field("x-ratelimit-limit-requests"),
            first.field("x-ratelimit-remaining-requests"),
            first.field("x-ratelimit-reset-requests")
        ),
        (Some("2"), Some("1"), Some("5m"))
    );
    assert!(first.field("x-llm-lens-limit-warning").is_none(), "half of it is taken");
    let second = ask(&gateway, CHAT, "b", &request("")).await;
    assert_eq!(
        second
            .field("x-llm-lens-limit-warning")
            .map(|told| told.starts_with("slow-down; taken=9") || told.ends_with("100%")),
        Some(true)
    );
    let no = ask(&gateway, CHAT, "c", &request("")).await;
    assert_eq!((no.status, no.error_code().as_str()), (429, "rate_limit_exceeded"));
    let message = no.json()["error"]["message"].as_str().expect("a text").to_owned();
    assert!(
        message.contains("\"slow-down\"")
            && message.contains("2 requests every 10m")
            && message.contains("Try again in"),
        "{message}"
    );
    let wait: u64 = no.field("retry-after").and_then(|n| n.parse().ok()).expect("a number");
    assert!((290..=300).contains(&wait), "{wait}");
    assert_eq!(gateway.record("c").await.outcome, Outcome::Rejected);
    assert_eq!(gateway.metric("llm_lens_rate_limited_requests_total", "limit=\"slow-down\""), 1.0);
    assert_eq!(engine.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservation_is_settled_with_reported_usage() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&limited(
        &engine,
        "",
        "{name: t, unit: total_tokens, amount: 1000, window: 30d, per: all}",
    ))
    .await;
    // The engine reports 5 + 2 tokens; the request may use 400.
    let first = ask(&gateway, CHAT, "a", &request(",\"max_tokens\":400")).await;
    assert!((590..=595).contains(&left(&first)), "{}", first.head);
    settled(&gateway).await;
    let second = ask(&gateway, CHAT, "b", &request(",\"max_tokens\":1")).await;
    let (prompt, output) = (3 + 4, 1);
    assert_eq!(left(&second), 1000 - 7 - prompt - output);
    // A request that the engine refused costs nothing.
    settled(&gateway).await;
    assert_eq!(
        left(&ask(&gateway, CHAT, "c", &request(",\"max_tokens\":1")).await),
        1000 - 14 - prompt - output
    );
}

/// SDKs send again what got no answer: a crashing engine must not use up a budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_an_answer_cost_nothing() {
    let engine = Engine::start(|seen| match id(seen) {
        "reset" => vec![Step::Close],
        "silent" => vec![Step::ms(2000), Step::Close],
        "head" => vec![Step::text(sse::STREAM_HEAD), Step::ms(50), Step::Close],
        "role" => vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role()), Step::end()],
        "event" => {
            let error = "data: {\"error\":{\"message\":\"died\",\"code\":500}}\n\n";
            let (start, end) = (sse::role() + error, sse::done());
            let head = Step::text(sse::STREAM_HEAD);
            vec![head, Step::chunk(start), Step::chunk(end), Step::end()]
        }
        "body" => sse::json(200, "{\"error\":{\"message\":\"died\",\"code\":500}}"),
        _ => sse::chat_answer(),
    })
    .await;
    let gateway = Gateway::with_settings(&limited(
        &engine,
        "",
        "{name: t, unit: total_tokens, amount: 1000, window: 30d, per: all}]\ntimeouts: {first_byte: 200ms}\nprices: [{input: 1, output: 1}",
    ))
    .await;
    for (id, status) in [("reset", 502), ("silent", 504)] {
        let answer = ask(&gateway, CHAT, id, &request(",\"max_tokens\":400")).await;
        assert_eq!(answer.status, status, "{id}");
        assert_eq!(gateway.record(id).await.cost, Some(0.0), "{id}");
    }
    // An engine that fails after its head, and before its first token.
    for id in ["head", "role", "event", "body"] {
        ask(&gateway, CHAT, id, &request(",\"max_tokens\":400,\"stream\":true")).await;
        assert_eq!(gateway.record(id).await.cost, Some(0.0), "{id}");
    }
    settled(&gateway).await;
    let answered = ask(&gateway, CHAT, "good", &request(",\"max_tokens\":1")).await;
    let (prompt, output) = (3 + 4, 1);
    assert_eq!(left(&answered), 1000 - prompt - output);
}

/// A tokenizer of whole words.
fn tokenizer() -> std::path::PathBuf {
    let file = kit::gateway::folder().join("tokenizer.json");
    let vocabulary = "{\"<unk>\":0,\"<s>\":1,\"hello\":2,\"there\":3}";
    let text = format!(
        "{{\"version\":\"1.0\",\"truncation\":{{\"direction\":\"Right\",\"max_length\":3,\"strategy\":\"LongestFirst\",\"stride\":0}},\"padding\":null,\
         \"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":{{\"type\":\"WhitespaceSplit\"}},\
         \"post_processor\":{{\"type\":\"TemplateProcessing\",\"single\":[{{\"SpecialToken\":{{\"id\":\"<s>\",\"type_id\":0}}}},{{\"Sequence\":{{\"id\":\"A\",\"type_id\":0}}}}],\
         \"pair\":[{{\"Sequence\":{{\"id\":\"A\",\"type_id\":0}}}},{{\"Sequence\":{{\"id\":\"B\",\"type_id\":1}}}}],\"special_tokens\":{{\"<s>\":{{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}}}}},\
         \"decoder\":null,\"model\":{{\"type\":\"WordLevel\",\"vocab\":{vocabulary},\"unk_token\":\"<unk>\"}}}}"
    );
    std::fs::write(&file, text).expect("it is written");
    file
}

/// The tokenizer's count is reserved: for short prompts, long ones, those with escapes, a plain
/// string, and one beyond the maximum count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_are_counted_by_the_tokenizer_of_the_route() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let route = format!(", validation: strict, tokenizer: '{}'", tokenizer().display());
    let limits =
        "rate_limits: [{name: t, unit: input_tokens, amount: 10000000, window: 30d, per: all}]";
    let gateway = Gateway::with_settings(&settings(
        &engine.url(),
        ", models: [m], context_length: 6000",
        &route,
        limits,
    ))
    .await;
    let chat = |text: &str| {
        format!(
            "{{\"model\":\"m\",\"max_tokens\":1,\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}"
        )
    };
    let alone = |text: &str| format!("{{\"model\":\"m\",\"max_tokens\":1,\"prompt\":\"{text}\"}}");
    let mut expected = 10_000_000;
    for (path, body, words) in [
        (CHAT, chat("hello there hello"), 4 + 3),
        (CHAT, chat("hello\\nthere\\u0020x"), 4 + 3),
        (CHAT, chat(&"hello there ".repeat(1000)), 4 + 2000),
        ("/v1/completions", alone("hello there"), 1 + 2),
    ] {
        let answer = ask(&gateway, path, "x", &body).await;
        assert_eq!(
            (answer.status, left(&answer)),
            (200, expected - words),
            "{path} {}: {}",
            &body[..80.min(body.len())],
            answer.text()
        );
        // The engine reports five tokens for every prompt.
        settled(&gateway).await;
        expected -= 5;
    }
    let large = ask(&gateway, CHAT, "x", &chat(&"hello there ".repeat(2998))).await;
    assert_eq!(
        (large.status, large.error_code().as_str()),
        (400, "context_length_exceeded"),
        "5,996 and 4 and one more"
    );
    let fits = ask(&gateway, CHAT, "x", &chat(&"a ".repeat(5995))).await;
    assert_eq!(fits.status, 200, "{}", fits.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_tokenizer_is_reported_at_startup() {
    let file = kit::gateway::folder().join("gateway.yaml");
    let text =
        settings("http://127.0.0.1:9", "", &format!(", tokenizer: '{}'", file.display()), "");
    std::fs::write(&file, text).expect("it is written");
    let said = std::process::Command::new(kit::gateway::binary())
        .args(["gateway", "--config"])
        .arg(&file)
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        !said.status.success() && told.contains("tokenizer") && told.contains("gateway.yaml"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_at_its_budget_and_pays_what_it_got() {
    let engine = endless().await;
    for (at_end, reason, outcome) in
        [("length", "length", Outcome::Limited), ("error", "", Outcome::Limited)]
    {
        let limit = format!(
            "{{name: t, unit: output_tokens, amount: 40, window: 30d, per: all, on_exhausted: {at_end}}}"
        );
        let gateway = Gateway::with_settings(&limited(&engine, "", &limit)).await;
        let answer = ask(&gateway, CHAT, "a", &request(",\"stream\":true")).await;
        let events: Vec<Value> = answer
            .text()
            .lines()
            .filter_map(|l| l.strip_prefix("data: "))
            .filter_map(|d| serde_json::from_str(d).ok())
            .collect();
        let said = events
            .iter()
            .filter(|e| e["choices"][0]["delta"]["content"].as_str().is_some_and(|c| !c.is_empty()))
            .count();
        assert!((40..=48).contains(&said), "{said} tokens at {at_end}");
        let last = events.last().expect("events");
        if at_end == "length" {
            assert!(
                answer.complete && answer.text().ends_with("data: [DONE]\n\n"),
                "{}",
                answer.text()
            );
            assert_eq!(
                (
                    last["choices"][0]["finish_reason"].as_str(),
                    last["id"].as_str(),
                    last["model"].as_str()
                ),
                (Some(reason), Some("c1"), Some("m"))
            );
        } else {
            assert!(!answer.complete);
            assert_eq!(last["error"]["code"], "budget_exhausted");
            assert_eq!(last["error"]["type"], "rate_limit_error");
        }
        let record = gateway.record("a").await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref()),
            (outcome, Some("budget_exhausted"))
        );
        assert_eq!(
            record.usage.and_then(|usage| usage.completion_tokens),
            Some(said as u64),
            "the charge equals what the client got"
        );
        let next = ask(&gateway, CHAT, "b", &request(",\"stream\":true")).await;
        assert_eq!((next.status, next.error_code().as_str()), (429, "rate_limit_exceeded"));
        assert_eq!(gateway.metric("llm_lens_rate_limited_streams_total", "limit=\"t\""), 1.0);
        eventually("the engine's stream is cut", || engine.open() == 0).await;
    }
}

/// A client that expects usage gets the gateway's counts, and one of Responses its output so far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_at_its_budget_reports_usage_and_output() {
    let engine = Engine::start(|seen| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        let responses = seen.head.starts_with("POST /v1/responses");
        if responses {
            let item = json!({"id": "msg", "type": "message", "role": "assistant", "content": []});
            let added = json!({"type": "response.output_item.added", "output_index": 0, "item": item});
            steps.push(Step::chunk(format!("data: {added}\n\n")));
        }
        for at in 0..200 {
            let delta = json!({"type": "response.output_text.delta", "item_id": "msg",
                "output_index": 0, "content_index": 0, "delta": format!("t{at} "), "sequence_number": at});
            let event = if responses { format!("data: {delta}\n\n") } else { sse::content(&format!("t{at} ")) };
            steps.extend([Step::chunk(event), Step::ms(1)]);
        }
        steps.push(Step::AwaitClose(Duration::from_secs(5)));
        steps
    })
    .await;
    let limit = "{name: t, unit: output_tokens, amount: 20, window: 30d, per: all}";
    let events = |answer: &kit::client::Answer| -> Vec<Value> {
        let text = answer.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter_map(|data| serde_json::from_str(data).ok()).collect()
    };
    let gateway = Gateway::with_settings(&limited(&engine, "", limit)).await;
    let body = request(",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    let answer = ask(&gateway, CHAT, "chat", &body).await;
    let chat = events(&answer);
    let usage = &chat.last().expect("events")["usage"];
    let texts = chat.iter().filter(|event| event["choices"][0]["delta"]["content"].is_string());
    assert_eq!(usage["completion_tokens"], texts.count(), "{}", answer.text());
    assert!(usage["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{usage}");
    assert!(answer.text().ends_with("data: [DONE]\n\n"));

    let gateway = Gateway::with_settings(&limited(&engine, "", limit)).await;
    let body = "{\"model\":\"m\",\"stream\":true,\"input\":\"hello\"}";
    let responses = events(&ask(&gateway, "/v1/responses", "responses", body).await);
    let deltas: String = responses.iter().filter_map(|event| event["delta"].as_str()).collect();
    let kinds: Vec<&str> =
        responses.iter().rev().take(4).filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(
        kinds,
        [
            "response.incomplete",
            "response.output_item.done",
            "response.content_part.done",
            "response.output_text.done"
        ]
    );
    let response = &responses.last().expect("events")["response"];
    assert!(deltas.starts_with("t0 t1 "), "{deltas}");
    assert_eq!(response["output"][0]["content"][0]["text"], deltas);
    assert!(response["usage"]["output_tokens"].as_u64().is_some_and(|tokens| tokens >= 20));
    let numbers: Vec<u64> =
        responses.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
}

/// Every dialect ends by its own rules, however the stream is split.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_ends_torn_streams_where_an_event_ends() {
    let engine = Engine::start(|seen| {
        let size: usize = id(seen).parse().unwrap_or(7);
        let mut body = sse::role();
        (0..60).for_each(|i| body.push_str(&sse::content(&format!("t{i}"))));
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        for piece in body.as_bytes().chunks(size) {
            steps.extend([Step::chunk(piece), Step::ms(1)]);
        }
        steps.push(Step::AwaitClose(Duration::from_secs(5)));
        steps
    })
    .await;
    for size in [61, 150, 331] {
        let gateway = Gateway::with_settings(&limited(
            &engine,
            "",
            "{name: t, unit: output_tokens, amount: 20, window: 30d, per: all}",
        ))
        .await;
        let answer = ask(&gateway, CHAT, &size.to_string(), &request(",\"stream\":true")).await;
        for data in answer
            .text()
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
        {
            serde_json::from_str::<Value>(data).unwrap_or_else(|e| panic!("{size}: {e}: {data}"));
        }
        assert!(
            answer.text().contains("\"finish_reason\":\"length\""),
            "{size}: {}",
            answer.text()
        );
    }
}

/// One of three choices has ended by itself: it keeps its finish reason, the others end at the
/// budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_ends_the_choices_that_have_not_ended() {
    let engine = Engine::start(|_| {
        let choice = |index: usize, delta: &str, reason: &str| {
            format!("data: {{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{{\"index\":{index},\"delta\":{delta},\"finish_reason\":{reason}}}]}}\n\n")
        };
        let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(choice(1, "{\"content\":\"b\"}", "null")), Step::chunk(choice(1, "{}", "\"stop\""))];
        for at in 0..200 {
            steps.extend([Step::ms(2), Step::chunk(choice(2 * (at % 2), "{\"content\":\"x\"}", "null"))]);
        }
        steps
    })
    .await;
    let gateway = Gateway::with_settings(&limited(
        &engine,
        "",
        "{name: t, unit: output_tokens, amount: 40, window: 30d, per: all}",
    ))
    .await;
    let answer = ask(&gateway, CHAT, "n", &request(",\"stream\":true,\"n\":3")).await;
    let ends: Vec<(u64, String)> = answer
        .text()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|event| {
            Some((
                event["choices"][0]["index"].as_u64()?,
                event["choices"][0]["finish_reason"].as_str()?.to_owned(),
            ))
        })
        .collect();
    assert_eq!(
        ends,
        [(1, "stop".to_owned()), (0, "length".to_owned()), (2, "length".to_owned())],
        "{}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnected_clients_are_charged_for_received_tokens() {
    let _alone = crate::support::alone().await;
    let engine = endless().await;
    let limits = "{name: t, unit: output_tokens, amount: 100000, window: 30d, per: key}, {name: s, unit: streams, amount: 100, per: key}";
    let (keyed, keys) =
        Keyed::start(&engine, "", &format!("rate_limits: [{limits}]"), &[&["--owner", "a"]]).await;
    let gateway = &keyed.gateway;
    // In rounds of a hundred, each leaves after some tokens.
    for round in 0..10 {
        let leave = |at: usize| {
            let fields = format!("x-request-id: r{round}-{at}\r\n{}", bearer(&keys[0]));
            async move {
                let mut client = gateway.client().await;
                client.post(CHAT, &fields, &request(",\"stream\":true,\"max_tokens\":900")).await;
                read_until(&mut client, &format!("\"t{}\"", at % 5)).await;
            }
        };
        futures_util::future::join_all((0..100).map(leave)).await;
        settled(gateway).await;
    }
    let spent: u64 = gateway
        .records()
        .iter()
        .filter_map(|record| record.usage.as_ref()?.completion_tokens)
        .sum();
    assert_eq!(
        gateway.records().iter().filter(|record| record.outcome == Outcome::ClientGone).count(),
        1000
    );
    let mut client = gateway.client().await;
    client.post(CHAT, &bearer(&keys[0]), &request(",\"max_tokens\":1,\"stream\":true")).await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    let left: u64 = crate::support::field(&head, "x-ratelimit-remaining-tokens")
        .and_then(|n| n.parse().ok())
        .expect("an error event");
    // The rate gives back some two tokens a minute.
    assert!(
        (100_000 - spent - 1..=100_000 - spent + 2).contains(&left),
        "{left} left, {spent} spent"
    );
    drop(client);
    settled(gateway).await;
    eventually("no stream is left at the engine", || engine.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_at_a_time_are_counted_and_freed() {
    let engine = endless().await;
    let gateway = Gateway::with_settings(&limited(
        &engine,
        "",
        "{name: s, unit: streams, amount: 1, per: address}",
    ))
    .await;
    let mut client = gateway.client().await;
    client.post(CHAT, "", &request(",\"stream\":true")).await;
    read_until(&mut client, "t3").await;
    let no = ask(&gateway, CHAT, "b", &request("")).await;
    assert_eq!(no.status, 429, "{}", no.text());
    drop(client);
    settled(&gateway).await;
    let mut client = gateway.client().await;
    client.post(CHAT, "", &request(",\"stream\":true")).await;
    read_until(&mut client, "t3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cost_is_limited() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let more = "prices: [{models: [m], input: 1, output: 1000000}, {input: 9, output: 9}]\nrate_limits: [{name: purse, unit: cost, amount: 5, window: day, per: owner}]";
    let (keyed, keys) =
        Keyed::start(&engine, "", more, &[&["--owner", "a"], &["--owner", "a"]]).await;
    for (key, status) in [(0, 200), (1, 200), (0, 429)] {
        let mut client = keyed.gateway.client().await;
        client
            .post(
                CHAT,
                &format!("x-request-id: k{key}\r\n{}", bearer(&keys[key])),
                &request(",\"max_tokens\":2"),
            )
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{}", answer.text());
        settled(&keyed.gateway).await;
    }
    let cost = keyed.gateway.record("k1").await.cost.expect("a price");
    assert!((cost - 2.000_005).abs() < 1e-9, "{cost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_limits_on_connections_and_requests() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let more = "limits: {connections_per_address: 3, requests_per_address: 5}";
    let (keyed, keys) = Keyed::start(&engine, "", more, &[&["--owner", "a"]]).await;
    let gateway = &keyed.gateway;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.client().await;
        client.send("GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\n").await;
        held.push(client);
    }
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 3.0).await;
    let mut fourth = gateway.client().await;
    assert!(fourth.is_closed_within(Duration::from_secs(5)).await, "one too many is closed");
    assert!(gateway.metric("llm_lens_client_limited_connections_total", "") >= 1.0);
    drop(held);
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 0.0).await;
    // The credential is not checked, so it does not matter.
    let mut statuses = Vec::new();
    for at in 0..12 {
        let mut client = gateway.client().await;
        client
            .post(CHAT, &if at % 2 == 0 { bearer(&keys[0]) } else { String::new() }, &request(""))
            .await;
        statuses.push(client.answer().await.status);
        drop(client);
        gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 0.0).await;
    }
    assert!(statuses.contains(&429) && statuses.contains(&200), "{statuses:?}");
    assert!(gateway.metric("llm_lens_client_limited_requests_total", "") >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_survives_a_restart() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let file = kit::gateway::folder().join("usage.jsonl");
    let month = "{name: month, unit: output_tokens, amount: 9000, window: month, per: key}";
    let more = format!(
        "prices: [{{models: [m], input: 100000, output: 200000}}]\nusage_file: '{}'\nrate_limits: [{month}]",
        file.display()
    );
    let flags: &[&[&str]] = &[
        &["--owner", "a", "--id", "k1"],
        &["--owner", "a", "--id", "k2"],
        &["--owner", "b", "--id", "k3"],
    ];
    let (mut keyed, keys) = Keyed::start(&engine, "", &more, flags).await;
    for key in [&keys[0], &keys[1], &keys[1], &keys[2]] {
        let mut client = keyed.gateway.client().await;
        client.post(CHAT, &bearer(key), &request("")).await;
        assert_eq!(client.answer().await.status, 200);
    }
    settled(&keyed.gateway).await;
    let usage = |gateway: &Gateway, query: &str| -> Value {
        serde_json::from_str(&gateway.get(&format!("/api/usage{query}")).1).expect("JSON")
    };
    let rows = |usage: &Value| -> Vec<(String, u64, f64)> {
        let row = |row: &Value| {
            (
                format!(
                    "{}{}",
                    row["owner"].as_str().unwrap_or(""),
                    row["key"].as_str().unwrap_or("")
                ),
                row["requests"].as_u64().unwrap_or(0),
                row["cost"].as_f64().unwrap_or(0.0),
            )
        };
        usage["usage"].as_array().expect("rows").iter().map(row).collect()
    };
    // 5 tokens in and 2 out, at ten and twenty cents.
    let by_owner = usage(&keyed.gateway, "");
    let said = rows(&by_owner);
    assert_eq!(
        said.iter().map(|(name, requests, _)| (name.as_str(), *requests)).collect::<Vec<_>>(),
        [("a", 3), ("b", 1)]
    );
    assert!((said[0].2 - 3.0 * 0.9).abs() < 1e-9, "{said:?}");
    assert_eq!(rows(&usage(&keyed.gateway, "?by=key&per=month")).len(), 3);
    assert_eq!(keyed.gateway.get("/api/usage?by=colour").0, 400);
    keyed.gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(keyed.gateway.ended(Duration::from_secs(10)).await.is_some());
    let again =
        Gateway::with_settings(&std::fs::read_to_string(&keyed.config).expect("it is there")).await;
    assert_eq!(usage(&again, ""), by_owner);
    // The monthly window continues after the restart.
    for (key, left) in [(&keys[1], 9000 - 4 - 1), (&keys[2], 9000 - 2 - 1)] {
        let mut client = again.client().await;
        client.post(CHAT, &bearer(key), &request(",\"max_tokens\":1")).await;
        assert_eq!(
            client.answer().await.field("x-ratelimit-remaining-tokens"),
            Some(format!("{left}").as_str())
        );
    }
}

/// An agent that declares a large `max_tokens` and uses little of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_max_tokens_reserves_a_bounded_part() {
    let engine = endless().await;
    let limit = "{name: t, unit: total_tokens, amount: 10000, window: 30d, per: all}";
    for (route, admitted) in [("", 2), (", reserved_output_tokens: 2000", 4)] {
        let gateway = Gateway::with_settings(&limited(&engine, route, limit)).await;
        let body = request(",\"stream\":true,\"max_tokens\":64000");
        let mut streams = Vec::new();
        for _ in 0..admitted {
            let mut client = gateway.client().await;
            client.post(CHAT, "", &body).await;
            read_until(&mut client, "t1").await;
            streams.push(client);
        }
        let refused = ask(&gateway, CHAT, "no", &body).await;
        assert_eq!(refused.status, 429, "{route}");
        let message = refused.json()["error"]["message"].as_str().expect("a text").to_owned();
        let (prompt, reserved) = (7, if route.is_empty() { 4096 } else { 2000 });
        assert!(
            message.contains(&format!(
                "{} requested ({} reserved)",
                64_000 + prompt,
                reserved + prompt
            )),
            "{message}"
        );
    }
}
