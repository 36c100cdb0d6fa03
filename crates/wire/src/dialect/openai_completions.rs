//! OpenAI completions (`text_completion`), streamed and whole. There is no role event: the first
//! event is the first token, and with `echo` it also contains the prompt.

use super::openai_chat::to_u32;
use super::{DialectState, shared};
use crate::event::{Channel, EventReporter, EventVisitor, Usage};
use crate::json::{Malformed, Scan};

pub(super) fn read<L: EventVisitor>(
    state: &mut DialectState,
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut whole = *scan;
    let (mut usage, mut timings, mut only_choice) = (Usage::default(), None, None);
    let mut is_error = false;
    scan.object(|key, v| {
        match key {
            b"choices" => {
                let mut any = false;
                let list = v.peek() == Some(b'[');
                v.array(|at, v| {
                    let index = choice(v, at, report)?;
                    only_choice = (!any).then_some(index);
                    any = true;
                    Ok(())
                })?;
                report.no_choices = list && !any;
            }
            b"usage" => usage = shared::usage(v)?,
            b"timings" => timings = Some(shared::timings(v)?),
            b"metrics" => report.times(shared::metrics(v)?),
            b"model" => report.model(v.text()?),
            b"error" => shared::error(v, report)?,
            b"object" => is_error = v.text()?.is_some_and(|t| t.raw() == b"error"),
            b"detail" => shared::detail(v, report)?,
            _ => {}
        }
        Ok(())
    })?;
    if let Some((counts, times)) = timings {
        report.times(times);
        let counts = if usage.is_blank() { counts } else { usage };
        usage = match only_choice {
            Some(choice) => state.choice_tokens.add(choice, counts),
            None => counts,
        };
    }
    report.usage(usage);
    // vLLM and SGLang: the whole object is the error.
    if is_error { shared::error(&mut whole, report) } else { Ok(()) }
}

/// One choice. Returns its index.
fn choice<L: EventVisitor>(
    scan: &mut Scan<'_>,
    at: usize,
    report: &mut EventReporter<'_, L>,
) -> Result<u32, Malformed> {
    let (mut index, mut text, mut reasoning, mut reason, mut again) =
        (None, None, None, None, None);
    scan.object(|key, v| {
        match key {
            b"index" => index = v.uint()?,
            b"text" => text = v.text()?,
            b"reasoning" | b"reasoning_content" if reasoning.is_none() => reasoning = v.text()?,
            // Some engines write the same text under both names.
            b"reasoning" | b"reasoning_content" => again = Some(*v),
            b"finish_reason" => reason = v.text()?,
            _ => {}
        }
        Ok(())
    })?;
    let index = to_u32(index.unwrap_or(at as u64));
    report.text(Channel::Reasoning, index, 0, reasoning);
    report.text(Channel::Content, index, 0, text);
    if let Some(mut again) = again {
        report.beside(index, b"reasoning", &mut again)?;
    }
    report.finish(index, reason);
    Ok(index)
}
