//! What can go wrong with a database, in words for the operator.
//!
//! - *In*: errors of the client library.
//! - *Out*: what happened and what to do, for logs, metrics and answers.
//! - *Never*: a password, or values of a row: the server's `DETAIL` is left out.

use std::error::Error as _;
use std::fmt::Write as _;

use tokio_postgres::error::SqlState;

use crate::schema;

/// Why the database did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be reached.
    #[error("cannot connect to PostgreSQL at {at}: {why}")]
    Connect { at: String, why: String },
    /// It refuses the user.
    #[error(
        "PostgreSQL at {at} refuses the user {user}: {why}; check record_store.password, and pg_hba.conf of the server"
    )]
    Login { at: String, user: String, why: String },
    /// A newer version of this program has migrated it.
    #[error(
        "schema version {0} of the database is newer than {newest}, the newest that this version of llm-lens uses; use the newer llm-lens or another database",
        newest = schema::VERSION
    )]
    Newer(i32),
    /// No gateway has created the tables yet, or an older version has.
    #[error("schema version {0} of the database is older than {newest}; a gateway that writes to it migrates it", newest = schema::VERSION)]
    Older(i32),
    /// No answer in time.
    #[error("no answer of PostgreSQL within {0:?}")]
    Timeout(std::time::Duration),
    /// The server reports an error, or the connection ended.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// All slots of writers are in use.
    #[error("more than {0} gateways write at the same time")]
    Slots(i16),
    /// A chart needs too many rollups.
    #[error(
        "the chart needs more than {0} rollups; use a shorter range, a longer step, or fewer series"
    )]
    TooMany(usize),
    /// A value in the database is invalid.
    #[error("the database has an invalid {0}")]
    Damaged(&'static str),
    /// A record that cannot be stored.
    #[error("a record has no JSON form: {0}")]
    Record(String),
    /// Something on this side.
    #[error("{0}")]
    Local(String),
}

impl Error {
    fn state(&self) -> Option<&SqlState> {
        match self {
            Error::Postgres(error) => error.code(),
            _ => None,
        }
    }

    /// Whether a time limit of the server has ended a statement.
    pub(crate) fn is_time_limit(&self) -> bool {
        matches!(self, Error::Timeout(_)) || self.state() == Some(&SqlState::QUERY_CANCELED)
    }

    /// Whether a value is at fault: the same write fails again.
    pub(crate) fn is_refused_value(&self) -> bool {
        let is_data = |state: &SqlState| matches!(state.code().get(..2), Some("22" | "23"));
        matches!(self, Error::Record(_)) || self.state().is_some_and(is_data)
    }

    /// Whether the connection may be at fault, and not the database or the statement.
    pub(crate) fn is_closed(&self) -> bool {
        let ends = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ];
        match self {
            Error::Postgres(error) => {
                error.is_closed()
                    || error.code().is_none()
                    || error.code().is_some_and(|code| ends.contains(code))
            }
            _ => false,
        }
    }
}

/// The error of a failed connection.
pub(crate) fn connecting(error: &tokio_postgres::Error, at: &str, user: &str) -> Error {
    let (at, why) = (at.to_owned(), describe(error));
    let refusals = [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
    let is_login = error.code().is_some_and(|code| refusals.contains(code));
    // The client has no password, or the server does not prove that it knows it.
    let is_local = error.code().is_none() && why.contains("password");
    match is_login || is_local {
        true => Error::Login { at, user: user.to_owned(), why },
        false => Error::Connect { at, why },
    }
}

/// The message of an error with its causes.
fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", error.message(), error.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
