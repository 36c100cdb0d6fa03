//! The gate of a guarded answer: events pass when all of their text is decided, without what is masked.
//!
//! - *In*: runs of an answer's body, and the route's [`Guard`].
//! - *Out*: the same events in the same order. One that nothing is taken out of leaves byte for byte as it came.
//! - *Never*: a byte of a match before the scanner has decided about it; an event that was not scanned, whatever its dialect
//!   says besides generated text; a comment that waits, because clients take comments for signs of life.
//!
//! Each channel of each choice is a text of its own. What has no channel (a repetition of the whole text at the end, an echoed prompt)
//! is scanned as a whole text where it stands. Log probabilities beside text that is masked are taken out: they spell it.

mod line;
mod render;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lens::gaps::Gaps;
use lens::{StreamLens, Tick};
use wire::{Event, Framing, Listener, Part, Reader};

use crate::clock;
use crate::downstream::out::Out;
use crate::exchange::Guarded;
use crate::guard::Guard;
use line::{Lines, Slot};

/// Events that wait for one undecided text may not be more bytes than this; beyond, it is decided with what is there. A stream of
/// one choice comes nowhere near, because `hold_bytes` bounds its text.
const MOST_WAITING: usize = 1 << 20;

/// An event on its way through.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    content: Content,
    /// Where it ended in the body as it came.
    upto: u64,
    arrived: Tick,
}

/// What the gate knows of an event.
#[derive(Debug, Default)]
struct Content {
    slots: Vec<Slot>,
    /// It may hold text that is in no slot.
    strange: bool,
    /// It is the usage that we asked for on our own account.
    goes: bool,
}

/// The gate of one answer.
#[derive(Debug)]
pub(crate) struct Gate {
    guard: Arc<Guard>,
    framing: Framing,
    /// Usage events are ours and go.
    takes_usage: bool,
    /// What is found is taken out; else it is counted, and nothing waits.
    masks: bool,
    lines: Lines,
    /// The beginning of an event that is not complete.
    torn: Vec<u8>,
    /// The run before ended in the CR that ended an event, which goes or not: an LF that begins this run belongs to it.
    after_cr: Option<bool>,
    queue: VecDeque<Kept>,
    /// Body bytes before the run, as the backend sent them.
    seen: u64,
    /// (payload queued, body read) at the ends of events that have left.
    ends: VecDeque<(u64, u64)>,
    written: u64,
    /// Arrival to release of events that waited, and most of their bytes at a time.
    held: Gaps,
    held_events: u64,
    held_bytes: usize,
    /// Time spent at work since somebody asked, nanoseconds.
    busy: u64,
}

/// Hears what a run holds.
struct Ear<'g> {
    lens: &'g mut StreamLens,
    lines: &'g mut Lines,
    guard: &'g Guard,
    takes_usage: bool,
    /// Where the data of the event begins in memory.
    data: usize,
    content: Content,
    ended: Vec<Option<u32>>,
    found: Vec<Heard>,
}

#[derive(Debug)]
enum Heard {
    Event(usize, Content),
    Comment(usize),
}

impl Listener for Ear<'_> {
    fn data(&mut self, data: &[u8]) {
        self.data = data.as_ptr() as usize;
    }

    fn part(&mut self, part: Part<'_>) {
        self.lens.part(part);
        match part {
            Part::Text { channel, choice, index, text } => {
                let at = (text.raw().as_ptr() as usize).saturating_sub(self.data);
                self.content.slots.push(self.lines.text(self.guard, (choice, channel, index), &text, at));
            }
            Part::Finish { choice, .. } => self.ended.push(Some(choice)),
            Part::End(_) => self.ended.push(None),
            _ => {}
        }
    }

    fn event(&mut self, event: &Event) {
        self.lens.event(event);
        self.ended.drain(..).for_each(|choice| self.lines.finish(self.guard, choice));
        let mut content = std::mem::take(&mut self.content);
        content.strange = !event.same_shape;
        content.goes = self.takes_usage && event.no_choices && event.kinds.is_usage_only();
        self.found.push(Heard::Event(event.end, content));
    }

    fn comment(&mut self, end: usize) {
        self.lens.comment(end);
        self.found.push(Heard::Comment(end));
    }
}

