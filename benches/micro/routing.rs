//! Cost of selecting among many backends, without sockets.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use lens::Tick;
use routing::settings::{Balance, By, PoolSettings};
use routing::{AttemptResult, BalanceRequest, Member, Pool, RequestSize};

const QUESTION: RequestSize = RequestSize { prompt: 400, output: 200 };

/// A pool with measurements of all backends.
fn pool(balance: Balance, members: usize) -> Pool {
    let members = (0..members)
        .map(|n| Arc::new(Member::new(format!("backend-{n}").into(), 1, Tick(0))))
        .collect();
    let pool = Pool::new(PoolSettings { balance, ..PoolSettings::named("bench") }, members, 7);
    for at in 0..pool.members().len() {
        for n in 0..8 {
            let attempt = pool.begin(at, QUESTION).expect("a member");
            attempt.first_token(Duration::from_millis(50 + n), pool.settings.decay, Tick(n));
            pool.end(attempt, AttemptResult::Success, Tick(n));
        }
    }
    pool
}

pub fn choice(c: &mut Criterion) {
    let mut group = c.benchmark_group("routing");
    group.throughput(Throughput::Elements(1));
    let rules = [
        ("peak_ewma", Balance::PeakEwma),
        ("least_tokens", Balance::LeastTokens),
        ("round_robin", Balance::RoundRobin),
        ("hash", Balance::Hash(By::Caller)),
    ];
    for (name, balance) in rules {
        for members in [100, 1000] {
            let pool = pool(balance.clone(), members);
            let wish =
                BalanceRequest { tokens: 600, key: Some(b"a key"), ..BalanceRequest::default() };
            group.bench_function(format!("{name} of {members}"), |b| {
                b.iter(|| pool.choose(black_box(&wish), Tick(1_000_000)))
            });
        }
    }
    let pool = pool(Balance::Prefix, 100);
    let prompt = "The quick brown fox jumps over the lazy dog; ".repeat((32 << 10) / 45);
    let mut prefix = Vec::with_capacity(128);
    group.bench_function("prefix of 100, a prompt of 32 KiB", |b| {
        b.iter(|| {
            prefix.clear();
            routing::blocks(b"m", [black_box(prompt.as_bytes())].into_iter(), &mut prefix);
            let choice = pool
                .choose(
                    &BalanceRequest { tokens: 600, prefix: &prefix, ..BalanceRequest::default() },
                    Tick(1_000_000),
                )
                .expect("a member");
            pool.remember(&prefix, choice.at);
            choice
        });
    });
    group.bench_function("an attempt begun, learnt from and ended", |b| {
        b.iter(|| {
            let attempt = pool.begin(black_box(3), QUESTION).expect("a member");
            pool.first_token(&attempt, Duration::from_millis(50), Tick(1));
            pool.end(attempt, AttemptResult::Success, Tick(1))
        });
    });
    group.finish();
}
