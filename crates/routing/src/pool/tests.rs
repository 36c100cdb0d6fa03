//! Tests of pools through their public interface. Longer than 500 lines because it is a list: one
//! test for each property of selection.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::settings::{By, Ejection};

const SECOND: u64 = 1_000_000_000;

fn pool(balance: Balance, members: usize) -> Pool {
    let members =
        (0..members).map(|n| Arc::new(Member::new(format!("b{n}").into(), 1, Tick(0)))).collect();
    Pool::new(PoolSettings { balance, ..PoolSettings::named("p") }, members, 42)
}

fn size(prompt: u64) -> RequestSize {
    RequestSize { prompt, output: 0 }
}

fn all_balances() -> [Balance; 8] {
    let by = || By::Header("x".into());
    [
        Balance::RoundRobin,
        Balance::Weighted,
        Balance::LeastRequests,
        Balance::LeastTokens,
        Balance::PeakEwma,
        Balance::Prefix,
        Balance::Session(by()),
        Balance::Hash(by()),
    ]
}

fn down(pool: &Pool, at: usize, now: Tick) {
    pool.members()[at].health.eject(Cause::Consecutive, &Ejection::default(), now);
}

/// Selections of each backend in a thousand requests that end immediately.
fn shares(pool: &Pool, now: Tick) -> Vec<usize> {
    let mut counts = vec![0; pool.members().len()];
    for n in 0..1000u64 {
        let key = n.to_le_bytes();
        let choice = pool
            .choose(
                &BalanceRequest { tokens: 10, key: Some(&key), ..BalanceRequest::default() },
                now,
            )
            .unwrap();
        counts[choice.at] += 1;
    }
    counts
}

#[test]
fn every_algorithm_balances_and_skips_ejected_backends() {
    for balance in all_balances() {
        let pool = pool(balance.clone(), 5);
        assert!(
            shares(&pool, Tick(0)).iter().all(|count| (120..300).contains(count)),
            "{balance:?} {:?}",
            shares(&pool, Tick(0))
        );
        down(&pool, 2, Tick(0));
        let counts = shares(&pool, Tick(1));
        assert_eq!(counts[2], 0, "{balance:?}");
        // Panic mode: all are eligible.
        (0..5).for_each(|at| down(&pool, at, Tick(1)));
        let choice = pool.choose(&BalanceRequest::default(), Tick(2)).unwrap();
        assert_eq!(choice.reason, Reason::Panic, "{balance:?}");
        let tried: Vec<usize> = (0..5).collect();
        assert_eq!(
            pool.choose(&BalanceRequest { tried: &tried, ..BalanceRequest::default() }, Tick(2)),
            None
        );
    }
}

fn weighted_pool(balance: Balance, weights: &[u32]) -> Pool {
    let members = weights.iter().enumerate();
    let members = members
        .map(|(n, weight)| Arc::new(Member::new(format!("b{n}").into(), *weight, Tick(0))))
        .collect();
    Pool::new(PoolSettings { balance, ..PoolSettings::named("p") }, members, 42)
}

#[test]
fn every_algorithm_gives_an_idle_backend_its_share_by_weight() {
    for balance in all_balances() {
        let counts = shares(&weighted_pool(balance.clone(), &[1, 2, 5]), Tick(0));
        for (count, wanted) in counts.iter().zip([125.0, 250.0, 625.0]) {
            let ratio = *count as f64 / wanted;
            assert!((0.7..1.3).contains(&ratio), "{balance:?} {counts:?}");
        }
    }
}

