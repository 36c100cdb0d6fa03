//! Pools in front of a queueing model of engines: what each rule does to the tail, and a day in
//! which backends come and go.
//!
//! The model has what makes engines unlike web servers: a step takes a time for each token that is
//! read and for each answer that runs, answers run together, their tokens take room in a cache that
//! is bounded, and a prompt whose beginning is in the cache is read faster. Times of a step are of
//! the size of a 7B model on one GPU. Everything is of one seed: the same run each time.
//!
//! `cargo test -p llm-lens-routing --test simulation -- --nocapture` prints the table of
//! `docs/routing.md`.

#![expect(clippy::too_many_lines, reason = "a scenario reads top to bottom")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lens::Tick;
use routing::settings::{Balance, By, PoolSettings};
use routing::{AnswerTimes, Attempt, AttemptResult, BalanceRequest, Member, Pool, RequestSize};

/// Microseconds.
const MS: u64 = 1000;
const SECOND: u64 = 1_000_000;
/// Tokens of a block of the cache, and of one hash.
const BLOCK: u64 = 128;

/// Numbers that look random.
struct Draw(u64);

impl Draw {
    fn share(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.share()).ln()
    }

    fn below(&mut self, most: u64) -> u64 {
        (self.share() * most as f64) as u64
    }
}

/// A request on its way.
struct Request {
    arrived: u64,
    prompt: u64,
    output: u64,
    prefix: Vec<u64>,
    attempt: Attempt,
    first_at: Option<u64>,
    made: u64,
    /// Tokens of the prompt that are yet to be read.
    unread: u64,
}

/// An engine that batches.
struct Engine {
    /// How much slower than the others.
    factor: f64,
    waiting: VecDeque<Request>,
    running: Vec<Request>,
    /// When its step ends; `None`: it rests.
    step_ends: Option<u64>,
    /// The blocks it has read, the newest last.
    cache: HashSet<u64>,
    order: VecDeque<u64>,
    is_up: bool,
}

/// Tokens of the cache, answers at a time, and tokens read in a step.
const CACHE: u64 = 60_000;
const BATCH: usize = 32;
const READ: u64 = 2048;

impl Engine {
    fn new(factor: f64) -> Self {
        Engine {
            factor,
            waiting: VecDeque::new(),
            running: Vec::new(),
            step_ends: None,
            cache: HashSet::new(),
            order: VecDeque::new(),
            is_up: true,
        }
    }

    fn take(&mut self, mut request: Request) {
        let known = request.prefix.iter().take_while(|block| self.cache.contains(*block)).count()
            as u64
            * BLOCK;
        request.unread = request.prompt.saturating_sub(known).max(1);
        for block in request.prefix.clone() {
            if self.cache.insert(block) {
                self.order.push_back(block);
            }
        }
        while self.order.len() as u64 * BLOCK > CACHE {
            if let Some(old) = self.order.pop_front() {
                self.cache.remove(&old);
            }
        }
        self.waiting.push_back(request);
    }

    /// Start a step: admit requests that fit, prefill some of the prompts, generate a token for the
    /// others.
    fn step(&mut self, now: u64) {
        let mut held: u64 =
            self.running.iter().map(|request| request.prompt + request.output).sum();
        while let Some(next) = self.waiting.front() {
            let needs = next.prompt + next.output;
            if self.running.len() >= BATCH || (held + needs > CACHE && !self.running.is_empty()) {
                break;
            }
            held += needs;
            self.running.extend(self.waiting.pop_front());
        }
        let mut room = READ;
        for request in &mut self.running {
            let read = request.unread.min(room);
            request.unread -= read;
            room -= read;
        }
        let cost = 6.0 + (READ - room) as f64 * 0.06 + self.running.len() as f64 * 0.2;
        self.step_ends =
            (!self.running.is_empty()).then(|| now + (cost * self.factor * MS as f64) as u64);
    }

    /// The step is over: returns generated tokens and finished requests.
    fn end_step(&mut self, now: u64) -> Vec<Request> {
        for request in self.running.iter_mut().filter(|request| request.unread == 0) {
            request.first_at.get_or_insert(now);
            request.made += 1;
        }
        let (done, running) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(|request| request.made >= request.output);
        self.running = running;
        self.step_ends = None;
        done
    }
}

