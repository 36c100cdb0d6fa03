//! The proxy: listeners, the admin listener, background tasks. The crate `pipeline` processes
//! requests.
//!
//! Modules are listed in layers, lowest first; each uses only those above it.
//! `tests/architecture.rs` enforces that.

mod reachable;
mod record_files;
#[cfg(feature = "sqlite")]
mod record_store;
#[cfg(not(feature = "sqlite"))]
#[path = "record_store/off.rs"]
mod record_store;
mod tls;

mod check;
pub use check::{Checked, check};

mod telemetry;

mod listeners;

mod admin;

mod background;

mod server;
pub use observatory::DROPPED_LOG_LINES;
pub use plan::BuildError;
pub use plan::current_request;
pub use process::signals::{hold as hold_signals, release as release_signals};
pub use server::{Gateway, Options, StartError};
