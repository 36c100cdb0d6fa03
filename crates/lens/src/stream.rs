//! Measures one answer: marks, gaps and counts, on arrival and on write.
//!
//! - *In*: reads (instant and offset), the events that [`wire`] parses from them, and how many
//!   bytes the client has accepted.
//! - *Out*: the stream's part of a [`Record`](crate::Record).
//! - *Never*: an upstream measurement that depends on when the client accepted a byte. The two
//!   sides share only the list of events that are not written yet.

mod engine_error;
pub use engine_error::EngineError;

use std::collections::VecDeque;

use wire::{EngineTimes, Event, EventVisitor, Kinds, Part, Usage};

use crate::Tick;
use crate::counts::Counts;
use crate::event_times::StreamTimes;
use crate::gaps::Gaps;
use crate::tokens::TokenCount;

/// Maximum bytes kept of a model name, an error kind or code, or a finish reason.
const MAX_WORD: usize = 128;
/// Number of choices whose end is tracked.
pub const MAX_CHOICES: u32 = u128::BITS;
/// Maximum stalls whose times are kept; further ones are only counted.
const MAX_STALLS: usize = 16;
/// Maximum finish reasons kept. Those of further choices are dropped.
const MAX_FINISH: usize = 16;

/// An instant on each side of the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// When the bytes were read from upstream.
    pub arrival: Option<Tick>,
    /// When the client's socket accepted the last of them.
    pub written: Option<Tick>,
}

/// Marks of the first occurrences in a stream, and of its last token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// First byte of the answer's head.
    pub first_byte: Mark,
    /// First complete event of any kind.
    pub first_event: Mark,
    /// First event with a role and no generated text.
    pub role: Mark,
    /// First reasoning text.
    pub reasoning: Mark,
    /// First content or refusal text.
    pub content: Mark,
    /// First tool-call name or arguments.
    pub tool_call: Mark,
    /// First event with generated text: the earliest of the last three.
    pub first_token: Mark,
    /// Last event with generated text.
    pub last_token: Mark,
}

/// An event that has not been completely written to the client.
#[derive(Debug)]
struct Unwritten {
    upto: u64,
    kinds: Kinds,
    first: bool,
}

/// Measurements of one answer.
#[derive(Debug)]
pub struct StreamLens {
    streamed: bool,
    stall_ns: u64,
    now: Tick,
    /// Offset in the body of the piece that is being parsed.
    base: u64,
    tokens_this_read: u64,
    unwritten: VecDeque<Unwritten>,
    first_event_tokens: Option<u64>,
    marks: Marks,
    counts: Counts,
    itl: Gaps,
    client_itl: Gaps,
    times: StreamTimes,
    tokens: TokenCount,
    engine_times: EngineTimes,
    model: Option<String>,
    finish: Vec<String>,
    error: Option<EngineError>,
    end: Option<&'static str>,
    /// Number of choices that have ended.
    finished_choices: u32,
    /// Which of the first [`MAX_CHOICES`] choices have ended, one bit each.
    ended: u128,
    /// Counts at the last resume.
    counts_at_resume: Counts,
    /// End and nanoseconds of the first stalls.
    stalls: Vec<(Tick, u64)>,
}

impl StreamLens {
    /// Start measuring an answer. `streamed`: whether its events are timed. Gaps longer than
    /// `stall_ns` count as stalls.
    pub fn new(streamed: bool, stall_ns: u64) -> Self {
        StreamLens {
            streamed,
            stall_ns,
            now: Tick(0),
            base: 0,
            tokens_this_read: 0,
            unwritten: VecDeque::new(),
            first_event_tokens: None,
            marks: Marks::default(),
            counts: Counts::default(),
            itl: Gaps::default(),
            client_itl: Gaps::default(),
            times: StreamTimes::default(),
            tokens: TokenCount::default(),
            engine_times: EngineTimes::default(),
            model: None,
            finish: Vec::new(),
            error: None,
            end: None,
            finished_choices: 0,
            ended: 0,
            counts_at_resume: Counts::default(),
            stalls: Vec::new(),
        }
    }

    /// The request permits the engine so many tokens, all choices together.
    pub fn limit_tokens(&mut self, most: Option<u64>) {
        self.tokens.limit(most);
    }

    /// The first byte of the answer was read.
    pub fn first_byte(&mut self, now: Tick) {
        self.marks.first_byte.arrival.get_or_insert(now);
    }

    /// So many comment lines were sent to the client ahead of the answer.
    pub fn add_comments(&mut self, lines: u64) {
        self.counts.comments += lines;
    }

    /// A read returned bytes at `now`. After this, for each piece of its payload, call
    /// [`at`](Self::at) and feed the piece to the reader with `self` as listener.
    #[inline]
    pub fn begin_read(&mut self, now: Tick) {
        self.now = now;
        self.tokens_this_read = 0;
    }

    /// The next piece starts at offset `base` of the answer's body.
    #[inline]
    pub fn at(&mut self, base: u64) {
        self.base = base;
    }

