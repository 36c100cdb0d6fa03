use std::fs;

use lens::Record;
use observatory::RecordKey;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::query::{ChartQuery, FacetQuery, Filter, Page, PageQuery, Store as _};
use crate::{Field, Rollup, SqliteStore, StoreError};

/// 2026-01-02T00:00:00Z.
const DAY: u64 = 1_767_312_000_000_000;
const SECOND: u64 = 1_000_000;

/// The record with this number: one per second from [`DAY`] on.
fn record(number: u64) -> Record {
    let (model, outcome) =
        (format!("m{}", number % 3), if number % 10 == 9 { "timeout" } else { "ok" });
    let mut record: Record = serde_json::from_value(json!({
        "schema": 1, "id": format!("id-{number}"), "started_at": "2026-01-02T00:00:00Z", "route": "chat", "endpoint": "/v1/chat/completions",
        "stream": true, "model_requested": model, "outcome": outcome, "http_status": 200, "bytes_from_client": 1, "bytes_to_client": 2,
        "engine_ttft_us": 10_000 + number, "client_ttft_us": 10_100 + number, "tpot_us": 8000.5, "trace_id": format!("{number:032x}"),
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "estimated": false}, "cost": 0.5,
        "ledger_us": {"gateway": 100}, "total_us": 100_000 + number
    }))
    .unwrap();
    record.backend = Some(if number.is_multiple_of(2) { "b0".into() } else { "b1".into() });
    record.started_at = DAY + number * SECOND;
    record
}

fn numbered(number: u64) -> NumberedRecord {
    let key = RecordKey { instance: "gw".into(), epoch: 1, sequence: number };
    NumberedRecord { key, record: Arc::new(record(number)) }
}

fn batch(numbers: impl IntoIterator<Item = u64>) -> Vec<NumberedRecord> {
    numbers.into_iter().map(numbered).collect()
}

struct Kit {
    folder: TempDir,
    counters: Arc<Counters>,
}

impl Kit {
    fn new() -> Self {
        Kit { folder: tempfile::tempdir().unwrap(), counters: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("records")
    }

    fn writer(&self, options: StoreOptions) -> Writer {
        Writer::open(&self.path(), options, self.counters.clone(), DAY).unwrap()
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::new(&self.path(), Duration::from_secs(10))
    }

    fn page(&self, filter: Filter, limit: usize) -> Page {
        self.store().page(&PageQuery { filter, after: None, limit }).unwrap()
    }

    /// All records that match, by pages of `limit`.
    fn all(&self, filter: &Filter, limit: usize) -> Vec<String> {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let query = PageQuery { filter: filter.clone(), after, limit };
            let page = self.store().page(&query).unwrap();
            assert_eq!(page.problems, Vec::<String>::new());
            ids.extend(page.rows.into_iter().map(|row| row.id));
            // A cursor survives being text.
            after = page.next.map(|next| next.to_string().parse().unwrap());
            if after.is_none() {
                return ids;
            }
        }
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".sqlite") || name.contains(".damaged-"))
            .collect();
        names.sort();
        names
    }
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("id-{number}")).collect()
}

fn equals(field: Field, value: &str) -> Filter {
    Filter { equals: vec![(field, value.to_owned())], ..Filter::default() }
}

fn chart(equals: &[(Field, &str)], group_by: Option<Field>) -> ChartQuery {
    ChartQuery {
        from_s: DAY / SECOND,
        to_s: DAY / SECOND + 7200,
        step_s: 3600,
        equals: equals.iter().map(|(field, text)| (*field, (*text).to_owned())).collect(),
        group_by,
        series: 10,
    }
}

