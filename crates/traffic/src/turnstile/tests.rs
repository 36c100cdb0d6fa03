//! Turnstiles, with time passed in.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn settings(max_requests: u64, queue: usize) -> Admission {
    Admission { max_requests, max_tokens: 0, adaptive: false, min_requests: 1, queue, max_wait: Duration::from_secs(10) }
}

fn wish(tenant: &str, priority: u8, tokens: u64) -> Wish {
    Wish { tenant: tenant.into(), priority, tokens, max_wait: None }
}

/// The place of whoever's turn it is.
fn turn(waiting: &mut Waiting) -> Option<Place> {
    waiting.turn().now_or_never().map(|turn| turn.expect("nobody was shed"))
}

/// Who is let in, one after the other.
fn order(turnstile: &Arc<Turnstile>, place: Place, mut waiting: Vec<(&'static str, Waiting)>) -> Vec<&'static str> {
    let (mut order, mut inside, mut now) = (Vec::new(), vec![place], 0);
    while let Some(place) = inside.pop() {
        now += 10 * MS;
        place.leave(Tick(now), None);
        if let Some((at, place)) = waiting.iter_mut().enumerate().find_map(|(at, (_, waiting))| Some((at, turn(waiting)?))) {
            order.push(waiting.remove(at).0);
            inside.push(place);
        }
    }
    assert_eq!(turnstile.counts().in_flight, 0);
    order
}

#[test]
fn the_important_go_first_and_tenants_take_turns() {
    let turnstile = Arc::new(Turnstile::new(settings(1, 100)));
    let place = turnstile.enter(10).unwrap();
    assert!(turnstile.enter(10).is_none());
    let wait = |name: &'static str, tenant, priority, tokens| (name, turnstile.wait(wish(tenant, priority, tokens), Tick(1)).unwrap());
    let waiting = vec![
        wait("a1", "a", 5, 1000),
        wait("a2", "a", 5, 1000),
        wait("a3", "a", 5, 1000),
        wait("b1", "b", 5, 100),
        wait("b2", "b", 5, 100),
        wait("batch", "c", 1, 1),
        wait("vip", "c", 9, 5000),
    ];
    assert_eq!(turnstile.counts().waiting, 7);
    assert_eq!(order(&turnstile, place, waiting), ["vip", "b1", "b2", "a1", "a2", "a3", "batch"]);
}

#[test]
fn whoever_cannot_be_served_in_time_hears_it_at_once() {
    let turnstile = Arc::new(Turnstile::new(settings(1, 100)));
    let mut inside = turnstile.enter(1).unwrap();
    let mut queue: Vec<Waiting> = (0..5).map(|_| turnstile.wait(wish("a", 5, 1), Tick(1)).unwrap()).collect();
    // One leaves every two seconds.
    for second in 1..4u64 {
        inside.leave(Tick(2 * second * 1000 * MS), None);
        inside = turn(&mut queue.remove(0)).unwrap();
    }
    let now = Tick(6000 * MS);
    let patient = turnstile.wait(wish("a", 5, 1), now);
    assert!(patient.is_ok(), "two ahead, some six seconds");
    let hasty = Wish { max_wait: Some(Duration::from_secs(3)), ..wish("a", 5, 1) };
    assert_eq!(turnstile.wait(hasty.clone(), now).unwrap_err().reason, ShedReason::TooLate);
    assert!(turnstile.wait(Wish { priority: 9, ..hasty }, now).is_ok(), "the important overtakes");
    // An engine that is silent is as slow as it shows.
    assert_eq!(turnstile.wait(wish("a", 5, 1), Tick(60_000 * MS)).unwrap_err().reason, ShedReason::TooLate);
    assert_eq!(turnstile.counts().shed, [0, 2, 0]);
}

#[test]
fn a_full_queue_sheds_the_least_important() {
    let turnstile = Arc::new(Turnstile::new(settings(1, 2)));
    let _inside = turnstile.enter(1).unwrap();
    let _first = turnstile.wait(wish("a", 5, 1), Tick(1)).unwrap();
    let mut second = turnstile.wait(wish("b", 3, 1), Tick(1)).unwrap();
    assert_eq!(turnstile.wait(wish("c", 3, 1), Tick(1)).unwrap_err().reason, ShedReason::QueueFull);
    let _third = turnstile.wait(wish("c", 9, 1), Tick(1)).unwrap();
    assert_eq!(second.turn().now_or_never().unwrap().unwrap_err().reason, ShedReason::QueueFull);
    assert_eq!(turnstile.counts().waiting, 2);
}

#[test]
fn tokens_in_flight_are_capped_and_a_giant_goes_alone() {
    let turnstile = Arc::new(Turnstile::new(Admission { max_tokens: 100, ..settings(0, 10) }));
    let giant = turnstile.enter(1000).unwrap();
    assert!(turnstile.enter(1).is_none());
    let mut one = turnstile.wait(wish("a", 5, 60), Tick(1)).unwrap();
    let mut two = turnstile.wait(wish("a", 5, 60), Tick(1)).unwrap();
    giant.leave(Tick(2), None);
    let place = turn(&mut one).unwrap();
    assert!(turn(&mut two).is_none());
    drop(place);
    assert!(turn(&mut two).is_some());
}

#[test]
fn whoever_leaves_in_any_way_frees_what_he_held() {
    let turnstile = Arc::new(Turnstile::new(settings(1, 10)));
    let place = turnstile.enter(5).unwrap();
    let gone = turnstile.wait(wish("a", 5, 1), Tick(1)).unwrap();
    let told = turnstile.wait(wish("b", 5, 1), Tick(1)).unwrap();
    drop(gone);
    place.leave(Tick(2), None);
    // It was let in and never looked.
    drop(told);
    assert_eq!(turnstile.counts(), TurnstileCounts { cap: 1, admitted: 2, queued: 1, ..TurnstileCounts::default() });
    assert!(turnstile.enter(1).is_some());
}

proptest! {
    /// Whatever comes, waits, leaves, gives up or vanishes: never more inside than the cap, nobody is forgotten, and at the end nothing is held.
    #[test]
    fn the_cap_holds_and_nobody_is_forgotten(
        (cap, max_tokens, queue) in (1u64..5, 0u64..200, 0usize..8),
        steps in prop::collection::vec((0u8..6, 0u8..10, 0u64..120, 0u64..4, 0usize..8), 1..120),
    ) {
        let turnstile = Arc::new(Turnstile::new(Admission { max_tokens, ..settings(cap, queue) }));
        let (mut inside, mut waiting, mut now) = (Vec::new(), Vec::new(), 1);
        for (step, priority, tokens, tenant, at) in steps {
            now += 3 * MS;
            match step {
                0..=2 => match turnstile.enter(tokens) {
                    Some(place) => inside.push(place),
                    None => waiting.extend(turnstile.wait(wish(&tenant.to_string(), priority, tokens), Tick(now))),
                },
                3 if !inside.is_empty() => inside.swap_remove(at % inside.len()).leave(Tick(now), None),
                4 if !inside.is_empty() => drop(inside.swap_remove(at % inside.len())),
                5 if !waiting.is_empty() => drop(waiting.swap_remove(at % waiting.len())),
                _ => {}
            }
            waiting.retain_mut(|waiting| match waiting.turn().now_or_never() {
                None => true,
                Some(Ok(place)) => {
                    inside.push(place);
                    false
                }
                Some(Err(_)) => false,
            });
            let counts = turnstile.counts();
            prop_assert!(counts.in_flight <= cap && counts.in_flight == inside.len() as u64);
            prop_assert_eq!(counts.waiting, waiting.len() as u64);
            prop_assert!(counts.waiting <= queue as u64);
            prop_assert!(max_tokens == 0 || counts.tokens <= max_tokens || counts.in_flight == 1);
            // Nobody waits while there is room for the next.
            prop_assert!(counts.waiting == 0 || counts.in_flight > 0);
        }
        drop(waiting);
        drop(inside);
        let counts = turnstile.counts();
        prop_assert_eq!((counts.in_flight, counts.tokens, counts.waiting), (0, 0, 0));
    }
}
