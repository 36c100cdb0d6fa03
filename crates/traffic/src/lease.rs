//! Slices of a limit that many gateways share.
//!
//! - *In*: what a store granted, what requests take and give back.
//! - *Out*: yes while the slice lasts, without a word to the store; else how much to ask it for.
//! - *Never*: a unit spent that was not leased, but for what running streams took since the store was asked last.
//!
//! The store has the account (the same GCRA, or the count of a calendar's window) and is asked for what a request needs and a slice more. Unused
//! slices go back when they have lain idle. What a crashed gateway had leased is lost and comes back with time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::account::{Account, Taking, When, window_end};
use super::limits::Held;
use super::settings::{Every, Quota, Shared};

/// The part of a burst that a slice has: more makes fewer questions, and more that lies idle elsewhere.
const SLICES: u64 = 20;
/// Nanoseconds after which an unused slice goes back.
const IDLE: u64 = 2_000_000_000;
/// Nanoseconds after which the store is told again that places are taken: it forgets those of a gateway that it does not hear of.
const TELL: u64 = 1_000_000_000;

/// What this gateway has of an account.
#[derive(Debug)]
pub(super) struct Lease {
    balance: AtomicI64,
    /// The store had nothing for a debt: streams that want more have none.
    dry: AtomicBool,
    /// Somebody asks for a slice: others ask for what they need only, so that a gateway never has two.
    asking: AtomicBool,
    /// When something was taken last.
    used: AtomicU64,
    /// What the store thinks is here, running or not.
    leased: AtomicI64,
    /// When the store was last told of places.
    told: AtomicU64,
    /// An answer of the store was lost: it may think otherwise than it should.
    lost: AtomicBool,
    /// Questions about it that are on their way: until they are answered, nobody knows what the store thinks.
    calls: AtomicU32,
    /// Of a calendar, the end of the window that the slice is of.
    window: AtomicU64,
    /// How many gateways share; for this one's part while the store is away.
    replicas: AtomicU32,
    local: Box<Account>,
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
    /// It asks for a slice.
    asks: bool,
}

impl Lease {
    pub(super) fn new(quota: &Quota, shared: &Shared) -> Self {
        Lease {
            balance: AtomicI64::new(0),
            dry: AtomicBool::new(false),
            asking: AtomicBool::new(false),
            used: AtomicU64::new(0),
            leased: AtomicI64::new(0),
            told: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            calls: AtomicU32::new(0),
            window: AtomicU64::new(0),
            replicas: AtomicU32::new(shared.replicas),
            local: Box::new(Account::new(quota, None)),
        }
    }

    /// So many gateways share from now on.
    pub(super) fn share_with(&self, shared: &Shared) {
        self.replicas.store(shared.replicas, Ordering::Relaxed);
    }

    /// This gateway's part of a limit.
    fn share(&self, quota: &Quota) -> Quota {
        let part = |units: u64| (units / u64::from(self.replicas.load(Ordering::Relaxed).max(1))).max(1);
        Quota { amount: part(quota.amount), burst: part(quota.burst), ..*quota }
    }

