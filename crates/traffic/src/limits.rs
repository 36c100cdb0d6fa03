//! All rate limits and their accounts.
//!
//! - *In*: the estimate of a request, and its caller.
//! - *Out*: a [`Charge`], or the first limit with too few units and the time until it has enough.
//! - *Never*: a partial reservation; unbounded accounts: only a limited number of addresses have
//!   their own.

mod limit;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lens::Tick;
use lens::observe::{Observe, Samples};

use super::account::{Account, Now};
use super::caller::Caller;
use super::charge::{Charge, Reservation};
use super::lease::{LeaseRequest, SharedLimitTask, StoreFallback};
use super::prices::{self, TokenUsage};
use super::settings::{self, Per, Price, Quota, Unit};
use super::usage::UsageSums;
use crate::Pattern;
use limit::Subject;
pub(super) use limit::{Limit, LimitAccount};

/// The facts about a request that limits use.
#[derive(Clone, Copy, Debug)]
pub struct LimitRequest<'a> {
    /// Its caller.
    pub caller: &'a Caller,
    /// The route.
    pub route: &'a Arc<str>,
    /// The model in the request.
    pub model: &'a str,
    /// The model if a backend declares it; otherwise a name that all other models share.
    pub declared_model: &'a Arc<str>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// Estimated usage.
    pub expected: TokenUsage,
    /// Maximum output tokens that are reserved.
    pub reserved_output: u64,
}

impl LimitRequest<'_> {
    /// The units to reserve, and the units that the request may use. Not all of its output is
    /// reserved, nor more than `burst` if the prompt fits.
    fn units(&self, unit: Unit, price: Option<&Price>, burst: u64) -> (u64, u64) {
        let with_output =
            |output| TokenUsage { output, reasoning: 0, ..self.expected }.in_units(unit, price);
        let (prompt, whole) = (with_output(0), self.expected.in_units(unit, price));
        let units = with_output(self.expected.output.min(self.reserved_output)).min(whole);
        (if prompt <= burst { units.min(burst) } else { units }, whole)
    }
}

/// A limit has too few units left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Name of the limit.
    pub limit: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// Its quota.
    pub quota: Quota,
    /// Requests that share an account.
    pub per: Per,
    /// Requested units.
    pub asked: u64,
    /// Of these, the units that would be reserved.
    pub reserved: u64,
    /// Units left.
    pub left: u64,
    /// Time until it has enough units; `None`: never.
    pub retry_after: Option<Duration>,
}

/// Why a request is not admitted.
#[derive(Debug)]
pub enum Denied {
    /// A limit has too few units left.
    Limited(Limited),
    /// Slices of shared limits have too few units. These are to be leased from the store.
    Short(Vec<LeaseRequest>),
}

/// Counters of a limit.
#[derive(Clone, Copy, Debug)]
pub struct LimitCounts<'l> {
    /// The limit.
    pub limit: &'l settings::Limit,
    /// Requests that it refused.
    pub refused: u64,
    /// Streams that it ended.
    pub ended: u64,
    /// Requests that got a warning.
    pub warned: u64,
    /// Accounts in memory.
    pub accounts: usize,
}

/// An account of a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitLevel {
    /// Name of the limit.
    pub limit: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// Requests that share the account.
    pub per: Per,
    /// Id of the key, or name of the owner, route or model; `None` for all requests, and for
    /// addresses, which are not told.
    pub subject: Option<Arc<str>>,
    /// Used share of what can be used at once, 0 to 1.
    pub used: f64,
    /// Time until nothing is used.
    pub reset: Duration,
}

/// All limits of the settings.
#[derive(Clone, Debug, Default)]
pub struct RateLimits {
    limits: Vec<Arc<Limit>>,
    prices: Arc<[Price]>,
}

impl RateLimits {
    /// The limits of settings. Limits that `before` has, too, keep their accounts.
    pub fn new(
        settings: &[settings::Limit],
        prices: &[Price],
        before: Option<&RateLimits>,
    ) -> Self {
        let limits = settings.iter().map(|wanted| {
            let known = before
                .and_then(|before| before.limits.iter().find(|limit| limit.counts_as(wanted)));
            match known {
                Some(limit) if limit.settings == *wanted => limit.clone(),
                known => Arc::new(Limit::new(wanted.clone(), known.map(Arc::as_ref))),
            }
        });
        let limits = limits.collect();
        RateLimits { limits, prices: prices.into() }
    }

    /// Restore the usage of the current day and month after a restart. Call it once, before the
    /// first request.
    ///
    /// Usage sums have no routes and no addresses, so limits by these restart from zero. Shared
    /// limits keep their state in the store.
    pub fn restore_usage(&self, sums: &UsageSums, now: Now) {
        self.limits.iter().for_each(|limit| limit.restore_usage(sums, now));
    }

    /// Whether any limit of a route counts tokens or cost, which requires parsing bodies and
    /// answers.
    pub fn count_tokens_of(&self, route: &str) -> bool {
        let counts = |settings: &settings::Limit| {
            !matches!(settings.unit, Unit::Requests | Unit::Streams)
                && Pattern::allow(&settings.routes, route)
        };
        self.limits.iter().any(|limit| counts(&limit.settings))
    }

