//! One request, measured from the client's end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use lens::gaps::GapSummary;
use lens::{StreamLens, Tick};
use serde::{Deserialize, Serialize};
use wire::{Channel, Event, EventVisitor, Framing, Kinds, Part, Reader, ReaderLimits};
use workload::provider::Provider;

use crate::failure::Failure;
use crate::http1::{ClientError, Connection, Target};
use crate::page::headers;

/// Maximum bytes of an error answer that are searched for its message.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Maximum bytes of an answer that a conversation carries on.
const MAX_CARRIED: usize = 1 << 20;

/// Measurements of one request at the client. Times are microseconds; absent means unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The request id, by which the sample is joined with the gateway's record.
    pub id: String,
    /// From the start of the run to the moment the request was due.
    pub due_us: u64,
    /// Delay between due and sent, including the time to connect.
    pub late_us: u64,
    /// The part of it before the request's task began: the client's own delay, not the server's.
    #[serde(default)]
    pub slip_us: u64,
    /// The status, if there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The error, if the request failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the client cancelled it, as the workload says. It is in no distribution.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    /// Its turn in its conversation, from 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub turn: u32,
    /// Request due to first generated text. For a request sent on time this is the client's TTFT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_us: Option<u64>,
    /// Request sent to first generated text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_from_send_us: Option<u64>,
    /// Time for each output token after the first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_us: Option<f64>,
    /// Gaps between events with generated text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl_us: Option<GapSummary>,
    /// Request due to the end of the answer.
    pub total_us: u64,
    /// Generated tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Whether `tokens` is an estimate because the engine reported no usage.
    pub estimated: bool,
    /// Events with generated text.
    pub content_events: u64,
    /// Those that were read together with an earlier one.
    #[serde(default)]
    pub coalesced_events: u64,
    /// Prompt tokens, as the engine reported them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Request sent to the first event of a choice, which may have a role and no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_event_us: Option<u64>,
    /// Request sent to the first text of the answer itself: no reasoning, no tool call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_content_us: Option<u64>,
    /// Request sent to the last generated text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_token_us: Option<u64>,
    /// Request sent to the last event of a choice, such as that of the finish reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event_us: Option<u64>,
    /// Events of a choice.
    #[serde(default)]
    pub events: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde requires")]
fn is_zero(turn: &u32) -> bool {
    *turn == 0
}

impl Sample {
    /// Whether the request succeeded.
    pub fn is_ok(&self) -> bool {
        self.error.is_none() && !self.cancelled
    }

    /// Whether the request failed.
    pub fn is_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Request sent to the end of the answer, in microseconds.
    pub fn total_from_send_us(&self) -> u64 {
        self.total_us.saturating_sub(self.late_us)
    }
}

/// A request to make.
pub(crate) struct LoadRequest {
    pub(crate) id: String,
    pub(crate) turn: u32,
    pub(crate) body: Bytes,
    pub(crate) provider: Provider,
    pub(crate) key: Option<String>,
    /// Whether the body requests a stream.
    pub(crate) stream: bool,
    /// Choices of the answer.
    pub(crate) choices: u32,
    /// Whether a further turn carries the answer on.
    pub(crate) has_next: bool,
    /// When the client cancels it, from the send.
    pub(crate) cancel_after: Option<Duration>,
    /// When it was due.
    pub(crate) due: Instant,
    /// Maximum time from its start to the end of the answer.
    pub(crate) timeout: Duration,
}

/// The sample of a request, and its gaps for the histogram of all requests.
pub(crate) struct Measured {
    pub(crate) sample: Sample,
    /// The server's message about the error.
    pub(crate) message: Option<String>,
    /// Gaps between events with generated text.
    pub(crate) gaps: Vec<u64>,
    /// Gaps between events of a choice.
    pub(crate) event_gaps: Vec<u64>,
    /// The text of the answer, if a further turn carries it on.
    pub(crate) answer: String,
}

/// How a request ended.
enum End {
    Answered,
    Failed(Failure),
    Cancelled,
}

