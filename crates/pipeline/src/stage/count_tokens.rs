//! Counts the tokens of the prompt.
//!
//! - *In*: the texts of the body, the tokenizer of the route.
//! - *Out*: the exchange's estimate, counted exactly.
//! - *Never*: a worker blocked by a long prompt: separate threads count it, and the request waits
//!   at most [`COUNT_TIMEOUT`]; more than [`MAX_COUNTED`] bytes counted; a guardrail job queued
//!   behind it.
//!
//! The tokens that a chat template adds stay an estimate.

use std::sync::Arc;
use std::time::Duration;

use wire::Dialect;
use wire::json::Text;

use super::rate_limit::TOKENS_A_MESSAGE;
use crate::exchange::Exchange;
use plan::host::Tokenizer;

/// Maximum bytes counted on the worker itself, which takes less than a millisecond.
const MAX_INLINE_BYTES: usize = 2 << 10;
/// Maximum bytes counted. The tokens of the rest are extrapolated from them.
const MAX_COUNTED: usize = 256 << 10;
/// Maximum wait for a count; after it, the estimate is used.
const COUNT_TIMEOUT: Duration = Duration::from_millis(250);

/// A prompt to be counted.
struct Prompt {
    /// The raw text between the quotes of its texts, escapes included, up to [`MAX_COUNTED`] bytes.
    texts: Vec<Vec<u8>>,
    /// Bytes of `texts`, and of the whole prompt.
    read: usize,
    all: usize,
    /// Whether the tokenizer adds its special tokens. In a chat, the template adds them.
    framed: bool,
}

/// Count the prompt, where the route has a tokenizer for it. What cannot be counted stays
/// estimated.
///
/// # Cancel safety
/// Dropping the future cancels the count, unless it has begun.
pub async fn count(exchange: &mut Exchange, body: &[u8]) {
    let Some(tokenizer) =
        exchange.routed.as_ref().and_then(|routed| routed.route.tokenizer.clone())
    else {
        return;
    };
    let Some(facts) = exchange.inspected.facts.as_ref().filter(|facts| !facts.tokens) else {
        return;
    };
    let framed =
        matches!(exchange.accepted.dialect, Some(Dialect::OpenAiCompletions | Dialect::Embeddings));
    let besides = if framed { 0 } else { TOKENS_A_MESSAGE * facts.messages as u64 };
    // Each prompt of a batch has its own context.
    let is_one = !framed || facts.messages <= 1;
    let prompt = Prompt::from_facts(facts, body, framed);
    let whole = prompt.read == prompt.all;
    if prompt.read == 0 {
        return;
    }
    let counted = if prompt.read <= MAX_INLINE_BYTES {
        prompt.count(&tokenizer)
    } else {
        let (answer, counted) = tokio::sync::oneshot::channel();
        let job = Box::new(move || {
            // The request may be gone.
            if !answer.is_closed() {
                let _ = answer.send(prompt.count(&tokenizer));
            }
        });
        match exchange.shared.tools.counting.offload(job) {
            Ok(()) => tokio::time::timeout(COUNT_TIMEOUT, counted)
                .await
                .ok()
                .and_then(Result::ok)
                .flatten(),
            Err(_) => None,
        }
    };
    if let Some(tokens) = counted {
        exchange.expected.input = tokens.saturating_add(besides);
        exchange.prompt_counted = whole && is_one;
    }
}

impl Prompt {
    fn from_facts(facts: &wire::RequestFacts, body: &[u8], framed: bool) -> Self {
        let mut prompt = Prompt { texts: Vec::new(), read: 0, all: 0, framed };
        for text in facts.texts.iter().filter(|text| !text.beside) {
            let raw = body.get(text.range.clone()).unwrap_or_default();
            prompt.all += raw.len();
            let room = MAX_COUNTED - prompt.read;
            // Cut at a space, which is never within an escape.
            let end = if raw.len() <= room {
                raw.len()
            } else {
                raw[..room].iter().rposition(|byte| *byte == b' ').unwrap_or(0)
            };
            prompt.read += end;
            if end > 0 {
                prompt.texts.push(raw[..end].to_vec());
            }
        }
        prompt
    }

    fn count(&self, tokenizer: &Arc<Tokenizer>) -> Option<u64> {
        let mut tokens = 0u64;
        for raw in &self.texts {
            let text = Text::new(raw, memchr::memchr(b'\\', raw).is_some()).decode();
            tokens = tokens.saturating_add(tokenizer.count(&text, self.framed)?);
        }
        let all = u128::from(tokens) * self.all as u128 / self.read.max(1) as u128;
        Some(u64::try_from(all).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_text_is_bounded_and_ends_at_a_space() {
        let words = "caf\\u00e9 ".repeat(MAX_COUNTED / 5);
        let body = format!("{{\"stop\":\"none of it\",\"prompt\":[\"{words}\",\"more\"]}}");
        let facts = wire::RequestFacts::scan(body.as_bytes()).unwrap();
        let prompt = Prompt::from_facts(&facts, body.as_bytes(), true);
        assert_eq!(prompt.all, words.len() + 4);
        assert!(
            prompt.read <= MAX_COUNTED && prompt.read > MAX_COUNTED - 20 && prompt.texts.len() <= 2,
            "{}",
            prompt.read
        );
        assert!(prompt.texts[0].ends_with(b"\\u00e9"));
        let small = b"{\"messages\":[{\"role\":\"user\",\"content\":\"a b\"}],\"response_format\":{\"type\":\"text\"}}";
        let prompt = Prompt::from_facts(&wire::RequestFacts::scan(small).unwrap(), small, false);
        assert_eq!((prompt.texts.concat(), prompt.read, prompt.all), (b"a b".to_vec(), 3, 3));
    }
}
