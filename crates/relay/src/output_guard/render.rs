//! Renders released events: masked text replaced, redacted text restored, everything else
//! unchanged.
//!
//! - *In*: an event's bytes, its slots, and their masks.
//! - *Out*: the bytes to queue, or the kind of finding that ends the answer.
//! - *Never*: a document that is parsed and reserialized.

use std::borrow::Cow;
use std::ops::Range;

use filters::Name;
use shield::finding::Finding;
use wire::json::{self, Text};
use wire::rewrite::{self, Edit, Found};
use wire::{Dialect, Framing};

use super::text_channels::{Slot, TextChannels, note, replacements};
use super::{Content, GuardContext};
use crate::request::Note;

/// Members that repeat the text token by token.
const SPELLED: [&[u8]; 10] = [
    b"logprobs",
    b"completion_probabilities",
    b"tokens",
    b"top_tokens",
    b"prefill",
    b"best_of_sequences",
    b"output_token_logprobs",
    b"token_ids",
    b"output_ids",
    b"prompt_token_ids",
];
/// Metadata of the engine, which is not scanned: a request id looks like a secret to a scanner.
const ENVELOPE: [&[u8]; 10] = [
    b"id",
    b"object",
    b"type",
    b"role",
    b"model",
    b"status",
    b"item_id",
    b"response_id",
    b"system_fingerprint",
    b"finish_reason",
];
/// Members that hold the arguments of a tool call as a string.
const ARGUMENTS: [&[u8]; 2] = [b"arguments", b"partial_json"];
/// Members that repeat an answer's text at its end.
const REPEATED: [&[u8]; 2] = [b"text", b"generated_text"];

/// Kind of an event that cannot be rewritten as required.
pub(super) const UNREADABLE: Name = Cow::Borrowed("UNREADABLE_EVENT");

/// Findings in text outside channels: errors, unknown members, bytes that are not an event.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// By rule.
    pub(super) counts: Vec<(Name, u32)>,
    /// For the audit log.
    pub(super) notes: Vec<Note>,
}

impl Elsewhere {
    fn add(&mut self, context: &GuardContext, finding: &Finding, matched: &str) {
        if finding.rule == filters::PLACEHOLDER {
            return;
        }
        match self.counts.iter_mut().find(|(rule, _)| *rule == finding.rule) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((finding.rule.clone(), 1)),
        }
        self.notes.extend(note(context, None, 0, (finding, matched), self.notes.len()));
    }
}

/// The rendered event, or the kind of finding that ends the answer.
pub(super) fn event<'b>(
    context: &GuardContext,
    texts: &TextChannels,
    opening: &str,
    bytes: &'b [u8],
    content: &Content,
    elsewhere: &mut Elsewhere,
) -> Result<Cow<'b, [u8]>, Name> {
    if let Some(kind) = texts.blocks(&content.slots) {
        return Err(kind);
    }
    let masked = content.slots.iter().any(|slot| texts.masks(slot).next().is_some());
    let disclaims = !context.disclaimer.is_empty();
    let opens = disclaims && content.slots.iter().any(|slot| slot.opens);
    if !masked && !content.has_unslotted_text && !opens {
        return Ok(Cow::Borrowed(bytes));
    }
    let data = rewrite::event_data(context.framing, bytes);
    let mut edits: Vec<Edit> =
        content.slots.iter().flat_map(|slot| in_slot(context, texts, &data, slot)).collect();
    let mut blocked = None;
    let spelled = if masked { &SPELLED[..] } else { &[] };
    let read = rewrite::visit_strings(&data, spelled, &mut |key, found| {
        let (text, at) = match found {
            Found::Erased(at) => return edits.push(Edit { at, with: b"null".to_vec() }),
            Found::Text(text, at) => (text, at),
        };
        let overlaps = |slot: &&Slot| slot.raw.start < at.end && at.start < slot.raw.end;
        if let Some(slot) = content.slots.iter().find(overlaps) {
            // Cumulative text: earlier masks are applied again.
            if slot.raw.start > at.start {
                edits.extend(before_slot(texts, &text, at.start, slot));
            }
        } else if content.has_unslotted_text && !ENVELOPE.contains(&key) {
            let repeats = disclaims && REPEATED.contains(&key) && !opening.is_empty();
            if repeats && text.decode().starts_with(opening) {
                edits.push(disclaimer(context, at.start));
            }
            let text = (&text, ARGUMENTS.contains(&key));
            blocked = blocked.take().or(in_text(context, text, at.start, &mut edits, elsewhere));
        }
    });
    if let Some(kind) = blocked {
        return Err(kind);
    }
    // Data that is not JSON is scanned as plain text.
    if read.is_err() {
        return whole(context, bytes, elsewhere);
    }
    if edits.is_empty() {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut changed = rewrite::apply(context.framing, bytes, &mut edits).ok_or(UNREADABLE)?;
    if rewrite::visit_strings(&rewrite::event_data(context.framing, &changed), &[], &mut |_, _| {})
        .is_err()
    {
        // Tool arguments may be embedded as JSON, and a mask inside breaks it: replace them as a
        // whole.
        let whole = content.slots.iter().filter(|slot| {
            data.get(slot.raw.start).is_some_and(|byte| matches!(byte, b'{' | b'['))
        });
        edits.extend(whole.map(|slot| Edit { at: slot.raw.clone(), with: b"{}".to_vec() }));
        edits.sort_by_key(|edit| (edit.at.start, std::cmp::Reverse(edit.at.end)));
        changed = rewrite::apply(context.framing, bytes, &mut edits).ok_or(UNREADABLE)?;
        rewrite::visit_strings(
            &rewrite::event_data(context.framing, &changed),
            &[],
            &mut |_, _| {},
        )
        .map_err(|_| UNREADABLE)?;
    }
    Ok(Cow::Owned(changed))
}

