//! Parses a run of the body, and passes each piece of text to scanners, judges and filters.

use lens::StreamLens;
use wire::{Channel, Event, EventVisitor, Part};

use super::judge_windows::JudgeWindows;
use super::stream_filters::StreamFilters;
use super::text_channels::TextChannels;
use super::{Content, GuardContext};
use crate::closing::Closing;
use crate::failure::Failure;

/// Leading bytes of an answer that suffice to recognize a repetition of it.
const OPENING: usize = 32;

/// Visits the events of one run.
pub(super) struct EventListener<'g> {
    lens: &'g mut StreamLens,
    context: &'g GuardContext,
    texts: &'g mut TextChannels,
    judges: Option<&'g mut JudgeWindows>,
    filters: &'g mut StreamFilters,
    closing: &'g mut Closing,
    /// Address of the event's data, to compute offsets in it.
    data: usize,
    content: Content,
    ended: Vec<Option<u32>>,
    ends: Vec<(usize, Option<Content>)>,
    failure: Option<Failure>,
    opening: String,
}

/// Parsed events of a run.
#[derive(Debug)]
pub(super) struct Events {
    /// Where events and comments end in the run; comments have no content.
    pub(super) ends: Vec<(usize, Option<Content>)>,
    /// Why the answer ends, if a filter ends it.
    pub(super) failure: Option<Failure>,
    /// Start of the first choice's text, if it starts in this run.
    pub(super) opening: String,
}

impl<'g> EventListener<'g> {
    pub(super) fn new(
        lens: &'g mut StreamLens,
        context: &'g GuardContext,
        texts: &'g mut TextChannels,
        (judges, filters): (Option<&'g mut JudgeWindows>, &'g mut StreamFilters),
        closing: &'g mut Closing,
    ) -> Self {
        let (content, ended, ends, opening) =
            (Content::default(), Vec::new(), Vec::new(), String::new());
        EventListener {
            lens,
            context,
            texts,
            judges,
            filters,
            closing,
            data: 0,
            content,
            ended,
            ends,
            failure: None,
            opening,
        }
    }

    /// The parsed events.
    pub(super) fn done(self) -> Events {
        Events { ends: self.ends, failure: self.failure, opening: self.opening }
    }

    fn place(&self, raw: &[u8]) -> std::ops::Range<usize> {
        let at = (raw.as_ptr() as usize).saturating_sub(self.data);
        at..at + raw.len()
    }
}

impl EventVisitor for EventListener<'_> {
    fn data(&mut self, data: &[u8]) {
        self.data = data.as_ptr() as usize;
        self.closing.came(data);
    }

    fn part(&mut self, part: Part<'_>) {
        self.lens.part(part);
        match part {
            Part::Text { channel, choice, index, text } => {
                let (key, decoded) = ((choice, channel, index), text.decode());
                let slot = self.texts.text(
                    self.context,
                    key,
                    &decoded,
                    (self.place(text.raw()), text.is_escaped()),
                );
                if let Some(judges) = &mut self.judges {
                    judges.text(slot.channel, key, &decoded);
                }
                if let (Err(failure), None) =
                    (self.filters.text(choice, channel, &decoded), &self.failure)
                {
                    self.failure = Some(failure);
                }
                if slot.opens && choice == 0 && channel == Channel::Content {
                    let end = (0..=OPENING.min(decoded.len()))
                        .rev()
                        .find(|at| decoded.is_char_boundary(*at))
                        .unwrap_or(0);
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
            self.texts.finish(self.context, choice);
            content.ends.extend(self.texts.ends(choice));
            if let Some(judges) = &mut self.judges {
                judges.end(choice);
            }
        }
        content.has_unslotted_text = !event.same_shape;
        content.is_token = event.kinds.is_token();
        content.goes = self.context.takes_usage && event.no_choices && event.kinds.is_usage_only();
        self.ends.push((event.end, Some(content)));
    }

    fn comment(&mut self, end: usize) {
        self.lens.comment(end);
        self.ends.push((end, None));
    }
}
