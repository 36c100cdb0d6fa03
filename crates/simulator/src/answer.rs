//! An answer of a simulated engine, as the model schedules it and the script lets it fail.

use std::io::Result;
use std::time::Instant;

use super::EngineState;
use super::connection::{Connection, Request, Stamp};
use super::fault::Fault;
use super::model::Refusal;
use super::pace::{Answer, Progress, micros};
use super::text::{self, Generate, chunk, whole};
use super::truth::{End, Row};

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
    Reset,
}

/// Answers a request for text, and adds its truth.
pub(super) async fn generate(
    engine: &EngineState,
    connection: &mut Connection,
    request: &Request,
    chat: bool,
) -> Next {
    let mut writing = Writing::new(engine, request.received);
    let next = writing.answer(connection, request, chat).await;
    // Of a client that is gone, the end is when that was noticed.
    let next = next.unwrap_or_else(|_| {
        writing.row.end = End::Disconnected;
        writing.row.end_us = writing.since(Instant::now());
        Next::Close
    });
    engine.add(writing.row);
    next
}

struct Writing<'e> {
    engine: &'e EngineState,
    received: Instant,
    row: Row,
}

impl<'e> Writing<'e> {
    fn new(engine: &'e EngineState, received: Instant) -> Self {
        let row = Row {
            number: engine.next_number(),
            received_us: micros(received.saturating_duration_since(engine.started())),
            prompt_tokens: 0,
            tokens: 0,
            stream: false,
            end: End::Complete,
            status: 200,
            fault: None,
            first_byte_us: 0,
            events: Vec::new(),
            end_us: 0,
        };
        Writing { engine, received, row }
    }

