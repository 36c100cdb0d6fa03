//! Answers that engines give, ready for scripts.

use crate::Step;

/// The head of a chunked event stream.
pub const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A chat event with that delta.
pub fn delta(members: &str) -> String {
    format!(
        "data: {{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{{members}}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// A chat event with text.
pub fn content(text: &str) -> String {
    delta(&format!("\"content\":\"{text}\""))
}

/// The role event.
pub fn role() -> String {
    delta("\"role\":\"assistant\",\"content\":\"\"")
}

/// The finish event.
pub fn finish() -> String {
    "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n".into()
}

/// The usage event.
pub fn usage(prompt: u64, completion: u64) -> String {
    format!(
        "data: {{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion},\"total_tokens\":{}}}}}\n\n",
        prompt + completion
    )
}

/// The end mark.
pub fn done() -> String {
    "data: [DONE]\n\n".into()
}

/// A whole stream of `n` content events, each in a chunk of its own, with a pause before each.
pub fn stream(n: usize, pause_ms: u64) -> Vec<Step> {
    let mut steps = vec![Step::text(STREAM_HEAD), Step::chunk(role())];
    for i in 0..n {
        if pause_ms > 0 {
            steps.push(Step::ms(pause_ms));
        }
        steps.push(Step::chunk(content(&format!("t{i} "))));
    }
    steps.extend([Step::chunk(finish()), Step::chunk(done()), Step::end()]);
    steps
}

/// A whole JSON answer.
pub fn json(status: u16, body: &str) -> Vec<Step> {
    vec![Step::text(format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))]
}

/// A short chat answer that was not streamed.
pub fn chat_answer() -> Vec<Step> {
    json(
        200,
        r#"{"id":"c1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi there"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#,
    )
}
