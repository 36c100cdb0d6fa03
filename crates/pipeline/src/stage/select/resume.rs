//! Resumes the stream of a dead backend on another one.
//!
//! - *In*: the request, and the text so far.
//! - *Out*: a request that continues the text: as the start of the assistant's message, or appended
//!   to the prompt; a comment that marks the resume point.
//! - *Never*: a guess: only plain text of one choice is resumed.

use std::sync::Arc;

use config::settings::Resume as ResumeSetting;
use lens::record::RecordResume;
use relay::Resume;
use serde_json::{Map, Value};
use wire::{Dialect, RequestFacts};

use super::choose_next;
use crate::exchange::{Exchange, Routed, UpstreamRequest};
use plan::clock;

/// Keep the request while another backend may resume the answer, if the route has `resume`.
pub fn keep_for_resume(exchange: &mut Exchange, asked: &UpstreamRequest) {
    let Some(routed) = &exchange.routed else { return };
    let facts = exchange.inspected.facts.as_ref();
    let can = exchange.wants_stream()
        && facts
            .is_some_and(|facts| facts.n.is_none_or(|n| n == 1) && facts.tools == 0 && !facts.echo);
    let known = exchange.accepted.dialect.is_some_and(Dialect::can_resume);
    if routed.route.route.resume != ResumeSetting::Off && can && known {
        exchange.attempts.resumable = Some(asked.clone());
    }
}

/// Whether another backend may resume after `text`. If so, it is selected and paid for, and its
/// request is ready.
pub fn may_resume(exchange: &mut Exchange, text: &str) -> Resume {
    let tokens = exchange.answer.lens.tokens_so_far();
    let Some(request) = exchange.attempts.resumable.clone() else { return Resume::Impossible };
    let Some(dialect) = exchange.accepted.dialect else { return Resume::Impossible };
    let body = match continued(dialect, request.body(), text, tokens) {
        Continued::Request(body) => body,
        Continued::LimitReached => return Resume::LimitReached,
        Continued::Impossible => return Resume::Impossible,
    };
    let Ok(mut facts) = RequestFacts::scan(&body) else { return Resume::Impossible };
    if !choose_next(exchange) {
        return Resume::Impossible;
    }
    let body = request.body.0.derived(body);
    facts.model = exchange.inspected.facts.take().and_then(|facts| facts.model);
    exchange.inspected.facts = Some(facts);
    let whole = 0..body.len();
    exchange.attempts.request =
        Some(UpstreamRequest { head: request.head, body: (Arc::new(body), whole) });
    Resume::Selected
}

/// Members with which an answer is not plain text of one choice.
const UNRESUMABLE_MEMBERS: [&str; 18] = [
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "n_probs",
    "functions",
    "suffix",
    "use_beam_search",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "structural_tag",
    "grammar",
    "json_schema",
    "regex",
    "ebnf",
    "prompt_embeds",
];

/// Members that limit the output, by engine.
const BOUNDS: [&str; 3] = ["max_tokens", "max_completion_tokens", "n_predict"];

/// How an answer is continued.
#[derive(Debug, PartialEq, Eq)]
enum Continued {
    /// With this request body.
    Request(Vec<u8>),
    /// It has as many tokens as the request permits.
    LimitReached,
    /// It cannot be continued.
    Impossible,
}

/// How the answer is continued after the text `said`, which has `tokens` tokens.
fn continued(dialect: Dialect, body: &[u8], said: &str, tokens: u64) -> Continued {
    let Ok(mut body) = serde_json::from_slice::<Map<String, Value>>(body) else {
        return Continued::Impossible;
    };
    body.retain(|_, value| !value.is_null());
    if !is_resumable(&body) {
        return Continued::Impossible;
    }
    let mut is_bounded = false;
    for name in BOUNDS {
        let Some(bound) = body.get_mut(name) else { continue };
        // A negative value means no limit.
        if bound.as_f64().is_some_and(|most| most < 0.0) {
            continue;
        }
        match whole_number(bound).map(|most| most.saturating_sub(tokens)) {
            None => return Continued::Impossible,
            Some(0) => return Continued::LimitReached,
            Some(left) => *bound = left.into(),
        }
        is_bounded = true;
    }
    if let Some(least) = body.get("min_tokens").and_then(Value::as_u64) {
        body.insert("min_tokens".into(), least.saturating_sub(tokens).into());
    }
    let is_begun = match dialect {
        Dialect::OpenAiChat => begin_answer(&mut body, said),
        // Without a limit, engines apply their own default, counted from the resume point.
        Dialect::OpenAiCompletions if is_bounded => lengthen_prompt(&mut body, said),
        _ => None,
    };
    match (is_begun, serde_json::to_vec(&body)) {
        (Some(()), Ok(body)) => Continued::Request(body),
        _ => Continued::Impossible,
    }
}

/// A number such as `100` or `100.0`.
fn whole_number(value: &Value) -> Option<u64> {
    let is_whole = |number: &f64| number.fract() == 0.0 && (0.0..1e15).contains(number);
    value.as_f64().filter(is_whole).map(|number| number as u64)
}

/// Whether the answer to a request is plain text of one choice.
fn is_resumable(body: &Map<String, Value>) -> bool {
    let is_set = |name: &&str| body.get(*name).is_some_and(|value| *value != Value::Bool(false));
    let is_plain = body
        .get("response_format")
        .is_none_or(|format| format.get("type").and_then(Value::as_str) == Some("text"));
    let is_one = body.get("best_of").is_none_or(|most| most.as_u64() == Some(1));
    is_plain && is_one && !UNRESUMABLE_MEMBERS.iter().any(is_set)
}

