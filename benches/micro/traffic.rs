//! Cost of authentication and rate limit decisions, without sockets.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use lens::Tick;
use traffic::settings::{
    DOLLAR, Key, Limit, OnExhausted, Per, Price, Proof, Quota, Shared, Unit, Window,
};
use traffic::{
    Caller, Denied, KeyHasher, Keys, LimitRequest, Now, RateLimits, TokenCache, TokenUsage,
};

/// Number of keys.
const KEYS: usize = 10_000;

pub fn identity(c: &mut Criterion) {
    let hasher = KeyHasher::new("a secret of the bench");
    let key = |at: usize| Key {
        id: format!("k_{at}").into(),
        proof: Proof::Key(hasher.hash(&format!("llk_{at:064}"))),
        owner: format!("owner-{}", at % 100).into(),
        expires: None,
        routes: vec![],
        models: vec![],
        priority: 5,
        limits: Default::default(),
        unused_limits: vec![],
    };
    let keys = Keys::new(hasher.clone(), (0..KEYS).map(key).collect());
    let mut group = c.benchmark_group("identity");
    group.throughput(Throughput::Elements(1));
    let good = format!("llk_{:064}", 4711);
    group.bench_function("by key, one of 10,000", |b| {
        b.iter(|| assert!(keys.find(black_box(&good), 1).is_some()))
    });
    group.bench_function("by an unknown key", |b| {
        b.iter(|| assert!(keys.find(black_box("llk_none"), 1).is_none()))
    });
    // A token of about 800 bytes, one of 10,000 in the cache.
    let remembered = TokenCache::default();
    let token = |at: usize| format!("{}.{at:08}{}", "h".repeat(60), "p".repeat(740));
    let caller = Arc::new(Caller::anonymous());
    (0..KEYS).for_each(|at| remembered.keep(TokenCache::hash(&token(at)), &caller, 0, 1));
    let good = token(4711);
    group.bench_function("by a token that is remembered", |b| {
        b.iter(|| {
            assert!(
                remembered
                    .find(&TokenCache::hash(black_box(&good)), 1)
                    .is_ok_and(|caller| caller.is_some())
            )
        });
    });
    group.finish();
}

fn limit(unit: Unit, per: Per, shared: Option<Shared>) -> Limit {
    let window = if unit == Unit::Streams {
        Window::AtATime
    } else {
        Window::Rolling(Duration::from_secs(60))
    };
    let amount = if unit == Unit::Cost { DOLLAR * 1000 } else { 1 << 40 };
    let name = format!("{}-{}", unit.name(), per.name()).into();
    let quota = Quota { amount, window, burst: amount };
    Limit {
        name,
        unit,
        quota,
        per,
        routes: vec![],
        models: vec![],
        owners: vec![],
        warn_at: 0,
        on_exhausted: OnExhausted::Length,
        shared,
    }
}

pub fn decision(c: &mut Criterion) {
    let price =
        Price { models: vec![], input: 1000, cached_input: 100, output: 5000, reasoning: 5000 };
    let (route, model): (Arc<str>, Arc<str>) = ("chat".into(), "m".into());
    let callers: Vec<Caller> = (0..KEYS)
        .map(|at| Caller {
            id: format!("k_{at}").into(),
            owner: format!("o{}", at % 100).into(),
            ..Caller::anonymous()
        })
        .collect();
    let mut group = c.benchmark_group("limits");
    group.throughput(Throughput::Elements(1));
    let one = vec![limit(Unit::TotalTokens, Per::Key, None)];
    let five = vec![
        limit(Unit::Requests, Per::Key, None),
        limit(Unit::TotalTokens, Per::Key, None),
        limit(Unit::OutputTokens, Per::Owner, None),
        limit(Unit::Streams, Per::Key, None),
        limit(Unit::Cost, Per::Owner, None),
    ];
    let shared = vec![limit(
        Unit::TotalTokens,
        Per::Key,
        Some(Shared { prefix: "bench".into(), replicas: 4 }),
    )];
    for (name, settings) in [
        ("one local limit: reserved and settled", one),
        ("five local limits: reserved and settled", five),
        ("one leased limit: reserved and settled", shared),
    ] {
        let limits = RateLimits::new(&settings, std::slice::from_ref(&price), None);
        let (mut at, mut now) = (0, 0);
        let used = TokenUsage { input: 100, output: 50, ..TokenUsage::default() };
        group.bench_function(name, |b| {
            b.iter(|| {
                (at, now) = ((at + 7919) % KEYS, now + 1000);
                let when = Now { tick: Tick(now), wall_us: now / 1000 };
                let expected = TokenUsage { output: 512, ..used };
                let asked = LimitRequest {
                    caller: &callers[at],
                    route: &route,
                    model: "m",
                    declared_model: &model,
                    address: None,
                    expected,
                    reserved_output: u64::MAX,
                };
                let mut charge = match limits.reserve(black_box(&asked), None, when) {
                    Ok(charge) => charge,
                    // The first request of each account: grant a slice for the whole bench.
                    Err(Denied::Short(wanted)) => {
                        wanted.iter().for_each(|wanted| wanted.granted(1 << 40));
                        limits.reserve(&asked, None, when).expect("it was granted")
                    }
                    Err(Denied::Limited(limited)) => panic!("{limited:?}"),
                };
                charge.settle(&used, when);
            });
        });
    }
    group.finish();
}