    /// Take units of the slice; `None`: it has not enough.
    pub(super) fn take(&self, quota: &Quota, units: u64, now: When) -> Option<Taking> {
        self.turn(quota, now);
        let units = signed(units);
        let left = |balance: i64| balance.checked_sub(units).filter(|left| *left >= 0);
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).ok()?;
        self.used.store(now.tick.0, Ordering::Relaxed);
        Some(taking(quota, units, now))
    }

    /// A slice of a window that is over is none of the next.
    fn turn(&self, quota: &Quota, now: When) {
        let Some(end) = window_end(quota.every, now) else { return };
        if self.window.swap(end, Ordering::Relaxed) != end {
            let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| Some(balance.min(0)));
        }
    }

    /// Take units while the store is away. `Err(wait)`: not now.
    pub(super) fn take_without(&self, quota: &Quota, away: Away, units: u64, now: When) -> Result<(Taking, bool), Option<u64>> {
        match away {
            Away::Local => self.local.take(&self.share(quota), units, now).map(|taking| (taking, true)),
            Away::Open => Ok((self.charge(quota, units, now), false)),
            Away::Closed => Err(Some(1_000_000_000)),
        }
    }

    /// Whether a running stream may take more; it is charged all the same.
    pub(super) fn grow(&self, units: u64) -> bool {
        let before = self.balance.fetch_sub(signed(units), Ordering::Relaxed);
        before >= signed(units) || !self.dry.load(Ordering::Relaxed)
    }

    pub(super) fn charge(&self, quota: &Quota, units: u64, now: When) -> Taking {
        self.balance.fetch_sub(signed(units), Ordering::Relaxed);
        taking(quota, signed(units), now)
    }

    /// What time has given back already is not given back again; of a window that is over, nothing is. Places are free whenever they are left.
    pub(super) fn give_back(&self, quota: &Quota, units: u64, taking: Taking, now: When) {
        let back = match window_end(quota.every, now) {
            _ if quota.every == Every::AtATime => units,
            Some(end) if end == taking.until => units,
            Some(_) => 0,
            None => units.min(quota.units_of(taking.until.saturating_sub(now.tick.0))),
        };
        self.balance.fetch_add(signed(back), Ordering::Relaxed);
    }

    /// The same of what was taken of this gateway's own share.
    pub(super) fn give_back_share(&self, quota: &Quota, units: u64, taking: Taking, now: When) {
        self.local.give_back(&self.share(quota), units, taking, now);
    }

    /// A taking of the share will not be given back any more.
    pub(super) fn close(&self, taking: Taking) {
        self.local.close(taking);
    }

    fn granted(&self, units: u64) {
        self.leased.fetch_add(signed(units), Ordering::Relaxed);
        self.balance.fetch_add(signed(units), Ordering::Relaxed);
    }

    /// What is known to be left: of the slice.
    pub(super) fn left(&self) -> u64 {
        u64::try_from(self.balance.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(super) fn is_as_new(&self, now: When) -> bool {
        // Streams that run have places that nobody would give back.
        let places = self.local.is_places() && self.leased.load(Ordering::Relaxed) != 0;
        self.balance.load(Ordering::Relaxed) == 0 && !places && self.local.is_as_new(now)
    }
}

/// What must be known to give it back: of a rate when it would be paid off, of a calendar the end of the window.
fn taking(quota: &Quota, units: i64, now: When) -> Taking {
    let paid = || now.tick.0.saturating_add(quota.time_of(units.unsigned_abs()));
    Taking::until(window_end(quota.every, now).unwrap_or_else(paid))
}

impl Wanted {
    /// What a request needs beyond what the slice has, and a slice more.
    pub(super) fn of(held: &Arc<Held>, key: &str, units: u64) -> Option<Wanted> {
        let Account::Leased(lease) = &*held.account else { return None };
        let short = signed(units).saturating_sub(lease.balance.load(Ordering::Relaxed));
        // A debt beyond all that the limit holds is paid in parts; what is larger than it by itself never fits.
        let need = u64::try_from(short).unwrap_or(1).clamp(1, held.quota.burst.max(units));
        let asks = !lease.asking.swap(true, Ordering::Relaxed);
        let want = if asks { need.saturating_add(held.quota.burst / SLICES) } else { need };
        Some(Wanted::new(held, key, (need, want), asks))
    }

    fn new(held: &Arc<Held>, key: &str, (need, want): (u64, u64), asks: bool) -> Self {
        if let Account::Leased(lease) = &*held.account {
            lease.calls.fetch_add(1, Ordering::Relaxed);
        }
        Wanted { held: held.clone(), key: key.to_owned(), quota: held.quota, need, want, asks }
    }

    /// What the store should think that this gateway has of the account; and whether that is certain: no other question is on its way.
    pub fn leased(&self) -> (u64, bool) {
        let Account::Leased(lease) = &*self.held.account else { return (0, false) };
        (u64::try_from(lease.leased.load(Ordering::Relaxed)).unwrap_or(0), lease.calls.load(Ordering::Relaxed) == 1)
    }

    /// Nobody knows what the store made of it.
    pub fn lost(&self) {
        if let Account::Leased(lease) = &*self.held.account {
            lease.lost.store(true, Ordering::Relaxed);
            lease.told.store(0, Ordering::Relaxed);
        }
    }

    /// The store granted that much.
    pub fn granted(&self, units: u64) {
        if let Account::Leased(lease) = &*self.held.account {
            lease.granted(units);
            lease.dry.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let Account::Leased(lease) = &*self.held.account else { return };
        lease.calls.fetch_sub(1, Ordering::Relaxed);
        if self.asks {
            lease.asking.store(false, Ordering::Relaxed);
        }
    }
}

/// What the keeper of leases has to do about an account.
#[derive(Debug)]
pub enum Chore {
    /// A debt of running streams is to be leased; [`Chore::done`] tells how much of it was.
    Owe(Wanted),
    /// So many units go back to the store.
    Return(Wanted),
    /// The store is to hear that places are taken.
    Live(Wanted),
}

impl Chore {
    /// `None` for `now`: the gateway ends, and nothing is to stay here.
    pub(super) fn of(held: &Arc<Held>, key: &str, now: Option<When>) -> Option<Chore> {
        let Account::Leased(lease) = &*held.account else { return None };
        let balance = lease.balance.load(Ordering::Relaxed);
        let wanted = |need, want| Wanted::new(held, key, (need, want), false);
        if balance < 0 {
            return Some(Chore::Owe(wanted(1, balance.unsigned_abs())));
        }
        let idle = now.is_none_or(|now| now.tick.0.saturating_sub(lease.used.load(Ordering::Relaxed)) > IDLE);
        let slice = if idle { 0 } else { signed(held.quota.burst / SLICES) };
        let back = balance.saturating_sub(slice);
        if back <= 0 {
            let has = lease.leased.load(Ordering::Relaxed) > 0 || lease.lost.load(Ordering::Relaxed);
            let tells = held.quota.every == Every::AtATime && has;
            let due = |now: &When| now.tick.0.saturating_sub(lease.told.load(Ordering::Relaxed)) > TELL;
            let now = now.filter(|now| tells && due(now))?;
            lease.told.store(now.tick.0, Ordering::Relaxed);
            return Some(Chore::Live(wanted(0, 0)));
        }
        // Taken out first, so that nobody spends what goes back.
        let taken = lease.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now >= back).then_some(now - back));
        taken.ok().map(|_| Chore::Return(wanted(0, back.unsigned_abs())))
    }

    /// What is wanted, or goes back.
    pub fn wanted(&self) -> &Wanted {
        match self {
            Chore::Owe(wanted) | Chore::Return(wanted) | Chore::Live(wanted) => wanted,
        }
    }

    /// The store has answered: it granted so many, or took them, or heard of it (1: for certain, 0: not). `None`: it did not answer, and nothing has changed.
    pub fn done(self, units: Option<u64>) {
        let Account::Leased(lease) = &*self.wanted().held.account else { return };
        match (&self, units) {
            (Chore::Owe(wanted), Some(granted)) => {
                lease.granted(granted);
                lease.dry.store(granted < wanted.want, Ordering::Relaxed);
            }
            // What goes back to a store that is away comes back here, and is tried again.
            (Chore::Return(wanted), None) => drop(lease.balance.fetch_add(signed(wanted.want), Ordering::Relaxed)),
            (Chore::Return(wanted), Some(_)) => drop(lease.leased.fetch_sub(signed(wanted.want), Ordering::Relaxed)),
            (Chore::Live(_), Some(certain)) => {
                lease.lost.fetch_and(certain == 0, Ordering::Relaxed);
            }
            (Chore::Owe(_) | Chore::Live(_), None) => {}
        }
    }
}

