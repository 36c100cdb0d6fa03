//! Removes events that the client must not get: usage that only the gateway requested, and the role
//! event that a resuming backend repeats. Its usage is replaced by that of the whole answer.
//! Records the text, if another backend may have to resume.
//!
//! - *In*: runs of an event stream.
//! - *Out*: the same bytes without these events, and with the usage of the whole answer.
//! - *Never*: a change of any other byte. An event torn between two reads is held until it is
//!   complete, because its kind is unknown until then. Only routes that use these features have
//!   this cost.

use lens::StreamLens;
use transport::StreamBuffer;
use wire::event::{Channel, Kinds};
use wire::rewrite::{self, AnswerUsage};
use wire::{Event, EventVisitor, Framing, Part, Reader, Split, Splitter};

use crate::closing::{Closing, ClosingListener};
use crate::resume::{ResumeCheck, Resumed};

/// State between two runs.
#[derive(Debug, Default)]
pub(crate) struct Strip {
    splitter: Splitter,
    /// Fate of the last event or comment. The LF of its CRLF has the same fate.
    last: Fate,
    taken_out: u64,
    added: u64,
    /// Body bytes received before the current run.
    seen: u64,
    /// Usage events are removed.
    takes_usage: bool,
    /// An earlier engine began the answer: role events are removed, and usage is that of all
    /// engines.
    is_resumed: bool,
    transcript: Option<Transcript>,
    /// Pending check of whether the resuming backend continues the answer.
    check: Option<ResumeCheck>,
    resume_failed: bool,
    /// The engine's error event and what followed it.
    failed: Option<Vec<u8>>,
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

/// What happens to an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    /// It is forwarded.
    #[default]
    Stays,
    /// It is forwarded, with this usage in place of its own.
    Recounted(AnswerUsage),
    /// It is removed.
    Goes,
    /// It reports that the engine has failed. It is held with all that follows, because another
    /// backend may resume the stream.
    Fails,
}

/// Listens to a run, and records where each event ends and what happens to it.
struct Sorter<'l> {
    lens: &'l mut StreamLens,
    takes_usage: bool,
    is_resumed: bool,
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

impl EventVisitor for Sorter<'_> {
    fn part(&mut self, part: Part<'_>) {
        if let Some(transcript) = &mut self.transcript {
            transcript.part(&part);
        }
        self.lens.part(part);
    }

    fn event(&mut self, event: &Event) {
        self.lens.event(event);
        let usage = self.takes_usage && event.no_choices && event.kinds.is_usage_only();
        let role = self.is_resumed && event.kinds.is_role_only() && !event.kinds.has(Kinds::FINISH);
        let fate = match () {
            () if usage || role => Fate::Goes,
            () if event.kinds.has(Kinds::ERROR) && self.is_failure() => Fate::Fails,
            () if self.is_resumed && event.kinds.has(Kinds::USAGE) => {
                Fate::Recounted(self.usage_so_far())
            }
            () => Fate::Stays,
        };
        self.ends.push((event.end, Some(fate)));
    }

    fn comment(&mut self, end: usize) {
        self.lens.comment(end);
        self.ends.push((end, None));
    }
}

impl Sorter<'_> {
    /// Usage of the answer so far, of all engines.
    fn usage_so_far(&self) -> AnswerUsage {
        AnswerUsage {
            prompt_tokens: self.lens.prompt_tokens().0,
            completion_tokens: self.lens.completion_tokens().0.unwrap_or(0),
        }
    }

    /// Whether the error that was just read is a failure that another backend can mend: the stream
    /// may be resumed, was not complete, and the request is not at fault.
    fn is_failure(&self) -> bool {
        self.transcript.is_some()
            && !self.lens.is_complete(1)
            && self.lens.error().is_some_and(|error| error.status() >= 500)
    }
}

impl Strip {
    /// For a stream whose usage is removed, whose text is recorded, or both. `seen`: bytes of the
    /// body that were sent before.
    pub(crate) fn new(takes_usage: bool, keeps_text: bool, seen: u64) -> Self {
        let transcript = keeps_text.then(Transcript::default);
        Strip { takes_usage, transcript, seen, ..Strip::default() }
    }