#[test]
fn load_is_by_weight_as_well() {
    let balances = [
        Balance::RoundRobin,
        Balance::LeastRequests,
        Balance::LeastTokens,
        Balance::PeakEwma,
        Balance::Prefix,
    ];
    for balance in balances {
        let pool = weighted_pool(balance.clone(), &[1, 2, 5]);
        let request = BalanceRequest { tokens: 10, ..BalanceRequest::default() };
        // None of them ends.
        let attempts: Vec<Attempt> = (0..800)
            .map(|_| pool.begin(pool.choose(&request, Tick(0)).unwrap().at, size(10)).unwrap())
            .collect();
        let loads: Vec<u64> = pool.members().iter().map(|member| member.requests()).collect();
        for (load, wanted) in loads.iter().zip([100.0, 200.0, 500.0]) {
            assert!((0.85..1.15).contains(&(*load as f64 / wanted)), "{balance:?} {loads:?}");
        }
        drop(attempts);
    }
}

#[test]
fn backend_in_slow_start_gets_its_share_of_an_idle_pool() {
    for balance in all_balances().into_iter().take(6) {
        let members = [0, 100].map(|since| {
            Arc::new(Member::new(format!("b{since}").into(), 1, Tick(since * SECOND)))
        });
        let settings = PoolSettings {
            balance: balance.clone(),
            slow_start: Duration::from_secs(10),
            ..PoolSettings::named("p")
        };
        let pool = Pool::new(settings, members.into(), 42);
        // A share of 0.25 beside one of 1.
        let counts = shares(&pool, Tick(102 * SECOND + SECOND / 2));
        assert!((130..270).contains(&counts[1]), "{balance:?} {counts:?}");
    }
}

#[test]
fn round_robin_is_exact_in_each_round_and_smooth() {
    let pool = weighted_pool(Balance::RoundRobin, &[1, 2, 5]);
    let choose = || pool.choose(&BalanceRequest::default(), Tick(0)).unwrap().at;
    for _ in 0..1000 {
        let round: Vec<usize> = (0..8).map(|_| choose()).collect();
        let counts = [0, 1, 2].map(|at| round.iter().filter(|chosen| **chosen == at).count());
        assert_eq!(counts, [1, 2, 5], "{round:?}");
        assert!(!round.windows(4).any(|four| four == [2, 2, 2, 2]), "{round:?}");
    }
    // An ejected backend leaves its turns to all others.
    let pool = weighted_pool(Balance::RoundRobin, &[1, 1, 1]);
    down(&pool, 0, Tick(0));
    assert_eq!(shares(&pool, Tick(1)), [0, 500, 500]);
    // When it is back, it does not make up for lost turns.
    let later = Tick(6 * SECOND);
    let probe = pool.choose(&BalanceRequest::default(), later).unwrap();
    assert_eq!(probe, Selection { at: 0, reason: Reason::HalfOpen });
    pool.end(pool.begin(0, size(1)).unwrap(), AttemptResult::Success, later);
    let choose = || pool.choose(&BalanceRequest::default(), later).unwrap().at;
    let turns: Vec<usize> = (0..6).map(|_| choose()).collect();
    assert_eq!(turns.iter().filter(|at| **at == 0).count(), 2, "{turns:?}");
}

/// One of three backends fails each request, which is retried on another one.
#[test]
fn a_retry_takes_no_turn_of_a_round() {
    let pool = weighted_pool(Balance::RoundRobin, &[1, 1, 1]);
    let mut first = [0; 3];
    let mut retried = [0; 3];
    for _ in 0..600 {
        let at = pool.choose(&BalanceRequest::default(), Tick(0)).unwrap().at;
        first[at] += 1;
        if at == 0 {
            let request = BalanceRequest { tried: &[0], ..BalanceRequest::default() };
            retried[pool.choose(&request, Tick(0)).unwrap().at] += 1;
        }
    }
    assert_eq!(first, [200, 200, 200]);
    assert!(retried[0] == 0 && (70..=130).contains(&retried[1]), "{retried:?}");
}