    /// The client has accepted all bytes of the body before `upto`.
    #[inline]
    pub fn written(&mut self, upto: u64, now: Tick) {
        self.marks.first_byte.written.get_or_insert(now);
        while self.unwritten.front().is_some_and(|u| u.upto <= upto) {
            let Some(event) = self.unwritten.pop_front() else { break };
            self.mark_written(&event, now);
        }
    }

    /// The marks so far.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The marks at the end of the answer. If a token event was never written, `last_token.written`
    /// is `None`, even if earlier token events were written.
    pub fn final_marks(&self) -> Marks {
        let mut marks = self.marks;
        if self.unwritten.iter().any(|event| event.kinds.is_token()) {
            marks.last_token.written = None;
        }
        marks
    }

    /// The counts so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// End and duration, in nanoseconds, of the first stalls.
    pub fn stalls(&self) -> &[(Tick, u64)] {
        &self.stalls
    }

    /// Gaps on arrival.
    pub fn itl(&mut self) -> &mut Gaps {
        &mut self.itl
    }

    /// Gaps on write.
    pub fn client_itl(&mut self) -> &mut Gaps {
        &mut self.client_itl
    }

    /// Take the times of the token events of a request whose head was read at `start`; `None`
    /// without such events.
    pub fn take_times(&mut self, start: Tick) -> Option<Box<StreamTimes>> {
        self.marks.first_token.arrival?;
        Some(Box::new(StreamTimes { start, ..std::mem::take(&mut self.times) }))
    }

    /// Take the gaps recorded since the last call: arrival, then write.
    pub fn drain_gaps(
        &mut self,
    ) -> (impl ExactSizeIterator<Item = u64> + '_, impl ExactSizeIterator<Item = u64> + '_) {
        (self.itl.drain(), self.client_itl.drain())
    }

    /// Whether a batch of gaps must be flushed to the series.
    #[inline]
    pub fn needs_flush(&self) -> bool {
        self.itl.is_full() || self.client_itl.is_full()
    }

    /// Usage as reported by the engine. After a resume, its prompt is that of the client's request;
    /// the generated tokens are those of the last engine.
    pub fn usage(&self) -> Option<Usage> {
        self.tokens.usage()
    }

    /// Durations as reported by the engine.
    pub fn engine_times(&self) -> EngineTimes {
        self.engine_times
    }

    /// Prompt tokens of the client's request, and whether the number is an estimate.
    pub fn prompt_tokens(&self) -> (Option<u64>, bool) {
        self.tokens.prompt_tokens()
    }

    /// The model that answered.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Finish reasons in order of arrival.
    pub fn finish_reasons(&self) -> &[String] {
        &self.finish
    }

    /// The error that the engine reported, if any.
    pub fn error(&self) -> Option<&EngineError> {
        self.error.as_ref()
    }

