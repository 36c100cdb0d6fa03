//! The texts of an answer, each scanned by itself: one for each channel of each choice.
//!
//! - *In*: pieces of text as events bring them.
//! - *Out*: how far each text is decided, its replacements, and whether it may continue.
//! - *Never*: text, but for what is put back. The scanner holds what it must; a text channel knows
//!   offsets.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use filters::settings::Action;
use filters::{Category, Found, Name, Scanner, Side};
use shield::finding::{Family, Finding};
use shield::stream::{Automata, Channel as Scan, Piece};
use wire::Channel;

use super::GuardContext;
use crate::request::Note;

/// Which text: choice, channel, tool call.
pub(super) type Key = (u32, Channel, u32);

/// Maximum number of texts in one answer. A guardrail that acts lets no more pass.
const MAX_TEXTS: usize = 512;

/// Position of a piece of text.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Which text channel.
    pub(super) channel: usize,
    /// Its bytes in the text.
    pub(super) span: Range<usize>,
    /// Its bytes in the data of the event, as written.
    pub(super) raw: Range<usize>,
    pub(super) escaped: bool,
    /// A choice's answer begins here.
    pub(super) opens: bool,
}

/// Something that is not passed on as it is.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    pub(super) span: Range<usize>,
    /// Its end is not known yet.
    open: bool,
    /// The answer ends before it, for this.
    pub(super) blocks: Option<Name>,
    /// The replacement.
    pub(super) instead: Cow<'static, str>,
}

/// All texts of an answer.
#[derive(Debug, Default)]
pub(super) struct TextChannels {
    all: Vec<TextChannel>,
    /// What was found, for the audit log.
    pub(super) notes: Vec<Note>,
    /// There were more texts than can be followed.
    pub(super) overflowed: bool,
}

#[derive(Debug)]
struct TextChannel {
    key: Key,
    /// One for each scanner of the guardrail, in its order.
    scans: Vec<Scan>,
    /// Bytes that came.
    pushed: usize,
    /// Start of the scanner's own count of the text; it restarts after an end.
    base: usize,
    masks: VecDeque<Mask>,
}

impl TextChannels {
    /// A piece of text, decoded, which is written at `raw` in its event's data.
    pub(super) fn text(
        &mut self,
        context: &GuardContext,
        key: Key,
        decoded: &str,
        (raw, escaped): (Range<usize>, bool),
    ) -> Slot {
        let at = self.all.iter().position(|text| text.key == key).unwrap_or_else(|| {
            if self.all.len() < MAX_TEXTS {
                let scans = context.guardrail.scanners().iter().map(|_| Scan::new()).collect();
                self.all.push(TextChannel {
                    key,
                    scans,
                    pushed: 0,
                    base: 0,
                    masks: VecDeque::new(),
                });
            } else {
                self.overflowed = true;
            }
            self.all.len() - 1
        });
        let (mut span, mut opens) = (0..0, false);
        if let Some(text) = self.all.get_mut(at) {
            span = text.pushed..text.pushed + decoded.len();
            opens = span.start == 0 && key.1 == Channel::Content;
            text.pushed = span.end;
            text.scan(context, &mut self.notes, |scan, automata, out| {
                scan.push(automata, decoded, out)
            });
        }
        Slot { channel: at, span, raw, escaped, opens }
    }

    /// A choice has ended, or all have: its texts are decided.
    pub(super) fn finish(&mut self, context: &GuardContext, choice: Option<u32>) {
        for text in
            self.all.iter_mut().filter(|text| choice.is_none_or(|choice| text.key.0 == choice))
        {
            text.scan(context, &mut self.notes, |scan, automata, out| scan.finish(automata, out));
            text.close();
            text.base = text.pushed;
        }
    }

    /// Decide what is held as well as it can be decided now.
    pub(super) fn flush(&mut self, context: &GuardContext) {
        self.all.iter_mut().for_each(|text| {
            text.scan(context, &mut self.notes, |scan, automata, out| scan.flush(automata, out))
        });
    }

