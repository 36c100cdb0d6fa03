//! HTTP/1.1 messages as bytes: heads, and the framing of bodies.
//!
//! - *In*: bytes of one direction of a connection.
//! - *Out*: a validated [`Head`](head::Head), and for bodies the ranges of payload in the bytes
//!   that were read.
//! - *Never*: a socket, or a decision about how to handle a bad message.
//!
//! Downstream and upstream use the same parser, so both are equally strict. Where RFC 9112 allows
//! repairing or rejecting, it rejects: every repair is a chance for two parsers to disagree.
#![deny(clippy::indexing_slicing)]

pub mod body;
mod field_names;
pub mod head;
pub mod path;

pub use body::{BodyError, BodyFraming, BodyReader, Progress};
pub use field_names::FieldNames;
pub use head::{Head, HeadError, RequestLine, StatusLine};
