//! Tests of rate limits through their public interface.

use lens::Tick;
use proptest::prelude::*;

use super::limit::{MAX_ADDRESSES, SHARDS, Subject};
use super::*;
use crate::settings::{DOLLAR, OnExhausted, Window};

const SECOND: u64 = 1_000_000_000;

fn at(nanos: u64) -> Now {
    Now { tick: Tick(nanos), wall_us: nanos / 1000 }
}

fn limit(name: &str, unit: Unit, amount: u64, per: Per) -> settings::Limit {
    let window = if unit == Unit::Streams {
        Window::AtATime
    } else {
        Window::Rolling(Duration::from_secs(60))
    };
    settings::Limit {
        name: name.into(),
        unit,
        quota: Quota { amount, window, burst: amount },
        per,
        routes: vec![],
        models: vec![],
        owners: vec![],
        warn_at: 0,
        on_exhausted: OnExhausted::Length,
        shared: None,
    }
}

fn caller(id: &str) -> Caller {
    Caller { id: id.into(), owner: "team".into(), ..Caller::anonymous() }
}

fn reserve(
    limits: &RateLimits,
    caller: &Caller,
    input: u64,
    output: u64,
    now: u64,
) -> Result<Charge, Limited> {
    reserve_at_most(limits, caller, (input, output), u64::MAX, now)
}

/// The same, with a bound on the reserved output.
fn reserve_at_most(
    limits: &RateLimits,
    caller: &Caller,
    (input, output): (u64, u64),
    reserved_output: u64,
    now: u64,
) -> Result<Charge, Limited> {
    let (route, other): (Arc<str>, Arc<str>) = ("chat".into(), "other".into());
    let asked = LimitRequest {
        caller,
        route: &route,
        model: "m",
        declared_model: &other,
        address: Some(IpAddr::from([10, 0, 0, 1])),
        expected: TokenUsage { input, output, ..TokenUsage::default() },
        reserved_output,
    };
    limits.reserve(&asked, None, at(now)).map_err(|denied| match denied {
        Denied::Limited(limited) => limited,
        Denied::Short(short) => panic!("{short:?}"),
    })
}

/// After a restart mid-month, usage of this month counts, and earlier usage does not.
#[test]
fn monthly_usage_survives_a_restart() {
    let us = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond() as u64;
    let sums = UsageSums::default();
    let used = TokenUsage { input: 100, output: 20, ..TokenUsage::default() };
    let name = |text: &str| -> Arc<str> { text.into() };
    for (key, time) in [
        ("a", "2026-01-31T23:00:00Z"),
        ("a", "2026-02-01T01:00:00Z"),
        ("a", "2026-02-03T01:00:00Z"),
        ("b", "2026-02-03T01:00:00Z"),
    ] {
        sums.add((&name("team"), &name(key), &name("m")), &used, 5, us(time));
    }
    let month = |name: &str, unit, per| settings::Limit {
        quota: Quota { amount: 1000, window: Window::Month, burst: 1000 },
        ..limit(name, unit, 0, per)
    };
    let settings = [
        month("keys", Unit::TotalTokens, Per::Key),
        month("owners", Unit::Requests, Per::Owner),
        settings::Limit {
            models: vec![Pattern::new("x")],
            ..month("another model", Unit::Requests, Per::All)
        },
        settings::Limit {
            routes: vec![Pattern::new("chat")],
            ..month("a route", Unit::Requests, Per::All)
        },
        limit("no month", Unit::Requests, 1000, Per::All),
    ];
    let limits = RateLimits::new(&settings, &[], None);
    let now = Now { tick: Tick(0), wall_us: us("2026-02-03T02:00:00Z") };
    limits.restore_usage(&sums, now);
    let left = |at: usize, subject: Subject| {
        let limit = &limits.limits[at];
        let held = limit.held(subject, limit.settings.quota, now);
        held.account.left(&held.quota, now).0
    };
    assert_eq!(left(0, Subject::Name(name("a"))), 1000 - 2 * 120);
    assert_eq!(left(0, Subject::Name(name("b"))), 1000 - 120);
    assert_eq!(left(1, Subject::Name(name("team"))), 1000 - 3);
    assert_eq!([2, 3, 4].map(|at| left(at, Subject::All)), [1000; 3]);
}

