//! Retention, damage, newer versions, a full disk, two writers.

use super::*;

#[test]
fn old_and_excess_partitions_are_dropped_as_files() {
    let kit = Kit::new();
    let options = StoreOptions { max_rows: 1000, ..StoreOptions::default() };
    let mut writer = kit.writer(options.clone());
    writer.write(&batch(0..2500), DAY).unwrap();
    let day = 86_400 * SECOND;
    assert_eq!(writer.drop_old(DAY + 7 * day), 0, "records of the window may be younger");
    // A reader that has begun reads on.
    let reader = schema::open_reader(&kit.path().join(&kit.files()[0])).unwrap().unwrap();
    assert_eq!(writer.drop_old(DAY + 8 * day), 3);
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
        Arc::get_mut(&mut records[at].record).unwrap().started_at = started_at;
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
fn batch_that_meets_a_full_disk_is_written_again_as_a_whole() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    writer.write(&batch(0..1000), DAY).unwrap();
    writer.limit_pages(Some(100));
    let error = writer.write(&batch(1000..9000), DAY).unwrap_err();
    let DeliveryError::Retryable { why, .. } = error else { panic!("{error}") };
    assert!(why.contains("full"), "{why}");
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
    assert_eq!(new.drop_old(u64::MAX), 1, "the other part is still written");
    assert_eq!(kit.all(&Filter::default(), 10), ids([5, 2, 1, 0]));
}

/// A successor opens the folder, writes, and then gets the records that its predecessor has stored
/// but not acknowledged.
#[test]
fn records_of_a_predecessor_that_come_again_are_stored_once() {
    let kit = Kit::new();
    let mut old = kit.writer(StoreOptions::default());
    old.write(&batch(0..3), DAY).unwrap();
    let of_successor = |number| {
        let mut own = numbered(number);
        own.key.epoch = 2;
        own
    };
    let mut new = kit.writer(StoreOptions::default());
    assert_eq!(new.write(&[of_successor(0)], DAY), Ok(1));
    old.write(&batch(3..10), DAY).unwrap();
    drop(old);
    assert_eq!(new.write(&batch(0..12), DAY), Ok(2));
    assert_eq!(new.write(&batch(0..12), DAY), Ok(0));
    let files: Vec<u64> =
        kit.store().summary().unwrap().partitions.iter().map(|one| one.records).collect();
    assert_eq!(files, [10, 3]);
}

/// `keep` was changed, so the same record belongs to a window of another length.
#[test]
fn record_that_comes_again_after_a_change_of_keep_is_stored_once() {
    let kit = Kit::new();
    kit.writer(StoreOptions::default()).write(&batch(0..10), DAY).unwrap();
    let hours = StoreOptions::new(Duration::from_secs(7200), 0);
    assert_eq!(kit.writer(hours).write(&batch(5..12), DAY), Ok(2));
    assert_eq!(kit.files().len(), 2);
    assert_eq!(kit.writer(StoreOptions::default()).write(&batch(0..13), DAY), Ok(1));
    assert_eq!(kit.all(&Filter::default(), 5).len(), 13);
}

/// The damaged part is named by queries; the part that is written must not be renamed for it.
#[test]
fn damage_of_another_part_does_not_stop_writing() {
    let kit = Kit::new();
    let options = StoreOptions { max_rows: 100, ..StoreOptions::default() };
    let mut writer = kit.writer(options.clone());
    writer.write(&batch(0..150), DAY).unwrap();
    drop(writer);
    let mut writer = kit.writer(options);
    let first = kit.path().join(&kit.files()[0]);
    let mut bytes = fs::read(&first).unwrap();
    bytes[8192..].fill(0x5a);
    fs::write(&first, bytes).unwrap();
    assert_eq!(writer.write(&batch(150..160), DAY), Ok(10));
    assert_eq!((kit.counters.damaged_partitions(), kit.files().len()), (0, 2));
    let page = kit.page(Filter::default(), 1000);
    assert_eq!((page.rows.len(), page.problems.len()), (60, 1), "{:?}", page.problems);
}

#[test]
fn removed_file_is_created_again() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    writer.write(&batch(0..10), DAY).unwrap();
    for entry in fs::read_dir(kit.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(writer.write(&batch(10..15), DAY), Ok(5));
    assert_eq!(kit.all(&Filter::default(), 10), ids((10..15).rev()));
    drop(writer);
    assert_eq!(kit.all(&Filter::default(), 10).len(), 5, "also after the file is closed");
}

/// Damaged files have records, so they leave the folder as records do.
#[test]
fn damaged_files_are_removed_by_age_and_size() {
    for by_size in [true, false] {
        let kit = Kit::new();
        let mut writer = kit.writer(StoreOptions::default());
        writer.write(&batch(0..10), DAY).unwrap();
        writer.close();
        fs::write(kit.path().join(&kit.files()[0]), vec![1; 5_000_000]).unwrap();
        writer.write(&batch(10..12), DAY).unwrap();
        assert_eq!((kit.files().len(), kit.counters.damaged_partitions()), (2, 1));
        writer.drop_old(DAY + 7 * 86_400 * SECOND);
        assert_eq!(kit.files().len(), 2);
        if by_size {
            writer.options.max_bytes = 4_000_000;
            assert_eq!((writer.drop_excess(), kit.files().len()), (0, 1));
            assert_eq!(kit.all(&Filter::default(), 10), ids([11, 10]));
            assert!((1..4_000_000).contains(&kit.counters.bytes()));
        } else {
            assert_eq!((writer.drop_old(DAY + 8 * 86_400 * SECOND), kit.files().len()), (1, 0));
        }
    }
}

/// A new part makes room before the folder grows beyond its limit.
#[test]
fn size_is_checked_with_each_new_part() {
    let kit = Kit::new();
    let options = StoreOptions { max_rows: 1000, max_bytes: 1_500_000, ..StoreOptions::default() };
    let mut writer = kit.writer(options);
    for from in (0..20_000).step_by(500) {
        writer.write(&batch(from..from + 500), DAY).unwrap();
    }
    let summary = kit.store().summary().unwrap();
    assert!(summary.bytes < 3_000_000 && summary.records > 1000, "{summary:?}");
    assert!(kit.counters.dropped_partitions() > 5);
}

#[test]
fn folder_that_is_away_keeps_the_batch_pending() {
    let kit = Kit::new();
    let mut writer = kit.writer(StoreOptions::default());
    let away = kit.folder.path().join("away");
    fs::rename(kit.path(), &away).unwrap();
    let error = writer.write(&batch(0..3), DAY).unwrap_err();
    assert!(matches!(error, DeliveryError::Retryable { .. }), "{error}");
    fs::rename(&away, kit.path()).unwrap();
    assert_eq!(writer.write(&batch(0..3), DAY), Ok(3));
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