/// What comes in.
struct Workload {
    /// Requests in a second.
    rate: f64,
    seconds: u64,
    /// Prompts begin with one of so many long beginnings; 0: with none.
    beginnings: u64,
    mean_output: f64,
}

/// What one request is like.
struct Arrival {
    question: RequestSize,
    prefix: Vec<u64>,
    key: [u8; 8],
}

impl Workload {
    fn arrival(&self, draw: &mut Draw, session: u64) -> Arrival {
        let shared = if self.beginnings > 0 { 1024 } else { 0 };
        let beginning = draw.below(self.beginnings.max(1));
        let prompt = shared + 20 + draw.exponential(300.0) as u64;
        let block = |at: u64| {
            if at * BLOCK < shared { (beginning << 16) + at + 1 } else { (session << 32) + at + 1 }
        };
        let prefix = (0..prompt / BLOCK).map(|at| spread(block(at))).collect();
        let output = 1 + draw.exponential(self.mean_output) as u64;
        // Five hundred users, or one for each beginning.
        let key = if self.beginnings > 0 { beginning } else { draw.below(500) }.to_le_bytes();
        Arrival { question: RequestSize { prompt, output }, prefix, key }
    }
}

/// What came out.
#[derive(Debug, Default)]
struct Report {
    ttft: Vec<u64>,
    lost: usize,
    asked: Vec<usize>,
    hit: f64,
}

impl Report {
    fn quantile(&self, share: f64) -> f64 {
        self.ttft
            .get((self.ttft.len() as f64 * share) as usize)
            .map_or(f64::NAN, |us| *us as f64 / MS as f64)
    }
}

fn pool(balance: Balance, engines: &[Engine], now: u64) -> Pool {
    let members = (0..engines.len())
        .map(|n| Arc::new(Member::new(format!("e{n}").into(), 1, tick(now))))
        .collect();
    Pool::new(
        PoolSettings { balance, slow_start: Duration::from_secs(10), ..PoolSettings::named("p") },
        members,
        7,
    )
}

