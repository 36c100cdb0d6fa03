//! Slices of a limit that many gateways share.
//!
//! - *In*: units that the store grants, and that requests take and return.
//! - *Out*: units from the slice, without a call to the store; if they do not suffice, the units to
//!   lease from the store.
//! - *Never*: use of units that were not leased, except by running streams since the last call to
//!   the store.
//!
//! The store has the account (the same GCRA, or the count of a calendar window) and grants what a
//! request needs plus a slice. Idle slices are returned. Units leased by a crashed gateway are
//! lost, and refill with time.

use std::sync::Arc;

use super::account::{Account, Now, Taking, window_end};
use super::limits::LimitAccount;
use super::settings::{Quota, Shared, Window};
use super::sync::Mutex;

/// Number of slices in a burst. Larger slices need fewer calls to the store, and leave more units
/// idle at other gateways.
const SLICES: u64 = 20;
/// Nanoseconds after which an unused slice is returned.
const IDLE: u64 = 2_000_000_000;
/// Nanoseconds between two keep-alive calls for concurrent units. The store releases the units of a
/// silent gateway.
const KEEP_ALIVE: u64 = 1_000_000_000;

/// This gateway's slice of an account.
#[derive(Debug)]
pub(super) struct Lease {
    /// One lock, because these values must be consistent. A request holds it for an addition.
    state: Mutex<State>,
    local: Box<Account>,
}

#[derive(Debug, Default)]
struct State {
    /// Units left of the slice; negative: a debt.
    balance: i64,
    /// The store could not grant a debt: streams get no more units.
    is_dry: bool,
    /// A request is fetching a slice: others fetch only what they need, so that a gateway never has
    /// two slices.
    is_fetching: bool,
    /// When units were last taken, in nanoseconds.
    used_at: u64,
    /// Units that the store has granted to this gateway, in use or not.
    leased: i64,
    /// When concurrent units were last kept alive, in nanoseconds.
    kept_alive_at: u64,
    /// A reply of the store was lost, so its count may differ from `leased`.
    is_lost: bool,
    /// Calls in flight. Until they are answered, the count of the store is uncertain.
    calls: u32,
    /// For a calendar: end of the slice's window.
    window: u64,
    /// Number of gateways that share the limit. It determines this one's share while the store is
    /// unreachable.
    replicas: u32,
}

impl State {
    fn granted(&mut self, units: u64) {
        self.leased = self.leased.saturating_add(signed(units));
        self.balance = self.balance.saturating_add(signed(units));
    }
}

/// What to do while the store is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFallback {
    /// Apply this gateway's share of the limit.
    Local,
    /// Admit requests; their usage becomes a debt.
    Open,
    /// Refuse requests.
    Closed,
}

/// Units to lease from the store or to return to it. Counts as a call in flight until dropped.
#[derive(Debug)]
pub struct LeaseRequest {
    held: Arc<LimitAccount>,
    /// Key of the account in the store.
    pub key: String,
    /// Quota of the account.
    pub quota: Quota,
    /// Minimum units to grant; with fewer, none are granted.
    pub need: u64,
    /// Units to grant if available, or to return.
    pub want: u64,
    /// Units that the request reserves; 0 for other calls.
    pub reserved: u64,
    /// Units that the request may use; 0 for other calls.
    pub asked: u64,
    /// Whether it includes a slice.
    asks: bool,
}

impl Lease {
    pub(super) fn new(quota: &Quota, shared: &Shared) -> Self {
        let state = State { replicas: shared.replicas, ..State::default() };
        Lease { state: Mutex::new(state), local: Box::new(Account::new(quota, None)) }
    }

    /// Set the number of gateways that share the limit.
    pub(super) fn share_with(&self, shared: &Shared) {
        self.state.lock().replicas = shared.replicas;
    }

    /// This gateway's share of a limit.
    fn share(&self, quota: &Quota) -> Quota {
        let replicas = u64::from(self.state.lock().replicas.max(1));
        let part = |units: u64| (units / replicas).max(1);
        Quota { amount: part(quota.amount), burst: part(quota.burst), ..*quota }
    }

