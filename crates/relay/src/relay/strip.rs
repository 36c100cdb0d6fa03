//! Takes events out that are not the client's: usage that we asked for and he did not, and the role that a second engine says again where the first
//! has died. Notes what was said, where a second one may have to go on with it.
//!
//! - *In*: runs of an event stream.
//! - *Out*: the same bytes without these events.
//! - *Never*: a change of any other byte. An event that a read tore apart is kept back until its rest is there, because only
//!   then is it known whose it is, and whether it is whole; that is the price, and only routes that want either pay it.

use lens::StreamLens;
use wire::event::{Channel, Kinds};
use wire::{Event, Listener, Part, Reader};

use super::seam::{Behind, Seam};
use crate::downstream::out::Out;

/// The state between two runs.
#[derive(Debug, Default)]
pub(crate) struct Strip {
    /// The beginning of an event that is not complete.
    held: Vec<u8>,
    taken_out: u64,
    added: u64,
    /// The run before ended in the CR that ended an event, which went or stayed: an LF that begins this run goes the same way.
    after_cr: Option<Fate>,
    /// Body bytes before the run, as the backend sent them.
    seen: u64,
    /// Usage is taken out.
    takes_usage: bool,
    /// Roles are taken out: an engine before this one has said one.
    takes_role: bool,
    notes: Option<Notes>,
    /// It is not known yet what the one who goes on does.
    seam: Option<Seam>,
    begins_anew: bool,
}

/// What was said so far.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) content: String,
    /// More than one choice, reasoning, tools, or more than [`MOST`]: nobody can go on with that.
    pub(crate) is_odd: bool,
}

/// Most bytes that are noted.
const MOST: usize = 1 << 20;

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It belongs to the client.
    Stays,
    /// It is the answer to our asking.
    Goes,
    /// It is a comment: between two events it stays, inside of one it shares that one's fate.
    Comment,
}

/// Where events end in a run, and what becomes of each.
struct Cuts<'l> {
    lens: &'l mut StreamLens,
    takes_usage: bool,
    takes_role: bool,
    notes: Option<&'l mut Notes>,
    ends: Vec<(usize, Fate)>,
}

impl Notes {
    fn hear(&mut self, part: &Part<'_>) {
        match part {
            Part::Text { channel: Channel::Content, choice: 0, text, .. } if self.content.len() < MOST => {
                self.content.push_str(&text.decode())
            }
            Part::Text { .. } => self.is_odd = true,
            _ => {}
        }
    }
}

impl Listener for Cuts<'_> {
    fn part(&mut self, part: Part<'_>) {
        if let Some(notes) = &mut self.notes {
            notes.hear(&part);
        }
        self.lens.part(part);
    }

    fn event(&mut self, event: &Event) {
        self.lens.event(event);
        let usage = self.takes_usage && event.no_choices && event.kinds.is_usage_only();
        let ours = usage || self.takes_role && event.kinds.is_role_only() && !event.kinds.has(Kinds::FINISH);
        self.ends.push((event.end, if ours { Fate::Goes } else { Fate::Stays }));
    }

    fn comment(&mut self, end: usize) {
        self.lens.comment(end);
        self.ends.push((end, Fate::Comment));
    }
}

impl Strip {
    /// For a stream in which usage that we asked for is taken out, what is said is noted, or both.
    pub(super) fn new(takes_usage: bool, notes: bool) -> Self {
        Strip { takes_usage, notes: notes.then(Notes::default), ..Strip::default() }
    }

    /// What was said so far, and heard; `None`: nobody can go on with it.
    pub(crate) fn said(&self) -> Option<&str> {
        let notes = self.notes.as_ref().filter(|notes| !notes.is_odd)?;
        // What nobody has heard was not said.
        let heard = self.seam.as_ref().map_or(notes.content.len(), |seam| seam.at);
        notes.content.get(..heard).filter(|said| !said.is_empty())
    }

