//! The models that routes serve: those that the settings name, and those that backends list.
//!
//! - *In*: the routes of a plan; `/v1/models` of backends without `models`.
//! - *Out*: names for `/v1/models` and for errors.
//! - *Never*: a fetch that outlasts [`FETCH_TIMEOUT`]; a list that becomes empty because a backend
//!   is down.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use traffic::Pattern;
use transport::{ListedModel, Upstream};
use wire::json::{Malformed, Scan};

use crate::clock;
use crate::host::client;
use crate::plan::PlannedRoute;

/// Timeout for fetching the list of a backend.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a fetched list is used. New models are rare, and clients list models often.
const FRESH: Duration = Duration::from_secs(30);
/// Delay before the list of a backend that failed is fetched again.
const RETRY: Duration = Duration::from_secs(5);
/// Maximum backends of a pool whose lists are fetched: they serve the same models.
const MAX_FETCHED: usize = 8;
/// Maximum models of a backend, and bytes of a name, that are kept.
const MAX_MODELS: usize = 1000;
const MAX_NAME: usize = 256;

/// Fetch the lists of the routes' backends that are due.
pub async fn refresh(routes: impl IntoIterator<Item = &Arc<PlannedRoute>>) {
    let now = clock::now();
    let mut started = BTreeSet::new();
    // Dropped with the request that waits for them.
    let mut fetches = JoinSet::new();
    for upstream in routes.into_iter().flat_map(|route| listing(route)) {
        if upstream.listed.is_due(now) && started.insert(upstream.backend.name.clone()) {
            fetches.spawn(fetch(upstream.clone()));
        }
    }
    while fetches.join_next().await.is_some() {}
}

/// The models that clients can name on a route, without duplicates, in the order of the settings.
pub fn offered(route: &PlannedRoute) -> Vec<ListedModel> {
    let named = |id: &str| ListedModel { id: id.to_owned(), ..ListedModel::default() };
    let mut models: Vec<ListedModel> = Vec::new();
    for pool in &route.pools {
        models.extend(pool.model.as_deref().map(named));
        if pool.model.is_none() {
            let configured = pool.upstreams.iter().flat_map(|upstream| &upstream.backend.models);
            models.extend(configured.map(|id| named(id)));
        }
    }
    models.extend(listing(route).flat_map(|upstream| upstream.listed.models().to_vec()));
    for pattern in &route.route.models {
        if let Pattern::Exact(id) = pattern {
            models.push(named(id));
        }
    }
    let mut seen = BTreeSet::new();
    models.retain(|model| seen.insert(model.id.clone()));
    models
}

/// The backends of a route whose own lists count.
fn listing(route: &PlannedRoute) -> impl Iterator<Item = &Arc<Upstream>> {
    let pools = route.pools.iter().filter(|pool| pool.model.is_none());
    pools.flat_map(|pool| {
        let now = clock::now();
        let mut upstreams: Vec<(bool, &Arc<Upstream>)> = pool
            .upstreams
            .iter()
            .enumerate()
            .filter(|(_, upstream)| upstream.backend.models.is_empty())
            .map(|(at, upstream)| (!pool.pool.can_serve(at, &[], now), upstream))
            .collect();
        // Healthy backends first.
        upstreams.sort_by_key(|(is_down, _)| *is_down);
        upstreams.into_iter().take(MAX_FETCHED).map(|(_, upstream)| upstream)
    })
}

async fn fetch(upstream: Arc<Upstream>) {
    let _turn = upstream.listed.fetching.lock().await;
    if !upstream.listed.is_due(clock::now()) {
        return;
    }
    let path = match &*upstream.backend.provider {
        "anthropic" => "/v1/models?limit=1000",
        _ => "/v1/models",
    };
    let page = tokio::time::timeout(FETCH_TIMEOUT, client::get_path(&upstream, path)).await;
    let models = match page {
        Ok(Ok(page)) if page.status == 200 => read(&page.body),
        // The engine has no such API.
        Ok(Ok(page)) if matches!(page.status, 404 | 405 | 501) => Some(Vec::new()),
        _ => None,
    };
    if models.is_none() {
        tracing::debug!(backend = %upstream.backend.name, "no list of models");
    }
    let due_in = if models.is_some() { FRESH } else { RETRY };
    upstream.listed.store(models, clock::now(), due_in);
}

/// Read a list in the format of OpenAI or Anthropic.
fn read(body: &[u8]) -> Option<Vec<ListedModel>> {
    let mut models = Vec::new();
    let read = Scan::new(body).object(|key, v| {
        if key != b"data" || v.peek() != Some(b'[') {
            return v.skip();
        }
        v.array(|_, v| {
            let model = read_model(v)?;
            let fits = !model.id.is_empty() && model.id.len() <= MAX_NAME;
            if fits && models.len() < MAX_MODELS {
                models.push(model);
            }
            Ok(())
        })
    });
    read.is_ok().then_some(models)
}

fn read_model(scan: &mut Scan<'_>) -> Result<ListedModel, Malformed> {
    let mut model = ListedModel::default();
    if scan.peek() != Some(b'{') {
        scan.skip()?;
        return Ok(model);
    }
    scan.object(|key, v| {
        match key {
            b"id" => {
                model.id = v.text()?.map(|text| text.decode().into_owned()).unwrap_or_default()
            }
            b"owned_by" => {
                let text = v.text()?.map(|text| text.decode().into_owned()).unwrap_or_default();
                model.owned_by = if text.len() <= MAX_NAME { text } else { String::new() };
            }
            b"created" => model.created = v.count()?.unwrap_or_default(),
            b"max_model_len" => model.context_length = v.count()?,
            _ => v.skip()?,
        }
        Ok(())
    })?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_engines_are_read() {
        let vllm = br#"{"object":"list","data":[{"id":"org\/m","object":"model","created":17,"owned_by":"vllm","root":"/data/m","max_model_len":4096,"permission":[{"id":"p"}]},{"id":""},7]}"#;
        let want = ListedModel {
            id: "org/m".into(),
            created: 17,
            owned_by: "vllm".into(),
            context_length: Some(4096),
        };
        assert_eq!(read(vllm), Some(vec![want]));
        let anthropic = br#"{"data":[{"type":"model","id":"c","display_name":"C","created_at":"2026-01-01T00:00:00Z"}],"has_more":false}"#;
        assert_eq!(read(anthropic).map(|models| models[0].id.clone()), Some("c".into()));
        assert_eq!(read(b"{}"), Some(Vec::new()));
        assert_eq!(read(b"<html>"), None);
    }
}
