//! `/api/requests`: recent records, by id, route, outcome and duration.
//!
//! - *In*: the query.
//! - *Out*: the newest records that match, newest first; of those with a given id, the times of
//!   their token events, too.
//! - *Never*: a filter that is ignored; an unknown outcome or a malformed duration is an error.

use std::time::Duration;

use lens::Record;
use lens::record::Outcome;
use pipeline::shared::Shared;
use serde_json::{Value, json};

use crate::params::{ApiError, Params};

/// Parameters of the page.
pub const PARAMS: &[&str] = &["limit", "id", "route", "outcome", "slower_than"];
/// Default `limit`.
const DEFAULT_LIMIT: usize = 100;

/// Which records are listed.
#[derive(Debug, Default)]
struct Filter<'p> {
    id: Option<&'p str>,
    route: Option<&'p str>,
    outcome: Option<Outcome>,
    slower_than: Option<Duration>,
}

impl<'p> Filter<'p> {
    fn parse(params: &'p Params) -> Result<Self, ApiError> {
        let duration = |text: &str| {
            lens::duration::parse(text)
                .map_err(|error| ApiError::bad("slower_than", format!("slower_than: {error}")))
        };
        Ok(Filter {
            id: params.get("id"),
            route: params.get("route"),
            outcome: outcome(params)?,
            slower_than: params.get("slower_than").map(duration).transpose()?,
        })
    }

    fn matches(&self, record: &Record) -> bool {
        self.id.is_none_or(|id| record.id == id)
            && self.route.is_none_or(|route| *record.route == *route)
            && self.outcome.is_none_or(|outcome| record.outcome == outcome)
            && self
                .slower_than
                .is_none_or(|slower_than| u128::from(record.total_us) > slower_than.as_micros())
    }
}

/// The outcome that a query selects.
pub(crate) fn outcome(params: &Params) -> Result<Option<Outcome>, ApiError> {
    let outcome = |name: &str| {
        Outcome::ALL.into_iter().find(|outcome| outcome.name() == name).ok_or_else(|| {
            let known = Outcome::ALL.map(Outcome::name).join(", ");
            ApiError::bad("outcome", format!("outcome must be one of {known}, not {name:?}"))
        })
    };
    params.get("outcome").map(outcome).transpose()
}

/// When the token events of a request arrived and were written; null without any.
fn event_times(record: &Record) -> Value {
    record.event_times.as_ref().map_or(Value::Null, |times| {
        let [arrival, written] = times.both();
        json!({"arrival": arrival, "written": written})
    })
}

/// The page.
///
/// # Errors
/// A wrong parameter.
pub fn requests(shared: &Shared, params: &Params) -> Result<Value, ApiError> {
    let limit = params.number("limit", DEFAULT_LIMIT as u64)?;
    let filter = Filter::parse(params)?;
    let mut records = shared.observatory.recent(usize::MAX);
    records.retain(|record| filter.matches(record));
    records.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if filter.id.is_some() {
        let times: Vec<Value> = records.iter().map(|record| event_times(record)).collect();
        return Ok(json!({"requests": records, "event_times": times}));
    }
    Ok(json!({"requests": records}))
}