    /// The forwarded text; `None`: the stream cannot be resumed.
    pub(crate) fn text(&self) -> Option<&str> {
        let transcript = self.transcript.as_ref().filter(|transcript| !transcript.is_complex)?;
        // Only text already sent to the client counts.
        let sent = self.check.as_ref().map_or(transcript.content.len(), |check| check.text_before);
        transcript.content.get(..sent).filter(|text| !text.is_empty())
    }

    /// Prepare for another backend to resume the stream: drop a torn event, and remove later role
    /// events.
    pub(crate) fn tear(&mut self, lens: &mut StreamLens, out: &mut StreamBuffer) {
        self.taken_out += self.failed.take().map_or(0, |held| held.len() as u64);
        match self.check.take() {
            Some(check) => self.drop_from(&check, lens),
            // Torn inside a CRLF whose CR was sent to the client.
            None if self.splitter.is_after_cr() && self.last == Fate::Stays => self.add("\n", out),
            None => {}
        }
        self.drop_torn();
        self.splitter.reset();
        self.is_resumed = true;
        self.check = self
            .transcript
            .as_ref()
            .map(|transcript| ResumeCheck::new(transcript.content.len(), self.seen));
    }

    fn drop_torn(&mut self) {
        self.taken_out += self.splitter.take_torn().len() as u64;
    }

    /// Drop everything after a resume point.
    fn drop_from(&mut self, check: &ResumeCheck, lens: &mut StreamLens) {
        self.taken_out += check.held.payload_queued();
        self.transcript
            .iter_mut()
            .for_each(|transcript| transcript.content.truncate(check.text_before));
        lens.discard_from(check.bytes_before);
        self.drop_torn();
    }

    /// Whether bytes are held: for the resume check, or after the engine's error.
    pub(crate) fn holds(&self) -> bool {
        self.has_failed() || self.check.as_ref().is_some_and(|check| !check.held.is_empty())
    }

    /// Whether the engine reported a failure, which is held.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// No other backend resumes the stream: forward the engine's error.
    pub(crate) fn release_failure(&mut self, out: &mut StreamBuffer) {
        out.push(&self.failed.take().unwrap_or_default());
        // The next error is forwarded like any other event.
        self.transcript = None;
    }

    /// Whether the backend restarted the answer. Nothing of the restart was forwarded.
    pub(crate) fn resume_failed(&self) -> bool {
        self.resume_failed
    }

    /// Queue bytes of the gateway between two events.
    pub(crate) fn add(&mut self, text: &str, out: &mut StreamBuffer) {
        out.push(text.as_bytes());
        out.commit();
        self.added += text.len() as u64;
    }

    /// Converts the number of bytes written to the client into the number of bytes received from
    /// the backends.
    pub(crate) fn read_when_written(&self, written: u64) -> u64 {
        (written + self.taken_out).saturating_sub(self.added)
    }

