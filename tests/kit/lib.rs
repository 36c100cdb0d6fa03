//! The test kit: scripted engines, raw clients, and the real gateway binary between them.
//!
//! - *In*: scripts.
//! - *Out*: what was received, with times.
//! - *Never*: a fixed port, a sleep that a result depends on, a process that outlives its test.

pub mod client;
pub mod clock;
pub mod delay;
pub mod dns;
pub mod engine;
pub mod gateway;
pub mod redis;
pub mod scenario;
pub mod sse;

pub use client::Client;
pub use engine::{Engine, Step};
pub use gateway::Gateway;
