//! Takes events out that are not the client's: usage that the gateway asked for and the client did
//! not, and the role that a resuming backend repeats. Keeps the text, where another backend may
//! have to resume.
//!
//! - *In*: runs of an event stream.
//! - *Out*: the same bytes without these events.
//! - *Never*: a change of any other byte. An event that a read tore apart is held until its rest is
//!   there, because only then its kind is known; only routes that want either pay that price.

use lens::StreamLens;
use transport::Out;
use wire::event::{Channel, Kinds};
use wire::{Event, Listener, Part, Reader, Split, Splitter};

use crate::closing::{Closing, ClosingListener};
use crate::resume::{ResumeCheck, Resumed};

/// The state between two runs.
#[derive(Debug, Default)]
pub(crate) struct Strip {
    splitter: Splitter,
    /// What became of the last event or comment: the LF of its line end shares that.
    last: Fate,
    taken_out: u64,
    added: u64,
    /// Body bytes before the run, as the backend sent them.
    seen: u64,
    /// Usage is taken out.
    takes_usage: bool,
    /// Role events are removed: an earlier engine sent one.
    takes_role: bool,
    transcript: Option<Transcript>,
    /// It is not known yet whether the resuming backend continues.
    check: Option<ResumeCheck>,
    resume_failed: bool,
}

/// The text so far.
#[derive(Debug, Default)]
struct Transcript {
    content: String,
    /// More than one choice, reasoning, tools, or more than [`MAX_TEXT`]: it cannot be resumed.
    is_complex: bool,
}

/// Maximum bytes of text that are kept.
const MAX_TEXT: usize = 1 << 20;

/// What becomes of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    /// It belongs to the client.
    #[default]
    Stays,
    /// It is the answer to a question of the gateway's own.
    Goes,
}

/// Reads a run: where events end, and what becomes of each.
struct Sorter<'l> {
    lens: &'l mut StreamLens,
    takes_usage: bool,
    takes_role: bool,
    transcript: Option<&'l mut Transcript>,
    ends: Vec<(usize, Option<Fate>)>,
}

impl Transcript {
    fn part(&mut self, part: &Part<'_>) {
        match part {
            Part::Text { channel: Channel::Content, choice: 0, text, .. }
                if self.content.len() < MAX_TEXT =>
            {
                self.content.push_str(&text.decode())
            }
            Part::Text { .. } => self.is_complex = true,
            _ => {}
        }
    }
}

impl Listener for Sorter<'_> {
    fn part(&mut self, part: Part<'_>) {
        if let Some(transcript) = &mut self.transcript {
            transcript.part(&part);
        }
        self.lens.part(part);
    }

    fn event(&mut self, event: &Event) {
        self.lens.event(event);
        let usage = self.takes_usage && event.no_choices && event.kinds.is_usage_only();
        let ours = usage
            || self.takes_role && event.kinds.is_role_only() && !event.kinds.has(Kinds::FINISH);
        self.ends.push((event.end, Some(if ours { Fate::Goes } else { Fate::Stays })));
    }

    fn comment(&mut self, end: usize) {
        self.lens.comment(end);
        self.ends.push((end, None));
    }
}

impl Strip {
    /// For a stream of which usage is taken out, text is kept, or both.
    pub(crate) fn new(takes_usage: bool, keeps_text: bool) -> Self {
        Strip { takes_usage, transcript: keeps_text.then(Transcript::default), ..Strip::default() }
    }

    /// The text that was passed on; `None`: it cannot be resumed.
    pub(crate) fn text(&self) -> Option<&str> {
        let transcript = self.transcript.as_ref().filter(|transcript| !transcript.is_complex)?;
        // Only text already sent to the client counts.
        let sent = self.check.as_ref().map_or(transcript.content.len(), |check| check.text_before);
        transcript.content.get(..sent).filter(|text| !text.is_empty())
    }

    /// The stream broke off, and another backend is to resume it: what was torn is dropped, and the
    /// role is known.
    pub(crate) fn tear(&mut self, lens: &mut StreamLens, out: &mut Out) {
        match self.check.take() {
            Some(check) => self.drop_from(&check, lens),
            // Torn between the two bytes of a line end, of which the client has the first.
            None if self.splitter.is_after_cr() && self.last == Fate::Stays => self.add("\n", out),
            None => {}
        }
        self.drop_torn();
        self.splitter.reset();
        self.takes_role = true;
        self.check = self
            .transcript
            .as_ref()
            .map(|transcript| ResumeCheck::new(transcript.content.len(), self.seen));
    }