#[test]
fn ejected_backend_is_probed_once_a_second() {
    let pool = pool(Balance::PeakEwma, 3);
    down(&pool, 1, Tick(0));
    let later = Tick(5 * SECOND);
    assert_eq!(
        pool.choose(&BalanceRequest::default(), later),
        Some(Selection { at: 1, reason: Reason::HalfOpen })
    );
    assert!((0..50).all(|_| pool.choose(&BalanceRequest::default(), later).unwrap().at != 1));
    let attempt = pool.begin(1, size(0)).unwrap();
    assert_eq!(pool.end(attempt, AttemptResult::Success, later), Some(Change::Recovered));
    assert!((0..50).any(|_| pool.choose(&BalanceRequest::default(), later).unwrap().at == 1));
}

#[test]
fn ejections_respect_max_ejected_and_keep_one_backend() {
    for members in 1..8 {
        let pool = pool(Balance::RoundRobin, members);
        for _ in 0..10 {
            for at in 0..members {
                let attempt = pool.begin(at, size(0)).unwrap();
                pool.end(attempt, AttemptResult::Failure, Tick(1));
            }
        }
        let out = pool.members().iter().filter(|member| !member.health.is_in_rotation()).count();
        let most = if members == 1 { 0 } else { (members / 2).max(1) };
        assert_eq!(out, most, "of {members}");
    }
}

/// A failed probe ejects the backend for longer, even at `max_ejected`.
#[test]
fn failed_probes_become_rarer_at_max_ejected() {
    let pool = pool(Balance::RoundRobin, 2);
    let mut trials = 0;
    for second in 0..600 {
        let now = Tick(second * SECOND);
        let choice = pool.choose(&BalanceRequest::default(), now).unwrap();
        trials += usize::from(choice.at == 0);
        let attempt = pool.begin(choice.at, size(0)).unwrap();
        pool.end(
            attempt,
            if choice.at == 0 { AttemptResult::Failure } else { AttemptResult::Success },
            now,
        );
    }
    assert!(trials < 20, "{trials} in ten minutes");
}

/// A request that failed in another pool does not probe an ejected backend.
#[test]
fn a_retry_does_not_probe() {
    let pool = pool(Balance::RoundRobin, 2);
    for _ in 0..5 {
        let attempt = pool.begin(0, size(1)).unwrap();
        pool.end(attempt, AttemptResult::Failure, Tick(SECOND));
    }
    let now = Tick(60 * SECOND);
    assert_eq!(pool.members()[0].health().state(now), State::HalfOpen);
    let choose =
        |again| pool.choose(&BalanceRequest { again, ..BalanceRequest::default() }, now).unwrap();
    assert_eq!((choose(true).at, choose(true).at), (1, 1));
    assert_eq!(choose(false), Selection { at: 0, reason: Reason::HalfOpen });
}

/// After one very slow answer, a backend is selected again when the measurement has decayed.
#[test]
fn slow_answer_decays() {
    let pool = pool(Balance::PeakEwma, 2);
    for at in 0..2 {
        let attempt = pool.begin(at, size(10)).unwrap();
        pool.first_token(
            &attempt,
            Duration::from_millis(if at == 0 { 20_000 } else { 100 }),
            Tick(0),
        );
        pool.end(attempt, AttemptResult::Success, Tick(0));
    }
    let asked = |from: u64| {
        (0..600u64)
            .filter(|n| {
                let now = Tick((from + n / 10) * SECOND);
                let choice = pool
                    .choose(&BalanceRequest { tokens: 10, ..BalanceRequest::default() }, now)
                    .unwrap();
                let attempt = pool.begin(choice.at, size(10)).unwrap();
                pool.first_token(&attempt, Duration::from_millis(100), now);
                pool.end(attempt, AttemptResult::Success, now);
                choice.at == 0
            })
            .count()
    };
    let again = asked(120);
    // Its mean stays slightly above the other's, whose times are all equal. It must still be
    // selected at least once a second.
    assert!((50..=550).contains(&again), "{again}");
}

