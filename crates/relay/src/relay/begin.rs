//! How an answer starts: forwarded at once, held until the guardrail decides it, behind comments
//! that were sent ahead, or resumed where another backend broke off.
//!
//! - *In*: the head of an answer, and the body bytes that arrived with it.
//! - *Out*: the reader, guardrail, strip and closing state for the body; the head for the client,
//!   or an [`End`] that lets another backend answer.
//! - *Never*: an event written to the client while another backend may still be tried; a head
//!   only with comments, see `keep_alive.rs`.

use std::task::Context as TaskContext;

use lens::{State, StreamLens, Tick};
use transport::{AnswerHead, Gone, Sink, Source, buffer, clock};
use wire::{Framing, Reader};

use super::{End, Phase, Relay, Step};
use crate::closing::Closing;
use crate::failure::Failure;
use crate::output_guard::OutputGuard;
use crate::request::{Parts, Request};
use crate::strip::Strip;

impl<R: Request<S>, S: Source, D: Sink> Relay<'_, R, S, D> {
    /// Start the answer. Its head and the body bytes that arrived with it are written together.
    pub(super) fn begin(
        &mut self,
        mut head: AnswerHead,
        cx: &mut TaskContext<'_>,
    ) -> Result<Step, End> {
        self.request.head_received(&head, self.source);
        let early = self.source.early_error();
        let status = early.map_or(head.status, |error| error.status);
        let is_stream = head.status == 200 && head.framing == Framing::Sse && !head.encoded;
        if self.resumes && (early.is_some() || !is_stream) || self.is_open && !is_stream {
            return Err(End::Unusable { status });
        }
        if self.request.retry(status) {
            let code = early.and_then(|error| error.code);
            let code = code.map_or_else(|| format!("http_{status}"), str::to_owned);
            return Err(End::Again { status, code });
        }
        if self.resumes {
            return self.begin_resumed(&head, cx);
        }
        self.open_answer(&head);
        let answer = self.request.parts().answer;
        let is_timed = answer.streamed && answer.not_parsed.is_none();
        self.first_byte_read(
            head.first_byte,
            if is_timed { State::AwaitFirstToken } else { State::AwaitToken },
            self.source.held_until(),
        );
        if let (Some(dialect), None) =
            (self.context.dialect, self.request.parts().answer.not_parsed)
        {
            self.read_events(dialect, &mut head);
        } else if head.status < 400
            && self.context.guardrail.as_ref().is_some_and(|guardrail| guardrail.alters_answers())
        {
            return Err(End::Refused(Failure::Unreadable));
        }
        // The guardrail decides a non-streaming answer as a whole before any of it is sent, because
        // it may be replaced.
        let is_judged =
            head.framing == Framing::Json && self.guardrail.as_ref().is_some_and(OutputGuard::acts);
        if is_judged {
            self.head = Some(head);
        } else if std::mem::take(&mut self.is_open) {
            self.request.commit();
        } else {
            self.write_head(head)?;
        }
        self.phase = Phase::Body;
        self.deadlines.moved(clock::now());
        self.step_body(cx).map(|_| Step::Moved)
    }

    /// Record the facts from the head.
    pub(super) fn open_answer(&mut self, head: &AnswerHead) {
        let Parts { answer, guarded, .. } = self.request.parts();
        if let Some(contents) = &mut guarded.contents {
            contents.forget_answer();
        }
        answer.status = Some(head.status);
        answer.streamed = matches!(head.framing, Framing::Sse | Framing::Ndjson);
        let comments = answer.lens.counts().comments;
        answer.lens = StreamLens::new(answer.streamed, self.context.stall_ns);
        answer.lens.limit_tokens(self.context.max_tokens);
        answer.lens.add_comments(comments);
        answer.lens.first_byte(head.first_byte);
        answer.not_parsed = match (self.context.dialect, head.framing) {
            _ if head.encoded => Some("compressed"),
            (None, _) => Some("no_dialect"),
            (_, Framing::Opaque) => Some("content_type"),
            _ => None,
        };
    }

    /// Set up the reader, the guardrail or the strip, and the closing state.
    fn read_events(&mut self, dialect: wire::Dialect, head: &mut AnswerHead) {
        let parts = self.request.parts();
        parts.answer.measured = true;
        let streamed = parts.answer.streamed;
        let takes_usage = parts.sent.usage_injected && streamed;
        // Comments that were sent ahead.
        let sent = self.out.payload_queued();
        self.reader = Some(
            Reader::new(dialect, head.framing, self.context.reader_limits)
                .expecting_echo(self.context.echoes_prompt),
        );
        match self.context.guardrail.clone().filter(|guardrail| guardrail.reads_answers()) {
            Some(guardrail) => {
                self.guardrail = Some(OutputGuard::new(
                    self.request,
                    guardrail,
                    (dialect, head.framing),
                    takes_usage,
                    self.context.usage_of_prompt,
                    sent,
                ))
            }
            None => {
                self.is_resumable = streamed && head.status == 200 && self.request.is_resumable();
                self.strip = (takes_usage || self.is_resumable)
                    .then(|| Strip::new(takes_usage, self.is_resumable, sent));
            }
        }
        if streamed && (self.request.is_charged() || self.is_resumable) {
            self.closing =
                Some(Closing::new(dialect, head.framing).with_usage(self.context.usage_of_prompt));
        }
        if self.guardrail.as_ref().is_some_and(OutputGuard::alters)
            || self.strip.is_some()
            || self.closing.is_some()
        {
            head.length = None;
        }
    }

    /// Account for the first byte. Time in which the head was held is spent in `waited`.
    pub(super) fn first_byte_read(&mut self, at: Tick, waited: State, held_until: Option<Tick>) {
        let ledger = self.request.parts().ledger;
        ledger.switch(State::Gateway, at);
        if let Some(until) = held_until {
            ledger.switch(waited, at);
            ledger.switch(State::Gateway, until);
        }
    }

    /// Start to resume a stream.
    fn begin_resumed(&mut self, head: &AnswerHead, cx: &mut TaskContext<'_>) -> Result<Step, End> {
        self.first_byte_read(head.first_byte, State::AwaitToken, self.source.held_until());
        let Some(dialect) = self.context.dialect else { return Err(End::Broken) };
        self.reader = Some(Reader::new(dialect, head.framing, self.context.reader_limits));
        (self.resumes, self.is_resumable) = (false, true);
        self.request.parts().answer.ended_at = None;
        if let (Some(mark), Some(strip)) = (self.request.resumed(), &mut self.strip) {
            strip.add(&mark, &mut self.out);
        }
        self.phase = Phase::Body;
        self.deadlines.moved(clock::now());
        self.step_body(cx).map(|_| Step::Moved)
    }

    /// Commit to this answer, and write its head to the client.
    pub(super) fn write_head(&mut self, head: AnswerHead) -> Result<(), End> {
        self.request.commit();
        self.has_length = head.length.is_some();
        self.send_head(head)
    }

    /// Write the head to the client.
    pub(super) fn send_head(&mut self, mut head: AnswerHead) -> Result<(), End> {
        if self.request.is_charged() {
            head.fields = without_rate_limits(&head.fields);
        }
        let extra = self.request.fields(head.first_byte);
        self.sink.begin(&head, &extra, &mut self.out).map_err(|Gone| self.gone())?;
        buffer::give(head.fields);
        Ok(())
    }
}

/// Remove the engine's own rate limit fields: clients must not see them, and they would contradict
/// the gateway's.
fn without_rate_limits(fields: &[u8]) -> Vec<u8> {
    let is_one = |line: &&[u8]| {
        line.get(..12).is_some_and(|name| name.eq_ignore_ascii_case(b"x-ratelimit-"))
    };
    fields
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !is_one(line))
        .flatten()
        .copied()
        .collect()
}
