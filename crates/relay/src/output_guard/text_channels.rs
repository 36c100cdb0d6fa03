//! The texts of an answer, each scanned by itself: one for each channel of each choice.
//!
//! - *In*: pieces of text in the order of their events.
//! - *Out*: how far each text is decided, its masks, and whether it blocks the answer. On a route
//!   that stores contents, texts and findings for the tap.
//! - *Never*: text, except replacements. The scanner buffers what it needs; a text channel stores
//!   only offsets.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use arguments::{Cut, Lexer, Part, Shape};
use contents::{AnswerTap, Draft};
use filters::settings::{Action, AtHoldTime};
use filters::{Category, Found, Name, Scanner, Side};
use shield::finding::{Family, Finding};
use shield::stream::{Automata, Channel as Scan, Piece};
use wire::Channel;

use super::GuardContext;
use crate::request::Note;

/// Key of a text: choice, channel, tool call.
pub(super) type Key = (u32, Channel, u32);

/// Maximum number of texts in one answer. A guardrail that acts ends an answer with more.
const MAX_TEXTS: usize = 512;

/// Position of a piece of text.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Index of its text channel.
    pub(super) channel: usize,
    /// Its byte range in the text.
    pub(super) span: Range<usize>,
    /// Its byte range in the raw data of the event.
    pub(super) raw: Range<usize>,
    pub(super) escaped: bool,
    /// It is the start of a choice's content.
    pub(super) opens: bool,
}

/// A range of text that is replaced, or that blocks the answer.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    pub(super) span: Range<usize>,
    /// Its end is not known yet.
    open: bool,
    /// Kind of the finding.
    kind: Name,
    /// The kind, if the answer ends before this range.
    pub(super) blocks: Option<Name>,
    /// The replacement.
    instead: Cow<'static, str>,
    /// The cuts in the arguments of a tool call, which stay JSON.
    cuts: Option<Box<Cuts>>,
}

/// A mask as cuts of values.
#[derive(Clone, Debug, Default)]
struct Cuts {
    shape: Shape,
    all: Vec<Cut>,
    /// More text adds none.
    are_complete: bool,
}

/// All texts of an answer.
#[derive(Debug, Default)]
pub(super) struct TextChannels {
    all: Vec<TextChannel>,
    /// Findings for the audit log.
    pub(super) notes: Vec<Note>,
    /// The answer has more texts than the maximum.
    pub(super) overflowed: bool,
    /// Gathers the texts, if the route stores contents. It numbers them as `all` does.
    pub(super) tap: Option<Box<AnswerTap>>,
    /// How far each text was decided when the answer broke off. What was held then may be the start
    /// of a match.
    tap_ends: Option<Vec<usize>>,
}

#[derive(Debug)]
struct TextChannel {
    key: Key,
    /// One for each scanner of the guardrail, in its order.
    scans: Vec<Scan>,
    /// Bytes received.
    pushed: usize,
    /// Offset at which the scanner's own count starts. It restarts after `finish`.
    base: usize,
    masks: VecDeque<Mask>,
    /// Reads the arguments of a tool call, which are JSON.
    arguments: Option<Box<Lexer>>,
}

impl TextChannels {
    /// Texts that go to `draft`, too.
    pub(super) fn with_tap(draft: Option<&Draft>) -> Self {
        let tap = draft.map(|draft| Box::new(draft.tap_answer()));
        TextChannels { tap, ..TextChannels::default() }
    }

