//! Slices of a limit that many gateways share.
//!
//! - *In*: what a store granted, what requests take and give back.
//! - *Out*: yes while the slice lasts, without a word to the store; else how much to ask it for.
//! - *Never*: use of units that were not leased, except by running streams since the last call to
//!   the store.
//!
//! The store has the account (the same GCRA, or the count of a calendar window) and grants what a
//! request needs plus a slice. Unused slices go back when they have lain idle. What a crashed
//! gateway had leased is lost and comes back with time.

use std::sync::Arc;

use super::account::{Account, Taking, When, window_end};
use super::limits::Held;
use super::settings::{Quota, Shared, Window};
use super::sync::Mutex;

/// The part of a burst that a slice has: more makes fewer questions, and more that lies idle
/// elsewhere.
const SLICES: u64 = 20;
/// Nanoseconds after which an unused slice goes back.
const IDLE: u64 = 2_000_000_000;
/// Nanoseconds between two calls that keep units at a time alive: the store frees those of a
/// gateway that makes no call.
const KEEP_ALIVE: u64 = 1_000_000_000;

/// What this gateway has of an account.
#[derive(Debug)]
pub(super) struct Lease {
    /// One lock: these values must agree, and a request holds it for an addition.
    state: Mutex<State>,
    local: Box<Account>,
}

#[derive(Debug, Default)]
struct State {
    /// Units that are left of the slice; negative: a debt.
    balance: i64,
    /// The store could not grant a debt: streams get no more units.
    is_dry: bool,
    /// A request is fetching a slice: others fetch only what they need, so that a gateway never has
    /// two slices.
    is_asking: bool,
    /// When something was taken last, nanoseconds.
    used_at: u64,
    /// What the store thinks is here, running or not.
    leased: i64,
    /// When units at a time were last kept alive, nanoseconds.
    told_at: u64,
    /// An answer of the store was lost: it may think otherwise than it should.
    is_lost: bool,
    /// Calls about it that are on their way: until they are answered, it is not known what the
    /// store thinks.
    calls: u32,
    /// Of a calendar, the end of the window that the slice is of.
    window: u64,
    /// How many gateways share; for this one's part while the store is away.
    replicas: u32,
}

impl State {
    fn granted(&mut self, units: u64) {
        self.leased = self.leased.saturating_add(signed(units));
        self.balance = self.balance.saturating_add(signed(units));
    }
}

/// What to do when the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// Go by this gateway's share of the limit.
    Local,
    /// Let requests pass; what they use is a debt.
    Open,
    /// Let none pass.
    Closed,
}

/// A slice that is wanted of the store.
#[derive(Debug)]
pub struct Wanted {
    held: Arc<Held>,
    /// The name of the account.
    pub key: String,
    /// How much the account has in all.
    pub quota: Quota,
    /// So many or none.
    pub need: u64,
    /// So many if there are.
    pub want: u64,
    /// Whether it fetches a slice.
    asks: bool,
}

impl Lease {
    pub(super) fn new(quota: &Quota, shared: &Shared) -> Self {
        let state = State { replicas: shared.replicas, ..State::default() };
        Lease { state: Mutex::new(state), local: Box::new(Account::new(quota, None)) }
    }

    /// So many gateways share from now on.
    pub(super) fn share_with(&self, shared: &Shared) {
        self.state.lock().replicas = shared.replicas;
    }

    /// This gateway's part of a limit.
    fn share(&self, quota: &Quota) -> Quota {
        let replicas = u64::from(self.state.lock().replicas.max(1));
        let part = |units: u64| (units / replicas).max(1);
        Quota { amount: part(quota.amount), burst: part(quota.burst), ..*quota }
    }

