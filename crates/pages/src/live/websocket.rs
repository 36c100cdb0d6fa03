//! The live stream over a WebSocket, for clients that have no parser of server-sent events.
//!
//! - *In*: blocks of events, one in each line.
//! - *Out*: an event in each message; pings, so that proxies keep the connection; a close frame
//!   with the reason when the gateway drains or the session ends.
//! - *Never*: a command: a client that sends a message is closed. A page of another origin, which
//!   browsers would let read the stream.

use std::pin::pin;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
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
    if admin_auth::is_cross_site(headers, None) {
        let message = "a page of another origin cannot watch this gateway".to_owned();
        return Err(ApiError::forbidden(message));
    }
    let message = |why| format!("this is no WebSocket handshake: {why}");
    upgrade.map(Some).map_err(|why| ApiError::bad("", message(why)))
}

/// Answer with the stream. `is_draining` decides why it ended.
pub(super) fn answer(
    upgrade: WebSocketUpgrade,
    blocks: impl Stream<Item = String> + Send + 'static,
    is_draining: impl Fn() -> bool + Send + 'static,
) -> Response {
    let failed = |error| tracing::debug!(%error, "a watcher's WebSocket was not opened");
    upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .on_failed_upgrade(failed)
        .on_upgrade(async move |socket| {
            if let Err(error) = serve(socket, blocks, is_draining).await {
                tracing::debug!(%error, "a watcher's WebSocket failed");
            }
        })
}

/// Send the events until the gateway drains, the session ends or the client leaves.
async fn serve(
    socket: WebSocket,
    blocks: impl Stream<Item = String>,
    is_draining: impl Fn() -> bool,
) -> Result<(), axum::Error> {
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
                None => {
                    let why = if is_draining() { "the gateway drains" } else { "the session has ended" };
                    return close(to_client, close_code::AWAY, why).await;
                }
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