/// Spreads the bits of a number over all others, as a hash does.
fn spread(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

fn tick(us: u64) -> Tick {
    Tick(us * 1000)
}

/// Which engine a member of the pool is.
fn engine_of(pool: &Pool, at: usize) -> usize {
    pool.members()[at].name[1..].parse().expect("the number of an engine")
}

/// The engine that takes a request. One that is down refuses at once, and another is tried.
fn ask(
    pool: &Pool,
    engines: &[Engine],
    question: &RequestSize,
    prefix: &[u64],
    key: &[u8],
    now: u64,
) -> Option<(usize, Attempt)> {
    let mut tried = Vec::new();
    loop {
        let request = BalanceRequest {
            tokens: question.tokens(),
            key: Some(key),
            prefix,
            tried: &tried,
            unfit: &[],
            again: false,
        };
        let choice = pool.choose(&request, tick(now))?;
        pool.remember(prefix, choice.at);
        let attempt = pool.begin(choice.at, *question)?;
        let engine = engine_of(pool, choice.at);
        if engines[engine].is_up {
            return Some((engine, attempt));
        }
        pool.end(attempt, AttemptResult::Failure, tick(now));
        tried.push(choice.at);
    }
}

/// Run a workload. `each_second` may change engines and pool.
fn run(
    mut pool: Pool,
    mut engines: Vec<Engine>,
    load: &Workload,
    mut each_second: impl FnMut(u64, &mut Pool, &mut [Engine]),
) -> (Report, Pool) {
    let mut draw = Draw(11);
    let mut events = BinaryHeap::new();
    let (arrival, step, clock) = (0usize, 1usize, usize::MAX);
    events.push(Reverse((0u64, arrival)));
    events.push(Reverse((0u64, clock)));
    let mut report = Report { asked: vec![0; engines.len()], ..Report::default() };
    let end = load.seconds * SECOND;
    let mut session = 0u64;
    while let Some(Reverse((now, event))) = events.pop() {
        if event == clock {
            if now < end {
                pool.members().iter().for_each(|member| member.tick());
                pool.tick(tick(now));
                each_second(now / SECOND, &mut pool, &mut engines);
                events.push(Reverse((now + SECOND, clock)));
            }
        } else if event == arrival {
            if now >= end {
                continue;
            }
            events
                .push(Reverse((now + draw.exponential(SECOND as f64 / load.rate) as u64, arrival)));
            session = session.wrapping_add(1);
            let Arrival { question, prefix, key } = load.arrival(&mut draw, session);
            let request = ask(&pool, &engines, &question, &prefix, &key, now);
            let Some((place, attempt)) = request else {
                report.lost += 1;
                continue;
            };
            report.asked[place] += 1;
            let engine = &mut engines[place];
            let RequestSize { prompt, output } = question;
            engine.take(Request {
                arrived: now,
                prompt,
                output,
                prefix,
                attempt,
                first_at: None,
                made: 0,
                unread: 0,
            });
            if engine.step_ends.is_none() {
                engine.step(now);
                events.extend(engine.step_ends.map(|ends| Reverse((ends, step + place))));
            }
        } else {
            let place = event - step;
            let done = engines[place].end_step(now);
            let firsts = engines[place]
                .running
                .iter()
                .chain(&done)
                .filter(|request| request.first_at == Some(now));
            for request in firsts {
                let took = now - request.arrived;
                report.ttft.push(took);
                pool.first_token(&request.attempt, Duration::from_micros(took), tick(now));
            }
            for request in done {
                let first_at = request.first_at.unwrap_or(now);
                let each = (now - first_at) / request.made.max(1);
                let [first, last, each] = [first_at - request.arrived, now - request.arrived, each]
                    .map(Duration::from_micros);
                request.attempt.paced(&AnswerTimes { first, last, each });
                pool.end(request.attempt, AttemptResult::Success, tick(now));
            }
            engines[place].step(now);
            events.extend(engines[place].step_ends.map(|ends| Reverse((ends, step + place))));
        }
    }
    report.ttft.sort_unstable();
    let (looked, found) = pool.prefix_blocks();
    report.hit = found as f64 / looked.max(1) as f64;
    (report, pool)
}

fn rules() -> [(&'static str, Balance); 8] {
    [
        ("round_robin", Balance::RoundRobin),
        ("weighted", Balance::Weighted),
        ("hash", Balance::Hash(By::Caller)),
        ("session", Balance::Session(By::Caller)),
        ("least_requests", Balance::LeastRequests),
        ("least_tokens", Balance::LeastTokens),
        ("peak_ewma", Balance::PeakEwma),
        ("prefix", Balance::Prefix),
    ]
}

/// The tail of every rule, in three pools: equal engines, two that are three times slower, and
/// prompts that share their beginnings.
#[test]
fn what_each_rule_does_to_the_tail() {
    let scenarios: [(&str, &[f64], Workload); 3] = [
        (
            "equal engines",
            &[1.0; 6],
            Workload { rate: 42.0, seconds: 240, beginnings: 0, mean_output: 120.0 },
        ),
        (
            "two of six are three times slower",
            &[1.0, 1.0, 1.0, 1.0, 3.0, 3.0],
            Workload { rate: 28.0, seconds: 240, beginnings: 0, mean_output: 120.0 },
        ),
        (
            "forty beginnings of 1,024 tokens",
            &[1.0; 6],
            Workload { rate: 34.0, seconds: 240, beginnings: 40, mean_output: 60.0 },
        ),
    ];
    let mut tails = std::collections::BTreeMap::new();
    for (scenario, factors, load) in &scenarios {
        println!("\n| {scenario} | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|");
        for (name, balance) in rules() {
            let engines = || factors.iter().map(|factor| Engine::new(*factor)).collect::<Vec<_>>();
            let (report, pool) = run(pool(balance, &engines(), 0), engines(), load, |_, _, _| {});
            assert_eq!(report.lost, 0);
            assert!(
                pool.members().iter().all(|member| member.requests() == 0 && member.tokens() == 0),
                "nothing is left in flight"
            );
            let hit = if report.hit > 0.0 {
                format!(" ({:.0} % of blocks found)", report.hit * 100.0)
            } else {
                String::new()
            };
            println!(
                "| {name}{hit} | {:.0} | {:.0} | {:.0} |",
                report.quantile(0.5),
                report.quantile(0.95),
                report.quantile(0.99)
            );
            tails.insert((*scenario, name), report.quantile(0.99));
        }
    }
    let tail = |scenario: usize, rule: &'static str| tails[&(scenarios[scenario].0, rule)];
    assert!(tail(1, "peak_ewma") < tail(1, "round_robin") / 1.5, "who is slow is asked less");
    assert!(tail(1, "least_tokens") < tail(1, "round_robin") / 1.5);
    assert!(tail(0, "peak_ewma") < tail(0, "weighted"), "and equals are not worse off than by lot");
    assert!(tail(2, "prefix") < tail(2, "peak_ewma"), "caches are worth going back to");
}

/// The same seed and times give the same choices.
#[test]
fn the_same_run_twice_is_the_same() {
    for (_, balance) in rules() {
        let load = Workload { rate: 30.0, seconds: 20, beginnings: 5, mean_output: 40.0 };
        let engines = || (0..4).map(|_| Engine::new(1.0)).collect::<Vec<_>>();
        let [one, other] = [0, 1]
            .map(|_| run(pool(balance.clone(), &engines(), 0), engines(), &load, |_, _, _| {}).0);
        assert_eq!((one.ttft, one.asked), (other.ttft, other.asked));
    }
}

/// A day: each engine is down for some minutes now and then; at each half hour one is taken out of
/// the pool, or comes back as an unknown one, which is what discovery does; and the settings are
/// read again.
#[test]
fn a_day_in_which_backends_come_and_go() {
    const HOURS: u64 = 24;
    const ENGINES: usize = 6;
    let load = Workload { rate: 2.0, seconds: HOURS * 3600, beginnings: 20, mean_output: 12.0 };
    for balance in [Balance::PeakEwma, Balance::Prefix, Balance::LeastTokens] {
        let engines: Vec<Engine> =
            (0..ENGINES).map(|n| Engine::new(if n == 4 { 2.0 } else { 1.0 })).collect();
        let mut draw = Draw(5);
        let mut down_until = [0u64; ENGINES];
        let (mut by_hour, mut before) = (vec![[0u64; ENGINES]; HOURS as usize], [0u64; ENGINES]);
        let mut gone: Vec<(usize, std::sync::Weak<Member>)> = Vec::new();
        let (report, pool) =
            run(pool(balance.clone(), &engines, 0), engines, &load, |second, pool, engines| {
                for (at, engine) in engines.iter_mut().enumerate() {
                    if down_until[at] <= second && draw.share() < 1.0 / 14_400.0 {
                        down_until[at] = second + 60 + draw.below(600);
                    }
                    engine.is_up = down_until[at] <= second;
                }
                for (at, member) in pool.members().iter().enumerate() {
                    let (engine, asked) = (engine_of(pool, at), member.totals().0);
                    by_hour[(second / 3600) as usize][engine] += asked - before[engine];
                    before[engine] = asked;
                }
                if second % 1800 == 900 {
                    let mut members = pool.members().to_vec();
                    match gone.last().filter(|_| members.len() < ENGINES) {
                        Some((engine, _)) => {
                            members.push(Arc::new(Member::new(
                                format!("e{engine}").into(),
                                1,
                                tick(second * SECOND),
                            )));
                            before[*engine] = 0;
                        }
                        None => {
                            let out = members.remove(draw.below(members.len() as u64) as usize);
                            gone.push((
                                out.name[1..].parse().expect("a number"),
                                Arc::downgrade(&out),
                            ));
                        }
                    }
                    *pool = Pool::new(pool.settings.clone(), members, second).after(pool);
                }
            });
        assert_eq!(report.lost, 0, "{balance:?}: a backend is always available");
        assert!(report.ttft.len() as f64 > load.rate * load.seconds as f64 * 0.98);
        assert!(
            pool.members().iter().all(|member| member.requests() == 0 && member.tokens() == 0),
            "nothing leaks"
        );
        assert!(
            gone.len() >= 20 && gone.iter().all(|(_, member)| member.upgrade().is_none()),
            "of who is gone nothing is left"
        );
        assert!(
            by_hour.iter().flatten().all(|asked| *asked > 30),
            "{balance:?}: no backend starves: {by_hour:?}"
        );
        assert!(report.quantile(0.99) < 2000.0, "{balance:?}: {}", report.quantile(0.99));
    }
}