#[test]
fn pages_have_each_matching_record_once_newest_first() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions { max_rows: 2000, ..StoreOptions::default() });
    // Small and large batches: chunks, a tail, and three parts.
    for numbers in [0..1, 1..700, 700..1500, 1500..4100, 4100..4103] {
        assert_eq!(writer.write(&batch(numbers.clone()), DAY), Ok(numbers.end - numbers.start));
    }
    assert_eq!(kit.files().len(), 3, "{:?}", kit.files());
    assert_eq!(kit.all(&Filter::default(), 97), ids((0..4103).rev()));
    assert_eq!(
        kit.all(&equals(Field::Model, "m1"), 100),
        ids((0..4103).rev().filter(|n| n % 3 == 1))
    );
    let mut both = equals(Field::Outcome, "timeout");
    both.equals.push((Field::Backend, "b1".into()));
    assert_eq!(kit.all(&both, 100), ids((0..4103).rev().filter(|n| n % 10 == 9)));
    assert_eq!(kit.all(&equals(Field::Status, "200"), 1000).len(), 4103);
    assert_eq!(kit.all(&equals(Field::Stream, "false"), 1000), ids([]));
    assert_eq!(kit.all(&equals(Field::Caller, "unknown"), 1000), ids([]));
    let time = Filter {
        from_us: Some(DAY + 100 * SECOND),
        to_us: Some(DAY + 103 * SECOND),
        ..Filter::default()
    };
    assert_eq!(kit.all(&time, 2), ids([102, 101, 100]));
    let slow = Filter { slower_than_us: Some(104_100), ..Filter::default() };
    assert_eq!(kit.all(&slow, 10), ids([4102, 4101]));
    let late = Filter { ttft_over_us: Some(14_200), ..Filter::default() };
    assert_eq!(kit.all(&late, 10), ids([4102, 4101]));
    let row = kit.page(Filter::default(), 1).rows.remove(0);
    assert_eq!(row.started_at, DAY + 4102 * SECOND);
    assert_eq!((row.route.as_deref(), row.model.as_deref()), (Some("chat"), Some("m1")));
    assert_eq!((row.output_tokens, row.cost, row.tpot_us), (Some(9), Some(0.5), Some(8000.5)));
    for wrong in [0, 1001] {
        let query = PageQuery { limit: wrong, ..PageQuery::default() };
        assert!(matches!(kit.store().page(&query), Err(StoreError::Query(_))), "{wrong}");
    }
    let query = PageQuery { filter: equals(Field::Status, "ok"), after: None, limit: 1 };
    assert!(kit.store().page(&query).unwrap_err().to_string().contains("such as 200"));
}

#[test]
fn page_continues_where_it_ended_while_records_are_written() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    writer.write(&batch(0..3000), DAY).unwrap();
    let first = kit.page(Filter::default(), 10);
    writer.write(&batch(3000..6000), DAY).unwrap();
    let query = PageQuery { filter: Filter::default(), after: first.next, limit: 2 };
    let second: Vec<String> =
        kit.store().page(&query).unwrap().rows.into_iter().map(|row| row.id).collect();
    assert_eq!(second, ids([2989, 2988]));
    // Without time, a page ends early and says where to continue.
    let hurried = SqliteStore::new(&kit.path(), Duration::ZERO);
    let query = PageQuery { filter: equals(Field::Outcome, "timeout"), after: None, limit: 1000 };
    let (mut after, mut found, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = hurried.page(&PageQuery { after, ..query.clone() }).unwrap();
        found.extend(page.rows.into_iter().map(|row| row.id));
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
        assert!(page.timed_out);
    }
    assert_eq!((found, pages), (ids((0..6000).rev().filter(|n| n % 10 == 9)), 6));
    // A page ends between partitions, too.
    drop(writer);
    let mut writer = kit.writer(StoreOptions { max_rows: 6000, ..StoreOptions::default() });
    writer.write(&batch(6000..6001), DAY).unwrap();
    let query = PageQuery { filter: Filter::default(), after: None, limit: 10 };
    let page = hurried.page(&query).unwrap();
    assert_eq!((page.rows.len(), page.timed_out), (1, true));
    let rest = hurried.page(&PageQuery { after: page.next, ..query }).unwrap();
    assert_eq!(rest.rows[0].id, "id-5999");
}

#[test]
fn record_is_found_by_each_of_its_ids_in_chunks_and_tail() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    let mut records = batch(0..1500);
    let mut own = record(1500);
    (own.unique_id, own.id) = (Some("unique".into()), "id-3".into());
    records.push(NumberedRecord { record: Arc::new(own.clone()), ..numbered(1500) });
    writer.write(&records, DAY).unwrap();
    let found = |id: &str| kit.store().records(id).unwrap().0;
    assert_eq!(found("id-3"), [own.clone(), record(3)]);
    assert_eq!(found("id-1400"), [record(1400)]);
    assert_eq!(found(&format!("{:032x}", 7)), [record(7)]);
    assert_eq!(found("unique"), [own]);
    assert_eq!(found("id"), []);
}

