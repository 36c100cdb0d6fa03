//! The account of one subject in one limit.
//!
//! - *In*: units to take, to charge or to return, and the time.
//! - *Out*: the units taken, or the time to wait.
//! - *Never*: a lock held for longer than a few additions; a refund of units that have already
//!   refilled with time.
//!
//! A rate is GCRA in its virtual scheduling form (ITU-T I.371, annex A): the account is one
//! instant, at which the debt is paid off. Taking *n* units of *amount* per *period* moves it *n x
//! period / amount* further; it may be at most *burst x period / amount* ahead of now.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};
use lens::Tick;
use parking_lot::Mutex;

use super::lease::Lease;
use super::settings::{Quota, Shared, Window};

/// The current time on both clocks: rates use the monotonic one, calendars the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time.
    pub tick: Tick,
    /// Wall-clock time in Unix microseconds.
    pub wall_us: u64,
}

/// An account.
#[derive(Debug)]
pub(super) enum Account {
    /// GCRA.
    Rate(Mutex<Rate>),
    /// Units taken in a day or month.
    Calendar(Mutex<CalendarWindow>),
    /// Units in use at the moment.
    Concurrent(AtomicU64),
    /// A slice of a limit that several gateways share.
    Leased(Lease),
}

/// The instant at which the debt is paid off, and the ends of takings that may still be returned,
/// which are before it.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// When the debt is paid off, in nanoseconds.
    owed: u64,
    next: u64,
    /// Number and end of each open taking, in order of both; one for each running request.
    open: VecDeque<(u64, u64)>,
}

/// A day or month, and the units taken in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CalendarWindow {
    /// End of the window in Unix microseconds.
    end: u64,
    used: u64,
}

/// A record of taken units, so that they can be returned.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taking {
    /// A rate: when it is paid off. A calendar: the end of its window.
    pub(super) until: u64,
    /// A rate: its number.
    number: u64,
}

impl Taking {
    /// A taking that ends at `until`.
    pub(super) fn until(until: u64) -> Self {
        Taking { until, number: 0 }
    }
}

/// Nanoseconds until the units are available; `None`: never, because they exceed the limit.
pub(super) type Wait = Option<u64>;

impl Account {
    pub(super) fn new(quota: &Quota, shared: Option<&Shared>) -> Self {
        if let Some(shared) = shared {
            return Account::Leased(Lease::new(quota, shared));
        }
        match quota.window {
            Window::Rolling(_) => Account::Rate(Mutex::default()),
            Window::Day | Window::Month => Account::Calendar(Mutex::default()),
            Window::AtATime => Account::Concurrent(AtomicU64::new(0)),
        }
    }

    /// Take units, if the limit has them; for a lease, if the slice has them.
    pub(super) fn take(&self, quota: &Quota, units: u64, now: Now) -> Result<Taking, Wait> {
        match self {
            Account::Rate(rate) => {
                let (cost, most) = (quota.time_of(units), quota.time_of(quota.burst));
                if cost > most {
                    return Err(None);
                }
                let mut rate = rate.lock();
                let until = rate.owed.max(now.tick.0).saturating_add(cost);
                let wait = (until - now.tick.0).saturating_sub(most);
                if wait > 0 { Err(Some(wait)) } else { Ok(rate.take(until, true)) }
            }
            Account::Calendar(window) => {
                let mut window = window.lock();
                window.turn(quota.window, now.wall_us);
                match window.used.checked_add(units).filter(|used| *used <= quota.amount) {
                    Some(used) => {
                        window.used = used;
                        Ok(Taking { until: window.end, number: 0 })
                    }
                    None if units > quota.amount => Err(None),
                    None => Err(Some(window.end.saturating_sub(now.wall_us).saturating_mul(1000))),
                }
            }
            Account::Concurrent(taken) => {
                let take = |taken: u64| taken.checked_add(units).filter(|sum| *sum <= quota.amount);
                // The end of a stream is unknown, so clients may retry after a second.
                taken
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .map_or(Err(Some(1_000_000_000)), |_| Ok(Taking::default()))
            }
            Account::Leased(lease) => lease.take(quota, units, now).ok_or(None),
        }
    }