    /// Take units of the slice; `None`: it has not enough.
    pub(super) fn take(&self, quota: &Quota, units: u64, now: When) -> Option<Taking> {
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

    /// Take units while the store is away. `Err(wait)`: not now.
    pub(super) fn take_without(
        &self,
        quota: &Quota,
        away: Away,
        units: u64,
        now: When,
    ) -> Result<(Taking, bool), Option<u64>> {
        match away {
            Away::Local => {
                self.local.take(&self.share(quota), units, now).map(|taking| (taking, true))
            }
            Away::Open => Ok((self.charge(quota, units, now), false)),
            Away::Closed => Err(Some(1_000_000_000)),
        }
    }

    /// Whether a running stream may take more; it is charged all the same.
    pub(super) fn grow(&self, units: u64) -> bool {
        let mut state = self.state.lock();
        let has = state.balance >= signed(units);
        state.balance = state.balance.saturating_sub(signed(units));
        has || !state.is_dry
    }

    pub(super) fn charge(&self, quota: &Quota, units: u64, now: When) -> Taking {
        let mut state = self.state.lock();
        state.balance = state.balance.saturating_sub(signed(units));
        taking(quota, signed(units), now)
    }

    /// Units that refilled with time are not returned again, nor units of a past window. Streams
    /// are always returned.
    pub(super) fn give_back(&self, quota: &Quota, units: u64, taking: Taking, now: When) {
        let back = match window_end(quota.window, now) {
            _ if quota.window == Window::AtATime => units,
            Some(end) if end == taking.until => units,
            Some(_) => 0,
            None => units.min(quota.units_of(taking.until.saturating_sub(now.tick.0))),
        };
        let mut state = self.state.lock();
        state.balance = state.balance.saturating_add(signed(back));
    }

    /// The same of what was taken of this gateway's own share.
    pub(super) fn give_back_share(&self, quota: &Quota, units: u64, taking: Taking, now: When) {
        self.local.give_back(&self.share(quota), units, taking, now);
    }

    /// A taking of the share will not be given back any more.
    pub(super) fn close(&self, taking: Taking) {
        self.local.close(taking);
    }

    /// What is known to be left: of the slice.
    pub(super) fn left(&self) -> u64 {
        u64::try_from(self.state.lock().balance).unwrap_or(0)
    }

    pub(super) fn is_as_new(&self, now: When) -> bool {
        let state = self.state.lock();
        // Running streams hold units that only their end returns.
        let runs = self.local.is_places() && state.leased != 0;
        state.balance == 0 && !runs && self.local.is_as_new(now)
    }
}

/// What must be known to give it back: of a rate when it would be paid off, of a calendar the end
/// of the window.
fn taking(quota: &Quota, units: i64, now: When) -> Taking {
    let paid = || now.tick.0.saturating_add(quota.time_of(units.unsigned_abs()));
    Taking::until(window_end(quota.window, now).unwrap_or_else(paid))
}

impl Wanted {
    /// What a request needs beyond what the slice has, and a slice more.
    pub(super) fn of(held: &Arc<Held>, key: &str, units: u64) -> Option<Wanted> {
        let mut state = held.lease()?.state.lock();
        let short = signed(units).saturating_sub(state.balance);
        // A debt beyond all that the limit holds is paid in parts; what is larger than it by itself
        // never fits.
        let need = u64::try_from(short).unwrap_or(1).clamp(1, held.quota.burst.max(units));
        let asks = !std::mem::replace(&mut state.is_asking, true);
        let want = if asks { need.saturating_add(held.quota.burst / SLICES) } else { need };
        Some(Wanted::new(held, &mut state, key, (need, want), asks))
    }

    fn new(
        held: &Arc<Held>,
        state: &mut State,
        key: &str,
        (need, want): (u64, u64),
        asks: bool,
    ) -> Self {
        state.calls += 1;
        Wanted { held: held.clone(), key: key.to_owned(), quota: held.quota, need, want, asks }
    }

    /// What the store should think that this gateway has of the account; and whether that is
    /// certain: no other call is on its way.
    pub fn leased(&self) -> (u64, bool) {
        let Some(lease) = self.held.lease() else { return (0, false) };
        let state = lease.state.lock();
        (u64::try_from(state.leased).unwrap_or(0), state.calls == 1)
    }

    /// The answer to a call was lost.
    pub fn lost(&self) {
        let Some(lease) = self.held.lease() else { return };
        let mut state = lease.state.lock();
        state.is_lost = true;
        state.told_at = 0;
    }

    /// The store granted that much.
    pub fn granted(&self, units: u64) {
        let Some(lease) = self.held.lease() else { return };
        let mut state = lease.state.lock();
        state.granted(units);
        state.is_dry = false;
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let Some(lease) = self.held.lease() else { return };
        let mut state = lease.state.lock();
        state.calls = state.calls.saturating_sub(1);
        state.is_asking &= !self.asks;
    }
}

/// What the keeper of leases has to do about an account.
#[derive(Debug)]
pub enum StoreTask {
    /// Lease the debt of running streams; [`StoreTask::done`] reports how much was granted.
    Owe(Wanted),
    /// So many units go back to the store.
    Return(Wanted),
    /// Report to the store that streams are in use.
    Live(Wanted),
}

impl StoreTask {
    /// `None` for `now`: the gateway shuts down and returns everything.
    pub(super) fn of(held: &Arc<Held>, key: &str, now: Option<When>) -> Option<StoreTask> {
        let mut state = held.lease()?.state.lock();
        let balance = state.balance;
        let wanted =
            |state: &mut State, need, want| Wanted::new(held, state, key, (need, want), false);
        if balance < 0 {
            return Some(StoreTask::Owe(wanted(&mut state, 1, balance.unsigned_abs())));
        }
        let is_idle = now.is_none_or(|now| now.tick.0.saturating_sub(state.used_at) > IDLE);
        let slice = if is_idle { 0 } else { signed(held.quota.burst / SLICES) };
        let back = balance.saturating_sub(slice);
        if back <= 0 {
            let has = state.leased > 0 || state.is_lost;
            let is_due = |now: &When| now.tick.0.saturating_sub(state.told_at) > KEEP_ALIVE;
            let now =
                now.filter(|now| held.quota.window == Window::AtATime && has && is_due(now))?;
            state.told_at = now.tick.0;
            return Some(StoreTask::Live(wanted(&mut state, 0, 0)));
        }
        // Taken out first, so that no request spends what goes back.
        state.balance -= back;
        Some(StoreTask::Return(wanted(&mut state, 0, back.unsigned_abs())))
    }

