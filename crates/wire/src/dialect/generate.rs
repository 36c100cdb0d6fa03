//! `/generate` and `/generate_stream`: TGI's native interface, and SGLang's, which shares the path.
//!
//! TGI: one token per event; a token marked `special` is not text; the last event repeats the whole
//! text in `generated_text`. SGLang: `text` is cumulative, so only its growth is new text; every
//! event has `meta_info`.

use super::{Memory, shared};
use crate::event::{Channel, Listener, Teller, Usage};
use crate::json::{Malformed, Scan, Text};

#[derive(Default)]
struct Members<'a> {
    token: Option<Scan<'a>>,
    generated: Option<Text<'a>>,
    details: Option<Scan<'a>>,
    cumulative: Option<Text<'a>>,
    meta: Option<Scan<'a>>,
    error: Option<Scan<'a>>,
    error_type: Option<Text<'a>>,
    detail: Option<Scan<'a>>,
}

pub(super) fn read<L: Listener>(
    memory: &mut Memory,
    scan: &mut Scan<'_>,
    tell: &mut Teller<'_, L>,
) -> Result<(), Malformed> {
    if scan.peek() == Some(b'[') {
        return scan.array(|_, v| one(memory, v, tell));
    }
    one(memory, scan, tell)
}

fn one<L: Listener>(
    memory: &mut Memory,
    scan: &mut Scan<'_>,
    tell: &mut Teller<'_, L>,
) -> Result<(), Malformed> {
    let mut m = Members::default();
    scan.object(|key, v| {
        match key {
            b"token" => m.token = Some(*v),
            b"generated_text" => m.generated = v.text()?,
            b"details" => m.details = Some(*v),
            b"text" => m.cumulative = v.text()?,
            b"meta_info" => m.meta = Some(*v),
            b"error" => m.error = Some(*v),
            b"error_type" => m.error_type = v.text()?,
            b"detail" => m.detail = Some(*v),
            _ => {}
        }
        Ok(())
    })?;
    match m.token {
        Some(mut at) => token(&mut at, tell)?,
        None => tell.text(Channel::Content, 0, 0, m.generated),
    }
    if let Some(text) = m.cumulative {
        grown(memory, text, tell);
    }
    if let Some(mut at) = m.details {
        details(&mut at, tell)?;
    }
    if let Some(mut at) = m.meta {
        meta_info(&mut at, tell)?;
    }
    if m.generated.is_some() {
        tell.end("generated_text");
    }
    match (m.error, m.detail) {
        (Some(mut at), _) => shared::error_of_kind(m.error_type, &mut at, tell)?,
        (None, Some(mut at)) => shared::detail(&mut at, tell)?,
        (None, None) => {}
    }
    Ok(())
}

fn token<L: Listener>(scan: &mut Scan<'_>, tell: &mut Teller<'_, L>) -> Result<(), Malformed> {
    let (mut text, mut special) = (None, false);
    scan.object(|key, v| {
        match key {
            b"text" => text = v.text()?,
            b"special" => special = v.boolean()? == Some(true),
            _ => {}
        }
        Ok(())
    })?;
    if !special {
        tell.text(Channel::Content, 0, 0, text);
    }
    Ok(())
}

fn details<L: Listener>(scan: &mut Scan<'_>, tell: &mut Teller<'_, L>) -> Result<(), Malformed> {
    let mut usage = Usage::default();
    scan.object(|key, v| {
        match key {
            b"finish_reason" => tell.finish(0, v.text()?),
            b"generated_tokens" => usage.completion_tokens = v.uint()?,
            b"input_length" => usage.prompt_tokens = v.uint()?,
            _ => {}
        }
        Ok(())
    })?;
    tell.usage(usage);
    Ok(())
}

/// Report only the text added since the last event. Lengths are of the raw text: if an engine
/// changes earlier escapes, the text is off by a few bytes, but no event is lost.
fn grown<L: Listener>(memory: &mut Memory, text: Text<'_>, tell: &mut Teller<'_, L>) {
    let raw = text.raw();
    if raw.len() > memory.cumulative {
        tell.text(Channel::Content, 0, 0, text.from_byte(memory.cumulative));
        memory.cumulative = raw.len();
    }
}

fn meta_info<L: Listener>(scan: &mut Scan<'_>, tell: &mut Teller<'_, L>) -> Result<(), Malformed> {
    let mut usage = Usage::default();
    scan.object(|key, v| {
        match key {
            b"prompt_tokens" => usage.prompt_tokens = v.uint()?,
            b"completion_tokens" => usage.completion_tokens = v.uint()?,
            b"cached_tokens" => usage.cached_tokens = v.uint()?,
            b"finish_reason" => v.object(|key, v| {
                if key == b"type" {
                    tell.finish(0, v.text()?);
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    tell.usage(usage);
    Ok(())
}
