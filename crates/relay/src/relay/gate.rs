//! The gate of a guarded answer: events pass when all of their text is decided, without what is masked.
//!
//! - *In*: runs of an answer's body, and the route's guard.
//! - *Out*: the same events in the same order. One that nothing is taken out of leaves byte for byte as it came.
//! - *Never*: a byte of a match before the scanner has decided about it; an event that was not scanned, whatever its dialect
//!   says besides generated text; a comment that waits, because clients take comments for signs of life.
//!
//! Each channel of each choice is a text of its own. What has no channel (a repetition of the whole text at the end, an echoed prompt)
//! is scanned as a whole text where it stands. Log probabilities beside text that is masked are taken out: they spell it. Filters that
//! need context sit in the `panel`; a filter that follows each event is a `watch`.

mod ear;
mod line;
mod panel;
mod render;
mod stop;
mod watches;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use filters::{AnswerFacts, Shield, Vault};
use lens::gaps::Gaps;
use lens::security::FilterAccount;
use lens::{StreamLens, Tick};
use wire::ending::Why;
use wire::{Dialect, Framing, Reader};

use crate::audit::{self, Note};
use crate::clock;
use crate::downstream::out::Out;
use crate::exchange::Exchange;
use crate::shared::Shared;
use crate::stage::record;
use ear::{Ear, Heard};
use line::{Lines, Slot};
use panel::Panel;
use stop::Closing;
pub(super) use stop::Stop;
use watches::Watches;

/// Events that wait for one undecided text may not be more bytes than this; beyond, it is decided with what is there. A stream of
/// one choice comes nowhere near, because `hold_bytes` bounds its text.
const MOST_WAITING: usize = 1 << 20;

/// The name of the scanners of answers in accounts: they are the same rules as the filter of that name has for prompts.
const SCANNERS: &str = "patterns";

/// What a gate stands on: nothing of it changes while the answer flows.
#[derive(Debug)]
pub(super) struct Ground {
    guard: Arc<Shield>,
    shared: Arc<Shared>,
    vault: Arc<Vault>,
    dialect: Dialect,
    framing: Framing,
    /// What every answer begins with, as JSON string content.
    disclaimer: String,
    /// Usage events are ours and go.
    takes_usage: bool,
    /// Something may be taken out, put in, or withheld; else findings are counted, and nothing waits.
    acts: bool,
}

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
    /// The choices that end here, and where it says why.
    reasons: Vec<(u32, Range<usize>)>,
    /// Where a choice or the answer ends: the lines that end here, and how far they went. Judges must have judged them before it leaves.
    ends: Vec<(usize, usize)>,
    /// It may hold text that is in no slot.
    strange: bool,
    /// It is the usage that we asked for on our own account.
    goes: bool,
}

/// The gate of one answer.
#[derive(Debug)]
pub(crate) struct Gate {
    ground: Ground,
    lines: Lines,
    panel: Option<Panel>,
    watches: Watches,
    /// For what the answer ends; told once.
    stop: Option<Stop>,
    stopped: bool,
    closing: Closing,
    /// How the first choice's answer begins, as far as it is needed to know a repetition of it.
    opening: String,
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
    /// Time spent at work since somebody asked, nanoseconds, and before that.
    busy: u64,
    worked: u64,
}

impl Gate {
    /// A gate for the answer of an exchange.
    pub(super) fn new(exchange: &Exchange, guard: &Arc<Shield>, (dialect, framing): (Dialect, Framing), takes_usage: bool) -> Self {
        let settings = &guard.settings;
        let facts = AnswerFacts {
            status: exchange.answer.status.unwrap_or(0),
            streamed: exchange.answer.streamed,
            request_id: exchange.accepted.id.as_str().into(),
        };
        let disclaims = !settings.disclaimer.is_empty() && !settings.observe;
        let ground = Ground {
            guard: guard.clone(),
            shared: exchange.shared.clone(),
            vault: exchange.guarded.vault.clone(),
            dialect,
            framing,
            disclaimer: if disclaims { render::escaped(&format!("{}\n\n", settings.disclaimer)) } else { String::new() },
            takes_usage,
            acts: guard.alters_answers(),
        };
        Gate {
            panel: Panel::new(guard, &exchange.plan.world),
            watches: Watches::open(guard, &facts),
            ground,
            lines: Lines::default(),
            stop: None,
            stopped: false,
            closing: Closing::default(),
            opening: String::new(),
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
            worked: 0,
        }
    }

