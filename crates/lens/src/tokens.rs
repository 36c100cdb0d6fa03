//! The tokens of one answer: as the engine reports them, else estimated.
//!
//! - *In*: usage of events, the counts of the stream, what the request permits.
//! - *Out*: prompt tokens, generated tokens, and whether they are estimates.
//! - *Never*: a count that falls.

use wire::Usage;

use crate::counts::Counts;

/// Average characters of the events of a stream up to which each event counts as one token. Text
/// has four to five characters per token in English, and fewer in most other languages.
const MAX_TOKEN_CHARS: u64 = 8;

/// Token counts of one answer.
#[derive(Debug, Default)]
pub struct TokenCount {
    /// Maximum tokens of the answer, if the request has one.
    max_tokens: Option<u64>,
    usage: Option<Usage>,
    generated_before_resume: u64,
    counts_before_resume: Counts,
    /// Prompt tokens that an engine before the last resume reported.
    prompt_before_resume: Option<u64>,
}

impl TokenCount {
    /// The request permits the engine so many tokens, all choices together. It bounds no charge:
    /// the engine may ignore it.
    pub fn limit(&mut self, most: Option<u64>) {
        self.max_tokens = most;
    }

    /// An event has this usage.
    pub fn add(&mut self, usage: Usage) {
        self.usage.get_or_insert_default().update(usage);
    }

    /// Another backend resumes the answer. The usage that it reports covers only its own part.
    pub fn resume(&mut self, counts: &Counts) {
        let (prompt_tokens, is_estimated) = self.prompt_tokens();
        self.prompt_before_resume = prompt_tokens.filter(|_| !is_estimated);
        self.generated_before_resume = self.generated_so_far(counts);
        self.counts_before_resume = *counts;
        self.discard();
    }

    /// The usage since the last resume does not count.
    pub fn discard(&mut self) {
        self.usage = None;
    }

    /// Usage as reported by the engine. After a resume, its prompt is that of the client's request;
    /// the generated tokens are those of the last engine.
    pub fn usage(&self) -> Option<Usage> {
        let (prompt_tokens, _) = self.prompt_tokens();
        let known = prompt_tokens.map(|_| Usage::default());
        let mut usage = self.usage.or(known)?;
        usage.prompt_tokens = prompt_tokens;
        if self.generated_before_resume > 0 {
            usage.cached_tokens =
                usage.cached_tokens.map(|tokens| tokens.min(prompt_tokens.unwrap_or(tokens)));
        }
        Some(usage)
    }

    /// Usage of the last engine, as it reported it.
    pub fn reported(&self) -> Option<Usage> {
        self.usage
    }

    /// Prompt tokens of the client's request, and whether the number is an estimate. The prompt of
    /// a resuming engine contains the earlier text, whose tokens are subtracted; they are an
    /// estimate, and wrong if nothing is left.
    pub fn prompt_tokens(&self) -> (Option<u64>, bool) {
        // No prompt is empty.
        let is_cached = |usage: &Usage| usage.cached_tokens.unwrap_or(0) > 0;
        let stated = self.usage.and_then(|usage| {
            usage.prompt_tokens.filter(|tokens| *tokens > 0 || is_cached(&usage))
        });
        match (self.prompt_before_resume, self.generated_before_resume) {
            (Some(first), _) => (Some(first), false),
            (None, 0) => (stated, false),
            (None, before) => (
                stated.and_then(|tokens| tokens.checked_sub(before)).filter(|left| *left > 0),
                true,
            ),
        }
    }

    /// Generated tokens, and whether the number is an estimate. Usage of zero tokens beside token
    /// events is no usage. The estimate without usage is the number of token events: engines send
    /// one for each token. If the events are longer than
    /// tokens are ([`MAX_TOKEN_CHARS`]), it is a quarter of the text bytes, the average of current
    /// tokenizers for English text.
    pub fn generated(&self, counts: &Counts) -> (Option<u64>, bool) {
        let before = &self.counts_before_resume;
        let events = counts.content_events - before.content_events;
        let stated = self.usage.and_then(|usage| {
            let is_possible = events == 0 || usage.separate_reasoning().is_some();
            usage.completion_tokens.filter(|tokens| *tokens > 0 || is_possible)
        });
        if let Some(tokens) = stated {
            // A failed backend did not report its usage, so its tokens are an estimate.
            let before = self.generated_before_resume;
            return (Some(tokens.saturating_add(before)), before > 0);
        }
        let (bytes, chars) =
            (counts.text_bytes - before.text_bytes, counts.text_chars - before.text_chars);
        let estimate = match chars > events * MAX_TOKEN_CHARS {
            true => events.max(bytes.div_ceil(4)),
            false => events,
        };
        let estimate = estimate.saturating_add(self.generated_before_resume);
        ((estimate > 0).then_some(estimate), true)
    }

    /// Generated tokens of an answer that has not ended. An engine ends an answer at the tokens
    /// that the request permits, so an estimate as large is wrong: then each token event is one.
    pub fn generated_so_far(&self, counts: &Counts) -> u64 {
        let (tokens, is_estimated) = self.generated(counts);
        let tokens = tokens.unwrap_or(0);
        let is_wrong = is_estimated && self.max_tokens.is_some_and(|most| tokens >= most);
        if is_wrong { counts.content_events } else { tokens }
    }
}
