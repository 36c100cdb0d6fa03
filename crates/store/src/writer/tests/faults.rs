//! Retention, damage, newer versions, a full disk, two writers.

use super::*;

#[test]
fn old_and_excess_partitions_are_dropped_as_files() {
    let kit = Kit::new();
    let options = StoreOptions { max_rows: 1000, ..StoreOptions::default() };
    let mut writer = kit.writer(options.clone());
    writer.write(&batch(0..2500), DAY).unwrap();
    let day = 86_400 * SECOND;
    assert_eq!(writer.retain(DAY + 7 * day), 0, "records of the window may be younger");
    // A reader that has begun reads on.
    let reader = schema::open_reader(&kit.path().join(&kit.files()[0])).unwrap();
    assert_eq!(writer.retain(DAY + 8 * day), 3);
    let rows: i64 = reader.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap();
    assert_eq!((rows, kit.files().len()), (1000, 0));
    assert_eq!(kit.all(&Filter::default(), 10), ids([]));
    assert_eq!(
        kit.store().facets(&FacetQuery { limit: 1, ..FacetQuery::default() }).unwrap().problems,
        Vec::<String>::new()
    );
    // A late record begins its window again, beside nothing of the removed one.
    assert_eq!(writer.write(&batch(0..2500), DAY), Ok(2500));
    assert_eq!((kit.files().len(), kit.counters.dropped_partitions()), (3, 3));
    drop(writer);
    let mut writer = kit.writer(StoreOptions { max_bytes: 1, ..options });
    assert_eq!(kit.files().len(), 1, "the newest stays");
    assert_eq!(writer.write(&batch(5000..5001), DAY), Ok(1));
    assert_eq!(kit.all(&Filter::default(), 1000).len(), 501);
}

#[test]
fn clock_that_jumps_puts_records_into_windows_of_their_own() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    let mut records = batch(0..5);
    for (at, started_at) in [(1, DAY + 400 * 86_400 * SECOND), (3, 0)] {
        Arc::get_mut(&mut records[at].1).unwrap().started_at = started_at;
    }
    assert_eq!(writer.write(&records, DAY), Ok(5));
    assert_eq!(kit.files().len(), 3, "{:?}", kit.files());
    assert_eq!(kit.all(&Filter::default(), 2), ids([1, 4, 2, 0, 3]));
    assert_eq!(kit.counters.stored(), 5);
}

#[test]
fn damaged_partition_is_renamed_and_writing_goes_on() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    writer.write(&batch(0..10), DAY).unwrap();
    writer.close();
    let path = kit.path().join(&kit.files()[0]);
    fs::write(&path, b"this is no database, but a text of some length, as after a bad copy")
        .unwrap();
    assert_eq!(kit.page(Filter::default(), 10).problems.len(), 1, "a query names the file");
    assert_eq!(writer.write(&batch(10..12), DAY), Ok(2));
    assert_eq!((kit.counters.damaged_partitions(), kit.files().len()), (1, 2));
    assert!(kit.files()[1].contains(".sqlite.damaged-1767312000"), "{:?}", kit.files());
    assert_eq!(kit.all(&Filter::default(), 10), ids([11, 10]));
    // The start finds damage, too, and keeps both files.
    writer.close();
    fs::write(&path, b"this is no database, but a text of some length, as after a bad copy")
        .unwrap();
    let mut writer = kit.writer(StoreOptions::default());
    assert_eq!((kit.counters.damaged_partitions(), kit.files().len()), (2, 2));
    assert_eq!(writer.write(&batch(0..1), DAY), Ok(1));
    assert_eq!(kit.files().len(), 3);
}

#[test]
fn damage_inside_a_partition_is_found_when_it_is_written() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    writer.write(&batch(0..3000), DAY).unwrap();
    writer.close();
    let path = kit.path().join(&kit.files()[0]);
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 8;
    bytes[half..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    assert_eq!(writer.write(&batch(3000..3010), DAY), Ok(10));
    assert_eq!(kit.counters.damaged_partitions(), 1);
    assert_eq!(kit.all(&Filter::default(), 100), ids((3000..3010).rev()));
}

#[test]
fn newer_version_is_left_alone_and_named() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    writer.write(&batch(0..3), DAY).unwrap();
    drop(writer);
    let path = kit.path().join(&kit.files()[0]);
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", schema::VERSION + 1).unwrap();
    drop(newer);
    let before = fs::read(&path).unwrap();
    let mut writer = kit.writer(StoreOptions::default());
    assert_eq!(kit.counters.newer_partitions(), 1);
    assert_eq!(writer.write(&batch(3..5), DAY), Ok(2));
    assert_eq!((fs::read(&path).unwrap(), kit.files().len()), (before, 2));
    let page = kit.page(Filter::default(), 10);
    assert_eq!(page.rows.len(), 2);
    assert!(page.problems[0].contains("schema version 2 is newer than 1"), "{:?}", page.problems);
}

#[test]
fn full_disk_loses_whole_batches_and_writing_resumes() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    writer.write(&batch(0..1000), DAY).unwrap();
    writer.limit_pages(Some(100));
    let error = writer.write(&batch(1000..9000), DAY).unwrap_err();
    assert_eq!(error.lost, 8000);
    assert!(error.why.contains("full"), "{error}");
    assert_eq!(kit.all(&Filter::default(), 1000).len(), 1000);
    writer.limit_pages(None);
    assert_eq!(writer.write(&batch(500..9000), DAY), Ok(8000), "none of the failed batch is known");
    assert_eq!(kit.all(&Filter::default(), 1000), ids((0..9000).rev()));
    let sums = kit.store().chart(&ChartQuery { to_s: DAY / SECOND + 10_800, ..chart(&[], None) });
    let points = sums.unwrap().series.remove(0).points;
    assert_eq!(points.iter().map(|(_, rollup)| rollup.requests()).sum::<u64>(), 9000);
}

#[test]
fn two_writers_use_different_parts_and_readers_see_both() {
    let kit = Kit::new();
    let mut old = kit.writer(StoreOptions::default());
    old.write(&batch(0..3), DAY).unwrap();
    let mut new = kit.writer(StoreOptions::default());
    assert_eq!(new.write(&batch(3..5), DAY), Ok(2));
    assert_eq!(old.write(&batch(5..6), DAY), Ok(1));
    assert_eq!(new.retain(u64::MAX), 1, "the other part is still written");
    assert_eq!(kit.all(&Filter::default(), 10), ids([5, 2, 1, 0]));
}

#[test]
fn readers_see_whole_batches_while_records_are_written() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions { max_rows: 4000, ..StoreOptions::default() });
    writer.write(&batch(0..100), DAY).unwrap();
    let store = kit.store();
    let reading = std::thread::spawn(move || {
        let query = PageQuery { limit: 1, ..PageQuery::default() };
        let (mut newest, mut reads) = (0, 0);
        while newest < 11_999 {
            let page = store.page(&query).unwrap();
            assert_eq!(page.problems, Vec::<String>::new());
            let number: u64 = page.rows[0].id.trim_start_matches("id-").parse().unwrap();
            assert!(number >= newest && number % 100 == 99, "{number} after {newest}");
            (newest, reads) = (number, reads + 1);
            assert!(store.summary().unwrap().records > number);
        }
        reads
    });
    for from in (100..12_000).step_by(100) {
        writer.write(&batch(from..from + 100), DAY).unwrap();
    }
    assert!(reading.join().unwrap() > 1);
    let summary = kit.store().summary().unwrap();
    assert_eq!((summary.records, summary.partitions.len()), (12_000, 3));
}
