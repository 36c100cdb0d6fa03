//! Ollama's native `/api/chat` and `/api/generate`: one JSON object per line. The last one has
//! `done:true` and the counts.

use super::openai_chat::to_u32;
use super::shared;
use crate::event::{Channel, Listener, Teller, Usage};
use crate::json::{Malformed, Scan};

pub(super) fn read<L: Listener>(
    scan: &mut Scan<'_>,
    tell: &mut Teller<'_, L>,
) -> Result<(), Malformed> {
    let mut usage = Usage::default();
    let mut done = false;
    scan.object(|key, v| {
        match key {
            b"message" => message(v, tell)?,
            b"response" => tell.text(Channel::Content, 0, 0, v.text()?),
            b"thinking" => tell.text(Channel::Reasoning, 0, 0, v.text()?),
            b"model" => tell.model(v.text()?),
            b"done" => done = v.boolean()? == Some(true),
            b"done_reason" => tell.finish(0, v.text()?),
            b"prompt_eval_count" => usage.prompt_tokens = v.uint()?,
            b"eval_count" => usage.completion_tokens = v.uint()?,
            b"error" => shared::error(v, tell)?,
            _ => {}
        }
        Ok(())
    })?;
    tell.usage(usage);
    if done {
        tell.end("done:true");
    }
    Ok(())
}

fn message<L: Listener>(scan: &mut Scan<'_>, tell: &mut Teller<'_, L>) -> Result<(), Malformed> {
    scan.object(|key, v| {
        match key {
            b"role" => {
                v.text()?;
                tell.role();
            }
            b"content" => tell.text(Channel::Content, 0, 0, v.text()?),
            b"thinking" => tell.text(Channel::Reasoning, 0, 0, v.text()?),
            b"tool_calls" => v.array(|at, v| tool_call(v, to_u32(at as u64), tell))?,
            _ => {}
        }
        Ok(())
    })
}

/// A complete tool call. Its arguments are an object, not a string.
fn tool_call<L: Listener>(
    scan: &mut Scan<'_>,
    index: u32,
    tell: &mut Teller<'_, L>,
) -> Result<(), Malformed> {
    scan.object(|key, v| {
        if key == b"function" {
            v.object(|key, v| {
                match key {
                    b"name" => tell.text(Channel::ToolName, 0, index, v.text()?),
                    b"arguments" => {
                        tell.text(Channel::ToolArguments, 0, index, Some(v.verbatim()?))
                    }
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(())
    })
}
