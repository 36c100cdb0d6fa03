//! HTTP/1.1 messages as bytes: heads, and the framing of bodies.
//!
//! - *In*: bytes of one direction of a connection.
//! - *Out*: a checked [`Head`](head::Head), and for bodies the runs of payload inside the bytes
//!   that were read.
//! - *Never*: a socket, a decision about what to do with a bad message; facts only.
//!
//! The gateway parses both its sides with this, so both sides are equally strict. Where RFC 9112
//! leaves a choice between repairing and rejecting, this rejects: every repair is a way for two
//! parsers to disagree.

pub mod body;
pub mod head;

pub use body::{BodyError, BodyFraming, BodyReader, Progress};
pub use head::{Head, HeadError, RequestLine, StatusLine};
