//! Objects that several dialects share: errors, and usage with both sets of member names.

use crate::event::{EngineTimes, EventReporter, EventVisitor, Usage};
use crate::json::{Malformed, Scan, Text};

/// An error: an object, or a bare string.
pub(super) fn error<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    error_of_kind(None, scan, report)
}

/// Like [`error`], with the kind given outside the error object.
pub(super) fn error_of_kind<'a, L: EventVisitor>(
    mut kind: Option<Text<'a>>,
    scan: &mut Scan<'a>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    match scan.peek() {
        Some(b'"') => {
            let message = scan.text()?;
            report.error(kind, message, None);
        }
        Some(b'{') => {
            let (mut message, mut code) = (None, None);
            scan.object(|key, v| {
                match key {
                    b"type" => kind = v.text()?,
                    b"message" => message = v.text()?,
                    b"code" | b"http_status_code" => code = word_or_number(v)?,
                    _ => {}
                }
                Ok(())
            })?;
            report.error(kind, message, code);
        }
        _ => scan.skip()?,
    }
    Ok(())
}

/// `detail` of FastAPI servers: a string for an unknown path, a list for a failed validation.
pub(super) fn detail<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let message = scan.text()?;
    report.error(None, message, None);
    Ok(())
}

/// A string, or a number as written; `None` for every other value.
pub(super) fn word_or_number<'a>(scan: &mut Scan<'a>) -> Result<Option<Text<'a>>, Malformed> {
    match scan.peek() {
        Some(b'"') => scan.text(),
        Some(b'0'..=b'9' | b'-') => scan.verbatim().map(Some),
        _ => scan.skip().map(|()| None),
    }
}

/// Microseconds in a millisecond.
const MILLISECOND: f64 = 1e3;

/// `timings` of llama.cpp, which the last event of a choice has even if no usage was requested.
/// `prompt_n` excludes tokens from the cache; without `cache_n`, the prompt's count is unknown. Its
/// time in the queue is not reported.
pub(super) fn timings(scan: &mut Scan<'_>) -> Result<(Usage, EngineTimes), Malformed> {
    let (mut usage, mut times) = (Usage::default(), EngineTimes::default());
    let mut processed = None;
    scan.object(|key, v| {
        match key {
            b"predicted_n" => usage.completion_tokens = v.count()?,
            b"prompt_n" => processed = v.count()?,
            b"cache_n" => usage.cached_tokens = v.count()?,
            b"prompt_ms" => times.prefill = v.scaled(MILLISECOND)?,
            b"predicted_ms" => times.decode = v.scaled(MILLISECOND)?,
            _ => {}
        }
        Ok(())
    })?;
    usage.prompt_tokens =
        processed.zip(usage.cached_tokens).map(|(new, old)| new.saturating_add(old));
    Ok((usage, times))
}

/// `metrics` of vLLM (`--enable-per-request-metrics`). Its time to first token starts when the
/// request is scheduled, so it excludes the queue.
pub(super) fn metrics(scan: &mut Scan<'_>) -> Result<EngineTimes, Malformed> {
    let mut times = EngineTimes::default();
    scan.object(|key, v| {
        match key {
            b"queue_time_ms" => times.queue = v.scaled(MILLISECOND)?,
            b"time_to_first_token_ms" => times.prefill = v.scaled(MILLISECOND)?,
            b"generation_time_ms" => times.decode = v.scaled(MILLISECOND)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(times)
}

/// Usage of the choices of one stream, for engines that report it for each choice (llama.cpp).
#[derive(Debug, Default)]
pub(crate) struct ChoiceTokens {
    counts: Vec<(u32, Usage)>,
    /// The last choice that has ended: a usage event after it is its own.
    pub(super) ended: u32,
}

impl ChoiceTokens {
    /// Maximum choices that are counted.
    const MAX: usize = 128;

    /// Set the usage of a choice, and return the sum. The prompt is counted with the first choice.
    pub(super) fn add(&mut self, choice: u32, mut usage: Usage) -> Usage {
        if choice > 0 {
            (usage.prompt_tokens, usage.cached_tokens) = (None, None);
        }
        // It would have the prompt as well.
        usage.total_tokens = None;
        let is_full = self.counts.len() >= Self::MAX;
        match self.counts.iter_mut().find(|(known, _)| *known == choice) {
            Some((_, known)) => *known = usage,
            None if !is_full => self.counts.push((choice, usage)),
            None => {}
        }
        let sum = |count: fn(&Usage) -> Option<u64>| {
            self.counts.iter().filter_map(|(_, usage)| count(usage)).reduce(u64::saturating_add)
        };
        Usage {
            prompt_tokens: sum(|usage| usage.prompt_tokens),
            completion_tokens: sum(|usage| usage.completion_tokens),
            cached_tokens: sum(|usage| usage.cached_tokens),
            ..usage
        }
    }
}

/// `usage` with OpenAI's member names, or with those of Responses and Anthropic (`input_tokens`,
/// `output_tokens`).
pub(super) fn usage(scan: &mut Scan<'_>) -> Result<Usage, Malformed> {
    let mut usage = Usage::default();
    scan.object(|key, v| {
        match key {
            b"prompt_tokens" | b"input_tokens" => usage.prompt_tokens = v.count()?,
            b"completion_tokens" | b"output_tokens" => usage.completion_tokens = v.count()?,
            b"total_tokens" => usage.total_tokens = v.count()?,
            b"cache_read_input_tokens" => usage.cached_tokens = v.count()?,
            b"cache_creation_input_tokens" => usage.cache_creation_tokens = v.count()?,
            b"prompt_tokens_details" | b"input_tokens_details" => v.object(|key, v| {
                if key == b"cached_tokens" {
                    usage.cached_tokens = v.count()?;
                }
                Ok(())
            })?,
            b"completion_tokens_details" | b"output_tokens_details" => v.object(|key, v| {
                if key == b"reasoning_tokens" {
                    usage.reasoning_tokens = v.count()?;
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(usage)
}
