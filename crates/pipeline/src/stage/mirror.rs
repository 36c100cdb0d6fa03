//! Sends copies of requests to another pool, to measure it.
//!
//! - *In*: a request as it goes to the backend that answers it.
//! - *Out*: counts and times of the other pool's answers.
//! - *Never*: a byte of that answer kept or sent; a client that waits for it.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http1::head::HeadLimits;
use lens::{EngineError, StreamLens, Tick};
use relay::{Answer, Forward};
use routing::{AttemptResult, BalanceRequest, RequestSize};
use transport::{BodyStep, Call, Edit, Edits, Request, Source, StreamBuffer, Upstream};
use wire::{Dialect, Framing, Reader, ReaderLimits};

use crate::exchange::{Exchange, UpstreamRequest};
use crate::stage::select;
use crate::stage::send::{self, HeadFacts};
use plan::client_limits::ClientLimits;
use plan::clock;
use plan::forwarded::Peer;
use plan::{Mirror, MirrorSlot, PlannedRoute};

/// Total timeout of one copy.
const TOTAL: Duration = Duration::from_secs(300);

/// A copy of a request.
struct MirroredRequest {
    route: Arc<PlannedRoute>,
    mirror: Arc<Mirror>,
    request: UpstreamRequest,
    usage: Option<Edit>,
    model_at: Option<Range<usize>>,
    id: Arc<str>,
    keeps_credentials: bool,
    peer: Peer,
    /// The client's own credential is passed on.
    with_credential: bool,
    dialect: Dialect,
    question: RequestSize,
    limits: (HeadLimits, ReaderLimits),
    connect: Duration,
    first_byte: Duration,
    clients: Arc<ClientLimits>,
    _slot: MirrorSlot,
}

/// Measurements of a mirrored answer.
#[derive(Default)]
struct Measured {
    answer: Answer,
    sent_at: Option<Tick>,
}

/// Send a copy to the mirror, if the route has one.
pub fn start(exchange: &Exchange, request: &UpstreamRequest) {
    let Some(routed) = &exchange.routed else { return };
    let (Some(mirror), Some(dialect)) = (&routed.route.mirror, routed.dialect) else { return };
    let Some(slot) = mirror.take_slot() else { return };
    let timeouts = exchange.timeouts();
    let copied = MirroredRequest {
        route: routed.route.clone(),
        mirror: mirror.clone(),
        request: request.clone(),
        usage: send::usage_edit(exchange),
        model_at: exchange.inspected.facts.as_ref().and_then(|facts| facts.model_at.clone()),
        id: exchange.accepted.id.clone(),
        keeps_credentials: exchange.plan.keys.is_some(),
        peer: exchange.accepted.peer,
        with_credential: exchange.attempts.with_credential,
        dialect,
        question: select::request_size(exchange),
        limits: (exchange.plan.head_limits, exchange.plan.reader_limits),
        connect: timeouts.connect,
        first_byte: Some(timeouts.first_byte).filter(|limit| !limit.is_zero()).unwrap_or(TOTAL),
        clients: exchange.shared.client_limits.clone(),
        _slot: slot,
    };
    exchange.shared.tasks.spawn(copied.send());
}

