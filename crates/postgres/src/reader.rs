//! Queries.
//!
//! - *In*: queries of [`Store`].
//! - *Out*: answers from read-only connections with a time limit, of which two are kept.
//! - *Never*: a query without a limit of rows and time; a wait for a database that is down.

mod chart;
mod facets;
mod page;
mod records;

use std::time::{Duration, Instant};

use lens::Record;
use parking_lot::Mutex;
use store::{Chart, ChartPlan, ChartQuery, FacetQuery, Facets, Page, PageQuery, Store, StoreError};
use tokio_postgres::Client;

use crate::error::Error;
use crate::schema;
use crate::session::{Database, Session};

/// Connections that are kept for the next query.
const MAX_IDLE: usize = 2;
/// Time of a query's answer to arrive after the server's own limit.
const GRACE: Duration = Duration::from_secs(1);

/// The records of a database.
pub struct PostgresStore {
    database: Database,
    time_limit: Duration,
    idle: Mutex<Vec<Session>>,
}

impl PostgresStore {
    /// The store in a database; a query may take `time_limit`.
    pub fn new(database: Database, time_limit: Duration) -> Self {
        PostgresStore { database, time_limit, idle: Mutex::default() }
    }

    /// Runs a query on a connection that was kept, or on a new one if that has ended meanwhile.
    fn query<T>(
        &self,
        query: impl AsyncFn(&mut Client) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let limit = self.time_limit + GRACE;
        let kept = self.idle.lock().pop();
        if let Some(mut session) = kept {
            match session.run_within(limit, async |client| query(client).await) {
                Err(error) if error.is_closed() => self.idle.lock().clear(),
                result => return self.finish(session, result),
            }
        }
        let setup = schema::reader(self.time_limit);
        let mut session = Session::connect(&self.database, &setup).map_err(failed)?;
        let result = session.run_within(limit, async |client| {
            schema::check(client).await?;
            query(client).await
        });
        self.finish(session, result)
    }

    fn finish<T>(&self, session: Session, result: Result<T, Error>) -> Result<T, StoreError> {
        let mut idle = self.idle.lock();
        if result.is_ok() && idle.len() < MAX_IDLE {
            idle.push(session);
        }
        result.map_err(failed)
    }
}

fn failed(error: Error) -> StoreError {
    match error {
        error if error.is_time_limit() => StoreError::Timeout,
        Error::TooMany(_) => StoreError::Query(error.to_string()),
        Error::Connect { .. } | Error::Login { .. } | Error::Older(_) => {
            StoreError::Unavailable(error.to_string())
        }
        error if error.is_closed() => StoreError::Unavailable(error.to_string()),
        error => StoreError::Read(error.to_string()),
    }
}

impl Store for PostgresStore {
    fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        query.check()?;
        let after = query.after.as_ref().map(page::position).transpose()?;
        let deadline = Instant::now() + self.time_limit;
        self.query(async |client| page::read(client, query, after, deadline).await)
    }

    fn records(&self, id: &str) -> Result<(Vec<Record>, Vec<String>), StoreError> {
        self.query(async |client| records::find(client, id).await)
    }

    fn facets(&self, query: &FacetQuery) -> Result<Facets, StoreError> {
        query.check()?;
        self.query(async |client| facets::read(client, query).await)
    }

    fn chart(&self, query: &ChartQuery) -> Result<Chart, StoreError> {
        let plan = ChartPlan::new(query)?;
        self.query(async |client| chart::read(client, &plan, query.series).await)
    }
}
