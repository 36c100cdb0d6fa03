//! Lines of the audit log about changes; without an audit log, of the log.
//!
//! - *In*: a change with its caller and its outcome.
//! - *Out*: one line: time, event, token's name and role, address, change, result.
//! - *Never*: a body, which may hold a token or a prompt; a request that was not authenticated,
//!   which could fill the log.

use std::net::IpAddr;

use axum::http::{Method, StatusCode, Uri};
use observatory::AuditLine;
use pipeline::shared::worker;
use plan::clock;
use serde::Serialize;

use super::Caller;

/// Maximum bytes of a query in a line; the parameters of all pages are shorter.
const MAX_QUERY: usize = 1024;

/// How a change ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// The role of the token does not permit it.
    Role,
    /// With this status.
    Status(StatusCode),
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Status(status) if status.is_success() => "success",
            Outcome::Status(status) if status.is_server_error() => "failure",
            Outcome::Role | Outcome::Status(_) => "refused",
        }
    }
}

/// A line of the audit log.
#[derive(Debug, Serialize)]
struct Entry<'r> {
    #[serde(with = "lens::record::rfc3339")]
    at: u64,
    event: &'static str,
    /// Absent without authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'r str>,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    method: &'r str,
    path: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    query: &'r str,
    result: &'static str,
}

/// The client's address, empty if it is not known.
fn address(caller: &Caller) -> String {
    caller.client.map(|client| client.to_string()).unwrap_or_default()
}

/// Record a change.
pub(super) fn record(caller: &Caller, method: &Method, uri: &Uri, outcome: Outcome) {
    let query = uri.query().unwrap_or_default();
    let entry = Entry {
        at: clock::wall_us(),
        event: "admin_change",
        token: caller.name(),
        role: caller.role().name(),
        client: caller.client,
        method: method.as_str(),
        path: uri.path(),
        query: query.get(..MAX_QUERY).unwrap_or(query),
        result: outcome.name(),
    };
    let shared = &caller.shared;
    if shared.audit.is_none() {
        let Entry { role, method, path, query, result, .. } = entry;
        let (token, client) = (entry.token.unwrap_or_default(), address(caller));
        tracing::info!(token, role, client, method, path, query, result, "admin change");
        return;
    }
    match serde_json::to_string(&entry) {
        Ok(text) => shared.observatory.found(worker(), AuditLine::new(entry.at, text)),
        Err(error) => tracing::error!(%error, "audit entry cannot be written"),
    }
}
