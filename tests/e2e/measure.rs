//! Records of a scripted engine with a known schedule.

use std::time::Duration;

use kit::client::{CHAT, CHAT_STREAM};
use kit::{Engine, Gateway, Step, sse};
use lens::State;
use lens::record::Outcome;

use crate::raw::h2raw;
use crate::support::{ask, settings};

/// Tolerance for scheduled times on a busy machine with two cores.
const SLACK_US: u64 = 60_000;

fn near(got: u64, want_ms: u64) -> bool {
    got >= want_ms * 1000 - 2_000 && got <= want_ms * 1000 + SLACK_US
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_byte_event_role_and_token_are_distinguished() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|_| {
        let at = |ms| Step::At(Duration::from_millis(ms));
        vec![
            at(50),
            Step::text(sse::STREAM_HEAD),
            at(100),
            Step::chunk(": ping\n\n"),
            at(200),
            Step::chunk(sse::role()),
            at(300),
            Step::chunk(sse::delta("\"reasoning\":\"hm\"")),
            at(400),
            Step::chunk(sse::content("x")),
            at(500),
            Step::chunk(sse::content("y")),
            Step::chunk(sse::finish()),
            Step::chunk(sse::usage(5, 3)),
            Step::chunk(sse::done()),
            Step::end(),
        ]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: firsts\r\n", CHAT_STREAM).await;
    let answer = client.answer().await;
    assert!(answer.complete);
    let record = gateway.record("firsts").await;
    assert_eq!(record.outcome, Outcome::Ok);
    let sent = record.sent_us.unwrap();
    let arrival = |mark: &Option<lens::record::MarkUs>| mark.unwrap().arrival.unwrap() - sent;
    let m = &record.marks_us;
    for (mark, ms) in [
        (&m.first_byte, 50),
        (&m.first_event, 200),
        (&m.role, 200),
        (&m.reasoning, 300),
        (&m.content, 400),
        (&m.first_token, 300),
        (&m.last_token, 500),
    ] {
        assert!(near(arrival(mark), ms), "{ms} ms: {record:?}");
    }
    assert!(near(record.engine_ttft_us.unwrap(), 300));
    assert_eq!(
        (record.events, record.content_events, record.comments),
        (Some(7), Some(3), Some(1))
    );
    assert_eq!(record.usage.as_ref().unwrap().completion_tokens, Some(3));
    assert!((record.tpot_us.unwrap() - 100_000.0).abs() < SLACK_US as f64 / 2.0);
    assert_eq!(record.ledger_us.total(), record.total_us);
}

/// The engine's own times split its time to first token. A report that contradicts what was
/// measured is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engines_report_splits_its_time() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|seen| {
        let asked = String::from_utf8_lossy(&seen.body);
        let prefill = if asked.contains("liar") { 900 } else { 150 };
        let metrics = format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":5,\"completion_tokens\":2}},\"metrics\":{{\"queue_time_ms\":50.5,\"time_to_first_token_ms\":{prefill},\"generation_time_ms\":100}}}}\n\n"
        );
        vec![
            Step::text(sse::STREAM_HEAD),
            Step::ms(220),
            Step::chunk(sse::content("x")),
            Step::ms(100),
            Step::chunk(sse::content("y")),
            Step::chunk(sse::finish()),
            Step::chunk(metrics),
            Step::chunk(sse::done()),
            Step::end(),
        ]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    ask(&gateway, "/v1/chat/completions", "honest", CHAT_STREAM).await;
    let record = gateway.record("honest").await;
    let split = record.engine_split.unwrap();
    assert_eq!(
        (split.queue_us, split.prefill_us, split.decode_us, split.disagrees),
        (Some(50_500), Some(150_000), Some(100_000), false)
    );
    assert_eq!(split.unexplained_us.unwrap() + 200_500, record.engine_ttft_us.unwrap());
    let liar = CHAT_STREAM.replace("\"m\"", "\"liar\"");
    ask(&gateway, "/v1/chat/completions", "dishonest", &liar).await;
    let split = gateway.record("dishonest").await.engine_split.unwrap();
    assert_eq!((split.unexplained_us, split.disagrees), (Some(0), true));
    assert_eq!(gateway.metric("llm_lens_engine_disagreements_total", "backend=\"default\""), 1.0);
    assert_eq!(gateway.metric("llm_lens_engine_split_seconds_count", "part=\"queue\""), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_has_usage_and_no_token_times() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: whole\r\n", CHAT).await;
    assert_eq!(client.answer().await.status, 200);
    let record = gateway.record("whole").await;
    assert_eq!((record.outcome, record.stream, record.events), (Outcome::Ok, false, Some(1)));
    assert_eq!(record.usage.unwrap().completion_tokens, Some(2));
    assert_eq!((record.engine_ttft_us, record.content_events, record.tpot_us), (None, None, None));
    assert_eq!(record.finish_reasons, ["stop"]);
}

