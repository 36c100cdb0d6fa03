//! Requests that another pool is asked as well, for nothing but its figures.
//!
//! - *In*: a request as it goes to the backend that answers it.
//! - *Out*: counts and times of what the other one would have answered.
//! - *Never*: a byte of that answer kept or sent; a client that waits for it; more than [`MOST`] at a time: what is beyond is left out, and counted.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lens::{EngineError, StreamLens, Tick};
use routing::{Ended, Question, Wish};
use wire::http1::head::{self, HeadLimits};
use wire::{Dialect, Framing, Reader, ReaderLimits};

use super::h1::{Edit, Edits, Request};
use super::{BodyStep, Call, Source, Upstream, UpstreamError};
use crate::clock;
use crate::downstream::out::Out;
use crate::exchange::Answer;
use crate::plan::{PlannedPool, PlannedRoute};
use crate::stage::choose::Asked;
use crate::stage::relay::Forward;
use crate::stage::send::{self, Said};

/// Most at a time, of a route.
const MOST: u64 = 64;
/// How long one may take in all.
const TOTAL: Duration = Duration::from_secs(300);

/// The other pool of a route, and what came of asking it.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) pool: Arc<PlannedPool>,
    pub(crate) share: f64,
    pub(crate) counts: Arc<Counts>,
}

/// What came of asking. Counts go on when settings change, or backends come and go.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    running: AtomicU64,
    pub(crate) well: AtomicU64,
    pub(crate) badly: AtomicU64,
    pub(crate) left_out: AtomicU64,
    /// Answers that had a first token, and how long all of them took to it, microseconds.
    pub(crate) first_tokens: AtomicU64,
    pub(crate) first_token_us: AtomicU64,
}

/// What is heard of an answer.
#[derive(Default)]
struct Heard {
    answer: Answer,
    sent_at: Option<Tick>,
}

/// What is mirrored.
pub(crate) struct Mirrored {
    pub(crate) route: Arc<PlannedRoute>,
    pub(crate) asked: Asked,
    pub(crate) usage: Option<Edit>,
    pub(crate) model_at: Option<std::ops::Range<usize>>,
    pub(crate) id: String,
    pub(crate) keeps_credentials: bool,
    /// The client's own credential goes on with it.
    pub(crate) with_credential: bool,
    pub(crate) dialect: Dialect,
    pub(crate) question: Question,
    pub(crate) limits: (HeadLimits, ReaderLimits),
    pub(crate) connect: Duration,
    pub(crate) first_byte: Duration,
}

impl Mirror {
    pub(crate) fn new(pool: Arc<PlannedPool>, share: f64, before: Option<&Mirror>) -> Self {
        Mirror { pool, share, counts: before.map(|before| before.counts.clone()).unwrap_or_default() }
    }

