//! The texts of a simulated engine's answers, in the format of OpenAI's API.
//!
//! - *In*: a [`Generate`] request.
//! - *Out*: bytes of events and bodies. One word is one token, so counts are exact.
//! - *Never*: meaningful text.

use serde_json::{Value, json};
use wire::RequestFacts;

use super::Profile;
use super::profile::MAX_ANSWER_TOKENS;

/// A request for an answer.
pub(super) struct Generate {
    pub(super) number: u64,
    pub(super) chat: bool,
    pub(super) stream: bool,
    pub(super) usage: bool,
    pub(super) prompt_tokens: u64,
    pub(super) tokens: u64,
}

impl Generate {
    /// Reads a request body.
    ///
    /// # Errors
    /// The problem.
    pub(super) fn parse(body: &[u8], chat: bool, number: u64, p: &Profile) -> Result<Self, String> {
        let facts = RequestFacts::scan(body).map_err(|refused| refused.to_string())?;
        if facts.texts.is_empty() {
            return Err("the request has no prompt".into());
        }
        let tokens = facts.max_tokens.unwrap_or(u64::from(p.tokens));
        Ok(Generate {
            number,
            chat,
            stream: facts.stream == Some(true),
            usage: facts.include_usage == Some(true),
            prompt_tokens: (facts.prompt_bytes() as u64).div_ceil(4),
            tokens: tokens.clamp(1, u64::from(MAX_ANSWER_TOKENS)),
        })
    }

    fn head(&self, model: &str) -> String {
        let object = if self.chat { "chat.completion.chunk" } else { "text_completion" };
        let id = self.number;
        format!(
            "\"id\":\"sim-{id}\",\"object\":\"{object}\",\"created\":1760000000,\
             \"model\":\"{model}\""
        )
    }

    /// The event with these tokens; the first one has the role before it.
    pub(super) fn event(&self, model: &str, tokens: std::ops::Range<u64>) -> String {
        let head = self.head(model);
        let choice = |part: &str| {
            format!(
                "data: {{{head},\"choices\":[{{\"index\":0,{part},\"finish_reason\":null}}]}}\n\n"
            )
        };
        let mut text = String::new();
        if tokens.start == 0 && self.chat {
            text.push_str(&choice("\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"));
        }
        let words: String = tokens.map(word).collect();
        text.push_str(&match self.chat {
            true => choice(&format!("\"delta\":{{\"content\":\"{words}\"}}")),
            false => choice(&format!("\"text\":\"{words}\"")),
        });
        text
    }

    /// The finish event, the usage event if requested, and the end marker.
    pub(super) fn ending(&self, model: &str) -> String {
        let head = self.head(model);
        let empty = if self.chat { "\"delta\":{}" } else { "\"text\":\"\"" };
        let mut text = format!(
            "data: {{{head},\"choices\":[{{\"index\":0,{empty},\"finish_reason\":\"length\"}}]}}\n\n"
        );
        if self.usage {
            let usage = self.usage();
            text.push_str(&format!("data: {{{head},\"choices\":[],\"usage\":{usage}}}\n\n"));
        }
        text + "data: [DONE]\n\n"
    }

    /// The body of an answer that is not streamed.
    pub(super) fn body(&self, model: &str) -> String {
        let text: String = (0..self.tokens).map(word).collect();
        let mut choice = json!({"index": 0, "finish_reason": "length"});
        let object = if self.chat { "chat.completion" } else { "text_completion" };
        match self.chat {
            true => choice["message"] = json!({"role": "assistant", "content": text}),
            false => choice["text"] = json!(text),
        }
        json!({
            "id": format!("sim-{}", self.number), "object": object, "created": 1_760_000_000,
            "model": model, "choices": [choice], "usage": self.usage(),
        })
        .to_string()
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        })
    }
}

/// OpenAI's error object.
pub(super) fn error(code: u16, message: &str) -> String {
    let kind = if code < 500 { "invalid_request_error" } else { "server_error" };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string()
}

/// The list of models.
pub(super) fn models(model: &str) -> String {
    json!({"object": "list", "data": [{"id": model, "object": "model", "owned_by": "llm-lens"}]})
        .to_string()
}

/// One token.
fn word(i: u64) -> &'static str {
    const WORDS: [&str; 12] = [
        " the", " sea", " is", " wide", ",", " deep", " and", " cold", ";", " ships", " cross",
        " it",
    ];
    WORDS[(i % WORDS.len() as u64) as usize]
}

/// A chunk of a body.
pub(super) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// The last chunk of a body.
pub(super) const LAST_CHUNK: &str = "0\r\n\r\n";

/// The head of a stream.
pub(super) const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\n\
    content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

/// A whole answer, whose head promises `length` bytes.
pub(super) fn whole(status: u16, content_type: &str, body: &str, length: usize) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        _ => "Service Unavailable",
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}
