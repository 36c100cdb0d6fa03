//! The mirror of a route: another pool that gets copies of its requests. Its answers are dropped.
//!
//! - *In*: the share of requests that are copied.
//! - *Out*: a slot for each copy, released when it is dropped; counts and times.
//! - *Never*: more than [`MAX_RUNNING`] copies at a time: further ones are skipped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::PlannedPool;

/// Maximum number of copies of a route at a time.
const MAX_RUNNING: u64 = 64;

/// The mirror of a route, and its results.
#[derive(Debug)]
pub struct Mirror {
    /// The pool that gets the copies.
    pub pool: Arc<PlannedPool>,
    share: f64,
    /// Results of the copies.
    pub counts: Arc<MirrorCounts>,
}

/// Results of mirrored requests. Counts survive reloads and discovery.
#[derive(Debug, Default)]
pub struct MirrorCounts {
    running: AtomicU64,
    pub success: AtomicU64,
    pub failure: AtomicU64,
    pub left_out: AtomicU64,
    /// Answers that had a first token, and the sum of their times to it, in microseconds.
    pub first_tokens: AtomicU64,
    pub first_token_us: AtomicU64,
}

/// A slot of the copies in flight; dropping it releases it.
#[derive(Debug)]
pub struct MirrorSlot(Arc<MirrorCounts>);

impl Mirror {
    /// A mirror of `share` (0 to 1) of the requests; counts continue from `before`.
    pub fn new(pool: Arc<PlannedPool>, share: f64, before: Option<&Mirror>) -> Self {
        Mirror {
            pool,
            share,
            counts: before.map(|before| before.counts.clone()).unwrap_or_default(),
        }
    }

    /// A slot, if this request is to be copied.
    pub fn take_slot(&self) -> Option<MirrorSlot> {
        if rand::random::<f64>() >= self.share {
            return None;
        }
        let running = &self.counts.running;
        let fits = running
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < MAX_RUNNING).then_some(n + 1)
            })
            .is_ok();
        if !fits {
            self.counts.left_out.fetch_add(1, Ordering::Relaxed);
        }
        fits.then(|| MirrorSlot(self.counts.clone()))
    }
}

impl Drop for MirrorSlot {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