    /// Take units of the slice; `None`: it has too few.
    pub(super) fn take(&self, quota: &Quota, units: u64, now: Now) -> Option<Taking> {
        let mut state = self.state.lock();
        // A slice of a past window is void.
        if let Some(end) = window_end(quota.window, now).filter(|end| *end != state.window) {
            state.window = end;
            state.balance = state.balance.min(0);
        }
        let units = signed(units);
        state.balance = state.balance.checked_sub(units).filter(|left| *left >= 0)?;
        state.used_at = now.tick.0;
        Some(taking(quota, units, now))
    }

    /// Take units while the store is unreachable. True: from this gateway's share. `Err(wait)`: not
    /// now.
    pub(super) fn take_without(
        &self,
        quota: &Quota,
        away: StoreFallback,
        units: u64,
        now: Now,
    ) -> Result<(Taking, bool), Option<u64>> {
        match away {
            StoreFallback::Local => {
                self.local.take(&self.share(quota), units, now).map(|taking| (taking, true))
            }
            StoreFallback::Open => Ok((self.charge(quota, units, now), false)),
            StoreFallback::Closed => Err(Some(1_000_000_000)),
        }
    }

    /// Charge a running stream. Returns whether it may continue.
    pub(super) fn grow(&self, units: u64) -> bool {
        let mut state = self.state.lock();
        let has = state.balance >= signed(units);
        state.balance = state.balance.saturating_sub(signed(units));
        has || !state.is_dry
    }

    pub(super) fn charge(&self, quota: &Quota, units: u64, now: Now) -> Taking {
        let mut state = self.state.lock();
        state.balance = state.balance.saturating_sub(signed(units));
        taking(quota, signed(units), now)
    }

    /// Units that refilled with time are not returned again, nor units of a past window. Streams
    /// are always returned.
    pub(super) fn give_back(&self, quota: &Quota, units: u64, taking: Taking, now: Now) {
        let back = match window_end(quota.window, now) {
            _ if quota.window == Window::AtATime => units,
            Some(end) if end == taking.until => units,
            Some(_) => 0,
            None => units.min(quota.units_of(taking.until.saturating_sub(now.tick.0))),
        };
        let mut state = self.state.lock();
        state.balance = state.balance.saturating_add(signed(back));
    }

    /// Return units that were taken from this gateway's share.
    pub(super) fn give_back_share(&self, quota: &Quota, units: u64, taking: Taking, now: Now) {
        self.local.give_back(&self.share(quota), units, taking, now);
    }

    /// Close a taking from the share: no units of it are returned after this.
    pub(super) fn close(&self, taking: Taking) {
        self.local.close(taking);
    }

    /// Units left of the slice.
    pub(super) fn left(&self) -> u64 {
        u64::try_from(self.state.lock().balance).unwrap_or(0)
    }

    pub(super) fn is_unused(&self, now: Now) -> bool {
        let state = self.state.lock();
        // Running streams hold units that only their end returns.
        let runs = self.local.is_places() && state.leased != 0;
        state.balance == 0 && !runs && self.local.is_unused(now)
    }
}

/// The taking for a later return: for a rate, when it is paid off; for a calendar, the end of the
/// window.
fn taking(quota: &Quota, units: i64, now: Now) -> Taking {
    let paid = || now.tick.0.saturating_add(quota.time_of(units.unsigned_abs()));
    Taking::until(window_end(quota.window, now).unwrap_or_else(paid))
}

impl LeaseRequest {
    /// The units that a request lacks, plus a new slice.
    pub(super) fn for_request(
        held: &Arc<LimitAccount>,
        key: &str,
        (units, asked): (u64, u64),
    ) -> Option<LeaseRequest> {
        let mut state = held.lease()?.state.lock();
        let short = signed(units).saturating_sub(state.balance);
        // A debt larger than the burst is paid in parts. A request larger than the burst never
        // fits.
        let need = u64::try_from(short).unwrap_or(1).clamp(1, held.quota.burst.max(units));
        let fetches = !std::mem::replace(&mut state.is_fetching, true);
        let want = if fetches { need.saturating_add(held.quota.burst / SLICES) } else { need };
        let mut request = LeaseRequest::new(held, &mut state, key, (need, want), fetches);
        (request.reserved, request.asked) = (units, asked);
        Some(request)
    }

    fn new(
        held: &Arc<LimitAccount>,
        state: &mut State,
        key: &str,
        (need, want): (u64, u64),
        asks: bool,
    ) -> Self {
        state.calls += 1;
        LeaseRequest {
            held: held.clone(),
            key: key.to_owned(),
            quota: held.quota,
            need,
            want,
            reserved: 0,
            asked: 0,
            asks,
        }
    }

