//! Ollama's native `/api/chat` and `/api/generate`: one JSON object per line. The last one has
//! `done:true` and the counts.

use super::openai_chat::to_u32;
use super::shared;
use crate::event::{Channel, EngineTimes, EventReporter, EventVisitor, Usage};
use crate::json::{Malformed, Scan};

/// Microseconds in a nanosecond.
const NANOSECOND: f64 = 1e-3;

pub(super) fn read<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let (mut usage, mut times) = (Usage::default(), EngineTimes::default());
    let mut done = false;
    scan.object(|key, v| {
        match key {
            b"message" => message(v, report)?,
            b"response" => report.text(Channel::Content, 0, 0, v.text()?),
            b"thinking" => report.text(Channel::Reasoning, 0, 0, v.text()?),
            b"model" => report.model(v.text()?),
            b"done" => done = v.boolean()? == Some(true),
            b"done_reason" => report.finish(0, v.text()?),
            b"prompt_eval_count" => usage.prompt_tokens = v.count()?,
            b"eval_count" => usage.completion_tokens = v.count()?,
            b"load_duration" => times.load = v.scaled(NANOSECOND)?,
            b"prompt_eval_duration" => times.prefill = v.scaled(NANOSECOND)?,
            b"eval_duration" => times.decode = v.scaled(NANOSECOND)?,
            b"error" => shared::error(v, report)?,
            _ => {}
        }
        Ok(())
    })?;
    report.usage(usage);
    report.times(times);
    if done {
        report.end("done:true");
    }
    Ok(())
}

fn message<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    scan.object(|key, v| {
        match key {
            b"role" => {
                v.text()?;
                report.role();
            }
            b"content" => report.text(Channel::Content, 0, 0, v.text()?),
            b"thinking" => report.text(Channel::Reasoning, 0, 0, v.text()?),
            b"tool_calls" => v.array(|at, v| tool_call(v, to_u32(at as u64), report))?,
            _ => {}
        }
        Ok(())
    })
}

/// A complete tool call. Its arguments are an object, not a string.
fn tool_call<L: EventVisitor>(
    scan: &mut Scan<'_>,
    index: u32,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    scan.object(|key, v| {
        if key == b"function" {
            v.object(|key, v| {
                match key {
                    b"name" => report.text(Channel::ToolName, 0, index, v.text()?),
                    b"arguments" => {
                        report.text(Channel::ToolArguments, 0, index, Some(v.verbatim()?))
                    }
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(())
    })
}
