//! Faulty backends under an open load: a backend that fails at once, refuses or hangs must not look
//! like the one that has least to do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use lens::Tick;
use routing::settings::{Balance, PoolSettings};
use routing::{Attempt, AttemptResult, BalanceRequest, Member, Pool, RequestSize};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// Requests come this often, for that long.
const EVERY: u64 = 20 * MS;
const SPAN: u64 = 60 * SECOND;
/// A question of the mean size.
const QUESTION: RequestSize = RequestSize { prompt: 400, output: 100 };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// The first token after 100 ms, the end soon after.
    Answers,
    /// 429, at once.
    Refuses,
    /// Nothing but an error, at once.
    Fails,
    /// Nothing at all, and that is not noticed for longer than this lasts.
    Hangs,
}

/// Of all requests: first attempts by backend, unanswered requests, and those that hang.
#[derive(Debug, Default)]
struct Seen {
    first: Vec<usize>,
    lost: usize,
    hung: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Token(usize),
    Ends(usize),
}

/// A request, and the backends that it tried.
#[derive(Default)]
struct Request {
    attempt: Option<Attempt>,
    began: u64,
    tried: Vec<usize>,
}

struct Simulation<'b> {
    pool: Pool,
    backends: &'b [Does],
    now: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    requests: Vec<Request>,
    seen: Seen,
}

impl Simulation<'_> {
    /// In the first ten seconds all are well.
    fn counts(&self) -> bool {
        self.now > 10 * SECOND
    }

    fn does(&self, backend: usize) -> Does {
        if self.counts() { self.backends[backend] } else { Does::Answers }
    }

    fn ask(&mut self, number: usize) {
        let tried = self.requests[number].tried.clone();
        let request = BalanceRequest {
            tokens: QUESTION.tokens(),
            tried: &tried,
            ..BalanceRequest::default()
        };
        let Some(choice) = self.pool.choose(&request, Tick(self.now)) else {
            self.seen.lost += usize::from(self.counts());
            return;
        };
        if tried.is_empty() && self.counts() {
            self.seen.first[choice.at] += 1;
        }
        let request = &mut self.requests[number];
        (request.attempt, request.began) = (self.pool.begin(choice.at, QUESTION), self.now);
        request.tried.push(choice.at);
        let (now, does) = (self.now, self.does(choice.at));
        let mut push = |after: u64, event| self.events.push(Reverse((now + after, event)));
        match does {
            Does::Answers => {
                push(100 * MS, Event::Token(number));
                push(150 * MS, Event::Ends(number));
            }
            Does::Refuses | Does::Fails => push(MS, Event::Ends(number)),
            Does::Hangs => self.seen.hung += 1,
        }
    }

    fn ends(&mut self, number: usize) {
        let request = &mut self.requests[number];
        let (Some(attempt), Some(backend)) =
            (request.attempt.take(), request.tried.last().copied())
        else {
            return;
        };
        let (tried, now) = (request.tried.len(), Tick(self.now));
        let ended = match self.does(backend) {
            Does::Refuses => AttemptResult::Overloaded,
            Does::Fails => AttemptResult::Failure,
            Does::Answers | Does::Hangs => AttemptResult::Success,
        };
        self.pool.end(attempt, ended, now);
        if ended == AttemptResult::Success {
            return;
        }
        if tried <= 2 && self.pool.retries.spend(0.2, 3, now) {
            self.ask(number);
        } else {
            self.seen.lost += 1;
        }
    }
}

/// Requests under a budget for retries of a fifth.
fn run(balance: Balance, backends: &[Does]) -> Seen {
    let members = (0..backends.len())
        .map(|n| Arc::new(Member::new(format!("b{n}").into(), 1, Tick(1))))
        .collect();
    let pool = Pool::new(PoolSettings { balance, ..PoolSettings::named("p") }, members, 7);
    let seen = Seen { first: vec![0; backends.len()], ..Seen::default() };
    let events = (0..(10 * SECOND + SPAN) / EVERY)
        .map(|n| Reverse((1 + n * EVERY, Event::Arrives)))
        .collect();
    let mut simulation = Simulation { pool, backends, now: 0, events, requests: Vec::new(), seen };
    let mut next_tick = SECOND;
    while let Some(Reverse((now, event))) = simulation.events.pop() {
        while next_tick <= now {
            simulation.pool.tick(Tick(next_tick));
            next_tick += SECOND;
        }
        simulation.now = now;
        match event {
            Event::Arrives => {
                simulation.pool.retries.earn(Tick(now));
                simulation.requests.push(Request::default());
                simulation.ask(simulation.requests.len() - 1);
            }
            Event::Token(number) => {
                let Request { attempt, began, .. } = &simulation.requests[number];
                attempt.iter().for_each(|attempt| {
                    simulation.pool.first_token(
                        attempt,
                        Duration::from_nanos(now - began),
                        Tick(now),
                    )
                });
            }
            Event::Ends(number) => simulation.ends(number),
        }
    }
    simulation.seen
}

#[test]
fn a_backend_that_refuses_at_once_is_not_preferred() {
    for balance in
        [Balance::PeakEwma, Balance::LeastRequests, Balance::LeastTokens, Balance::Prefix]
    {
        for good in 1..=3 {
            let mut backends = vec![Does::Answers; good];
            backends.push(Does::Refuses);
            let seen = run(balance.clone(), &backends);
            let share = seen.first[good] as f64 / seen.first.iter().sum::<usize>() as f64;
            assert!(
                share < 0.15 && seen.lost == 0,
                "{balance:?} with {good}: {share:.2}, {seen:?}"
            );
        }
    }
}

/// Two of three fail, and at most half of them may be ejected.
#[test]
fn failing_backend_that_cannot_be_ejected_is_not_preferred() {
    let seen = run(Balance::PeakEwma, &[Does::Answers, Does::Fails, Does::Fails]);
    let share = seen.first[0] as f64 / seen.first.iter().sum::<usize>() as f64;
    assert!(share > 0.8 && seen.lost < 10, "{share:.2}, {seen:?}");
}

#[test]
fn a_hanging_backend_gets_no_more_requests_when_enough_wait_there() {
    for balance in [Balance::PeakEwma, Balance::LeastRequests, Balance::LeastTokens] {
        let seen =
            run(balance.clone(), &[Does::Answers, Does::Answers, Does::Answers, Does::Hangs]);
        assert!(seen.hung < 30, "{balance:?}: {seen:?}");
    }
}
