//! Answers of a simulated engine.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::json;
use tokio::sync::mpsc;
use wire::RequestFacts;

use super::{Body, EngineState, error};

/// Maximum tokens of an answer.
const MAX_ANSWER_TOKENS: u64 = 32_768;

/// A parsed request.
struct GenerateRequest {
    chat: bool,
    usage: bool,
    tokens: u64,
    prompt_tokens: u64,
    number: u64,
}

pub(super) fn generate(state: Arc<EngineState>, chat: bool, body: &[u8]) -> Response<Body> {
    let facts = match RequestFacts::scan(body) {
        Ok(facts) => facts,
        Err(refused) => return error(StatusCode::BAD_REQUEST, &refused.to_string()),
    };
    if facts.texts.is_empty() {
        return error(StatusCode::BAD_REQUEST, "the request has no prompt");
    }
    let order = GenerateRequest {
        chat,
        usage: facts.include_usage == Some(true),
        tokens: facts
            .max_tokens
            .unwrap_or(u64::from(state.profile.tokens))
            .clamp(1, MAX_ANSWER_TOKENS),
        prompt_tokens: (facts.prompt_bytes() as u64).div_ceil(4),
        number: state.next(),
    };
    if state.profile.fails(order.number) {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the simulated engine fails now and then");
    }
    let streamed = facts.stream == Some(true);
    // Buffers a few events ahead of the connection, like the output queue of an engine.
    let (send, receive) = mpsc::channel(16);
    // Ends when the answer is complete, or when the client disconnects and the channel closes.
    tokio::spawn(async move {
        if streamed {
            stream(&state, &order, send).await
        } else {
            whole(&state, &order, send).await
        }
    });
    let mut response = Response::new(Events(receive).boxed());
    let content_type =
        if streamed { "text/event-stream; charset=utf-8" } else { "application/json" };
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(content_type));
    response
}

async fn stream(state: &EngineState, order: &GenerateRequest, send: mpsc::Sender<Bytes>) {
    let Ok(_slot) = state.slots.acquire().await else { return };
    let mut random = SmallRng::seed_from_u64(order.number);
    let mut due = Instant::now() + state.profile.first_token(order.prompt_tokens, &mut random);
    let model = &state.profile.model;
    let head = format!(
        "\"id\":\"sim-{}\",\"object\":\"{}\",\"created\":1760000000,\"model\":\"{model}\"",
        order.number,
        order.object()
    );
    for i in 0..order.tokens {
        wait(due).await;
        due = due.max(Instant::now() - Duration::from_millis(1))
            + state.profile.next_token(&mut random);
        let mut text = String::new();
        if i == 0 && order.chat {
            text.push_str(&format!("data: {{{head},\"choices\":[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}},\"finish_reason\":null}}]}}\n\n"));
        }
        text.push_str(&format!(
            "data: {{{head},\"choices\":[{{\"index\":0,{},\"finish_reason\":null}}]}}\n\n",
            order.piece(i)
        ));
        if i + 1 == order.tokens {
            text.push_str(&order.ending(&head));
        }
        if send.send(Bytes::from(text)).await.is_err() {
            return;
        }
    }
}

async fn whole(state: &EngineState, order: &GenerateRequest, send: mpsc::Sender<Bytes>) {
    let Ok(_slot) = state.slots.acquire().await else { return };
    let mut random = SmallRng::seed_from_u64(order.number);
    let mut time = state.profile.first_token(order.prompt_tokens, &mut random);
    for _ in 1..order.tokens {
        time += state.profile.next_token(&mut random);
    }
    wait(Instant::now() + time).await;
    let text: String = (0..order.tokens).map(word).collect();
    let choice = if order.chat {
        json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"})
    } else {
        json!({"index": 0, "text": text, "finish_reason": "length"})
    };
    let object = if order.chat { "chat.completion" } else { "text_completion" };
    let answer = json!({"id": format!("sim-{}", order.number), "object": object, "created": 1_760_000_000, "model": state.profile.model, "choices": [choice], "usage": order.counts()});
    let _ = send.send(Bytes::from(answer.to_string())).await;
}

async fn wait(due: Instant) {
    tokio::time::sleep_until(due.into()).await;
}

impl GenerateRequest {
    fn object(&self) -> &'static str {
        if self.chat { "chat.completion.chunk" } else { "text_completion" }
    }

    fn piece(&self, i: u64) -> String {
        let word = word(i);
        if self.chat {
            format!("\"delta\":{{\"content\":\"{word}\"}}")
        } else {
            format!("\"text\":\"{word}\"")
        }
    }

    fn counts(&self) -> serde_json::Value {
        json!({"prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens, "total_tokens": self.prompt_tokens + self.tokens})
    }

    /// The finish event, the usage event if requested, and the end marker.
    fn ending(&self, head: &str) -> String {
        let empty = if self.chat { "\"delta\":{}" } else { "\"text\":\"\"" };
        let mut text = format!(
            "data: {{{head},\"choices\":[{{\"index\":0,{empty},\"finish_reason\":\"length\"}}]}}\n\n"
        );
        if self.usage {
            text.push_str(&format!(
                "data: {{{head},\"choices\":[],\"usage\":{}}}\n\n",
                self.counts()
            ));
        }
        text + "data: [DONE]\n\n"
    }
}

/// One token.
fn word(i: u64) -> &'static str {
    const WORDS: [&str; 12] = [
        " the", " sea", " is", " wide", ",", " deep", " and", " cold", ";", " ships", " cross",
        " it",
    ];
    WORDS[(i % WORDS.len() as u64) as usize]
}

/// Events as a body.
struct Events(mpsc::Receiver<Bytes>);

impl HttpBody for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|event| event.map(|e| Ok(Frame::data(e))))
    }
}