    /// The stream broke off, and another one is to go on with it: what was torn is nobody's, and who is the assistant is known.
    pub(super) fn tear(&mut self, lens: &mut StreamLens, out: &mut Out) {
        match self.seam.take() {
            Some(seam) => self.forget(&seam, lens),
            // Torn between the two bytes of a line's end, of which the client has the first.
            None if self.after_cr.is_some_and(|fate| fate != Fate::Goes) => self.add("\n", out),
            None => {}
        }
        self.forget_held();
        (self.after_cr, self.takes_role) = (None, true);
        self.seam = self.notes.as_ref().map(|notes| Seam::new(notes.content.len(), self.seen));
    }

    fn forget_held(&mut self) {
        self.taken_out += self.held.len() as u64;
        self.held.clear();
    }

    /// Nobody hears what came behind a seam.
    fn forget(&mut self, seam: &Seam, lens: &mut StreamLens) {
        self.taken_out += seam.kept.payload_queued();
        self.notes.iter_mut().for_each(|notes| notes.content.truncate(seam.at));
        lens.unheard(seam.from);
        self.forget_held();
    }

    /// Whether something is kept until it is known what the one behind the seam does.
    pub(super) fn keeps(&self) -> bool {
        self.seam.as_ref().is_some_and(|seam| !seam.kept.is_empty())
    }

    /// The one who was to go on has begun anew: nothing of that was passed on.
    pub(super) fn begins_anew(&self) -> bool {
        self.begins_anew
    }

    /// Say something of ours between two events.
    pub(super) fn add(&mut self, said: &str, out: &mut Out) {
        out.push(said.as_bytes());
        out.commit();
        self.added += said.len() as u64;
    }

    /// Bytes of the backends' that the client is past when it has taken that many of what was passed on.
    pub(super) fn read_when_written(&self, written: u64) -> u64 {
        (written + self.taken_out).saturating_sub(self.added)
    }

    /// Pass a run on, without what is ours. Behind a seam it waits until it is known whether the answer goes on.
    pub(super) fn pass(&mut self, run: &[u8], reader: &mut Reader, lens: &mut StreamLens, out: &mut Out) {
        if self.begins_anew {
            (self.seen, self.taken_out) = (self.seen + run.len() as u64, self.taken_out + run.len() as u64);
            return;
        }
        let Some(mut seam) = self.seam.take() else { return self.pass_on(run, reader, lens, out) };
        self.pass_on(run, reader, lens, &mut seam.kept);
        self.judge(seam, reader.overflowed(), false, lens, out);
    }

    /// Whether what came behind a seam goes on with the answer.
    fn judge(&mut self, mut seam: Seam, overflowed: bool, is_all: bool, lens: &mut StreamLens, out: &mut Out) {
        let told = self.notes.as_ref().filter(|notes| !notes.is_odd && !overflowed);
        match told.map_or(Behind::GoesOn, |notes| seam.behind(&notes.content, is_all)) {
            Behind::GoesOn => seam.release(out),
            Behind::BeginsAnew => {
                self.begins_anew = true;
                self.forget(&seam, lens);
            }
            Behind::Unknown => {
                // As long as there is no text, there is nothing that could be said twice.
                if told.is_some_and(|notes| notes.content.len() == seam.at) {
                    seam.release(out);
                }
                self.seam = Some(seam);
            }
        }
    }

    fn pass_on(&mut self, run: &[u8], reader: &mut Reader, lens: &mut StreamLens, out: &mut Out) {
        lens.at(self.seen);
        self.seen += run.len() as u64;
        let (takes_usage, takes_role) = (self.takes_usage, self.takes_role);
        let mut cuts = Cuts { lens, takes_usage, takes_role, notes: self.notes.as_mut(), ends: Vec::new() };
        reader.feed(run, &mut cuts);
        let mut at = 0;
        if let Some(fate) = self.after_cr.take_if(|_| !run.is_empty()) {
            at = usize::from(run.starts_with(b"\n"));
            match fate {
                Fate::Goes => self.taken_out += at as u64,
                Fate::Stays | Fate::Comment => out.push(run.get(..at).unwrap_or_default()),
            }
        }
        for (end, fate) in cuts.ends {
            let piece = run.get(at..end).unwrap_or_default();
            if fate == Fate::Comment && !self.is_comment(piece) {
                continue;
            }
            self.settle(fate, piece, out);
            at = end.max(at);
            self.after_cr = (end == run.len() && run.ends_with(b"\r")).then_some(fate);
        }
        let rest = run.get(at..).unwrap_or_default();
        if reader.overflowed() {
            out.push(&self.held);
            self.held.clear();
            out.push(rest);
        } else {
            self.held.extend_from_slice(rest);
        }
    }

