//! `/api/records`, `/api/facets` and `/api/charts`: queries of the store of records.
//!
//! - *In*: the query string.
//! - *Out*: JSON. What makes an answer incomplete is in `problems` and `timed_out`.
//! - *Never*: a filter that is ignored; a query on the control thread.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, get};
use jiff::Timestamp;
use lens::record::Outcome;
use lens::{Record, TimeHistogram};
use pipeline::shared::Shared;
use plan::clock;
use serde_json::{Map, Value, json};
use store::{
    ChartQuery, FacetQuery, Field, Filter, PageQuery, ROLLUP_TIMINGS, Rollup, Store, StoreError,
    automatic_step,
};
use tokio::sync::Semaphore;

use super::params::{ApiError, Params};
use super::{json_response, off_thread};

/// Queries at a time. Others wait, and pages that need no disk do not wait for them.
const MAX_QUERIES: usize = 2;
static QUERIES: Semaphore = Semaphore::const_new(MAX_QUERIES);

const RECORDS: &[&str] = &[
    "limit",
    "after",
    "id",
    "from",
    "to",
    "route",
    "backend",
    "model",
    "caller",
    "owner",
    "outcome",
    "error_code",
    "status",
    "stream",
    "slower_than",
    "ttft_over",
];
const FACETS: &[&str] = &["fields", "from", "to", "limit"];
const CHARTS: &[&str] =
    &["from", "to", "step", "by", "series", "route", "backend", "model", "owner", "outcome"];

/// Add the pages to a router.
pub(super) fn add_pages(
    router: Router<Arc<Shared>>,
    records: Option<Arc<dyn Store>>,
) -> Router<Arc<Shared>> {
    router
        .route("/api/records", page(records.clone(), RECORDS, self::records))
        .route("/api/facets", page(records.clone(), FACETS, facets))
        .route("/api/charts", page(records, CHARTS, charts))
}

/// A page of JSON from the store.
fn page(
    records: Option<Arc<dyn Store>>,
    known: &'static [&'static str],
    make: fn(&dyn Store, &Params) -> Result<Value, ApiError>,
) -> MethodRouter<Arc<Shared>> {
    get(async move |params: Params| {
        params.check(known)?;
        let Some(store) = records.clone() else {
            return Err(ApiError::not_found("no records are stored; set record_store.path"));
        };
        let make = move || make(&*store, &params).map(|value| json_response(&value));
        off_thread(&QUERIES, make).await
    })
}

fn records(store: &dyn Store, params: &Params) -> Result<Value, ApiError> {
    if let Some(id) = params.get("id") {
        params.check(&["id"]).map_err(|_| {
            let message = "id gives all records of the id; it cannot be combined with others";
            ApiError::bad("id", message.to_owned())
        })?;
        let (records, problems): (Vec<Record>, _) = store.records(id).map_err(failed)?;
        return Ok(json!({"records": records, "problems": problems}));
    }
    let filter = Filter {
        from_us: time(params, "from")?,
        to_us: time(params, "to")?,
        equals: equals(params)?,
        slower_than_us: micros(params, "slower_than")?,
        ttft_over_us: micros(params, "ttft_over")?,
    };
    let after = params.get("after").map(str::parse).transpose().map_err(failed)?;
    let limit = count(params, "limit", 100)?;
    let page = store.page(&PageQuery { filter, after, limit }).map_err(failed)?;
    Ok(json!({
        "records": page.rows,
        "next": page.next.map(|next| next.to_string()),
        "timed_out": page.timed_out,
        "problems": page.problems,
    }))
}

fn facets(store: &dyn Store, params: &Params) -> Result<Value, ApiError> {
    let fields = match params.get("fields") {
        None => Field::ALL.to_vec(),
        Some(names) => {
            names.split(',').map(|name| field("fields", name)).collect::<Result<_, _>>()?
        }
    };
    let (from_us, to_us) = (time(params, "from")?, time(params, "to")?);
    let limit = count(params, "limit", 100)?;
    let facets = store.facets(&FacetQuery { fields, from_us, to_us, limit }).map_err(failed)?;
    let fields = facets.fields.into_iter().map(|counts| {
        let value = |(value, records)| json!({"value": value, "records": records});
        let values: Vec<Value> = counts.values.into_iter().map(value).collect();
        let (distinct, others) = (counts.distinct, counts.others);
        let counts_of = json!({"values": values, "distinct": distinct, "others": others});
        (counts.field.name().to_owned(), counts_of)
    });
    Ok(json!({"facets": fields.collect::<Map<_, _>>(), "problems": facets.problems}))
}