#[test]
fn unused_reservation_is_returned() {
    let limits = RateLimits::new(&[limit("tokens", Unit::TotalTokens, 1000, Per::Key)], &[], None);
    let (a, b) = (caller("a"), caller("b"));
    let mut charge = reserve(&limits, &a, 100, 900, 0).unwrap();
    let limited = reserve(&limits, &a, 1, 0, 0).unwrap_err();
    assert_eq!(
        (&*limited.limit, limited.left, limited.retry_after),
        ("tokens", 0, Some(Duration::from_millis(60)))
    );
    assert!(reserve(&limits, &b, 100, 900, 0).is_ok(), "another key has its own account");
    charge.settle(&TokenUsage { input: 90, output: 10, ..TokenUsage::default() }, at(0));
    assert_eq!(reserve(&limits, &a, 0, 0, 0).unwrap().tokens_left(at(0)).unwrap().remaining, 900);
}

#[test]
fn refused_request_takes_nothing_from_earlier_limits() {
    let limits = RateLimits::new(
        &[
            limit("many", Unit::Requests, 10, Per::All),
            limit("few", Unit::InputTokens, 5, Per::All),
        ],
        &[],
        None,
    );
    assert!(
        reserve(&limits, &caller("a"), 6, 0, 0).unwrap_err().retry_after.is_none(),
        "a prompt larger than the limit never fits"
    );
    assert_eq!(
        reserve(&limits, &caller("a"), 1, 0, 0).unwrap().requests_left(at(0)).unwrap().remaining,
        9
    );
}

#[test]
fn stream_ends_at_its_budget_and_is_charged_in_full() {
    let limits = RateLimits::new(&[limit("out", Unit::OutputTokens, 100, Per::Key)], &[], None);
    let mut charge = reserve(&limits, &caller("a"), 5, 1_000_000, 0).unwrap();
    let used = |output| TokenUsage { output, ..TokenUsage::default() };
    assert_eq!(charge.grow(&used(100), at(0)), None);
    assert_eq!(charge.grow(&used(103), at(0)).unwrap().limit, "out".into());
    charge.settle(&used(103), at(0));
    assert_eq!(
        reserve(&limits, &caller("a"), 0, 1, 0).unwrap_err().retry_after,
        Some(Duration::from_nanos(4 * 600_000_000))
    );
}

#[test]
fn callers_are_warned_before_a_limit_is_reached() {
    let soft = settings::Limit { warn_at: 80, ..limit("purse", Unit::TotalTokens, 100, Per::Key) };
    let limits = RateLimits::new(&[soft], &[], None);
    assert_eq!(reserve(&limits, &caller("a"), 70, 0, 0).unwrap().warnings(at(0)).next(), None);
    assert_eq!(
        reserve(&limits, &caller("a"), 15, 0, 0).unwrap().warnings(at(0)).next(),
        Some(("purse", 85))
    );
    assert_eq!(limits.counts().next().unwrap().warned, 1);
}

