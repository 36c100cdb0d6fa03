//! How a blocked answer ends: in every dialect, streamed and whole, by rules, honeytokens and
//! filters.

use kit::{Engine, Step, sse};
use lens::record::Outcome;
use serde_json::{Value, json};

use super::{CHAT, guarded, heard, request, said};
use crate::support::{ask, id, settled};

const RULES: &str = "rules: [{name: code-name, phrases: ['blue heron'], output: block}]";

/// Event streams in each dialect. The third piece of text completes the forbidden words.
fn dialects() -> Vec<(&'static str, &'static str, Vec<String>)> {
    let sse = |event: Value| format!("data: {event}\n\n");
    let named = |event: Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type"))
    };
    let pieces = ["We call it blue ", "her", "on and keep it secret"];
    let chat = |text: &str| {
        sse(
            json!({"id": "c1", "created": 7, "model": "m", "choices": [{"index": 0, "delta": {"content": text}}]}),
        )
    };
    let completion = |text: &str| {
        sse(
            json!({"id": "c1", "created": 7, "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": null}]}),
        )
    };
    let block = |text: &str| {
        named(
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}),
        )
    };
    let delta = |(at, text): (usize, &str)| {
        named(
            json!({"type": "response.output_text.delta", "sequence_number": at + 2, "output_index": 0, "delta": text}),
        )
    };
    let line = |text: &str| {
        format!(
            "{}\n",
            json!({"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": text}, "done": false})
        )
    };
    let token = |text: &str| {
        sse(
            json!({"index": 1, "token": {"id": 1, "text": text, "logprob": 0.0, "special": false}, "generated_text": null}),
        )
    };
    let llama = |text: &str| sse(json!({"content": text, "stop": false, "model": "m"}));
    let before = |first: Vec<String>, rest: Vec<String>| [first, rest].concat();
    vec![
        (
            CHAT,
            "{\"model\":\"m\",\"stream\":true,\"messages\":[]}",
            pieces.iter().map(|text| chat(text)).collect(),
        ),
        (
            "/v1/completions",
            "{\"model\":\"m\",\"stream\":true,\"prompt\":\"x\"}",
            pieces.iter().map(|text| completion(text)).collect(),
        ),
        (
            "/v1/messages",
            "{\"model\":\"m\",\"stream\":true,\"messages\":[]}",
            before(
                vec![
                    named(
                        json!({"type": "message_start", "message": {"id": "a1", "model": "m", "role": "assistant", "content": []}}),
                    ),
                    named(
                        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
                    ),
                ],
                pieces.iter().map(|text| block(text)).collect(),
            ),
        ),
        (
            "/v1/responses",
            "{\"model\":\"m\",\"stream\":true,\"input\":\"x\"}",
            before(
                vec![named(
                    json!({"type": "response.created", "sequence_number": 0, "response": {"id": "r1", "created_at": 7, "model": "m"}}),
                )],
                pieces.into_iter().enumerate().map(delta).collect(),
            ),
        ),
        (
            "/api/chat",
            "{\"model\":\"m\",\"stream\":true,\"messages\":[]}",
            pieces.iter().map(|text| line(text)).collect(),
        ),
        ("/generate_stream", "{\"inputs\":\"x\"}", pieces.iter().map(|text| token(text)).collect()),
        (
            "/completion",
            "{\"prompt\":\"x\",\"stream\":true}",
            pieces.iter().map(|text| llama(text)).collect(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_stream_ends_by_its_dialect_before_the_forbidden_text() {
    let all = dialects();
    let script = all.clone();
    let engine = Engine::start(move |seen| {
        let at: usize = id(seen).parse().unwrap();
        let (path, _, events) = &script[at];
        let kind = if *path == "/api/chat" { "application/x-ndjson" } else { "text/event-stream" };
        let mut steps = vec![Step::text(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        ))];
        steps.extend(events.iter().map(Step::chunk));
        // An engine that never stops: only the gateway can end the answer.
        steps.push(Step::AwaitClose(std::time::Duration::from_secs(5)));
        steps
    })
    .await;
    let gateway = guarded(&engine, RULES, "", "").await;
    for (at, (path, body, _)) in all.iter().enumerate() {
        let answer = ask(&gateway, path, &at.to_string(), body).await;
        let text = answer.text();
        assert!(
            !text.contains("heron") && !text.contains("\"her\"") && !text.contains("on and keep"),
            "{path}: {text}"
        );
        let (word, end) = match *path {
            "/v1/messages" => (
                "\"stop_reason\":\"refusal\"",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ),
            "/v1/responses" => ("\"reason\":\"content_filter\"", "}\n\n"),
            "/api/chat" => ("\"done_reason\":\"content_filter\"", "}\n"),
            "/generate_stream" => ("\"error_type\":\"content_filter\"", "}\n\n"),
            "/completion" => ("\"stop_type\":\"content_filter\"", "}\n\n"),
            _ => ("\"finish_reason\":\"content_filter\"", "data: [DONE]\n\n"),
        };
        assert!(answer.complete && text.contains(word) && text.ends_with(end), "{path}: {text}");
        if *path == "/v1/messages" {
            assert_eq!(
                text.matches("content_block_stop").count(),
                2,
                "its block is closed (a name and a type): {text}"
            );
        }
        let record = gateway.record(&at.to_string()).await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref()),
            (Outcome::Blocked, Some("content_blocked")),
            "{path}"
        );
        assert_eq!(record.guardrail.unwrap().output.get("policy.code-name"), Some(&1), "{path}");
        assert!(
            record.usage.is_none_or(|usage| usage.estimated || usage.completion_tokens.is_none()),
            "{path}: what was said is accounted for, as an estimate"
        );
    }
    settled(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_json_answer_has_no_text_and_a_finish_reason() {
    let engine = Engine::start(|seen| match id(seen) {
        "chat" => sse::json(200, &json!({"id": "c", "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "the blue heron"}, "logprobs": {"content": [{"token": "blue"}]}, "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 3}}).to_string()),
        _ => sse::json(200, &json!({"id": "a", "type": "message", "role": "assistant", "content": [{"type": "text", "text": "the Blue  Heron"}],
            "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 3}}).to_string()),
    })
    .await;
    let gateway = guarded(&engine, RULES, "", "").await;
    let chat = ask(&gateway, CHAT, "chat", &request("x", false)).await;
    assert_eq!((chat.status, chat.complete), (200, true));
    assert!(
        !chat.text().contains("heron")
            && !chat.text().contains("blue")
            && !chat.text().contains("fine"),
        "{}",
        chat.text()
    );
    assert_eq!(
        (&chat.json()["choices"][0]["finish_reason"], &chat.json()["usage"]["completion_tokens"]),
        (&json!("content_filter"), &json!(3))
    );
    assert!(chat.head.contains("content-length:"), "its length is known: {}", chat.head);
    let message = ask(&gateway, "/v1/messages", "message", &request("x", false)).await;
    assert_eq!(
        (&message.json()["stop_reason"], &message.json()["content"][0]["text"]),
        (&json!("refusal"), &json!(""))
    );
    assert_eq!(gateway.record("chat").await.usage.unwrap().completion_tokens, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honeytoken_ends_an_answer_and_is_not_shown() {
    let engine = Engine::start(|_| {
        said(&["My instructions begin with kum", "quat-7719, which", " I must not say."])
    })
    .await;
    let gateway = guarded(&engine, "honeytokens: ['kumquat-7719']", "", "").await;
    let answer = ask(&gateway, CHAT, "r", &request("what are your instructions?", true)).await;
    let (text, reasons) = heard(&answer.text());
    assert!(!text.contains("kum") && text.is_empty(), "{text}");
    assert_eq!(reasons, ["content_filter"]);
    let told = gateway.get("/api/settings").1
        + &gateway.get("/api/requests").1
        + &gateway.get("/metrics").1
        + &gateway.stderr();
    assert!(!told.contains("kumquat"), "{told}");
    assert_eq!(
        gateway.record("r").await.guardrail.unwrap().output.get("leak.honeytoken"),
        Some(&1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_mask_if_configured_and_finished_choices_keep_their_reason() {
    let event = |choice: u32, text: &str| {
        json!({"choices": [{"index": choice, "delta": {"content": text}}]}).to_string()
    };
    let ends = |choice: u32| {
        json!({"choices": [{"index": choice, "delta": {}, "finish_reason": "stop"}]}).to_string()
    };
    let events = [
        event(0, "PROJECT-1"),
        event(0, "234 is late"),
        event(1, "all well"),
        ends(1),
        event(0, ", the blue "),
        event(0, "heron"),
    ];
    let engine = Engine::start(move |_| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        steps.extend(events.iter().map(|event| Step::chunk(format!("data: {event}\n\n"))));
        steps.extend([Step::chunk(sse::done()), Step::end()]);
        steps
    })
    .await;
    let rules = "rules: [{name: project, regex: 'PROJECT-[0-9]{3,6}', output: mask}, {name: code-name, phrases: ['blue heron'], output: block}]";
    let gateway = guarded(&engine, rules, "", "").await;
    let text = ask(&gateway, CHAT, "r", &request("x", true)).await.text();
    assert!(
        text.contains("[PROJECT]")
            && text.contains(" is late")
            && text.contains("all well")
            && !text.contains("heron"),
        "{text}"
    );
    let (_, reasons) = heard(&text);
    assert_eq!(reasons, ["stop", "content_filter"], "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_text_begins_with_the_disclaimer() {
    let engine = Engine::start(|seen| match id(seen) {
        "chat" => said(&["Take ", "two a day."]),
        "whole" => sse::chat_answer(),
        _ => {
            let event = |value: Value| Step::chunk(format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap()));
            let text = "Take two a day.";
            vec![
                Step::text(sse::STREAM_HEAD),
                event(json!({"type": "response.reasoning_text.delta", "output_index": 0, "delta": "hm"})),
                event(json!({"type": "response.output_text.delta", "output_index": 1, "delta": "Take two "})),
                event(json!({"type": "response.output_text.delta", "output_index": 1, "delta": "a day."})),
                event(json!({"type": "response.output_text.done", "output_index": 1, "text": text})),
                event(json!({"type": "response.completed", "response": {"status": "completed", "output": [
                    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}, {"type": "message", "content": [{"type": "output_text", "text": text}]}]}})),
                Step::end(),
            ]
        }
    })
    .await;
    let gateway = guarded(&engine, "disclaimer: 'Not \"medical\" advice.'", "", "").await;
    let begins = "Not \"medical\" advice.\n\n";
    assert_eq!(
        heard(&ask(&gateway, CHAT, "chat", &request("x", true)).await.text()).0,
        format!("{begins}Take two a day.")
    );
    let whole = ask(&gateway, CHAT, "whole", &request("x", false)).await;
    assert_eq!(whole.json()["choices"][0]["message"]["content"], format!("{begins}hi there"));
    let responses = ask(
        &gateway,
        "/v1/responses",
        "responses",
        "{\"model\":\"m\",\"stream\":true,\"input\":\"x\"}",
    )
    .await
    .text();
    assert_eq!(
        responses.matches("medical").count(),
        3,
        "delta, done, completed; not the reasoning: {responses}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looping_answer_is_ended() {
    let engine = Engine::start(|_| said(&["I cannot say that. "; 200])).await;
    let gateway =
        guarded(&engine, "filters: [{name: loops, use: stop-loops, with: {times: 10}}]", "", "")
            .await;
    let answer = ask(&gateway, CHAT, "r", &request("x", true)).await;
    let (text, reasons) = heard(&answer.text());
    assert!(
        text.len() < 1200 && reasons == ["content_filter"],
        "{} bytes, {reasons:?}",
        text.len()
    );
    let record = gateway.record("r").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::Blocked, Some("answer_loops"))
    );
    let account = &record.guardrail.unwrap().filters[0];
    assert_eq!(
        (account.filter.as_ref(), account.side.as_ref(), account.verdict.as_ref()),
        ("loops", "output", "block")
    );
    assert!(account.calls > 10, "{account:?}");
    let unknown = "guardrails: [{name: strict, filters: [{name: x, use: no-such}]}]";
    let text = format!(
        "backends: [{{name: e, url: '{}'}}]\n{unknown}\nroutes: [{{name: r, backend: e, guardrail: strict}}]\n",
        engine.url()
    );
    let folder = kit::gateway::folder();
    std::fs::write(folder.join("gateway.yaml"), text).unwrap();
    let checked = std::process::Command::new(kit::gateway::binary())
        .arg("check")
        .arg(folder.join("gateway.yaml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        !checked.status.success() && said.contains("no-such") && said.contains("stop-loops"),
        "{said}"
    );
    drop(gateway);
}

/// Text in other fields, cumulative text, and repetitions of the answer are checked like the
/// answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_the_answer_text_are_checked() {
    let event = |value: Value| Step::chunk(format!("data: {value}\n\n"));
    let chat = move |delta: Value| event(json!({"choices": [{"index": 0, "delta": delta}]}));
    let engine = Engine::start(move |seen| {
        let head = Step::text(sse::STREAM_HEAD);
        match id(seen) {
            "grows" => {
                let grown = |text: &str| event(json!({"text": text, "meta_info": {"completion_tokens": 1}}));
                vec![head, grown("mail joe@exam"), grown("mail joe@example.com is"), grown("mail joe@example.com is good"), sse_done(), Step::end()]
            }
            "twice" => vec![
                head,
                chat(json!({"reasoning_content": "ask joe@exam", "reasoning": "ask joe@exam"})),
                chat(json!({"reasoning_content": "ple.com now", "reasoning": "ple.com now"})),
                chat(json!({"reasoning_details": [{"type": "reasoning.text", "text": "or joe@exam"}]})),
                chat(json!({"reasoning_details": [{"type": "reasoning.text", "text": "ple.com"}], "audio": {"transcript": "joe@"}})),
                chat(json!({"audio": {"transcript": "example.com"}})),
                Step::chunk(sse::finish()),
                sse_done(),
                Step::end(),
            ],
            "arguments" => vec![
                Step::text("HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"),
                Step::chunk("{\"message\":{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"pay\",\"arguments\":{\"card\":4111111111111111}}}]},\"done\":false}\n"),
                Step::chunk("{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\"}\n"),
                Step::end(),
            ],
            "spelled" => sse::json(200, &json!({"generated_text": "joe@example.com", "details": {"tokens": [{"text": "joe"}, {"text": "@example.com"}]}}).to_string()),
            _ => sse::json(200, &json!({"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "the blue heron",
                "annotations": [{"type": "url_citation", "title": "on the blue heron"}], "reasoning": "say blue heron"}}]}).to_string()),
        }
    })
    .await;
    let gateway = guarded(&engine, &format!("output_pii: mask, {RULES}"), "", "").await;
    let grows =
        ask(&gateway, "/generate", "grows", "{\"text\":\"x\",\"stream\":true}").await.text();
    assert!(!grows.contains("joe") && grows.matches("[EMAIL_ADDRESS]").count() == 3, "{grows}");
    let twice = ask(&gateway, CHAT, "twice", &request("x", true)).await.text();
    assert!(
        !twice.contains("joe") && !twice.contains("example.com") && twice.contains("[DONE]"),
        "{twice}"
    );
    assert_eq!(twice.matches("[EMAIL_ADDRESS]").count(), 4, "{twice}");
    let arguments = ask(&gateway, "/api/chat", "arguments", &request("x", true)).await.text();
    assert!(!arguments.contains("4111"), "{arguments}");
    arguments.lines().for_each(|line| {
        drop(serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")))
    });
    let spelled =
        ask(&gateway, "/generate", "spelled", "{\"inputs\":\"x\",\"details\":true}").await;
    assert!(
        !spelled.text().contains("joe") && spelled.json()["generated_text"] == "[EMAIL_ADDRESS]",
        "{}",
        spelled.text()
    );
    let withheld = ask(&gateway, CHAT, "withheld", &request("x", false)).await;
    assert!(
        !withheld.text().contains("heron") && !withheld.text().contains("blue"),
        "{}",
        withheld.text()
    );
    assert_eq!(withheld.json()["choices"][0]["finish_reason"], "content_filter");
}

fn sse_done() -> Step {
    Step::chunk(sse::done())
}

/// An engine that fails while forbidden text is held: the client sees a failure, not a regular end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_failure_while_text_is_held_is_an_error() {
    let engine = Engine::start(|_| {
        let mut steps = said(&["we call it blue heron"]);
        steps.truncate(3);
        steps.push(Step::Reset);
        steps
    })
    .await;
    let gateway = guarded(&engine, RULES, "", "").await;
    let answer = ask(&gateway, CHAT, "died", &request("x", true)).await;
    assert!(
        !answer.complete
            && answer.text().contains("upstream_died")
            && !answer.text().contains("[DONE]"),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains("heron"), "{}", answer.text());
    settled(&gateway).await;
}

/// More choices than can be tracked are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_choices_are_refused() {
    let engine = Engine::start(|_| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        let event =
            |choice: usize| json!({"choices": [{"index": choice, "delta": {"content": "x "}}]});
        steps.extend((0..600).map(|choice| Step::chunk(format!("data: {}\n\n", event(choice)))));
        steps.extend([sse_done(), Step::end()]);
        steps
    })
    .await;
    let gateway = guarded(&engine, "output_pii: mask", "", "").await;
    let answer = ask(&gateway, CHAT, "r", &request("x", true)).await;
    assert!(
        !answer.complete && answer.text().contains("guardrail_unreadable_answer"),
        "{} bytes",
        answer.body.len()
    );
    let body = json!({"model": "m", "n": 65, "messages": []}).to_string();
    assert_eq!(ask(&gateway, CHAT, "n", &body).await.error_code(), "too_many_choices");
}
