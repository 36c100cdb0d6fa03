//! Guardrails beyond masking: judges, rules of the operator, blocked answers, redaction and
//! restoring, and their cost.

mod account;
mod endings;
mod judges;
mod prompts;
mod redaction;

use kit::{Engine, Gateway, Step, sse};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";

/// A gateway whose only route has this guardrail; `backends` are further entries of the list.
async fn guarded(engine: &Engine, guardrail: &str, backends: &str, more: &str) -> Gateway {
    Gateway::with_settings(&settings(engine, guardrail, backends, more)).await
}

/// A gateway with an engine and a judge, the backend `j`.
async fn judged(engine: &Engine, judge: &Engine, guardrail: &str) -> Gateway {
    guarded(engine, guardrail, &format!(", {{name: j, url: '{}'}}", judge.url()), "").await
}

fn settings(engine: &Engine, guardrail: &str, backends: &str, more: &str) -> String {
    // Everything is off but what the test is about.
    let off = "input_injection: off, input_toxicity: off, input_pii: off, input_secrets: off, output_pii: off, output_secrets: off";
    format!(
        "backends: [{{name: e, url: '{}'}}{backends}]\nguardrails: [{{name: strict, {}}}]\nroutes: [{{name: r, backend: e, guardrail: strict}}]\n{more}\n",
        engine.url(),
        merged(off, guardrail),
    )
}

/// Merges the members of both; those of `second` win.
fn merged(first: &str, second: &str) -> String {
    let key = |member: &str| member.split(':').next().unwrap_or_default().trim().to_owned();
    let kept = first.split(", ").filter(|member| !second.contains(&format!("{}:", key(member))));
    kept.chain([second]).collect::<Vec<_>>().join(", ")
}

/// A chat request of a user.
fn request(text: &str, stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]})
        .to_string()
}

/// A chat stream of one event for each piece, with its end.
fn said(pieces: &[&str]) -> Vec<Step> {
    let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role())];
    steps.extend(pieces.iter().map(|piece| Step::chunk(sse::content(piece))));
    steps.extend([Step::chunk(sse::finish()), Step::chunk(sse::done()), Step::end()]);
    steps
}

/// The content of a chat stream, and its finish reasons.
fn heard(body: &str) -> (String, Vec<String>) {
    let (mut text, mut reasons) = (String::new(), Vec::new());
    for data in
        body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]")
    {
        let event: serde_json::Value =
            serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}"));
        for choice in event["choices"].as_array().into_iter().flatten() {
            text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
        }
    }
    (text, reasons)
}
