//! The queue of held events, and their release in order.

use lens::Tick;
use transport::StreamBuffer;
use wire::{Framing, Reader};

use super::{Content, MAX_HELD_EVENT_BYTES, OutputGuard, Slot, render};
use crate::failure::Failure;
use crate::output_guard::judge_windows::JudgeWindows;

/// A held event.
#[derive(Debug)]
pub(super) struct HeldEvent {
    pub(super) bytes: Vec<u8>,
    pub(super) content: Content,
    /// Its end in the received body.
    upto: u64,
    pub(super) arrived: Tick,
    /// When it could have left without the guardrail; `None` until the client has accepted all
    /// earlier bytes.
    pub(super) earliest: Option<Tick>,
}

impl OutputGuard {
    /// Forward a run of an answer that the guardrail does not alter.
    pub(super) fn pass_unaltered(
        &mut self,
        run: &[u8],
        events: &[(usize, Option<Content>)],
        reader: &Reader,
        out: &mut StreamBuffer,
    ) {
        self.whole.pass(run, reader, out);
        for content in events.iter().filter_map(|(_, content)| content.as_ref()) {
            self.delays.released(self.delays.earliest(), content.is_token);
        }
    }

    /// Converts payload bytes written to the client into bytes of the received body.
    pub(crate) fn read_when_written(&mut self, payload: u64) -> u64 {
        if !self.alters() {
            return payload;
        }
        while let Some((_, body)) = self.ends.front().filter(|(queued, _)| *queued <= payload) {
            self.written = *body;
            self.ends.pop_front();
        }
        self.written
    }

    /// Queue a complete event, or forward it at once if it need not be held.
    pub(super) fn event(
        &mut self,
        bytes: &[u8],
        content: Content,
        upto: u64,
        now: Tick,
        out: &mut StreamBuffer,
    ) {
        if self.stopped && self.context.framing != Framing::Json {
            return;
        }
        if !content.slots.is_empty() {
            self.last_text = now;
        }
        let opens =
            !self.context.disclaimer.is_empty() && content.slots.iter().any(|slot| slot.opens);
        let plain = !content.has_unslotted_text
            && content.ends.is_empty()
            && !opens
            && self.texts.is_clear(&self.context, &content.slots)
            && self.admits(&content.slots);
        let untouched = !content.goes && (!self.context.acts || plain);
        if self.queue.is_empty() && untouched {
            self.passed(bytes, &content);
            self.delays.released(self.delays.earliest(), content.is_token);
            out.push(bytes);
            self.ends.push_back((out.payload_queued() + out.open_payload(), upto));
            return;
        }
        let earliest = self.delays.earliest();
        self.queue.push_back(HeldEvent {
            bytes: bytes.to_vec(),
            content,
            upto,
            arrived: now,
            earliest,
        });
    }

    /// Record a forwarded event.
    fn passed(&mut self, event: &[u8], content: &Content) {
        self.ended.extend(content.reasons.iter().map(|(choice, _)| *choice));
        self.closing.passed_framed(event);
    }

    /// Release what is decided, in order.
    pub(super) fn release(&mut self, now: Tick, out: &mut StreamBuffer) {
        while !self.stopped
            && self
                .queue
                .front()
                .is_some_and(|held| !self.context.acts || self.may_leave(&held.content))
        {
            let Some(held) = self.queue.pop_front() else { break };
            if !held.content.goes {
                match render::event(
                    &self.context,
                    &self.texts,
                    &self.opening,
                    &held.bytes,
                    &held.content,
                    &mut self.elsewhere,
                ) {
                    Ok(bytes) => {
                        self.passed(&bytes, &held.content);
                        self.delays.released(held.earliest, held.content.is_token);
                        out.push(&bytes);
                    }
                    Err(kind) => {
                        self.queue.push_front(held);
                        return self.fail(Failure::Blocked { kind: kind.into_owned() });
                    }
                }
            }
            if held.arrived != now {
                self.held_events += 1;
                self.held.add(now.micros_since(held.arrived));
            }
            self.ends.push_back((out.payload_queued() + out.open_payload(), held.upto));
        }
        // Cumulative text repeats everything, so its masks are still needed.
        if self.queue.is_empty() && !self.context.dialect.text_is_cumulative() {
            self.texts.forget();
        }
    }

    fn may_leave(&self, content: &Content) -> bool {
        self.texts.is_decided(&self.context, &content.slots)
            && self.admits(&content.slots)
            && self.judges.as_ref().is_none_or(|judges| judges.has_judged(&content.ends))
    }

    fn admits(&self, slots: &[Slot]) -> bool {
        self.judges.as_ref().is_none_or(|judges| judges.admits(slots))
    }

    /// Enforce the maximum bytes held for undecided text and for judges.
    pub(super) fn bound(&mut self, now: Tick, out: &mut StreamBuffer) {
        let bytes = self.queue.iter().map(|held| held.bytes.len()).sum::<usize>();
        self.held_bytes = self.held_bytes.max(bytes);
        if bytes > MAX_HELD_EVENT_BYTES && self.context.framing != Framing::Json {
            self.flush(now, out);
        }
        let left = self.queue.iter().map(|held| held.bytes.len()).sum::<usize>();
        let full = left > MAX_HELD_EVENT_BYTES && self.context.framing != Framing::Json;
        let judges = self.judges.as_mut().filter(|judges| full || judges.is_full());
        match judges.map(JudgeWindows::give_up) {
            Some(Some(failure)) => self.fail(failure),
            Some(None) => self.release(now, out),
            None => {}
        }
    }
}
