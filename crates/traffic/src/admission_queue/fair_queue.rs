//! Waiting requests, and which of them is next.
//!
//! - *In*: requests with a tenant and a priority; the tokens that admitted requests have used.
//! - *Out*: the next request, and the charge of its tenant.
//! - *Never*: a charge for a request that leaves the queue without being admitted.
//!
//! The next request is one of the highest priority; among equals, that of the tenant with the
//! smallest virtual time: start-time fair queueing (Goyal, Vin and Cheng 1996, with tokens for
//! bytes). A tenant's virtual time advances when its request is admitted, by the prompt and the
//! output that its requests usually have. When the request has ended, the virtual time is corrected
//! to the tokens that it has used, so that a large `max_tokens` costs nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::prices::TokenUsage;

/// Output tokens that are charged at most for a request of a tenant without completed requests.
const UNKNOWN_OUTPUT: u64 = 1024;
/// Maximum tokens that are counted for a request. No engine has a larger context.
pub(super) const MAX_COUNTED_TOKENS: u64 = 1 << 32;
/// Weight of a new output in a tenant's mean.
const NEW: f64 = 0.2;
/// Number of tenants above which idle ones are removed.
const PRUNE_AT: usize = 1024;

/// Order of admission: reversed priority, virtual time, arrival. The smallest is next.
type Turn = (u8, u64, u64);

/// Key of a waiting request within its tenant: reversed priority, arrival.
pub(super) type Key = (u8, u64);

#[derive(Debug)]
pub(super) struct FairQueue<W> {
    tenants: HashMap<Arc<str>, Tenant<W>>,
    /// The turn of the first request of each tenant with waiting requests.
    turns: BTreeMap<Turn, Arc<str>>,
    len: usize,
    virtual_time: u64,
    arrivals: u64,
    /// Number of this busy period. It ends when no request waits, and with it all virtual times.
    period: u64,
    prune_at: usize,
}

#[derive(Debug)]
struct Tenant<W> {
    waiting: BTreeMap<Key, Entry<W>>,
    /// Its virtual time: the start of its next request.
    start: u64,
    /// Busy period that `start` belongs to.
    period: u64,
    /// Admitted requests that run.
    running: u64,
    /// Mean output of its completed requests.
    mean_output: Option<f64>,
}

/// A waiting request.
#[derive(Debug)]
struct Entry<W> {
    expected: TokenUsage,
    waiter: W,
}

/// What a tenant was charged for an admitted request.
#[derive(Debug)]
pub(super) struct Charge {
    tenant: Arc<str>,
    price: u64,
    period: u64,
}

impl<W> Tenant<W> {
    fn turn(&self) -> Option<Turn> {
        let ((level, arrival), _) = self.waiting.first_key_value()?;
        Some((*level, self.start, *arrival))
    }

    /// Expected tokens of a request, at least 1.
    fn price(&self, expected: &TokenUsage) -> u64 {
        let output = match self.mean_output.map(|mean| mean as u64) {
            Some(mean) if expected.output == 0 => mean,
            mean => expected.output.min(mean.unwrap_or(UNKNOWN_OUTPUT)),
        };
        counted(expected.input.saturating_add(output))
    }
}

/// Tokens as counted in virtual time.
fn counted(tokens: u64) -> u64 {
    tokens.clamp(1, MAX_COUNTED_TOKENS)
}

/// Reversed priority.
fn level(priority: u8) -> u8 {
    9 - priority.min(9)
}

impl<W> FairQueue<W> {
    pub(super) fn new() -> Self {
        FairQueue {
            tenants: HashMap::new(),
            turns: BTreeMap::new(),
            len: 0,
            virtual_time: 0,
            arrivals: 0,
            period: 0,
            prune_at: PRUNE_AT,
        }
    }

    /// Number of waiting requests.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of waiting requests that would be admitted before a new one.
    pub(super) fn ahead(&self, tenant: &str, priority: u8) -> u64 {
        let level = level(priority);
        let own = self.tenants.get(tenant);
        let mut count = 0;
        // The virtual time at which the new request starts.
        let mut start = self.virtual_time;
        if let Some(own) = own.filter(|own| own.period == self.period) {
            start = if own.waiting.is_empty() { start.max(own.start) } else { own.start };
            for entry in own.waiting.range(..=(level, u64::MAX)).map(|(_, entry)| entry) {
                count += 1;
                start = start.saturating_add(own.price(&entry.expected));
            }
        }
        for name in self.turns.values().filter(|name| &***name != tenant) {
            let Some(other) = self.tenants.get(name) else { continue };
            let mut at = other.start;
            for ((of, _), entry) in other.waiting.range(..=(level, u64::MAX)) {
                if *of == level && at > start {
                    break;
                }
                count += 1;
                at = at.saturating_add(other.price(&entry.expected));
            }
        }
        count
    }

    /// Add a request.
    pub(super) fn push(
        &mut self,
        tenant: &Arc<str>,
        priority: u8,
        expected: TokenUsage,
        waiter: W,
    ) -> Key {
        self.prune();
        let key = (level(priority), self.arrivals);
        self.arrivals += 1;
        self.len += 1;
        let (now, period) = (self.virtual_time, self.period);
        self.tenants.entry(tenant.clone()).or_insert_with(|| Tenant {
            waiting: BTreeMap::new(),
            start: 0,
            period,
            running: 0,
            mean_output: None,
        });
        self.update(tenant, |tenant| {
            if tenant.period != period {
                (tenant.start, tenant.period) = (0, period);
            }
            // A tenant without waiting requests gains nothing by its absence.
            if tenant.waiting.is_empty() {
                tenant.start = tenant.start.max(now);
            }
            tenant.waiting.insert(key, Entry { expected, waiter });
        });
        key
    }