    fn drop_torn(&mut self) {
        self.taken_out += self.splitter.take_torn().len() as u64;
    }

    /// Drop everything behind a resume point.
    fn drop_from(&mut self, check: &ResumeCheck, lens: &mut StreamLens) {
        self.taken_out += check.held.payload_queued();
        self.transcript
            .iter_mut()
            .for_each(|transcript| transcript.content.truncate(check.text_before));
        lens.discard_from(check.bytes_before);
        self.drop_torn();
    }

    /// Whether something is held until it is known whether the resuming backend continues.
    pub(crate) fn holds(&self) -> bool {
        self.check.as_ref().is_some_and(|check| !check.held.is_empty())
    }

    /// The backend restarted the answer; none of it was passed on.
    pub(crate) fn resume_failed(&self) -> bool {
        self.resume_failed
    }

    /// Put something of the gateway's own between two events.
    pub(crate) fn add(&mut self, text: &str, out: &mut Out) {
        out.push(text.as_bytes());
        out.commit();
        self.added += text.len() as u64;
    }

    /// Bytes of the backends' that the client is past when it has taken that many of what was
    /// passed on.
    pub(crate) fn read_when_written(&self, written: u64) -> u64 {
        (written + self.taken_out).saturating_sub(self.added)
    }

    /// Pass a run on, without what is ours. Behind a resume point it is held until it is known
    /// whether the answer continues.
    pub(crate) fn pass(
        &mut self,
        run: &[u8],
        reader: &mut Reader,
        (lens, closing): (&mut StreamLens, Option<&mut Closing>),
        out: &mut Out,
    ) {
        if self.resume_failed {
            (self.seen, self.taken_out) =
                (self.seen + run.len() as u64, self.taken_out + run.len() as u64);
            return;
        }
        let Some(mut check) = self.check.take() else {
            return self.pass_on(run, reader, (lens, closing), out);
        };
        self.pass_on(run, reader, (lens, closing), &mut check.held);
        self.verify(check, reader.overflowed(), false, lens, out);
    }

    /// Whether what came behind a resume point continues the answer.
    fn verify(
        &mut self,
        mut check: ResumeCheck,
        overflowed: bool,
        is_all: bool,
        lens: &mut StreamLens,
        out: &mut Out,
    ) {
        let transcript =
            self.transcript.as_ref().filter(|transcript| !transcript.is_complex && !overflowed);
        match transcript
            .map_or(Resumed::Continues, |transcript| check.verdict(&transcript.content, is_all))
        {
            Resumed::Continues => check.release(out),
            Resumed::Restarts => {
                self.resume_failed = true;
                self.drop_from(&check, lens);
            }
            Resumed::Unknown => {
                // As long as there is no text, nothing can come twice.
                if transcript
                    .is_some_and(|transcript| transcript.content.len() == check.text_before)
                {
                    check.release(out);
                }
                self.check = Some(check);
            }
        }
    }

    fn pass_on(
        &mut self,
        run: &[u8],
        reader: &mut Reader,
        (lens, closing): (&mut StreamLens, Option<&mut Closing>),
        out: &mut Out,
    ) {
        lens.at(self.seen);
        self.seen += run.len() as u64;
        let (takes_usage, takes_role) = (self.takes_usage, self.takes_role);
        let mut sorter = Sorter {
            lens,
            takes_usage,
            takes_role,
            transcript: self.transcript.as_mut(),
            ends: Vec::new(),
        };
        match closing {
            Some(closing) => reader.feed(run, &mut ClosingListener { inner: &mut sorter, closing }),
            None => reader.feed(run, &mut sorter),
        }
        let (last, taken_out) = (&mut self.last, &mut self.taken_out);
        self.splitter.split(run, sorter.ends, |piece| match piece {
            Split::LineFeed if *last == Fate::Goes => *taken_out += 1,
            Split::LineFeed => out.push(b"\n"),
            Split::Event(event, Fate::Goes, _) => {
                // Blank lines before an event are no part of it.
                let blank = event.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                out.push(event.get(..blank).unwrap_or_default());
                *taken_out += (event.len() - blank) as u64;
                *last = Fate::Goes;
            }
            Split::Event(bytes, Fate::Stays, _) | Split::Comment(bytes) => {
                out.push(&bytes);
                *last = Fate::Stays;
            }
        });
        if reader.overflowed() {
            out.push(&self.splitter.take_torn());
        }
    }