#[test]
fn a_slow_backend_is_ejected_and_weights_hold() {
    let pool = pool(Balance::PeakEwma, 4);
    for at in 0..4 {
        let attempt = pool.begin(at, size(1)).unwrap();
        pool.first_token(&attempt, Duration::from_millis(100), Tick(0));
        pool.end(attempt, AttemptResult::Success, Tick(0));
    }
    assert!(pool.tick(Tick(1)).is_empty());
    let slow = || {
        let attempt = pool.begin(3, size(1)).unwrap();
        pool.first_token(&attempt, Duration::from_millis(600), Tick(1));
        pool.end(attempt, AttemptResult::Success, Tick(1));
    };
    (0..2).for_each(|_| slow());
    assert!(pool.tick(Tick(1)).is_empty(), "two long prompts do not make a backend slow");
    slow();
    assert_eq!(pool.tick(Tick(1)), [(3, Change::Ejected(Cause::Slow, Duration::from_secs(5)))]);
    let members =
        [1, 3].map(|weight| Arc::new(Member::new(format!("w{weight}").into(), weight, Tick(0))));
    for balance in [Balance::Weighted, Balance::Hash(By::Caller), Balance::Session(By::Caller)] {
        let pool =
            Pool::new(PoolSettings { balance, ..PoolSettings::named("p") }, members.to_vec(), 1);
        let counts = shares(&pool, Tick(0));
        assert!((670..830).contains(&counts[1]), "{counts:?}");
    }
}

#[test]
fn key_keeps_its_backend_when_others_change() {
    let pool = pool(Balance::Session(By::Caller), 6);
    let home = |key: u64| {
        pool.choose(
            &BalanceRequest { key: Some(&key.to_le_bytes()), ..BalanceRequest::default() },
            Tick(1),
        )
        .unwrap()
        .at
    };
    let before: Vec<usize> = (0..300).map(home).collect();
    down(&pool, 4, Tick(0));
    for (key, at) in before.iter().enumerate() {
        assert!(*at == 4 || home(key as u64) == *at, "only keys of backend 4 move");
    }
}

#[test]
fn hash_avoids_a_busy_backend_and_session_does_not() {
    for (balance, moves) in
        [(Balance::Hash(By::Caller), true), (Balance::Session(By::Caller), false)]
    {
        let pool = pool(balance, 4);
        let request = BalanceRequest { tokens: 100, key: Some(b"k"), ..BalanceRequest::default() };
        let mut held = Vec::new();
        let mut homes = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let at = pool.choose(&request, Tick(0)).unwrap().at;
            homes.insert(at);
            held.extend(pool.begin(at, size(100)));
        }
        assert_eq!(homes.len() > 1, moves, "{homes:?}");
    }
}

#[test]
fn prompts_go_to_the_backend_with_their_prefix() {
    let pool = pool(Balance::Prefix, 4);
    let text = "x".repeat(4000);
    let mut prefix = Vec::new();
    crate::blocks(b"m", [text.as_bytes()].into_iter(), &mut prefix);
    let request = BalanceRequest { tokens: 10, prefix: &prefix, ..BalanceRequest::default() };
    let ask = || {
        let choice = pool.choose(&request, Tick(0))?;
        pool.remember(&prefix, choice.at);
        Some(choice)
    };
    assert_eq!(ask().unwrap().reason, Reason::Balanced);
    let again: Vec<Selection> = (0..400).filter_map(|_| ask()).collect();
    let kept = again
        .windows(2)
        .filter(|pair| pair[1].reason == Reason::Prefix && pair[0].at == pair[1].at)
        .count();
    assert!((360..=395).contains(&kept), "one in twenty explores, and moves the prefix: {kept}");
    let home = again.last().unwrap().at;
    let _busy: Vec<Attempt> = (0..30).filter_map(|_| pool.begin(home, size(100))).collect();
    assert_eq!(
        pool.choose(&request, Tick(0)).unwrap().reason,
        Reason::Balanced,
        "busy: the prefix is ignored"
    );
    let (looked, found) = pool.prefix_blocks();
    assert_eq!(looked, 402 * 7);
    assert!(found >= kept as u64 * 7);
}

