//! Routing decisions: which backend serves a request, and what happens after a failure.
//!
//! - *In*: results and load of backends, the needs of a request, the time.
//! - *Out*: a backend and the reason; whether to retry or to hedge.
//! - *Never*: a socket, a clock of its own, a lock that selection waits for. The same seed, time
//!   and results give the same selections.
//!
//! `docs/routing.md` is the page for operators, ADR 0008 explains the design.

pub mod settings;

mod random;
mod window;

pub mod member;
pub use member::{Attempt, AttemptResult, Member};
mod ewma;
pub mod health;
mod sync;
mod tail;

pub mod engine_metrics;
pub use engine_metrics::EngineMetrics;

pub mod pool;
pub use pool::{BalanceRequest, Pool, Reason, Selection};
mod balance;
pub use balance::prefix::blocks;

pub mod budget;
pub use budget::Budget;
pub mod predict;
pub use predict::{AnswerTimes, Load, MedianErrors, Predicted, Predictor, RequestSize};
pub mod offload;
pub use offload::{Offload, Offloaded, RequestTraits, TierOffer};
pub mod release;
pub use release::{Reference, Release, Rollback, RouteHistory, Version, VersionResult};