    /// The dialect's end marker, if it arrived.
    pub fn end(&self) -> Option<&'static str> {
        self.end
    }

    /// Whether the answer is marked as complete: an end marker, or a finish reason for each of
    /// `choices` choices.
    pub fn is_complete(&self, choices: u32) -> bool {
        self.end.is_some() || self.finished_choices >= choices.max(1)
    }

    /// Another backend resumes the answer of a failed one. The usage it reports covers only its own
    /// part, and the error and the end that the failed one reported do not count.
    pub fn resume_point(&mut self) {
        self.tokens.resume(&self.counts);
        (self.error, self.end) = (None, None);
        self.counts_at_resume = self.counts;
    }

    /// Discard everything that the resuming backend generated from byte `from` of the body on. Its
    /// tokens do not count, and the answer has not ended there.
    pub fn discard_from(&mut self, from: u64) {
        let before = self.counts_at_resume;
        self.counts.content_events = before.content_events;
        (self.counts.text_bytes, self.counts.text_chars) = (before.text_bytes, before.text_chars);
        self.unwritten.retain(|event| event.upto <= from);
        self.tokens.discard();
        (self.end, self.finished_choices, self.ended) = (None, 0, 0);
        self.finish.clear();
    }

    /// Whether a choice has ended; unknown beyond [`MAX_CHOICES`].
    pub fn has_ended(&self, choice: u32) -> bool {
        self.ended & 1u128.checked_shl(choice).unwrap_or(0) != 0
    }

    /// Generated tokens, and whether the number is an estimate.
    pub fn completion_tokens(&self) -> (Option<u64>, bool) {
        self.tokens.generated(&self.counts)
    }

    /// Generated tokens of an answer that has not ended.
    pub fn tokens_so_far(&self) -> u64 {
        self.tokens.generated_so_far(&self.counts)
    }

    /// Time per output token after the first event, in microseconds: (last token event - first
    /// token event) / (tokens - tokens in the first event).
    ///
    /// `None` if it cannot be computed: fewer than two token events, all of them in one read, or no
    /// more tokens than the first event had. Reasoning tokens that were billed but not sent precede
    /// the first event and are excluded. If the engine counts reasoning in addition to its output
    /// tokens, reasoning that was sent is added, and nothing is excluded.
    pub fn tpot_us(&self) -> Option<f64> {
        let (first, last) = (self.marks.first_token.arrival?, self.marks.last_token.arrival?);
        let span = last.nanos_since(first);
        let (tokens, _) = self.completion_tokens();
        let usage = self.tokens.reported().unwrap_or_default();
        let was_sent = self.marks.reasoning.arrival.is_some();
        let timed = match (was_sent, usage.separate_reasoning()) {
            (true, Some(separate)) => tokens?.saturating_add(separate),
            (true, None) | (false, Some(_)) => tokens?,
            (false, None) => tokens?.checked_sub(usage.reasoning_tokens.unwrap_or(0))?,
        };
        let in_first = self.first_event_tokens.unwrap_or(1).max(1);
        let after = timed.checked_sub(in_first)?;
        (span > 0 && after > 0).then(|| span as f64 / 1000.0 / after as f64)
    }

    #[inline]
    fn token_arrived(&mut self, event: &Event) {
        let now = self.now;
        self.times.arrival.add(now);
        self.counts.content_events += 1;
        self.tokens_this_read += 1;
        self.counts.coalesced += u64::from(self.tokens_this_read > 1);
        match self.marks.last_token.arrival {
            Some(last) => {
                let gap = now.nanos_since(last);
                self.itl.add(gap / 1000);
                if gap > self.stall_ns {
                    self.counts.stalls += 1;
                    if self.stalls.len() < MAX_STALLS {
                        self.stalls.push((now, gap));
                    }
                }
            }
            None => {
                self.marks.first_token.arrival = Some(now);
                self.first_event_tokens = event.tokens_so_far;
            }
        }
        self.marks.last_token.arrival = Some(now);
        let first_of = |mark: &mut Mark, kind| {
            if event.kinds.has(kind) {
                mark.arrival.get_or_insert(now);
            }
        };
        first_of(&mut self.marks.reasoning, Kinds::REASONING);
        first_of(&mut self.marks.content, Kinds::CONTENT);
        first_of(&mut self.marks.tool_call, Kinds::TOOL_CALL);
    }

    fn mark_written(&mut self, event: &Unwritten, now: Tick) {
        let kinds = event.kinds;
        if event.first {
            self.marks.first_event.written = Some(now);
        }
        if kinds.is_role_only() {
            self.marks.role.written.get_or_insert(now);
        }
        if !kinds.is_token() {
            return;
        }
        self.times.written.add(now);
        match self.marks.last_token.written {
            Some(last) => self.client_itl.add(now.micros_since(last)),
            None => self.marks.first_token.written = Some(now),
        }
        self.marks.last_token.written = Some(now);
        let first_of = |mark: &mut Mark, kind| {
            if kinds.has(kind) {
                mark.written.get_or_insert(now);
            }
        };
        first_of(&mut self.marks.reasoning, Kinds::REASONING);
        first_of(&mut self.marks.content, Kinds::CONTENT);
        first_of(&mut self.marks.tool_call, Kinds::TOOL_CALL);
    }
}

impl EventVisitor for StreamLens {
    #[inline]
    fn part(&mut self, part: Part<'_>) {
        match part {
            Part::Role | Part::Text { .. } => {}
            Part::Usage(usage) => self.tokens.add(usage),
            Part::Times(times) => self.engine_times.update(times),
            Part::Model(model) => {
                if self.model.is_none() {
                    self.model = Some(word(&model));
                }
            }
            Part::Finish { choice, reason } => {
                // A choice that failed is not complete (OpenRouter).
                if reason.raw() != b"error" {
                    self.finished_choices += 1;
                    self.ended |= 1u128.checked_shl(choice).unwrap_or(0);
                }
                if self.finish.len() < MAX_FINISH {
                    self.finish.push(word(&reason));
                }
            }
            Part::Error { kind, code, .. } => {
                self.error = Some(EngineError {
                    kind: kind.as_ref().map(word),
                    code: code.as_ref().map(word),
                });
            }
            Part::End(marker) => self.end = Some(marker),
        }
    }

    #[inline]
    fn event(&mut self, event: &Event) {
        let first = self.counts.events == 0;
        self.counts.events += 1;
        self.counts.text_bytes += event.text_bytes as u64;
        self.counts.text_chars += event.text_chars as u64;
        self.counts.not_understood += u64::from(!event.understood);
        if !self.streamed {
            return;
        }
        if first {
            self.marks.first_event.arrival = Some(self.now);
        }
        let role = event.kinds.is_role_only() && self.marks.role.arrival.is_none();
        if role {
            self.marks.role.arrival = Some(self.now);
        }
        let token = event.kinds.is_token();
        if token {
            self.token_arrived(event);
        }
        if token || first || role {
            self.unwritten.push_back(Unwritten {
                upto: self.base + event.end as u64,
                kinds: event.kinds,
                first,
            });
        }
    }

    fn comment(&mut self, _end: usize) {
        self.counts.comments += 1;
    }
}

/// A text from the engine, decoded and truncated to [`MAX_WORD`] bytes.
fn word(text: &wire::json::Text<'_>) -> String {
    let text = text.decode();
    let mut end = text.len().min(MAX_WORD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