    /// Whether any limit of a route depends on the model, which requires parsing bodies.
    pub fn depend_on_model_of(&self, route: &str) -> bool {
        let depends = |settings: &settings::Limit| {
            (!settings.models.is_empty() || settings.per == Per::Model)
                && Pattern::allow(&settings.routes, route)
        };
        self.limits.iter().any(|limit| depends(&limit.settings))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// The price of a model.
    pub fn price(&self, model: &str) -> Option<&Price> {
        prices::find(&self.prices, model)
    }

    /// Reserve the estimated usage of a request from every limit that applies to it.
    ///
    /// A reservation larger than a limit's burst is reduced to the burst if the prompt alone fits;
    /// the stream then ends when its budget is used up.
    ///
    /// `away`: what to do if the store is needed, and is known to be unreachable.
    ///
    /// # Errors
    /// [`Denied`]: the first limit without enough units, or what to fetch from the store. Nothing
    /// is taken then.
    pub fn reserve(
        &self,
        asked: &LimitRequest<'_>,
        away: Option<StoreFallback>,
        now: Now,
    ) -> Result<Charge, Denied> {
        let costs = self.limits.iter().any(|limit| limit.settings.unit == Unit::Cost);
        let price = if costs { self.price(asked.model) } else { None };
        let mut charge = Charge::new(price.cloned());
        let mut short = Vec::new();
        for limit in self.limits.iter().filter(|limit| limit.concerns(asked)) {
            let held = limit.account(asked, now);
            let (units, whole) = asked.units(limit.settings.unit, price, held.quota.burst);
            let taken = match (&*held.account, away) {
                (Account::Leased(lease), Some(away)) => {
                    let taken = lease.take(&held.quota, units, now);
                    taken.map_or_else(
                        || lease.take_without(&held.quota, away, units, now),
                        |taking| Ok((taking, false)),
                    )
                }
                (Account::Leased(lease), None) => match lease.take(&held.quota, units, now) {
                    Some(taking) => Ok((taking, false)),
                    None => {
                        let key = limit.key(asked, now);
                        short.extend(LeaseRequest::for_request(&held, &key, (units, whole)));
                        continue;
                    }
                },
                (account, _) => account.take(&held.quota, units, now).map(|taking| (taking, false)),
            };
            match taken {
                Ok((taking, of_share)) => charge.add(Reservation {
                    limit: limit.clone(),
                    held,
                    taken: units,
                    taking,
                    of_share,
                }),
                Err(wait) => {
                    limit.refused.fetch_add(1, Ordering::Relaxed);
                    let limited = Limited {
                        limit: limit.settings.name.clone(),
                        unit: limit.settings.unit,
                        quota: held.quota,
                        per: limit.settings.per,
                        asked: whole,
                        reserved: units,
                        left: held.account.left(&held.quota, now).0,
                        retry_after: wait.map(Duration::from_nanos),
                    };
                    charge.cancel(now);
                    return Err(Denied::Limited(limited));
                }
            }
        }
        if short.is_empty() {
            return Ok(charge);
        }
        charge.cancel(now);
        Err(Denied::Short(short))
    }

    /// The refusal for a shared limit that has too few units in the store.
    pub fn limited(&self, wanted: &LeaseRequest, retry_after: Option<Duration>) -> Option<Limited> {
        let limit = self
            .limits
            .iter()
            .find(|limit| wanted.key.split(':').nth(1) == Some(&*limit.settings.name))?;
        limit.refused.fetch_add(1, Ordering::Relaxed);
        let (unit, per) = (limit.settings.unit, limit.settings.per);
        Some(Limited {
            limit: limit.settings.name.clone(),
            unit,
            quota: wanted.quota,
            per,
            asked: wanted.asked,
            reserved: wanted.reserved,
            left: 0,
            retry_after,
        })
    }

    /// Tasks for the store that are due: debts, idle slices and keep-alives.
    pub fn store_tasks(&self, now: Now) -> Vec<SharedLimitTask> {
        self.shared().flat_map(|limit| limit.store_tasks(now, Some(now))).collect()
    }

    /// Tasks for the store at shutdown: all slices are returned.
    pub fn shutdown_tasks(&self, now: Now) -> Vec<SharedLimitTask> {
        self.shared().flat_map(|limit| limit.store_tasks(now, None)).collect()
    }

    fn shared(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.limits.iter().filter(|limit| limit.settings.shared.is_some())
    }

    /// The accounts with the highest used shares, at most `max`. Accounts of shared limits are in
    /// the store, and not among them.
    pub fn nearest(&self, max: usize, now: Now) -> Vec<LimitLevel> {
        let mut levels = Vec::new();
        for limit in &self.limits {
            let settings = &limit.settings;
            let level = |(subject, used, reset)| LimitLevel {
                limit: settings.name.clone(),
                unit: settings.unit,
                per: settings.per,
                subject: match subject {
                    Subject::Name(name) => Some(name),
                    Subject::All | Subject::Address(_) => None,
                },
                used,
                reset,
            };
            levels.extend(limit.levels(now).into_iter().map(level));
            // Bounds the memory, whatever the number of accounts.
            levels.sort_by(|one, other| other.used.total_cmp(&one.used));
            levels.truncate(max);
        }
        levels
    }

    /// Counters of each limit.
    pub fn counts(&self) -> impl Iterator<Item = LimitCounts<'_>> {
        self.limits.iter().map(|limit| LimitCounts {
            limit: &limit.settings,
            refused: limit.refused.load(Ordering::Relaxed),
            ended: limit.ended.load(Ordering::Relaxed),
            warned: limit.warned.load(Ordering::Relaxed),
            accounts: limit.accounts(),
        })
    }
}

impl Observe for RateLimits {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        for LimitCounts { limit, refused, ended, warned, accounts } in self.counts() {
            samples.with_labels(
                &[("limit", &limit.name), ("unit", limit.unit.name())],
                |samples| {
                    samples.counts(&[
                        ("llm_lens_rate_limited_requests_total", refused),
                        ("llm_lens_rate_limited_streams_total", ended),
                        ("llm_lens_rate_limit_warnings_total", warned),
                        ("llm_lens_rate_limit_accounts", accounts as u64),
                    ]);
                },
            );
        }
    }
}

#[cfg(test)]
mod tests;
