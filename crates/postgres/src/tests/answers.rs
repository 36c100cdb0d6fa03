//! The same assertions over both stores, and the same JSON from both.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use observatory::{DeliveryError, Destination as _, NumberedRecord};
use serde_json::Value;
use store::{
    API_PAGES, ChartQuery, Counters, FacetQuery, Field, Filter, PageQuery, SqliteStore, Store,
    StoreError, StoreOptions, Writer,
};

use super::{DAY, LIMIT, SECOND, Server, batch, numbered, record};
use crate::PostgresStore;

/// Five and a half hours, from midnight on.
const RECORDS: u64 = 5000;

/// SQLite files with batches.
struct Sqlite {
    _folder: tempfile::TempDir,
    store: SqliteStore,
}

impl Sqlite {
    fn new(batches: &[Vec<NumberedRecord>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let counters = Arc::<Counters>::default();
        let mut writer =
            Writer::open(folder.path(), StoreOptions::default(), counters, DAY).unwrap();
        for batch in batches {
            writer.write(batch, DAY).unwrap();
        }
        writer.close();
        Sqlite { store: SqliteStore::new(folder.path(), LIMIT), _folder: folder }
    }
}

/// All, in batches of which one comes twice and one overlaps.
fn batches() -> Vec<Vec<NumberedRecord>> {
    [0..1, 1..900, 1..900, 800..3000, 3000..RECORDS].map(batch).to_vec()
}

/// All records that match, by pages of `limit`.
fn all(store: &dyn Store, filter: &Filter, limit: usize) -> Vec<String> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let page = store.page(&PageQuery { filter: filter.clone(), after, limit }).unwrap();
        assert_eq!((page.timed_out, &page.problems), (false, &Vec::new()));
        ids.extend(page.rows.into_iter().map(|row| row.id));
        // A cursor survives being text.
        after = page.next.map(|next| next.to_string().parse().unwrap());
        if after.is_none() {
            return ids;
        }
    }
}

fn ids(matches: impl Fn(u64) -> bool) -> Vec<String> {
    (0..RECORDS).rev().filter(|n| matches(*n)).map(|number| format!("id-{number}")).collect()
}

fn equals(fields: &[(Field, &str)]) -> Filter {
    let equals = fields.iter().map(|(field, text)| (*field, (*text).to_owned())).collect();
    Filter { equals, ..Filter::default() }
}