proptest! {
    /// For any sequence of results: counts in flight match the open attempts, a tried backend is
    /// never selected, and only probes, panic mode and pools of one select an unhealthy backend.
    #[test]
    fn selected_backends_are_eligible(
        rule in 0usize..8,
        members in 1usize..9,
        steps in prop::collection::vec((0u64..2_000_000_000, 0usize..9, 0u8..4, 0u64..500), 1..120),
    ) {
        let pool = pool(all_balances()[rule].clone(), members);
        let (mut now, mut running) = (0, Vec::new());
        for (wait, pick, how, tokens) in steps {
            now += wait;
            let tried: Vec<usize> = if how == 3 { vec![pick % members] } else { vec![] };
            let key = tokens.to_le_bytes();
            let request = BalanceRequest {
                tokens,
                key: Some(&key),
                tried: &tried,
                ..BalanceRequest::default()
            };
            let well: Vec<bool> =
                pool.members().iter().map(|member| member.health.is_in_rotation()).collect();
            match pool.choose(&request, Tick(now)) {
                Some(choice) => {
                    prop_assert!(!tried.contains(&choice.at));
                    prop_assert!(
                        well[choice.at]
                            || matches!(
                                choice.reason,
                                Reason::HalfOpen | Reason::Panic | Reason::Only
                            )
                    );
                    running.push((pool.begin(choice.at, size(tokens)).unwrap(), choice.at, tokens));
                }
                None => prop_assert!(members == 1 && !tried.is_empty()),
            }
            if running.len() > 3 {
                let (attempt, ..) = running.swap_remove(pick % running.len());
                pool.end(
                    attempt,
                    [
                        AttemptResult::Success,
                        AttemptResult::Failure,
                        AttemptResult::Unknown,
                        AttemptResult::Failure,
                    ][usize::from(how)],
                    Tick(now),
                );
            }
            for (at, member) in pool.members().iter().enumerate() {
                let mine: Vec<u64> = running
                    .iter()
                    .filter(|(_, place, _)| *place == at)
                    .map(|(.., tokens)| *tokens)
                    .collect();
                prop_assert_eq!(
                    (member.requests(), member.tokens()),
                    (mine.len() as u64, mine.iter().sum::<u64>())
                );
            }
        }
    }
}

#[test]
fn backend_in_backoff_gets_no_avoidable_request() {
    for balance in all_balances() {
        let pool = pool(balance.clone(), 3);
        let health = |at: usize| &pool.members()[at].health;
        health(1).back_off(Duration::from_secs(2), Tick(0));
        health(1).back_off(Duration::from_secs(1), Tick(0));
        assert_eq!(
            (health(1).state(Tick(1)), health(1).cause(Tick(1))),
            (State::Backoff, Cause::RetryAfter)
        );
        assert_eq!(shares(&pool, Tick(SECOND))[1], 0, "{balance:?}");
        assert!(shares(&pool, Tick(2 * SECOND))[1] > 0, "{balance:?}");
        // All are in backoff: the first attempt selects one, and a retry selects none.
        (0..3).for_each(|at| health(at).back_off(Duration::from_secs(1), Tick(3 * SECOND)));
        let first = pool.choose(&BalanceRequest::default(), Tick(3 * SECOND)).unwrap();
        assert_eq!(first.reason, Reason::Panic, "{balance:?}");
        assert_eq!(
            pool.choose(
                &BalanceRequest { tried: &[first.at], ..BalanceRequest::default() },
                Tick(3 * SECOND)
            ),
            None,
            "{balance:?}"
        );
        assert_eq!(pool.tier_offer(&size(1), &[], Tick(3 * SECOND)), (false, None));
        health(0).back_off(Duration::from_secs(86_400), Tick(3 * SECOND));
        assert!(!health(0).is_in_backoff(Tick(303 * SECOND)), "the backoff is capped");
    }
}

