//! The charge of a request: units taken from its rate limits, from admission to its end.
//!
//! - *In*: the use of its stream so far; the use of the whole request.
//! - *Out*: whether a limit is exhausted; the values of `x-ratelimit-*`.
//! - *Never*: an unsettled charge: the pipeline settles it when the exchange is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::account::{Account, Now, Taking};
use super::limits::{Limit, LimitAccount};
use super::prices::TokenUsage;
use super::settings::{OnExhausted, Price, Unit};

/// The units that a request has taken from one limit.
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) limit: Arc<Limit>,
    pub(super) held: Arc<LimitAccount>,
    pub(super) taken: u64,
    pub(super) taking: Taking,
    /// They were taken from this gateway's share while the store was unreachable.
    pub(super) of_share: bool,
}

impl Reservation {
    /// Take more units, up to `units` in total. Returns false if the limit has too few; they are
    /// charged anyway.
    pub(super) fn grow_to(&mut self, units: u64, now: Now) -> bool {
        let Some(more) = units.checked_sub(self.taken).filter(|more| *more > 0) else {
            return true;
        };
        self.taken = units;
        if let Some(lease) = self.held.lease() {
            return lease.grow(more);
        }
        match self.held.account.take(&self.held.quota, more, now) {
            Ok(taking) => {
                self.held.account.close(taking);
                true
            }
            Err(_) => {
                self.held.account.charge(&self.held.quota, more, now);
                false
            }
        }
    }

    /// Close the taking: no units are returned after this.
    pub(super) fn close(&self) {
        match &*self.held.account {
            Account::Leased(lease) if self.of_share => lease.close(self.taking),
            account => account.close(self.taking),
        }
    }

    /// Return the taken units beyond `units`.
    pub(super) fn shrink_to(&mut self, units: u64, now: Now) {
        if let Some(back) = self.taken.checked_sub(units).filter(|back| *back > 0) {
            match &*self.held.account {
                Account::Leased(lease) if self.of_share => {
                    lease.give_back_share(&self.held.quota, back, self.taking, now)
                }
                account => account.give_back(&self.held.quota, back, self.taking, now),
            }
            self.taken = units;
        }
    }
}

/// The units that a request has taken from all its limits.
#[derive(Debug, Default)]
pub struct Charge {
    parts: Vec<Reservation>,
    price: Option<Price>,
    /// An exhausted limit has requested the end of the stream.
    exhausted: bool,
}

/// A limit that a stream has exhausted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// Name of the limit.
    pub limit: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// What happens to the stream.
    pub on_exhausted: OnExhausted,
}

/// Units left of the tightest limit of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Burst of the limit.
    pub limit: u64,
    /// Units left now.
    pub remaining: u64,
    /// Time until all units are available again.
    pub reset: Duration,
}

impl Charge {
    pub(super) fn new(price: Option<Price>) -> Self {
        Charge { price, ..Charge::default() }
    }

    pub(super) fn add(&mut self, part: Reservation) {
        self.parts.push(part);
    }

    /// The request is refused: return all units.
    pub fn cancel(&mut self, now: Now) {
        for mut part in self.parts.drain(..) {
            part.shrink_to(0, now);
            part.close();
        }
    }

    /// Whether no limit applies to the request.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Charge the usage of the stream so far, even beyond a limit. Returns the first exhausted
    /// limit that ends the stream.
    pub fn grow(&mut self, used: &TokenUsage, now: Now) -> Option<Exhausted> {
        let mut exhausted = None;
        for part in &mut self.parts {
            let settings = &part.limit.settings;
            let (unit, on_exhausted) = (settings.unit, settings.on_exhausted);
            let enough = part.grow_to(used.in_units(unit, self.price.as_ref()), now);
            if !enough && on_exhausted != OnExhausted::Finish && exhausted.is_none() {
                if !self.exhausted {
                    part.limit.ended.fetch_add(1, Ordering::Relaxed);
                }
                exhausted =
                    Some(Exhausted { limit: part.limit.settings.name.clone(), unit, on_exhausted });
            }
        }
        self.exhausted |= exhausted.is_some();
        exhausted
    }

    /// Settle the final usage of a request: return surplus reservations, charge what is missing,
    /// and release streams.
    pub fn settle(&mut self, used: &TokenUsage, now: Now) {
        for mut part in self.parts.drain(..) {
            let units = match part.limit.settings.unit {
                Unit::Streams => 0,
                unit => used.in_units(unit, self.price.as_ref()),
            };
            part.grow_to(units, now);
            part.shrink_to(units, now);
            part.close();
        }
    }

    /// Limits at or above their `warn_at`: name and percentage. Each is counted.
    pub fn warnings(&self, now: Now) -> impl Iterator<Item = (&str, u64)> {
        self.parts.iter().filter(|part| part.limit.settings.warn_at > 0).filter_map(move |part| {
            let quota = &part.held.quota;
            let (left, _) = part.held.account.left(quota, now);
            let taken =
                u128::from(quota.burst.saturating_sub(left)) * 100 / u128::from(quota.burst.max(1));
            let taken = u64::try_from(taken).unwrap_or(100);
            let warns = taken >= u64::from(part.limit.settings.warn_at);
            warns.then(|| {
                part.limit.warned.fetch_add(1, Ordering::Relaxed);
                (&*part.limit.settings.name, taken)
            })
        })
    }

    /// Requests left of the tightest limit on requests.
    pub fn requests_left(&self, now: Now) -> Option<Left> {
        self.tightest(|unit| unit == Unit::Requests, now)
    }

    /// Tokens left of the tightest limit on tokens.
    pub fn tokens_left(&self, now: Now) -> Option<Left> {
        self.tightest(
            |unit| matches!(unit, Unit::InputTokens | Unit::OutputTokens | Unit::TotalTokens),
            now,
        )
    }

    fn tightest(&self, wanted: impl Fn(Unit) -> bool, now: Now) -> Option<Left> {
        let left = |part: &Reservation| {
            let (remaining, reset) = part.held.account.left(&part.held.quota, now);
            Left { limit: part.held.quota.burst, remaining, reset: Duration::from_nanos(reset) }
        };
        let share = |left: &Left| left.remaining as f64 / left.limit.max(1) as f64;
        let parts = self.parts.iter().filter(|part| wanted(part.limit.settings.unit));
        parts.map(left).min_by(|one, other| share(one).total_cmp(&share(other)))
    }
}