/// The kernel's timestamps are compared with the gateway's only where configured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kernel_timestamps_are_recorded_if_configured() {
    let _alone = crate::support::alone().await;
    const EVENTS: usize = 10;
    let engine = Engine::start(|_| sse::stream(EVENTS, 20)).await;
    for (limits, asked) in [("limits: {kernel_timestamps: true}", true), ("", false)] {
        let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", limits)).await;
        ask(&gateway, "/v1/chat/completions", "stamped", CHAT_STREAM).await;
        let record = gateway.record("stamped").await;
        let Some(lag) = record.read_lag_us else {
            assert!(!asked, "no stamps: {record:?}");
            continue;
        };
        assert!(asked, "unrequested stamps: {lag:?}");
        assert!(lag.count >= EVENTS as u64 / 2, "{lag:?}");
        assert!(lag.p50 < 20_000, "a read was later than the next event: {lag:?}");
    }
}

/// A read may bring no complete event: the wait continues, and counts as the engine's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_without_an_event_does_not_end_the_wait() {
    let _alone = crate::support::alone().await;
    const WAIT: u64 = 400;
    let engine = Engine::start(|seen| {
        let event = sse::content("x");
        let (size, rest) = (format!("{:x}\r\n", event.len()), format!("{event}\r\n"));
        let (torn, tail) = event.split_at(20);
        let head = Step::text("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut steps = match crate::support::id(seen) {
            "size" => vec![head, Step::text(size), Step::ms(WAIT), Step::text(rest)],
            _ => vec![head, Step::chunk(torn), Step::ms(WAIT), Step::chunk(tail)],
        };
        steps.extend([Step::chunk(sse::finish() + &sse::done()), Step::end()]);
        steps
    })
    .await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), "", ", include_usage: inject", "")).await;
    for id in ["size", "torn"] {
        assert_eq!(ask(&gateway, "/v1/chat/completions", id, CHAT_STREAM).await.status, 200);
        waited_for_the_engine(&gateway.record(id).await, WAIT);
    }
    // Over HTTP/2, the head of the answer adds no bytes to the ring.
    let frames = [
        h2raw::frame(h2raw::HEADERS, h2raw::END_HEADERS, 1, &h2raw::post("/v1/chat/completions")),
        h2raw::frame(h2raw::DATA, h2raw::END_STREAM, 1, CHAT_STREAM.as_bytes()),
    ];
    assert!(h2raw::one_stream(gateway.address(), &frames).await.0);
    let page: serde_json::Value =
        serde_json::from_str(&gateway.get("/api/requests?limit=1").1).unwrap();
    waited_for_the_engine(&serde_json::from_value(page["requests"][0].clone()).unwrap(), WAIT);
}

fn waited_for_the_engine(record: &lens::Record, wait_ms: u64) {
    let ms = |state| record.ledger_us.micros(state) / 1000;
    assert!(ms(State::AwaitFirstToken) + 50 >= wait_ms, "{record:?}");
    assert!(ms(State::Gateway) < wait_ms / 4, "the engine's time was booked as ours: {record:?}");
}