#[test]
fn accounts_near_their_end_come_first() {
    let day = Quota { amount: 100, window: Window::Day, burst: 100 };
    let keys = settings::Limit { quota: day, ..limit("keys", Unit::TotalTokens, 100, Per::Key) };
    let all = limit("all", Unit::TotalTokens, 1000, Per::All);
    let limits = RateLimits::new(&[keys, all], &[], None);
    for (key, tokens) in [("little", 1), ("most", 90), ("half", 50)] {
        std::mem::forget(reserve(&limits, &caller(key), tokens, 0, 0));
    }
    let nearest = limits.nearest(3, at(0));
    let shown: Vec<_> = nearest
        .iter()
        .map(|level| (&*level.limit, level.subject.as_deref(), (level.used * 100.0).round()))
        .collect();
    assert_eq!(
        shown,
        [("keys", Some("most"), 90.0), ("keys", Some("half"), 50.0), ("all", None, 14.0)]
    );
    assert_eq!(nearest[0].reset, Duration::from_secs(86_400));
    // What has refilled is not used.
    let later = limits.nearest(9, at(60 * SECOND));
    assert!(later.iter().all(|level| &*level.limit == "keys"), "{later:?}");
}

#[test]
fn concurrent_streams_are_released_at_their_end() {
    let limits = RateLimits::new(&[limit("streams", Unit::Streams, 1, Per::Owner)], &[], None);
    let mut charge = reserve(&limits, &caller("a"), 0, 0, 0).unwrap();
    assert!(reserve(&limits, &caller("b"), 0, 0, 0).is_err(), "both keys have the same owner");
    charge.settle(&TokenUsage::default(), at(0));
    assert!(reserve(&limits, &caller("b"), 0, 0, 0).is_ok());
}

#[test]
fn keys_have_own_amounts_and_costs_use_prices() {
    let price = Price {
        models: vec![],
        input: DOLLAR / 100,
        cached_input: 0,
        output: DOLLAR / 10,
        reasoning: DOLLAR / 10,
    };
    let limits = RateLimits::new(&[limit("money", Unit::Cost, DOLLAR, Per::Key)], &[price], None);
    let rich = Caller { limits: [("money".into(), 5 * DOLLAR)].into(), ..caller("rich") };
    assert!(reserve(&limits, &caller("poor"), 0, 10, 0).is_ok());
    assert!(reserve(&limits, &caller("poor"), 1, 0, 0).is_err());
    assert!(reserve(&limits, &rich, 0, 50, 0).is_ok());
    assert!(reserve(&limits, &rich, 1, 0, 0).is_err());
}

#[test]
fn limits_that_do_not_change_keep_their_accounts() {
    let settings = [limit("a", Unit::Requests, 1, Per::All)];
    let limits = RateLimits::new(&settings, &[], None);
    reserve(&limits, &caller("a"), 0, 0, 0).unwrap();
    assert!(
        reserve(&RateLimits::new(&settings, &[], Some(&limits)), &caller("a"), 0, 0, 0).is_err()
    );
    // Another amount keeps the account; another unit starts a new one.
    let more = RateLimits::new(&[limit("a", Unit::Requests, 2, Per::All)], &[], Some(&limits));
    assert!(
        reserve(&more, &caller("a"), 0, 0, 30 * SECOND).is_ok()
            && reserve(&more, &caller("a"), 0, 0, 30 * SECOND).is_err()
    );
    assert!(
        reserve(
            &RateLimits::new(&[limit("a", Unit::InputTokens, 2, Per::All)], &[], Some(&limits)),
            &caller("a"),
            1,
            0,
            0
        )
        .is_ok()
    );
}

#[test]
fn unauthenticated_addresses_use_bounded_memory() {
    let limits = RateLimits::new(&[limit("a", Unit::Requests, 1, Per::Address)], &[], None);
    let (anonymous, route, other): (_, Arc<str>, Arc<str>) =
        (Caller::anonymous(), "r".into(), "other".into());
    for number in 0..300_000u32 {
        let asked = LimitRequest {
            caller: &anonymous,
            route: &route,
            model: "",
            declared_model: &other,
            address: Some(IpAddr::from(number.to_be_bytes())),
            expected: TokenUsage::default(),
            reserved_output: u64::MAX,
        };
        let _ = limits.reserve(&asked, None, at(0));
    }
    let accounts = limits.counts().next().unwrap().accounts;
    assert!(accounts <= SHARDS * (MAX_ADDRESSES + 1), "{accounts}");
}

