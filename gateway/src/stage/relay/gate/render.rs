//! Events as they leave: masks put in, what was taken out of the prompt put back, everything else as it came.
//!
//! - *In*: an event's bytes, its slots, what of them is replaced.
//! - *Out*: the bytes to queue; or for what the answer ends here.
//! - *Never*: a document parsed and written again.

use std::borrow::Cow;

use wire::json::Text;
use wire::rewrite::{self, Edit, Found};
use wire::{Dialect, Framing};

use super::line::{Lines, Mask, Slot};
use super::{Content, Ground};

/// What spells the text once more, token by token.
const LOGPROBS: &[u8] = b"logprobs";
/// Members of the engine's own bookkeeping; a request's id looks like a key to a scanner.
const ENVELOPE: [&[u8]; 10] =
    [b"id", b"object", b"type", b"role", b"model", b"status", b"item_id", b"response_id", b"system_fingerprint", b"finish_reason"];
/// Members that repeat an answer's text at its end.
const REPEATED: [&[u8]; 2] = [b"text", b"generated_text"];

/// An event as it leaves, or the kind of finding that ends the answer.
pub(super) fn event<'b>(
    ground: &Ground,
    lines: &Lines,
    opening: &str,
    bytes: &'b [u8],
    content: &Content,
) -> Result<Cow<'b, [u8]>, &'static str> {
    if let Some(kind) = lines.blocks(&content.slots) {
        return Err(kind);
    }
    let masked = content.slots.iter().any(|slot| lines.masks(slot).next().is_some());
    let disclaims = !ground.disclaimer.is_empty();
    let opens = disclaims && content.slots.iter().any(|slot| slot.opens);
    if !masked && !content.strange && !opens {
        return Ok(Cow::Borrowed(bytes));
    }
    let data = rewrite::data(ground.framing, bytes);
    let mut edits: Vec<Edit> = content.slots.iter().flat_map(|slot| in_slot(ground, lines, &data, slot)).collect();
    let mut blocked = None;
    let read = rewrite::strings(&data, if masked { LOGPROBS } else { b"" }, &mut |key, found| match found {
        Found::Erased(at) => edits.push(Edit { at, with: b"null".to_vec() }),
        Found::Text(text, at) => {
            let is_slot = content.slots.iter().any(|slot| slot.raw.start < at.end && at.start < slot.raw.end);
            if !content.strange || is_slot || ENVELOPE.contains(&key) {
                return;
            }
            if disclaims && REPEATED.contains(&key) && !opening.is_empty() && text.decode().starts_with(opening) {
                edits.push(disclaimer(ground, at.start));
            }
            blocked = blocked.or(in_text(ground, &text, at.start, &mut edits));
        }
    });
    if let Some(kind) = blocked {
        return Err(kind);
    }
    // What is no JSON is scanned as the text that it is.
    if read.is_err() {
        return whole(ground, bytes);
    }
    Ok(if edits.is_empty() { Cow::Borrowed(bytes) } else { Cow::Owned(rewrite::apply(ground.framing, bytes, &mut edits)) })
}

/// Bytes that nobody reads as an event, scanned as one text.
pub(super) fn whole<'b>(ground: &Ground, bytes: &'b [u8]) -> Result<Cow<'b, [u8]>, &'static str> {
    let mut edits = Vec::new();
    match in_text(ground, &Text::of(bytes, false), 0, &mut edits) {
        Some(kind) => Err(kind),
        None if edits.is_empty() => Ok(Cow::Borrowed(bytes)),
        None => Ok(Cow::Owned(rewrite::apply(Framing::Opaque, bytes, &mut edits))),
    }
}

/// A whole answer that is not shown: without its texts, and with the dialect's word for why.
pub(super) fn withheld(dialect: Dialect, bytes: &[u8], content: &Content) -> Vec<u8> {
    let mut edits: Vec<Edit> = content.slots.iter().map(|slot| Edit { at: slot.raw.clone(), with: Vec::new() }).collect();
    edits.extend(content.reasons.iter().map(|(_, at)| Edit { at: at.clone(), with: dialect.filtered().into() }));
    // Whatever spells or repeats a text; the reader of a document that broke has told no text of it either.
    let _ = rewrite::strings(bytes, LOGPROBS, &mut |_, found| {
        if let Found::Erased(at) = found {
            edits.push(Edit { at, with: b"null".to_vec() });
        }
    });
    rewrite::apply(Framing::Json, bytes, &mut edits)
}

/// What is changed in a slot. A match that began in an event before is said there; here its text is only left out.
fn in_slot(ground: &Ground, lines: &Lines, data: &[u8], slot: &Slot) -> Vec<Edit> {
    let Some(raw) = data.get(slot.raw.clone()) else { return Vec::new() };
    let text = Text::of(raw, slot.escaped);
    let edit = |mask: &Mask| {
        let from = mask.span.start.max(slot.span.start) - slot.span.start;
        let to = mask.end().min(slot.span.end) - slot.span.start;
        let begins_here = mask.span.start >= slot.span.start;
        replaced(&text, slot.raw.start, from..to, if begins_here { &mask.instead } else { "" })
    };
    let opening = (slot.opens && !ground.disclaimer.is_empty()).then(|| disclaimer(ground, slot.raw.start));
    opening.into_iter().chain(lines.masks(slot).map(edit)).collect()
}

fn disclaimer(ground: &Ground, at: usize) -> Edit {
    Edit { at: at..at, with: ground.disclaimer.clone().into_bytes() }
}

/// The changes in a text that stands by itself at `at`; or the kind of finding that ends the answer.
fn in_text(ground: &Ground, text: &Text<'_>, at: usize, edits: &mut Vec<Edit>) -> Option<&'static str> {
    let (found, blocked) = ground.guard.find(&text.decode(), &ground.vault);
    edits.extend(found.into_iter().map(|(span, instead)| replaced(text, at, span, &instead)));
    blocked
}

/// Something else in the place of some of a text that stands at `at`.
fn replaced(text: &Text<'_>, at: usize, span: std::ops::Range<usize>, instead: &str) -> Edit {
    let raw = text.raw_range(span);
    Edit { at: at + raw.start..at + raw.end, with: escaped(instead).into_bytes() }
}

/// JSON string content that says `text`.
pub(super) fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
}