/// The name of an account, with what it is: of a calendar's, the end of the window.
pub(super) fn key(prefix: &str, limit: &str, subject: &str, every: Every, now: When) -> String {
    match window_end(every, now) {
        Some(end) => format!("{prefix}:{limit}:{subject}:{}", end / 1_000_000),
        None if every == Every::AtATime => format!("{prefix}:{limit}:{subject}:places"),
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
        let quota = Quota { amount: 1000, every: Every::Rolling(std::time::Duration::from_secs(60)), burst: 1000 };
        Arc::new(Held { quota, account: Arc::new(Account::new(&quota, Some(&Shared { prefix: "p".into(), replicas: 4 }))) })
    }

    fn lease(held: &Held) -> &Lease {
        match &*held.account {
            Account::Leased(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_slice_is_spent_returned_when_idle_and_paid_back() {
        let held = held();
        assert!(lease(&held).take(&held.quota, 30, at(0)).is_none());
        let wanted = Wanted::of(&held, "k", 30).unwrap();
        assert_eq!((wanted.need, wanted.want), (30, 80));
        wanted.granted(80);
        let taking = lease(&held).take(&held.quota, 30, at(0)).unwrap();
        assert!(Chore::of(&held, "k", Some(at(0))).is_none(), "a slice may lie here while it is used");
        lease(&held).give_back(&held.quota, 20, taking, at(0));
        let Some(Chore::Return(back)) = Chore::of(&held, "k", Some(at(0))) else { panic!("more than a slice goes back") };
        assert_eq!(back.want, 20);
        let chore = Chore::of(&held, "k", Some(at(3 * IDLE))).unwrap();
        assert_eq!(chore.wanted().want, 50);
        chore.done(None);
        assert_eq!(lease(&held).left(), 50, "a store that is away takes nothing");
    }

    #[test]
    fn streams_run_on_until_the_store_is_dry() {
        let held = held();
        assert!(lease(&held).grow(5));
        let chore = Chore::of(&held, "k", Some(at(0))).unwrap();
        assert_eq!(chore.wanted().want, 5);
        chore.done(Some(2));
        assert!(!lease(&held).grow(1));
        let wanted = Wanted::of(&held, "k", 10).unwrap();
        assert_eq!(wanted.need, 14, "a request pays the debt first");
        Chore::of(&held, "k", Some(at(0))).unwrap().done(Some(4));
        assert!(lease(&held).grow(1));
    }

    #[test]
    fn places_come_back_whenever_they_are_left_and_are_told_of_meanwhile() {
        let quota = Quota { amount: 40, every: Every::AtATime, burst: 40 };
        let held = Arc::new(Held { quota, account: Arc::new(Account::new(&quota, Some(&Shared { prefix: "p".into(), replicas: 4 }))) });
        let wanted = Wanted::of(&held, "k", 1).unwrap();
        assert_eq!((wanted.need, wanted.want), (1, 3));
        wanted.granted(3);
        drop(wanted);
        let taking = lease(&held).take(&held.quota, 1, at(0)).unwrap();
        let Some(Chore::Return(back)) = Chore::of(&held, "k", Some(at(2 * IDLE))) else { panic!("two lie idle") };
        assert_eq!(back.want, 2);
        Chore::Return(back).done(Some(0));
        let Some(Chore::Live(live)) = Chore::of(&held, "k", Some(at(3 * IDLE))) else { panic!("one is taken") };
        assert_eq!(live.leased(), (1, true));
        let other = Wanted::of(&held, "k", 1).unwrap();
        assert_eq!(live.leased(), (1, false), "another question is on its way");
        drop((other, live));
        assert!(Chore::of(&held, "k", Some(at(3 * IDLE))).is_none(), "it was told");
        lease(&held).give_back(&held.quota, 1, taking, at(100 * IDLE));
        let last = Chore::of(&held, "k", None).unwrap();
        assert_eq!(last.wanted().want, 1, "a gateway that ends keeps nothing");
        last.done(Some(0));
        assert!(Chore::of(&held, "k", None).is_none());
    }

    #[test]
    fn without_a_store_the_declared_mode_holds() {
        let held = held();
        let (lease, quota) = (lease(&held), held.quota);
        assert!(lease.take_without(&quota, Away::Local, 250, at(0)).is_ok());
        assert!(lease.take_without(&quota, Away::Local, 1, at(0)).is_err(), "a quarter of a thousand");
        assert!(lease.take_without(&quota, Away::Open, 10_000, at(0)).is_ok());
        assert!(lease.take_without(&quota, Away::Closed, 1, at(0)).is_err());
    }
}