/// The text so far becomes the beginning of the assistant's message.
fn begin_answer(body: &mut Map<String, Value>, said: &str) -> Option<()> {
    let messages = body.get_mut("messages")?.as_array_mut()?;
    // A request that ends with an assistant message is itself a continuation.
    if messages.last().and_then(|last| last.get("role")).and_then(Value::as_str)
        == Some("assistant")
    {
        return None;
    }
    messages.push(serde_json::json!({"role": "assistant", "content": said}));
    body.insert("continue_final_message".into(), true.into());
    body.insert("add_generation_prompt".into(), false.into());
    Some(())
}

/// The text so far is appended to the prompt. Prompts of tokens, and several prompts, cannot be
/// extended.
fn lengthen_prompt(body: &mut Map<String, Value>, said: &str) -> Option<()> {
    let prompt = match body.get_mut("prompt")? {
        Value::Array(prompts) if prompts.len() == 1 => prompts.first_mut()?,
        prompt => prompt,
    };
    let Value::String(prompt) = prompt else { return None };
    prompt.push_str(said);
    Some(())
}

/// Record that the selected backend resumes the answer.
pub fn resumed(exchange: &mut Exchange) {
    let Some(upstream) = exchange.routed.as_ref().and_then(Routed::upstream) else { return };
    let resume = RecordResume {
        backend: upstream.backend.name.clone(),
        after_tokens: exchange.answer.lens.tokens_so_far(),
        at_us: clock::now().micros_since(exchange.accepted.head_at),
    };
    let (backend, after_tokens) = (&*resume.backend, resume.after_tokens);
    tracing::debug!(backend, after_tokens, "stream resumed");
    exchange.attempts.resumes.push(resume);
    // The first token came from the dead backend, and so did the time to it.
    exchange.attempts.first_token_reported = true;
    exchange.sent.at = exchange.attempts.first_sent.or(exchange.sent.at);
}

/// The comment that marks the resume point for the client, with `resume: marked`. Clients ignore
/// comments.
pub fn resume_mark(exchange: &Exchange) -> Option<String> {
    let routed = exchange.routed.as_ref()?;
    let marked = routed.route.route.resume == ResumeSetting::Marked;
    let upstream = routed.upstream().filter(|_| marked)?;
    Some(format!(": resumed by {}\n\n", upstream.backend.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The continued request, if there is one.
    fn request(dialect: Dialect, body: &[u8], said: &str, tokens: u64) -> Option<Vec<u8>> {
        match continued(dialect, body, said, tokens) {
            Continued::Request(body) => Some(body),
            Continued::LimitReached | Continued::Impossible => None,
        }
    }

    #[test]
    fn plain_text_chat_is_continued_and_others_are_not() {
        let body = |more: &str| {
            format!(
                "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]{more}}}"
            )
        };
        let continued =
            |body: &[u8], said, tokens| request(Dialect::OpenAiChat, body, said, tokens);
        let made = continued(
            body(",\"max_tokens\":10,\"response_format\":{\"type\":\"text\"}").as_bytes(),
            "a \"b",
            4,
        )
        .unwrap();
        let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
        assert_eq!(
            (made["max_tokens"].as_u64(), made["continue_final_message"].as_bool()),
            (Some(6), Some(true))
        );
        assert_eq!(
            made["messages"][1],
            serde_json::json!({"role": "assistant", "content": "a \"b"})
        );
        for odd in [
            ",\"response_format\":{\"type\":\"json_object\"}",
            ",\"logprobs\":true",
            ",\"guided_regex\":\"a+\"",
            ",\"max_tokens\":4",
        ] {
            assert!(continued(body(odd).as_bytes(), "a", 4).is_none(), "{odd}");
        }
        assert!(continued(body(",\"logprobs\":false").as_bytes(), "a", 4).is_some());
        let float = continued(body(",\"max_tokens\":10.0").as_bytes(), "a", 4).expect("whole");
        assert!(String::from_utf8_lossy(&float).contains("\"max_tokens\":6"));
        assert!(
            continued(b"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}]}", "a", 4)
                .is_none()
        );
    }

    #[test]
    fn completion_prompt_is_extended_by_the_text_so_far() {
        let continued =
            |body: &str| request(Dialect::OpenAiCompletions, body.as_bytes(), " a \"b", 4);
        let made = continued("{\"prompt\":\"It is\",\"max_tokens\":10,\"min_tokens\":3,\"best_of\":1,\"logprobs\":null}").unwrap();
        let made: Value = serde_json::from_slice(&made).unwrap();
        assert_eq!(
            (made["prompt"].as_str(), made["max_tokens"].as_u64()),
            (Some("It is a \"b"), Some(6))
        );
        assert_eq!(made["min_tokens"].as_u64(), Some(0));
        let one = continued("{\"prompt\":[\"It is\"],\"n_predict\":10,\"max_tokens\":-1}").unwrap();
        let one: Value = serde_json::from_slice(&one).unwrap();
        assert_eq!(
            (one["prompt"][0].as_str(), one["n_predict"].as_u64(), one["max_tokens"].as_i64()),
            (Some("It is a \"b"), Some(6), Some(-1))
        );
        for prompt in ["[\"a\",\"b\"]", "[1,2]", "[[1]]", "7"] {
            assert!(
                continued(&format!("{{\"prompt\":{prompt},\"max_tokens\":10}}")).is_none(),
                "{prompt}"
            );
        }
        for odd in [
            "\"max_tokens\":10,\"logprobs\":0",
            "\"max_tokens\":10,\"suffix\":\"b\"",
            "\"max_tokens\":10.5",
            "\"max_tokens\":4",
            "\"seed\":1",
        ] {
            assert!(continued(&format!("{{\"prompt\":\"a\",{odd}}}")).is_none(), "{odd}");
        }
    }
}
