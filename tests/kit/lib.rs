//! The scripted world around a gateway: engines that do as they are told, clients that look
//! closely, and the real binary between them.
//!
//! - *In*: scripts.
//! - *Out*: what happened, with times.
//! - *Never*: a fixed port, a sleep that a test's truth depends on, a process that outlives its
//!   test.

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
