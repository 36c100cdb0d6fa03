//! `/api/audit`: the head of the audit log's chain.
//!
//! - *In*: the head that the log publishes.
//! - *Out*: its sequence number and hash, and the id of the chain's key.
//! - *Never*: a read of the log, or a finding.

use std::sync::Arc;

use audit_log::PublishedHead;
use axum::routing::{MethodRouter, get};
use pages::{ApiError, Params, json_response};
use pipeline::shared::Shared;
use serde_json::json;

/// The page. `None`: there is no audit log.
pub(super) fn page(head: Option<PublishedHead>) -> MethodRouter<Arc<Shared>> {
    get(async move |params: Params| {
        params.check(&[])?;
        let head = head.as_ref();
        let head = head.ok_or_else(|| ApiError::not_found("no audit log; set audit.file"))?;
        let key_id = head.key_id();
        Ok::<_, ApiError>(json_response(&json!({"head": head.head(), "key_id": key_id})))
    })
}
