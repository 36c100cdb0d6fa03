//! Background tasks: health checks, discovery, reload, key sets, shared limits, the usage file.
//!
//! - *In*: the plan in force.
//! - *Out*: the next plan, health, keys; files.
//! - *Never*: a request that waits for any of it; a file touched on the thread that health checks
//!   run on.

pub(crate) mod discovery;
pub(crate) mod health_checks;
pub(crate) mod jwks;
pub(crate) mod reload;
pub(crate) mod shared_limits;
pub(crate) mod usage_file;
