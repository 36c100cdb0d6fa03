//! Queries of a store of records, each timed.
//!
//! In: a store with the records of this package.
//! Out: one line per query.
//! Never: a first run alone; each query runs several times.

use std::time::Instant;

use anyhow::Result;
use store::{ChartQuery, FacetQuery, Field, Filter, PageQuery, Store};

use crate::records::{DAY, START, id};

/// Repetitions of a query.
pub const TURNS: usize = 15;

/// Measures each kind of query over records of `days` until `end`.
///
/// # Errors
/// When a query fails.
pub fn queries(store: &dyn Store, days: u64, end: u64) -> Result<()> {
    let equal = |pairs: &[(Field, &str)]| Filter {
        equals: pairs.iter().map(|(field, text)| (*field, (*text).to_owned())).collect(),
        ..Filter::default()
    };
    let middle = START + days * DAY / 2;
    for (name, filter) in [
        ("page: all", Filter::default()),
        ("page: outcome, 1 of 100", equal(&[(Field::Outcome, "timeout")])),
        ("page: model and backend", equal(&[(Field::Model, "model-3"), (Field::Backend, "b1")])),
        ("page: caller, 1 of 10,000", equal(&[(Field::Caller, "rare")])),
        (
            "page: slower than, 1 of 1,000",
            Filter { slower_than_us: Some(60_000_000), ..Filter::default() },
        ),
        (
            "page: an hour of the past",
            Filter { from_us: Some(middle), to_us: Some(middle + DAY / 24), ..Filter::default() },
        ),
    ] {
        let query = PageQuery { filter, after: None, limit: 100 };
        measure(name, || Ok(store.page(&query)?.rows.len()))?;
    }
    measure("record by id, the oldest", || Ok(store.records(&id(7))?.0.len()))?;
    measure("record by id, unknown", || Ok(store.records("unknown")?.0.len()))?;
    for field in Field::ALL {
        let query = FacetQuery { fields: vec![field], limit: 100, ..FacetQuery::default() };
        measure(&format!("facet: {}", field.name()), || {
            Ok(store.facets(&query)?.fields.iter().map(|counts| counts.values.len()).sum())
        })?;
    }
    let end_s = end / 1_000_000;
    let chart = |hours: u64, step_s: u64, pairs: &[(Field, &str)], group_by| ChartQuery {
        from_s: end_s - hours * 3600,
        to_s: end_s,
        step_s,
        equals: equal(pairs).equals,
        group_by,
        series: 10,
    };
    let whole = days * 24;
    for (name, query) in [
        ("chart: 6 h by minute", chart(6, 60, &[], None)),
        ("chart: 6 h by minute, by model", chart(6, 60, &[], Some(Field::Model))),
        (
            "chart: 6 h by minute, model and backend",
            chart(6, 60, &[(Field::Model, "model-3"), (Field::Backend, "b1")], None),
        ),
        ("chart: a day by 15 minutes, by owner", chart(24, 900, &[], Some(Field::Owner))),
        ("chart: all by hour, by route", chart(whole, 3600, &[], Some(Field::Route))),
        (
            "chart: all by hour, route by backend",
            chart(whole, 3600, &[(Field::Route, "route-1")], Some(Field::Backend)),
        ),
    ] {
        measure(name, || {
            Ok(store.chart(&query)?.series.iter().map(|series| series.points.len()).sum())
        })?;
    }
    Ok(())
}

fn measure(name: &str, mut query: impl FnMut() -> Result<usize>) -> Result<()> {
    let (mut times, mut results) = (Vec::new(), 0);
    for _ in 0..TURNS {
        let began = Instant::now();
        results = query()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "  {name}: {:.1} ms, {:.1} ms ({results} results)",
        times[TURNS / 2],
        times[TURNS - 1]
    );
    Ok(())
}