    /// Charge units, even beyond the limit.
    pub(super) fn charge(&self, quota: &Quota, units: u64, now: Now) -> Taking {
        match self {
            Account::Rate(rate) => {
                let mut rate = rate.lock();
                let until = rate
                    .owed
                    .max(now.tick.0)
                    .saturating_add(quota.time_of(units))
                    .min(u64::MAX / 2);
                rate.take(until, false)
            }
            Account::Calendar(window) => {
                let mut window = window.lock();
                window.turn(quota.window, now.wall_us);
                window.used = window.used.saturating_add(units);
                Taking { until: window.end, number: 0 }
            }
            Account::Concurrent(taken) => {
                taken.fetch_add(units, Ordering::Relaxed);
                Taking::default()
            }
            Account::Leased(lease) => lease.charge(quota, units, now),
        }
    }

    /// Return units of a taking.
    pub(super) fn give_back(&self, quota: &Quota, units: u64, taking: Taking, now: Now) {
        match self {
            Account::Rate(rate) => rate.lock().give_back(quota.time_of(units), taking, now.tick.0),
            Account::Calendar(window) => {
                let mut window = window.lock();
                if window.end == taking.until {
                    window.used = window.used.saturating_sub(units);
                }
            }
            Account::Concurrent(taken) => {
                let _ = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                    Some(taken.saturating_sub(units))
                });
            }
            Account::Leased(lease) => lease.give_back(quota, units, taking, now),
        }
    }

    /// Close a taking: no units of it are returned after this.
    pub(super) fn close(&self, taking: Taking) {
        if let Account::Rate(rate) = self {
            let mut rate = rate.lock();
            if let Ok(at) = rate.find(taking) {
                rate.open.remove(at);
            }
        }
    }

    /// Units available now, and nanoseconds until all are available.
    pub(super) fn left(&self, quota: &Quota, now: Now) -> (u64, u64) {
        match self {
            Account::Rate(rate) => {
                let owed = rate.lock().owed.saturating_sub(now.tick.0);
                (quota.units_of(quota.time_of(quota.burst).saturating_sub(owed)), owed)
            }
            Account::Calendar(window) => {
                let mut window = window.lock();
                window.turn(quota.window, now.wall_us);
                (
                    quota.amount.saturating_sub(window.used),
                    window.end.saturating_sub(now.wall_us).saturating_mul(1000),
                )
            }
            Account::Concurrent(taken) => {
                (quota.amount.saturating_sub(taken.load(Ordering::Relaxed)), 0)
            }
            Account::Leased(lease) => (lease.left(), 0),
        }
    }

    /// Whether it counts concurrent units.
    pub(super) fn is_places(&self) -> bool {
        matches!(self, Account::Concurrent(_))
    }

    /// Whether it is equivalent to a new account.
    pub(super) fn is_unused(&self, now: Now) -> bool {
        match self {
            Account::Rate(rate) => rate.lock().owed <= now.tick.0,
            Account::Calendar(window) => {
                let window = window.lock();
                window.used == 0 || window.end <= now.wall_us
            }
            Account::Concurrent(taken) => taken.load(Ordering::Relaxed) == 0,
            Account::Leased(lease) => lease.is_unused(now),
        }
    }
}

impl Rate {
    fn take(&mut self, until: u64, open: bool) -> Taking {
        self.owed = until;
        self.next += 1;
        if open {
            self.open.push_back((self.next, until));
        }
        Taking { until, number: self.next }
    }

    fn find(&self, taking: Taking) -> Result<usize, usize> {
        self.open.binary_search_by_key(&taking.number, |(number, _)| *number)
    }

