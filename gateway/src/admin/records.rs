//! `/api/records`, `/api/facets` and `/api/charts`: queries of the store of records.
//!
//! - *In*: the query string.
//! - *Out*: JSON of [`store::API_PAGES`].
//! - *Never*: a parameter that is ignored; a query on the control thread.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, get};
use pages::{ApiError, Params, json_response, off_thread};
use pipeline::shared::Shared;
use plan::clock;
use store::{API_PAGES, ApiPage, Store, StoreError};
use tokio::sync::Semaphore;

/// Queries at a time. Others wait, and pages that need no disk do not wait for them.
const MAX_QUERIES: usize = 2;
static QUERIES: Semaphore = Semaphore::const_new(MAX_QUERIES);

/// Add the pages to a router.
pub(super) fn add_pages(
    router: Router<Arc<Shared>>,
    store: Option<Arc<dyn Store>>,
) -> Router<Arc<Shared>> {
    API_PAGES
        .iter()
        .fold(router, |router, page| router.route(page.path, serve(page, store.clone())))
}

fn serve(page: &'static ApiPage, store: Option<Arc<dyn Store>>) -> MethodRouter<Arc<Shared>> {
    get(async move |params: Params| {
        params.check(page.params)?;
        let Some(store) = store.clone() else {
            return Err(ApiError::not_found(
                "no records are stored; set record_store.path or record_store.url",
            ));
        };
        let make = move || {
            let answer = page.answer(&*store, params.all(), clock::wall_us());
            answer.map(|answer| json_response(&answer)).map_err(failed)
        };
        off_thread(&QUERIES, make).await
    })
}

fn failed(error: StoreError) -> ApiError {
    match error {
        StoreError::Query(message) => ApiError::bad("", message),
        StoreError::Timeout | StoreError::Unavailable(_) => {
            ApiError::unavailable(error.to_string())
        }
        StoreError::Read(_) => {
            tracing::error!(%error, "a query of the record store failed");
            ApiError::internal()
        }
    }
}
