//! One rate limit and its accounts.
//!
//! - *In*: requests that the limit applies to.
//! - *Out*: the account of a request's caller, route, model or address.
//! - *Never*: unbounded accounts: only a limited number of addresses have their own.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::LimitRequest;
use crate::Pattern;
use crate::account::{self, Account, Now};
use crate::lease::{self, Lease, SharedLimitTask};
use crate::network::network;
use crate::settings::{self, Per, Quota, Shared, Window};
use crate::usage::{GroupBy, UsageSums};

/// Number of shards of a limit's accounts, each with a lock.
pub(super) const SHARDS: usize = 16;
/// Minimum nanoseconds between two sweeps for idle accounts. A sweep takes some tenths of a
/// millisecond.
const SWEEP_AGAIN: u64 = 100_000_000;
/// Maximum number of addresses per shard that have their own account; the others share one.
pub(super) const MAX_ADDRESSES: usize = 4096;

/// A limit with its accounts.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) settings: settings::Limit,
    /// Requests refused and streams ended because of it.
    pub(crate) refused: AtomicU64,
    pub(crate) ended: AtomicU64,
    /// Requests that got a warning.
    pub(crate) warned: AtomicU64,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    accounts: HashMap<Subject, Arc<LimitAccount>>,
    /// Number of accounts at which idle ones are swept, and the earliest time of the next sweep.
    sweep_at: usize,
    sweep_again: u64,
}

/// An account and its quota: a key may have its own quota.
#[derive(Debug)]
pub(crate) struct LimitAccount {
    pub(crate) quota: Quota,
    pub(crate) account: Arc<Account>,
}

impl LimitAccount {
    /// The lease, if gateways share the account.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        match &*self.account {
            Account::Leased(lease) => Some(lease),
            _ => None,
        }
    }
}

/// Key of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    All,
    Name(Arc<str>),
    Address(IpAddr),
}