    /// Whether this request is mirrored.
    pub(crate) fn takes(&self) -> bool {
        if rand::random::<f64>() >= self.share {
            return false;
        }
        let room = self
            .counts
            .running
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |running| (running < MOST).then_some(running + 1))
            .is_ok();
        if !room {
            self.counts.left_out.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    /// Ask, and forget the answer. To be called for what [`takes`](Self::takes) took, once.
    pub(crate) async fn ask(&self, mirrored: Mirrored) {
        let count = match self.heard(mirrored).await {
            Some(true) => &self.counts.well,
            Some(false) => &self.counts.badly,
            None => &self.counts.left_out,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.counts.running.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the answer was a good one; `None`: there is nobody to ask, or no place with him.
    async fn heard(&self, mirrored: Mirrored) -> Option<bool> {
        let (pool, question) = (&self.pool.pool, mirrored.question);
        let choice = pool.choose(&Wish { tokens: question.tokens(), ..Wish::default() }, clock::now())?;
        let upstream = self.pool.upstreams.get(choice.at)?;
        // Requests that somebody waits for go first.
        let place = match &upstream.turnstile {
            Some(turnstile) => Some(turnstile.enter(question.tokens())?),
            None => None,
        };
        let attempt = pool.begin(choice.at, question)?;
        let mut heard = Heard::default();
        let done = tokio::time::timeout(TOTAL, self.exchange(&mirrored, upstream, choice.at, &mut heard)).await;
        if let (Some(first), Some(sent)) = (heard.answer.lens.marks().first_token.arrival, heard.sent_at) {
            let took = first.nanos_since(sent);
            pool.first_token(&attempt, Duration::from_nanos(took), first);
            self.counts.first_tokens.fetch_add(1, Ordering::Relaxed);
            self.counts.first_token_us.fetch_add(took / 1000, Ordering::Relaxed);
        }
        let status = heard.answer.lens.error().map(EngineError::status).or(heard.answer.status).unwrap_or(0);
        let ended = match done {
            // What its client does wrong is no fault of this backend either.
            Ok(Ok(())) if status >= 400 => upstream.fault(status, mirrored.with_credential),
            Ok(Ok(())) => Ended::Well,
            Ok(Err(ended)) => ended,
            Err(_) => Ended::Badly,
        };
        let is_well = ended == Ended::Well && status < 400;
        pool.end(attempt, ended, clock::now());
        place.into_iter().for_each(|place| place.leave(clock::now(), None));
        Some(is_well)
    }

    /// Ask and read to the end; what it says of the backend when that fails.
    async fn exchange(&self, mirrored: &Mirrored, upstream: &Arc<Upstream>, at: usize, heard: &mut Heard) -> Result<(), Ended> {
        let request = self.request(mirrored, at).ok_or(Ended::Untold)?;
        let mut source = Call::open(upstream, request, mirrored.limits.0, mirrored.connect, false).await.map_err(|error| match error {
            UpstreamError::Busy => Ended::Untold,
            _ => Ended::Badly,
        })?;
        let began = async {
            poll_fn(|cx| source.poll_send(cx)).await?;
            heard.sent_at = Some(clock::now());
            poll_fn(|cx| source.poll_head(cx)).await
        };
        let patience = Some(mirrored.first_byte).filter(|patience| !patience.is_zero()).unwrap_or(TOTAL);
        let head = match tokio::time::timeout(patience, began).await {
            Ok(Ok(head)) => head,
            // An idle connection may just have been too old.
            Ok(Err(_)) if source.into_unanswered().is_some() => return Err(Ended::Untold),
            Ok(Err(_)) | Err(_) => return Err(Ended::Badly),
        };
        upstream.heed(&head, mirrored.with_credential);
        let answer = &mut heard.answer;
        answer.status = Some(head.status);
        answer.lens = StreamLens::new(matches!(head.framing, Framing::Sse | Framing::Ndjson), u64::MAX);
        let mut reader = Reader::new(mirrored.dialect, head.framing, mirrored.limits.1);
        loop {
            let mut out = Out::default();
            let step = poll_fn(|cx| source.poll_body(cx, &mut Forward::heard(answer, &mut out, &mut reader))).await;
            if step.map_err(|_| Ended::Badly)? == BodyStep::End {
                source.settle(upstream);
                return Ok(());
            }
        }
    }

    fn request(&self, mirrored: &Mirrored, at: usize) -> Option<Request> {
        let backend = &self.pool.upstreams.get(at)?.backend;
        let (buffer, len) = &mirrored.asked.head;
        let mut room = head::field_room();
        let head = head::parse_request(buffer.get(..*len)?, &mut room, mirrored.limits.0).ok()?;
        let mut edits: Edits = [send::model_of(&self.pool, mirrored.model_at.clone()), mirrored.usage.clone()];
        edits.sort_by_key(|edit| edit.as_ref().map(|edit| edit.range.start));
        let said =
            Said { id: &mirrored.id, keeps_credentials: mirrored.keeps_credentials, body_len: mirrored.asked.body().len(), edits: &edits };
        let head = send::head_for(&mirrored.route.route, backend, &head, &said);
        let (buffer, body) = mirrored.asked.body.clone();
        Some(Request { head, buffer, body, edits })
    }
}
