//! How many tokens is the prompt?
//!
//! - *In*: the texts of the body, the tokenizer of the route.
//! - *Out*: the exchange's expectation, counted instead of estimated.
//! - *Never*: a worker kept busy with a long prompt, which is counted by the pool's threads; more than [`MOST`] bytes counted.
//!
//! What a chat template puts around messages is not in the file: it stays an estimate.

use std::sync::Arc;

use wire::Dialect;
use wire::json::Text;

use super::admit::TOKENS_A_MESSAGE;
use crate::exchange::Exchange;
use crate::world::Tokenizer;

/// Bytes that are counted at once: they take less than a millisecond.
const AT_ONCE: usize = 2 << 10;
/// Most bytes that are counted; the rest of a prompt is taken to have as many tokens for its bytes.
const MOST: usize = 1 << 20;

/// Count the prompt, where the route has a tokenizer for it. What cannot be counted stays estimated.
///
/// # Cancel safety
/// Dropping the future lets a count that has begun come to its end, for nothing.
pub(crate) async fn run(exchange: &mut Exchange, body: &[u8]) {
    let Some(tokenizer) = exchange.routed.as_ref().and_then(|routed| routed.route.tokenizer.clone()) else { return };
    let Some(facts) = exchange.inspected.facts.as_ref().filter(|facts| !facts.tokens && !facts.texts.is_empty()) else { return };
    // A prompt that stands alone has the tokens that begin a text; in a chat the template brings them.
    let framed = matches!(exchange.accepted.dialect, Some(Dialect::OpenAiCompletions | Dialect::Embeddings));
    let besides = if framed { 0 } else { TOKENS_A_MESSAGE * facts.messages as u64 };
    let bytes = facts.prompt_bytes();
    let mut room = MOST;
    let mut texts = Vec::with_capacity(facts.texts.len());
    for text in &facts.texts {
        let raw = body.get(text.range.clone()).unwrap_or_default();
        let decoded = Text::of(raw, memchr::memchr(b'\\', raw).is_some()).decode().into_owned();
        let end = decoded.floor_char_boundary(room);
        room -= end;
        texts.push(decoded.get(..end).unwrap_or_default().to_owned());
        if room == 0 {
            break;
        }
    }
    let counted = if bytes <= AT_ONCE {
        count(&tokenizer, &texts, framed)
    } else {
        let (answer, counted) = tokio::sync::oneshot::channel();
        let job = Box::new(move || {
            // Who asked may have left.
            let _ = answer.send(count(&tokenizer, &texts, framed));
        });
        match exchange.shared.tools.pool.offload(job) {
            Ok(()) => counted.await.ok().flatten(),
            Err(_) => None,
        }
    };
    if let Some(tokens) = counted {
        let read = MOST.min(bytes).max(1) as u128;
        let all = u64::try_from(u128::from(tokens) * bytes as u128 / read).unwrap_or(u64::MAX);
        exchange.expected.input = if bytes > MOST { all } else { tokens }.saturating_add(besides);
        exchange.counted = true;
    }
}

fn count(tokenizer: &Arc<Tokenizer>, texts: &[String], framed: bool) -> Option<u64> {
    texts.iter().try_fold(0u64, |sum, text| Some(sum.saturating_add(tokenizer.count(text, framed)?)))
}
