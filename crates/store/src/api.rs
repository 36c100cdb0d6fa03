//! Queries as parameters by name, and answers as JSON, for the pages of an HTTP server.
//!
//! - *In*: the parameters of a page, percent-decoded, and the time.
//! - *Out*: JSON. What makes an answer incomplete is in `problems` and `timed_out`.
//! - *Never*: a filter that is ignored.

use std::collections::HashMap;

use lens::record::Outcome;
use lens::{TimeHistogram, Timing, record_filter};
use serde_json::{Map, Value, json};

use crate::field::Field;
use crate::query::{ChartQuery, FacetQuery, Filter, PageQuery, Store, StoreError, automatic_step};
use crate::rollup::{ROLLUP_TIMINGS, Rollup};

/// A page of JSON.
#[derive(Debug)]
pub struct ApiPage {
    /// Its path.
    pub path: &'static str,
    /// The parameters that it has. The server refuses others.
    pub params: &'static [&'static str],
    answer: fn(&dyn Store, &Params<'_>) -> Result<Value, StoreError>,
}

/// All pages.
pub static API_PAGES: [ApiPage; 3] = [
    ApiPage { path: "/api/records", params: RECORDS, answer: records },
    ApiPage { path: "/api/facets", params: FACETS, answer: facets },
    ApiPage { path: "/api/charts", params: CHARTS, answer: charts },
];

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
const CHARTS: &[&str] = &[
    "from", "to", "step", "by", "series", "cells", "route", "backend", "model", "owner", "outcome",
];
/// Upper bounds of the cells of a heat map: two for each octave, from 100 us to 28 minutes.
const CELL_BOUNDS: usize = 49;
/// The first of them, in seconds.
const FIRST_CELL_BOUND: f64 = 1e-4;

impl ApiPage {
    /// The page with these parameters. `now_us` is the wall-clock time in Unix microseconds. It
    /// blocks, as queries do.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn answer(
        &self,
        store: &dyn Store,
        params: &HashMap<String, String>,
        now_us: u64,
    ) -> Result<Value, StoreError> {
        (self.answer)(store, &Params { all: params, now_us })
    }
}

fn records(store: &dyn Store, params: &Params<'_>) -> Result<Value, StoreError> {
    if let Some(id) = params.get("id") {
        if params.all.len() > 1 {
            let problem = "id gives all records of the id; it cannot be combined with others";
            return Err(StoreError::Query(problem.into()));
        }
        let (records, problems) = store.records(id)?;
        return Ok(json!({"records": records, "problems": problems}));
    }
    let filter = Filter {
        from_us: params.time("from")?,
        to_us: params.time("to")?,
        equals: params.equals()?,
        slower_than_us: params.micros("slower_than")?,
        ttft_over_us: params.micros("ttft_over")?,
    };
    let after = params.get("after").map(str::parse).transpose()?;
    let page = store.page(&PageQuery { filter, after, limit: params.count("limit", 100)? })?;
    Ok(json!({
        "records": page.rows,
        "next": page.next.map(|next| next.to_string()),
        "timed_out": page.timed_out,
        "problems": page.problems,
    }))
}

fn facets(store: &dyn Store, params: &Params<'_>) -> Result<Value, StoreError> {
    let fields = match params.get("fields") {
        None => Field::ALL.to_vec(),
        Some(names) => {
            names.split(',').map(|name| field("fields", name)).collect::<Result<_, _>>()?
        }
    };
    let (from_us, to_us) = (params.time("from")?, params.time("to")?);
    let limit = params.count("limit", 100)?;
    let facets = store.facets(&FacetQuery { fields, from_us, to_us, limit })?;
    let fields = facets.fields.into_iter().map(|counts| {
        let value = |(value, records)| json!({"value": value, "records": records});
        let values: Vec<Value> = counts.values.into_iter().map(value).collect();
        let (distinct, others) = (counts.distinct, counts.others);
        let counts_of = json!({"values": values, "distinct": distinct, "others": others});
        (counts.field.name().to_owned(), counts_of)
    });
    Ok(json!({"facets": fields.collect::<Map<_, _>>(), "problems": facets.problems}))
}

fn charts(store: &dyn Store, params: &Params<'_>) -> Result<Value, StoreError> {
    let seconds = |name| Ok::<_, StoreError>(params.time(name)?.map(|us| us / 1_000_000));
    let to_s = seconds("to")?.unwrap_or(params.now_us / 1_000_000);
    let from_s = seconds("from")?.unwrap_or(to_s.saturating_sub(3600));
    let step_s = match params.micros("step")? {
        Some(step) => step / 1_000_000,
        None => automatic_step(from_s, to_s),
    };
    let query = ChartQuery {
        from_s,
        to_s,
        step_s,
        equals: params.equals()?,
        group_by: params.get("by").map(|name| field("by", name)).transpose()?,
        series: params.count("series", 10)?,
    };
    let cells = params.get("cells").map(rolled_up_timing).transpose()?;
    let chart = store.chart(&query)?;
    let series = chart.series.into_iter().map(|series| {
        let points: Vec<Value> =
            series.points.iter().map(|(at_s, rollup)| point(*at_s, rollup, cells)).collect();
        json!({"label": series.label, "points": points})
    });
    let series: Vec<Value> = series.collect();
    Ok(json!({"step_s": step_s, "series": series, "problems": chart.problems}))
}

