//! Hears what a run of the body holds, and gives each piece of text to whoever looks at it.

use lens::StreamLens;
use wire::{Channel, Event, Listener, Part};

use super::line::Lines;
use super::panel::Panel;
use super::stop::{Closing, Stop};
use super::watches::Watches;
use super::{Content, Ground};

/// Bytes of an answer's beginning that are enough to know a repetition of it.
const OPENING: usize = 32;

/// The ear of one run.
pub(super) struct Ear<'g> {
    lens: &'g mut StreamLens,
    ground: &'g Ground,
    lines: &'g mut Lines,
    panel: Option<&'g mut Panel>,
    watches: &'g mut Watches,
    closing: &'g mut Closing,
    /// Where the data of the event begins in memory.
    data: usize,
    content: Content,
    ended: Vec<Option<u32>>,
    found: Vec<Heard>,
    stop: Option<Stop>,
    opening: String,
}

/// What was heard, with where it ends in the run.
#[derive(Debug)]
pub(super) enum Heard {
    Event(usize, Content),
    Comment(usize),
}

impl<'g> Ear<'g> {
    pub(super) fn new(
        lens: &'g mut StreamLens,
        ground: &'g Ground,
        lines: &'g mut Lines,
        (panel, watches): (Option<&'g mut Panel>, &'g mut Watches),
        closing: &'g mut Closing,
    ) -> Self {
        let (content, ended, found, opening) = (Content::default(), Vec::new(), Vec::new(), String::new());
        Ear { lens, ground, lines, panel, watches, closing, data: 0, content, ended, found, stop: None, opening }
    }

    /// What was heard, for what the answer ends, and how it began.
    pub(super) fn done(self) -> (Vec<Heard>, Option<Stop>, String) {
        (self.found, self.stop, self.opening)
    }

    fn place(&self, raw: &[u8]) -> std::ops::Range<usize> {
        let at = (raw.as_ptr() as usize).saturating_sub(self.data);
        at..at + raw.len()
    }
}

impl Listener for Ear<'_> {
    fn data(&mut self, data: &[u8]) {
        self.data = data.as_ptr() as usize;
        self.closing.begin(data);
    }

    fn part(&mut self, part: Part<'_>) {
        self.lens.part(part);
        match part {
            Part::Text { channel, choice, index, text } => {
                let (key, decoded) = ((choice, channel, index), text.decode());
                let slot = self.lines.text(self.ground, key, &decoded, (self.place(text.raw()), text.is_escaped()));
                if let Some(panel) = &mut self.panel {
                    panel.text(slot.line, key, &decoded);
                }
                if let (Err(stop), None) = (self.watches.text(choice, channel, &decoded), &self.stop) {
                    self.stop = Some(stop);
                }
                if slot.opens && choice == 0 && channel == Channel::Content {
                    let end = (0..=OPENING.min(decoded.len())).rev().find(|at| decoded.is_char_boundary(*at)).unwrap_or(0);
                    self.opening = decoded.get(..end).unwrap_or_default().to_owned();
                }
                self.content.slots.push(slot);
            }
            Part::Finish { choice, reason } => {
                self.content.reasons.push((choice, self.place(reason.raw())));
                self.ended.push(Some(choice));
            }
            Part::End(_) => self.ended.push(None),
            _ => {}
        }
    }

    fn event(&mut self, event: &Event) {
        self.lens.event(event);
        let mut content = std::mem::take(&mut self.content);
        for choice in self.ended.drain(..) {
            self.lines.finish(self.ground, choice);
            content.ends.extend(self.lines.ends(choice));
            if let Some(panel) = &mut self.panel {
                panel.end(choice);
            }
        }
        content.strange = !event.same_shape;
        content.goes = self.ground.takes_usage && event.no_choices && event.kinds.is_usage_only();
        self.found.push(Heard::Event(event.end, content));
    }

    fn comment(&mut self, end: usize) {
        self.lens.comment(end);
        self.found.push(Heard::Comment(end));
    }
}
