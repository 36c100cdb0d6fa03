//! The store of shared limits in a build without the feature `redis`: it cannot be configured.

use std::convert::Infallible;
use std::sync::atomic::AtomicU64;

use config::settings::StoreSettings;
use traffic::store::Granted;
use traffic::{StoreTask, Wanted};

/// The store does not answer.
#[derive(Debug)]
pub struct StoreUnavailable;

/// A store and the connection to it: none.
#[derive(Debug)]
pub struct Store {
    none: Infallible,
    pub settings: StoreSettings,
    pub answered: AtomicU64,
    pub failed: AtomicU64,
    pub without: AtomicU64,
}

impl Store {
    /// `plan` refuses settings with a store before it comes to this.
    pub fn new(_: StoreSettings) -> Self {
        unreachable!("invariant: plan refuses what this build cannot do")
    }

    pub fn is_there(&self) -> bool {
        match self.none {}
    }

    pub async fn lease(&self, _: &Wanted) -> Result<Granted, StoreUnavailable> {
        match self.none {}
    }

    pub async fn attend_to(&self, _: Vec<StoreTask>) {
        match self.none {}
    }

    pub async fn connect(&self) {
        match self.none {}
    }
}