    /// Take a run in, and let go what is decided. `now` is when it was read.
    pub(super) fn pass(&mut self, run: &[u8], now: Tick, reader: &mut Reader, lens: &mut StreamLens, out: &mut Out) {
        if self.stopped {
            return;
        }
        let began = clock::now();
        lens.at(self.seen);
        let found = self.hear(lens, |ear| reader.feed(run, ear));
        if reader.overflowed() && !self.ground.acts {
            // Nothing is read any more, and nothing has to be.
            out.push(&std::mem::take(&mut self.torn));
            out.push(run);
        } else if self.alters() {
            self.sort(run, found, now, out);
            self.release(now, out);
            self.bound(now, out);
        } else {
            out.push(run);
        }
        self.seen += run.len() as u64;
        if let Some(panel) = &mut self.panel {
            panel.ask(false);
        }
        self.busy += clock::now().nanos_since(began);
    }

    /// Put what was heard in a run into the queue, and pass comments on.
    fn sort(&mut self, run: &[u8], found: Vec<Heard>, now: Tick, out: &mut Out) {
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
    }

    /// The body has ended: the texts are complete. What judges have not judged yet may still wait.
    pub(super) fn finish(&mut self, now: Tick, reader: &mut Reader, lens: &mut StreamLens, out: &mut Out) {
        let began = clock::now();
        self.finish_reading(now, reader, lens, out);
        self.busy += clock::now().nanos_since(began);
    }

    fn finish_reading(&mut self, now: Tick, reader: &mut Reader, lens: &mut StreamLens, out: &mut Out) {
        let found = self.hear(lens, |ear| reader.finish(ear));
        self.lines.finish(&self.ground, None);
        self.note(|watches| watches.end());
        if let Some(panel) = &mut self.panel {
            panel.end(None);
        }
        if !self.alters() {
            return;
        }
        for heard in found {
            if let Heard::Event(_, content) = heard {
                self.event(&[], content, self.seen, now, out);
            }
        }
        self.release(now, out);
    }

    /// Everything has left: what is left is no event. A gate that acts keeps it, unless it is a comment: it may be a torn one with text in it.
    pub(super) fn rest(&mut self, out: &mut Out) {
        let passes = !self.ground.acts || self.is_comment(&[]);
        let torn = std::mem::take(&mut self.torn);
        if self.ground.framing != Framing::Json && passes {
            out.push(&torn);
        }
    }

    /// Nothing more comes that could decide what is held. What no judge has seen, and must, does not leave.
    pub(super) fn let_go(&mut self, now: Tick, out: &mut Out) {
        self.lines.finish(&self.ground, None);
        self.release(now, out);
        self.queue.clear();
        self.stopped = true;
        // It ends in another way already.
        self.stop = None;
    }

    /// The hold has lasted as long as it may.
    pub(super) fn flush(&mut self, now: Tick, out: &mut Out) {
        let began = clock::now();
        self.lines.flush(&self.ground);
        if let Some(panel) = &mut self.panel {
            panel.ask(true);
        }
        self.release(now, out);
        self.busy += clock::now().nanos_since(began);
    }

    /// Go on with the judges' questions. Ready when something has changed.
    pub(super) fn poll_judges(&mut self, cx: &mut Context<'_>, out: &mut Out) -> Poll<()> {
        if self.stopped {
            return Poll::Pending;
        }
        let Some(panel) = &mut self.panel else { return Poll::Pending };
        let began = clock::now();
        let Poll::Ready(stop) = panel.poll(cx) else { return Poll::Pending };
        if let Some(stop) = stop {
            self.set_stop(stop);
        }
        let now = clock::now();
        self.release(now, out);
        self.busy += now.nanos_since(began);
        Poll::Ready(())
    }

    /// Whether judges have not judged all that was said.
    pub(super) fn is_judging(&self) -> bool {
        !self.stopped && self.panel.as_ref().is_some_and(|panel| !panel.is_settled())
    }

