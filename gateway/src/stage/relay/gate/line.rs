//! The texts of an answer, each scanned by itself: one line for each channel of each choice.
//!
//! - *In*: pieces of text as events bring them.
//! - *Out*: how far each text is decided, and what of it is masked.
//! - *Never*: text. The scanner holds what it must; a line knows offsets.

use std::collections::VecDeque;
use std::ops::Range;

use shield::stream::{Automata, Channel as Scan, Piece};
use wire::Channel;
use wire::json::Text;

use crate::guard::Guard;

/// Which text: choice, channel, tool call.
type Key = (u32, Channel, u32);

/// More texts than this in one answer share the last line, where they are scanned as one.
const MOST: usize = 256;

/// Where a piece of text stands.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    line: usize,
    /// Its bytes in the line.
    pub(super) span: Range<usize>,
    /// Its bytes in the data of the event, as written.
    pub(super) raw: Range<usize>,
    pub(super) escaped: bool,
}

/// Something that is not passed on.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    pub(super) span: Range<usize>,
    /// Its end is not known yet.
    open: bool,
    pub(super) kind: &'static str,
}

/// All texts of an answer.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<Line>);

#[derive(Debug)]
struct Line {
    key: Key,
    scan: Scan,
    /// Bytes that came.
    pushed: usize,
    /// Where the scanner's own count of the text begins; it begins anew after an end.
    base: usize,
    masks: VecDeque<Mask>,
}

impl Lines {
    /// A piece of text that begins at `at` in its event's data.
    pub(super) fn text(&mut self, guard: &Guard, key: Key, text: &Text<'_>, at: usize) -> Slot {
        let line = self.0.iter().position(|line| line.key == key).unwrap_or_else(|| {
            if self.0.len() < MOST {
                self.0.push(Line { key, scan: Scan::new(), pushed: 0, base: 0, masks: VecDeque::new() });
            }
            self.0.len() - 1
        });
        let raw = at..at + text.raw().len();
        let mut span = 0..0;
        if let Some(line) = self.0.get_mut(line) {
            let decoded = text.decode();
            span = line.pushed..line.pushed + decoded.len();
            line.pushed = span.end;
            line.scan(guard, |scan, automata, out| scan.push(automata, &decoded, out));
        }
        Slot { line, span, raw, escaped: text.is_escaped() }
    }

    /// A choice has ended, or all have: its texts are decided.
    pub(super) fn finish(&mut self, guard: &Guard, choice: Option<u32>) {
        for line in self.0.iter_mut().filter(|line| choice.is_none_or(|choice| line.key.0 == choice)) {
            line.scan(guard, |scan, automata, out| scan.finish(automata, out));
            line.close();
            line.base = line.pushed;
        }
    }

    /// Decide what is held as well as it can be decided now.
    pub(super) fn flush(&mut self, guard: &Guard) {
        self.0.iter_mut().for_each(|line| line.scan(guard, |scan, automata, out| scan.flush(automata, out)));
    }

    /// Whether the texts of an event are decided.
    pub(super) fn is_decided(&self, slots: &[Slot]) -> bool {
        slots.iter().all(|slot| self.0.get(slot.line).is_none_or(|line| line.pushed - line.scan.held() >= slot.span.end))
    }

    /// Whether they are decided, and nothing of them is masked.
    pub(super) fn is_clear(&self, slots: &[Slot]) -> bool {
        self.is_decided(slots) && slots.iter().all(|slot| self.masks(slot).next().is_none())
    }

    /// What of a slot is masked, in order, in bytes of the line.
    pub(super) fn masks(&self, slot: &Slot) -> impl Iterator<Item = &Mask> {
        let span = slot.span.clone();
        let masks = self.0.get(slot.line).into_iter().flat_map(|line| &line.masks);
        masks.filter(move |mask| mask.span.start < span.end && mask.end() > span.start)
    }

    /// No event is left that a mask could concern, but for those whose end is not known.
    pub(super) fn forget(&mut self) {
        self.0.iter_mut().for_each(|line| line.masks.retain(|mask| mask.open));
    }

    /// Findings by rule, over all texts.
    pub(super) fn found(&self, guard: &Guard) -> Vec<(&'static str, u32)> {
        let mut all: Vec<(&'static str, u32)> = Vec::new();
        for &(number, count) in self.0.iter().flat_map(|line| line.scan.counts()) {
            let Some(rule) = guard.automata().and_then(|automata| automata.rule(number)) else { continue };
            match all.iter_mut().find(|(known, _)| *known == rule) {
                Some((_, sum)) => *sum += count,
                None => all.push((rule, count)),
            }
        }
        all
    }
}

impl Line {
    /// Let the scanner work, and note what it masks.
    fn scan(&mut self, guard: &Guard, work: impl FnOnce(&mut Scan, &Automata, &mut dyn FnMut(Piece<'_>))) {
        let Some(automata) = guard.automata() else { return };
        let (base, masks) = (self.base, &mut self.masks);
        work(&mut self.scan, automata, &mut |piece| match piece {
            Piece::Mask { finding, open } if guard.masks(finding.family) => {
                let span = base + finding.span.start..base + finding.span.end;
                masks.push_back(Mask { span, open, kind: finding.kind });
            }
            Piece::Pass(_) | Piece::Mask { .. } => {}
            Piece::Close(span) => {
                if let Some(mask) = masks.back_mut().filter(|mask| mask.open) {
                    mask.span.end = base + span.end;
                    mask.open = false;
                }
            }
        });
    }

    /// The text has ended: so has what was open.
    fn close(&mut self) {
        for mask in self.masks.iter_mut().filter(|mask| mask.open) {
            mask.span.end = self.pushed;
            mask.open = false;
        }
    }
}

impl Mask {
    /// Where it ends, as far as it is known.
    pub(super) fn end(&self) -> usize {
        if self.open { usize::MAX } else { self.span.end }
    }
}
