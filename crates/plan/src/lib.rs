//! Settings prepared for requests: pools, guardrails, key sets, shared limits and limits of client
//! addresses, with what they use of the process.
//!
//! - *In*: `config::Settings`, and the plan before it.
//! - *Out*: a [`Plan`], which the pipeline reads without lookups by name; [`host`], which filters
//!   use.
//! - *Never*: a request. `pipeline` has the stages.
//!
//! Modules are listed in layers, lowest first; each uses only those above it.
//! `tests/architecture.rs` enforces that.

pub mod audit;
pub mod clock;

pub mod client_certificate;
pub mod client_limits;
pub mod current_request;
pub mod failure_log;

pub mod host;
#[cfg_attr(not(feature = "jwt"), path = "jwks/off.rs")]
mod jwks;
#[cfg_attr(not(feature = "redis"), path = "shared_limits/off.rs")]
pub mod shared_limits;

pub mod forwarded;
pub mod models;
mod observe;
pub mod origin;
mod plan;
pub use plan::{
    BuildError, HedgeCounters, MetricGroup, Mirror, MirrorSlot, Plan, PlannedPool, PlannedRoute,
    RouteCounters, Target, Tools, check, check_without_files,
};