/// The position of a timing among those of rollups.
fn rolled_up_timing(name: &str) -> Result<usize, StoreError> {
    ROLLUP_TIMINGS.iter().position(|timing| timing.name() == name).ok_or_else(|| {
        let known = ROLLUP_TIMINGS.map(Timing::name).join(", ");
        StoreError::Query(format!("cells must be one of {known}, not {name:?}"))
    })
}

/// A step of a chart, with the cells of this timing.
fn point(at_s: u64, rollup: &Rollup, cells_of: Option<usize>) -> Value {
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
        if let Some(sketch) = cells_of.and_then(|timing| rollup.times.get(timing)) {
            point.insert("cells".to_owned(), cells(sketch));
        }
    }
    point
}

/// The cells of a heat map that have requests: upper bound in microseconds, and count. The last
/// bound is that of all larger values, too.
fn cells(sketch: &TimeHistogram) -> Value {
    let bounds: Vec<f64> =
        (0..CELL_BOUNDS).map(|at| FIRST_CELL_BOUND * (at as f64 / 2.0).exp2()).collect();
    let mut below = 0;
    let counts = bounds.iter().zip(sketch.cumulative(&bounds)).enumerate();
    let cells = counts.filter_map(|(at, (bound, cumulative))| {
        let upto = if at + 1 == CELL_BOUNDS { sketch.count() } else { cumulative };
        let count = upto - std::mem::replace(&mut below, upto);
        (count > 0).then(|| json!([(bound * 1e6).round() as u64, count]))
    });
    cells.collect()
}

/// Count, exact mean and maximum, and percentiles of a sketch; null without values.
fn percentiles(sketch: &TimeHistogram) -> Value {
    let Some((_, max)) = sketch.range() else { return Value::Null };
    let [p50, p90, p95, p99] = [50.0, 90.0, 95.0, 99.0].map(|share| sketch.percentile(share));
    let (count, mean) = (sketch.count(), sketch.sum() as f64 / sketch.count() as f64);
    json!({"count": count, "mean": mean, "p50": p50, "p90": p90, "p95": p95, "p99": p99, "max": max})
}

fn field(param: &str, name: &str) -> Result<Field, StoreError> {
    Field::from_name(name).ok_or_else(|| {
        let known = Field::ALL.map(Field::name).join(", ");
        StoreError::Query(format!("{param} must be of {known}, not {name:?}"))
    })
}

/// The parameters of a page, and the time.
struct Params<'p> {
    all: &'p HashMap<String, String>,
    now_us: u64,
}

impl Params<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.all.get(name).map(String::as_str)
    }

    /// The fields that have a value.
    fn equals(&self) -> Result<Vec<(Field, String)>, StoreError> {
        self.get("outcome").map(record_filter::outcome).transpose().map_err(StoreError::Query)?;
        let given = |field: Field| Some((field, self.get(field.name())?.to_owned()));
        Ok(Field::ALL.into_iter().filter_map(given).collect())
    }

    /// A time in Unix microseconds: RFC 3339, or a duration before now.
    fn time(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let time = |text| record_filter::time(name, text, self.now_us);
        self.get(name).map(time).transpose().map_err(StoreError::Query)
    }

    fn micros(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let micros = |text| record_filter::micros(name, text);
        self.get(name).map(micros).transpose().map_err(StoreError::Query)
    }

    fn count(&self, name: &str, default: usize) -> Result<usize, StoreError> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.parse()
            .map_err(|_| StoreError::Query(format!("{name} must be a whole number, not {text:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_312_000_000_000;

    fn params(all: &[(&str, &str)]) -> HashMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn times_are_dates_or_durations_before_now() {
        let all = params(&[("from", "6h"), ("to", "2026-01-01T12:00:00+01:00"), ("x", "soon")]);
        let params = Params { all: &all, now_us: NOW };
        assert_eq!(params.time("from").unwrap(), Some(NOW - 6 * 3_600_000_000));
        assert_eq!(params.time("to").unwrap(), Some(NOW - 13 * 3_600_000_000));
        assert_eq!(params.time("absent").unwrap(), None);
        assert!(params.time("x").unwrap_err().to_string().contains("such as 6h"));
    }

    /// `llm-lens export --where` has the filters of the page.
    #[test]
    fn filters_are_those_of_exports() {
        let paging = ["limit", "after", "id"];
        let filters: Vec<&str> =
            RECORDS.iter().copied().filter(|name| !paging.contains(name)).collect();
        assert_eq!(filters, lens::RecordFilter::NAMES);
    }

    #[test]
    fn cells_have_every_value_once() {
        let mut sketch = TimeHistogram::default();
        for us in [0, 50, 130, 135, 1_000_000, u64::from(u32::MAX) * 1000] {
            sketch.record(us);
        }
        assert_eq!(cells(&sketch), json!([[100, 2], [141, 2], [1_158_524, 1], [1_677_721_600, 1]]));
        assert_eq!(cells(&TimeHistogram::default()), json!([]));
    }

    #[test]
    fn wrong_parameters_name_themselves() {
        let all = params(&[("limit", "-1"), ("slower_than", "5 parsecs"), ("outcome", "good")]);
        let params = Params { all: &all, now_us: NOW };
        for (error, expected) in [
            (params.count("limit", 1).unwrap_err(), "limit must be a whole number"),
            (params.micros("slower_than").unwrap_err(), "slower_than: "),
            (params.equals().unwrap_err(), "outcome must be one of ok"),
            (field("by", "colour").unwrap_err(), "by must be of route, backend"),
            (rolled_up_timing("itl").unwrap_err(), "cells must be one of engine_ttft, "),
        ] {
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}