/// Sends a request and reads the answer to its end. `connection` is left open if it can be reused.
pub(crate) async fn send_and_measure(
    target: &Target,
    connection: &mut Option<Connection>,
    ask: LoadRequest,
    start: Instant,
) -> Measured {
    let sent = Instant::now();
    let mut seen = Seen::new(sent, ask.has_next);
    let end = until_end(target, connection, &ask, &mut seen, sent).await;
    if !matches!(end, End::Answered) || !connection.as_ref().is_some_and(Connection::is_usable) {
        *connection = None;
    }
    let is_cancelled = matches!(end, End::Cancelled);
    let failure = match end {
        End::Failed(failure) => Some(failure),
        End::Answered | End::Cancelled => None,
    };
    let since = |a: Instant, b: Instant| {
        u64::try_from(b.saturating_duration_since(a).as_micros()).unwrap_or(u64::MAX)
    };
    let late_us = since(ask.due, seen.start);
    seen.take_gaps();
    let us = |tick: Option<Tick>| tick.map(|tick| tick.0 / 1000);
    let marks = seen.lens.marks();
    let first = us(marks.first_token.arrival);
    let (first_content_us, last_token_us) =
        (us(marks.content.arrival), us(marks.last_token.arrival));
    let (tokens, estimated) = seen.lens.completion_tokens();
    let (prompt_tokens, prompt_estimated) = seen.lens.prompt_tokens();
    let (error, message) = failure.map(|f| (f.name, f.message)).unzip();
    let sample = Sample {
        id: ask.id,
        due_us: since(start, ask.due),
        late_us,
        slip_us: since(ask.due, sent),
        status: seen.status,
        error,
        cancelled: is_cancelled,
        turn: ask.turn,
        ttft_us: first.map(|us| us + late_us),
        ttft_from_send_us: first,
        tpot_us: seen.lens.tpot_us(),
        itl_us: seen.lens.itl().summary(),
        total_us: since(ask.due, Instant::now()),
        tokens,
        estimated,
        content_events: seen.lens.counts().content_events,
        coalesced_events: seen.lens.counts().coalesced,
        prompt_tokens: prompt_tokens.filter(|_| !prompt_estimated),
        first_event_us: us(seen.first_event),
        first_content_us,
        last_token_us,
        last_event_us: us(seen.last_event),
        events: seen.events,
    };
    let Seen { gaps, event_gaps, answer, .. } = seen;
    Measured { sample, message: message.flatten(), gaps, event_gaps, answer }
}

