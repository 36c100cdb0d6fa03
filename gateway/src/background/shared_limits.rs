//! Keeps the store of shared limits connected, pays debts and gives idle slices back.

use std::sync::Arc;
use std::time::Duration;

use pipeline::shared::Shared;
use plan::clock::when;
use tokio::sync::watch;

/// Interval at which debts are paid and idle slices returned. Within it, a stream may exceed a
/// limit that other gateways have exhausted.
const CHORES: Duration = Duration::from_millis(100);
/// Wait between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(250);

/// Keep the store connected, pay debts and return idle slices until shutdown. A round that has
/// begun is completed.
pub(crate) async fn keep(shared: Arc<Shared>, mut ends: watch::Receiver<bool>) {
    loop {
        round(&shared).await;
        tokio::select! {
            () = tokio::time::sleep(CHORES) => {}
            _ = ends.wait_for(|ends| *ends) => return,
        }
    }
}

async fn round(shared: &Shared) {
    let plan = shared.plan.load_full();
    let Some(store) = &plan.store else { return };
    if store.is_connected() {
        return store.run_tasks(plan.rate_limits.store_tasks(when())).await;
    }
    store.connect().await;
    if !store.is_connected() {
        tokio::time::sleep(AGAIN).await;
    }
}

/// Pay all debts and return all slices at shutdown.
pub(crate) async fn leave(shared: &Shared) {
    let plan = shared.plan.load_full();
    if let Some(store) = plan.store.as_ref().filter(|store| store.is_connected()) {
        store.run_tasks(plan.rate_limits.shutdown_tasks(when())).await;
    }
}
