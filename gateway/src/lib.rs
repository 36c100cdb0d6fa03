//! The request's path: accept, identify, admit, inspect, route, connect, send, relay, settle, record.
//!
//! This is the only room that knows pingora. It assembles the others:
//! - `proxy.rs` implements pingora's traits and decides whose request it is;
//! - `stage/` holds the walk of an inference request, one file a stage, in walk order;
//! - `downstream/` and `upstream/` are the two ends of the wire;
//! - `world.rs` is what filters may use of it all;
//! - `plan.rs` is what settings become, `server.rs` runs it, `admin.rs` shows it.
//!
//! `docs/life-of-a-request.md` tells the walk as a story.

mod server;
pub use server::{Gateway, Options, StartError};

mod plan;
pub use plan::{BuildError, check};
mod discovery;
mod reload;

mod proxy;
mod shared;

mod exchange;
mod stage;

mod audit;
mod world;

mod edge;
mod spend;

mod downstream;
mod upstream;

mod respond;

mod admin;

mod clock;
