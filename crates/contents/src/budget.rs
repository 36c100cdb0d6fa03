//! The memory of contents that are gathered or wait for the disk, over all requests.
//!
//! - *In*: leases of bytes.
//! - *Out*: whether there are more.
//! - *Never*: a wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum bytes of the texts of all requests in memory. Beyond it, texts are cut, and contents are
/// dropped and counted.
pub const MAX_MEMORY: usize = 32 << 20;
/// Step in which a lease grows, so that pieces of a stream do not contend for the counter.
const STEP: usize = 4 << 10;

/// Bytes in use.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    /// Leases `bytes`, if there are so many.
    pub(crate) fn lease(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        let mut lease = Lease { budget: self.clone(), used: 0, held: 0 };
        lease.grow(bytes).then_some(lease)
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A part of the budget, which returns when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    budget: Arc<Budget>,
    used: usize,
    held: usize,
}

impl Lease {
    /// Whether `bytes` more may be used.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let used = self.used.saturating_add(bytes);
        if used > self.held {
            let more = (used - self.held).max(STEP);
            let total = self.budget.0.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            if total > MAX_MEMORY {
                self.budget.0.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
            self.held += more;
        }
        self.used = used;
        true
    }

    /// Another lease of the same budget, empty.
    pub(crate) fn another(&self) -> Lease {
        Lease { budget: self.budget.clone(), used: 0, held: 0 }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_end_at_the_maximum_and_return() {
        let budget = Arc::<Budget>::default();
        let mut lease = budget.lease(MAX_MEMORY - STEP).unwrap();
        assert!(lease.grow(1) && lease.grow(STEP - 1), "a step is used up before the next one");
        assert!(!lease.grow(1) && budget.lease(1).is_none());
        assert_eq!(budget.used(), MAX_MEMORY);
        drop(lease);
        assert_eq!(budget.used(), 0);
    }
}