    /// What is wanted, or goes back.
    pub fn wanted(&self) -> &Wanted {
        match self {
            StoreTask::Owe(wanted) | StoreTask::Return(wanted) | StoreTask::Live(wanted) => wanted,
        }
    }

    /// The answer of the store: units granted, taken, or confirmed (1: certain, 0: not). `None`: no
    /// answer, nothing changes.
    pub fn done(self, units: Option<u64>) {
        let Some(lease) = self.wanted().held.lease() else { return };
        let mut state = lease.state.lock();
        match (&self, units) {
            (StoreTask::Owe(wanted), Some(granted)) => {
                state.granted(granted);
                state.is_dry = granted < wanted.want;
            }
            // What goes back to a store that is away comes back here, and is tried again.
            (StoreTask::Return(wanted), None) => {
                state.balance = state.balance.saturating_add(signed(wanted.want))
            }
            (StoreTask::Return(wanted), Some(_)) => {
                state.leased = state.leased.saturating_sub(signed(wanted.want))
            }
            (StoreTask::Live(_), Some(certain)) => state.is_lost &= certain == 0,
            (StoreTask::Owe(_) | StoreTask::Live(_), None) => {}
        }
    }
}

/// The name of an account, with what it is: of a calendar's, the end of the window.
pub(super) fn key(prefix: &str, limit: &str, subject: &str, window: Window, now: When) -> String {
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

    fn at(nanos: u64) -> When {
        When { tick: Tick(nanos), wall_us: nanos / 1000 }
    }

    fn held() -> Arc<Held> {
        let quota = Quota {
            amount: 1000,
            window: Window::Rolling(std::time::Duration::from_secs(60)),
            burst: 1000,
        };
        Arc::new(Held {
            quota,
            account: Arc::new(Account::new(
                &quota,
                Some(&Shared { prefix: "p".into(), replicas: 4 }),
            )),
        })
    }

    fn lease(held: &Held) -> &Lease {
        held.lease().expect("a leased account")
    }

    #[test]
    fn a_slice_is_spent_returned_when_idle_and_paid_back() {
        let held = held();
        assert!(lease(&held).take(&held.quota, 30, at(0)).is_none());
        let wanted = Wanted::of(&held, "k", 30).unwrap();
        assert_eq!((wanted.need, wanted.want), (30, 80));
        wanted.granted(80);
        let taking = lease(&held).take(&held.quota, 30, at(0)).unwrap();
        assert!(
            StoreTask::of(&held, "k", Some(at(0))).is_none(),
            "a slice may lie here while it is used"
        );
        lease(&held).give_back(&held.quota, 20, taking, at(0));
        let Some(StoreTask::Return(back)) = StoreTask::of(&held, "k", Some(at(0))) else {
            panic!("more than a slice goes back")
        };
        assert_eq!(back.want, 20);
        let chore = StoreTask::of(&held, "k", Some(at(3 * IDLE))).unwrap();
        assert_eq!(chore.wanted().want, 50);
        chore.done(None);
        assert_eq!(lease(&held).left(), 50, "a store that is away takes nothing");
    }

    #[test]
    fn streams_run_on_until_the_store_is_dry() {
        let held = held();
        assert!(lease(&held).grow(5));
        let chore = StoreTask::of(&held, "k", Some(at(0))).unwrap();
        assert_eq!(chore.wanted().want, 5);
        chore.done(Some(2));
        assert!(!lease(&held).grow(1));
        let wanted = Wanted::of(&held, "k", 10).unwrap();
        assert_eq!(wanted.need, 14, "a request pays the debt first");
        StoreTask::of(&held, "k", Some(at(0))).unwrap().done(Some(4));
        assert!(lease(&held).grow(1));
    }

    #[test]
    fn places_come_back_whenever_they_are_left_and_are_told_of_meanwhile() {
        let quota = Quota { amount: 40, window: Window::AtATime, burst: 40 };
        let held = Arc::new(Held {
            quota,
            account: Arc::new(Account::new(
                &quota,
                Some(&Shared { prefix: "p".into(), replicas: 4 }),
            )),
        });
        let wanted = Wanted::of(&held, "k", 1).unwrap();
        assert_eq!((wanted.need, wanted.want), (1, 3));
        wanted.granted(3);
        drop(wanted);
        let taking = lease(&held).take(&held.quota, 1, at(0)).unwrap();
        let Some(StoreTask::Return(back)) = StoreTask::of(&held, "k", Some(at(2 * IDLE))) else {
            panic!("two lie idle")
        };
        assert_eq!(back.want, 2);
        StoreTask::Return(back).done(Some(0));
        let Some(StoreTask::Live(live)) = StoreTask::of(&held, "k", Some(at(3 * IDLE))) else {
            panic!("one is taken")
        };
        assert_eq!(live.leased(), (1, true));
        let other = Wanted::of(&held, "k", 1).unwrap();
        assert_eq!(live.leased(), (1, false), "another question is on its way");
        drop((other, live));
        assert!(StoreTask::of(&held, "k", Some(at(3 * IDLE))).is_none(), "it was told");
        lease(&held).give_back(&held.quota, 1, taking, at(100 * IDLE));
        let last = StoreTask::of(&held, "k", None).unwrap();
        assert_eq!(last.wanted().want, 1, "a gateway that ends keeps nothing");
        last.done(Some(0));
        assert!(StoreTask::of(&held, "k", None).is_none());
    }

    #[test]
    fn without_a_store_the_declared_mode_holds() {
        let held = held();
        let (lease, quota) = (lease(&held), held.quota);
        assert!(lease.take_without(&quota, Away::Local, 250, at(0)).is_ok());
        assert!(
            lease.take_without(&quota, Away::Local, 1, at(0)).is_err(),
            "a quarter of a thousand"
        );
        assert!(lease.take_without(&quota, Away::Open, 10_000, at(0)).is_ok());
        assert!(lease.take_without(&quota, Away::Closed, 1, at(0)).is_err());
    }
}

/// Threads in every order that a scheduler may choose: `make test-interleavings`.
#[cfg(all(test, shuttle))]
mod interleavings {
    use lens::Tick;
    use shuttle::sync::atomic::{AtomicI64, Ordering};
    use shuttle::{check_random, thread};

