//! Simulates routing with scripted backends and clients in simulated time, as a reference for tests
//! with real processes.
//!
//! Each client sends one request after another. Backends answer as scripted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use lens::Tick;
use routing::settings::PoolSettings;
use routing::{Attempt, AttemptResult, BalanceRequest, Member, Pool, RequestSize};

/// How a backend answers.
#[derive(Clone, Copy, Debug)]
pub enum Answers {
    /// First token after the first duration, end after the second one.
    After(Duration, Duration),
    /// First token after the first duration, then nothing; the failure is detected after the second
    /// one.
    Freezes(Duration, Duration),
    /// Fails at once.
    Dies,
}

/// Results of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Times to first token, sorted.
    pub ttft: Vec<Duration>,
    /// Requests whose client saw a failure.
    pub broken: usize,
    /// Attempts at each backend.
    pub asked: Vec<usize>,
}

/// Clients in front of a pool.
pub struct Scenario {
    pool: Pool,
    now: u64,
    /// Maximum retries of a request.
    retries: usize,
}

/// A client, and the answer that it waits for.
struct Client {
    left: usize,
    began: u64,
    attempt: Option<(Attempt, Answers)>,
    has_token: bool,
}

const SECOND: u64 = 1_000_000_000;

impl Scenario {
    /// A pool of `backends` backends.
    pub fn new(settings: PoolSettings, backends: usize, retries: usize, seed: u64) -> Scenario {
        let members = (0..backends)
            .map(|n| Arc::new(Member::new(format!("b{n}").into(), 1, Tick(1))))
            .collect();
        Scenario { pool: Pool::new(settings, members, seed), now: 1, retries }
    }

    /// Runs `requests` requests of `clients` concurrent clients.
    pub fn run(&mut self, clients: usize, requests: usize, backends: &[Answers]) -> Outcome {
        let mut outcome = Outcome { asked: vec![0; backends.len()], ..Outcome::default() };
        let new =
            |_| Client { left: requests / clients, began: 0, attempt: None, has_token: false };
        let mut all: Vec<Client> = (0..clients).map(new).collect();
        let mut events: BinaryHeap<_> =
            (0..clients).map(|client| Reverse((self.now, client))).collect();
        let mut next_tick = (self.now / SECOND + 1) * SECOND;
        while let Some(Reverse((now, who))) = events.pop() {
            while next_tick <= now {
                self.pool.members().iter().for_each(|member| member.tick());
                self.pool.tick(Tick(next_tick));
                next_tick += SECOND;
            }
            self.now = now;
            let next = self.step(&mut all[who], backends, &mut outcome);
            events.extend(next.map(|after| Reverse((now + after.as_nanos() as u64, who))));
        }
        outcome.ttft.sort();
        outcome
    }

    /// Processes the next event of a client; returns the time until its event after that.
    fn step(
        &mut self,
        client: &mut Client,
        backends: &[Answers],
        outcome: &mut Outcome,
    ) -> Option<Duration> {
        let now = Tick(self.now);
        if let Some((attempt, answers)) = client.attempt.take() {
            if !client.has_token {
                let took = Duration::from_nanos(self.now - client.began);
                self.pool.first_token(&attempt, took, now);
                outcome.ttft.push(took);
                client.has_token = true;
                client.attempt = Some((attempt, answers));
                return match answers {
                    Answers::After(_, then) | Answers::Freezes(_, then) => Some(then),
                    Answers::Dies => None,
                };
            }
            let freezes = matches!(answers, Answers::Freezes(..));
            outcome.broken += usize::from(freezes);
            self.pool.end(
                attempt,
                if freezes { AttemptResult::Failure } else { AttemptResult::Success },
                now,
            );
        }
        client.left = client.left.checked_sub(1)?;
        (client.began, client.has_token) = (self.now, false);
        self.send(client, backends, outcome).or_else(|| {
            outcome.broken += 1;
            Some(Duration::from_millis(1))
        })
    }

    /// Tries backends until one of them does not fail at once.
    fn send(
        &self,
        client: &mut Client,
        backends: &[Answers],
        outcome: &mut Outcome,
    ) -> Option<Duration> {
        let mut tried = Vec::new();
        while tried.len() <= self.retries {
            let question = RequestSize { prompt: 1, output: 100 };
            let choice = self.pool.choose(
                &BalanceRequest {
                    tokens: question.tokens(),
                    tried: &tried,
                    ..BalanceRequest::default()
                },
                Tick(self.now),
            )?;
            let attempt = self.pool.begin(choice.at, question)?;
            outcome.asked[choice.at] += 1;
            match backends[choice.at] {
                Answers::Dies => {
                    let _ = self.pool.end(attempt, AttemptResult::Failure, Tick(self.now));
                }
                answers @ (Answers::After(first, _) | Answers::Freezes(first, _)) => {
                    client.attempt = Some((attempt, answers));
                    return Some(first);
                }
            }
            tried.push(choice.at);
        }
        None
    }
}
