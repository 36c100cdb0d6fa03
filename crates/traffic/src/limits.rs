//! All rate limits and their accounts.
//!
//! - *In*: the estimate of a request, and its caller.
//! - *Out*: a [`Charge`], or the first limit that has not enough, and when it will.
//! - *Never*: a half-taken reservation; an account for every stranger: of addresses only so many have one of their own.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lens::Tick;
use lens::observe::{Observe, Samples};
use parking_lot::Mutex;

use super::account::{self, Account, When};
use super::caller::Caller;
use super::charge::{Charge, Part};
use super::lease::{self, Away, Lease, StoreTask, Wanted};
use super::prices::{self, Used};
use super::settings::{self, Per, Price, Quota, Shared, Unit, Window};
use super::usage::{GroupBy, UsageSums};
use crate::Pattern;

/// Locks of a limit's accounts.
const SHARDS: usize = 16;
/// Nanoseconds between two looks for idle accounts: one takes some tenths of a millisecond.
const SWEEP_AGAIN: u64 = 100_000_000;
/// Most addresses of a shard with an account of their own; more share one.
const MAX_ADDRESSES: usize = 4096;

/// A request, as limits see it.
#[derive(Clone, Copy, Debug)]
pub struct LimitRequest<'a> {
    /// Its caller.
    pub caller: &'a Caller,
    /// The route.
    pub route: &'a Arc<str>,
    /// The model in the request.
    pub model: &'a str,
    /// The same where a backend declares it; else one name for all.
    pub declared_model: &'a Arc<str>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// What it is thought to use.
    pub expected: Used,
}

/// A limit has not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Which.
    pub limit: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// How much.
    pub quota: Quota,
    /// Requests that share an account.
    pub per: Per,
    /// Requested units.
    pub asked: u64,
    /// What was left.
    pub left: u64,
    /// When it will have enough; `None`: never.
    pub retry_after: Option<Duration>,
}

/// Why a request is not admitted.
#[derive(Debug)]
pub enum Denied {
    /// A limit has not enough.
    Limited(Limited),
    /// The slices of limits that gateways share have not enough: so much is wanted of the store.
    Short(Vec<Wanted>),
}

/// What a limit did.
#[derive(Clone, Copy, Debug)]
pub struct LimitCounts<'l> {
    /// Which.
    pub limit: &'l settings::Limit,
    /// Requests that it refused.
    pub refused: u64,
    /// Streams that it ended.
    pub ended: u64,
    /// Requests that were warned.
    pub warned: u64,
    /// Accounts that are kept.
    pub accounts: usize,
}

/// A limit with its accounts.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) settings: settings::Limit,
    /// Requests refused and streams ended for it.
    pub(super) refused: AtomicU64,
    pub(super) ended: AtomicU64,
    /// Requests that got a warning.
    pub(super) warned: AtomicU64,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    accounts: HashMap<Subject, Arc<Held>>,
    /// Accounts at which it is looked for idle ones, and when again at the earliest.
    sweep_at: usize,
    sweep_again: u64,
}

/// An account with the quota it has: a key may have one of its own.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) quota: Quota,
    pub(super) account: Arc<Account>,
}

impl Held {
    /// The account, where gateways share it.
    pub(super) fn lease(&self) -> Option<&Lease> {
        match &*self.account {
            Account::Leased(lease) => Some(lease),
            _ => None,
        }
    }
}

/// Key of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    All,
    Name(Arc<str>),
    Address(IpAddr),
}

/// All limits of the settings.
#[derive(Clone, Debug, Default)]
pub struct RateLimits {
    limits: Vec<Arc<Limit>>,
    prices: Arc<[Price]>,
}

impl RateLimits {
    /// The limits of settings; what `before` has of them keeps its accounts.
    pub fn new(settings: &[settings::Limit], prices: &[Price], before: Option<&RateLimits>) -> Self {
        let limits = settings.iter().map(|wanted| {
            let known = before.and_then(|before| before.limits.iter().find(|limit| limit.counts_as(wanted)));
            match known {
                Some(limit) if limit.settings == *wanted => limit.clone(),
                known => Arc::new(Limit::new(wanted.clone(), known.map(Arc::as_ref))),
            }
        });
        let limits = limits.collect();
        RateLimits { limits, prices: prices.into() }
    }

