//! `/api/drain`: drains and ends the gateway.
//!
//! - *In*: a POST that `pages::access` has admitted.
//! - *Out*: a drain, as TERM starts it; the answer has its bounds.
//! - *Never*: a second drain; the end of a running stream before `shutdown.grace` is over.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, post};
use pages::{ApiError, Params, json_response};
use pipeline::shared::Shared;
use serde_json::json;
use tokio::sync::Notify;

/// The endpoint. It notifies `requested`.
pub(super) fn page(requested: Arc<Notify>) -> MethodRouter<Arc<Shared>> {
    post(async move |State(shared): State<Arc<Shared>>, params: Params| {
        params.check(&[])?;
        let plan = shared.plan.load();
        let shutdown = &plan.settings.shutdown;
        let (delay, grace) = (shutdown.delay.as_secs_f64(), shutdown.grace.as_secs_f64());
        tracing::info!("drain requested by the operator");
        requested.notify_one();
        let answer = json!({"draining": true, "delay_s": delay, "grace_s": grace});
        Ok::<_, ApiError>((StatusCode::ACCEPTED, json_response(&answer)))
    })
}
