//! Recognizes events that differ from the previous one in their text only.
//!
//! Most events of a stream differ in one string only: the text. If the bytes before and after that
//! string equal those of the previous event, nothing else has changed and no scan is required.
//!
//! - *In*: the data of an event, and the result of scanning an earlier one.
//! - *Out*: the text, if the event has the stored shape.
//! - *Never*: a guess. The bytes before and after must match, and the text between them must
//!   contain no quote and no backslash, so that it ends where a scan would end it. Any other event
//!   is scanned.

use crate::event::Channel;
use crate::json::{Text, find_quote};

/// Maximum bytes of a stored shape. Events with a larger shape are always scanned.
const MAX_SHAPE: usize = 2048;
/// Consecutive stored shapes without a match after which matching stops for the stream.
const MAX_MISSES: u8 = 8;

/// Kind and position of a piece of text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) channel: Channel,
    pub(crate) choice: u32,
    pub(crate) index: u32,
    /// Address and length of the text, to compute its offset in the event.
    pub(crate) at: (usize, usize),
}

/// The shape of the last event that was scanned.
#[derive(Debug, Default)]
pub(crate) struct Template {
    before: Vec<u8>,
    after: Vec<u8>,
    slot: Option<Slot>,
    misses: u8,
}

impl Template {
    /// The text of an event that matches the stored shape.
    #[inline]
    pub(crate) fn text<'d>(&mut self, data: &'d [u8]) -> Option<(Slot, Text<'d>)> {
        let slot = self.slot?;
        let text =
            data.strip_prefix(self.before.as_slice())?.strip_suffix(self.after.as_slice())?;
        if text.is_empty() || find_quote(text).is_some() {
            return None;
        }
        self.misses = 0;
        Some((slot, Text::plain(text)))
    }

    /// Store the shape of an event whose only part was one text.
    pub(crate) fn learn(&mut self, data: &[u8], slot: Slot) {
        self.slot = None;
        if self.misses >= MAX_MISSES {
            return;
        }
        self.misses += 1;
        let (address, len) = slot.at;
        let Some(start) = address.checked_sub(data.as_ptr() as usize) else { return };
        let (Some(before), Some(after)) = (data.get(..start), data.get(start + len..)) else {
            return;
        };
        let in_quotes = before.last() == Some(&b'"') && after.first() == Some(&b'"');
        if in_quotes && before.len() + after.len() <= MAX_SHAPE {
            self.before.clear();
            self.before.extend_from_slice(before);
            self.after.clear();
            self.after.extend_from_slice(after);
            self.slot = Some(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Dialect, Event, EventVisitor, Framing, Part, Reader, ReaderLimits};

    #[derive(Default, PartialEq, Debug)]
    struct ReportedParts(Vec<String>);

    impl EventVisitor for ReportedParts {
        fn part(&mut self, part: Part<'_>) {
            // A matched event does not report its model again.
            if !matches!(part, Part::Model(_)) {
                self.0.push(format!("{part:?}"));
            }
        }
        fn event(&mut self, event: &Event) {
            self.0.push(format!("{:?}", Event { same_shape: false, ..*event }));
        }
    }

    proptest::proptest! {
        #[test]
        fn matched_events_report_the_same_parts_as_scanned_events(texts in proptest::collection::vec("[a-c\"\\\\ {}\\[\\],:é]{0,6}", 1..12), finish in 0usize..12) {
            let mut remembered = ReportedParts::default();
            let mut scanned = ReportedParts::default();
            let mut reader =
                Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
            for (at, text) in texts.iter().enumerate() {
                let text = serde_json::to_string(text).unwrap();
                let reason = if at == finish { "\"stop\"" } else { "null" };
                let event = format!("data: {{\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{text}}},\"finish_reason\":{reason}}}]}}\n\n");
                reader.feed(event.as_bytes(), &mut remembered);
                Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default())
                    .feed(event.as_bytes(), &mut scanned);
            }
            proptest::prop_assert_eq!(remembered, scanned);
        }
    }
}
