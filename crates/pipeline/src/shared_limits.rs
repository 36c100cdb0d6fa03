//! The store of limits that gateways share: Redis, Valkey, or what speaks like them.
//!
//! - *In*: slices that requests want, debts of running streams, slices that lie idle.
//! - *Out*: units, or how long until there are some; or nothing, when the store is away.
//! - *Never*: a question to a store that is known to be away. One task connects, everybody else only uses the connection that is there.
//!
//! The store has the time, so that gateways need not agree on theirs. A rate is the same GCRA as in `filters`, in microseconds; a calendar's
//! window is a count under a name with the window's end; places are a count for each gateway. Each decision is one script, and so atomic.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use config::settings::StoreSettings;
use futures_util::StreamExt;
use redis::Script;
use redis::aio::MultiplexedConnection;
use traffic::settings::Every;
use traffic::{Chore, Wanted};

/// Chores that are asked about at a time.
const AT_A_TIME: usize = 128;
/// A key lives on for so long after nothing is owed, milliseconds.
const SPARE: u64 = 1000;
/// A gateway that is not heard of for so long has crashed, milliseconds: the places it had are free.
const LIVES: u64 = 10_000;

static TAKE_RATE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared_limits/take_rate.lua")));
static GIVE_RATE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared_limits/give_rate.lua")));
static TAKE_COUNT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared_limits/take_count.lua")));
static GIVE_COUNT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared_limits/give_count.lua")));
static PLACES: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared_limits/places.lua")));

/// The name of this process among the gateways that share places.
static NAME: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().to_string());

/// The store does not answer.
#[derive(Debug)]
pub struct StoreAway;

/// What the store says to a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leased {
    /// So many units.
    Granted(u64),
    /// Not now; after that time, if ever.
    Not(Option<Duration>),
}

/// A store and the connection to it.
pub struct Store {
    pub settings: StoreSettings,
    connection: ArcSwapOption<MultiplexedConnection>,
    /// Questions that it answered, that it did not, and requests that were decided without it.
    pub answered: AtomicU64,
    pub failed: AtomicU64,
    pub without: AtomicU64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("settings", &self.settings).field("is_there", &self.is_there()).finish_non_exhaustive()
    }
}

impl Store {
    pub fn new(settings: StoreSettings) -> Self {
        let counts = [const { AtomicU64::new(0) }; 3];
        let [answered, failed, without] = counts;
        Store { settings, connection: ArcSwapOption::empty(), answered, failed, without }
    }

