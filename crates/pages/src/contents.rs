//! `/api/requests/UNIQUE_ID/contents`: the stored prompt and answer of a request.
//!
//! - *In*: the unique id of a request, the operator's name in a header field.
//! - *Out*: the texts, redacted as they are stored; or why there are none.
//! - *Never*: a text before the audit log has the line about its reading; a text in a cache.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use contents::{FindError, Recorder};
use pipeline::shared::Shared;
use plan::clock;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::access::{Caller, OPERATOR};
use crate::page::{json_response, off_thread};
use crate::params::{ApiError, Params};

/// Maximum bytes of the name of an operator.
const MAX_NAME: usize = 128;
/// Contents read at a time.
static READS: Semaphore = Semaphore::const_new(1);

/// A line of the audit log: stored contents were read, or searched for.
#[derive(Debug, Serialize)]
struct ReadLine<'r> {
    event: &'static str,
    #[serde(with = "lens::record::rfc3339")]
    at: u64,
    operator: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    unique_id: &'r str,
    result: &'static str,
}

/// The page.
///
/// # Errors
/// There is no folder of contents, no header field, no such content, or no line in the audit log.
pub async fn contents(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(unique_id): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    params.check(&[])?;
    caller.require_operator()?;
    let (address, operator) = (caller.client, operator(&headers)?);
    let Some(recorder) = shared.contents.clone() else {
        return Err(ApiError::not_found("no contents are stored; set contents.path"));
    };
    off_thread(&READS, move || {
        let read = Read { address, unique_id: &unique_id, operator: &operator };
        let page = read.page(&shared, &recorder)?;
        Ok(([(header::CACHE_CONTROL, "no-store")], page).into_response())
    })
    .await
}

/// The name that the operator's client states. A web page of another origin cannot send it.
fn operator(headers: &HeaderMap) -> Result<String, ApiError> {
    let value = headers.get(OPERATOR).and_then(|value| value.to_str().ok()).map(str::trim);
    let name = value.filter(|name| (1..=MAX_NAME).contains(&name.len()));
    name.map(str::to_owned).ok_or_else(|| {
        let message = format!(
            "the header {OPERATOR} is required: your name, of at most {MAX_NAME} ASCII characters, \
             for the audit log"
        );
        ApiError::bad(OPERATOR, message)
    })
}

/// One read.
struct Read<'r> {
    address: Option<IpAddr>,
    unique_id: &'r str,
    operator: &'r str,
}

impl Read<'_> {
    fn page(&self, shared: &Shared, recorder: &Recorder) -> Result<Response, ApiError> {
        let at = clock::wall_us();
        let found = recorder.reader().find(self.unique_id, at / 1000);
        if matches!(found, Err(FindError::NotAnId)) {
            return Err(failed(&FindError::NotAnId));
        }
        let line = ReadLine {
            event: "contents_read",
            at,
            operator: self.operator,
            address: self.address,
            unique_id: self.unique_id,
            result: found.as_ref().err().map_or("found", FindError::name),
        };
        let line = json!(line).to_string();
        if !shared.observatory.audit(at, line) {
            let message = "the audit log does not accept the line about this read, so the contents \
                           are not shown; its error is in /api/sinks";
            return Err(ApiError::unavailable(message.into()));
        }
        found.map(|content| json_response(&json!(content))).map_err(|error| failed(&error))
    }
}

fn failed(error: &FindError) -> ApiError {
    let message = error.to_string();
    match error {
        FindError::NotAnId => ApiError::bad("", message),
        FindError::NotStored => ApiError::not_found(&message),
        FindError::Expired => ApiError::gone(message),
        FindError::NoKey(_) => ApiError::unavailable(message),
        FindError::Damaged(_) | FindError::Io(_) => {
            tracing::error!(%error, "contents cannot be read");
            ApiError::internal()
        }
    }
}
