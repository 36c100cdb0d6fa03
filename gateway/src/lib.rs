//! The proxy: listeners, the admin listener, background tasks. The crate `pipeline` processes
//! requests.
//!
//! Modules stand here in layers, lowest first; each uses only those above it in this list.
//! `tests/architecture.rs` holds that.

mod tls;

mod listeners;

mod admin;

mod background;

mod server;
pub use plan::current_request;
pub use plan::{BuildError, check};
pub use server::{Gateway, Options, StartError};
