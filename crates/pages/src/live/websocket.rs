//! The live stream over a WebSocket, for clients that have no parser of server-sent events.
//!
//! - *In*: blocks of events, one in each line.
//! - *Out*: an event in each message; pings, so that proxies keep the connection; a close frame
//!   with the reason when the gateway drains.
//! - *Never*: a command: a client that sends a message is closed. A page of another origin, which
//!   browsers would let read the stream.

use std::pin::pin;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::uri::Uri;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, Stream, StreamExt};

use crate::params::ApiError;

/// Interval of pings. Their answers are progress, so a quiet connection stays open.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum message of a client, which sends none but control frames.
const MAX_MESSAGE: usize = 1024;

/// The upgrade, if the client requests one.
pub(super) fn requested(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: &HeaderMap,
) -> Result<Option<WebSocketUpgrade>, ApiError> {
    let wanted = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if !wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case("websocket")) {
        return Ok(None);
    }
    if !is_same_origin(headers) {
        let message = "a page of another origin cannot watch this gateway".to_owned();
        return Err(ApiError::forbidden(message));
    }
    let message = |why| format!("this is no WebSocket handshake: {why}");
    upgrade.map(Some).map_err(|why| ApiError::bad("", message(why)))
}

/// Whether the request comes from no page, or from one that this listener has served.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match (origin.as_ref().and_then(Uri::authority), host) {
        (Some(origin), Some(host)) => origin.as_str().eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// Answer with the stream.
pub(super) fn answer(
    upgrade: WebSocketUpgrade,
    blocks: impl Stream<Item = String> + Send + 'static,
) -> Response {
    let failed = |error| tracing::debug!(%error, "a watcher's WebSocket was not opened");
    upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .on_failed_upgrade(failed)
        .on_upgrade(async |socket| {
            if let Err(error) = serve(socket, blocks).await {
                tracing::debug!(%error, "a watcher's WebSocket failed");
            }
        })
}

/// Send the events until the gateway drains or the client leaves.
async fn serve(socket: WebSocket, blocks: impl Stream<Item = String>) -> Result<(), axum::Error> {
    let (mut to_client, mut from_client) = socket.split();
    let mut blocks = pin!(blocks);
    let mut ping = tokio::time::interval(PING_INTERVAL);
    loop {
        tokio::select! {
            block = blocks.next() => match block {
                Some(block) => {
                    for line in block.lines() {
                        to_client.feed(Message::text(line)).await?;
                    }
                    to_client.flush().await?;
                }
                None => return close(to_client, close_code::AWAY, "the gateway drains").await,
            },
            message = from_client.next() => match message.transpose()? {
                None | Some(Message::Close(_)) => return Ok(()),
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(Message::Text(_) | Message::Binary(_)) => {
                    let why = "this stream takes no messages";
                    return close(to_client, close_code::UNSUPPORTED, why).await;
                }
            },
            _ = ping.tick() => to_client.send(Message::Ping(Vec::new().into())).await?,
        }
    }
}

async fn close(
    mut to_client: SplitSink<WebSocket, Message>,
    code: u16,
    reason: &str,
) -> Result<(), axum::Error> {
    to_client.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn pages_of_other_origins_are_refused() {
        for (origin, host, is_same) in [
            (None, "127.0.0.1:9090", true),
            (Some("http://127.0.0.1:9090"), "127.0.0.1:9090", true),
            (Some("http://Localhost:9090"), "localhost:9090", true),
            (Some("http://localhost:3000"), "localhost:9090", false),
            (Some("https://evil.example"), "127.0.0.1:9090", false),
            (Some("null"), "127.0.0.1:9090", false),
            (Some(""), "127.0.0.1:9090", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(is_same_origin(&headers), is_same, "{origin:?} {host}");
        }
    }
}