    /// Whether there is a connection.
    pub fn is_there(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Ask for a slice.
    pub async fn lease(&self, wanted: &Wanted) -> Result<Leased, StoreAway> {
        let (need, want) = (wanted.need, wanted.want);
        let (granted, wait): (u64, i64) = match wanted.quota.every {
            Every::Rolling(period) => {
                let mut call = TAKE_RATE.key(&wanted.key);
                call.arg(wanted.quota.amount).arg(period.as_micros() as u64).arg(wanted.quota.burst).arg(need).arg(want).arg(SPARE);
                self.ask(call.invoke_async(&mut self.connection()?)).await?
            }
            Every::Day | Every::Month => {
                let mut call = TAKE_COUNT.key(&wanted.key);
                call.arg(wanted.quota.amount).arg(end_of(&wanted.key)).arg(need).arg(want);
                self.ask(call.invoke_async(&mut self.connection()?)).await?
            }
            Every::AtATime => self.places(wanted, (need, want), 0).await.map(|(granted, wait, _)| (granted, wait))?,
        };
        Ok(match granted {
            0 => Leased::Not(u64::try_from(wait).ok().map(Duration::from_micros)),
            granted => Leased::Granted(granted),
        })
    }

    /// Give a slice back.
    async fn give(&self, wanted: &Wanted) -> Result<(), StoreAway> {
        let mut call = match wanted.quota.every {
            Every::Rolling(period) => {
                let mut call = GIVE_RATE.key(&wanted.key);
                call.arg(wanted.quota.amount).arg(period.as_micros() as u64);
                call
            }
            Every::Day | Every::Month => GIVE_COUNT.key(&wanted.key),
            Every::AtATime => return self.places(wanted, (0, 0), wanted.want).await.map(|_| ()),
        };
        call.arg(wanted.want).arg(SPARE);
        self.ask(call.invoke_async::<i64>(&mut self.connection()?)).await.map(|_| ())
    }

    /// Take `need` to `want` places, give some back, or only say that this gateway lives: then the answer ends with whether it was certain of what it has.
    async fn places(&self, wanted: &Wanted, (need, want): (u64, u64), back: u64) -> Result<(u64, i64, bool), StoreAway> {
        let mut call = PLACES.key(&wanted.key);
        let (leased, alone) = wanted.leased();
        // Only who asks for nothing and gives nothing is certain of what it has.
        let certain = alone && want == 0 && back == 0;
        call.arg(&*NAME).arg(LIVES).arg(wanted.quota.amount).arg(leased).arg(need).arg(want).arg(back).arg(u8::from(certain));
        let mut connection = self.connection()?;
        let answer: Result<(u64, i64), StoreAway> = self.ask(call.invoke_async(&mut connection)).await;
        answer.map(|(granted, wait)| (granted, wait, certain)).inspect_err(|StoreAway| wanted.lost())
    }

    fn connection(&self) -> Result<MultiplexedConnection, StoreAway> {
        self.connection.load().as_ref().map(|connection| (**connection).clone()).ok_or(StoreAway)
    }

    async fn ask<T>(&self, question: impl Future<Output = redis::RedisResult<T>>) -> Result<T, StoreAway> {
        let answer = tokio::time::timeout(self.settings.timeout, question).await;
        let why = match answer {
            Ok(Ok(answer)) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return Ok(answer);
            }
            // It is there, and cannot do that.
            Ok(Err(error)) if !error.is_io_error() && !error.is_unrecoverable_error() => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                log::error!("the store of shared limits refused a question: {error}");
                return Err(StoreAway);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        if self.connection.swap(None).is_some() {
            log::error!("the store of shared limits is away ({why}); limits go by {:?} until it is back", self.settings.on_failure);
        }
        Err(StoreAway)
    }

    /// Several at a time: there may be one for each key.
    pub async fn attend_to(&self, chores: Vec<Chore>) {
        let attend = async |chore: Chore| {
            let units = match &chore {
                Chore::Owe(wanted) => match self.lease(wanted).await {
                    Ok(Leased::Granted(units)) => Some(units),
                    Ok(Leased::Not(_)) => Some(0),
                    Err(StoreAway) => None,
                },
                Chore::Return(wanted) => self.give(wanted).await.ok().map(|()| 0),
                Chore::Live(wanted) => self.places(wanted, (0, 0), 0).await.ok().map(|(.., certain)| u64::from(certain)),
            };
            chore.done(units);
        };
        futures_util::stream::iter(chores).for_each_concurrent(AT_A_TIME, attend).await;
    }

    /// Connect, if the store can be reached.
    pub async fn connect(&self) {
        // The address is a secret, and the error of a wrong one repeats it.
        let Ok(client) = redis::Client::open(self.settings.url.reveal()) else { return log::error!("the store's url is none") };
        let connected =
            tokio::time::timeout(self.settings.timeout.max(Duration::from_secs(1)), client.get_multiplexed_async_connection()).await;
        match connected {
            Ok(Ok(connection)) => {
                log::info!("the store of shared limits is there");
                self.connection.store(Some(Arc::new(connection)));
            }
            Ok(Err(error)) => log::debug!("store: {}", error.category()),
            Err(_) => log::debug!("store: connecting took too long"),
        }
    }
}

/// The end of a window, which its name has, in Unix seconds.
fn end_of(key: &str) -> u64 {
    key.rsplit(':').next().and_then(|end| end.parse().ok()).unwrap_or(u64::from(u32::MAX))
}
