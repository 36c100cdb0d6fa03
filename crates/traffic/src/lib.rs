//! Authentication, rate limits, admission, usage and prices.
//!
//! - *In*: credentials, estimates and actual use of requests, two clocks.
//! - *Out*: a [`Caller`]; a [`Charge`], or a [`Limited`] with the limit and the time to wait; an
//!   admission permit, or the reason why not.
//! - *Never*: a connection, except to a key database; state that grows with unauthenticated input;
//!   an unsettled charge.
//!
//! `docs/rate-limits.md` is the page for operators, ADR 0007 explains the design.

mod account;
mod admission_queue;
mod caller;
mod charge;
#[cfg(feature = "jwt")]
pub mod jwks;
pub mod keys;
mod lease;
mod limits;
mod network;
mod pattern;
mod prices;
pub mod settings;
pub mod store;
mod sync;
mod token_cache;
mod usage;

pub use account::Now;
pub use admission_queue::{
    AdmissionQueue, Permit, QueueCounts, QueueRequest, Served, Shed, ShedReason, Waiting,
};
pub use caller::{Caller, Identity, credential};
pub use charge::{Charge, Exhausted, Left};
pub use keys::{KeyHasher, Keys};
pub use lease::{LeaseRequest, SharedLimitTask, StoreFallback};
pub use limits::{Denied, LimitCounts, LimitLevel, LimitRequest, Limited, RateLimits};
pub use network::network;
pub use pattern::Pattern;
pub use prices::TokenUsage;
pub use token_cache::{Expired, TokenCache};
pub use usage::{GroupBy, Totals, UsageJournal, UsageRow, UsageSums};
