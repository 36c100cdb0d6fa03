//! The connection to the store of limits that gateways share.
//!
//! - *In*: slices that requests need, debts of running streams, idle slices.
//! - *Out*: units, or the time until some are available; an error while the store is unreachable.
//! - *Never*: a call to a store that is known to be unreachable. A background task connects;
//!   requests only wait for its first attempt, so that a new gateway does not take a store that it
//!   has not tried for unreachable.
//!
//! `traffic::store` defines the calls to the store.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use config::settings::StoreSettings;
use futures_util::StreamExt;
use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use traffic::store::{Call, Granted, Script};
use traffic::{LeaseRequest, SharedLimitTask};

use crate::failure_log::{self, Permission};

/// Maximum concurrent store tasks.
const AT_A_TIME: usize = 128;

/// Name of the store in the log limits, which backends have as well.
static STORE: LazyLock<Arc<str>> = LazyLock::new(|| "store.url".into());

/// Minimum time that the store has to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// Maximum time until the background task first tries to connect.
const BEGIN: Duration = Duration::from_secs(1);

static SCRIPTS: LazyLock<[redis::Script; Script::ALL.len()]> =
    LazyLock::new(|| Script::ALL.map(|script| redis::Script::new(script.source())));

/// Name of this gateway in the store.
static NAME: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().to_string());

/// The store is unreachable, or refused the call.
#[derive(Debug)]
pub struct StoreUnavailable;

/// A store and the connection to it.
pub struct Store {
    /// Its address, and the fallback while it is unreachable.
    pub settings: StoreSettings,
    connection: ArcSwapOption<MultiplexedConnection>,
    /// Whether the first attempt to connect has ended.
    attempted: watch::Sender<bool>,
    /// Calls that the store answered.
    pub answered: AtomicU64,
    /// Calls that it did not answer.
    pub failed: AtomicU64,
    /// Requests that were decided without it.
    pub without: AtomicU64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("settings", &self.settings)
            .field("is_connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A store without a connection.
    pub fn new(settings: StoreSettings) -> Self {
        let [answered, failed, without] = [const { AtomicU64::new(0) }; 3];
        let (connection, attempted) = (ArcSwapOption::empty(), watch::Sender::new(false));
        Store { settings, connection, attempted, answered, failed, without }
    }

    /// Whether the store is connected.
    pub fn is_connected(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Lease a slice.
    pub async fn lease(&self, wanted: &LeaseRequest) -> Result<Granted, StoreUnavailable> {
        let answer: Result<(u64, i64), StoreUnavailable> =
            self.run(wanted.take(&NAME), wanted).await;
        answer.map(Granted::from)
    }

    /// Run a script. If the answer is lost, it is unknown how many concurrent streams the store
    /// counts for this gateway.
    async fn run<T: FromRedisValue>(
        &self,
        call: Call<'_>,
        wanted: &LeaseRequest,
    ) -> Result<T, StoreUnavailable> {
        let Some(script) = SCRIPTS.get(call.script as usize) else { return Err(StoreUnavailable) };
        let mut invocation = script.key(call.key);
        for arg in &call.args {
            invocation.arg(arg);
        }
        let mut connection = self.connection().await?;
        let answer = self.ask(invocation.invoke_async(&mut connection)).await;
        if answer.is_err() && call.script == Script::Concurrent {
            wanted.lost();
        }
        answer
    }

    async fn connection(&self) -> Result<MultiplexedConnection, StoreUnavailable> {
        if !*self.attempted.borrow() {
            let mut attempted = self.attempted.subscribe();
            let first = attempted.wait_for(|attempted| *attempted);
            // The background task may be gone at shutdown.
            let _ = tokio::time::timeout(self.connect_timeout() + BEGIN, first).await;
        }
        self.connection
            .load()
            .as_ref()
            .map(|connection| (**connection).clone())
            .ok_or(StoreUnavailable)
    }

    async fn ask<T>(
        &self,
        question: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, StoreUnavailable> {
        let answer = tokio::time::timeout(self.settings.timeout, question).await;
        let why = match answer {
            Ok(Ok(answer)) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return Ok(answer);
            }
            // The store is reachable, but refused the call.
            Ok(Err(error)) if !error.is_io_error() && !error.is_unrecoverable_error() => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                if let Some(Permission { suppressed }) = failure_log::admit(&STORE, "refused") {
                    let on_failure = self.settings.on_failure;
                    tracing::error!(%error, ?on_failure, suppressed, "redis refused a call");
                }
                return Err(StoreUnavailable);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "timed out".to_owned(),
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        if self.connection.swap(None).is_some() {
            self.log_unreachable(&why);
        }
        Err(StoreUnavailable)
    }

    fn log_unreachable(&self, error: &str) {
        if let Some(Permission { suppressed }) = failure_log::admit(&STORE, "unreachable") {
            let on_failure = self.settings.on_failure;
            tracing::error!(error, ?on_failure, suppressed, "redis unreachable");
        }
    }

    /// Run store tasks concurrently: there may be one for each key.
    pub async fn run_tasks(&self, store_tasks: Vec<SharedLimitTask>) {
        let attend = async |chore: SharedLimitTask| {
            let units = match &chore {
                SharedLimitTask::Owe(wanted) => match self.lease(wanted).await {
                    Ok(Granted::Units(units)) => Some(units),
                    Ok(Granted::None(_)) => Some(0),
                    Err(StoreUnavailable) => None,
                },
                SharedLimitTask::Return(wanted) => {
                    self.run::<redis::Value>(wanted.give(&NAME), wanted).await.ok().map(|_| 0)
                }
                SharedLimitTask::Live(wanted) => {
                    let call = wanted.keep_alive(&NAME);
                    let certain = call.certain;
                    self.run::<redis::Value>(call, wanted).await.ok().map(|_| u64::from(certain))
                }
            };
            chore.done(units);
        };
        futures_util::stream::iter(store_tasks).for_each_concurrent(AT_A_TIME, attend).await;
    }

    fn connect_timeout(&self) -> Duration {
        self.settings.timeout.max(CONNECT)
    }

    /// Connect, if the store can be reached.
    pub async fn connect(&self) {
        self.try_connect().await;
        self.attempted.send_replace(true);
    }

    async fn try_connect(&self) {
        // The URL is a secret, and the error of an invalid one contains it.
        let Ok(client) = redis::Client::open(self.settings.url.reveal()) else {
            return self.connect_failed("store.url is not a redis URL");
        };
        let connection = client.get_multiplexed_async_connection();
        match tokio::time::timeout(self.connect_timeout(), connection).await {
            Ok(Ok(connection)) => {
                tracing::info!("redis connected");
                self.connection.store(Some(Arc::new(connection)));
            }
            Ok(Err(error)) => self.connect_failed(error.category()),
            Err(_) => self.connect_failed("timed out"),
        }
    }

    /// Only the first attempt of a gateway is an error in the log: the loss of a connection has
    /// been one, and attempts are repeated several times a second.
    fn connect_failed(&self, error: &str) {
        if *self.attempted.borrow() {
            tracing::debug!(error, "redis connection failed");
        } else {
            self.log_unreachable(error);
        }
    }
}