impl Gate {
    pub(super) fn new(guard: &Arc<Guard>, framing: Framing, takes_usage: bool) -> Self {
        Gate {
            guard: guard.clone(),
            framing,
            takes_usage,
            masks: guard.masks_any(),
            lines: Lines::default(),
            torn: Vec::new(),
            after_cr: None,
            queue: VecDeque::new(),
            seen: 0,
            ends: VecDeque::new(),
            written: 0,
            held: Gaps::default(),
            held_events: 0,
            held_bytes: 0,
            busy: 0,
        }
    }

    /// Take a run in, and let go what is decided. `now` is when it was read.
    pub(super) fn pass(&mut self, run: &[u8], now: Tick, reader: &mut Reader, lens: &mut StreamLens, out: &mut Out) {
        let began = clock::now();
        lens.at(self.seen);
        let found = self.hear(lens, |ear| reader.feed(run, ear));
        if !self.alters() {
            self.seen += run.len() as u64;
            self.busy += clock::now().nanos_since(began);
            return out.push(run);
        }
        let mut at = self.rest_of_line_end(run, out);
        for heard in found {
            let (end, content) = match heard {
                Heard::Event(end, content) => (end, Some(content)),
                Heard::Comment(end) => (end, None),
            };
            let piece = run.get(at..end).unwrap_or_default();
            let Some(content) = content else {
                if self.is_comment(piece) {
                    out.push(&self.torn);
                    out.push(piece);
                    self.torn.clear();
                    at = end.max(at);
                }
                continue;
            };
            at = end.max(at);
            self.after_cr = (end == run.len() && run.ends_with(b"\r")).then_some(content.goes);
            self.event(piece, content, self.seen + end as u64, now, out);
        }
        self.torn.extend_from_slice(run.get(at..).unwrap_or_default());
        self.seen += run.len() as u64;
        self.release(now, out);
        let bytes = self.queue.iter().map(|kept| kept.bytes.len()).sum::<usize>();
        self.held_bytes = self.held_bytes.max(bytes);
        if bytes > MOST_WAITING {
            self.flush(now, out);
        }
        self.busy += clock::now().nanos_since(began);
    }

    /// The body has ended: everything is decided now.
    pub(super) fn finish(&mut self, now: Tick, reader: &mut Reader, lens: &mut StreamLens, out: &mut Out) {
        let found = self.hear(lens, |ear| reader.finish(ear));
        if !self.alters() {
            return self.lines.finish(&self.guard, None);
        }
        for heard in found {
            if let Heard::Event(_, content) = heard {
                self.event(&[], content, self.seen, now, out);
            }
        }
        self.let_go(now, out);
        // What is left is no event: a torn one, or none that anybody reads.
        if self.framing != Framing::Json {
            let torn = std::mem::take(&mut self.torn);
            out.push(&render::whole(&self.guard, &torn));
        }
    }

    /// Nothing more comes that could decide what is held.
    pub(super) fn let_go(&mut self, now: Tick, out: &mut Out) {
        self.lines.finish(&self.guard, None);
        self.release(now, out);
    }

    /// The hold has lasted as long as it may.
    pub(super) fn flush(&mut self, now: Tick, out: &mut Out) {
        self.lines.flush(&self.guard);
        self.release(now, out);
    }

    /// When what is held longest came.
    pub(super) fn holds_since(&self) -> Option<Tick> {
        self.queue.front().map(|kept| kept.arrived)
    }

