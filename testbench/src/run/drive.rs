//! The two loops that send requests.
//!
//! - *In*: a [`Round`]: when it stops, and where results go.
//! - *Out*: each request's [`Measured`].
//! - *Never*: a request that begins after the end, or beyond the number of the round.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use workload::arrival::{Arrival, Stop};
use workload::{Conversation, Request};

use super::Runner;
use super::pacer::{Due, Pacer};
use crate::http1::Connection;
use crate::measure::{LoadRequest, Measured, send_and_measure};

/// Maximum requests in flight in an open loop. Beyond it the run would measure the generator
/// instead of the server. Further requests wait, and the wait counts.
const MAX_IN_FLIGHT: usize = 4096;
/// Connections that are opened at a time before a burst.
const CONNECTING: usize = 64;
/// Pause of a user after a failure: limits the rate of retries while the server is unreachable.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// How a conversation ended.
#[derive(PartialEq, Eq)]
enum Talk {
    /// All that may be sent was answered, or cancelled.
    Over,
    /// A request failed.
    Failed,
    /// The round is over: no result is received.
    Unheard,
}

/// Idle connections of an open loop.
type Idle = Arc<Mutex<Vec<Connection>>>;

/// A warm-up, or the measured part of a run.
#[derive(Clone)]
pub(super) struct Round {
    runner: Arc<Runner>,
    stop: Stop,
    seed: u64,
    start: Instant,
    /// Requests that may still begin.
    left: Arc<AtomicU64>,
    send: mpsc::Sender<Measured>,
}

/// The connections that a burst needs, so that its requests start when they are due. Those that
/// cannot be opened are opened by their requests, which then fail.
pub(super) async fn connect_for_burst(runner: &Arc<Runner>) -> Vec<Connection> {
    let Arrival::Burst { size, .. } = runner.config.arrival else { return Vec::new() };
    let mut open = Vec::new();
    let mut left = (size as usize).min(MAX_IN_FLIGHT);
    while left > 0 {
        let mut connecting = JoinSet::new();
        for _ in 0..left.min(CONNECTING) {
            let target = runner.target.clone();
            connecting.spawn(async move { target.connect().await.ok() });
        }
        left -= connecting.len();
        let opened: Vec<_> = connecting.join_all().await.into_iter().flatten().collect();
        if opened.is_empty() {
            break;
        }
        open.extend(opened);
    }
    open
}

impl Round {
    pub(super) fn new(
        runner: Arc<Runner>,
        stop: Stop,
        seed: u64,
        start: Instant,
        send: mpsc::Sender<Measured>,
    ) -> Self {
        let left = match stop {
            Stop::Requests(n) => n,
            Stop::After(_) | Stop::AtEnd => u64::MAX,
        };
        Round { runner, stop, seed, start, left: Arc::new(AtomicU64::new(left)), send }
    }

    /// Sends all requests, and waits for their answers.
    pub(super) async fn drive(self, connections: Vec<Connection>) {
        match self.runner.config.arrival {
            Arrival::Closed { concurrency } => self.closed(concurrency).await,
            _ => self.open(connections).await,
        }
    }

    /// Takes the right to send a request at this time.
    pub(super) fn take(&self, due: Instant) -> bool {
        let is_over = matches!(self.stop, Stop::After(time) if due >= self.start + time);
        let taken =
            || self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        !is_over && taken().is_ok()
    }

    fn conversation(&self) -> Conversation {
        let number = self.runner.conversation.fetch_add(1, Ordering::Relaxed);
        Conversation::new(&self.runner.config.workload, self.seed, number)
    }

    fn next(&self, conversation: &mut Conversation) -> Option<Request> {
        let config = &self.runner.config;
        conversation.next(&config.provider, &config.model, config.stream)
    }

    /// Closed loop: each user starts a conversation after the last one.
    async fn closed(self, concurrency: usize) {
        let mut users = JoinSet::new();
        for _ in 0..concurrency {
            let round = self.clone();
            users.spawn(async move {
                let mut connection = None;
                let mut is_first = true;
                loop {
                    let mut conversation = round.conversation();
                    if !is_first {
                        pause(conversation.think_time()).await;
                    }
                    is_first = false;
                    let Some(request) = round.next(&mut conversation) else { return };
                    let due = Instant::now();
                    if !round.take(due) {
                        return;
                    }
                    match round.converse(conversation, request, due, &mut connection).await {
                        Talk::Over => {}
                        Talk::Failed => pause(AFTER_FAILURE).await,
                        Talk::Unheard => return,
                    }
                }
            });
        }
        // The results end with the last user.
        drop(self);
        while users.join_next().await.is_some() {}
    }

    /// Open loop: starts each conversation when it is due.
    async fn open(self, connections: Vec<Connection>) {
        let idle: Idle = Arc::new(Mutex::new(connections));
        let places = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let mut under_way = JoinSet::new();
        let mut pacer = Pacer::start(self.clone());
        while let Some(Due { conversation, request, due }) = pacer.next().await {
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let (round, idle) = (self.clone(), idle.clone());
            under_way.spawn(async move {
                let mut connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let _ = round.converse(conversation, request, due, &mut connection).await;
                if let Some(connection) = connection {
                    idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                }
                drop(place);
            });
            while under_way.try_join_next().is_some() {}
        }
        drop((self, pacer));
        while under_way.join_next().await.is_some() {}
    }

    /// Sends the requests of a conversation, until it ends or a request has no answer.
    async fn converse(
        &self,
        mut conversation: Conversation,
        mut request: Request,
        mut due: Instant,
        connection: &mut Option<Connection>,
    ) -> Talk {
        let mut turn = 0;
        loop {
            let has_next = request.has_next;
            let request_now = self.load_request(request, turn, due);
            let target = &self.runner.target;
            let mut measured = send_and_measure(target, connection, request_now, self.start).await;
            let (is_ok, is_failed) = (measured.sample.is_ok(), measured.sample.is_failed());
            let answer = std::mem::take(&mut measured.answer);
            if self.send.send(measured).await.is_err() {
                return Talk::Unheard;
            }
            if is_failed {
                return Talk::Failed;
            }
            if !is_ok || !has_next {
                return Talk::Over;
            }
            conversation.add_answer(&answer);
            pause(conversation.think_time()).await;
            let Some(next) = self.next(&mut conversation) else { return Talk::Over };
            // A person has no schedule: the turn is due when it begins.
            due = Instant::now();
            if !self.take(due) {
                return Talk::Over;
            }
            (request, turn) = (next, turn + 1);
        }
    }

    fn load_request(&self, request: Request, turn: u32, due: Instant) -> LoadRequest {
        let number = self.runner.number.fetch_add(1, Ordering::Relaxed);
        let config = &self.runner.config;
        LoadRequest {
            id: format!("bench-{:08x}-{number}", self.runner.run),
            turn,
            body: Bytes::from(request.body),
            provider: config.provider,
            key: config.key.clone(),
            stream: config.stream,
            choices: request.choices,
            has_next: request.has_next,
            cancel_after: request.cancel_after,
            due,
            timeout: config.timeout,
        }
    }

    /// The starts of an open loop: the next one's conversation, its first request and its time. The
    /// right to send it is taken when it is due.
    pub(super) fn starts(&self) -> impl Iterator<Item = Due> + use<> {
        let round = self.clone();
        let mut times = workload::arrival::Starts::new(&round.runner.config.arrival, round.seed);
        std::iter::from_fn(move || {
            let due = round.start + times.next()?;
            let mut conversation = round.conversation();
            let request = round.next(&mut conversation)?;
            Some(Due { conversation, request, due })
        })
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
