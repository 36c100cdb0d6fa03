//! Tests of admission queues, with simulated time.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn settings(max_requests: u64, queue: usize) -> Admission {
    Admission {
        max_requests,
        max_tokens: 0,
        adaptive: false,
        min_requests: 1,
        queue,
        max_wait: Duration::from_secs(10),
    }
}

fn request(tenant: &str, priority: u8, tokens: u64) -> QueueRequest {
    QueueRequest { tenant: tenant.into(), priority, tokens, max_wait: None }
}

/// The permit of the next request.
fn turn(waiting: &mut Waiting) -> Option<Permit> {
    waiting.turn().now_or_never().map(|turn| turn.expect("no request was shed"))
}

/// Admitted requests, in order.
fn order(
    admission: &Arc<AdmissionQueue>,
    permit: Permit,
    mut waiting: Vec<(&'static str, Waiting)>,
) -> Vec<&'static str> {
    let (mut order, mut inside, mut now) = (Vec::new(), vec![permit], 0);
    while let Some(permit) = inside.pop() {
        now += 10 * MS;
        permit.leave(Tick(now), None);
        if let Some((at, permit)) =
            waiting.iter_mut().enumerate().find_map(|(at, (_, waiting))| Some((at, turn(waiting)?)))
        {
            order.push(waiting.remove(at).0);
            inside.push(permit);
        }
    }
    assert_eq!(admission.counts().in_flight, 0);
    order
}

#[test]
fn higher_priority_goes_first_and_tenants_alternate() {
    let admission = Arc::new(AdmissionQueue::new(settings(1, 100)));
    let permit = admission.enter(10).unwrap();
    assert!(admission.enter(10).is_none());
    let wait = |name: &'static str, tenant, priority, tokens| {
        (name, admission.wait(request(tenant, priority, tokens), Tick(1)).unwrap())
    };
    let waiting = vec![
        wait("a1", "a", 5, 1000),
        wait("a2", "a", 5, 1000),
        wait("a3", "a", 5, 1000),
        wait("b1", "b", 5, 100),
        wait("b2", "b", 5, 100),
        wait("batch", "c", 1, 1),
        wait("vip", "c", 9, 5000),
    ];
    assert_eq!(admission.counts().waiting, 7);
    assert_eq!(order(&admission, permit, waiting), ["vip", "b1", "b2", "a1", "a2", "a3", "batch"]);
}

#[test]
fn a_request_that_would_wait_too_long_is_shed_at_once() {
    let admission = Arc::new(AdmissionQueue::new(settings(1, 100)));
    let mut inside = admission.enter(1).unwrap();
    let mut queue: Vec<Waiting> =
        (0..5).map(|_| admission.wait(request("a", 5, 1), Tick(1)).unwrap()).collect();
    // One leaves every two seconds.
    for second in 1..4u64 {
        inside.leave(Tick(2 * second * 1000 * MS), None);
        inside = turn(&mut queue.remove(0)).unwrap();
    }
    let now = Tick(6000 * MS);
    let patient = admission.wait(request("a", 5, 1), now);
    assert!(patient.is_ok(), "two ahead, some six seconds");
    let hasty = QueueRequest { max_wait: Some(Duration::from_secs(3)), ..request("a", 5, 1) };
    assert_eq!(admission.wait(hasty.clone(), now).unwrap_err().reason, ShedReason::TooLate);
    assert!(
        admission.wait(QueueRequest { priority: 9, ..hasty }, now).is_ok(),
        "a higher priority overtakes"
    );
    // Without departures, the expected wait grows.
    assert_eq!(
        admission.wait(request("a", 5, 1), Tick(60_000 * MS)).unwrap_err().reason,
        ShedReason::TooLate
    );
    assert_eq!(admission.counts().shed, [0, 2, 0]);
}

