//! What happens to payload between a read and the ring: it is read by the lens and queued as it is.

use lens::Tick;
use wire::Reader;

use super::budget::Budget;
use super::gate::Gate;
use super::strip::Strip;
use crate::downstream::out::Out;
use crate::exchange::Answer;
use crate::upstream::Hear;

/// The way of payload from the source to the ring.
pub(crate) struct Forward<'a> {
    pub(super) answer: &'a mut Answer,
    pub(super) out: &'a mut Out,
    pub(super) reader: Option<&'a mut Reader>,
    pub(super) strip: Option<&'a mut Strip>,
    pub(super) gate: Option<&'a mut Gate>,
    pub(super) budget: Option<&'a mut Budget>,
    /// When the read returned that is being forwarded.
    pub(super) read_at: Option<Tick>,
}

impl<'a> Forward<'a> {
    /// A way on which nothing is read: the payload is queued, and that is all.
    pub(crate) fn bare(answer: &'a mut Answer, out: &'a mut Out) -> Self {
        Forward { answer, out, reader: None, strip: None, gate: None, budget: None, read_at: None }
    }

    /// A way on which everything is read, and what is queued is nobody's.
    pub(crate) fn heard(answer: &'a mut Answer, out: &'a mut Out, reader: &'a mut Reader) -> Self {
        Forward { answer, out, reader: Some(reader), strip: None, gate: None, budget: None, read_at: None }
    }
}

impl Hear for Forward<'_> {
    #[inline]
    fn begin_read(&mut self, now: Tick, lag: Option<u64>) {
        self.read_at = Some(now);
        self.answer.lens.begin_read(now);
        if let Some(lag) = lag {
            self.answer.read_lag.add(lag);
            drop(self.answer.read_lag.drain());
        }
    }

    #[inline]
    fn payload(&mut self, run: &[u8]) {
        if let (Some(reader), Some(gate), Some(now)) = (&mut self.reader, &mut self.gate, self.read_at) {
            return gate.pass(run, now, reader, &mut self.answer.lens, self.out);
        }
        if let Some(budget) = &mut self.budget {
            budget.hear(run);
        }
        match (&mut self.reader, &mut self.strip) {
            (Some(reader), Some(strip)) => strip.pass(run, reader, &mut self.answer.lens, self.out),
            (Some(reader), None) => {
                self.answer.lens.at(self.out.payload_queued() + self.out.open_payload());
                reader.feed(run, &mut self.answer.lens);
                self.out.push(run);
            }
            (None, _) => self.out.push(run),
        }
    }
}