    /// Units that the store should count for this gateway, and whether that is certain: no other
    /// call is in flight.
    pub fn leased(&self) -> (u64, bool) {
        let Some(lease) = self.held.lease() else { return (0, false) };
        let state = lease.state.lock();
        (u64::try_from(state.leased).unwrap_or(0), state.calls == 1)
    }

    /// The reply to a call was lost.
    pub fn lost(&self) {
        let Some(lease) = self.held.lease() else { return };
        let mut state = lease.state.lock();
        state.is_lost = true;
        state.kept_alive_at = 0;
    }

    /// The store granted these units.
    pub fn granted(&self, units: u64) {
        let Some(lease) = self.held.lease() else { return };
        let mut state = lease.state.lock();
        state.granted(units);
        state.is_dry = false;
    }
}

impl Drop for LeaseRequest {
    fn drop(&mut self) {
        let Some(lease) = self.held.lease() else { return };
        let mut state = lease.state.lock();
        state.calls = state.calls.saturating_sub(1);
        state.is_fetching &= !self.asks;
    }
}

/// A task that an account has for the store.
#[derive(Debug)]
pub enum SharedLimitTask {
    /// Lease the debt of running streams; [`SharedLimitTask::done`] reports how much was granted.
    Owe(LeaseRequest),
    /// Return units to the store.
    Return(LeaseRequest),
    /// Report to the store that streams are in use.
    Live(LeaseRequest),
}

impl SharedLimitTask {
    /// `None` for `now`: the gateway shuts down and returns everything.
    pub(super) fn due_task(
        held: &Arc<LimitAccount>,
        key: &str,
        now: Option<Now>,
    ) -> Option<SharedLimitTask> {
        let mut state = held.lease()?.state.lock();
        let balance = state.balance;
        let wanted = |state: &mut State, need, want| {
            LeaseRequest::new(held, state, key, (need, want), false)
        };
        if balance < 0 {
            return Some(SharedLimitTask::Owe(wanted(&mut state, 1, balance.unsigned_abs())));
        }
        let is_idle = now.is_none_or(|now| now.tick.0.saturating_sub(state.used_at) > IDLE);
        let slice = if is_idle { 0 } else { signed(held.quota.burst / SLICES) };
        let back = balance.saturating_sub(slice);
        if back <= 0 {
            let has = state.leased > 0 || state.is_lost;
            let is_due = |now: &Now| now.tick.0.saturating_sub(state.kept_alive_at) > KEEP_ALIVE;
            let now =
                now.filter(|now| held.quota.window == Window::AtATime && has && is_due(now))?;
            state.kept_alive_at = now.tick.0;
            return Some(SharedLimitTask::Live(wanted(&mut state, 0, 0)));
        }
        // Subtracted first, so that no request spends the returned units.
        state.balance -= back;
        Some(SharedLimitTask::Return(wanted(&mut state, 0, back.unsigned_abs())))
    }

    /// The units to lease or to return.
    pub fn wanted(&self) -> &LeaseRequest {
        match self {
            SharedLimitTask::Owe(wanted)
            | SharedLimitTask::Return(wanted)
            | SharedLimitTask::Live(wanted) => wanted,
        }
    }

    /// Apply the store's reply: units granted, returned, or confirmed (1: certain, 0: not). `None`:
    /// no reply.
    pub fn done(self, units: Option<u64>) {
        let Some(lease) = self.wanted().held.lease() else { return };
        let mut state = lease.state.lock();
        match (&self, units) {
            (SharedLimitTask::Owe(wanted), Some(granted)) => {
                state.granted(granted);
                state.is_dry = granted < wanted.want;
            }
            // The store is unreachable: restore the units, and return them later.
            (SharedLimitTask::Return(wanted), None) => {
                state.balance = state.balance.saturating_add(signed(wanted.want))
            }
            (SharedLimitTask::Return(wanted), Some(_)) => {
                state.leased = state.leased.saturating_sub(signed(wanted.want))
            }
            (SharedLimitTask::Live(_), Some(certain)) => state.is_lost &= certain == 0,
            (SharedLimitTask::Owe(_) | SharedLimitTask::Live(_), None) => {}
        }
    }
}

