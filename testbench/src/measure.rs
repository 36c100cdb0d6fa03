//! One request, measured from the client's end.

use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use lens::gaps::GapSummary;
use lens::{StreamLens, Tick};
use serde::{Deserialize, Serialize};
use wire::{Dialect, Framing, Reader, ReaderLimits};

use crate::http1::{ClientError, Connection, Target};

/// Path of the requests.
pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";

/// Measurements of one request at the client. Times are microseconds; absent means unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The request id, by which the sample is joined with the gateway's record.
    pub id: String,
    /// From the start of the run to the moment the request was due.
    pub due_us: u64,
    /// Delay between due and sent, including the time to connect.
    pub late_us: u64,
    /// The status, if there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The error, if the request failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
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
}

impl Sample {
    /// Whether the request succeeded.
    pub fn is_ok(&self) -> bool {
        self.error.is_none()
    }
}

/// A request to make.
pub(crate) struct LoadRequest {
    pub(crate) id: String,
    pub(crate) body: Bytes,
    pub(crate) key: Option<String>,
    /// When it was due.
    pub(crate) due: Instant,
}

/// The sample of a request, and its gaps for the histogram of all requests.
pub(crate) struct Measured {
    pub(crate) sample: Sample,
    pub(crate) gaps: Vec<u64>,
}

/// Sends a request and reads the answer to its end. `connection` is left open if it can be reused.
pub(crate) async fn send_and_measure(
    target: &Target,
    connection: &mut Option<Connection>,
    ask: LoadRequest,
    start: Instant,
) -> Measured {
    let sent = Instant::now();
    let mut seen =
        Seen { lens: StreamLens::new(true, u64::MAX), start: sent, gaps: Vec::new(), status: None };
    let error = match talk(target, connection, &ask, &mut seen).await {
        Ok(()) => seen.fault(),
        Err(e) => Some(e.to_string()),
    };
    if error.is_some() || !connection.as_ref().is_some_and(Connection::is_usable) {
        *connection = None;
    }
    let since = |a: Instant, b: Instant| {
        u64::try_from(b.saturating_duration_since(a).as_micros()).unwrap_or(u64::MAX)
    };
    let late_us = since(ask.due, seen.start);
    seen.take_gaps();
    let first = seen.lens.marks().first_token.arrival.map(|t| t.0 / 1000);
    let (tokens, estimated) = seen.lens.completion_tokens();
    let sample = Sample {
        id: ask.id,
        due_us: since(start, ask.due),
        late_us,
        status: seen.status,
        error,
        ttft_us: first.map(|us| us + late_us),
        ttft_from_send_us: first,
        tpot_us: seen.lens.tpot_us(),
        itl_us: seen.lens.itl().summary(),
        total_us: since(ask.due, Instant::now()),
        tokens,
        estimated,
        content_events: seen.lens.counts().content_events,
    };
    Measured { sample, gaps: seen.gaps }
}

struct Seen {
    lens: StreamLens,
    start: Instant,
    gaps: Vec<u64>,
    status: Option<u16>,
}

impl Seen {
    fn now(&self) -> Tick {
        Tick(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn take_gaps(&mut self) {
        let (itl, client) = self.lens.drain_gaps();
        self.gaps.extend(itl);
        drop(client);
    }

    /// The error of an answer that was read to its end, if any.
    fn fault(&self) -> Option<String> {
        match (self.status, self.lens.error()) {
            (Some(200..=299), None) => None,
            (_, Some(error)) => Some(format!(
                "engine error {}",
                error.code.as_deref().or(error.kind.as_deref()).unwrap_or("without a code")
            )),
            (status, None) => Some(format!("status {}", status.unwrap_or(0))),
        }
    }
}

async fn talk(
    target: &Target,
    connection: &mut Option<Connection>,
    ask: &LoadRequest,
    seen: &mut Seen,
) -> Result<(), ClientError> {
    let answer = send(target, connection, ask, seen).await?;
    seen.status = Some(answer.status().as_u16());
    let content_type =
        answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let framing = Framing::from_content_type(content_type);
    seen.lens = StreamLens::new(matches!(framing, Framing::Sse | Framing::Ndjson), u64::MAX);
    let mut reader = Reader::new(Dialect::OpenAiChat, framing, ReaderLimits::default());
    let mut body = answer.into_body();
    let mut base = 0;
    while let Some(frame) = body.frame().await {
        let now = seen.now();
        let Ok(piece) = frame?.into_data() else { continue };
        seen.lens.begin_read(now);
        seen.lens.at(base);
        reader.feed(&piece, &mut seen.lens);
        base += piece.len() as u64;
        if seen.lens.needs_flush() {
            seen.take_gaps();
        }
    }
    reader.finish(&mut seen.lens);
    Ok(())
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
            .request("POST", CHAT_PATH)
            .header("content-type", "application/json")
            .header("x-request-id", &self.id);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        request
            .body(Full::new(self.body.clone()))
            .expect("invariant: all parts were checked when the run was set up")
    }
}