    /// Whether what was held and `piece` hold no field of an event, only blank lines and a comment.
    fn is_comment(&self, piece: &[u8]) -> bool {
        self.held.iter().chain(piece).find(|byte| !is_line_end(byte)) == Some(&b':')
    }

    /// What was held and `piece` belong together. Blank lines before an event are no part of it.
    fn settle(&mut self, fate: Fate, piece: &[u8], out: &mut Out) {
        match fate {
            Fate::Goes => {
                self.held.extend_from_slice(piece);
                let blank = self.held.iter().take_while(|byte| is_line_end(byte)).count();
                out.push(self.held.get(..blank).unwrap_or_default());
                self.taken_out += (self.held.len() - blank) as u64;
            }
            Fate::Stays | Fate::Comment => {
                out.push(&self.held);
                out.push(piece);
            }
        }
        self.held.clear();
    }

    /// The stream has ended: what is left of it belongs to the client.
    pub(super) fn flush(&mut self, lens: &mut StreamLens, out: &mut Out) {
        if let Some(seam) = self.seam.take() {
            self.judge(seam, false, true, lens, out);
        }
        out.push(&self.held);
        self.held = Vec::new();
    }
}

fn is_line_end(byte: &u8) -> bool {
    matches!(byte, b'\r' | b'\n')
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
            strip.pass(piece, &mut reader, &mut lens, &mut out);
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
            assert_eq!(String::from_utf8_lossy(&pass(&[a, b])), String::from_utf8_lossy(&want), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(String::from_utf8_lossy(&pass(&bytes)), String::from_utf8_lossy(&want), "byte by byte");
    }

    /// Wherever a stream breaks off: what goes on with what was noted makes it whole, to the letter and with one role.
    #[test]
    fn what_was_torn_goes_on_without_a_letter_lost_or_said_twice() {
        let event = |delta: &str| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{{delta}}}}}]}}\r\n\r\n");
        let words = ["The sea", " is wide", ", d\u{f6}wn", " and deep", " and", " the sea is", " cold."];
        let stream = |words: &[&str]| {
            let said: String = words.iter().map(|word| event(&format!("\"content\":\"{word}\""))).collect();
            format!("{}{said}data: [DONE]\r\n\r\n", event("\"role\":\"assistant\""))
        };
        let whole = stream(&words);
        let content = words.concat();
        for cut in whole.find("The").expect("a word")..whole.len() - "data: [DONE]\r\n\r\n".len() {
            let (mut strip, mut out, mut lens) = (Strip::new(false, true), Out::default(), StreamLens::new(true, u64::MAX));
            let reader = || Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
            strip.pass(&whole.as_bytes()[..cut], &mut reader(), &mut lens, &mut out);
            strip.tear(&mut lens, &mut out);
            let said = strip.said().unwrap_or_default().to_owned();
            let known = (0..=words.len()).find(|n| words[..*n].concat() == said).expect("whole events");
            let mut second = reader();
            stream(&words[known..]).as_bytes().chunks(7).for_each(|run| strip.pass(run, &mut second, &mut lens, &mut out));
            strip.flush(&mut lens, &mut out);
            out.commit();
            assert!(!strip.begins_anew(), "cut at {cut}");
            assert_eq!(strip.said(), Some(&*content), "cut at {cut}");
            assert_eq!(String::from_utf8_lossy(out.pending()), whole, "cut at {cut}");
        }
    }
}
