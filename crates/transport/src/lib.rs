//! Connections, and the bytes on them: HTTP/1.1 and HTTP/2 to backends, answers to clients.
//!
//! - *In*: a backend's settings, a request ready to be sent; a client's connection.
//! - *Out*: [`Source`] and [`Sink`], the two ends of a relay; one clock.
//! - *Never*: a decision about what a failure means for a client; a body byte that was not read
//!   from a peer.

pub mod buffer;
pub mod clock;
mod memory;
pub use memory::{Held, HeldBuffer, Memory};
mod stream_buffer;
pub use stream_buffer::StreamBuffer;

mod leg;
pub use leg::{AnswerHead, BodyListener, BodyStep, EarlyError, Gone, Sink, Source, UpstreamError};

mod h1_sink;
pub use h1_sink::{H1Sink, reason_phrase};

mod upstream;
pub use upstream::{
    BuildError, Call, Connection, ConnectionPermit, Edit, Edits, H1Source, H2Source, ListedModel,
    ModelList, Request, Upstream, connect, dial_tcp, limit_idle_connections, peer,
};
