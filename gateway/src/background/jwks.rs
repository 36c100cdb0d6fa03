//! Refreshes the key sets of identity providers.

use std::sync::Arc;
use std::time::Duration;

use pipeline::shared::Shared;

/// Interval between checks for due fetches.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Fetch all keys once, for at most `patience`: the first requests should find them. A provider
/// that cannot be reached does not delay the start further.
pub(crate) async fn begin(shared: &Shared, patience: Duration) {
    let Some(jwks) = shared.plan.load_full().jwks.clone() else { return };
    if jwks.pending().is_some() {
        let _ = tokio::time::timeout(patience, jwks.refresh()).await;
    }
}

/// Fetch keys when they are due. Never ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        if let Some(jwks) = &shared.plan.load_full().jwks {
            jwks.refresh().await;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