/// Key of an account in the store. For a calendar, it includes the end of the window.
pub(super) fn key(prefix: &str, limit: &str, subject: &str, window: Window, now: Now) -> String {
    match window_end(window, now) {
        Some(end) => format!("{prefix}:{limit}:{subject}:{}", end / 1_000_000),
        None if window == Window::AtATime => format!("{prefix}:{limit}:{subject}:places"),
        None => format!("{prefix}:{limit}:{subject}"),
    }
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use lens::Tick;

    use super::*;

    fn at(nanos: u64) -> Now {
        Now { tick: Tick(nanos), wall_us: nanos / 1000 }
    }

    fn held() -> Arc<LimitAccount> {
        let quota = Quota {
            amount: 1000,
            window: Window::Rolling(std::time::Duration::from_secs(60)),
            burst: 1000,
        };
        Arc::new(LimitAccount {
            quota,
            account: Arc::new(Account::new(
                &quota,
                Some(&Shared { prefix: "p".into(), replicas: 4 }),
            )),
        })
    }

    fn lease(held: &LimitAccount) -> &Lease {
        held.lease().expect("a leased account")
    }

    #[test]
    fn a_slice_is_spent_returned_when_idle_and_paid_back() {
        let held = held();
        assert!(lease(&held).take(&held.quota, 30, at(0)).is_none());
        let wanted = LeaseRequest::for_request(&held, "k", (30, 30)).unwrap();
        assert_eq!((wanted.need, wanted.want), (30, 80));
        wanted.granted(80);
        let taking = lease(&held).take(&held.quota, 30, at(0)).unwrap();
        assert!(
            SharedLimitTask::due_task(&held, "k", Some(at(0))).is_none(),
            "a slice in use is not returned"
        );
        lease(&held).give_back(&held.quota, 20, taking, at(0));
        let Some(SharedLimitTask::Return(back)) =
            SharedLimitTask::due_task(&held, "k", Some(at(0)))
        else {
            panic!("more than a slice goes back")
        };
        assert_eq!(back.want, 20);
        let chore = SharedLimitTask::due_task(&held, "k", Some(at(3 * IDLE))).unwrap();
        assert_eq!(chore.wanted().want, 50);
        chore.done(None);
        assert_eq!(lease(&held).left(), 50, "an unreachable store takes nothing");
    }

    #[test]
    fn streams_run_on_until_the_store_is_dry() {
        let held = held();
        assert!(lease(&held).grow(5));
        let chore = SharedLimitTask::due_task(&held, "k", Some(at(0))).unwrap();
        assert_eq!(chore.wanted().want, 5);
        chore.done(Some(2));
        assert!(!lease(&held).grow(1));
        let wanted = LeaseRequest::for_request(&held, "k", (10, 10)).unwrap();
        assert_eq!(wanted.need, 14, "a request pays the debt first");
        SharedLimitTask::due_task(&held, "k", Some(at(0))).unwrap().done(Some(4));
        assert!(lease(&held).grow(1));
    }

    #[test]
    fn concurrent_units_are_returned_and_kept_alive() {
        let quota = Quota { amount: 40, window: Window::AtATime, burst: 40 };
        let held = Arc::new(LimitAccount {
            quota,
            account: Arc::new(Account::new(
                &quota,
                Some(&Shared { prefix: "p".into(), replicas: 4 }),
            )),
        });
        let wanted = LeaseRequest::for_request(&held, "k", (1, 1)).unwrap();
        assert_eq!((wanted.need, wanted.want), (1, 3));
        wanted.granted(3);
        drop(wanted);
        let taking = lease(&held).take(&held.quota, 1, at(0)).unwrap();
        let Some(SharedLimitTask::Return(back)) =
            SharedLimitTask::due_task(&held, "k", Some(at(2 * IDLE)))
        else {
            panic!("two lie idle")
        };
        assert_eq!(back.want, 2);
        SharedLimitTask::Return(back).done(Some(0));
        let Some(SharedLimitTask::Live(live)) =
            SharedLimitTask::due_task(&held, "k", Some(at(3 * IDLE)))
        else {
            panic!("one is taken")
        };
        assert_eq!(live.leased(), (1, true));
        let other = LeaseRequest::for_request(&held, "k", (1, 1)).unwrap();
        assert_eq!(live.leased(), (1, false), "another call is in flight");
        drop((other, live));
        assert!(
            SharedLimitTask::due_task(&held, "k", Some(at(3 * IDLE))).is_none(),
            "just kept alive"
        );
        lease(&held).give_back(&held.quota, 1, taking, at(100 * IDLE));
        let last = SharedLimitTask::due_task(&held, "k", None).unwrap();
        assert_eq!(last.wanted().want, 1, "shutdown returns everything");
        last.done(Some(0));
        assert!(SharedLimitTask::due_task(&held, "k", None).is_none());
    }

    #[test]
    fn configured_mode_applies_without_a_store() {
        let held = held();
        let (lease, quota) = (lease(&held), held.quota);
        assert!(lease.take_without(&quota, StoreFallback::Local, 250, at(0)).is_ok());
        assert!(
            lease.take_without(&quota, StoreFallback::Local, 1, at(0)).is_err(),
            "a quarter of a thousand"
        );
        assert!(lease.take_without(&quota, StoreFallback::Open, 10_000, at(0)).is_ok());
        assert!(lease.take_without(&quota, StoreFallback::Closed, 1, at(0)).is_err());
    }
}