fn charts(store: &dyn Store, params: &Params) -> Result<Value, ApiError> {
    let now_s = clock::wall_us() / 1_000_000;
    let seconds = |name| Ok(time(params, name)?.map(|us| us / 1_000_000));
    let to_s = seconds("to")?.unwrap_or(now_s);
    let from_s = seconds("from")?.unwrap_or(to_s.saturating_sub(3600));
    let step_s = match micros(params, "step")? {
        Some(step) => step / 1_000_000,
        None => automatic_step(from_s, to_s),
    };
    let query = ChartQuery {
        from_s,
        to_s,
        step_s,
        equals: equals(params)?,
        group_by: params.get("by").map(|name| field("by", name)).transpose()?,
        series: count(params, "series", 10)?,
    };
    let chart = store.chart(&query).map_err(failed)?;
    let series: Vec<Value> = chart
        .series
        .into_iter()
        .map(|series| {
            let points: Vec<Value> =
                series.points.iter().map(|(at_s, rollup)| point(*at_s, rollup)).collect();
            json!({"label": series.label, "points": points})
        })
        .collect();
    Ok(json!({"step_s": step_s, "series": series, "problems": chart.problems}))
}

/// A step of a chart.
fn point(at_s: u64, rollup: &Rollup) -> Value {
    let outcomes = Outcome::ALL
        .into_iter()
        .map(|outcome| (outcome.name().to_owned(), Value::from(rollup.with_outcome(outcome))));
    let outcomes: Map<_, _> = outcomes.filter(|(_, requests)| *requests != 0).collect();
    let mut point = json!({
        "at_s": at_s,
        "requests": rollup.requests(),
        "outcomes": outcomes,
        "input_tokens": rollup.input_tokens,
        "output_tokens": rollup.output_tokens,
        "estimated_tokens": rollup.estimated_tokens,
        "cost": rollup.cost,
    });
    if let Some(point) = point.as_object_mut() {
        for (timing, sketch) in ROLLUP_TIMINGS.into_iter().zip(&rollup.times) {
            point.insert(format!("{}_us", timing.name()), percentiles(sketch));
        }
    }
    point
}

/// Count and percentiles of a sketch; null without values.
fn percentiles(sketch: &TimeHistogram) -> Value {
    let Some((_, max)) = sketch.range() else { return Value::Null };
    let [p50, p90, p95, p99] = [50.0, 90.0, 95.0, 99.0].map(|share| sketch.percentile(share));
    json!({"count": sketch.count(), "p50": p50, "p90": p90, "p95": p95, "p99": p99, "max": max})
}

/// The fields that the query gives a value.
fn equals(params: &Params) -> Result<Vec<(Field, String)>, ApiError> {
    if let Some(name) = params.get("outcome")
        && !Outcome::ALL.iter().any(|outcome| outcome.name() == name)
    {
        let known = Outcome::ALL.map(Outcome::name).join(", ");
        let message = format!("outcome must be one of {known}, not {name:?}");
        return Err(ApiError::bad("outcome", message));
    }
    let given = |field: Field| Some((field, params.get(field.name())?.to_owned()));
    Ok(Field::ALL.into_iter().filter_map(given).collect())
}

fn field(param: &'static str, name: &str) -> Result<Field, ApiError> {
    Field::from_name(name).ok_or_else(|| {
        let known = Field::ALL.map(Field::name).join(", ");
        ApiError::bad(param, format!("{param} must be of {known}, not {name:?}"))
    })
}

/// A time in Unix microseconds: RFC 3339, or a duration before now.
fn time(params: &Params, name: &'static str) -> Result<Option<u64>, ApiError> {
    let Some(text) = params.get(name) else { return Ok(None) };
    if let Ok(ago) = lens::duration::parse(text) {
        let ago = u64::try_from(ago.as_micros()).unwrap_or(u64::MAX);
        return Ok(Some(clock::wall_us().saturating_sub(ago)));
    }
    let at = text.parse::<Timestamp>().ok();
    at.and_then(|at| u64::try_from(at.as_microsecond()).ok()).map(Some).ok_or_else(|| {
        let message = format!(
            "{name} must be a time such as 2026-01-31T12:00:00Z or a duration before now such as 6h, not {text:?}"
        );
        ApiError::bad(name, message)
    })
}

fn micros(params: &Params, name: &'static str) -> Result<Option<u64>, ApiError> {
    let Some(text) = params.get(name) else { return Ok(None) };
    lens::duration::parse(text)
        .map(|duration| Some(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
        .map_err(|error| ApiError::bad(name, format!("{name}: {error}")))
}

fn count(params: &Params, name: &'static str, default: u64) -> Result<usize, ApiError> {
    params.number(name, default).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}

fn failed(error: StoreError) -> ApiError {
    match error {
        StoreError::Query(message) => ApiError::bad("", message),
        StoreError::Timeout => ApiError::timeout(error.to_string()),
        StoreError::Read(_) => {
            tracing::error!(%error, "a query of the record store failed");
            ApiError::internal()
        }
    }
}
