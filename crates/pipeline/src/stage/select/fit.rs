//! Properties of a request that selection needs: backends that cannot serve it, and its key.
//!
//! - *In*: head, body and facts of a request, declared abilities of backends.
//! - *Out*: unfit backends, the key, the blocks of the prompt; only what the route's pools use.
//! - *Never*: a backend excluded although the prompt may fit into its context.

use std::cell::OnceCell;

use config::settings::{Ability, Backend, Balance, By};
use http1::head::{Head, RequestLine};
use traffic::network;
use wire::Dialect;

use crate::exchange::Exchange;
use crate::stage::send::has_credential;
use plan::{PlannedPool, Target};

/// Determine the properties of a request that the pools of its route use.
pub fn prepare(exchange: &mut Exchange, head: &Head<'_, RequestLine<'_>>, body: &[u8]) {
    let Some(route) = exchange.routed.as_ref().map(|routed| routed.route.clone()) else { return };
    exchange.attempts.with_credential = exchange.plan.keys.is_none() && has_credential(head);
    if let Some((name, value)) =
        route.route.offload.as_ref().and_then(|offload| offload.header.as_ref())
    {
        exchange.attempts.requests_cloud = head
            .get(name)
            .is_some_and(|said| value.as_ref().is_none_or(|value| value.as_bytes() == said));
    }
    if let (Some(release), Some(canary)) = (&route.release, &route.route.canary) {
        // An address stands for many clients behind a proxy: without a caller, a request is drawn.
        let key = canary.key.as_ref().and_then(|by| match by {
            By::Caller => caller(exchange).map(String::into_bytes),
            By::Header(_) | By::Cookie(_) => key(exchange, by, head),
        });
        exchange.attempts.assigned = Some(release.side(key.as_deref()));
    }
    if !route.has_choice() {
        return;
    }
    let images = OnceCell::new();
    for (number, pool) in route.pools.iter().enumerate() {
        match &pool.pool.settings.balance {
            Balance::Session(by) | Balance::Hash(by) if exchange.attempts.key.is_none() => {
                exchange.attempts.key = key(exchange, by, head)
            }
            Balance::Prefix if exchange.attempts.prefix.is_empty() => {
                let texts = exchange
                    .inspected
                    .facts
                    .iter()
                    .flat_map(|facts| &facts.texts)
                    .filter(|text| !text.beside);
                let texts = texts.map(|text| body.get(text.range.clone()).unwrap_or_default());
                let model = exchange
                    .inspected
                    .facts
                    .as_ref()
                    .and_then(|facts| facts.model.as_deref())
                    .unwrap_or_default();
                routing::blocks(model.as_bytes(), texts, &mut exchange.attempts.prefix);
            }
            _ => {}
        }
        // Identical backends of a single pool are not filtered.
        if !pool.uniform || route.pools.len() > 1 {
            let shows_images = || *images.get_or_init(|| shows_images(body));
            let unfit = pool
                .upstreams
                .iter()
                .enumerate()
                .filter(|(_, upstream)| !fits(exchange, &upstream.backend, pool, shows_images));
            let unfit: Vec<Target> = unfit.map(|(at, _)| Target { pool: number, at }).collect();
            exchange.attempts.unfit.extend(unfit);
        }
    }
}

/// The balancing key of a request.
fn key(exchange: &Exchange, by: &By, head: &Head<'_, RequestLine<'_>>) -> Option<Vec<u8>> {
    match by {
        By::Header(name) => head.get(name).map(<[u8]>::to_vec),
        By::Cookie(name) => {
            let cookies = head.get("cookie").and_then(|field| std::str::from_utf8(field).ok())?;
            let mut pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(known, _)| known == name).map(|(_, value)| value.as_bytes().to_vec())
        }
        By::Caller => {
            let address = || exchange.accepted.client.map(|address| network(address).to_string());
            caller(exchange).or_else(address).map(String::into_bytes)
        }
    }
}

/// The caller, unless it is anonymous.
fn caller(exchange: &Exchange) -> Option<String> {
    let known = exchange.caller.as_ref();
    known
        .filter(|caller| caller.id != exchange.plan.anonymous.id)
        .map(|caller| caller.id.to_string())
}

/// Whether a backend can serve the request, by its declared abilities.
fn fits(
    exchange: &Exchange,
    backend: &Backend,
    pool: &PlannedPool,
    shows_images: impl Fn() -> bool,
) -> bool {
    let Some(facts) = &exchange.inspected.facts else { return true };
    let model = facts.model.as_deref().unwrap_or_default();
    let knows = pool.model.is_some()
        || backend.models.is_empty()
        || backend.models.iter().any(|known| known == model);
    // The estimate may be too high by half; a backend is skipped only if the prompt is far too long
    // for it.
    let prompt =
        if exchange.prompt_counted { exchange.expected.input } else { exchange.expected.input / 2 };
    let tokens = prompt.saturating_add(facts.max_tokens.unwrap_or(0));
    let holds = backend.context_length == 0 || tokens <= backend.context_length;
    let can = backend.unsupported.iter().all(|ability| match ability {
        Ability::Tools => facts.tools == 0,
        Ability::Embeddings => exchange.accepted.dialect.is_none_or(Dialect::generates),
        Ability::Vision => !shows_images(),
    });
    knows && holds && can
}

/// Whether a body has image parts, in any of the APIs.
fn shows_images(body: &[u8]) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(body, word).is_some();
    // Most APIs mark an image part by its `type`; Ollama has a list, `images`. The same names in a
    // schema or in text do not count.
    let is_kind = || {
        memchr::memmem::find_iter(body, b"\"image\"")
            .any(|at| body.get(..at).is_some_and(ends_in_type))
    };
    let is_list = || {
        memchr::memmem::find_iter(body, b"\"images\"")
            .any(|at| body.get(at + 8..).is_some_and(begins_a_list))
    };
    has(b"\"image_url\"") || has(b"\"input_image\"") || is_list() || is_kind()
}

fn begins_a_list(rest: &[u8]) -> bool {
    rest.trim_ascii_start()
        .strip_prefix(b":")
        .is_some_and(|rest| rest.trim_ascii_start().starts_with(b"["))
}

/// Whether the value after `before` is that of a member `type`.
fn ends_in_type(before: &[u8]) -> bool {
    before
        .trim_ascii_end()
        .strip_suffix(b":")
        .is_some_and(|before| before.trim_ascii_end().ends_with(b"\"type\""))
}

#[cfg(test)]
mod tests {
    use super::shows_images;

    #[test]
    fn image_parts_are_found_and_schema_names_are_not() {
        for body in [
            r#"{"content":[{"type":"image_url","image_url":{"url":"x"}}]}"#,
            r#"{"content":[{"type":"input_image","file_id":"x"}]}"#,
            r#"{"content":[{"type" : "image","source":{}}]}"#,
            r#"{"messages":[{"role":"user","content":"x","images":["aGk="]}]}"#,
        ] {
            assert!(shows_images(body.as_bytes()), "{body}");
        }
        for body in [
            r#"{"properties":{"image":{"type":"string"},"images":{"type":"array"}}}"#,
            r#"{"content":"an \"image\" of"}"#,
            "{}",
        ] {
            assert!(!shows_images(body.as_bytes()), "{body}");
        }
    }
}
