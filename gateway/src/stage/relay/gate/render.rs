//! Events as they leave: masks put in, everything else as it came.
//!
//! - *In*: an event's bytes, its slots, what of them is masked.
//! - *Out*: the bytes to queue.
//! - *Never*: a document parsed and written again.

use std::borrow::Cow;

use wire::Framing;
use wire::json::Text;
use wire::rewrite::{self, Edit, Found};

use super::Content;
use super::line::{Lines, Slot};
use crate::guard::Guard;

/// What spells the text once more, token by token.
const LOGPROBS: &[u8] = b"logprobs";
/// Members of the engine's own bookkeeping; a request's id looks like a key to a scanner.
const ENVELOPE: [&[u8]; 10] =
    [b"id", b"object", b"type", b"role", b"model", b"status", b"item_id", b"response_id", b"system_fingerprint", b"finish_reason"];

/// An event without what is masked.
pub(super) fn event<'b>(guard: &Guard, framing: Framing, lines: &Lines, bytes: &'b [u8], content: &Content) -> Cow<'b, [u8]> {
    let masked = content.slots.iter().any(|slot| lines.masks(slot).next().is_some());
    if !masked && !content.strange {
        return Cow::Borrowed(bytes);
    }
    let data = rewrite::data(framing, bytes);
    let mut edits: Vec<Edit> = content.slots.iter().flat_map(|slot| in_slot(lines, &data, slot)).collect();
    let read = rewrite::strings(&data, if masked { LOGPROBS } else { b"" }, &mut |key, found| match found {
        Found::Erased(at) => edits.push(Edit { at, with: b"null".to_vec() }),
        Found::Text(text, at) => {
            let is_slot = content.slots.iter().any(|slot| slot.raw.start < at.end && at.start < slot.raw.end);
            if content.strange && !is_slot && !ENVELOPE.contains(&key) {
                edits.extend(in_text(guard, &text, at.start));
            }
        }
    });
    // What is no JSON is scanned as the text that it is.
    if read.is_err() {
        return whole(guard, bytes);
    }
    if edits.is_empty() { Cow::Borrowed(bytes) } else { Cow::Owned(rewrite::apply(framing, bytes, &mut edits)) }
}

/// Bytes that nobody reads as an event, scanned as one text.
pub(super) fn whole<'b>(guard: &Guard, bytes: &'b [u8]) -> Cow<'b, [u8]> {
    let mut edits: Vec<Edit> = in_text(guard, &Text::of(bytes, false), 0);
    if edits.is_empty() { Cow::Borrowed(bytes) } else { Cow::Owned(rewrite::apply(Framing::Opaque, bytes, &mut edits)) }
}

/// The masks of a slot. One that began in an event before is said there; here its text is only left out.
fn in_slot(lines: &Lines, data: &[u8], slot: &Slot) -> Vec<Edit> {
    let Some(raw) = data.get(slot.raw.clone()) else { return Vec::new() };
    let text = Text::of(raw, slot.escaped);
    let edit = |mask: &super::line::Mask| {
        let from = mask.span.start.max(slot.span.start) - slot.span.start;
        let to = mask.end().min(slot.span.end) - slot.span.start;
        let begins_here = mask.span.start >= slot.span.start;
        masked(&text, slot.raw.start, from..to, if begins_here { mask.kind } else { "" })
    };
    lines.masks(slot).map(edit).collect()
}

/// The masks of a text that stands by itself at `at`.
fn in_text(guard: &Guard, text: &Text<'_>, at: usize) -> Vec<Edit> {
    guard.find(&text.decode()).into_iter().map(|(span, kind)| masked(text, at, span, kind)).collect()
}

/// A mask over some of a text that stands at `at`: `[KIND]`, or nothing where there is no kind to name.
fn masked(text: &Text<'_>, at: usize, span: std::ops::Range<usize>, kind: &str) -> Edit {
    let raw = text.raw_range(span);
    let with = if kind.is_empty() { Vec::new() } else { format!("[{kind}]").into_bytes() };
    Edit { at: at + raw.start..at + raw.end, with }
}
