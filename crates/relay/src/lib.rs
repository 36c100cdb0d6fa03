//! The loop that moves an answer from a backend to a client.
//!
//! - *In*: a [`Source`](transport::Source), a [`Sink`](transport::Sink), and the [`Request`] that
//!   the answer belongs to.
//! - *Out*: an [`End`]; the request's ledger, marks and verdict.
//! - *Never*: an await between a read and its timestamp, or between two bytes of an event;
//!   selection of another backend, which [`Request`] does.
#![deny(clippy::indexing_slicing)]

mod failure;
pub use failure::Failure;
mod request;
pub use request::{
    Answer, AnswerDelays, Context, GuardrailResult, GuardrailTools, Note, Parts, Request, Resume,
    Sent, TokenTimeouts, Verdict,
};

mod first_token;
pub use first_token::{FirstTokenProbe, ProbeParsing};

mod closing;
mod deadlines;
pub use deadlines::DrainDeadline;
mod forward;
pub use forward::Forward;
mod output_guard;
mod resume;
mod strip;

mod relay;
pub use relay::{End, InterruptedStream, Relay};
