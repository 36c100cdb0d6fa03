//! The texts of an answer, each scanned by itself: one line for each channel of each choice.
//!
//! - *In*: pieces of text as events bring them.
//! - *Out*: how far each text is decided, what of it is replaced, and whether it may go on at all.
//! - *Never*: text, but for what is put back. The scanner holds what it must; a line knows offsets.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use filters::settings::Action;
use filters::{Category, Found, Scanner, Side};
use shield::finding::{Family, Finding};
use shield::stream::{Automata, Channel as Scan, Piece};
use wire::Channel;

use super::Ground;
use super::render::escaped;
use crate::audit::Note;

/// Which text: choice, channel, tool call.
pub(super) type Key = (u32, Channel, u32);

/// Most texts in one answer. A guard that acts lets no more pass.
const MOST: usize = 512;

/// Where a piece of text stands.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) line: usize,
    /// Its bytes in the line.
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
    pub(super) blocks: Option<&'static str>,
    /// What stands there instead.
    pub(super) instead: Cow<'static, str>,
}

/// All texts of an answer.
#[derive(Debug, Default)]
pub(super) struct Lines {
    all: Vec<Line>,
    /// What was found, for the audit log.
    pub(super) notes: Vec<Note>,
    /// There were more texts than can be followed.
    pub(super) overflowed: bool,
}

#[derive(Debug)]
struct Line {
    key: Key,
    /// One for each scanner of the guard, in its order.
    scans: Vec<Scan>,
    /// Bytes that came.
    pushed: usize,
    /// Where the scanner's own count of the text begins; it begins anew after an end.
    base: usize,
    masks: VecDeque<Mask>,
}

impl Lines {
    /// A piece of text, decoded, which is written at `raw` in its event's data.
    pub(super) fn text(&mut self, ground: &Ground, key: Key, decoded: &str, (raw, escaped): (Range<usize>, bool)) -> Slot {
        let at = self.all.iter().position(|line| line.key == key).unwrap_or_else(|| {
            if self.all.len() < MOST {
                let scans = ground.guard.scanners().iter().map(|_| Scan::new()).collect();
                self.all.push(Line { key, scans, pushed: 0, base: 0, masks: VecDeque::new() });
            } else {
                self.overflowed = true;
            }
            self.all.len() - 1
        });
        let (mut span, mut opens) = (0..0, false);
        if let Some(line) = self.all.get_mut(at) {
            span = line.pushed..line.pushed + decoded.len();
            opens = span.start == 0 && key.1 == Channel::Content;
            line.pushed = span.end;
            line.scan(ground, &mut self.notes, |scan, automata, out| scan.push(automata, decoded, out));
        }
        Slot { line: at, span, raw, escaped, opens }
    }

    /// A choice has ended, or all have: its texts are decided.
    pub(super) fn finish(&mut self, ground: &Ground, choice: Option<u32>) {
        for line in self.all.iter_mut().filter(|line| choice.is_none_or(|choice| line.key.0 == choice)) {
            line.scan(ground, &mut self.notes, |scan, automata, out| scan.finish(automata, out));
            line.close();
            line.base = line.pushed;
        }
    }

    /// Decide what is held as well as it can be decided now.
    pub(super) fn flush(&mut self, ground: &Ground) {
        self.all.iter_mut().for_each(|line| line.scan(ground, &mut self.notes, |scan, automata, out| scan.flush(automata, out)));
    }

    /// The ends of the lines of a choice, or of all.
    pub(super) fn ends(&self, choice: Option<u32>) -> Vec<(usize, usize)> {
        let chosen = self.all.iter().enumerate().filter(|(_, line)| choice.is_none_or(|choice| line.key.0 == choice));
        chosen.map(|(at, line)| (at, line.pushed)).collect()
    }

    /// The choices whose texts came.
    pub(super) fn choices(&self) -> Vec<u32> {
        let mut choices: Vec<u32> = self.all.iter().map(|line| line.key.0).collect();
        choices.sort_unstable();
        choices.dedup();
        choices
    }

    /// Whether the texts of an event are decided.
    pub(super) fn is_decided(&self, ground: &Ground, slots: &[Slot]) -> bool {
        slots.iter().all(|slot| self.all.get(slot.line).is_none_or(|line| line.decided(ground) >= slot.span.end))
    }

    /// Whether they are decided, and nothing of them is replaced.
    pub(super) fn is_clear(&self, ground: &Ground, slots: &[Slot]) -> bool {
        self.is_decided(ground, slots) && slots.iter().all(|slot| self.masks(slot).next().is_none())
    }