#[test]
fn an_empty_pool_selects_nothing() {
    for balance in all_balances() {
        let pool = pool(balance, 0);
        assert_eq!(
            pool.choose(
                &BalanceRequest { key: Some(b"k"), prefix: &[1, 2], ..BalanceRequest::default() },
                Tick(1)
            ),
            None
        );
        assert!(
            pool.tick(Tick(1)).is_empty()
                && pool.select_hedge(&BalanceRequest::default(), Tick(1)).is_none()
        );
    }
}

#[test]
fn pool_keeps_its_state_across_a_reload() {
    let before = pool(Balance::Prefix, 3);
    let texts = ["x".repeat(2000)];
    let mut prefix = Vec::new();
    crate::blocks(b"m", texts.iter().map(|text| text.as_bytes()), &mut prefix);
    let request = BalanceRequest { prefix: &prefix, ..BalanceRequest::default() };
    let home = before.choose(&request, Tick(0)).unwrap().at;
    before.remember(&prefix, home);
    (0..10).for_each(|_| before.retries.earn(Tick(0)));
    // All others are gone, and a new one has joined.
    let members =
        vec![Arc::new(Member::new("new".into(), 1, Tick(0))), before.members()[home].clone()];
    let after = Pool::new(before.settings.clone(), members, 7).after(&before);
    assert_eq!(after.choose(&request, Tick(0)), Some(Selection { at: 1, reason: Reason::Prefix }));
    assert_eq!(after.retries.recent(Tick(0)).0, 10);
}

/// With a fallback pool, the last failing backend is ejected, too; the last slow one is not.
#[test]
fn a_pool_with_a_fallback_may_be_ejected_as_a_whole() {
    for members in [1, 4] {
        let pool = pool(Balance::RoundRobin, members);
        pool.set_has_fallback(true);
        for _ in 0..5 {
            for at in 0..members {
                let attempt = pool.begin(at, size(0)).unwrap();
                pool.end(attempt, AttemptResult::Failure, Tick(1));
            }
        }
        assert!(pool.members().iter().all(|member| !member.health.is_in_rotation()));
        assert_eq!(
            pool.choose(&BalanceRequest::default(), Tick(2)).unwrap().reason,
            Reason::Panic,
            "panic mode still selects it"
        );
        assert_eq!(pool.tier_offer(&size(1), &[], Tick(2)), (false, None));
        let later = Tick(6 * SECOND);
        assert!(pool.tier_offer(&size(1), &[], later).0, "a probe is due");
        let trial = pool.choose(&BalanceRequest::default(), later).unwrap();
        assert_eq!(trial.reason, Reason::HalfOpen);
        assert!(members > 1 || !pool.tier_offer(&size(1), &[], later).0, "one probe at a time");
        let attempt = pool.begin(trial.at, size(0)).unwrap();
        assert_eq!(pool.end(attempt, AttemptResult::Success, later), Some(Change::Recovered));
        assert!(pool.members()[trial.at].health.is_in_rotation());
    }
}

#[test]
fn backends_of_the_zone_are_preferred_while_one_is_healthy_and_fits() {
    for balance in all_balances() {
        let pool = pool(balance.clone(), 5).preferring(vec![true, false, true, false, false]);
        let of = |counts: Vec<usize>| {
            counts
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(shares(&pool, Tick(0))), [0, 2], "{balance:?}");
        down(&pool, 0, Tick(0));
        assert_eq!(of(shares(&pool, Tick(1))), [2], "{balance:?}");
        let elsewhere = pool
            .choose(&BalanceRequest { unfit: &[2], ..BalanceRequest::default() }, Tick(1))
            .unwrap();
        assert!([1, 3, 4].contains(&elsewhere.at), "{balance:?}");
        down(&pool, 2, Tick(1));
        assert_eq!(of(shares(&pool, Tick(2))), [1, 3, 4], "{balance:?}");
    }
    assert!(pool(Balance::PeakEwma, 2).preferring(vec![true, true]).near().is_empty());
    assert!(pool(Balance::PeakEwma, 2).preferring(vec![false, false]).near().is_empty());
}