    /// Return the unpaid part of a taking. Later takings are paid off earlier by that time.
    fn give_back(&mut self, cost: u64, taking: Taking, now: u64) {
        let (until, behind) = match self.find(taking) {
            Ok(at) => (self.open.get(at).map_or(0, |(_, until)| *until), at),
            Err(behind) => (taking.until.min(self.owed), behind),
        };
        let back = cost.min(until.saturating_sub(now));
        self.open.range_mut(behind..).for_each(|(_, until)| *until = until.saturating_sub(back));
        self.owed = self.owed.saturating_sub(back);
    }
}

impl CalendarWindow {
    /// Start the next window when this one is over. If the clock steps back, nothing changes, so
    /// that no day is used twice.
    fn turn(&mut self, window: Window, wall_us: u64) {
        if wall_us < self.end {
            return;
        }
        *self = CalendarWindow { end: end_of(window, wall_us), used: 0 };
    }
}

/// End of a calendar window in Unix microseconds; `None` for other windows.
pub(super) fn window_end(window: Window, now: Now) -> Option<u64> {
    matches!(window, Window::Day | Window::Month).then(|| end_of(window, now.wall_us))
}

/// First day of a calendar window; `None` for other windows.
pub(super) fn first_day(window: Window, now: Now) -> Option<Date> {
    let today = day(now.wall_us)?;
    match window {
        Window::Day => Some(today),
        Window::Month => Some(today.first_of_month()),
        Window::Rolling(_) | Window::AtATime => None,
    }
}

/// UTC day of an instant in Unix microseconds.
pub(super) fn day(wall_us: u64) -> Option<Date> {
    let at = Timestamp::from_microsecond(i64::try_from(wall_us).ok()?).ok()?;
    Some(Offset::UTC.to_datetime(at).date())
}

