//! Refreshes the key sets of identity providers.

use std::sync::Arc;
use std::time::Duration;

use pipeline::shared::Shared;

/// Interval between checks for due fetches.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Fetch keys when they are due. Never ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        if let Some(jwks) = &shared.plan.load_full().jwks {
            jwks.refresh().await;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
