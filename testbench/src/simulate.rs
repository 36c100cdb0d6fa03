//! A simulated engine: the OpenAI API, at realistic speed.
//!
//! - *In*: a [`Profile`]: speed of prefill and decoding, jitter, and stalls.
//! - *Out*: `/v1/chat/completions` (streamed and not), `/v1/completions`, `/v1/models`, `/health`
//!   on an address.
//! - *Never*: meaningful text. Output token counts are exact by construction: one word is one
//!   token.

mod answer;
mod profile;

pub use profile::Profile;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Maximum bytes of a request body.
const MAX_BODY: usize = 64 << 20;
/// Maximum concurrent connections.
const MAX_CONNECTIONS: usize = 8192;

type Body = BoxBody<Bytes, Infallible>;

/// An engine that listens.
pub struct Engine {
    listener: TcpListener,
    profile: Profile,
}

struct EngineState {
    profile: Profile,
    /// Limits concurrent requests; further ones queue, as in an engine.
    slots: Semaphore,
    number: AtomicU64,
}

impl Engine {
    /// Listen.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr, profile: Profile) -> std::io::Result<Self> {
        Ok(Engine { listener: TcpListener::bind(address).await?, profile })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The I/O error.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serve until dropped.
    pub async fn serve(self) {
        let slots = Semaphore::new(self.profile.slots);
        let state =
            Arc::new(EngineState { profile: self.profile, slots, number: AtomicU64::new(0) });
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((socket, _)) = self.listener.accept().await else { continue };
            let _ = socket.set_nodelay(true);
            let state = state.clone();
            connections.spawn(async move {
                let service = service_fn(|request| answer(state.clone(), request));
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

async fn answer(
    state: Arc<EngineState>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    Ok(match (request.method(), path.as_str()) {
        (&Method::GET, "/health") => json(StatusCode::OK, "{}".into()),
        (&Method::GET, "/v1/models") => json(
            StatusCode::OK,
            format!(
                "{{\"object\":\"list\",\"data\":[{{\"id\":\"{}\",\"object\":\"model\",\"owned_by\":\"llm-lens\"}}]}}",
                state.profile.model
            ),
        ),
        (&Method::POST, "/v1/chat/completions" | "/v1/completions") => {
            let chat = path.ends_with("/chat/completions");
            match Limited::new(request.into_body(), MAX_BODY).collect().await {
                Ok(body) => answer::generate(state, chat, &body.to_bytes()),
                Err(_) => {
                    error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or incomplete")
                }
            }
        }
        _ => error(StatusCode::NOT_FOUND, "not found"),
    })
}

fn json(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    json(
        status,
        serde_json::json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": status.as_u16()}})
            .to_string(),
    )
}

impl EngineState {
    fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }
}
