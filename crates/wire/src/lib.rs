//! Parsing of payloads: SSE, NDJSON, dialects, request facts.
//!
//! Framing (SSE, NDJSON), the dialects of inference engines, the facts of a
//! request, and the contents of each streamed event.
//!
//! - *In*: byte slices, cut anywhere.
//! - *Out*: [`Part`]s and [`Event`]s passed to a [`EventVisitor`], [`RequestFacts`].
//! - *Never*: a clock, a socket, a thread, a JSON tree. At most one event is buffered, up to a
//!   limit.
//!
//! The gateway forwards the original bytes, so this crate only reads; it never builds or serializes
//! a document.
#![deny(clippy::indexing_slicing)]

pub mod json;
pub mod ndjson;
pub mod sse;

pub mod dialect;
pub mod ending;
mod error_format;
pub mod event;
pub mod reader;
pub mod request;
pub mod rewrite;
mod split;
pub use split::{Split, Splitter};
mod template;
pub mod validate;

pub use dialect::Dialect;
pub use error_format::{ErrorFormat, GatewayError};
pub use event::{Channel, EngineTimes, Event, EventVisitor, Kinds, Part, Usage};
pub use reader::{Framing, Reader, ReaderLimits};
pub use request::RequestFacts;