    fn since(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.received))
    }

    async fn answer(&mut self, to: &mut Connection, request: &Request, chat: bool) -> Result<Next> {
        let (profile, number) = (self.engine.profile(), self.row.number);
        let order = match Generate::parse(&request.body, chat, number, profile) {
            Ok(order) => order,
            Err(problem) => return self.refuse(to, 400, "invalid", &problem).await,
        };
        (self.row.prompt_tokens, self.row.stream) = (order.prompt_tokens, order.stream);
        let fault = profile.fault(number);
        self.row.fault = fault.map(|fault| fault.to_string());
        if let Some(Fault::Status(status)) = fault {
            let name = status.to_string();
            return self.refuse(to, status, &name, "the simulated engine fails as scripted").await;
        }
        let now = self.engine.pace.now();
        let answer = match self.engine.pace.begin(now, order.prompt_tokens, order.tokens) {
            Ok(answer) => answer,
            Err(Refusal::QueueFull) => {
                return self.refuse(to, 503, "queue_full", "the queue is full").await;
            }
            Err(Refusal::TooLong) => {
                let problem = "prompt and answer have more tokens than the cache";
                return self.refuse(to, 400, "too_long", problem).await;
            }
        };
        match order.stream {
            true => self.stream(to, &order, answer, fault).await,
            false => self.whole(to, &order, answer, fault).await,
        }
    }

    async fn refuse(
        &mut self,
        to: &mut Connection,
        status: u16,
        fault: &str,
        problem: &str,
    ) -> Result<Next> {
        self.row.status = status;
        self.row.fault = Some(fault.to_owned());
        let body = text::error(status, problem);
        let stamp =
            to.give(whole(status, "application/json", &body, body.len()).as_bytes()).await?;
        self.row.first_byte_us = self.since(stamp.at);
        Ok(self.failed(stamp, Next::Keep))
    }

    fn failed(&mut self, stamp: Stamp, next: Next) -> Next {
        self.row.end = End::Failed;
        self.row.end_us = self.since(stamp.at);
        next
    }

    async fn stream(
        &mut self,
        to: &mut Connection,
        order: &Generate,
        mut answer: Answer,
        fault: Option<Fault>,
    ) -> Result<Next> {
        let profile = self.engine.profile();
        let (model, per_event) = (&profile.model, u64::from(profile.tokens_per_event));
        let stops = fault.filter(|fault| fault.is_failure());
        let limit = if stops.is_some() { (order.tokens / 2).max(1) } else { order.tokens };
        let mut stall = fault.filter(|fault| *fault == Fault::Stall);
        let mut stamp = to.give(text::STREAM_HEAD.as_bytes()).await?;
        self.row.first_byte_us = self.since(stamp.at);
        while self.row.tokens < limit {
            if self.row.tokens >= order.tokens / 2 && stall.take().is_some() {
                present(to, tokio::time::sleep(profile.stall)).await?;
            }
            let wanted = (self.row.tokens + per_event).min(limit);
            let progress = present(to, answer.tokens(wanted)).await?;
            let (mut events, mut sizes) = (String::new(), Vec::new());
            let mut from = self.row.tokens;
            while from < limit && (from + per_event).min(limit) <= progress.tokens {
                let until = (from + per_event).min(limit);
                events.push_str(&order.event(model, from..until));
                sizes.push((until - from) as u32);
                from = until;
            }
            let mut bytes = chunk(&events);
            if from == order.tokens && stops.is_none() {
                bytes = chunk(&(events + &order.ending(model))) + text::LAST_CHUNK;
            }
            stamp = self.give_event(to, &bytes, progress).await?;
            let at = self.since(stamp.at);
            self.row.events.extend(sizes.into_iter().map(|tokens| (at, tokens)));
            self.row.tokens = from;
        }
        self.row.end_us = self.since(stamp.at);
        match stops {
            None => Ok(Next::Keep),
            Some(Fault::Reset) => Ok(self.failed(stamp, Next::Reset)),
            Some(Fault::ErrorEvent) => {
                let event = format!("data: {}\n\n", text::error(500, "the engine died"));
                let stamp = to.give((chunk(&event) + text::LAST_CHUNK).as_bytes()).await?;
                Ok(self.failed(stamp, Next::Keep))
            }
            Some(_) => {
                let stamp = to.give(text::LAST_CHUNK.as_bytes()).await?;
                Ok(self.failed(stamp, Next::Keep))
            }
        }
    }

    async fn whole(
        &mut self,
        to: &mut Connection,
        order: &Generate,
        mut answer: Answer,
        fault: Option<Fault>,
    ) -> Result<Next> {
        let mut body = order.body(&self.engine.profile().model);
        let length = body.len();
        let progress = present(to, answer.tokens(order.tokens)).await?;
        match fault {
            Some(Fault::Stall) => {
                present(to, tokio::time::sleep(self.engine.profile().stall)).await?;
            }
            Some(Fault::ErrorEvent) => body = text::error(500, "the engine died"),
            // The text of the answer is ASCII.
            Some(Fault::Reset | Fault::Truncate) => body.truncate(length / 2),
            Some(Fault::Status(_)) | None => {}
        }
        let is_cut = matches!(fault, Some(Fault::Reset | Fault::Truncate));
        let promised = if is_cut { length } else { body.len() };
        let bytes = whole(200, "application/json", &body, promised);
        let stamp = self.give_event(to, &bytes, progress).await?;
        (self.row.first_byte_us, self.row.end_us) = (self.since(stamp.at), self.since(stamp.at));
        match fault {
            Some(Fault::Reset) => Ok(self.failed(stamp, Next::Reset)),
            Some(Fault::Truncate) => Ok(self.failed(stamp, Next::Close)),
            Some(Fault::ErrorEvent) => Ok(self.failed(stamp, Next::Keep)),
            Some(Fault::Stall | Fault::Status(_)) | None => {
                self.row.tokens = order.tokens;
                self.row.events.push((self.row.end_us, order.tokens as u32));
                Ok(Next::Keep)
            }
        }
    }

    /// Writes tokens, and records the error of their stamp.
    async fn give_event(
        &self,
        to: &mut Connection,
        bytes: &str,
        progress: Progress,
    ) -> Result<Stamp> {
        let stamp = to.give(bytes.as_bytes()).await?;
        let scheduled = self.engine.started() + progress.at;
        self.engine.wrote(stamp, stamp.at.saturating_duration_since(scheduled));
        Ok(stamp)
    }
}

/// Waits while the client is there.
async fn present<T>(to: &mut Connection, work: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = to.gone() => Err(std::io::ErrorKind::ConnectionAborted.into()),
    }
}