/// Waits for the end of the answer, of the time limit, or for the time of the cancellation.
async fn until_end(
    target: &Target,
    connection: &mut Option<Connection>,
    ask: &LoadRequest,
    seen: &mut Seen,
    sent: Instant,
) -> End {
    let answer = tokio::time::timeout(ask.timeout, talk(target, connection, ask, seen));
    let cancelled = async {
        match ask.cancel_after {
            Some(after) => tokio::time::sleep_until((sent + after).into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        answered = answer => match answered {
            Ok(Ok(None)) => End::Answered,
            Ok(Ok(Some(failure))) => End::Failed(failure),
            Ok(Err(e)) => End::Failed(Failure::of_connection(&e)),
            Err(_) => End::Failed(Failure::named("timeout")),
        },
        () = cancelled => End::Cancelled,
    }
}

struct Seen {
    lens: StreamLens,
    start: Instant,
    gaps: Vec<u64>,
    status: Option<u16>,
    /// The message of the engine's error event.
    message: Option<String>,
    /// When the bytes arrived that are being parsed.
    now: Tick,
    first_event: Option<Tick>,
    last_event: Option<Tick>,
    events: u64,
    event_gaps: Vec<u64>,
    /// Whether the text of the answer is kept.
    keeps_answer: bool,
    answer: String,
}

/// Passes an answer to the lens, and keeps the message of an error.
impl EventVisitor for Seen {
    fn data(&mut self, data: &[u8]) {
        self.lens.data(data);
    }

    fn part(&mut self, part: Part<'_>) {
        match part {
            Part::Error { message: Some(text), .. } => {
                self.message = Some(text.decode().into_owned());
            }
            Part::Text { channel: Channel::Content, choice: 0, text, .. }
                if self.keeps_answer && self.answer.len() < MAX_CARRIED =>
            {
                self.answer.push_str(&text.decode());
            }
            _ => {}
        }
        self.lens.part(part);
    }

    fn event(&mut self, event: &Event) {
        let kinds = event.kinds;
        let is_of_choice = kinds.has(Kinds::ROLE) || kinds.is_token() || kinds.has(Kinds::FINISH);
        if is_of_choice {
            if let Some(last) = self.last_event {
                self.event_gaps.push(self.now.micros_since(last));
            }
            self.first_event.get_or_insert(self.now);
            self.last_event = Some(self.now);
            self.events += 1;
        }
        self.lens.event(event);
    }

    fn comment(&mut self, end: usize) {
        self.lens.comment(end);
    }
}

impl Seen {
    fn new(start: Instant, keeps_answer: bool) -> Self {
        Seen {
            lens: StreamLens::new(true, u64::MAX),
            start,
            gaps: Vec::new(),
            status: None,
            message: None,
            now: Tick(0),
            first_event: None,
            last_event: None,
            events: 0,
            event_gaps: Vec::new(),
            keeps_answer,
            answer: String::new(),
        }
    }

    fn now(&self) -> Tick {
        Tick(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn take_gaps(&mut self) {
        let (itl, client) = self.lens.drain_gaps();
        self.gaps.extend(itl);
        drop(client);
    }

    /// The error event, if any.
    fn error_event(&self, status: u16) -> Option<Failure> {
        let error = self.lens.error()?;
        let kind = error.code.as_deref().or(error.kind.as_deref());
        Some(Failure::of_event(status, kind, self.message.as_deref()))
    }

    /// What an answer that was read to its end lacks. Answers without text count if the server
    /// gives a reason for their end.
    fn missing(&self, form: &Form) -> Option<Failure> {
        let lens = &self.lens;
        match form.framing {
            Framing::Opaque | Framing::Json if form.asked_stream => {
                Some(Failure::unreadable("not an event stream", &form.content_type))
            }
            Framing::Opaque | Framing::Sse | Framing::Ndjson if !form.asked_stream => {
                Some(Failure::unreadable("not JSON", &form.content_type))
            }
            Framing::Json if form.is_cut => Some(Failure::named("incomplete_answer")),
            Framing::Sse | Framing::Ndjson if !lens.is_complete(form.choices) => {
                Some(Failure::named("incomplete_stream"))
            }
            _ if lens.counts().text_bytes == 0 && lens.finish_reasons().is_empty() => {
                Some(Failure::named("no generated text"))
            }
            _ => None,
        }
    }
}

/// The form of an answer.
struct Form {
    framing: Framing,
    content_type: String,
    /// Whether the request asked for a stream.
    asked_stream: bool,
    /// Choices that it asked for.
    choices: u32,
    /// Whether a JSON document ends inside a value.
    is_cut: bool,
}

async fn talk(
    target: &Target,
    connection: &mut Option<Connection>,
    ask: &LoadRequest,
    seen: &mut Seen,
) -> Result<Option<Failure>, ClientError> {
    let answer = send(target, connection, ask, seen).await?;
    let status = answer.status();
    seen.status = Some(status.as_u16());
    if !status.is_success() {
        return error_answer(answer).await.map(Some);
    }
    let content_type =
        answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let framing = Framing::from_content_type(content_type);
    let content_type = content_type.to_owned();
    seen.lens = StreamLens::new(matches!(framing, Framing::Sse | Framing::Ndjson), u64::MAX);
    let dialect = ask.provider.api.dialect();
    let mut reader = Reader::new(dialect, framing, ReaderLimits::default());
    let mut body = answer.into_body();
    let mut base = 0;
    while let Some(frame) = body.frame().await {
        let now = seen.now();
        let frame = match frame {
            Ok(frame) => frame,
            // Servers close the connection after an error event, without the end of the body.
            Err(error) => return seen.error_event(status.as_u16()).map(Some).ok_or(error.into()),
        };
        let Ok(piece) = frame.into_data() else { continue };
        seen.now = now;
        seen.lens.begin_read(now);
        seen.lens.at(base);
        reader.feed(&piece, seen);
        base += piece.len() as u64;
        if seen.lens.needs_flush() {
            seen.take_gaps();
        }
    }
    reader.finish(seen);
    let form = Form {
        framing,
        content_type,
        asked_stream: ask.stream,
        choices: ask.choices,
        is_cut: reader.is_cut(),
    };
    Ok(seen.error_event(status.as_u16()).or_else(|| seen.missing(&form)))
}

/// Reads an answer with an error status to its end.
async fn error_answer(answer: Response<Incoming>) -> Result<Failure, ClientError> {
    let (head, mut rest) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = rest.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        let room = MAX_ERROR_BODY.saturating_sub(body.len());
        body.extend(piece.iter().take(room));
    }
    let location = head.headers.get("location").and_then(|value| value.to_str().ok());
    Ok(Failure::of_answer(head.status, location, &body))
}

/// Sends the request; connects if there is no connection. If a reused connection closes before any
/// byte of the answer, the request is sent once more on a new connection.
async fn send(
    target: &Target,
    connection: &mut Option<Connection>,
    ask: &LoadRequest,
    seen: &mut Seen,
) -> Result<Response<Incoming>, ClientError> {
    loop {
        let open = match connection {
            Some(open) => open,
            None => connection.insert(target.connect().await?),
        };
        seen.start = Instant::now();
        match open.send(ask.request(target)).await {
            Err(failed) if failed.closed_before => *connection = None,
            answer => return answer.map_err(|failed| failed.error),
        }
    }
}

impl LoadRequest {
    fn request(&self, target: &Target) -> http::Request<Full<Bytes>> {
        let mut request = target
            .request("POST", self.provider.api.path())
            .header("content-type", "application/json")
            .header("x-request-id", &self.id);
        for (name, value) in headers(&self.provider, self.key.as_deref()) {
            request = request.header(name, value);
        }
        request
            .body(Full::new(self.body.clone()))
            .expect("invariant: all parts were checked when the run was set up")
    }
}

/// A sample for tests.
#[cfg(test)]
pub(crate) fn example() -> Sample {
    Sample {
        id: "a".into(),
        due_us: 0,
        late_us: 0,
        slip_us: 0,
        status: Some(200),
        error: None,
        cancelled: false,
        turn: 0,
        ttft_us: Some(1_000),
        ttft_from_send_us: Some(1_000),
        tpot_us: Some(100.0),
        itl_us: None,
        total_us: 2_000,
        tokens: Some(10),
        estimated: false,
        content_events: 10,
        coalesced_events: 0,
        prompt_tokens: Some(8),
        first_event_us: Some(1_000),
        first_content_us: Some(1_000),
        last_token_us: Some(1_900),
        last_event_us: Some(1_900),
        events: 10,
    }
}
