//! The store of records of many gateways, in PostgreSQL.
//!
//! - *In*: finished [`lens::Record`]s with their keys, by the [`sink()`]; queries of
//!   [`store::Store`].
//! - *Out*: rows, counts and sketches in the schema `llm_lens` of a database; answers that are
//!   equal to those of SQLite for the same records.
//! - *Never*: a record twice; a lock that two gateways contend for with each batch; a password in
//!   an error; a `DELETE` of records.
//!
//! `docs/adr/0020-postgres.md` has the decisions.

mod error;

mod tls;

mod session;
pub use session::Database;

mod schema;

mod partition;

mod value;

mod writer;

mod destination;
pub use destination::{SinkOptions, sink};

mod reader;
pub use reader::PostgresStore;

#[cfg(test)]
mod tests;