    /// Forward a run without the removed events. After a resume point, it is held until the resume
    /// check has a verdict.
    pub(crate) fn pass(
        &mut self,
        run: &[u8],
        reader: &mut Reader,
        (lens, closing): (&mut StreamLens, Option<&mut Closing>),
        out: &mut StreamBuffer,
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

    /// Check whether the text after a resume point continues the answer.
    fn verify(
        &mut self,
        mut check: ResumeCheck,
        overflowed: bool,
        is_all: bool,
        lens: &mut StreamLens,
        out: &mut StreamBuffer,
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
                // Without new text, nothing can be sent twice.
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
        out: &mut StreamBuffer,
    ) {
        lens.at(self.seen);
        self.seen += run.len() as u64;
        let mut sorter = Sorter {
            lens,
            takes_usage: self.takes_usage,
            is_resumed: self.is_resumed,
            transcript: self.transcript.as_mut(),
            ends: Vec::new(),
        };
        match closing {
            Some(closing) => reader.feed(run, &mut ClosingListener { inner: &mut sorter, closing }),
            None => reader.feed(run, &mut sorter),
        }
        let (last, failed) = (&mut self.last, &mut self.failed);
        let (taken_out, added) = (&mut self.taken_out, &mut self.added);
        self.splitter.split(run, sorter.ends, |piece| match (piece, &mut *failed) {
            (Split::LineFeed, Some(held)) => held.push(b'\n'),
            (Split::Event(bytes, ..) | Split::Comment(bytes), Some(held)) => {
                held.extend_from_slice(&bytes)
            }
            (Split::Event(bytes, Fate::Fails, _), none) => *none = Some(bytes.into_owned()),
            (Split::LineFeed, None) if *last == Fate::Goes => *taken_out += 1,
            (Split::LineFeed, None) => out.push(b"\n"),
            (Split::Event(event, Fate::Goes, _), None) => {
                // Blank lines before an event are not part of it.
                let blank = event.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                out.push(event.get(..blank).unwrap_or_default());
                *taken_out += (event.len() - blank) as u64;
                *last = Fate::Goes;
            }
            (Split::Event(bytes, Fate::Recounted(usage), _), None) => {
                let recounted = rewrite::set_usage(Framing::Sse, &bytes, usage);
                *taken_out += bytes.len() as u64;
                *added += recounted.len() as u64;
                out.push(&recounted);
                *last = Fate::Stays;
            }
            (Split::Event(bytes, Fate::Stays, _) | Split::Comment(bytes), None) => {
                out.push(&bytes);
                *last = Fate::Stays;
            }
        });
        if reader.is_skipping() {
            out.push(&self.splitter.take_torn());
        }
    }

    /// The stream has ended: forward the whole events that are held.
    pub(crate) fn flush(&mut self, lens: &mut StreamLens, out: &mut StreamBuffer) {
        if let Some(check) = self.check.take() {
            self.verify(check, false, true, lens, out);
        }
    }

    /// The stream is complete: forward what is left.
    pub(crate) fn flush_all(&mut self, lens: &mut StreamLens, out: &mut StreamBuffer) {
        self.flush(lens, out);
        out.push(&self.splitter.take_torn());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Dialect, ReaderLimits};

    fn pass(pieces: &[&[u8]]) -> Vec<u8> {
        let mut strip = Strip::new(true, false, 0);
        let mut out = StreamBuffer::default();
        let mut lens = StreamLens::new(true, u64::MAX);
        let mut reader = Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
        for piece in pieces {
            strip.pass(piece, &mut reader, (&mut lens, None), &mut out);
            out.commit();
        }
        strip.flush_all(&mut lens, &mut out);
        out.commit();
        assert_eq!(lens.usage().and_then(|u| u.completion_tokens), Some(2));
        out.pending().to_vec()
    }

    #[test]
    fn usage_event_is_removed_at_every_cut() {
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

    /// Wherever a stream breaks off, a backend that resumes the recorded text completes it byte for
    /// byte, with one role event and the usage of the whole answer.
    #[test]
    fn resumed_stream_is_complete_at_every_cut() {
        let event = |delta: &str| {
            format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{{delta}}}}}]}}\r\n\r\n")
        };
        let words =
            ["The sea", " is wide", ", d\u{f6}wn", " and deep", " and", " the sea is", " cold."];
        const PROMPT: usize = 9;
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":";
        let stream = |words: &[&str], prompt: usize| {
            let said: String =
                words.iter().map(|word| event(&format!("\"content\":\"{word}\""))).collect();
            let tokens = words.len();
            format!(
                "{}{said}{usage}{prompt},\"completion_tokens\":{tokens}}}}}\r\n\r\ndata: [DONE]\r\n\r\n",
                event("\"role\":\"assistant\"")
            )
        };
        let whole = stream(&words, PROMPT);
        let content = words.concat();
        for cut in whole.find("The").expect("a word")..=whole.find(usage).expect("usage") {
            let (mut strip, mut out, mut lens) = (
                Strip::new(false, true, 0),
                StreamBuffer::default(),
                StreamLens::new(true, u64::MAX),
            );
            let reader = || Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
            strip.pass(&whole.as_bytes()[..cut], &mut reader(), (&mut lens, None), &mut out);
            strip.tear(&mut lens, &mut out);
            lens.resume_point();
            let text = strip.text().unwrap_or_default().to_owned();
            let known =
                (0..=words.len()).find(|n| words[..*n].concat() == text).expect("whole events");
            let mut second = reader();
            // The text so far is part of the second prompt.
            stream(&words[known..], PROMPT + known)
                .as_bytes()
                .chunks(7)
                .for_each(|run| strip.pass(run, &mut second, (&mut lens, None), &mut out));
            strip.flush_all(&mut lens, &mut out);
            out.commit();
            assert!(!strip.resume_failed(), "cut at {cut}");
            assert_eq!(strip.text(), Some(&*content), "cut at {cut}");
            assert_eq!(String::from_utf8_lossy(out.pending()), whole, "cut at {cut}");
        }
    }
}