    use super::*;

    const NOW: When = When { tick: Tick(1), wall_us: 0 };

    /// Requests, the keeper of leases and a store that now and then does not answer: no unit is
    /// lost, doubled, or spent before it was leased.
    #[test]
    fn units_are_neither_lost_nor_doubled() {
        check_random(
            || {
                let quota = Quota { amount: 100, window: Window::AtATime, burst: 100 };
                let account =
                    Account::new(&quota, Some(&Shared { prefix: "p".into(), replicas: 2 }));
                let held = Arc::new(Held { quota, account: Arc::new(account) });
                // What the store has given out.
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
                    "left and running are what was given out"
                );
                assert_eq!(
                    state.leased,
                    given.load(Ordering::SeqCst),
                    "the gateway knows what the store gave out"
                );
                assert_eq!((state.calls, state.is_asking), (0, false));
            },
            2_000,
        );
    }

    /// Take five units, leasing what is short, and give two back; how many still run.
    fn request(held: &Arc<Held>, given: &AtomicI64) -> i64 {
        let lease = held.lease().expect("a lease");
        for _ in 0..3 {
            if let Some(taking) = lease.take(&held.quota, 5, NOW) {
                lease.give_back(&held.quota, 2, taking, NOW);
                return 3;
            }
            let wanted = Wanted::of(held, "k", 5).expect("a lease");
            given.fetch_add(signed(wanted.want), Ordering::SeqCst);
            thread::yield_now();
            wanted.granted(wanted.want);
        }
        0
    }

    fn keep(held: &Arc<Held>, given: &AtomicI64, is_away: bool) {
        let Some(chore) = StoreTask::of(held, "k", None) else { return };
        let units = match &chore {
            StoreTask::Return(wanted) if !is_away => {
                given.fetch_sub(signed(wanted.want), Ordering::SeqCst);
                Some(0)
            }
            StoreTask::Owe(_) => panic!("no request may spend more than there is"),
            StoreTask::Return(_) | StoreTask::Live(_) => None,
        };
        thread::yield_now();
        chore.done(units);
    }
}
