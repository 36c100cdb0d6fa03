//! The proxy: listeners, the pipeline of a request, and what runs beside it.
//!
//! Modules stand here in layers, lowest first; each uses only those above it in this list. `tests/architecture.rs` holds that.

mod clock;

mod client_limits;
mod respond;
mod tls;

mod host;
#[cfg_attr(not(feature = "jwt"), path = "jwks/off.rs")]
mod jwks;
#[cfg_attr(not(feature = "redis"), path = "shared_limits/off.rs")]
mod shared_limits;

mod audit;
mod plan;
pub use plan::{BuildError, check};

mod shared;

mod exchange;

mod stage;

mod pipeline;

mod listeners;

mod admin;

mod background;

mod server;
pub use server::{Gateway, Options, StartError};
