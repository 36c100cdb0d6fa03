//! Parsing of bytes: SSE, NDJSON, HTTP/1 heads, dialects, request facts.
//!
//! Framing (SSE, NDJSON, HTTP/1.1 messages), the dialects that inference engines speak, the facts
//! of a request, and what each streamed event carries.
//!
//! - *In*: byte slices, cut anywhere.
//! - *Out*: [`Part`]s and [`Event`]s given to a [`Listener`], [`RequestFacts`], framing decisions.
//! - *Never*: a clock, a socket, a thread, a JSON tree. At most one event is buffered, within a
//!   bound.
//!
//! The original bytes are what is forwarded, so nothing here builds or serializes
//! a document; it only reads.
#![deny(clippy::indexing_slicing)]

pub mod http1;

pub mod json;
pub mod ndjson;
pub mod sse;

pub mod dialect;
pub mod ending;
pub mod event;
pub mod reader;
pub mod request;
pub mod rewrite;
mod split;
pub use split::{Split, Splitter};
mod template;
pub mod url;
pub mod validate;

pub use dialect::Dialect;
pub use event::{Channel, Event, Kinds, Listener, Part, Usage};
pub use reader::{Framing, Reader, ReaderLimits};
pub use request::RequestFacts;
