//! Redacted parts of a prompt never reach the engine, and are restored in the answer if configured.

use kit::{Engine, Step, sse};
use serde_json::{Value, json};

use super::{CHAT, guarded, heard, said};
use crate::support::{ask, id};

const MAIL: &str = "jane.roe@example.org";

fn prompt(stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": format!("I am \"Jane\", {MAIL}, and my friend is john@example.com. Write to {MAIL}!")}]})
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redaction_sends_placeholders_and_restores_the_answer() {
    let engine = Engine::start(|seen| match id(seen) {
        "whole" => sse::json(
            200,
            &json!({"choices": [{"index": 0, "message": {"content": "Dear [EMAIL_ADDRESS_2], see [EMAIL_ADDRESS_9]."}, "finish_reason": "stop"}]}).to_string(),
        ),
        "tool" => {
            let call = |text: &str| json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}}]}).to_string();
            let mut steps = said(&[]);
            steps.splice(1..1, ["{\"to\": \"[EMAIL_", "ADDRESS_1]\"}"].map(|text| Step::chunk(format!("data: {}\n\n", call(text)))));
            steps
        }
        width => {
            let text = "Write to [EMAIL_ADDRESS_1], not to [EMAIL_ADDRESS_2] or new@example.net; [this] stays.";
            let width: usize = width.parse().unwrap();
            let pieces: Vec<&str> = (0..text.len())
                .step_by(width)
                .map(|at| &text[at..(at + width).min(text.len())])
                .collect();
            said(&pieces)
        }
    })
    .await;
    let gateway =
        guarded(&engine, "input_pii: redact, restore: true, output_pii: mask", "", "").await;
    for width in [1, 2, 5, 13, 200] {
        let answer = ask(&gateway, CHAT, &width.to_string(), &prompt(true)).await;
        let want =
            format!("Write to {MAIL}, not to john@example.com or [EMAIL_ADDRESS]; [this] stays.");
        assert_eq!(heard(&answer.text()).0, want, "{width}");
    }
    let sent: Value = serde_json::from_slice(&engine.seen()[0].body).unwrap();
    assert_eq!(
        sent["messages"][1]["content"],
        "I am \"Jane\", [EMAIL_ADDRESS_1], and my friend is [EMAIL_ADDRESS_2]. Write to [EMAIL_ADDRESS_1]!"
    );
    assert_eq!(sent["messages"][0]["content"], "be brief");
    let whole = ask(&gateway, CHAT, "whole", &prompt(false)).await;
    assert_eq!(
        whole.json()["choices"][0]["message"]["content"],
        "Dear john@example.com, see [EMAIL_ADDRESS_9]."
    );
    let tool = ask(&gateway, CHAT, "tool", &prompt(true)).await.text();
    assert!(tool.contains("jane.roe@example.org") && !tool.contains("EMAIL_ADDRESS"), "{tool}");
    let record = gateway.record("1").await;
    assert_eq!(record.guardrail.as_ref().unwrap().verdict, "redact");
    let told = gateway.get("/api/requests").1 + &gateway.get("/metrics").1 + &gateway.stderr();
    assert!(!told.contains("jane.roe") && !told.contains("john@"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_restoring_placeholders_stay_and_usage_is_still_asked_for() {
    let engine = Engine::start(|_| {
        let mut steps = said(&["Hello [EMAIL_ADDRESS_1]."]);
        steps.insert(4, Step::chunk(sse::usage(3, 9)));
        steps
    })
    .await;
    let text = super::settings(&engine, "input_pii: redact", "", "")
        .replace("guardrail: strict}", "guardrail: strict, include_usage: inject}");
    let gateway = kit::Gateway::with_settings(&text).await;
    let answer = ask(&gateway, CHAT, "r", &prompt(true)).await;
    assert_eq!(heard(&answer.text()).0, "Hello [EMAIL_ADDRESS_1].");
    assert!(!answer.text().contains("usage\":{\"prompt"), "{}", answer.text());
    let sent: Value = serde_json::from_slice(&engine.seen()[0].body).unwrap();
    assert_eq!(sent["stream_options"]["include_usage"], true);
    assert!(!sent.to_string().contains("example.org"), "{sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn findings_of_an_analyzer_are_redacted() {
    let engine = Engine::start(|_| said(&["Hello [PERSON_1]."])).await;
    let analyzer = Engine::start(|seen| {
        let asked: Value = serde_json::from_slice(&seen.body).unwrap();
        let text = asked["text"].as_str().unwrap();
        let found: Vec<Value> = text
            .find("Zoë Roe")
            .map(|at| text[..at].chars().count())
            .map(|at| json!({"entity_type": "PERSON", "start": at, "end": at + 7, "score": 0.9}))
            .into_iter()
            .collect();
        sse::json(200, &json!(found).to_string())
    })
    .await;
    let guardrail = "restore: true, input_pii: redact, judges: [{name: names, kind: analyzer, backend: j, input: redact}]";
    let gateway = super::judged(&engine, &analyzer, guardrail).await;
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "Grüße, ich bin Zoë Roe, zoe@example.org."}]});
    let answer = ask(&gateway, CHAT, "r", &body.to_string()).await;
    assert_eq!(heard(&answer.text()).0, "Hello Zoë Roe.");
    let sent: Value = serde_json::from_slice(&engine.seen()[0].body).unwrap();
    assert_eq!(sent["messages"][0]["content"], "Grüße, ich bin [PERSON_1], [EMAIL_ADDRESS_1].");
}
