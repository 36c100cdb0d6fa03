//! Takes the usage event out again that we asked for and the client did not.
//!
//! - *In*: runs of an event stream.
//! - *Out*: the same bytes without the events that carry usage and no choice.
//! - *Never*: a change of any other byte. An event that a read tore apart is kept back until its rest is there, because only
//!   then is it known whose it is; that is the price of asking, and only routes that ask pay it.

use lens::StreamLens;
use wire::{Event, Listener, Part, Reader};

use crate::downstream::out::Out;

/// The state between two runs.
#[derive(Debug, Default)]
pub(crate) struct Strip {
    /// The beginning of an event that is not complete.
    held: Vec<u8>,
    taken_out: u64,
    /// Body bytes before the run, as the backend sent them.
    seen: u64,
}

/// Where events end in a run, and which of them go.
struct Cuts<'l> {
    lens: &'l mut StreamLens,
    ends: Vec<(usize, bool)>,
}

impl Listener for Cuts<'_> {
    fn part(&mut self, part: Part<'_>) {
        self.lens.part(part);
    }

    fn event(&mut self, event: &Event) {
        self.lens.event(event);
        self.ends.push((event.end, event.no_choices && event.kinds.is_usage_only()));
    }

    fn comment(&mut self, end: usize) {
        self.lens.comment(end);
        self.ends.push((end, false));
    }
}

impl Strip {
    /// Bytes taken out so far.
    pub(super) fn taken_out(&self) -> u64 {
        self.taken_out
    }

    /// Pass a run on, without what is ours.
    pub(super) fn pass(&mut self, run: &[u8], reader: &mut Reader, lens: &mut StreamLens, out: &mut Out) {
        lens.at(self.seen);
        self.seen += run.len() as u64;
        let mut cuts = Cuts { lens, ends: Vec::new() };
        reader.feed(run, &mut cuts);
        let mut at = 0;
        for (end, ours) in cuts.ends {
            let piece = run.get(at..end).unwrap_or_default();
            at = end.max(at);
            if ours {
                self.taken_out += (self.held.len() + piece.len()) as u64;
            } else {
                out.push(&self.held);
                out.push(piece);
            }
            self.held.clear();
        }
        let rest = run.get(at..).unwrap_or_default();
        if reader.overflowed() {
            self.flush(out);
            out.push(rest);
        } else {
            self.held.extend_from_slice(rest);
        }
    }

    /// The stream has ended: what is left of it belongs to the client.
    pub(super) fn flush(&mut self, out: &mut Out) {
        out.push(&self.held);
        self.held = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Dialect, Framing, ReaderLimits};

    fn pass(pieces: &[&[u8]]) -> Vec<u8> {
        let mut strip = Strip::default();
        let mut out = Out::default();
        let mut lens = StreamLens::new(true, u64::MAX);
        let mut reader = Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
        for piece in pieces {
            strip.pass(piece, &mut reader, &mut lens, &mut out);
            out.commit();
        }
        strip.flush(&mut out);
        out.commit();
        assert_eq!(lens.usage().and_then(|u| u.completion_tokens), Some(2));
        out.pending().to_vec()
    }

    #[test]
    fn only_the_usage_event_goes_at_any_cut() {
        let token = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}],\"usage\":null}\r\n\r\n";
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\r\n\r\n";
        let filter = "data: {\"choices\":[],\"prompt_filter_results\":[]}\r\n\r\n";
        let done = "data: [DONE]\r\n\r\n: tail";
        let stream = format!("{filter}: ping\r\n{token}{usage}{done}").into_bytes();
        let want = format!("{filter}: ping\r\n{token}{done}").into_bytes();
        assert_eq!(pass(&[&stream]), want);
        for cut in 0..stream.len() {
            let (a, b) = stream.split_at(cut);
            assert_eq!(String::from_utf8_lossy(&pass(&[a, b])), String::from_utf8_lossy(&want), "cut at {cut}");
        }
    }
}