    /// The stream has ended: what is left of it belongs to the client.
    pub(crate) fn flush(&mut self, lens: &mut StreamLens, out: &mut Out) {
        if let Some(check) = self.check.take() {
            self.verify(check, false, true, lens, out);
        }
        out.push(&self.splitter.take_torn());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Dialect, Framing, ReaderLimits};

    fn pass(pieces: &[&[u8]]) -> Vec<u8> {
        let mut strip = Strip::new(true, false);
        let mut out = Out::default();
        let mut lens = StreamLens::new(true, u64::MAX);
        let mut reader = Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
        for piece in pieces {
            strip.pass(piece, &mut reader, (&mut lens, None), &mut out);
            out.commit();
        }
        strip.flush(&mut lens, &mut out);
        out.commit();
        assert_eq!(lens.usage().and_then(|u| u.completion_tokens), Some(2));
        out.pending().to_vec()
    }

    #[test]
    fn only_the_usage_event_goes_at_any_cut() {
        let token = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}],\"usage\":null}\r\n\r\n";
        let usage = "id: 7\r\n: inside\r\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\r\n: too\r\n\r\n";
        let filter = "data: {\"choices\":[],\"prompt_filter_results\":[]}\r\n\r\n";
        let done = "data: [DONE]\r\n\r\n: tail";
        let stream = format!("{filter}: ping\r\n{token}: pong\r\n\r\n{usage}{done}").into_bytes();
        let want = format!("{filter}: ping\r\n{token}: pong\r\n\r\n{done}").into_bytes();
        assert_eq!(pass(&[&stream]), want);
        for cut in 0..stream.len() {
            let (a, b) = stream.split_at(cut);
            assert_eq!(
                String::from_utf8_lossy(&pass(&[a, b])),
                String::from_utf8_lossy(&want),
                "cut at {cut}"
            );
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(
            String::from_utf8_lossy(&pass(&bytes)),
            String::from_utf8_lossy(&want),
            "byte by byte"
        );
    }

    /// Wherever a stream breaks off: a backend that resumes the kept text makes it whole, to the
    /// letter and with one role.
    #[test]
    fn a_resumed_stream_is_whole_at_every_cut() {
        let event = |delta: &str| {
            format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{{delta}}}}}]}}\r\n\r\n")
        };
        let words =
            ["The sea", " is wide", ", d\u{f6}wn", " and deep", " and", " the sea is", " cold."];
        let stream = |words: &[&str]| {
            let said: String =
                words.iter().map(|word| event(&format!("\"content\":\"{word}\""))).collect();
            format!("{}{said}data: [DONE]\r\n\r\n", event("\"role\":\"assistant\""))
        };
        let whole = stream(&words);
        let content = words.concat();
        for cut in whole.find("The").expect("a word")..whole.len() - "data: [DONE]\r\n\r\n".len() {
            let (mut strip, mut out, mut lens) =
                (Strip::new(false, true), Out::default(), StreamLens::new(true, u64::MAX));
            let reader = || Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
            strip.pass(&whole.as_bytes()[..cut], &mut reader(), (&mut lens, None), &mut out);
            strip.tear(&mut lens, &mut out);
            let text = strip.text().unwrap_or_default().to_owned();
            let known =
                (0..=words.len()).find(|n| words[..*n].concat() == text).expect("whole events");
            let mut second = reader();
            stream(&words[known..])
                .as_bytes()
                .chunks(7)
                .for_each(|run| strip.pass(run, &mut second, (&mut lens, None), &mut out));
            strip.flush(&mut lens, &mut out);
            out.commit();
            assert!(!strip.resume_failed(), "cut at {cut}");
            assert_eq!(strip.text(), Some(&*content), "cut at {cut}");
            assert_eq!(String::from_utf8_lossy(out.pending()), whole, "cut at {cut}");
        }
    }
}
