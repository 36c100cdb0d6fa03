//! Moves the payload of a read to the queue. The lens measures it; guardrail, strip and closing
//! state see it, if they are set up.

use lens::Tick;
use transport::{BodyListener, StreamBuffer};
use wire::Reader;

use crate::closing::{Closing, ClosingListener};
use crate::output_guard::OutputGuard;
use crate::request::Answer;
use crate::strip::Strip;

/// Forwards a stream up to the end of its last whole event, and holds the rest: a client must not
/// get half an event if the backend dies. An event over the reader's limit is not held.
#[derive(Debug, Default)]
pub(crate) struct WholeEvents {
    held: Vec<u8>,
}

impl WholeEvents {
    /// Forward a run that `reader` has read.
    #[inline]
    pub(crate) fn pass(&mut self, run: &[u8], reader: &Reader, out: &mut StreamBuffer) {
        let open = if reader.is_skipping() { 0 } else { reader.unterminated() };
        if open == 0 && self.held.is_empty() {
            return out.push(run);
        }
        let (whole, rest) =
            run.split_at_checked(run.len().saturating_sub(open)).unwrap_or((run, &[]));
        if open <= run.len() {
            self.flush(out);
        }
        out.push(whole);
        self.held.extend_from_slice(rest);
    }

    /// Number of held bytes.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.held.len() as u64
    }

    /// Forward what is held: the stream is complete.
    pub(crate) fn flush(&mut self, out: &mut StreamBuffer) {
        out.push(&self.held);
        self.held.clear();
    }
}

/// The path of payload from the source to the queue.
#[derive(Debug)]
pub struct Forward<'a> {
    pub(crate) answer: &'a mut Answer,
    pub(crate) out: &'a mut StreamBuffer,
    pub(crate) reader: Option<&'a mut Reader>,
    /// Holds torn events; `None`: nothing is held.
    pub(crate) whole: Option<&'a mut WholeEvents>,
    pub(crate) strip: Option<&'a mut Strip>,
    pub(crate) guardrail: Option<&'a mut OutputGuard>,
    pub(crate) closing: Option<&'a mut Closing>,
    /// Whether the stream ends after the current event; later bytes are dropped.
    pub(crate) stops_at_event: bool,
    /// Time of the read that is being forwarded.
    pub(crate) read_at: Option<Tick>,
}

impl<'a> Forward<'a> {
    /// Measure and queue everything, and change nothing.
    pub fn unchanged(
        answer: &'a mut Answer,
        out: &'a mut StreamBuffer,
        reader: &'a mut Reader,
    ) -> Self {
        Forward {
            answer,
            out,
            reader: Some(reader),
            whole: None,
            strip: None,
            guardrail: None,
            closing: None,
            stops_at_event: false,
            read_at: None,
        }
    }
}

impl BodyListener for Forward<'_> {
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
        if !self.stops_at_event {
            return self.pass(run);
        }
        for line in run.split_inclusive(|byte| *byte == b'\n') {
            if self.reader.as_ref().is_none_or(|reader| reader.unterminated() == 0) {
                return;
            }
            self.pass(line);
        }
    }
}

impl Forward<'_> {
    #[inline]
    fn pass(&mut self, run: &[u8]) {
        let Some(reader) = &mut self.reader else { return self.out.push(run) };
        let lens = &mut self.answer.lens;
        if let (Some(guardrail), Some(now)) = (&mut self.guardrail, self.read_at) {
            return guardrail.pass(run, now, reader, lens, self.out);
        }
        if let Some(strip) = &mut self.strip {
            return strip.pass(run, reader, (lens, self.closing.as_deref_mut()), self.out);
        }
        let held = self.whole.as_ref().map_or(0, |whole| whole.len());
        lens.at(self.out.payload_queued() + self.out.open_payload() + held);
        match &mut self.closing {
            Some(closing) => reader.feed(run, &mut ClosingListener { inner: lens, closing }),
            None => reader.feed(run, lens),
        }
        match &mut self.whole {
            Some(whole) => whole.pass(run, reader, self.out),
            None => self.out.push(run),
        }
    }
}