#[test]
fn the_same_key_twice_changes_neither_rows_nor_sums() {
    let kit = Kit::new();
    let options = StoreOptions { max_rows: 1000, ..StoreOptions::default() };
    let mut writer = kit.writer(options.clone());
    writer.write(&batch(0..1500), DAY).unwrap();
    // In the same batch, in another part, and after a restart.
    assert_eq!(writer.write(&batch([1499, 1500, 1500, 3]), DAY), Ok(1));
    drop(writer);
    let mut writer = kit.writer(options);
    assert_eq!(writer.write(&batch((0..1501).rev()), DAY), Ok(0));
    assert_eq!((kit.counters.stored(), kit.counters.repeated()), (1501, 3 + 1501));
    assert_eq!(kit.all(&Filter::default(), 500).len(), 1501);
    let sums = kit.store().chart(&chart(&[], None)).unwrap();
    let requests: u64 = sums.series[0].points.iter().map(|(_, rollup)| rollup.requests()).sum();
    assert_eq!(requests, 1501);
    // Another start of the same gateway has other records.
    let mut other = numbered(3);
    other.key.epoch = 2;
    assert_eq!(writer.write(&[other], DAY), Ok(1));
}

#[test]
fn facets_count_each_value_by_hour() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions { max_rows: 3000, ..StoreOptions::default() });
    for from in (0..7300).step_by(100) {
        writer.write(&batch(from..from + 100), DAY).unwrap();
    }
    let facets = |from: Option<u64>, limit| {
        let query = FacetQuery {
            fields: vec![Field::Model, Field::Outcome, Field::Status, Field::Caller],
            from_us: from.map(|s| DAY + s * SECOND),
            to_us: None,
            limit,
        };
        kit.store().facets(&query).unwrap().fields
    };
    let all = facets(None, 10);
    let named = |text: &str, rows| (text.to_owned(), rows);
    assert_eq!(all[0].values, [named("m0", 2434), named("m1", 2433), named("m2", 2433)]);
    assert_eq!(all[1].values, [named("ok", 6570), named("timeout", 730)]);
    assert_eq!(all[2].values, [named("200", 7300)]);
    assert_eq!(all[3].values, []);
    let last_hour = facets(Some(7200), 1);
    assert_eq!((last_hour[0].distinct, last_hour[0].others), (3, 66));
    assert_eq!(last_hour[1].values, [named("ok", 90)]);
    let wrong = kit.store().facets(&FacetQuery::default());
    assert!(matches!(wrong, Err(StoreError::Query(_))));
}