impl Limit {
    /// Number of accounts in memory.
    pub(super) fn accounts(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().accounts.len()).sum()
    }

    /// A limit that takes over the accounts of `before`.
    pub(super) fn new(settings: settings::Limit, before: Option<&Limit>) -> Self {
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
                    if let (Account::Leased(lease), Some(shared)) =
                        (&*held.account, &limit.settings.shared)
                    {
                        lease.share_with(shared);
                    }
                }
            }
        }
        limit
    }

    /// Whether the accounts of this limit stay valid under other settings.
    pub(super) fn counts_as(&self, other: &settings::Limit) -> bool {
        let mine = &self.settings;
        let kind = |window: Window| std::mem::discriminant(&window);
        let store = |settings: &settings::Limit| {
            settings.shared.as_ref().map(|shared| shared.prefix.clone())
        };
        (&mine.name, mine.unit, mine.per, store(mine))
            == (&other.name, other.unit, other.per, store(other))
            && kind(mine.quota.window) == kind(other.quota.window)
    }

    /// Used shares of all accounts, and the times until they are unused. Those of shared limits are
    /// in the store.
    pub(super) fn levels(&self, now: Now) -> Vec<(Subject, f64, Duration)> {
        let of = |(subject, held): (&Subject, &Arc<LimitAccount>)| {
            let (left, reset) = held.account.left(&held.quota, now);
            let burst = held.quota.burst.max(1);
            let used = burst.saturating_sub(left) as f64 / burst as f64;
            (used > 0.0).then(|| (subject.clone(), used, Duration::from_nanos(reset)))
        };
        if self.settings.shared.is_some() {
            return Vec::new();
        }
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| shard.lock().accounts.iter().filter_map(of).collect::<Vec<_>>())
            .collect()
    }

    pub(super) fn restore_usage(&self, sums: &UsageSums, now: Now) {
        let settings = &self.settings;
        let Some(first) = account::first_day(settings.quota.window, now) else { return };
        if settings.shared.is_some() || !settings.routes.is_empty() {
            return;
        }
        for (line, totals) in sums.rows(GroupBy::EVERYTHING, Some(first)) {
            let subject = match settings.per {
                Per::All => Subject::All,
                Per::Key => Subject::Name(line.key),
                Per::Owner => Subject::Name(line.owner.clone()),
                Per::Model => Subject::Name(line.model.clone()),
                Per::Route | Per::Address => return,
            };
            if Pattern::allow(&settings.models, &line.model)
                && Pattern::allow(&settings.owners, &line.owner)
            {
                let held = self.held(subject, settings.quota, now);
                held.account.charge(&held.quota, totals.in_units(settings.unit), now);
            }
        }
    }

    pub(super) fn concerns(&self, asked: &LimitRequest<'_>) -> bool {
        let settings = &self.settings;
        Pattern::allow(&settings.routes, asked.route)
            && Pattern::allow(&settings.models, asked.model)
            && Pattern::allow(&settings.owners, &asked.caller.owner)
    }

    pub(super) fn subject(&self, asked: &LimitRequest<'_>) -> Subject {
        match (self.settings.per, asked.address) {
            (Per::All, _) | (Per::Address, None) => Subject::All,
            (Per::Key, _) => Subject::Name(asked.caller.id.clone()),
            (Per::Owner, _) => Subject::Name(asked.caller.owner.clone()),
            (Per::Route, _) => Subject::Name(asked.route.clone()),
            (Per::Model, _) => Subject::Name(asked.declared_model.clone()),
            (Per::Address, Some(address)) => Subject::Address(network(address)),
        }
    }

    /// Key of an account in the store.
    pub(super) fn key(&self, asked: &LimitRequest<'_>, now: Now) -> String {
        self.key_of(&self.subject(asked), now)
    }

    pub(super) fn key_of(&self, subject: &Subject, now: Now) -> String {
        let prefix = self.settings.shared.as_ref().map_or("", |shared| &*shared.prefix);
        lease::key(
            prefix,
            &self.settings.name,
            &subject.to_string(),
            self.settings.quota.window,
            now,
        )
    }

    pub(super) fn store_tasks(&self, now: Now, stays: Option<Now>) -> Vec<SharedLimitTask> {
        let of = |(subject, held): (&Subject, &Arc<LimitAccount>)| {
            SharedLimitTask::due_task(held, &self.key_of(subject, now), stays)
        };
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().accounts.iter().filter_map(of).collect::<Vec<_>>())
            .collect()
    }

    pub(super) fn account(&self, asked: &LimitRequest<'_>, now: Now) -> Arc<LimitAccount> {
        let subject = self.subject(asked);
        let quota = match (self.settings.per, asked.caller.limits.get(&self.settings.name)) {
            (Per::Key, Some(amount)) => own(self.settings.quota, *amount),
            _ => self.settings.quota,
        };
        self.held(subject, quota, now)
    }

    pub(super) fn held(&self, subject: Subject, quota: Quota, now: Now) -> Arc<LimitAccount> {
        let shard = &self.shards[(self.hasher.hash_one(&subject) % SHARDS as u64) as usize];
        shard.lock().account(subject, quota, self.settings.shared.as_ref(), now)
    }
}

impl Shard {
    fn account(
        &mut self,
        subject: Subject,
        quota: Quota,
        shared: Option<&Shared>,
        now: Now,
    ) -> Arc<LimitAccount> {
        if let Some(held) = self.accounts.get_mut(&subject) {
            // If the quota of a subject changes, the units taken still count.
            if held.quota != quota {
                *held = Arc::new(LimitAccount { quota, account: held.account.clone() });
            }
            return held.clone();
        }
        if self.accounts.len() >= self.sweep_at.max(64) && now.tick.0 >= self.sweep_again {
            self.sweep_again = now.tick.0.saturating_add(SWEEP_AGAIN);
            self.accounts
                .retain(|_, held| Arc::strong_count(held) > 1 || !held.account.is_unused(now));
            self.sweep_at = (2 * self.accounts.len()).min(MAX_ADDRESSES);
        }
        let crowded =
            matches!(subject, Subject::Address(_)) && self.accounts.len() >= MAX_ADDRESSES;
        let subject = if crowded { Subject::All } else { subject };
        let fresh =
            || Arc::new(LimitAccount { quota, account: Arc::new(Account::new(&quota, shared)) });
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

/// The quota of a key with its own amount; the burst scales with it.
fn own(general: Quota, amount: u64) -> Quota {
    let amount = amount.max(1);
    let burst = u128::from(general.burst) * u128::from(amount) / u128::from(general.amount.max(1));
    Quota { amount, burst: u64::try_from(burst).unwrap_or(u64::MAX).max(1), ..general }
}
