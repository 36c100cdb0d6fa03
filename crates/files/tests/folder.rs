//! The sink of files: rotation, recovery after a kill, faults.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use files::{Counters, FolderOptions};
use lens::RecordFormat;
use observatory::{DeliverySink, RecordKey, Sink as _};
use support::{formats, numbered, read, write};

const PATIENCE: Duration = Duration::from_secs(60);

fn options(format: RecordFormat) -> FolderOptions {
    FolderOptions { format, max_size: 1 << 30, interval: Duration::from_secs(3600), keep: None }
}

fn now() -> u64 {
    1_767_323_045_678_901
}

fn start(folder: &Path, options: FolderOptions) -> (DeliverySink, Arc<Counters>) {
    let counters = Arc::<Counters>::default();
    (files::sink(folder, options, counters.clone(), now).expect("a sink"), counters)
}

/// Delivers records with these numbers.
fn deliver(sink: &mut DeliverySink, numbers: std::ops::Range<u64>) {
    let first = RecordKey { instance: "gw-1".into(), epoch: 1, sequence: numbers.start };
    let records: Vec<_> = numbers.map(|number| numbered(number).record).collect();
    sink.deliver_numbered(&first, &records).expect("queued");
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < limit, "not so: {what}");
        std::thread::yield_now();
    }
}

/// The names of the files of a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The numbers of all complete files; no other file is there.
fn sequences(folder: &Path) -> Vec<u64> {
    let mut all = Vec::new();
    for name in names(folder) {
        let rows = read(&folder.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        all.extend(rows.iter().map(|row| row.key.as_ref().expect("a key").sequence));
    }
    all.sort_unstable();
    all
}

#[test]
fn end_completes_the_file_of_each_format() {
    for format in formats() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        let (mut sink, counters) = start(&folder, options(format));
        let counts = sink.own_counts().unwrap();
        deliver(&mut sink, 0..100);
        until("they are written", || counts.delivered() == 100);
        let open = names(&folder);
        assert!(open.len() == 1 && open[0].ends_with(".partial"), "{open:?}");
        deliver(&mut sink, 100..150);
        drop(sink);
        assert_eq!(sequences(&folder), (0..150).collect::<Vec<_>>(), "{format:?}");
        let name = names(&folder).remove(0);
        assert!(name.starts_with("records-20260102T030405Z-"), "{name}");
        assert_eq!((counters.completed(), counters.failures()), (1, 0));
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(folder.join(name)), mode(folder)), (0o600, 0o700));
    }
}

#[test]
fn files_rotate_at_their_size() {
    for format in formats() {
        let folder = tempfile::tempdir().unwrap();
        let small = FolderOptions { max_size: 3_000, ..options(format) };
        let (mut sink, counters) = start(folder.path(), small);
        let counts = sink.own_counts().unwrap();
        for from in (0..500).step_by(100) {
            deliver(&mut sink, from..from + 100);
            until("they are written", || counts.delivered() == from + 100);
        }
        until("all are complete", || counters.completed() == 5);
        assert_eq!(sequences(folder.path()), (0..500).collect::<Vec<_>>(), "{format:?}");
    }
}

#[test]
fn files_rotate_at_the_end_of_an_interval_and_when_the_clock_jumps_back() {
    static NOW: AtomicU64 = AtomicU64::new(3_599_999_999);
    let folder = tempfile::tempdir().unwrap();
    let clock = || NOW.load(Ordering::Relaxed);
    let counters = Arc::<Counters>::default();
    let options = options(RecordFormat::Jsonl);
    let mut sink = files::sink(folder.path(), options, counters.clone(), clock).unwrap();
    let counts = sink.own_counts().unwrap();
    for (number, us, complete) in
        [(0, 3_599_999_999, 0), (1, 3_600_000_000, 1), (2, 7_199_999_999, 1), (3, 5, 2)]
    {
        NOW.store(us, Ordering::Relaxed);
        deliver(&mut sink, number..number + 1);
        until("it is written", || counts.delivered() == number + 1);
        assert_eq!(counters.completed(), complete, "{number}");
    }
    // Without records, too.
    NOW.store(3_600_000_001, Ordering::Relaxed);
    drop(sink);
    let names = names(folder.path());
    assert!(names[0].starts_with("records-19700101T000000Z-"), "{names:?}");
    assert_eq!((names.len(), sequences(folder.path())), (3, vec![0, 1, 2, 3]));
}