    /// How much of the body as it came the client has, when it has taken `payload` bytes.
    pub(super) fn read_when_written(&mut self, payload: u64) -> u64 {
        if !self.alters() {
            return payload;
        }
        while let Some((_, body)) = self.ends.front().filter(|(queued, _)| *queued <= payload) {
            self.written = *body;
            self.ends.pop_front();
        }
        self.written
    }

    /// Whether what is found is taken out.
    pub(super) fn masks(&self) -> bool {
        self.masks
    }

    /// Whether the answer may leave otherwise than it came.
    fn alters(&self) -> bool {
        self.masks || self.takes_usage
    }

    /// How long text may wait.
    pub(super) fn hold_time(&self) -> Duration {
        self.guard.settings.hold_time
    }

    /// Nanoseconds of work since the last time.
    pub(super) fn take_busy(&mut self) -> u64 {
        std::mem::take(&mut self.busy)
    }

    /// What was found and what waited.
    pub(super) fn report(&self, into: &mut Guarded) {
        into.hold = self.held.summary();
        into.held_events = self.held_events;
        into.held_bytes_max = self.held_bytes as u64;
        for (rule, count) in self.lines.found(&self.guard) {
            *into.output.entry(rule.into()).or_default() += u64::from(count);
        }
    }

    /// The LF whose CR ended the run before; how many bytes that are.
    fn rest_of_line_end(&mut self, run: &[u8], out: &mut Out) -> usize {
        let Some(goes) = self.after_cr.take_if(|_| !run.is_empty()) else { return 0 };
        let len = usize::from(run.starts_with(b"\n"));
        let rest = run.get(..len).unwrap_or_default();
        match self.queue.back_mut() {
            Some(kept) => kept.bytes.extend_from_slice(rest),
            None if goes => {}
            None => out.push(rest),
        }
        len
    }

    fn hear(&mut self, lens: &mut StreamLens, feed: impl FnOnce(&mut Ear<'_>)) -> Vec<Heard> {
        let mut ear = Ear {
            lens,
            lines: &mut self.lines,
            guard: &self.guard,
            takes_usage: self.takes_usage,
            data: 0,
            content: Content::default(),
            ended: Vec::new(),
            found: Vec::new(),
        };
        feed(&mut ear);
        ear.found
    }

    /// An event is complete: `piece` is its end, or all of it.
    fn event(&mut self, piece: &[u8], content: Content, upto: u64, now: Tick, out: &mut Out) {
        let untouched = !content.goes && (!self.masks || !content.strange && self.lines.is_clear(&content.slots));
        if self.queue.is_empty() && self.torn.is_empty() && untouched {
            out.push(piece);
            self.ends.push_back((out.payload_queued() + out.open_payload(), upto));
            return;
        }
        let mut bytes = std::mem::take(&mut self.torn);
        bytes.extend_from_slice(piece);
        self.queue.push_back(Kept { bytes, content, upto, arrived: now });
    }

    /// Let go what is decided, in order.
    fn release(&mut self, now: Tick, out: &mut Out) {
        while self.queue.front().is_some_and(|kept| !self.masks || self.lines.is_decided(&kept.content.slots)) {
            let Some(kept) = self.queue.pop_front() else { break };
            if kept.arrived != now {
                self.held_events += 1;
                self.held.add(now.micros_since(kept.arrived));
                drop(self.held.drain());
            }
            if !kept.content.goes {
                out.push(&render::event(&self.guard, self.framing, &self.lines, &kept.bytes, &kept.content));
            }
            self.ends.push_back((out.payload_queued() + out.open_payload(), kept.upto));
        }
        if self.queue.is_empty() {
            self.lines.forget();
        }
    }

    /// Whether what is torn and `piece` are blank lines and a comment.
    fn is_comment(&self, piece: &[u8]) -> bool {
        self.torn.iter().chain(piece).find(|byte| !matches!(byte, b'\r' | b'\n')) == Some(&b':')
    }
}
