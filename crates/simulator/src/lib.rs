//! A simulated engine: the OpenAI API, at realistic speed, with its truth.
//!
//! - *In*: a [`Profile`]: speeds, limits, and how requests fail.
//! - *Out*: `/v1/chat/completions` and `/v1/completions` (streamed and not), `/v1/models`,
//!   `/health`, `/metrics` with vLLM's names, and what really happened: `/truth`,
//!   `/truth/summary`, [`Truth`].
//! - *Never*: meaningful text. Output token counts are exact by construction: one word is one
//!   token.

mod answer;
mod connection;
mod fault;
mod metrics;
pub mod model;
mod pace;
mod profile;
mod text;
pub mod truth;
pub mod verify;

pub use fault::Fault;
pub use profile::Profile;
pub use truth::Truth;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use answer::Next;
use connection::{Connection, Request, Stamp};
use metrics::Metrics;
use pace::{Pace, micros};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use truth::{MAX_PAGE, Row};

/// Maximum concurrent connections.
const MAX_CONNECTIONS: usize = 16_384;

/// An engine that listens.
pub struct Engine {
    listener: TcpListener,
    state: Arc<EngineState>,
}

/// The truth of an engine that may still run.
#[derive(Clone)]
pub struct TruthHandle(Arc<EngineState>);

impl TruthHandle {
    /// Reads the truth.
    pub fn read<T>(&self, read: impl FnOnce(&Truth) -> T) -> T {
        read(&self.0.book().truth)
    }

    /// All distributions.
    pub fn summary(&self) -> Value {
        let timer_late = self.0.pace.timer_late();
        self.0.book().truth.summary(&timer_late)
    }

    /// Whether the truth has all requests that were received.
    pub fn is_complete(&self) -> bool {
        self.0.number.load(Ordering::Relaxed) == self.read(|truth| truth.totals().requests)
    }
}

struct EngineState {
    profile: Profile,
    pace: Pace,
    started: Instant,
    number: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    truth: Truth,
    metrics: Metrics,
}

impl Engine {
    /// Listen.
    ///
    /// # Errors
    /// When the profile is invalid, or the address cannot be listened on.
    pub async fn bind(address: SocketAddr, profile: Profile) -> std::io::Result<Self> {
        let invalid = |problem| std::io::Error::new(ErrorKind::InvalidInput, problem);
        profile.validate().map_err(invalid)?;
        let listener = TcpListener::bind(address).await?;
        let pace = Pace::start(profile.clone())?;
        let started = Instant::now() - pace.now();
        let (number, book) = (AtomicU64::new(0), Mutex::default());
        let state = Arc::new(EngineState { profile, pace, started, number, book });
        Ok(Engine { listener, state })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The I/O error.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Its truth.
    pub fn truth(&self) -> TruthHandle {
        TruthHandle(self.state.clone())
    }

    /// Serve until dropped.
    pub async fn serve(self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((socket, _)) = self.listener.accept().await else {
                // No descriptor is free; the connection waits in the kernel.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let state = self.state.clone();
            connections.spawn(async move {
                serve_connection(&state, socket).await;
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

async fn serve_connection(engine: &EngineState, socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let mut connection = Connection::new(socket);
    loop {
        let request = match connection.request().await {
            Ok(Some(request)) => request,
            Err(e) if e.kind() == ErrorKind::InvalidData => {
                let body = text::error(400, &e.to_string());
                let answer = text::whole(400, JSON, &body, body.len());
                let _ = connection.give(answer.as_bytes()).await;
                return;
            }
            Ok(None) | Err(_) => return,
        };
        let path = request.target.split('?').next().unwrap_or_default();
        let next = match (request.method.as_str(), path) {
            ("POST", "/v1/chat/completions") => {
                answer::generate(engine, &mut connection, &request, true).await
            }
            ("POST", "/v1/completions") => {
                answer::generate(engine, &mut connection, &request, false).await
            }
            _ => {
                let (status, kind, body) = page(engine, &request, path);
                let answer = text::whole(status, kind, &body, body.len());
                match connection.give(answer.as_bytes()).await {
                    Ok(_) => Next::Keep,
                    Err(_) => Next::Close,
                }
            }
        };
        match next {
            Next::Keep if request.keeps_alive => {}
            Next::Keep | Next::Close => return,
            Next::Reset => return connection.reset(),
        }
    }
}

const JSON: &str = "application/json";

/// Pages beside the answers: status, content type and body.
fn page(engine: &EngineState, request: &Request, path: &str) -> (u16, &'static str, String) {
    let model = &engine.profile.model;
    match (request.method.as_str(), path) {
        ("GET", "/health") => (200, JSON, "{}".into()),
        ("GET", "/v1/models") => (200, JSON, text::models(model)),
        ("GET", "/metrics") => {
            let load = engine.pace.load();
            let book = engine.book();
            let page = book.metrics.page(model, load, book.truth.totals());
            (200, "text/plain; version=0.0.4; charset=utf-8", page)
        }
        ("GET", "/truth") => match truth_page(engine, &request.target) {
            Ok(page) => (200, JSON, page),
            Err(problem) => (400, JSON, text::error(400, &problem)),
        },
        ("GET", "/truth/summary") => {
            let timer_late = engine.pace.timer_late();
            (200, JSON, engine.book().truth.summary(&timer_late).to_string())
        }
        _ => (404, JSON, text::error(404, "not found")),
    }
}

/// `?from=N&limit=N`.
fn truth_page(engine: &EngineState, target: &str) -> Result<String, String> {
    let (mut from, mut limit) = (0, MAX_PAGE);
    let query = target.split_once('?').map_or("", |(_, query)| query);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = value.parse::<u64>().map_err(|_| format!("{name} must be a number"))?;
        match name {
            "from" => from = number,
            "limit" if (1..=MAX_PAGE as u64).contains(&number) => limit = number as usize,
            "limit" => return Err(format!("limit must be from 1 to {MAX_PAGE}")),
            _ => return Err(format!("{name:?} is not known; use from and limit")),
        }
    }
    let book = engine.book();
    let (rows, next) = book.truth.page(from, limit);
    Ok(json!({"rows": rows, "next": next, "dropped": book.truth.dropped()}).to_string())
}

impl EngineState {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn started(&self) -> Instant {
        self.started
    }

    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds the truth of a request that ended.
    fn add(&self, row: Row) {
        let mut book = self.book();
        if row.end == truth::End::Complete {
            book.metrics.count(&row);
        }
        book.truth.add(row);
    }

    fn wrote(&self, stamp: Stamp, behind: Duration) {
        self.book().truth.wrote(micros(stamp.took), micros(behind));
    }
}