/// What a killed process leaves is a file that ends anywhere.
#[test]
fn unfinished_files_of_a_killed_process_are_completed() {
    let rows = [numbered(0), numbered(1), numbered(2)];
    for format in formats() {
        let parent = tempfile::tempdir().unwrap();
        let waiting = if format.is_columnar() { RecordFormat::Msgpack } else { format };
        let whole = fs::read(write(parent.path(), &rows, waiting)).unwrap();
        let two = fs::read(write(parent.path(), &rows[..2], waiting)).unwrap().len();
        for cut in [0, 1, two - 1, two, two + 1, whole.len() - 1, whole.len()] {
            let folder = parent.path().join("folder");
            fs::create_dir(&folder).unwrap();
            let name = format!("records-20260102T030405Z-x-0.{}", format.extension());
            fs::write(folder.join(format!("{name}.partial")), &whole[..cut]).unwrap();
            let (sink, counters) = start(&folder, options(format));
            drop(sink);
            let left: Vec<u64> = match cut {
                _ if cut == whole.len() => vec![0, 1, 2],
                _ if cut >= two => vec![0, 1],
                _ if cut >= two - 1 => vec![0],
                _ => vec![],
            };
            assert_eq!(sequences(&folder), left, "{format:?} at {cut} of {}", whole.len());
            assert_eq!(counters.completed(), u64::from(!left.is_empty()));
            assert_eq!(counters.failures(), 0);
            fs::remove_dir_all(folder).unwrap();
        }
    }
}

/// Killed between the renaming of a file of columns and the removal of its rows.
#[cfg(feature = "arrow")]
#[test]
fn rows_of_a_complete_file_are_removed() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let rows = [numbered(0), numbered(1)];
    let target = folder.join("records-x.parquet");
    fs::rename(write(parent.path(), &rows, RecordFormat::Parquet), &target).unwrap();
    let partial = folder.join("records-x.parquet.partial");
    fs::rename(write(parent.path(), &rows, RecordFormat::Msgpack), &partial).unwrap();
    fs::write(folder.join("records-y.parquet.tmp"), "half").unwrap();
    drop(start(&folder, options(RecordFormat::Parquet)));
    fs::remove_file(folder.join("records-y.parquet.tmp")).unwrap();
    assert_eq!(sequences(&folder), [0, 1]);
}

/// During an upgrade, both gateways write to the folder.
#[test]
fn file_that_another_process_writes_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, _) = start(folder.path(), options(RecordFormat::Csv));
    let counts = first.own_counts().unwrap();
    deliver(&mut first, 0..10);
    until("they are written", || counts.delivered() == 10);
    let (mut second, counters) = start(folder.path(), options(RecordFormat::Csv));
    deliver(&mut second, 10..20);
    drop(second);
    assert_eq!(counters.completed(), 1);
    deliver(&mut first, 20..30);
    drop(first);
    assert_eq!(sequences(folder.path()), (0..30).collect::<Vec<_>>());
}

#[test]
fn records_wait_while_the_folder_is_away() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, away) = (parent.path().join("records"), parent.path().join("away"));
    let (mut sink, _) = start(&folder, options(RecordFormat::Msgpack));
    let counts = sink.own_counts().unwrap();
    fs::rename(&folder, &away).unwrap();
    deliver(&mut sink, 0..10);
    until("it is tried", || counts.last_error().is_some_and(|why| why.contains("No such file")));
    assert_eq!((counts.delivered(), counts.dropped()), (0, 0));
    fs::rename(&away, &folder).unwrap();
    until("they are delivered", || counts.delivered() == 10);
    drop(sink);
    assert_eq!(sequences(&folder), (0..10).collect::<Vec<_>>());
}

/// A file that cannot be completed is tried again, counted, and does not stop the others.
#[test]
fn file_that_cannot_be_completed_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), &[numbered(1)], RecordFormat::Csv);
    fs::rename(good, folder.path().join("records-b.csv.partial")).unwrap();
    let strange = folder.path().join("records-a.xyz.partial");
    fs::write(&strange, "x").unwrap();
    let (sink, counters) = start(folder.path(), options(RecordFormat::Csv));
    drop(sink);
    assert!(counters.failures() > 0);
    assert_eq!(names(folder.path()), ["records-a.xyz.partial", "records-b.csv"]);
}

#[test]
fn old_files_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    for (name, age_s) in [
        ("records-old.csv", 7200),
        ("records-new.csv", 3000),
        ("other.csv", 7200),
        ("records-old.txt", 7200),
    ] {
        let file = fs::File::create(folder.path().join(name)).unwrap();
        let at = Duration::from_micros(now()) - Duration::from_secs(age_s);
        file.set_modified(std::time::UNIX_EPOCH + at).unwrap();
    }
    let keep = Some(Duration::from_secs(3600));
    let (sink, counters) =
        start(folder.path(), FolderOptions { keep, ..options(RecordFormat::Csv) });
    drop(sink);
    assert_eq!(names(folder.path()), ["other.csv", "records-new.csv", "records-old.txt"]);
    assert_eq!((counters.removed(), counters.failures()), (1, 0));
}