/// Bytes that are not an event, scanned as one text.
fn whole<'b>(
    context: &GuardContext,
    bytes: &'b [u8],
    elsewhere: &mut Elsewhere,
) -> Result<Cow<'b, [u8]>, Name> {
    let mut edits = Vec::new();
    match in_text(context, (&Text::new(bytes, false), false), 0, &mut edits, elsewhere) {
        Some(kind) => Err(kind),
        None if edits.is_empty() => Ok(Cow::Borrowed(bytes)),
        None => {
            rewrite::apply(Framing::Opaque, bytes, &mut edits).map(Cow::Owned).ok_or(UNREADABLE)
        }
    }
}

/// A withheld non-streaming answer: without its texts, and with the dialect's finish reason for
/// filtered content.
pub(super) fn withheld(dialect: Dialect, bytes: &[u8], content: &Content) -> Vec<u8> {
    let mut edits: Vec<Edit> = content
        .reasons
        .iter()
        .map(|(_, at)| Edit { at: at.clone(), with: dialect.filtered().into() })
        .collect();
    let is_reason = |at: &Range<usize>| content.reasons.iter().any(|(_, reason)| reason == at);
    let objects = content
        .slots
        .iter()
        .filter(|slot| bytes.get(slot.raw.start).is_some_and(|byte| matches!(byte, b'{' | b'[')));
    edits.extend(objects.map(|slot| Edit { at: slot.raw.clone(), with: b"{}".to_vec() }));
    let read = rewrite::visit_strings(bytes, &SPELLED, &mut |key, found| match found {
        Found::Erased(at) => edits.push(Edit { at, with: b"null".to_vec() }),
        Found::Text(_, at) if !ENVELOPE.contains(&key) && !is_reason(&at) => {
            edits.push(Edit { at, with: Vec::new() })
        }
        Found::Text(..) => {}
    });
    edits.sort_by_key(|edit| (edit.at.start, std::cmp::Reverse(edit.at.end)));
    let shown = read.ok().and_then(|()| rewrite::apply(Framing::Json, bytes, &mut edits));
    shown.unwrap_or_else(|| b"{}".to_vec())
}

/// The edits of a slot. A match that began in an earlier event is replaced there; here its text is
/// removed.
fn in_slot(context: &GuardContext, texts: &TextChannels, data: &[u8], slot: &Slot) -> Vec<Edit> {
    let Some(raw) = data.get(slot.raw.clone()) else { return Vec::new() };
    let text = Text::new(raw, slot.escaped);
    let range = &slot.span;
    let replaced = replacements(texts.masks(slot), range);
    let written = text.raw_ranges(
        replaced.iter().map(|(span, _)| span.start - range.start..span.end - range.start),
    );
    let is_embedded = is_embedded(data, slot);
    let edit = |((_, with), raw): (&(Range<usize>, &str), Range<usize>)| {
        let with = if is_embedded { (*with).to_owned() } else { json::escaped(with) };
        Edit { at: slot.raw.start + raw.start..slot.raw.start + raw.end, with: with.into_bytes() }
    };
    let opening =
        (slot.opens && !context.disclaimer.is_empty()).then(|| disclaimer(context, slot.raw.start));
    opening.into_iter().chain(replaced.iter().zip(written).map(edit)).collect()
}

/// Whether a slot holds arguments that are an object of the event, not a string with JSON.
fn is_embedded(data: &[u8], slot: &Slot) -> bool {
    let before = data.get(..slot.raw.start).unwrap_or_default().trim_ascii_end();
    !slot.escaped
        && data.get(slot.raw.start).is_some_and(|byte| matches!(byte, b'{' | b'['))
        && !before.ends_with(b"\"")
}

/// The edits in the part of a cumulative text before its slot.
fn before_slot(texts: &TextChannels, text: &Text<'_>, at: usize, slot: &Slot) -> Vec<Edit> {
    let replaced = replacements(texts.masks_before(slot), &(0..slot.span.start));
    let written = text.raw_ranges(replaced.iter().map(|(span, _)| span.clone()));
    let edit = |((_, with), raw): (&(Range<usize>, &str), Range<usize>)| Edit {
        at: at + raw.start..at + raw.end,
        with: json::escaped(with).into_bytes(),
    };
    replaced.iter().zip(written).map(edit).collect()
}

fn disclaimer(context: &GuardContext, at: usize) -> Edit {
    Edit { at: at..at, with: context.disclaimer.clone().into_bytes() }
}

/// Add the edits of a separate text at `at`; `is_json`: it stays JSON. Returns the kind of finding
/// that ends the answer, if any.
fn in_text(
    context: &GuardContext,
    (text, is_json): (&Text<'_>, bool),
    at: usize,
    edits: &mut Vec<Edit>,
    elsewhere: &mut Elsewhere,
) -> Option<Name> {
    let mut report = |finding: &Finding, matched: &str| elsewhere.add(context, finding, matched);
    let (found, blocked) =
        context.guardrail.find((&text.decode(), is_json), &context.vault, &mut report);
    let written = text.raw_ranges(found.iter().map(|(span, _)| span.clone()));
    let edit = |((_, instead), raw): (&(Range<usize>, Cow<'static, str>), Range<usize>)| Edit {
        at: at + raw.start..at + raw.end,
        with: json::escaped(instead).into_bytes(),
    };
    edits.extend(found.iter().zip(written).map(edit));
    blocked
}
