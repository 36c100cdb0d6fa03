//! The store of shared limits in a build without the feature `redis`: it cannot be configured.

use std::convert::Infallible;
use std::sync::atomic::AtomicU64;

use config::settings::StoreSettings;
use traffic::store::Granted;
use traffic::{LeaseRequest, SharedLimitTask};

/// The store is unreachable, or refused the call.
#[derive(Debug)]
pub struct StoreUnavailable;

/// There is no value of this type.
#[derive(Debug)]
pub struct Store {
    none: Infallible,
    /// As with the feature.
    pub settings: StoreSettings,
    /// As with the feature.
    pub answered: AtomicU64,
    /// As with the feature.
    pub failed: AtomicU64,
    /// As with the feature.
    pub without: AtomicU64,
}

impl Store {
    /// Never called: `Plan::build` refuses settings with a store first.
    pub fn new(_: StoreSettings) -> Self {
        unreachable!("invariant: plan refuses what this build cannot do")
    }

    /// As with the feature.
    pub fn is_connected(&self) -> bool {
        match self.none {}
    }

    /// As with the feature.
    pub async fn lease(&self, _: &LeaseRequest) -> Result<Granted, StoreUnavailable> {
        match self.none {}
    }

    /// As with the feature.
    pub async fn run_tasks(&self, _: Vec<SharedLimitTask>) {
        match self.none {}
    }

    /// As with the feature.
    pub async fn connect(&self) {
        match self.none {}
    }
}