    /// Days and months begin with what was used of them before: a restart is no new month. Before the first request, and once.
    ///
    /// Sums know no routes and no addresses: limits of these begin anew. Those in a store have their own memory.
    pub fn resume(&self, spend: &UsageSums, now: When) {
        self.limits.iter().for_each(|limit| limit.resume(spend, now));
    }

    /// Whether any counts what only bodies and answers of a route tell.
    pub fn count_tokens_of(&self, route: &str) -> bool {
        let counts = |settings: &settings::Limit| {
            !matches!(settings.unit, Unit::Requests | Unit::Streams) && Pattern::allow(&settings.routes, route)
        };
        self.limits.iter().any(|limit| counts(&limit.settings))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// The price of a model.
    pub fn price(&self, model: &str) -> Option<&Price> {
        prices::find(&self.prices, model)
    }

    /// Take what a request is thought to use of every limit that it is under.
    ///
    /// A reservation larger than what a limit ever holds at once is cut to that, if the prompt alone fits: the stream then ends where its budget does.
    ///
    /// `away` says what to do where the store is needed and unreachable.
    ///
    /// # Errors
    /// [`Denied`]: the first limit without enough units, or what to fetch from the store. Nothing is taken then.
    pub fn reserve(&self, asked: &LimitRequest<'_>, away: Option<Away>, now: When) -> Result<Charge, Denied> {
        let price = self.limits.iter().any(|limit| limit.settings.unit == Unit::Cost).then(|| self.price(asked.model)).flatten();
        let mut charge = Charge::new(price.cloned());
        let mut short = Vec::new();
        for limit in self.limits.iter().filter(|limit| limit.concerns(asked)) {
            let held = limit.account(asked, now);
            let prompt = Used { output: 0, reasoning: 0, ..asked.expected }.in_units(limit.settings.unit, price);
            let whole = asked.expected.in_units(limit.settings.unit, price);
            let units = if prompt <= held.quota.burst { whole.min(held.quota.burst) } else { whole };
            let taken = match (&*held.account, away) {
                (Account::Leased(lease), Some(away)) => {
                    let taken = lease.take(&held.quota, units, now);
                    taken.map_or_else(|| lease.take_without(&held.quota, away, units, now), |taking| Ok((taking, false)))
                }
                (Account::Leased(lease), None) => match lease.take(&held.quota, units, now) {
                    Some(taking) => Ok((taking, false)),
                    None => {
                        short.extend(Wanted::of(&held, &limit.key(asked, now), units));
                        continue;
                    }
                },
                (account, _) => account.take(&held.quota, units, now).map(|taking| (taking, false)),
            };
            match taken {
                Ok((taking, of_share)) => charge.add(Part { limit: limit.clone(), held, taken: units, taking, of_share }),
                Err(wait) => {
                    limit.refused.fetch_add(1, Ordering::Relaxed);
                    let limited = Limited {
                        limit: limit.settings.name.clone(),
                        unit: limit.settings.unit,
                        quota: held.quota,
                        per: limit.settings.per,
                        asked: units,
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

    /// The limit that has not enough in the store, and when it will.
    pub fn limited(&self, wanted: &Wanted, retry_after: Option<Duration>) -> Option<Limited> {
        let limit = self.limits.iter().find(|limit| wanted.key.split(':').nth(1) == Some(&*limit.settings.name))?;
        limit.refused.fetch_add(1, Ordering::Relaxed);
        let (unit, per) = (limit.settings.unit, limit.settings.per);
        Some(Limited { limit: limit.settings.name.clone(), unit, quota: wanted.quota, per, asked: wanted.need, left: 0, retry_after })
    }

    /// What is to be done about slices now: debts, and what lies idle.
    pub fn chores(&self, now: When) -> Vec<StoreTask> {
        self.shared().flat_map(|limit| limit.chores(now, Some(now))).collect()
    }

    /// The same at shutdown, when everything is returned.
    pub fn last_chores(&self, now: When) -> Vec<StoreTask> {
        self.shared().flat_map(|limit| limit.chores(now, None)).collect()
    }

    fn shared(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.limits.iter().filter(|limit| limit.settings.shared.is_some())
    }

    /// What each limit did.
    pub fn counts(&self) -> impl Iterator<Item = LimitCounts<'_>> {
        self.limits.iter().map(|limit| LimitCounts {
            limit: &limit.settings,
            refused: limit.refused.load(Ordering::Relaxed),
            ended: limit.ended.load(Ordering::Relaxed),
            warned: limit.warned.load(Ordering::Relaxed),
            accounts: limit.shards.iter().map(|shard| shard.lock().accounts.len()).sum(),
        })
    }
}

impl Observe for RateLimits {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        for LimitCounts { limit, refused, ended, warned, accounts } in self.counts() {
            samples.under(&[("limit", &limit.name), ("unit", limit.unit.name())], |samples| {
                samples.counts(&[
                    ("llm_lens_rate_limited_requests_total", refused),
                    ("llm_lens_rate_limited_streams_total", ended),
                    ("llm_lens_rate_limit_warnings_total", warned),
                    ("llm_lens_rate_limit_accounts", accounts as u64),
                ]);
            });
        }
    }
}

impl Limit {
    /// A limit; what `before` has of accounts goes on.
    fn new(settings: settings::Limit, before: Option<&Limit>) -> Self {
        let mut limit = Limit {
            settings,
            refused: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            warned: AtomicU64::new(0),
            hasher: before.map_or_else(RandomState::new, |before| before.hasher.clone()),
            shards: Default::default(),
        };
        if let Some(before) = before {
            limit.refused = AtomicU64::new(before.refused.load(Ordering::Relaxed));
            limit.ended = AtomicU64::new(before.ended.load(Ordering::Relaxed));
            limit.warned = AtomicU64::new(before.warned.load(Ordering::Relaxed));
            for (mine, theirs) in limit.shards.iter_mut().zip(&before.shards) {
                mine.get_mut().accounts = theirs.lock().accounts.clone();
                for held in mine.get_mut().accounts.values() {
                    if let (Account::Leased(lease), Some(shared)) = (&*held.account, &limit.settings.shared) {
                        lease.share_with(shared);
                    }
                }
            }
        }
        limit
    }

    /// Whether accounts of this limit say the same under those settings.
    fn counts_as(&self, other: &settings::Limit) -> bool {
        let mine = &self.settings;
        let kind = |window: Window| std::mem::discriminant(&window);
        let store = |settings: &settings::Limit| settings.shared.as_ref().map(|shared| shared.prefix.clone());
        (&mine.name, mine.unit, mine.per, store(mine)) == (&other.name, other.unit, other.per, store(other))
            && kind(mine.quota.window) == kind(other.quota.window)
    }

    fn resume(&self, spend: &UsageSums, now: When) {
        let settings = &self.settings;
        let Some(first) = account::first_day(settings.quota.window, now) else { return };
        if settings.shared.is_some() || !settings.routes.is_empty() {
            return;
        }
        for (line, totals) in spend.lines(GroupBy::EVERYTHING, Some(first)) {
            let subject = match settings.per {
                Per::All => Subject::All,
                Per::Key => Subject::Name(line.key),
                Per::Owner => Subject::Name(line.owner.clone()),
                Per::Model => Subject::Name(line.model.clone()),
                Per::Route | Per::Address => return,
            };
            if Pattern::allow(&settings.models, &line.model) && Pattern::allow(&settings.owners, &line.owner) {
                let held = self.held(subject, settings.quota, now);
                held.account.charge(&held.quota, totals.in_units(settings.unit), now);
            }
        }
    }

    fn concerns(&self, asked: &LimitRequest<'_>) -> bool {
        let settings = &self.settings;
        Pattern::allow(&settings.routes, asked.route)
            && Pattern::allow(&settings.models, asked.model)
            && Pattern::allow(&settings.owners, &asked.caller.owner)
    }

    fn subject(&self, asked: &LimitRequest<'_>) -> Subject {
        match (self.settings.per, asked.address) {
            (Per::All, _) | (Per::Address, None) => Subject::All,
            (Per::Key, _) => Subject::Name(asked.caller.id.clone()),
            (Per::Owner, _) => Subject::Name(asked.caller.owner.clone()),
            (Per::Route, _) => Subject::Name(asked.route.clone()),
            (Per::Model, _) => Subject::Name(asked.declared_model.clone()),
            (Per::Address, Some(address)) => Subject::Address(network(address)),
        }
    }

    /// The name of an account in the store.
    fn key(&self, asked: &LimitRequest<'_>, now: When) -> String {
        self.key_of(&self.subject(asked), now)
    }

    fn key_of(&self, subject: &Subject, now: When) -> String {
        let prefix = self.settings.shared.as_ref().map_or("", |shared| &*shared.prefix);
        lease::key(prefix, &self.settings.name, &subject.to_string(), self.settings.quota.window, now)
    }

    fn chores(&self, now: When, stays: Option<When>) -> Vec<StoreTask> {
        let of = |(subject, held): (&Subject, &Arc<Held>)| StoreTask::of(held, &self.key_of(subject, now), stays);
        self.shards.iter().flat_map(|shard| shard.lock().accounts.iter().filter_map(of).collect::<Vec<_>>()).collect()
    }

    fn account(&self, asked: &LimitRequest<'_>, now: When) -> Arc<Held> {
        let subject = self.subject(asked);
        let quota = match (self.settings.per, asked.caller.limits.get(&self.settings.name)) {
            (Per::Key, Some(amount)) => own(self.settings.quota, *amount),
            _ => self.settings.quota,
        };
        self.held(subject, quota, now)
    }

    fn held(&self, subject: Subject, quota: Quota, now: When) -> Arc<Held> {
        let shard = &self.shards[(self.hasher.hash_one(&subject) % SHARDS as u64) as usize];
        shard.lock().account(subject, quota, self.settings.shared.as_ref(), now)
    }
}

impl Shard {
    fn account(&mut self, subject: Subject, quota: Quota, shared: Option<&Shared>, now: When) -> Arc<Held> {
        if let Some(held) = self.accounts.get_mut(&subject) {
            // Another amount for the same subject goes on with what was taken.
            if held.quota != quota {
                *held = Arc::new(Held { quota, account: held.account.clone() });
            }
            return held.clone();
        }
        if self.accounts.len() >= self.sweep_at.max(64) && now.tick.0 >= self.sweep_again {
            self.sweep_again = now.tick.0.saturating_add(SWEEP_AGAIN);
            self.accounts.retain(|_, held| Arc::strong_count(held) > 1 || !held.account.is_as_new(now));
            self.sweep_at = (2 * self.accounts.len()).min(MAX_ADDRESSES);
        }
        let crowded = matches!(subject, Subject::Address(_)) && self.accounts.len() >= MAX_ADDRESSES;
        let subject = if crowded { Subject::All } else { subject };
        let fresh = || Arc::new(Held { quota, account: Arc::new(Account::new(&quota, shared)) });
        self.accounts.entry(subject).or_insert_with(fresh).clone()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::All => f.write_str("all"),
            Subject::Name(name) => f.write_str(name),
            Subject::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A key's own amount; its burst grows with it.
fn own(general: Quota, amount: u64) -> Quota {
    let amount = amount.max(1);
    let burst = u128::from(general.burst) * u128::from(amount) / u128::from(general.amount.max(1));
    Quota { amount, burst: u64::try_from(burst).unwrap_or(u64::MAX).max(1), ..general }
}

/// What one client has of addresses: an IPv6 client has a /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6((u128::from(v6) & (u128::MAX << 64)).into()),
        },
        v4 => v4,
    }
}

impl Part {
    /// Take or charge more, so that `units` are taken in all. `false`: the limit had not enough, and it is charged all the same.
    pub(super) fn grow_to(&mut self, units: u64, now: When) -> bool {
        let Some(more) = units.checked_sub(self.taken).filter(|more| *more > 0) else { return true };
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

    /// Close the account: nothing is taken or returned any more.
    pub(super) fn close(&self) {
        match &*self.held.account {
            Account::Leased(lease) if self.of_share => lease.close(self.taking),
            account => account.close(self.taking),
        }
    }

    /// Give back what is taken beyond `units`.
    pub(super) fn shrink_to(&mut self, units: u64, now: When) {
        if let Some(back) = self.taken.checked_sub(units).filter(|back| *back > 0) {
            match &*self.held.account {
                Account::Leased(lease) if self.of_share => lease.give_back_share(&self.held.quota, back, self.taking, now),
                account => account.give_back(&self.held.quota, back, self.taking, now),
            }
            self.taken = units;
        }
    }
}

#[cfg(test)]
mod tests;