/// What every store answers for [`batches`].
fn assert_answers(store: &dyn Store) {
    assert_eq!(all(store, &Filter::default(), 700), ids(|_| true));
    assert_eq!(all(store, &equals(&[(Field::Model, "m3")]), 100), ids(|n| n % 7 == 3));
    let two = equals(&[(Field::Outcome, "timeout"), (Field::Route, "r1")]);
    assert_eq!(all(store, &two, 1000), ids(|n| n % 10 == 9 && n % 2 == 1));
    assert_eq!(all(store, &equals(&[(Field::Model, "absent")]), 10), ids(|_| false));
    assert_eq!(all(store, &equals(&[(Field::Status, "504")]), 333), ids(|n| n % 10 == 9));
    assert_eq!(all(store, &equals(&[(Field::Stream, "false")]), 999), ids(|n| n % 4 == 0));
    let hour = Filter {
        from_us: Some(DAY + 3600 * SECOND),
        to_us: Some(DAY + 7200 * SECOND),
        ..Filter::default()
    };
    assert_eq!(all(store, &hour, 250), ids(|n| (900..1800).contains(&n)));
    let slow = Filter { slower_than_us: Some(199_000), ttft_over_us: Some(13_000), ..hour };
    assert_eq!(
        all(store, &slow, 10),
        ids(|n| n > 2900 && n % 997 > 990 && (900..1800).contains(&n))
    );

    let (found, problems) = store.records("unique-101").unwrap();
    assert_eq!((found, problems), (vec![record(101)], Vec::new()));
    let (pair, _) = store.records(&format!("{:032x}", 50)).unwrap();
    assert_eq!(pair, [record(101), record(100)]);
    assert_eq!(store.records("nothing").unwrap().0, []);

    let wrong = PageQuery { filter: equals(&[(Field::Status, "much")]), after: None, limit: 1 };
    assert!(matches!(store.page(&wrong), Err(StoreError::Query(why)) if why.contains("200")));
    let after = Some("no cursor".parse().unwrap());
    let wrong = PageQuery { filter: Filter::default(), after, limit: 1 };
    assert!(matches!(store.page(&wrong), Err(StoreError::Query(_))));

    let query =
        FacetQuery { fields: vec![Field::Model, Field::Caller], limit: 3, ..FacetQuery::default() };
    let facets = store.facets(&query).unwrap();
    let models = &facets.fields[0];
    assert_eq!((models.distinct, models.values.len(), models.others), (7, 3, 2856));
    assert_eq!(models.values[0], ("m0".to_owned(), 715));
    assert_eq!(facets.fields[1].values, [("key".to_owned(), 1667)]);

    let chart = |equals: Filter, group_by| ChartQuery {
        from_s: DAY / SECOND,
        to_s: DAY / SECOND + 7200,
        step_s: 3600,
        equals: equals.equals,
        group_by,
        series: 10,
    };
    let whole = store.chart(&chart(Filter::default(), None)).unwrap();
    let points = &whole.series[0].points;
    let hours: Vec<u64> = points.iter().map(|(at, _)| (at - DAY / SECOND) / 3600).collect();
    assert_eq!((whole.series.len(), hours), (1, vec![0, 1]));
    assert_eq!((points[0].1.requests(), points[0].1.cost), (900, 450.0));
    // The 450th value of 900, to within 1.1 %.
    let p50 = points[1].1.times[0].percentile(50.0).unwrap() as f64;
    assert!((p50 / 11_349.0 - 1.0).abs() < 0.011, "{p50}");
    let by_backend = store.chart(&chart(equals(&[(Field::Model, "m0")]), Some(Field::Backend)));
    let labels: Vec<Option<String>> =
        by_backend.unwrap().series.into_iter().map(|series| series.label).collect();
    assert_eq!(labels.len(), 4, "three backends, and none: {labels:?}");
    let unsupported = chart(equals(&[(Field::Owner, "x")]), Some(Field::Model));
    assert!(matches!(store.chart(&unsupported), Err(StoreError::Query(_))));
}

const QUERIES: &[(&str, &[(&str, &str)])] = &[
    ("/api/records", &[("limit", "1000")]),
    ("/api/records", &[("limit", "50"), ("owner", "team3"), ("stream", "true")]),
    ("/api/records", &[("limit", "50"), ("backend", "b1"), ("error_code", "upstream_timeout")]),
    ("/api/records", &[("from", "4h"), ("to", "2h"), ("slower_than", "150ms")]),
    ("/api/records", &[("id", "id-4321")]),
    ("/api/facets", &[]),
    ("/api/facets", &[("fields", "model,status,stream"), ("from", "3h"), ("limit", "2")]),
    ("/api/charts", &[("from", "6h"), ("step", "1m")]),
    ("/api/charts", &[("from", "6h"), ("step", "1h"), ("by", "model"), ("series", "3")]),
    ("/api/charts", &[("from", "6h"), ("step", "5m"), ("by", "outcome")]),
    ("/api/charts", &[("from", "6h"), ("owner", "team0"), ("cells", "client_ttft")]),
    ("/api/charts", &[("from", "6h"), ("route", "r1"), ("by", "backend")]),
    ("/api/charts", &[("from", "6h"), ("route", "r1"), ("model", "m2"), ("backend", "b1")]),
    ("/api/charts", &[("from", "6h"), ("model", "absent")]),
];

/// The JSON of a page of the admin listener; cursors belong to their store.
fn answer(store: &dyn Store, path: &str, params: &[(&str, &str)]) -> Value {
    let page = API_PAGES.iter().find(|page| page.path == path).unwrap();
    let params: HashMap<String, String> =
        params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut answer = page.answer(store, &params, DAY + 6 * 3600 * SECOND).unwrap();
    if let Some(next) = answer.get_mut("next") {
        *next = next.is_string().into();
    }
    answer
}