/// Counts of a stream are cumulative: a later zero does not undo them. Servers that compute in
/// floating point write them with a point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_zeros_and_fractions_do_not_change_the_cost() {
    let engine = Engine::start(|seen| {
        if seen.head.contains("/v1/messages") {
            let event = |kind: &str, rest: &str| {
                Step::chunk(format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n"))
            };
            let mut steps = vec![Step::text("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")];
            steps.extend([
                event("message_start", ",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"usage\":{\"input_tokens\":9,\"cache_creation_input_tokens\":700,\"cache_read_input_tokens\":4096,\"output_tokens\":1}}"),
                event("content_block_start", ",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}"),
                event("content_block_delta", ",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Der Erlenbach.\"}"),
                event("content_block_stop", ",\"index\":0"),
                event("message_delta", ",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":0,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":16}"),
                event("message_stop", ""),
                Step::end(),
            ]);
            return steps;
        }
        sse::json(200, "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":21.0,\"completion_tokens\":1.2e1,\"total_tokens\":33.0}}")
    })
    .await;
    let prices = "prices: [{input: 3, cached_input: 0.3, output: 15}]";
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", prices)).await;
    let body = "{\"model\":\"m\",\"max_tokens\":50,\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    assert_eq!(ask(&gateway, "/v1/messages", "zeros", body).await.status, 200);
    let record = gateway.record("zeros").await;
    let usage = record.usage.expect("usage");
    assert_eq!(
        (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens),
        (Some(9), Some(4096), Some(16))
    );
    let cost = record.cost.expect("a price");
    assert!((cost - 0.003_595_8).abs() < 1e-9, "{cost}");
    assert_eq!(ask(&gateway, "/v1/chat/completions", "point", CHAT).await.status, 200);
    let usage = gateway.record("point").await.usage.expect("usage");
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (Some(21), Some(12)));
    assert!(!usage.estimated);
}

/// The cost of a request can be computed from its record, also if the engine reports no usage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_have_the_tokens_that_their_cost_is_computed_from() {
    let engine = Engine::start(|seen| {
        if seen.head.starts_with("POST /v1/embeddings") {
            let vector = "0.125,".repeat(40);
            let usage = match seen.body.ends_with(b"\"dimensions\":41}") {
                true => "",
                false => ",\"usage\":{\"prompt_tokens\":4,\"total_tokens\":4}",
            };
            let body = format!("{{\"data\":[{{\"embedding\":[{vector}0]}}]{usage}}}");
            return sse::json(200, &body);
        }
        if seen.body.ends_with(b"\"reasoning_effort\":\"low\"}") {
            return sse::json(200, "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":6,\"total_tokens\":146,\"completion_tokens_details\":{\"reasoning_tokens\":120}}}");
        }
        if seen.body.ends_with(b"\"stream\":true}") {
            let texts = sse::content("Der ") + &sse::content("Erlenbach.");
            let ending = sse::finish() + &sse::done();
            let head = Step::text(sse::STREAM_HEAD);
            return vec![head, Step::chunk(texts), Step::chunk(ending), Step::end()];
        }
        sse::json(200, "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"Der Erlenbach.\"},\"finish_reason\":\"stop\"}]}")
    })
    .await;
    let prices = "prices: [{input: 3, output: 15}]";
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", prices)).await;
    let chat = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"eight by\"}]";
    for (path, id, body, prompt, completion) in [
        ("/v1/chat/completions", "stream", format!("{chat},\"stream\":true}}"), (6, true), Some(2)),
        ("/v1/chat/completions", "whole", format!("{chat}}}"), (6, true), None),
        (
            "/v1/embeddings",
            "vectors",
            "{\"model\":\"m\",\"input\":\"x\"}".into(),
            (4, false),
            Some(0),
        ),
        (
            "/v1/embeddings",
            "bare",
            "{\"model\":\"m\",\"input\":\"x\",\"dimensions\":41}".into(),
            (5, true),
            Some(0),
        ),
    ] {
        assert_eq!(ask(&gateway, path, id, &body).await.status, 200);
        let record = gateway.record(id).await;
        let usage = record.usage.expect("usage");
        assert_eq!(
            (usage.prompt_tokens, usage.prompt_estimated),
            (Some(prompt.0), prompt.1),
            "{id}"
        );
        let generated = usage.completion_tokens.unwrap_or_default();
        assert!(completion.is_none_or(|tokens| tokens == generated), "{id}: {generated}");
        let cost = (prompt.0 * 3 + generated * 15) as f64 / 1e6;
        let recorded = record.cost.expect("a price");
        assert!((recorded - cost).abs() < 1e-12, "{id}: {recorded} {cost}");
    }
    // Reasoning tokens that the total has beside the output are output, too.
    let body = format!("{chat},\"reasoning_effort\":\"low\"}}");
    assert_eq!(ask(&gateway, "/v1/chat/completions", "apart", &body).await.status, 200);
    let cost = gateway.record("apart").await.cost.expect("a price");
    assert!((cost - (20 * 3 + 126 * 15) as f64 / 1e6).abs() < 1e-12, "{cost}");
}
