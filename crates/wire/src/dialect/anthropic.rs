//! Anthropic Messages: typed events and the whole message.
//!
//! `message_start` has the prompt tokens and a placeholder for the output tokens, which is ignored;
//! `message_delta` has the output tokens. A ping may occur anywhere. The end is `message_stop`.

use super::openai_chat::to_u32;
use super::{DialectState, shared};
use crate::event::{Channel, EventReporter, EventVisitor, Usage};
use crate::json::{Malformed, Scan, Text};

/// Maximum tool calls whose index is tracked. Beyond it, the block's own index is used.
const MAX_BLOCKS: usize = 256;

/// Which blocks of the stream are tool calls, in the order they opened.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    tools: Vec<u64>,
}

impl Blocks {
    fn open(&mut self, block: u64) {
        if self.tools.len() < MAX_BLOCKS {
            self.tools.push(block);
        }
    }

    /// Index of a block's tool call among the tool calls of the stream, from 0.
    fn tool_index(&self, block: u64) -> u32 {
        let at = self.tools.iter().position(|b| *b == block);
        to_u32(at.map_or(block, |at| at as u64))
    }
}

#[derive(Default)]
struct Members<'a> {
    kind: Option<Text<'a>>,
    index: Option<u64>,
    delta: Option<Scan<'a>>,
    block: Option<Scan<'a>>,
    message: Option<Scan<'a>>,
    usage: Option<Scan<'a>>,
    error: Option<Scan<'a>>,
    detail: Option<Scan<'a>>,
}

pub(super) fn read<'a, L: EventVisitor>(
    state: &mut DialectState,
    scan: &mut Scan<'a>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut whole = *scan;
    let mut m = Members::default();
    scan.object(|key, v| {
        match key {
            b"type" => m.kind = v.text()?,
            b"index" => m.index = v.uint()?,
            b"delta" => m.delta = Some(*v),
            b"content_block" => m.block = Some(*v),
            b"message" => m.message = Some(*v),
            b"usage" => m.usage = Some(*v),
            b"error" => m.error = Some(*v),
            b"detail" => m.detail = Some(*v),
            _ => {}
        }
        Ok(())
    })?;
    let block = m.index.unwrap_or(0);
    match m.kind.map_or(&b""[..], |k| k.raw()) {
        b"content_block_delta" => match m.delta {
            Some(mut delta) => block_delta(&mut delta, state.blocks.tool_index(block), report),
            None => Ok(()),
        },
        b"content_block_start" => match m.block {
            Some(mut start) => block_start(&mut start, &mut state.blocks, block, report),
            None => Ok(()),
        },
        b"message_start" => match m.message {
            Some(mut message) => message_start(&mut message, report),
            None => Ok(()),
        },
        b"message_delta" => message_delta(m.delta, m.usage, report),
        b"message_stop" => {
            report.end("message_stop");
            Ok(())
        }
        b"message" => message(&mut whole, report),
        _ => match (m.error, m.detail) {
            (Some(mut error), _) => shared::error(&mut error, report),
            (None, Some(mut detail)) => shared::detail(&mut detail, report),
            (None, None) => Ok(()),
        },
    }
}

fn block_delta<L: EventVisitor>(
    scan: &mut Scan<'_>,
    tool: u32,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    scan.object(|key, v| {
        match key {
            b"text" => report.text(Channel::Content, 0, 0, v.text()?),
            b"thinking" => report.text(Channel::Reasoning, 0, 0, v.text()?),
            b"partial_json" => report.text(Channel::ToolArguments, 0, tool, v.text()?),
            _ => {}
        }
        Ok(())
    })
}

fn block_start<L: EventVisitor>(
    scan: &mut Scan<'_>,
    blocks: &mut Blocks,
    block: u64,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let (mut kind, mut name, mut text, mut thinking) = (None, None, None, None);
    scan.object(|key, v| {
        match key {
            b"type" => kind = v.text()?,
            b"name" => name = v.text()?,
            b"text" => text = v.text()?,
            b"thinking" => thinking = v.text()?,
            _ => {}
        }
        Ok(())
    })?;
    match kind.map_or(&b""[..], |k| k.raw()) {
        b"tool_use" | b"server_tool_use" | b"mcp_tool_use" => {
            blocks.open(block);
            report.text(Channel::ToolName, 0, blocks.tool_index(block), name);
        }
        b"text" => report.text(Channel::Content, 0, 0, text),
        b"thinking" => report.text(Channel::Reasoning, 0, 0, thinking),
        _ => {}
    }
    Ok(())
}

fn message_start<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    scan.object(|key, v| {
        match key {
            b"model" => report.model(v.text()?),
            b"role" => {
                v.text()?;
                report.role();
            }
            b"usage" => report.usage(Usage { completion_tokens: None, ..shared::usage(v)? }),
            _ => {}
        }
        Ok(())
    })
}

fn message_delta<L: EventVisitor>(
    delta: Option<Scan<'_>>,
    usage: Option<Scan<'_>>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    if let Some(mut delta) = delta {
        delta.object(|key, v| {
            if key == b"stop_reason" {
                report.finish(0, v.text()?);
            }
            Ok(())
        })?;
    }
    if let Some(mut usage) = usage {
        report.usage(shared::usage(&mut usage)?);
    }
    Ok(())
}

/// The message of a request that was not streamed.
fn message<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut tools = 0;
    scan.object(|key, v| {
        match key {
            b"model" => report.model(v.text()?),
            b"stop_reason" => report.finish(0, v.text()?),
            b"usage" => report.usage(shared::usage(v)?),
            b"content" => v.array(|_, v| content_block(v, &mut tools, report))?,
            _ => {}
        }
        Ok(())
    })
}

fn content_block<L: EventVisitor>(
    scan: &mut Scan<'_>,
    tools: &mut u32,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let (mut kind, mut name, mut input, mut text, mut thinking) = (None, None, None, None, None);
    scan.object(|key, v| {
        match key {
            b"type" => kind = v.text()?,
            b"name" => name = v.text()?,
            b"input" => input = Some(v.verbatim()?),
            b"text" => text = v.text()?,
            b"thinking" => thinking = v.text()?,
            _ => {}
        }
        Ok(())
    })?;
    match kind.map_or(&b""[..], |k| k.raw()) {
        b"text" => report.text(Channel::Content, 0, 0, text),
        b"thinking" => report.text(Channel::Reasoning, 0, 0, thinking),
        b"tool_use" => {
            report.text(Channel::ToolName, 0, *tools, name);
            report.text(Channel::ToolArguments, 0, *tools, input);
            *tools += 1;
        }
        _ => {}
    }
    Ok(())
}