    /// Scan a piece of decoded text, which is at `raw` in its event's data.
    pub(super) fn text(
        &mut self,
        context: &GuardContext,
        key: Key,
        decoded: &str,
        (raw, escaped): (Range<usize>, bool),
    ) -> Slot {
        let at = self.all.iter().position(|text| text.key == key).unwrap_or_else(|| {
            if self.all.len() < MAX_TEXTS {
                if let Some(tap) = &mut self.tap {
                    tap.begin(key.0, channel_name(key.1), key.2);
                }
                let is_json = key.1 == Channel::ToolArguments;
                let new = if is_json { Scan::of_json } else { Scan::new };
                let scans = context.guardrail.scanners().iter().map(|_| new()).collect();
                self.all.push(TextChannel {
                    key,
                    scans,
                    pushed: 0,
                    base: 0,
                    masks: VecDeque::new(),
                    arguments: is_json.then(Box::default),
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
            if let Some(lexer) = &mut text.arguments {
                lexer.push(decoded);
            }
            if let Some(tap) = &mut self.tap {
                tap.push(at, decoded);
            }
            let findings = Findings { notes: &mut self.notes, tap: self.tap.as_deref_mut(), at };
            text.scan(context, findings, |scan, automata, out| scan.push(automata, decoded, out));
        }
        Slot { channel: at, span, raw, escaped, opens }
    }

    /// A choice has ended: decide its texts. `None`: all choices.
    pub(super) fn finish(&mut self, context: &GuardContext, choice: Option<u32>) {
        for (at, text) in self.all.iter_mut().enumerate() {
            if choice.is_some_and(|choice| text.key.0 != choice) {
                continue;
            }
            let findings = Findings { notes: &mut self.notes, tap: self.tap.as_deref_mut(), at };
            if let Some(lexer) = &mut text.arguments {
                lexer.end();
            }
            text.scan(context, findings, |scan, automata, out| scan.finish(automata, out));
            text.close();
            text.cut();
            if let Some(tap) = &mut self.tap {
                tap.close_all(at, text.pushed);
            }
            text.base = text.pushed;
        }
    }

    /// Decide held text with what has arrived.
    pub(super) fn flush(&mut self, context: &GuardContext) {
        for (at, text) in self.all.iter_mut().enumerate() {
            let findings = Findings { notes: &mut self.notes, tap: self.tap.as_deref_mut(), at };
            let known = text.masks.len();
            text.scan(context, findings, |scan, automata, out| scan.flush(automata, out));
            if context.guardrail.settings.at_hold_time == AtHoldTime::End {
                text.masks.iter_mut().skip(known).for_each(Mask::block);
            }
        }
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

    /// The answer breaks off: nothing more of it is stored.
    pub(super) fn end_tap(&mut self) {
        if self.tap.is_some() && self.tap_ends.is_none() {
            self.tap_ends = Some(self.all.iter().map(TextChannel::settled).collect());
        }
    }

    /// Passes the gathered texts to the draft of the request, each up to where all scanners have
    /// decided it, and judges have judged it: `judged`, or `None` if they could not.
    pub(super) fn store(&mut self, draft: &mut Draft, judged: Option<impl Fn(usize) -> usize>) {
        let Some(tap) = self.tap.take() else { return };
        let ends = self.tap_ends.take();
        let end =
            |at: usize| ends.as_ref().map_or(usize::MAX, |ends| ends.get(at).copied().unwrap_or(0));
        let settled = |at: usize| self.all.get(at).map_or(0, TextChannel::settled).min(end(at));
        draft.set_answer(*tap, judged.map(|judged| move |at| settled(at).min(judged(at))));
    }

    /// The number of a text.
    pub(super) fn position(&self, key: Key) -> Option<usize> {
        self.all.iter().position(|text| text.key == key)
    }

    /// The choices that have text.
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

    /// Whether the texts of an event are decided and have no masks.
    pub(super) fn is_clear(&self, context: &GuardContext, slots: &[Slot]) -> bool {
        self.is_decided(context, slots)
            && slots.iter().all(|slot| self.masks(slot).next().is_none())
    }

    /// Kind of the finding that ends the answer at an event, if any.
    pub(super) fn blocks(&self, slots: &[Slot]) -> Option<Name> {
        slots.iter().flat_map(|slot| self.masks(slot)).find_map(|mask| mask.blocks.clone())
    }

    /// The masks that overlap a slot, in order, in byte offsets of the text.
    pub(super) fn masks(&self, slot: &Slot) -> impl Iterator<Item = &Mask> {
        let span = slot.span.clone();
        let masks = self.all.get(slot.channel).into_iter().flat_map(|text| &text.masks);
        masks.filter(move |mask| mask.span.start < span.end && mask.end() > span.start)
    }

    /// The masks of the same text that start before a slot.
    pub(super) fn masks_before(&self, slot: &Slot) -> impl Iterator<Item = &Mask> {
        let start = slot.span.start;
        self.all
            .get(slot.channel)
            .into_iter()
            .flat_map(|text| &text.masks)
            .filter(move |mask| mask.span.start < start)
    }

    /// All events are released: drop all masks, except those whose end is not known.
    pub(super) fn forget(&mut self) {
        let grows = |mask: &Mask| mask.open || mask.cuts.as_ref().is_some_and(|c| !c.are_complete);
        self.all.iter_mut().for_each(|text| text.masks.retain(grows));
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
            // A restored placeholder is not a finding.
            let Some(rule) = rule.filter(|rule| *rule != filters::PLACEHOLDER) else { continue };
            match all.iter_mut().find(|(known, _)| known == rule) {
                Some((_, sum)) => *sum += count,
                None => all.push((rule.clone(), count)),
            }
        }
        all
    }
}

/// Where the findings in a text go, besides its masks.
struct Findings<'f> {
    notes: &'f mut Vec<Note>,
    tap: Option<&'f mut AnswerTap>,
    /// The number of the text.
    at: usize,
}

impl Findings<'_> {
    /// Passes a match to the tap, whatever its action. A placeholder stands for a value, and stays.
    fn tap(&mut self, base: usize, finding: &Finding, is_endless: bool) {
        let Some(tap) = self.tap.as_deref_mut() else { return };
        if finding.family != Family::Placeholder {
            let end = if is_endless { usize::MAX } else { base + finding.span.end };
            tap.found(self.at, base + finding.span.start..end, &finding.kind);
        }
    }
}

impl TextChannel {
    /// Run the scanners, and record their findings.
    fn scan(
        &mut self,
        context: &GuardContext,
        mut findings: Findings<'_>,
        work: impl Fn(&mut Scan, &Automata, &mut dyn FnMut(Piece<'_>)),
    ) {
        let (base, key, masks) = (self.base, self.key, &mut self.masks);
        for (scan, Scanner { action, automata }) in
            self.scans.iter_mut().zip(context.guardrail.scanners())
        {
            work(scan, automata, &mut |piece| match piece {
                Piece::Mask { finding, text, open } => {
                    let there = findings.notes.len();
                    findings.notes.extend(note(context, Some(key), base, (finding, text), there));
                    // An answer that is blocked is stored up to the match.
                    findings.tap(base, finding, open || *action == Action::Block);
                    let blocks = (*action == Action::Block).then(|| finding.kind.clone());
                    let acts = *action >= Action::Mask;
                    if let Some(instead) =
                        acts.then(|| filters::replacement(finding, text, &context.vault)).flatten()
                    {
                        masks.push_back(Mask {
                            span: base + finding.span.start..base + finding.span.end,
                            open,
                            kind: finding.kind.clone(),
                            blocks,
                            instead,
                            cuts: (key.1 == Channel::ToolArguments).then(|| {
                                let shape = Shape::new(context.guardrail.settings.numbers());
                                Box::new(Cuts { shape, ..Cuts::default() })
                            }),
                        });
                    }
                }
                Piece::Pass(_) => {}
                Piece::Close(span) => {
                    let start = base + span.start;
                    if let Some(tap) = findings.tap.as_deref_mut() {
                        tap.close(findings.at, start..base + span.end);
                    }
                    if let Some(mask) =
                        masks.iter_mut().rev().find(|mask| mask.open && mask.span.start == start)
                    {
                        mask.span.end = base + span.end;
                        mask.open = false;
                    }
                }
            });
        }
        self.cut();
    }

    /// Turns new masks in arguments into cuts.
    fn cut(&mut self) {
        let settled = self.settled();
        let Some(lexer) = &mut self.arguments else { return };
        let parts: Vec<&Part> = lexer.parts().iter().collect();
        for mask in &mut self.masks {
            let span = mask.span.start..mask.end();
            let Some(cuts) = mask.cuts.as_deref_mut().filter(|cuts| !cuts.are_complete) else {
                continue;
            };
            let instead = &mask.instead;
            let mut with = |_: &Part, _: &Range<usize>, first: bool| {
                if first { instead.clone().into_owned() } else { String::new() }
            };
            cuts.shape.cut(&parts, span, &mut with, &mut cuts.all);
            cuts.are_complete = !mask.open && !cuts.shape.is_in(parts.last().copied());
        }
        lexer.forget(settled);
    }

    /// Number of bytes that all acting scanners have decided.
    fn decided(&self, context: &GuardContext) -> usize {
        let acting = self
            .scans
            .iter()
            .zip(context.guardrail.scanners())
            .filter(|(_, scanner)| scanner.action >= Action::Mask);
        self.pushed - acting.map(|(scan, _)| scan.held()).max().unwrap_or(0)
    }

    /// Number of bytes that all scanners have decided, also those that only flag.
    fn settled(&self) -> usize {
        self.pushed - self.scans.iter().map(Scan::held).max().unwrap_or(0)
    }

    /// The text has ended: close open masks.
    fn close(&mut self) {
        for mask in self.masks.iter_mut().filter(|mask| mask.open) {
            mask.span.end = self.pushed;
            mask.open = false;
        }
    }
}

/// A finding for the audit log; `None` if there is no audit log, or if `there` findings fill it.
/// `key` is `None` for text outside channels.
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
        action: context.guardrail.configured_action(&finding.rule),
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
    /// Its end; `usize::MAX` if it is not known yet.
    pub(super) fn end(&self) -> usize {
        if self.open { usize::MAX } else { self.span.end }
    }

    /// The answer ends before it.
    fn block(&mut self) {
        self.blocks.get_or_insert_with(|| self.kind.clone());
    }

    /// What it replaces.
    fn replacements(&self) -> impl Iterator<Item = (Range<usize>, &str)> {
        let whole = self.cuts.is_none().then(|| (self.span.start..self.end(), &*self.instead));
        let cuts = self.cuts.iter().flat_map(|cuts| &cuts.all);
        whole.into_iter().chain(cuts.map(|cut| (cut.span.clone(), &*cut.with)))
    }
}

/// What masks replace in a range of their text, in order and without overlaps. A replacement that
/// began before the range was written there.
pub(super) fn replacements<'m>(
    masks: impl Iterator<Item = &'m Mask>,
    range: &Range<usize>,
) -> Vec<(Range<usize>, &'m str)> {
    let mut all: Vec<(Range<usize>, &str, bool)> = Vec::new();
    for mask in masks {
        let is_cut = mask.cuts.is_some();
        all.extend(mask.replacements().map(|(span, with)| (span, with, is_cut)));
    }
    all.retain(|(span, ..)| span.start < range.end && span.end > range.start);
    all.sort_by_key(|(span, ..)| span.start);
    let mut upto = range.start;
    let place = |(span, with, is_cut): (Range<usize>, &'m str, bool)| {
        let is_here = span.start >= range.start && !(is_cut && span.start < upto);
        let start = span.start.max(upto);
        upto = span.end.min(range.end).max(start);
        (start..upto, if is_here { with } else { "" })
    };
    all.into_iter().map(place).collect()
}
