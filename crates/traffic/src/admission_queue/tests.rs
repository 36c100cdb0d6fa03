//! Tests of admission queues, with simulated time.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::settings::TenantKey;

const MS: u64 = 1_000_000;

fn settings(max_requests: u64, queue: usize) -> Admission {
    Admission {
        max_requests,
        max_tokens: 0,
        adaptive: false,
        min_requests: 1,
        queue,
        max_wait: Duration::from_secs(10),
        tenant: TenantKey::Owner,
    }
}

fn request(tenant: &str, priority: u8, tokens: u64) -> QueueRequest {
    QueueRequest { tenant: tenant.into(), priority, expected: tokens_of(tokens), max_wait: None }
}

fn tokens_of(input: u64) -> TokenUsage {
    TokenUsage { input, ..TokenUsage::default() }
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
        let used = permit.expected;
        permit.leave(Tick(now), None, &used);
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
    let permit = admission.enter(10, 0).unwrap();
    assert!(admission.enter(10, 0).is_none());
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
    assert_eq!(order(&admission, permit, waiting), ["vip", "a1", "b1", "b2", "a2", "a3", "batch"]);
}

#[test]
fn a_request_that_would_wait_too_long_is_shed_at_once() {
    let admission = Arc::new(AdmissionQueue::new(settings(1, 100)));
    let mut inside = admission.enter(1, 0).unwrap();
    let mut queue: Vec<Waiting> =
        (0..5).map(|_| admission.wait(request("a", 5, 1), Tick(1)).unwrap()).collect();
    // One leaves every two seconds.
    for second in 1..4u64 {
        inside.abandon(Tick(2 * second * 1000 * MS));
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
    let _inside = admission.enter(1, 0).unwrap();
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
    let giant = admission.enter(1000, 0).unwrap();
    assert!(admission.enter(1, 0).is_none());
    let mut one = admission.wait(request("a", 5, 60), Tick(1)).unwrap();
    let mut two = admission.wait(request("a", 5, 60), Tick(1)).unwrap();
    giant.abandon(Tick(2));
    let permit = turn(&mut one).unwrap();
    assert!(turn(&mut two).is_none());
    drop(permit);
    assert!(turn(&mut two).is_some());
}

#[test]
fn a_request_that_leaves_in_any_way_releases_its_permit() {
    let admission = Arc::new(AdmissionQueue::new(settings(1, 10)));
    let permit = admission.enter(5, 0).unwrap();
    let gone = admission.wait(request("a", 5, 1), Tick(1)).unwrap();
    let told = admission.wait(request("b", 5, 1), Tick(1)).unwrap();
    drop(gone);
    permit.abandon(Tick(2));
    // It was admitted, but never polled.
    drop(told);
    assert_eq!(
        admission.counts(),
        QueueCounts { cap: 1, admitted: 2, queued: 1, ..QueueCounts::default() }
    );
    assert!(admission.enter(1, 0).is_some());
}

/// One request at a time, for tenants whose clients send the next request as soon as they have an
/// answer. Returns the served requests and tokens of each tenant.
struct Load {
    /// Expected usage and real output of a request of each tenant.
    tenants: Vec<(&'static str, TokenUsage, u64)>,
    slots: u64,
}

impl Load {
    fn serve(&self, requests: usize) -> Vec<(usize, u64)> {
        let admission = Arc::new(AdmissionQueue::new(settings(self.slots, 100)));
        let first = (0..self.slots).map(|_| admission.enter(1, 0).unwrap());
        let mut inside: Vec<_> = first.map(|permit| (permit, tokens_of(1), 0)).collect();
        let mut served = vec![(0, 0); self.tenants.len()];
        let wait = |at: usize, now| {
            let (tenant, expected, _) = self.tenants[at];
            let request =
                QueueRequest { tenant: tenant.into(), priority: 5, expected, max_wait: None };
            (at, admission.wait(request, Tick(now)).unwrap())
        };
        // Each tenant has more clients than the engine has slots.
        let all = self.tenants.len() * (2 * self.slots as usize + 2);
        let mut waiting: Vec<_> = (0..all).map(|at| wait(at % self.tenants.len(), 1)).collect();
        for turn_of in 0..requests as u64 {
            let now = (turn_of + 2) * MS;
            let (permit, used, _): (Permit, _, usize) = inside.remove(0);
            permit.leave(Tick(now), None, &used);
            let admitted = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(at, (_, waiting))| Some((at, turn(waiting)?)));
            let (at, permit) = admitted.expect("a slot is free");
            let (tenant, _) = waiting.remove(at);
            let (_, expected, output) = self.tenants[tenant];
            let used = TokenUsage { output, ..expected };
            inside.push((permit, used, tenant));
            served[tenant] = (served[tenant].0 + 1, served[tenant].1 + used.input + used.output);
            waiting.push(wait(tenant, now));
        }
        served
    }
}

/// Two tenants of the same use, one of which requests much more output.
#[test]
fn requested_output_that_is_not_used_costs_no_turn() {
    let of = |output| TokenUsage { input: 10, output, ..TokenUsage::default() };
    for slots in [1, 4] {
        for asked in [20, 4096, 32_000, u64::MAX] {
            let tenants = vec![("agent", of(asked), 20), ("chat", of(20), 20)];
            let served = Load { tenants, slots }.serve(400);
            let agent = served[0].0;
            assert!((180..=220).contains(&agent), "{slots} slots, {asked} asked: {served:?}");
        }
    }
    // Nor is output free that was not declared.
    let tenants = vec![("undeclared", of(0), 500), ("chat", of(500), 500)];
    let served = Load { tenants, slots: 4 }.serve(400);
    assert!((180..=220).contains(&served[0].0), "{served:?}");
}

/// Turns are given by tokens, whatever the size of a request.
#[test]
fn tenants_share_tokens_not_requests() {
    let of = |input| TokenUsage { input, output: 0, ..TokenUsage::default() };
    for slots in [1, 4] {
        let tenants = vec![("small", of(10), 0), ("large", of(100), 0)];
        let served = Load { tenants, slots }.serve(2200);
        let (small, large) = (served[0].1 as f64, served[1].1 as f64);
        assert!((0.95..1.05).contains(&(small / large)), "{slots} slots: {served:?}");
    }
}

/// The client disconnects, the wait times out, or a request of a higher priority replaces it.
#[test]
fn requests_that_leave_the_queue_cost_no_turn() {
    let ends: [fn(Waiting); 2] = [drop, |waiting| {
        waiting.give_up(Tick(2));
    }];
    for end in ends {
        let admission = Arc::new(AdmissionQueue::new(settings(1, 200)));
        let permit = admission.enter(10, 0).unwrap();
        let wait =
            |name, tenant| (name, admission.wait(request(tenant, 5, 1000), Tick(1)).unwrap());
        let others = ["b1", "b2", "b3", "b4", "b5"];
        let mut waiting: Vec<_> = others.into_iter().map(|name| wait(name, "b")).collect();
        let left: Vec<_> = (0..60).map(|_| wait("a", "a").1).collect();
        left.into_iter().for_each(end);
        waiting.push(wait("a", "a"));
        let order = order(&admission, permit, waiting);
        assert_eq!(order, ["b1", "a", "b2", "b3", "b4", "b5"]);
    }
}

/// Admitted requests that are never served, and those of an engine that fails.
#[test]
fn admitted_requests_without_an_answer_cost_no_turn() {
    let admission = Arc::new(AdmissionQueue::new(settings(1, 200)));
    let mut permit = admission.enter(10, 0).unwrap();
    let wait = |name, tenant| (name, admission.wait(request(tenant, 5, 1000), Tick(1)).unwrap());
    let (mut a1, mut a2, a3) = (wait("a1", "a").1, wait("a2", "a").1, wait("a3", "a").1);
    let waiting = vec![wait("a4", "a"), wait("b1", "b"), wait("b2", "b")];
    permit.abandon(Tick(2));
    permit = turn(&mut a1).unwrap();
    permit.abandon(Tick(3));
    permit = turn(&mut a2).unwrap();
    drop(permit);
    drop(a3);
    let mut waiting = waiting;
    permit = turn(&mut waiting[0].1).unwrap();
    waiting.remove(0);
    assert_eq!(order(&admission, permit, waiting), ["b1", "b2"]);
}

#[test]
fn an_old_pace_is_forgotten() {
    let admission = Arc::new(AdmissionQueue::new(settings(1, 100)));
    let second = 1000 * MS;
    let mut inside = admission.enter(1, 0).unwrap();
    let mut waiting: Vec<_> =
        (0..5).map(|_| admission.wait(request("a", 5, 1), Tick(1)).unwrap()).collect();
    let mut now = 0;
    // Three seconds each.
    while !waiting.is_empty() {
        now += 3 * second;
        inside.abandon(Tick(now));
        inside = turn(&mut waiting.remove(0)).unwrap();
    }
    let burst = |now| -> Vec<_> {
        (0..20).map(|_| admission.wait(request("a", 5, 1), Tick(now))).collect()
    };
    let soon = burst(now + second);
    assert!(soon.iter().any(Result::is_err), "the pace is still known");
    drop(soon);
    let later = burst(now + 4 * second);
    assert!(later.iter().all(Result::is_ok), "the pace may have changed");
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
                0..=2 => match admission.enter(tokens, 0) {
                    Some(permit) => inside.push(permit),
                    None => {
                        let asks = request(&tenant.to_string(), priority, tokens);
                        waiting.extend(admission.wait(asks, Tick(now)));
                    }
                },
                3 if !inside.is_empty() => {
                    inside.swap_remove(at % inside.len()).abandon(Tick(now));
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
