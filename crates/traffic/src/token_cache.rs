//! Cache of verified credentials.
//!
//! - *In*: the hash of a verified credential, and its caller.
//! - *Out*: the cached [`Caller`] until the credential expires.
//! - *Never*: a credential itself, only its hash; an invalid credential, so that unauthenticated
//!   clients cannot fill the cache.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::caller::Caller;

/// Maximum number of cached credentials.
const MAX_CACHED_TOKENS: usize = 10_000;

/// The cache.
#[derive(Debug, Default)]
pub struct TokenCache {
    good: Mutex<HashMap<Hash, Arc<Caller>>>,
    /// Number of times that the cache was cleared.
    epoch: AtomicU64,
}

/// A credential's hash.
pub type Hash = [u8; 32];

impl TokenCache {
    /// The cache key of a credential.
    pub fn hash(shown: &str) -> Hash {
        Sha256::digest(shown.as_bytes()).into()
    }

    /// The cached caller of a credential; `None`: not cached.
    ///
    /// # Errors
    /// [`Expired`], if the cached credential has expired.
    pub fn find(&self, hash: &Hash, wall_us: u64) -> Result<Option<Arc<Caller>>, Expired> {
        let known = self.good.lock().get(hash).cloned();
        match known {
            Some(caller) if !lives(&caller, wall_us) => Err(Expired),
            known => Ok(known),
        }
    }

    /// The epoch for [`keep`](Self::keep), read before the credential is verified.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Cache a verified credential, unless the cache was cleared since `epoch`: its verification
    /// key may be gone. A full cache drops expired credentials, and if that is not enough, all.
    pub fn keep(&self, hash: Hash, caller: &Arc<Caller>, epoch: u64, wall_us: u64) {
        let mut good = self.good.lock();
        if epoch != self.epoch() {
            return;
        }
        if good.len() >= MAX_CACHED_TOKENS {
            good.retain(|_, caller| lives(caller, wall_us));
        }
        if good.len() >= MAX_CACHED_TOKENS {
            good.clear();
        }
        good.insert(hash, caller.clone());
    }

    /// Clear the cache.
    pub fn clear(&self) {
        let mut good = self.good.lock();
        self.epoch.fetch_add(1, Ordering::Release);
        good.clear();
    }
}

/// The credential was valid, and has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

fn lives(caller: &Caller, wall_us: u64) -> bool {
    caller.expires.is_none_or(|end| wall_us < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_cached_until_expiry_and_the_cache_is_bounded() {
        let remembered = TokenCache::default();
        let caller = |expires| Arc::new(Caller { expires: Some(expires), ..Caller::anonymous() });
        let hash = TokenCache::hash("a");
        assert_eq!(remembered.find(&hash, 0), Ok(None));
        remembered.keep(hash, &caller(100), 0, 0);
        assert_eq!(remembered.find(&hash, 99), Ok(Some(caller(100))));
        assert_eq!(remembered.find(&hash, 100), Err(Expired));
        for at in 0..3 * MAX_CACHED_TOKENS {
            remembered.keep(
                TokenCache::hash(&at.to_string()),
                &caller(if at % 2 == 0 { 50 } else { 1000 }),
                0,
                60,
            );
            assert!(remembered.good.lock().len() <= MAX_CACHED_TOKENS);
        }
        let before = remembered.epoch();
        remembered.clear();
        remembered.keep(hash, &caller(100), before, 0);
        assert_eq!(remembered.find(&hash, 0), Ok(None), "verified before the clear");
    }
}