impl MirroredRequest {
    /// Send the copy, and count the result.
    async fn send(self) {
        let counts = self.mirror.counts.clone();
        let count = match self.attempt().await {
            Some(true) => &counts.success,
            Some(false) => &counts.failure,
            None => &counts.left_out,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the answer was a success; `None`: no backend, permit or descriptor was available.
    async fn attempt(&self) -> Option<bool> {
        let (pool, question) = (&self.mirror.pool.pool, self.question);
        let choice = pool.choose(
            &BalanceRequest { tokens: question.tokens(), ..BalanceRequest::default() },
            clock::now(),
        )?;
        let upstream = self.mirror.pool.upstreams.get(choice.at)?;
        // Copies do not wait in the queue: requests of clients go first.
        let permit = match &upstream.queue {
            Some(queue) => Some(queue.enter(question.prompt, question.output)?),
            None => None,
        };
        let _descriptor = match upstream.backend.http2 {
            // Requests over HTTP/2 share connections.
            true => None,
            false => Some(self.clients.admit_extra()?),
        };
        let attempt = pool.begin(choice.at, question)?;
        let mut measured = Measured::default();
        let done =
            tokio::time::timeout(TOTAL, self.exchange(upstream, choice.at, &mut measured)).await;
        if let (Some(first), Some(sent)) =
            (measured.answer.lens.marks().first_token.arrival, measured.sent_at)
        {
            let took = first.nanos_since(sent);
            pool.first_token(&attempt, Duration::from_nanos(took), first);
            self.mirror.counts.first_tokens.fetch_add(1, Ordering::Relaxed);
            self.mirror.counts.first_token_us.fetch_add(took / 1000, Ordering::Relaxed);
        }
        let status = measured
            .answer
            .lens
            .error()
            .map(EngineError::status)
            .or(measured.answer.status)
            .unwrap_or(0);
        let ended = match done {
            // Error statuses count as for requests of clients.
            Ok(Ok(())) if status >= 400 => upstream.fault(status, self.with_credential),
            Ok(Ok(())) => AttemptResult::Success,
            Ok(Err(ended)) => ended,
            Err(_) => AttemptResult::Failure,
        };
        let is_success = ended == AttemptResult::Success && status < 400;
        pool.end(attempt, ended, clock::now());
        permit.into_iter().for_each(|permit| permit.abandon(clock::now()));
        Some(is_success)
    }

    /// Call the backend and read its answer to the end; an error has the result for the backend.
    async fn exchange(
        &self,
        upstream: &Arc<Upstream>,
        at: usize,
        measured: &mut Measured,
    ) -> Result<(), AttemptResult> {
        let request = self.upstream_request(at).ok_or(AttemptResult::Unknown)?;
        let opened = Call::open(upstream, request, self.limits.0, self.connect, false).await;
        let mut source = opened.map_err(|error| {
            if error.blames_backend() { AttemptResult::Failure } else { AttemptResult::Unknown }
        })?;
        let began = async {
            poll_fn(|cx| source.poll_send(cx)).await?;
            measured.sent_at = Some(clock::now());
            poll_fn(|cx| source.poll_head(cx)).await
        };
        let head = match tokio::time::timeout(self.first_byte, began).await {
            Ok(Ok(head)) => head,
            // A reused connection may have been stale.
            Ok(Err(_)) if source.into_unanswered().is_some() => return Err(AttemptResult::Unknown),
            Ok(Err(_)) | Err(_) => return Err(AttemptResult::Failure),
        };
        upstream.apply_retry_after(&head, self.with_credential);
        let answer = &mut measured.answer;
        answer.status = Some(head.status);
        answer.lens =
            StreamLens::new(matches!(head.framing, Framing::Sse | Framing::Ndjson), u64::MAX);
        let mut reader = Reader::new(self.dialect, head.framing, self.limits.1);
        loop {
            let mut out = StreamBuffer::default();
            let step = poll_fn(|cx| {
                source.poll_body(cx, &mut Forward::unchanged(answer, &mut out, &mut reader))
            })
            .await;
            if step.map_err(|_| AttemptResult::Failure)? == BodyStep::End {
                source.settle(upstream);
                return Ok(());
            }
        }
    }

    fn upstream_request(&self, at: usize) -> Option<Request> {
        let backend = &self.mirror.pool.upstreams.get(at)?.backend;
        let pool = &self.mirror.pool;
        let model = self
            .model_at
            .clone()
            .and_then(|at| self.request.with_head(|head| send::model_of(pool, head, at)));
        let mut edits: Edits = [model, self.usage.clone()];
        edits.sort_by_key(|edit| edit.as_ref().map(|edit| edit.range.start));
        let body_len = self.request.body().len();
        let facts = HeadFacts {
            model: pool.model.as_deref(),
            id: &self.id,
            keeps_credentials: self.keeps_credentials,
            peer: self.peer,
            body_len,
            edits: &edits,
            // A copy is not a part of the client's trace that anything waits for.
            traceparent: None,
        };
        let head =
            self.request.with_head(|head| send::head_for(&self.route.route, backend, head, &facts));
        let (buffer, body) = self.request.body.clone();
        Some(Request { head, buffer, body, edits })
    }
}
