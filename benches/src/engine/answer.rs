//! Answers of the mock engine, built once and stamped when sent.
//!
//! In: how many events a write holds.
//! Out: response heads, and chunk-framed events shaped like those of common
//! OpenAI-compatible engines, about 250 bytes each on the wire.
//! Never: builds JSON while a stream runs; only the send stamps change.

use crate::stamp;

const ID: &str = "chatcmpl-5d0c2f7a9b3e41c68f10a2b4c6d8e0f1";
const MODEL: &str = "mock-8b-instruct";
const CREATED: u64 = 1_750_000_000;

/// Head of a stream of events.
pub const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nserver: mock-engine\r\n\
content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n\
transfer-encoding: chunked\r\n\r\n";

/// The answer to an invalid request.
pub const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
content-length: 0\r\nconnection: close\r\n\r\n";

/// The last chunk of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Text of the completion in the JSON answer, checked by clients.
pub const JSON_TEXT: &str = "The mock engine says hello.";

/// A whole answer with head and a JSON body of about 400 bytes.
#[must_use]
pub fn json() -> Vec<u8> {
    let body = format!(
        "{{\"id\":\"{ID}\",\"object\":\"chat.completion\",\"created\":{CREATED},\
         \"model\":\"{MODEL}\",\"choices\":[{{\"index\":0,\"message\":\
         {{\"role\":\"assistant\",\"content\":\"{JSON_TEXT}\",\"tool_calls\":[]}},\
         \"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}}],\
         \"usage\":{{\"prompt_tokens\":17,\"total_tokens\":24,\"completion_tokens\":7,\
         \"prompt_tokens_details\":null}},\"system_fingerprint\":null}}"
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\nserver: mock-engine\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

fn chunk(data: &str) -> Vec<u8> {
    let event = format!("data: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

fn event(delta: &str, finish: &str) -> Vec<u8> {
    chunk(&format!(
        "{{\"id\":\"{ID}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\
         \"model\":\"{MODEL}\",\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\
         \"logprobs\":null,\"finish_reason\":{finish}}}]}}"
    ))
}

/// The first event, which names the role.
#[must_use]
pub fn role() -> Vec<u8> {
    event("\"role\":\"assistant\",\"content\":\"\"", "null")
}

/// The finish event and `[DONE]`, without the closing chunk.
#[must_use]
pub fn finish() -> Vec<u8> {
    let mut bytes = event("", "\"stop\"");
    bytes.extend_from_slice(&chunk("[DONE]"));
    bytes
}

/// A run of content events that are written at once.
pub struct Content {
    bytes: Vec<u8>,
    length: usize,
    slot: usize,
}

impl Content {
    /// Makes a run of `per` events.
    #[must_use]
    pub fn new(per: usize) -> Self {
        let mark = char::from(stamp::MARK);
        let digits = "0".repeat(stamp::DIGITS);
        let one = event(&format!("\"content\":\" {mark}{digits}\""), "null");
        let slot = one.iter().position(|byte| *byte == stamp::MARK).map_or(0, |at| at + 1);
        Self { length: one.len(), bytes: one.repeat(per), slot }
    }

    /// Bytes of the first `count` events, stamped with the current time.
    pub fn stamped(&mut self, count: usize) -> &[u8] {
        let now = stamp::now();
        let end = self.bytes.len().min(count * self.length);
        for event in self.bytes[..end].chunks_exact_mut(self.length) {
            stamp::write(&mut event[self.slot..self.slot + stamp::DIGITS], now);
        }
        &self.bytes[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_size_of_real_ones_and_a_fresh_stamp() {
        let before = stamp::now();
        let mut content = Content::new(8);
        let bytes = content.stamped(3).to_vec();
        assert_eq!(bytes.len() % 3, 0);
        assert!((220..=280).contains(&(bytes.len() / 3)));
        for event in bytes.chunks_exact(bytes.len() / 3) {
            assert!(stamp::read(event).is_some_and(|sent| sent >= before));
        }
        assert!((500..=640).contains(&json().len()));
    }
}