#[test]
fn charts_merge_sketches_of_all_partitions() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions { max_rows: 1000, ..StoreOptions::default() });
    for from in (0..5000).step_by(250) {
        writer.write(&batch(from..from + 250), DAY).unwrap();
    }
    let exact = |matches: fn(u64) -> bool| {
        let mut hours = [Rollup::default(), Rollup::default()];
        (0..5000u64).filter(|n| matches(*n)).for_each(|n| {
            hours[(n / 3600) as usize].observe(&record(n));
        });
        let [first, second] = hours;
        vec![(DAY / SECOND, first), (DAY / SECOND + 3600, second)]
    };
    let points = |equals: &[(Field, &str)]| {
        let chart = kit.store().chart(&chart(equals, None)).unwrap();
        assert_eq!((chart.series.len(), chart.problems.len()), (1, 0));
        chart.series.into_iter().next().unwrap().points
    };
    assert_eq!(points(&[]), exact(|_| true));
    assert_eq!(points(&[(Field::Outcome, "timeout")]), exact(|n| n % 10 == 9));
    assert_eq!(
        points(&[(Field::Backend, "b1"), (Field::Model, "m2"), (Field::Route, "chat")]),
        exact(|n| n % 2 == 1 && n % 3 == 2)
    );
    let by_model = kit.store().chart(&chart(&[], Some(Field::Model))).unwrap().series;
    assert_eq!(by_model[0].label.as_deref(), Some("m0"));
    assert_eq!((by_model.len(), &by_model[1].points), (3, &exact(|n| n % 3 == 1)));
    let combined = kit.store().chart(&chart(&[(Field::Backend, "b0")], Some(Field::Model)));
    assert_eq!(combined.unwrap().series.len(), 3);
    // Minutes give the same sums.
    let minutes = ChartQuery { step_s: 120, ..chart(&[], None) };
    let minutes = kit.store().chart(&minutes).unwrap().series.remove(0).points;
    assert_eq!((minutes.len(), minutes[0].1.requests()), (42, 120));
    let nothing = kit.store().chart(&chart(&[(Field::Model, "none")], None)).unwrap();
    assert_eq!(nothing.series, []);
    for (wrong, expected) in [
        (ChartQuery { step_s: 90, ..chart(&[], None) }, "multiple of 1m"),
        (ChartQuery { to_s: 0, ..chart(&[], None) }, "before to"),
        (ChartQuery { from_s: 0, ..chart(&[], None) }, "1500 points"),
        (ChartQuery { series: 0, ..chart(&[], None) }, "from 1 to 50"),
        (chart(&[(Field::Caller, "x")], None), "one of route, backend, model, owner, outcome"),
    ] {
        let error = kit.store().chart(&wrong).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn values_beyond_the_limit_share_a_rollup_and_charts_say_so() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    let own_model = |number: u64| {
        let mut own = numbered(number);
        Arc::get_mut(&mut own.record).unwrap().model_requested = Some(format!("own-{number}"));
        own
    };
    let records: Vec<NumberedRecord> = (0..1200).map(own_model).collect();
    writer.write(&records, DAY).unwrap();
    let first = kit.store().chart(&chart(&[(Field::Model, "own-7")], None)).unwrap();
    assert_eq!((first.series.len(), first.problems.len()), (1, 1), "{:?}", first.problems);
    let all = kit.store().chart(&chart(&[], None)).unwrap();
    assert_eq!((all.series[0].points[0].1.requests(), all.problems.len()), (1200, 0));
    assert_eq!(kit.all(&equals(Field::Model, "own-1150"), 10), ids([1150]));
}

mod faults;

/// The records of all scans, each from the place of an earlier one or of a single record.
fn scanned(kit: &Kit, filter: &lens::RecordFilter) -> Vec<u64> {
    let (mut sequences, mut from) = (Vec::new(), None);
    loop {
        let scan = kit.store().scan(from, filter).unwrap();
        for scanned in &scan.records {
            assert_eq!(scanned.key, numbered(scanned.key.sequence).key);
            assert_eq!(scanned.record, record(scanned.key.sequence));
        }
        sequences.extend(scan.records.iter().map(|scanned| scanned.key.sequence));
        if let Some(last) = scan.records.last() {
            let place = scan.place(last).unwrap().to_string().parse().unwrap();
            let again = kit.store().scan(Some(place), filter).unwrap();
            assert_eq!(again.records[0].key, last.key, "a scan begins at its place");
        }
        from = scan.next;
        if from.is_none() {
            return sequences;
        }
    }
}

#[test]
fn scans_have_every_record_once_in_the_order_of_storing() {
    let kit = Kit::new();
    let hours = StoreOptions::new(Duration::from_secs(3600), 0);
    // Chunks and a tail in each of two windows of an hour.
    kit.writer(hours.clone()).write(&batch(0..2600), DAY).unwrap();
    kit.writer(hours).write(&batch(2600..6000), DAY).unwrap();
    let all = lens::RecordFilter::default();
    assert_eq!(scanned(&kit, &all), (0..6000).collect::<Vec<_>>());
    let mut some = lens::RecordFilter::default();
    for condition in ["from=2026-01-02T01:00:00Z", "outcome=timeout"] {
        some.add(condition, 0).unwrap();
    }
    assert_eq!(scanned(&kit, &some), (3600..6000).filter(|n| n % 10 == 9).collect::<Vec<_>>());
}

#[test]
fn scan_of_a_damaged_file_names_it() {
    let kit = Kit::new();
    kit.writer(StoreOptions::default()).write(&batch(0..10), DAY).unwrap();
    let name = kit.files().remove(0);
    fs::write(kit.path().join(&name), "not a database, and long enough to be read as one").unwrap();
    let error = kit.store().scan(None, &lens::RecordFilter::default()).unwrap_err().to_string();
    assert!(error.contains(&name), "{error}");
}
