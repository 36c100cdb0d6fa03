//! OpenAI Responses: typed events, and the whole object.
//!
//! `.done` events repeat the deltas and carry nothing new. The end is `response.completed`,
//! `.incomplete` or `.failed`; there is no `[DONE]`.

use super::openai_chat::to_u32;
use super::shared;
use crate::event::{Channel, EventReporter, EventVisitor};
use crate::json::{Malformed, Scan, Text};

/// The members of an event that are used, whatever their order.
#[derive(Default)]
struct Members<'a> {
    kind: Option<Text<'a>>,
    delta: Option<Text<'a>>,
    output_index: Option<u64>,
    item: Option<Scan<'a>>,
    response: Option<Scan<'a>>,
    message: Option<Text<'a>>,
    code: Option<Text<'a>>,
    error: Option<Scan<'a>>,
    detail: Option<Scan<'a>>,
    is_response: bool,
}

pub(super) fn read<'a, L: EventVisitor>(
    scan: &mut Scan<'a>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut whole = *scan;
    let mut m = Members::default();
    scan.object(|key, v| {
        match key {
            b"type" => m.kind = v.text()?,
            b"delta" => m.delta = v.text()?,
            b"output_index" => m.output_index = v.uint()?,
            b"item" => m.item = Some(*v),
            b"response" => m.response = Some(*v),
            b"message" => m.message = v.text()?,
            b"code" => m.code = shared::word_or_number(v)?,
            b"error" => m.error = Some(*v),
            b"detail" => m.detail = Some(*v),
            b"object" => m.is_response = v.text()?.is_some_and(|t| t.raw() == b"response"),
            _ => {}
        }
        Ok(())
    })?;
    if m.is_response && m.kind.is_none() {
        return response(&mut whole, true, report);
    }
    event(m, report)
}

fn event<L: EventVisitor>(
    m: Members<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let index = to_u32(m.output_index.unwrap_or(0));
    match m.kind.map_or(&b""[..], |k| k.raw()) {
        b"response.output_text.delta" => report.text(Channel::Content, 0, 0, m.delta),
        b"response.reasoning_text.delta" | b"response.reasoning_summary_text.delta" => {
            report.text(Channel::Reasoning, 0, 0, m.delta);
        }
        b"response.refusal.delta" => report.text(Channel::Refusal, 0, 0, m.delta),
        b"response.function_call_arguments.delta"
        | b"response.mcp_call_arguments.delta"
        | b"response.custom_tool_call_input.delta" => {
            report.text(Channel::ToolArguments, 0, index, m.delta)
        }
        b"response.output_item.added" => {
            if let Some(mut item) = m.item {
                item_added(&mut item, index, report)?;
            }
        }
        b"response.completed" => finished(m.response, "response.completed", report)?,
        b"response.incomplete" => finished(m.response, "response.incomplete", report)?,
        b"response.failed" => finished(m.response, "response.failed", report)?,
        b"error" => match m.error {
            Some(mut error) => shared::error(&mut error, report)?,
            None => report.error(None, m.message, m.code),
        },
        b"response.created" | b"response.queued" | b"response.in_progress" => {
            if let Some(mut at) = m.response {
                at.object(|key, v| {
                    match key {
                        b"model" => report.model(v.text()?),
                        b"usage" => report.usage(shared::usage(v)?),
                        _ => {}
                    }
                    Ok(())
                })?;
            }
        }
        b"" => {
            if let Some(mut error) = m.error {
                shared::error(&mut error, report)?;
            } else if let Some(mut detail) = m.detail {
                shared::detail(&mut detail, report)?;
            }
        }
        // Transcripts, code, and kinds that are not known yet.
        kind => {
            if let Some(delta) = m.delta {
                report.text_beside(kind, delta);
            }
        }
    }
    Ok(())
}

fn item_added<L: EventVisitor>(
    item: &mut Scan<'_>,
    index: u32,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let (mut kind, mut name, mut role) = (None, None, false);
    item.object(|key, v| {
        match key {
            b"type" => kind = v.text()?,
            b"name" => name = v.text()?,
            b"role" => role = v.text()?.is_some(),
            _ => {}
        }
        Ok(())
    })?;
    if kind.is_some_and(|k| matches!(k.raw(), b"function_call" | b"custom_tool_call" | b"mcp_call"))
    {
        report.text(Channel::ToolName, 0, index, name);
    } else if role {
        report.role();
    }
    Ok(())
}

fn finished<L: EventVisitor>(
    at: Option<Scan<'_>>,
    marker: &'static str,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    if let Some(mut at) = at {
        response(&mut at, false, report)?;
    }
    report.end(marker);
    Ok(())
}

/// The response object. `with_output`: it is the whole answer and not the end of a stream.
fn response<L: EventVisitor>(
    scan: &mut Scan<'_>,
    with_output: bool,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let (mut status, mut incomplete) = (None, None);
    scan.object(|key, v| {
        match key {
            b"output" if with_output => {
                v.array(|at, v| output_item(v, to_u32(at as u64), report))?
            }
            b"usage" => report.usage(shared::usage(v)?),
            b"model" => report.model(v.text()?),
            b"status" => status = v.text()?,
            b"incomplete_details" => v.object(|key, v| {
                if key == b"reason" {
                    incomplete = v.text()?;
                }
                Ok(())
            })?,
            b"error" => shared::error(v, report)?,
            _ => {}
        }
        Ok(())
    })?;
    report.finish(0, incomplete.or(status));
    Ok(())
}

fn output_item<L: EventVisitor>(
    scan: &mut Scan<'_>,
    index: u32,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut kind = None;
    let (mut name, mut arguments) = (None, None);
    let (mut content, mut summary) = (None, None);
    scan.object(|key, v| {
        match key {
            b"type" => kind = v.text()?,
            b"name" => name = v.text()?,
            b"arguments" | b"input" => arguments = v.text()?,
            b"content" => content = Some(*v),
            b"summary" => summary = Some(*v),
            _ => {}
        }
        Ok(())
    })?;
    let channel = match kind.map_or(&b""[..], |k| k.raw()) {
        b"function_call" | b"custom_tool_call" | b"mcp_call" => {
            report.text(Channel::ToolName, 0, index, name);
            report.text(Channel::ToolArguments, 0, index, arguments);
            return Ok(());
        }
        b"reasoning" => Channel::Reasoning,
        _ => Channel::Content,
    };
    for mut list in [summary, content].into_iter().flatten() {
        list.array(|_, v| {
            v.object(|key, v| {
                match key {
                    b"text" => report.text(channel, 0, 0, v.text()?),
                    b"refusal" => report.text(Channel::Refusal, 0, 0, v.text()?),
                    _ => {}
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}