#[test]
fn full_queue_sheds_the_lowest_priority() {
    let admission = Arc::new(AdmissionQueue::new(settings(1, 2)));
    let _inside = admission.enter(1).unwrap();
    let _first = admission.wait(request("a", 5, 1), Tick(1)).unwrap();
    let mut second = admission.wait(request("b", 3, 1), Tick(1)).unwrap();
    assert_eq!(
        admission.wait(request("c", 3, 1), Tick(1)).unwrap_err().reason,
        ShedReason::QueueFull
    );
    let _third = admission.wait(request("c", 9, 1), Tick(1)).unwrap();
    assert_eq!(second.turn().now_or_never().unwrap().unwrap_err().reason, ShedReason::QueueFull);
    assert_eq!(admission.counts().waiting, 2);
}

#[test]
fn tokens_in_flight_are_capped_and_an_oversized_request_runs_alone() {
    let admission = Arc::new(AdmissionQueue::new(Admission { max_tokens: 100, ..settings(0, 10) }));
    let giant = admission.enter(1000).unwrap();
    assert!(admission.enter(1).is_none());
    let mut one = admission.wait(request("a", 5, 60), Tick(1)).unwrap();
    let mut two = admission.wait(request("a", 5, 60), Tick(1)).unwrap();
    giant.leave(Tick(2), None);
    let permit = turn(&mut one).unwrap();
    assert!(turn(&mut two).is_none());
    drop(permit);
    assert!(turn(&mut two).is_some());
}

#[test]
fn a_request_that_leaves_in_any_way_releases_its_permit() {
    let admission = Arc::new(AdmissionQueue::new(settings(1, 10)));
    let permit = admission.enter(5).unwrap();
    let gone = admission.wait(request("a", 5, 1), Tick(1)).unwrap();
    let told = admission.wait(request("b", 5, 1), Tick(1)).unwrap();
    drop(gone);
    permit.leave(Tick(2), None);
    // It was admitted, but never polled.
    drop(told);
    assert_eq!(
        admission.counts(),
        QueueCounts { cap: 1, admitted: 2, queued: 1, ..QueueCounts::default() }
    );
    assert!(admission.enter(1).is_some());
}

proptest! {
    /// For any sequence of arrivals and departures: requests in flight never exceed the limit, no
    /// request is lost, and all permits are free at the end.
    #[test]
    fn the_limit_holds_and_no_request_is_forgotten(
        (cap, max_tokens, queue) in (1u64..5, 0u64..200, 0usize..8),
        steps in prop::collection::vec((0u8..6, 0u8..10, 0u64..120, 0u64..4, 0usize..8), 1..120),
    ) {
        let admission =
            Arc::new(AdmissionQueue::new(Admission { max_tokens, ..settings(cap, queue) }));
        let (mut inside, mut waiting, mut now) = (Vec::new(), Vec::new(), 1);
        for (step, priority, tokens, tenant, at) in steps {
            now += 3 * MS;
            match step {
                0..=2 => match admission.enter(tokens) {
                    Some(permit) => inside.push(permit),
                    None => {
                        let asks = request(&tenant.to_string(), priority, tokens);
                        waiting.extend(admission.wait(asks, Tick(now)));
                    }
                },
                3 if !inside.is_empty() => {
                    inside.swap_remove(at % inside.len()).leave(Tick(now), None);
                }
                4 if !inside.is_empty() => drop(inside.swap_remove(at % inside.len())),
                5 if !waiting.is_empty() => drop(waiting.swap_remove(at % waiting.len())),
                _ => {}
            }
            waiting.retain_mut(|waiting| match waiting.turn().now_or_never() {
                None => true,
                Some(Ok(permit)) => {
                    inside.push(permit);
                    false
                }
                Some(Err(_)) => false,
            });
            let counts = admission.counts();
            prop_assert!(counts.in_flight <= cap && counts.in_flight == inside.len() as u64);
            prop_assert_eq!(counts.waiting, waiting.len() as u64);
            prop_assert!(counts.waiting <= queue as u64);
            prop_assert!(max_tokens == 0 || counts.tokens <= max_tokens || counts.in_flight == 1);
            // No request waits while the next one fits.
            prop_assert!(counts.waiting == 0 || counts.in_flight > 0);
        }
        drop(waiting);
        drop(inside);
        let counts = admission.counts();
        prop_assert_eq!((counts.in_flight, counts.tokens, counts.waiting), (0, 0, 0));
    }
}
