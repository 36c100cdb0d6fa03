//! JSON pages of a server: the list of models, the gateway's admin pages.
//!
//! - *In*: a base URL and a path.
//! - *Out*: the document, or why it cannot be read, with the URL.
//! - *Never*: an unlimited wait or body.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;

use crate::failure::Failure;
use crate::http1::Target;
use workload::provider::Provider;

/// Maximum bytes of a page.
const MAX_PAGE: usize = 256 << 20;
/// Timeout for a page.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Fetches a page.
///
/// # Errors
/// Why it cannot be read.
pub(crate) async fn fetch(
    target: &Target,
    path: &str,
    provider: &Provider,
    key: Option<&str>,
) -> Result<Value, String> {
    let got = tokio::time::timeout(TIMEOUT, get(target, path, provider, key))
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {TIMEOUT:?}")));
    got.map_err(|e| format!("cannot read {}: {e}", target.url(path)))
}

async fn get(
    target: &Target,
    path: &str,
    provider: &Provider,
    key: Option<&str>,
) -> Result<Value, String> {
    let mut connection = target.connect().await.map_err(|e| e.to_string())?;
    let mut request = target.request("GET", path);
    for (name, value) in headers(provider, key) {
        request = request.header(name, value);
    }
    let request = request.body(Full::default()).map_err(|e| e.to_string())?;
    let answer = connection.send(request).await.map_err(|e| e.error.to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_PAGE)
        .collect()
        .await
        .map_err(|e| e.to_string())?
        .to_bytes();
    if status != StatusCode::OK {
        let Failure { name, message } = Failure::of_answer(status, None, &body);
        return Err(message.map_or_else(|| name.clone(), |message| format!("{name}: {message}")));
    }
    serde_json::from_slice(&body).map_err(|e| format!("the answer is not JSON: {e}"))
}

/// The headers of a provider: the key, and what its API requires.
pub(crate) fn headers(
    provider: &Provider,
    key: Option<&str>,
) -> impl Iterator<Item = (&'static str, String)> {
    let key = key.map(|key| provider.key_header.header(key));
    let required = provider.api.header().map(|(name, value)| (name, value.to_owned()));
    key.into_iter().chain(required)
}

/// The models that a server lists at `/v1/models`.
///
/// # Errors
/// Why the list cannot be read, or that it is empty.
pub async fn models(
    base_url: &str,
    provider: &Provider,
    key: Option<&str>,
) -> Result<Vec<String>, String> {
    let target = Target::new(base_url)?;
    let list = fetch(&target, "/v1/models", provider, key).await?;
    let names: Vec<String> = list["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|model| model["id"].as_str().map(str::to_owned))
        .collect();
    if names.is_empty() {
        return Err(format!("{} lists no models", target.url("/v1/models")));
    }
    Ok(names)
}