    /// For what the answer ends at an event.
    pub(super) fn blocks(&self, slots: &[Slot]) -> Option<&'static str> {
        slots.iter().flat_map(|slot| self.masks(slot)).find_map(|mask| mask.blocks)
    }

    /// What of a slot is replaced, in order, in bytes of the line.
    pub(super) fn masks(&self, slot: &Slot) -> impl Iterator<Item = &Mask> {
        let span = slot.span.clone();
        let masks = self.all.get(slot.line).into_iter().flat_map(|line| &line.masks);
        masks.filter(move |mask| mask.span.start < span.end && mask.end() > span.start)
    }

    /// What of the same line is replaced before a slot.
    pub(super) fn masks_before(&self, slot: &Slot) -> impl Iterator<Item = &Mask> {
        let start = slot.span.start;
        self.all.get(slot.line).into_iter().flat_map(|line| &line.masks).filter(move |mask| mask.span.start < start)
    }

    /// No event is left that a mask could concern, but for those whose end is not known.
    pub(super) fn forget(&mut self) {
        self.all.iter_mut().for_each(|line| line.masks.retain(|mask| mask.open));
    }

    /// Findings by rule, over all texts.
    pub(super) fn found(&self, ground: &Ground) -> Vec<(&'static str, u32)> {
        let mut all: Vec<(&'static str, u32)> = Vec::new();
        let scans = self.all.iter().flat_map(|line| line.scans.iter().zip(ground.guard.scanners()));
        for (&(number, count), scanner) in scans.flat_map(|(scan, scanner)| scan.counts().iter().map(move |count| (count, scanner))) {
            let rule = scanner.automata.rule(number);
            // What is put back is no finding.
            let Some(rule) = rule.filter(|rule| *rule != filters::PLACEHOLDER) else { continue };
            match all.iter_mut().find(|(known, _)| *known == rule) {
                Some((_, sum)) => *sum += count,
                None => all.push((rule, count)),
            }
        }
        all
    }
}

impl Line {
    /// Let the scanners work, and note what they find.
    fn scan(&mut self, ground: &Ground, notes: &mut Vec<Note>, work: impl Fn(&mut Scan, &Automata, &mut dyn FnMut(Piece<'_>))) {
        let (base, key, masks) = (self.base, self.key, &mut self.masks);
        for (scan, Scanner { action, automata }) in self.scans.iter_mut().zip(ground.guard.scanners()) {
            work(scan, automata, &mut |piece| match piece {
                Piece::Mask { finding, text, open } => {
                    notes.extend(note(ground, key, base, finding, text, notes.len()));
                    let blocks = (*action == Action::Block).then_some(finding.kind);
                    let acts = *action >= Action::Mask;
                    if let Some(instead) = acts.then(|| filters::instead(finding, text, &ground.vault)).flatten() {
                        // The arguments of a tool are JSON within the text.
                        let instead = if key.1 == Channel::ToolArguments { Cow::Owned(escaped(&instead)) } else { instead };
                        masks.push_back(Mask { span: base + finding.span.start..base + finding.span.end, open, blocks, instead });
                    }
                }
                Piece::Pass(_) => {}
                Piece::Close(span) => {
                    let start = base + span.start;
                    if let Some(mask) = masks.iter_mut().rev().find(|mask| mask.open && mask.span.start == start) {
                        mask.span.end = base + span.end;
                        mask.open = false;
                    }
                }
            });
        }
    }

    /// Bytes about which all scanners that act have decided.
    fn decided(&self, ground: &Ground) -> usize {
        let acting = self.scans.iter().zip(ground.guard.scanners()).filter(|(_, scanner)| scanner.action >= Action::Mask);
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

/// A finding for the audit log, if there is one and it has room.
fn note(ground: &Ground, key: Key, base: usize, finding: &Finding, text: &str, there: usize) -> Option<Note> {
    let audit = ground.shared.audit.as_ref().filter(|_| there < filters::audit::MOST)?;
    let category = match finding.family {
        Family::Pii => Category::Pii,
        Family::Secret => Category::Secret,
        Family::Policy => Category::Policy,
        Family::Leak => Category::Leak,
        Family::Placeholder => return None,
    };
    let found = Found {
        rule: finding.rule.into(),
        kind: finding.kind.into(),
        category,
        text: key.0 as usize,
        span: base + finding.span.start..base + finding.span.end,
        score: finding.score,
        action: ground.guard.asked(finding.rule),
    };
    Some(Note { side: Side::Output, filter: "patterns".into(), found, channel: Some(channel(key.1)), hash: Some(audit.hash(text)) })
}

/// The name of a channel in the audit log.
pub(super) fn channel(channel: Channel) -> &'static str {
    match channel {
        Channel::Content => "content",
        Channel::Reasoning => "reasoning",
        Channel::Refusal => "refusal",
        Channel::ToolName => "tool_name",
        Channel::ToolArguments => "tool_arguments",
        Channel::Beside => "beside",
    }
}

impl Mask {
    /// Where it ends, as far as it is known.
    pub(super) fn end(&self) -> usize {
        if self.open { usize::MAX } else { self.span.end }
    }
}