proptest! {
    /// Random arrivals, and streams that use more or less than they reserved, settle late or never.
    /// In every span, the account grants at most its burst, its rate, and for each stream what it
    /// uses beyond its reservation between two checks.
    #[test]
    fn overrun_is_at_most_one_check_per_stream(
        steps in prop::collection::vec(
            (0u64..4 * SECOND, 0u64..30, 0u64..60, 0u64..90, 0usize..3),
            1..60,
        ),
    ) {
        let (amount, look) = (60, 8);
        let limits = RateLimits::new(&[limit("t", Unit::TotalTokens, amount, Per::All)], &[], None);
        let (mut now, mut open, mut used) =
            (0, Vec::<(Charge, TokenUsage, u64)>::new(), Vec::<(u64, u64)>::new());
        let mut looks = 0;
        for (wait, input, output, takes, settles) in steps {
            now += wait;
            if let Ok(charge) = reserve(&limits, &caller("a"), input, output, now) {
                used.push((now, input));
                let wants = TokenUsage { input, output: takes, ..TokenUsage::default() };
                open.push((charge, wants, 0));
            }
            // Streams take `look` tokens at a time until they are complete or their budget is used
            // up.
            for (charge, wants, got) in
                open.iter_mut().filter(|(_, wants, got)| *got < wants.output)
            {
                let before = *got;
                *got = (*got + look).min(wants.output);
                used.push((now, *got - before));
                if charge.grow(&TokenUsage { output: *got, ..*wants }, at(now)).is_some() {
                    looks += 1;
                    wants.output = *got;
                }
            }
            for _ in 0..settles.min(open.len()) {
                let (mut charge, wants, got) = open.swap_remove(0);
                charge.settle(&TokenUsage { output: got, ..wants }, at(now));
            }
        }
        // Usage counts at the time of its reservation, so the checked span is the whole run.
        let sum: u64 = used.iter().map(|(_, units)| units).sum();
        let allowed =
            amount as f64 * (1.0 + now as f64 / (60.0 * SECOND as f64)) + (looks * look) as f64;
        prop_assert!(sum as f64 <= allowed + 1.0, "{sum} taken, {allowed} allowed");
    }
}

/// 60,000 tokens a minute, and requests that declare 64,000 and use 60.
#[test]
fn large_max_tokens_does_not_reserve_the_whole_limit() {
    let caller = Caller::anonymous();
    let limits = RateLimits::new(&[limit("t", Unit::TotalTokens, 60_000, Per::All)], &[], None);
    let mut running = Vec::new();
    let refused = loop {
        match reserve_at_most(&limits, &caller, (10, 64_000), 4096, 0) {
            Ok(charge) => running.push(charge),
            Err(limited) => break limited,
        }
    };
    assert_eq!(running.len(), 14, "60,000 / 4,106");
    assert_eq!((refused.asked, refused.reserved, refused.left), (64_010, 4106, 2516));
    assert!(refused.retry_after.is_some());
    // Tokens beyond the reservation are charged as they are generated.
    let mut first = running.pop().unwrap();
    let used = TokenUsage { input: 10, output: 5000, ..TokenUsage::default() };
    assert_eq!(first.grow(&used, at(0)), None);
    first.settle(&used, at(0));
    for mut charge in running {
        charge.settle(&TokenUsage { input: 10, output: 50, ..TokenUsage::default() }, at(0));
    }
    let next = reserve_at_most(&limits, &caller, (60_000, 0), 4096, 0).unwrap_err();
    assert_eq!(next.left, 60_000 - 5010 - 13 * 60);
    // A prompt that exceeds the limit can never be sent; its output is named, too.
    let never = reserve_at_most(&limits, &caller, (60_001, 8000), 4096, 0).unwrap_err();
    assert_eq!((never.asked, never.retry_after), (68_001, None));
}