fn assert_equal_json(sqlite: &dyn Store, postgres: &dyn Store) {
    for (path, params) in QUERIES {
        let (one, other) = (answer(sqlite, path, params), answer(postgres, path, params));
        assert_eq!(one, other, "{path} {params:?}");
    }
}

#[test]
fn sqlite_answers() {
    let sqlite = Sqlite::new(&batches());
    assert_answers(&sqlite.store);
    // A comparison of empty answers would prove nothing.
    for (path, params) in
        QUERIES.iter().filter(|(_, params)| !params.contains(&("model", "absent")))
    {
        let text = answer(&sqlite.store, path, params).to_string();
        assert!(
            text.contains("id-") || text.contains("\"requests\"") || text.contains("\"value\""),
            "{path} {params:?}"
        );
    }
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn postgres_answers_as_sqlite_does() {
    let server = Server::new();
    let mut gateway = server.gateway();
    for batch in batches() {
        assert_eq!(gateway.deliver(&batch, LIMIT), Ok(()));
    }
    let store = PostgresStore::new(server.database.clone(), LIMIT);
    assert_answers(&store);
    assert_equal_json(&Sqlite::new(&batches()).store, &store);
    assert_eq!(gateway.counters().stored(), RECORDS);
    assert_eq!(gateway.counters().repeated(), 899 + 100);
    assert_eq!(server.number("SELECT count(*) FROM llm_lens.requests WHERE instance = 'gw'"), 5000);
}

/// Three gateways write the same minutes at the same time, in small batches, and the same texts
/// that PostgreSQL does not take.
#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn gateways_write_at_the_same_time() {
    let server = Server::new();
    let of = |gateway: u64| -> Vec<NumberedRecord> {
        let numbers = (0..RECORDS).filter(|number| number % 3 == gateway);
        numbers.map(|number| numbered(&format!("gw{gateway}"), number)).collect()
    };
    thread::scope(|scope| {
        for number in 0..3 {
            let (mut gateway, records) = (server.gateway(), of(number));
            scope.spawn(move || {
                for batch in records.chunks(40) {
                    assert_eq!(gateway.deliver(batch, LIMIT), Ok(()));
                }
            });
        }
    });
    let mut together: Vec<NumberedRecord> = (0..3).flat_map(of).collect();
    together.sort_by_key(|numbered| numbered.key.sequence);
    let store = PostgresStore::new(server.database.clone(), LIMIT);
    assert_answers(&store);
    assert_equal_json(&Sqlite::new(&[together]).store, &store);
    let slots = server.number("SELECT count(DISTINCT slot) FROM llm_lens.rollups");
    assert!((2..=3).contains(&slots), "{slots} slots");
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn texts_that_postgres_refuses_are_stored() {
    let server = Server::new();
    let mut odd = numbered("gw\0", 1);
    let record = Arc::make_mut(&mut odd.record);
    record.model_requested = Some("m\0'\"\\".into());
    record.id = "é".repeat(2000);
    record.started_at = 240_000_000_000_000_000;
    assert_eq!(server.gateway().deliver(std::slice::from_ref(&odd), LIMIT), Ok(()));
    let store = PostgresStore::new(server.database.clone(), LIMIT);
    let page = store.page(&PageQuery { limit: 10, ..PageQuery::default() }).unwrap();
    assert_eq!(page.rows[0].model.as_deref(), Some("m\u{fffd}'\"\\"));
    assert_eq!(store.records(&odd.record.id).unwrap().0, [(*odd.record).clone()]);
    assert_eq!(all(&store, &equals(&[(Field::Model, "m\0'\"\\")]), 10).len(), 1);
    Arc::make_mut(&mut odd.record).started_at = u64::MAX;
    odd.key.sequence += 1;
    let result = server.gateway().deliver(&[odd, numbered("gw", 5)], LIMIT);
    assert!(matches!(&result, Err(DeliveryError::Permanent { lost: 1, .. })), "{result:?}");
}
