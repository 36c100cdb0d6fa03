//! The request pipeline: from an accepted head to a settled record, by the stages that [`pipeline`]
//! lists.
//!
//! - *In*: heads and bodies from the gateway's listeners; the settings, as a [`plan::Plan`].
//! - *Out*: answers, written to a `transport::Sink`; records for the observatory.
//! - *Never*: pingora. The gateway accepts connections, so every stage can be tested without a
//!   socket.
//!
//! Modules are listed in layers, lowest first; each uses only those above it.
//! `tests/architecture.rs` enforces that.

pub mod shared;

pub mod exchange;

pub mod stage;

mod pipeline;
pub use pipeline::{ExchangeGuard, Incoming, admit_unread, refuse, serve, with_timeout};