/// Schedules of threads, explored by shuttle: `make test-interleavings`.
#[cfg(all(test, shuttle))]
mod interleavings {
    use lens::Tick;
    use shuttle::sync::atomic::{AtomicI64, Ordering};
    use shuttle::{check_random, thread};

    use super::*;

    const NOW: Now = Now { tick: Tick(1), wall_us: 0 };

    /// Requests, the task that returns leases, and a store that sometimes does not reply: no unit
    /// is lost, duplicated, or spent before it is leased.
    #[test]
    fn units_are_neither_lost_nor_doubled() {
        check_random(
            || {
                let quota = Quota { amount: 100, window: Window::AtATime, burst: 100 };
                let account =
                    Account::new(&quota, Some(&Shared { prefix: "p".into(), replicas: 2 }));
                let held = Arc::new(LimitAccount { quota, account: Arc::new(account) });
                // Units granted by the store.
                let given = std::sync::Arc::new(AtomicI64::new(0));
                let requests = (0..2).map(|_| {
                    let (held, given) = (held.clone(), given.clone());
                    thread::spawn(move || request(&held, &given))
                });
                let keeper = {
                    let (held, given) = (held.clone(), given.clone());
                    thread::spawn(move || (0..2).for_each(|turn| keep(&held, &given, turn == 1)))
                };
                let running: i64 = requests
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|request| request.join().expect("no panic"))
                    .sum();
                keeper.join().expect("no panic");
                let state = held.lease().expect("a lease").state.lock();
                assert_eq!(
                    state.balance + running,
                    given.load(Ordering::SeqCst),
                    "balance and running units are what the store granted"
                );
                assert_eq!(
                    state.leased,
                    given.load(Ordering::SeqCst),
                    "`leased` is what the store granted"
                );
                assert_eq!((state.calls, state.is_fetching), (0, false));
            },
            2_000,
        );
    }

    /// Take five units, leasing the missing ones, and return two. Returns the units still in use.
    fn request(held: &Arc<LimitAccount>, given: &AtomicI64) -> i64 {
        let lease = held.lease().expect("a lease");
        for _ in 0..3 {
            if let Some(taking) = lease.take(&held.quota, 5, NOW) {
                lease.give_back(&held.quota, 2, taking, NOW);
                return 3;
            }
            let wanted = LeaseRequest::for_request(held, "k", (5, 5)).expect("a lease");
            given.fetch_add(signed(wanted.want), Ordering::SeqCst);
            thread::yield_now();
            wanted.granted(wanted.want);
        }
        0
    }

    fn keep(held: &Arc<LimitAccount>, given: &AtomicI64, is_away: bool) {
        let Some(chore) = SharedLimitTask::due_task(held, "k", None) else { return };
        let units = match &chore {
            SharedLimitTask::Return(wanted) if !is_away => {
                given.fetch_sub(signed(wanted.want), Ordering::SeqCst);
                Some(0)
            }
            SharedLimitTask::Owe(_) => panic!("no request may spend more than there is"),
            SharedLimitTask::Return(_) | SharedLimitTask::Live(_) => None,
        };
        thread::yield_now();
        chore.done(units);
    }
}
