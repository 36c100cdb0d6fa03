//! `/generate` and `/generate_stream`: TGI's native interface, and SGLang's, which shares the path.
//!
//! TGI: one token per event; a token marked `special` is not text; the last event repeats the whole
//! text in `generated_text`. SGLang: `text` is cumulative, so only its growth is new text; every
//! event has `meta_info`.

use super::{DialectState, shared};
use crate::event::{Channel, EventReporter, EventVisitor, Usage};
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

pub(super) fn read<L: EventVisitor>(
    state: &mut DialectState,
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    if scan.peek() == Some(b'[') {
        return scan.array(|_, v| one(state, v, report));
    }
    one(state, scan, report)
}

fn one<L: EventVisitor>(
    state: &mut DialectState,
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
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
        Some(mut at) => token(&mut at, report)?,
        None => report.text(Channel::Content, 0, 0, m.generated),
    }
    if let Some(text) = m.cumulative {
        grown(state, text, report);
    }
    if let Some(mut at) = m.details {
        details(&mut at, report)?;
    }
    if let Some(mut at) = m.meta {
        meta_info(&mut at, report)?;
    }
    if m.generated.is_some() {
        report.end("generated_text");
    }
    match (m.error, m.detail) {
        (Some(mut at), _) => shared::error_of_kind(m.error_type, &mut at, report)?,
        (None, Some(mut at)) => shared::detail(&mut at, report)?,
        (None, None) => {}
    }
    Ok(())
}

fn token<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
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
        report.text(Channel::Content, 0, 0, text);
    }
    Ok(())
}

fn details<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut usage = Usage::default();
    scan.object(|key, v| {
        match key {
            b"finish_reason" => report.finish(0, v.text()?),
            b"generated_tokens" => usage.completion_tokens = v.count()?,
            b"input_length" => usage.prompt_tokens = v.count()?,
            _ => {}
        }
        Ok(())
    })?;
    report.usage(usage);
    Ok(())
}

/// Report only the text added since the last event. Lengths are of the raw text: if an engine
/// changes earlier escapes, the text is off by a few bytes, but no event is lost.
fn grown<L: EventVisitor>(
    state: &mut DialectState,
    text: Text<'_>,
    report: &mut EventReporter<'_, L>,
) {
    let raw = text.raw();
    if raw.len() > state.cumulative {
        report.text(Channel::Content, 0, 0, text.from_byte(state.cumulative));
        state.cumulative = raw.len();
    }
}

fn meta_info<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut usage = Usage::default();
    scan.object(|key, v| {
        match key {
            b"prompt_tokens" => usage.prompt_tokens = v.count()?,
            b"completion_tokens" => usage.completion_tokens = v.count()?,
            b"cached_tokens" => usage.cached_tokens = v.count()?,
            b"finish_reason" => v.object(|key, v| {
                if key == b"type" {
                    report.finish(0, v.text()?);
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    report.usage(usage);
    Ok(())
}