    /// The ends of the texts of a choice, or of all.
    pub(super) fn ends(&self, choice: Option<u32>) -> Vec<(usize, usize)> {
        let chosen = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, text)| choice.is_none_or(|choice| text.key.0 == choice));
        chosen.map(|(at, text)| (at, text.pushed)).collect()
    }

    /// The choices whose texts came.
    pub(super) fn choices(&self) -> Vec<u32> {
        let mut choices: Vec<u32> = self.all.iter().map(|text| text.key.0).collect();
        choices.sort_unstable();
        choices.dedup();
        choices
    }

    /// Whether the texts of an event are decided.
    pub(super) fn is_decided(&self, context: &GuardContext, slots: &[Slot]) -> bool {
        slots.iter().all(|slot| {
            self.all.get(slot.channel).is_none_or(|text| text.decided(context) >= slot.span.end)
        })
    }

    /// Whether they are decided, and nothing of them is replaced.
    pub(super) fn is_clear(&self, context: &GuardContext, slots: &[Slot]) -> bool {
        self.is_decided(context, slots)
            && slots.iter().all(|slot| self.masks(slot).next().is_none())
    }

    /// For what the answer ends at an event.
    pub(super) fn blocks(&self, slots: &[Slot]) -> Option<Name> {
        slots.iter().flat_map(|slot| self.masks(slot)).find_map(|mask| mask.blocks.clone())
    }

    /// What of a slot is replaced, in order, in bytes of the text.
    pub(super) fn masks(&self, slot: &Slot) -> impl Iterator<Item = &Mask> {
        let span = slot.span.clone();
        let masks = self.all.get(slot.channel).into_iter().flat_map(|text| &text.masks);
        masks.filter(move |mask| mask.span.start < span.end && mask.end() > span.start)
    }

    /// What of the same text is replaced before a slot.
    pub(super) fn masks_before(&self, slot: &Slot) -> impl Iterator<Item = &Mask> {
        let start = slot.span.start;
        self.all
            .get(slot.channel)
            .into_iter()
            .flat_map(|text| &text.masks)
            .filter(move |mask| mask.span.start < start)
    }

    /// No event is left that a mask could concern, but for those whose end is not known.
    pub(super) fn forget(&mut self) {
        self.all.iter_mut().for_each(|text| text.masks.retain(|mask| mask.open));
    }

    /// Findings by rule, over all texts.
    pub(super) fn found(&self, context: &GuardContext) -> Vec<(Name, u32)> {
        let mut all: Vec<(Name, u32)> = Vec::new();
        let scans =
            self.all.iter().flat_map(|text| text.scans.iter().zip(context.guardrail.scanners()));
        for (&(number, count), scanner) in scans
            .flat_map(|(scan, scanner)| scan.counts().iter().map(move |count| (count, scanner)))
        {
            let rule = scanner.automata.rule(number);
            // What is put back is no finding.
            let Some(rule) = rule.filter(|rule| *rule != filters::PLACEHOLDER) else { continue };
            match all.iter_mut().find(|(known, _)| known == rule) {
                Some((_, sum)) => *sum += count,
                None => all.push((rule.clone(), count)),
            }
        }
        all
    }
}

impl TextChannel {
    /// Let the scanners work, and note what they find.
    fn scan(
        &mut self,
        context: &GuardContext,
        notes: &mut Vec<Note>,
        work: impl Fn(&mut Scan, &Automata, &mut dyn FnMut(Piece<'_>)),
    ) {
        let (base, key, masks) = (self.base, self.key, &mut self.masks);
        for (scan, Scanner { action, automata }) in
            self.scans.iter_mut().zip(context.guardrail.scanners())
        {
            work(scan, automata, &mut |piece| match piece {
                Piece::Mask { finding, text, open } => {
                    notes.extend(note(context, Some(key), base, (finding, text), notes.len()));
                    let blocks = (*action == Action::Block).then(|| finding.kind.clone());
                    let acts = *action >= Action::Mask;
                    if let Some(instead) =
                        acts.then(|| filters::instead(finding, text, &context.vault)).flatten()
                    {
                        // The arguments of a tool are JSON within the text.
                        let instead = if key.1 == Channel::ToolArguments {
                            Cow::Owned(wire::json::escaped(&instead))
                        } else {
                            instead
                        };
                        masks.push_back(Mask {
                            span: base + finding.span.start..base + finding.span.end,
                            open,
                            blocks,
                            instead,
                        });
                    }
                }
                Piece::Pass(_) => {}
                Piece::Close(span) => {
                    let start = base + span.start;
                    if let Some(mask) =
                        masks.iter_mut().rev().find(|mask| mask.open && mask.span.start == start)
                    {
                        mask.span.end = base + span.end;
                        mask.open = false;
                    }
                }
            });
        }
    }

    /// Bytes about which all scanners that act have decided.
    fn decided(&self, context: &GuardContext) -> usize {
        let acting = self
            .scans
            .iter()
            .zip(context.guardrail.scanners())
            .filter(|(_, scanner)| scanner.action >= Action::Mask);
        self.pushed - acting.map(|(scan, _)| scan.held()).max().unwrap_or(0)
    }

    /// The text has ended: so has what was open.
    fn close(&mut self) {
        for mask in self.masks.iter_mut().filter(|mask| mask.open) {
            mask.span.end = self.pushed;
            mask.open = false;
        }
    }
}

/// A finding for the audit log, if there is one and it has room. `key` is `None` for a text that is
/// in no channel.
pub(super) fn note(
    context: &GuardContext,
    key: Option<Key>,
    base: usize,
    (finding, text): (&Finding, &str),
    there: usize,
) -> Option<Note> {
    let hasher = context.hasher.as_ref().filter(|_| there < filters::audit::MAX_FINDINGS)?;
    let category = match finding.family {
        Family::Pii => Category::Pii,
        Family::Secret => Category::Secret,
        Family::Policy => Category::Policy,
        Family::Leak => Category::Leak,
        Family::Placeholder => return None,
    };
    let found = Found {
        rule: finding.rule.clone(),
        kind: finding.kind.clone(),
        category,
        text: key.map_or(0, |key| key.0 as usize),
        span: base + finding.span.start..base + finding.span.end,
        score: finding.score,
        action: context.guardrail.asked(&finding.rule),
    };
    Some(Note {
        side: Side::Output,
        filter: "patterns".into(),
        found,
        channel: key.map(|key| channel_name(key.1)),
        hash: Some(hasher.hash(text)),
    })
}

/// The name of a channel in the audit log.
pub(super) fn channel_name(channel: Channel) -> &'static str {
    match channel {
        Channel::Content => "content",
        Channel::Reasoning => "reasoning",
        Channel::Refusal => "refusal",
        Channel::ToolName => "tool_name",
        Channel::ToolArguments => "tool_arguments",
        Channel::Auxiliary => "beside",
    }
}

impl Mask {
    /// Where it ends, as far as it is known.
    pub(super) fn end(&self) -> usize {
        if self.open { usize::MAX } else { self.span.end }
    }
}
