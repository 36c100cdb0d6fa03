//! OpenAI chat completions, streamed (`delta`) and whole (`message`): OpenAI, Azure, vLLM, SGLang,
//! TGI, llama.cpp, DeepSeek, Mistral, OpenRouter, Groq and Ollama's `/v1`.
//!
//! Differences between engines that are handled here: reasoning as `reasoning` or
//! `reasoning_content`; content as a string or as a list of parts (Mistral, while thinking);
//! annotation events with no choice, or a choice without delta (Azure); usage inside `x_groq`;
//! counts in `timings` (llama.cpp); an error next to choices (OpenRouter); a role on every event
//! (TGI) or on none.

use super::{DialectState, shared};
use crate::event::{Channel, EventReporter, EventVisitor, Usage};
use crate::json::{Malformed, Scan};

pub(super) fn read<'a, L: EventVisitor>(
    state: &mut DialectState,
    scan: &mut Scan<'a>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut whole = *scan;
    let (mut error, mut error_type, mut is_error) = (None, None, false);
    let (mut usage, mut timings, mut only_choice) = (Usage::default(), None, None);
    scan.object(|key, v| {
        match key {
            b"choices" => {
                let mut any = false;
                let list = v.peek() == Some(b'[');
                v.array(|at, v| {
                    let index = choice(state, v, at, report)?;
                    only_choice = (!any).then_some(index);
                    any = true;
                    Ok(())
                })?;
                report.no_choices = list && !any;
            }
            b"usage" => usage = shared::usage(v)?,
            b"timings" => timings = Some(shared::timings(v)?),
            b"metrics" => report.times(shared::metrics(v)?),
            b"x_groq" => v.object(|key, v| {
                match key {
                    b"usage" => report.usage(shared::usage(v)?),
                    b"error" => shared::error(v, report)?,
                    _ => {}
                }
                Ok(())
            })?,
            b"model" => report.model(v.text()?),
            b"error" => error = Some(*v),
            b"error_type" => error_type = v.text()?,
            b"object" => is_error = v.text()?.is_some_and(|t| t.raw() == b"error"),
            b"detail" => shared::detail(v, report)?,
            _ => {}
        }
        Ok(())
    })?;
    if let Some((counts, times)) = timings {
        report.times(times);
        let counts = if usage.is_blank() { counts } else { usage };
        usage = match (only_choice, report.no_choices) {
            (Some(choice), _) => state.choice_tokens.add(choice, counts),
            (None, true) => state.choice_tokens.add(state.choice_tokens.ended, counts),
            (None, false) => counts,
        };
    }
    report.usage(usage);
    match error {
        Some(mut at) => shared::error_of_kind(error_type, &mut at, report),
        // SGLang and Mistral: the whole object is the error.
        None if is_error => shared::error(&mut whole, report),
        None => Ok(()),
    }
}

/// One choice. Its index may follow its text, so the position of the text is saved until the index
/// is known. Returns the index.
fn choice<L: EventVisitor>(
    state: &mut DialectState,
    scan: &mut Scan<'_>,
    at: usize,
    report: &mut EventReporter<'_, L>,
) -> Result<u32, Malformed> {
    let mut index = None;
    let mut body = None;
    let mut reason = None;
    scan.object(|key, v| {
        match key {
            b"index" => index = v.uint()?,
            b"delta" | b"message" => match index {
                Some(index) => message(state, v, to_u32(index), report)?,
                None => body = Some(*v),
            },
            b"finish_reason" => reason = v.text()?,
            _ => {}
        }
        Ok(())
    })?;
    let index = to_u32(index.unwrap_or(at as u64));
    if let Some(mut body) = body {
        message(state, &mut body, index, report)?;
    }
    if reason.is_some() {
        state.choice_tokens.ended = index;
    }
    report.finish(index, reason);
    Ok(index)
}

fn message<L: EventVisitor>(
    state: &mut DialectState,
    scan: &mut Scan<'_>,
    choice: u32,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut reasoned = false;
    scan.object(|key, v| {
        match key {
            b"role" => {
                if v.text()?.is_some() {
                    report.role();
                }
            }
            b"content" if state.echo_pending => {
                let echo = v.text()?;
                state.echo_pending = echo.is_none_or(|t| t.is_empty());
            }
            b"content" => content(v, choice, report)?,
            // Some engines write the same text under both names.
            b"reasoning_content" | b"reasoning" if !reasoned => {
                let text = v.text()?;
                reasoned = text.is_some_and(|t| !t.is_empty());
                report.text(Channel::Reasoning, choice, 0, text);
            }
            b"refusal" => report.text(Channel::Refusal, choice, 0, v.text()?),
            b"tool_calls" => v.array(|at, v| tool_call(v, choice, at, report))?,
            b"function_call" => function(v, choice, 0, report)?,
            key => report.beside(choice, key, v)?,
        }
        Ok(())
    })
}

fn content<L: EventVisitor>(
    scan: &mut Scan<'_>,
    choice: u32,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    if scan.peek() != Some(b'[') {
        report.text(Channel::Content, choice, 0, scan.text()?);
        return Ok(());
    }
    scan.array(|_, v| {
        v.object(|key, v| {
            match key {
                b"text" => report.text(Channel::Content, choice, 0, v.text()?),
                b"thinking" => v.array(|_, v| {
                    v.object(|key, v| {
                        if key == b"text" {
                            report.text(Channel::Reasoning, choice, 0, v.text()?);
                        }
                        Ok(())
                    })
                })?,
                _ => {}
            }
            Ok(())
        })
    })
}

fn tool_call<L: EventVisitor>(
    scan: &mut Scan<'_>,
    choice: u32,
    at: usize,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut index = None;
    let mut call = None;
    scan.object(|key, v| {
        match key {
            b"index" => index = v.uint()?,
            b"function" | b"custom" => call = Some(*v),
            _ => {}
        }
        Ok(())
    })?;
    match call {
        Some(mut call) => function(&mut call, choice, to_u32(index.unwrap_or(at as u64)), report),
        None => Ok(()),
    }
}

fn function<L: EventVisitor>(
    scan: &mut Scan<'_>,
    choice: u32,
    index: u32,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    scan.object(|key, v| {
        match key {
            b"name" => report.text(Channel::ToolName, choice, index, v.text()?),
            b"arguments" | b"input" => {
                report.text(Channel::ToolArguments, choice, index, v.text()?)
            }
            _ => {}
        }
        Ok(())
    })
}

/// Convert an index, saturating at `u32::MAX`. Indices only group parts; they are never sizes.
pub(super) fn to_u32(index: u64) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