/// End of the UTC day or month that contains an instant; `u64::MAX` if the calendar does not cover
/// it.
fn end_of(window: Window, wall_us: u64) -> u64 {
    let micros = |date: Date| {
        let midnight = Offset::UTC.to_timestamp(date.to_datetime(Time::midnight())).ok()?;
        u64::try_from(midnight.as_microsecond()).ok()
    };
    let end = || {
        let today = day(wall_us)?;
        micros(match window {
            Window::Month => today.first_of_month().checked_add(1.month()).ok()?,
            _ => today.tomorrow().ok()?,
        })
    };
    end().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(nanos: u64) -> Now {
        Now { tick: Tick(nanos), wall_us: nanos / 1000 }
    }

    fn rolling(amount: u64, seconds: u64, burst: u64) -> Quota {
        Quota { amount, window: Window::Rolling(std::time::Duration::from_secs(seconds)), burst }
    }

    #[test]
    fn a_rate_gives_its_burst_then_its_rate() {
        let quota = rolling(60, 60, 10);
        let account = Account::new(&quota, None);
        assert!((0..10).all(|_| account.take(&quota, 1, at(0)).is_ok()));
        assert_eq!(account.take(&quota, 1, at(0)).unwrap_err(), Some(SECOND));
        assert_eq!(account.left(&quota, at(0)), (0, 10 * SECOND));
        assert!(account.take(&quota, 1, at(SECOND)).is_ok());
        assert!(
            account.take(&quota, 11, at(100 * SECOND)).unwrap_err().is_none(),
            "more than its burst"
        );
    }

    #[test]
    fn debt_is_paid_before_units_are_granted() {
        let quota = rolling(10, 1, 10);
        let account = Account::new(&quota, None);
        account.charge(&quota, 30, at(0));
        assert_eq!(account.take(&quota, 1, at(0)).unwrap_err(), Some(2 * SECOND + SECOND / 10));
        assert!(account.take(&quota, 10, at(3 * SECOND)).is_ok());
    }

    /// Burst 100, one unit per second: a reservation at 0 s that is returned at 100 s does not add
    /// to the burst at 100 s.
    #[test]
    fn refund_does_not_add_a_second_burst() {
        let quota = rolling(1, 1, 100);
        let account = Account::new(&quota, None);
        let early = account.take(&quota, 100, at(0)).unwrap();
        account.take(&quota, 100, at(100 * SECOND)).unwrap();
        account.give_back(&quota, 100, early, at(100 * SECOND));
        assert!(account.take(&quota, 1, at(100 * SECOND)).is_err());
        // An early refund counts in full.
        let fresh = Account::new(&quota, None);
        let taking = fresh.take(&quota, 100, at(0)).unwrap();
        fresh.give_back(&quota, 60, taking, at(SECOND));
        assert_eq!(fresh.left(&quota, at(SECOND)).0, 61);
    }

    /// Two reservations of 50, returned one after the other, with a third after them.
    #[test]
    fn a_refund_moves_the_end_of_what_was_taken_after_it() {
        let quota = rolling(1, 1, 100);
        let account = Account::new(&quota, None);
        let (first, second) =
            (account.take(&quota, 50, at(0)).unwrap(), account.take(&quota, 50, at(0)).unwrap());
        account.give_back(&quota, 50, first, at(0));
        account.take(&quota, 50, at(60 * SECOND)).unwrap();
        account.give_back(&quota, 50, second, at(60 * SECOND));
        assert_eq!(account.left(&quota, at(60 * SECOND)).0, 50);
    }

    #[test]
    fn calendar_windows_only_advance() {
        let quota = Quota { amount: 10, window: Window::Month, burst: 10 };
        let account = Account::new(&quota, None);
        let wall = |text: &str| Now {
            tick: Tick(0),
            wall_us: text.parse::<Timestamp>().unwrap().as_microsecond() as u64,
        };
        let (january, february) = (wall("2026-01-31T23:59:59Z"), wall("2026-02-01T00:00:00Z"));
        let taking = account.take(&quota, 10, january).unwrap();
        assert_eq!(account.take(&quota, 1, january).unwrap_err(), Some(SECOND));
        assert!(account.take(&quota, 8, february).is_ok());
        account.give_back(&quota, 10, taking, february);
        assert_eq!(
            account.left(&quota, february).0,
            2,
            "a refund for last month does not count in this one"
        );
        assert!(
            account.take(&quota, 3, january).is_err(),
            "a clock that steps back brings no new month"
        );
    }

    proptest! {
        /// For any order of takings and returns, an account grants at most its burst plus its rate
        /// in every span.
        #[test]
        fn never_more_than_burst_and_rate(
            (amount, burst) in (1u64..50, 1u64..60),
            steps in prop::collection::vec(
                (0u64..3_000_000_000, 0u64..40, 0u64..40, any::<bool>(), 0usize..8),
                1..80,
            ),
        ) {
            let quota = rolling(amount, 7, burst);
            let account = Account::new(&quota, None);
            let (mut now, mut open, mut used) = (0, Vec::new(), Vec::new());
            for (wait, units, keep, settles, which) in steps {
                now += wait;
                if let Ok(taking) = account.take(&quota, units, at(now)) {
                    let kept = keep.min(units);
                    used.push((now, kept));
                    open.push((units - kept, taking));
                }
                if settles && !open.is_empty() {
                    let (unused, taking) = open.swap_remove(which % open.len());
                    account.give_back(&quota, unused, taking, at(now));
                }
            }
            for (at, from) in used.iter().enumerate() {
                let mut sum = 0;
                for to in &used[at..] {
                    sum += to.1;
                    let allowed = burst as f64
                        + amount as f64 * (to.0 - from.0) as f64 / (7.0 * SECOND as f64);
                    prop_assert!(sum as f64 <= allowed + 1e-6, "{sum} in {} ns, {allowed} allowed", to.0 - from.0);
                }
            }
        }
    }
}
