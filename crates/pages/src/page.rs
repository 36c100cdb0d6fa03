//! Builds pages off the thread that serves connections.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use pipeline::shared::Shared;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::params::{ApiError, Params};

/// Pages built at a time. A page is finished even if its client has left, so that the limit on
/// connections does not bound them.
pub const MAX_PAGES: usize = 4;
static PAGES: Semaphore = Semaphore::const_new(MAX_PAGES);

/// A page of JSON with these query parameters.
pub fn json_page(
    known: &'static [&'static str],
    make: impl Fn(&Shared, &Params) -> Result<Value, ApiError> + Clone + Send + Sync + 'static,
) -> MethodRouter<Arc<Shared>> {
    get(async move |State(shared): State<Arc<Shared>>, params: Params| {
        params.check(known)?;
        let make = make.clone();
        let make = move || make(&shared, &params).map(|value| json_response(&value));
        off_thread(&PAGES, make).await
    })
}

/// Build a page on a blocking thread, when `pages` has a permit.
///
/// # Errors
/// Those of the page; an internal error if it panics.
pub async fn off_thread<T: Send + 'static>(
    pages: &'static Semaphore,
    make: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = pages.acquire().await.map_err(|_| ApiError::internal())?;
    let make = move || {
        let _permit = permit;
        make()
    };
    tokio::task::spawn_blocking(make).await.unwrap_or_else(|error| {
        tracing::error!(%error, "an admin page panicked");
        Err(ApiError::internal())
    })
}

/// An answer with a JSON document.
pub fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