    /// Wait for the judges, when nothing depends on them but the record.
    ///
    /// # Cancel safety
    /// Dropping the future drops their questions.
    pub(super) async fn conclude(&mut self) {
        let Some(panel) = &mut self.panel else { return };
        panel.end(None);
        while !panel.is_settled() {
            std::future::poll_fn(|cx| panel.poll(cx)).await;
        }
    }

    /// Whether only the record depends on what is found.
    pub(super) fn observes(&self) -> bool {
        self.ground.guard.settings.observe
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When what is held longest came.
    pub(super) fn holds_since(&self) -> Option<Tick> {
        self.queue.front().map(|kept| kept.arrived)
    }

    /// Whether time alone can release something.
    pub(super) fn waits_for_text(&self) -> bool {
        let undecided = |kept: &Kept| !self.lines.is_decided(&self.ground, &kept.content.slots);
        let unasked = |kept: &Kept| self.panel.as_ref().is_some_and(|panel| !panel.admits(&kept.content.slots) && panel.has_unasked());
        self.queue.front().is_some_and(|kept| undecided(kept) || unasked(kept))
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

    /// Whether what is found is acted on.
    pub(super) fn acts(&self) -> bool {
        self.ground.acts
    }

    /// Whether the answer may leave otherwise than it came.
    pub(super) fn alters(&self) -> bool {
        self.ground.acts || self.ground.takes_usage
    }

    /// How long text may wait.
    pub(super) fn hold_time(&self) -> Duration {
        self.ground.guard.settings.hold_time
    }

    /// How long events were kept back.
    pub(super) fn holds(&mut self) -> &mut Gaps {
        &mut self.held
    }

    /// Nanoseconds of work since the last time.
    pub(super) fn take_busy(&mut self) -> u64 {
        self.worked += self.busy;
        std::mem::take(&mut self.busy)
    }

    /// Whether the answer ends, and nobody was told yet.
    pub(super) fn has_stop(&self) -> bool {
        self.stop.is_some()
    }

    /// For what the answer ends, told once.
    pub(super) fn take_stop(&mut self) -> Option<Stop> {
        self.stop.take()
    }

    /// The events that close a stream before its end, in its dialect.
    pub(super) fn closing_events(&self, (why, message): (Why, &str), lens: &StreamLens) -> String {
        self.closing.events(self.ground.dialect, &self.lines.choices(), lens.completion_tokens().0, (why, message))
    }

    /// A whole answer that is not shown.
    pub(super) fn withheld(&self) -> Vec<u8> {
        let Some(kept) = self.queue.front() else { return b"{}".to_vec() };
        render::withheld(self.ground.dialect, &kept.bytes, &kept.content)
    }

    /// What was found and what waited.
    pub(super) fn report(&mut self, exchange: &mut Exchange) {
        record::flush_holds(exchange, &mut self.held);
        let into = &mut exchange.guarded;
        into.hold = self.held.summary();
        into.held_events = self.held_events;
        into.held_bytes_max = self.held_bytes as u64;
        let mut word = "pass";
        for (rule, count) in self.lines.found(&self.ground) {
            *into.output.entry(rule.into()).or_default() += u64::from(count);
            word = filters::worse(word, self.ground.guard.asked(rule).name());
        }
        into.word = filters::worse(into.word, word);
        if !self.ground.guard.scanners().is_empty() {
            let micros = self.worked / 1000;
            into.accounts.push(FilterAccount {
                filter: SCANNERS.into(),
                side: filters::Side::Output.name().into(),
                verdict: word.into(),
                failure: None,
                calls: 1,
                cpu_us: micros,
                queue_us: 0,
                remote_us: 0,
                wall_us: micros,
                critical: self.panel.is_none(),
            });
        }
        let mut notes = std::mem::take(&mut self.lines.notes);
        filters::merge(&mut into.accounts, self.watches.take_accounts());
        if let Some(panel) = &mut self.panel {
            filters::merge(&mut into.accounts, std::mem::take(&mut panel.accounts));
            for (filter, key, found) in std::mem::take(&mut panel.found) {
                *into.output.entry(found.rule.clone()).or_default() += 1;
                notes.push(Note { side: filters::Side::Output, filter, found, channel: Some(line::channel(key.1)), hash: None });
            }
        }
        audit::write(exchange, &notes);
    }

    fn set_stop(&mut self, stop: Stop) {
        if !self.stopped {
            self.stopped = true;
            self.stop = Some(stop);
            // Of a whole answer its frame is shown.
            if self.ground.framing != Framing::Json {
                self.queue.clear();
            }
        }
    }

    /// Let watches say something; a no ends the answer, unless the guard only observes.
    fn note(&mut self, say: impl FnOnce(&mut Watches) -> Result<(), Stop>) {
        if let (Err(stop), false) = (say(&mut self.watches), self.observes()) {
            self.set_stop(stop);
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
        let mut ear = Ear::new(lens, &self.ground, &mut self.lines, (self.panel.as_mut(), &mut self.watches), &mut self.closing);
        feed(&mut ear);
        let (found, stop, opening) = ear.done();
        if self.opening.is_empty() {
            self.opening = opening;
        }
        if let Some(stop) = stop.filter(|_| !self.observes()) {
            self.set_stop(stop);
        }
        if self.lines.overflowed && self.ground.acts {
            self.set_stop(Stop::Unreadable);
        }
        found
    }

    /// An event is complete: `piece` is its end, or all of it.
    fn event(&mut self, piece: &[u8], content: Content, upto: u64, now: Tick, out: &mut Out) {
        if self.stopped && self.ground.framing != Framing::Json {
            return;
        }
        let opens = !self.ground.disclaimer.is_empty() && content.slots.iter().any(|slot| slot.opens);
        let plain = !content.strange
            && content.ends.is_empty()
            && !opens
            && self.lines.is_clear(&self.ground, &content.slots)
            && self.admits(&content.slots);
        let untouched = !content.goes && (!self.ground.acts || plain);
        if self.queue.is_empty() && self.torn.is_empty() && untouched {
            self.closing.passed(self.ground.dialect, piece, &content);
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
        while !self.stopped && self.queue.front().is_some_and(|kept| !self.ground.acts || self.may_leave(&kept.content)) {
            let Some(kept) = self.queue.front() else { break };
            if !kept.content.goes {
                match render::event(&self.ground, &self.lines, &self.opening, &kept.bytes, &kept.content) {
                    Ok(bytes) => {
                        self.closing.passed(self.ground.dialect, &bytes, &kept.content);
                        out.push(&bytes);
                    }
                    Err(kind) => return self.set_stop(Stop::Blocked { kind: kind.to_owned() }),
                }
            }
            if kept.arrived != now {
                self.held_events += 1;
                self.held.add(now.micros_since(kept.arrived));
            }
            self.ends.push_back((out.payload_queued() + out.open_payload(), kept.upto));
            self.queue.pop_front();
        }
        // A text that grows from event to event says everything again.
        if self.queue.is_empty() && self.ground.dialect != Dialect::Generate {
            self.lines.forget();
        }
    }

    fn may_leave(&self, content: &Content) -> bool {
        self.lines.is_decided(&self.ground, &content.slots)
            && self.admits(&content.slots)
            && self.panel.as_ref().is_none_or(|panel| panel.has_judged(&content.ends))
    }

    fn admits(&self, slots: &[Slot]) -> bool {
        self.panel.as_ref().is_none_or(|panel| panel.admits(slots))
    }

    /// Neither a text nor a judge keeps more waiting than a bound.
    fn bound(&mut self, now: Tick, out: &mut Out) {
        let bytes = self.queue.iter().map(|kept| kept.bytes.len()).sum::<usize>();
        self.held_bytes = self.held_bytes.max(bytes);
        if bytes > MOST_WAITING && self.ground.framing != Framing::Json {
            self.flush(now, out);
        }
        let left = self.queue.iter().map(|kept| kept.bytes.len()).sum::<usize>();
        let judges = self.panel.as_mut().filter(|panel| left > MOST_WAITING && self.ground.framing != Framing::Json || panel.is_full());
        match judges.map(Panel::give_up) {
            Some(Some(stop)) => self.set_stop(stop),
            Some(None) => self.release(now, out),
            None => {}
        }
    }

    /// Whether what is torn and `piece` are blank lines and a comment.
    fn is_comment(&self, piece: &[u8]) -> bool {
        self.torn.iter().chain(piece).find(|byte| !matches!(byte, b'\r' | b'\n')) == Some(&b':')
    }
}