    /// Remove a waiting request.
    pub(super) fn remove(&mut self, tenant: &Arc<str>, key: Key) -> Option<W> {
        let entry = self.update(tenant, |tenant| tenant.waiting.remove(&key)).flatten()?;
        self.removed();
        Some(entry.waiter)
    }

    /// Remove the last request of the lowest priority, if that is below `priority`.
    pub(super) fn evict(&mut self, priority: u8) -> Option<W> {
        let last = |name: &Arc<str>| {
            Some((*self.tenants.get(name)?.waiting.last_key_value()?.0, name.clone()))
        };
        let ((lowest, arrival), name) = self.turns.values().filter_map(last).max()?;
        (lowest > level(priority)).then(|| self.remove(&name, (lowest, arrival))).flatten()
    }

    /// Expected usage of the next request.
    pub(super) fn next(&self) -> Option<&TokenUsage> {
        let (_, name) = self.turns.first_key_value()?;
        Some(&self.tenants.get(name)?.waiting.first_key_value()?.1.expected)
    }

    /// Admit the next request, and charge its tenant.
    pub(super) fn pop(&mut self) -> Option<(TokenUsage, W, Charge)> {
        let (turn, tenant) = self.turns.first_key_value()?;
        let ((_, start, _), tenant) = (*turn, tenant.clone());
        self.virtual_time = self.virtual_time.max(start);
        let (entry, price) = self.update(&tenant, |tenant| {
            let (_, entry) = tenant.waiting.pop_first()?;
            let price = tenant.price(&entry.expected);
            tenant.start = tenant.start.saturating_add(price);
            tenant.running += 1;
            Some((entry, price))
        })??;
        let charge = Charge { tenant, price, period: self.period };
        self.removed();
        Some((entry.expected, entry.waiter, charge))
    }

    /// A charged request has ended: correct the charge to the tokens that it has used.
    pub(super) fn settle(&mut self, charge: &Charge, used: &TokenUsage) {
        let period = self.period;
        self.update(&charge.tenant, |tenant| {
            tenant.running = tenant.running.saturating_sub(1);
            let tokens = used.input.saturating_add(used.output);
            if tokens > 0 {
                let output = used.output.min(MAX_COUNTED_TOKENS) as f64;
                let mean = tenant.mean_output.unwrap_or(output);
                tenant.mean_output = Some(mean + NEW * (output - mean));
            }
            if charge.period == period && tenant.period == period {
                let used = if tokens == 0 { 0 } else { counted(tokens) };
                tenant.start = tenant.start.saturating_add(used).saturating_sub(charge.price);
            }
        });
    }

    /// Change a tenant, and keep its turn up to date.
    fn update<R>(
        &mut self,
        name: &Arc<str>,
        change: impl FnOnce(&mut Tenant<W>) -> R,
    ) -> Option<R> {
        let tenant = self.tenants.get_mut(name)?;
        let before = tenant.turn();
        let result = change(tenant);
        let after = tenant.turn();
        if before != after {
            before.and_then(|turn| self.turns.remove(&turn));
            after.and_then(|turn| self.turns.insert(turn, name.clone()));
        }
        Some(result)
    }

    fn removed(&mut self) {
        self.len -= 1;
        if self.len == 0 {
            self.period += 1;
            self.virtual_time = 0;
        }
    }

    /// Remove tenants that have no requests and are not ahead of others.
    fn prune(&mut self) {
        if self.tenants.len() < self.prune_at {
            return;
        }
        let (now, period) = (self.virtual_time, self.period);
        self.tenants.retain(|_, tenant| {
            let is_ahead = tenant.period == period && tenant.start > now;
            !tenant.waiting.is_empty() || tenant.running > 0 || is_ahead
        });
        self.prune_at = PRUNE_AT.max(2 * self.tenants.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: u64, output: u64) -> TokenUsage {
        TokenUsage { input, output, ..TokenUsage::default() }
    }

    #[test]
    fn tenants_without_requests_are_removed_and_others_keep_their_place() {
        let mut queue = FairQueue::new();
        let kept: Arc<str> = "kept".into();
        queue.push(&kept, 5, tokens(10, 0), 0);
        for at in 1..10_000 {
            let tenant: Arc<str> = at.to_string().into();
            let key = queue.push(&tenant, 5, tokens(10, 0), at);
            assert_eq!(queue.remove(&tenant, key), Some(at));
        }
        assert!(queue.tenants.len() <= PRUNE_AT, "{}", queue.tenants.len());
        assert_eq!(queue.pop().map(|(_, waiter, _)| waiter), Some(0));
        assert!(queue.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn requests_ahead_are_those_that_are_admitted_first() {
        let mut queue = FairQueue::new();
        for at in 0..4 {
            queue.push(&"a".into(), 5, tokens(1000, 0), at);
        }
        queue.push(&"b".into(), 5, tokens(10, 0), 4);
        queue.push(&"c".into(), 1, tokens(10, 0), 5);
        assert_eq!(queue.ahead("a", 5), 5, "all of its own, and one of b");
        assert_eq!(queue.ahead("b", 5), 2, "the first of a, and its own");
        assert_eq!(queue.ahead("d", 5), 2, "the first of each");
        assert_eq!(queue.ahead("d", 9), 0);
        assert_eq!(queue.ahead("d", 0), 6);
    }
}
