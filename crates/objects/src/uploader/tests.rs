use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use super::disk::{Disk, Entry};
use super::*;
use crate::error::{ObjectError, Scope};
use crate::options::{BucketOptions, Credentials};
use crate::s3::{Fault, Store};

const SECRET: &str = "secret-key-of-the-test";

fn wall_us() -> u64 {
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap().as_micros()).unwrap()
}

fn bucket(port: u16) -> Bucket {
    Bucket::new(BucketOptions {
        bucket: "records".into(),
        endpoint: Some(format!("http://127.0.0.1:{port}").parse().unwrap()),
        region: "us-east-1".into(),
        credentials: Some(Credentials {
            access_key: "AKID".into(),
            secret_key: SECRET.into(),
            session_token: Some("token-of-the-test".into()),
        }),
        ca: None,
        timeout: Duration::from_millis(300),
        wall_us,
    })
    .unwrap()
}

fn options(folder: &Path, keep: Option<Duration>) -> UploadOptions {
    UploadOptions {
        folder: folder.to_owned(),
        object_name: Box::new(|name| {
            let is_complete = name.starts_with("records-") && name.ends_with(".csv");
            is_complete.then(|| format!("p/date=1/{name}"))
        }),
        keep,
        max_waiting: u64::MAX,
        interval: Duration::from_millis(10),
        backoff: (Duration::from_millis(10), Duration::from_millis(50)),
    }
}

fn worker<D: Disk>(disk: D, port: u16, options: UploadOptions) -> (Worker<D>, Arc<UploadCounters>) {
    let counters = Arc::<UploadCounters>::default();
    (Worker::new(disk, bucket(port), options, counters.clone()), counters)
}

/// A folder with files of different lengths; one takes several parts.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, size) in [(1, 10), (2, 200_000), (3, 1)] {
        let content: Vec<u8> = (0..size).map(|at| (at * number % 251) as u8).collect();
        fs::write(folder.path().join(format!("records-{number}.csv")), content).unwrap();
    }
    fs::write(folder.path().join("records-4.csv.partial"), "unfinished").unwrap();
    fs::write(folder.path().join("other.txt"), "of another program").unwrap();
    folder
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).map(|entries| {
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        entries.flatten().map(name).filter(|name| name.ends_with(".csv")).collect()
    });
    let mut names: Vec<String> = entries.unwrap_or_default();
    names.sort();
    names
}

fn uploads(worker: &mut Worker<impl Disk>) -> Result<(), ObjectError> {
    worker.pass(&|| false)
}

#[test]
fn complete_files_become_objects_and_are_removed() {
    let (store, folder) = (Store::start(), folder());
    let content = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let all = ["records-1.csv", "records-2.csv", "records-3.csv"].map(|name| {
        let content = content(name);
        (format!("p/date=1/{name}"), content)
    });
    let bytes: usize = all.iter().map(|(_, content)| content.len()).sum();
    let disk = super::disk::Folder::new(folder.path().to_owned());
    let (mut worker, counters) = worker(disk, store.port, options(folder.path(), None));
    uploads(&mut worker).unwrap();
    assert_eq!(store.objects(), all.into());
    assert!(files(folder.path()).is_empty());
    assert_eq!((counters.stored(), counters.bytes()), (3, bytes as u64));
    assert_eq!((counters.waiting(), counters.waiting_bytes(), counters.failures()), (0, 0, 0));
    let names: Vec<_> = ["records-4.csv.partial", "other.txt"].map(content).into();
    assert!(names.iter().all(|content| !content.is_empty()), "other files stay");
    let seen = store.seen();
    assert_eq!(seen.len(), 3, "one request for each file, on one connection");
    for seen in seen {
        assert_eq!(seen.target.get(..22), Some("/records/p/date%3D1/re"));
        assert_eq!(seen.headers["if-none-match"], "*");
        assert_eq!(seen.headers["x-amz-security-token"], "token-of-the-test");
        let signature = &seen.headers["authorization"];
        assert!(signature.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"), "{signature}");
        let signed = "host;if-none-match;x-amz-content-sha256;x-amz-date;x-amz-meta-sha256;x-amz-security-token";
        assert!(signature.contains(signed), "{signature}");
    }
}

/// Ends the process before or after one of its operations on the folder: every later one fails.
struct Dying {
    disk: super::disk::Folder,
    left: Arc<AtomicUsize>,
    happens: bool,
}

impl Dying {
    fn step<T>(
        &mut self,
        operation: impl FnOnce(&mut super::disk::Folder) -> io::Result<T>,
    ) -> io::Result<T> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other("the process is dead"));
        }
        self.left.store(left - 1, Ordering::Relaxed);
        if left > 1 {
            return operation(&mut self.disk);
        }
        if self.happens {
            operation(&mut self.disk)?;
        }
        Err(io::Error::other("the process is dead"))
    }
}

impl Disk for Dying {
    fn lock(&mut self) -> io::Result<bool> {
        self.step(|disk| disk.lock())
    }
    fn list(&mut self) -> io::Result<Vec<Entry>> {
        self.step(|disk| disk.list())
    }
    fn open(&mut self, name: &str) -> io::Result<File> {
        self.step(|disk| disk.open(name))
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.step(|disk| disk.remove(name))
    }
    fn keep(&mut self, name: &str) -> io::Result<()> {
        self.step(|disk| disk.keep(name))
    }
    fn kept(&mut self) -> io::Result<Vec<Entry>> {
        self.step(|disk| disk.kept())
    }
    fn remove_kept(&mut self, name: &str) -> io::Result<()> {
        self.step(|disk| disk.remove_kept(name))
    }
}

/// The next process finishes what a killed one has begun, whatever it had done.
#[track_caller]
fn the_next_process_completes(store: &Store, folder: &Path, keep: Option<Duration>, case: &str) {
    let disk = super::disk::Folder::new(folder.to_owned());
    let (mut worker, counters) = worker(disk, store.port, options(folder, keep));
    uploads(&mut worker).unwrap();
    let contents = store.objects();
    let sizes: Vec<usize> = contents.values().map(Vec::len).collect();
    assert_eq!(sizes, [10, 200_000, 1], "{case}");
    assert!(
        contents["p/date=1/records-2.csv"]
            .iter()
            .enumerate()
            .all(|(at, byte)| { usize::from(*byte) == at * 2 % 251 })
    );
    assert_eq!(store.overwritten(), 0, "{case}");
    assert!(files(folder).is_empty(), "{case}");
    let kept = if keep.is_some() { 3 } else { 0 };
    assert_eq!(files(&folder.join("uploaded")).len(), kept, "{case}");
    assert_eq!(counters.problem(), None, "{case}");
}

#[test]
fn a_process_that_is_killed_at_any_operation_on_the_folder_loses_and_doubles_nothing() {
    for keep in [None, Some(Duration::from_secs(3600))] {
        for happens in [false, true] {
            let mut deaths = 0;
            for at in 1.. {
                let (store, folder) = (Store::start(), folder());
                let left = Arc::new(AtomicUsize::new(at));
                let disk = super::disk::Folder::new(folder.path().to_owned());
                let dying = Dying { disk, left: left.clone(), happens };
                let (mut dead, _) = worker(dying, store.port, options(folder.path(), keep));
                let result = uploads(&mut dead);
                drop(dead);
                let case = format!("operation {at}, happens: {happens}, keeps: {}", keep.is_some());
                the_next_process_completes(&store, folder.path(), keep, &case);
                if result.is_ok() {
                    break;
                }
                deaths += 1;
            }
            // The lock, the list, and opening and removing each file.
            assert!(deaths >= 8, "{deaths} deaths");
        }
    }
}

#[test]
fn a_process_that_is_killed_within_any_request_loses_and_doubles_nothing() {
    for fault in [Fault::Close, Fault::ServeAndClose, Fault::ServeAndCut, Fault::Stall] {
        for at in 0..3 {
            let (store, folder) = (Store::start(), folder());
            // The files before are uploaded, and the fault hits the next one.
            for number in (at + 1)..=3 {
                let name = format!("records-{number}.csv");
                fs::rename(folder.path().join(&name), folder.path().join(name + ".later")).unwrap();
            }
            let disk = super::disk::Folder::new(folder.path().to_owned());
            let (mut dead, _) = worker(disk, store.port, options(folder.path(), None));
            uploads(&mut dead).unwrap();
            for number in (at + 1)..=3 {
                let name = format!("records-{number}.csv");
                let later = folder.path().join(format!("{name}.later"));
                fs::rename(later, folder.path().join(name)).unwrap();
            }
            store.fail(std::slice::from_ref(&fault));
            let error = uploads(&mut dead).unwrap_err();
            assert_eq!(error.scope, Scope::Store, "{fault:?}: {error}");
            drop(dead);
            let case = format!("request {at}: {fault:?}");
            the_next_process_completes(&store, folder.path(), None, &case);
        }
    }
}

#[test]
fn faults_of_the_store_are_named_without_secrets_and_repaired_by_the_next_attempt() {
    let (store, folder) = (Store::start(), folder());
    let disk = super::disk::Folder::new(folder.path().to_owned());
    let (mut worker, counters) = worker(disk, store.port, options(folder.path(), None));
    let denied = "<Error><Code>AccessDenied</Code><Message>AKID secret-key-of-the-test token-of-the-test</Message></Error>";
    let region = "x-amz-bucket-region: eu-west-1\r\n";
    let long = "retry-after: 7\r\n";
    for (fault, problem) in [
        (Fault::Answer(403, "", denied), "http_403: AccessDenied: *** *** ***"),
        (Fault::Answer(403, "", ""), "http_403: the store refuses the credentials"),
        (
            Fault::Answer(
                404,
                "",
                "<Error><Code>NoSuchBucket</Code><Message>none</Message></Error>",
            ),
            "http_404: NoSuchBucket: none",
        ),
        (Fault::Answer(301, region, ""), "http_301: the bucket is in the region eu-west-1"),
        (Fault::Answer(500, "", "not xml"), "http_500: the answer has no reason"),
        (Fault::Answer(503, long, "<Error><Code>SlowDown</Code></Error>"), "http_503: SlowDown"),
        (Fault::Close, "connection: "),
        (Fault::Stall, "timeout: no progress for 300ms"),
    ] {
        store.fail(&[fault]);
        let error = uploads(&mut worker).unwrap_err();
        let text = counters.problem().unwrap();
        assert!(text.starts_with(problem), "{text}");
        assert_eq!(text, error.to_string());
        assert!(!text.contains(SECRET) && !text.contains("token-of"), "{text}");
        if problem.contains("503") {
            assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
        }
        assert_eq!(files(folder.path()).len(), 3, "{problem}");
    }
    assert_eq!((counters.failures(), counters.waiting()), (8, 3));
    uploads(&mut worker).unwrap();
    assert_eq!((counters.problem(), store.objects().len()), (None, 3));
}

#[test]
fn a_store_that_is_down_is_a_named_failure() {
    let folder = folder();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let disk = super::disk::Folder::new(folder.path().to_owned());
    let (mut worker, counters) = worker(disk, port, options(folder.path(), None));
    uploads(&mut worker).unwrap_err();
    let text = counters.problem().unwrap();
    assert!(text.starts_with(&format!("connect: 127.0.0.1:{port}: ")), "{text}");
    assert_eq!((counters.waiting(), counters.waiting_bytes()), (3, 200_011));
}

#[test]
fn a_file_with_a_fault_of_its_own_does_not_stop_the_others() {
    let (store, folder) = (Store::start(), folder());
    let large = "<Error><Code>EntityTooLarge</Code></Error>";
    store.fail(&[Fault::Answer(413, "", large)]);
    let disk = super::disk::Folder::new(folder.path().to_owned());
    let (mut worker, counters) = worker(disk, store.port, options(folder.path(), None));
    let error = uploads(&mut worker).unwrap_err();
    assert_eq!(error.to_string(), "http_413: records-1.csv: EntityTooLarge:");
    assert_eq!((store.objects().len(), files(folder.path()).len()), (2, 1));
    assert_eq!((counters.waiting(), counters.waiting_bytes()), (1, 10));
}

#[test]
fn an_object_of_another_program_is_not_overwritten() {
    for keeps_no_metadata in [false, true] {
        let (store, folder) = (Store::start(), folder());
        if keeps_no_metadata {
            store.keep_no_metadata();
        }
        let same = fs::read(folder.path().join("records-3.csv")).unwrap();
        // Of the same size and of another one; the third has the same content.
        store.put("p/date=1/records-1.csv", b"0123456789");
        store.put("p/date=1/records-2.csv", b"short");
        store.put("p/date=1/records-3.csv", &same);
        let disk = super::disk::Folder::new(folder.path().to_owned());
        let (mut worker, counters) = worker(disk, store.port, options(folder.path(), None));
        uploads(&mut worker).unwrap();
        let objects = store.objects();
        assert_eq!(objects["p/date=1/records-1.csv"], b"0123456789");
        let names: Vec<&String> = objects.keys().collect();
        assert_eq!(names.len(), 5, "{names:?}");
        let own = names.iter().find(|name| name.contains("records-2-")).unwrap();
        assert_eq!(own.len(), "p/date=1/records-2-0123456789abcdef.csv".len(), "{own}");
        assert_eq!(objects[*own].len(), 200_000);
        assert_eq!((counters.stored(), counters.stored_before()), (2, 1));
        assert_eq!(store.overwritten(), 0);
    }
}

#[test]
fn the_oldest_files_are_removed_beyond_the_limit_and_counted() {
    let (store, folder) = (Store::start(), folder());
    let disk = super::disk::Folder::new(folder.path().to_owned());
    let options = UploadOptions { max_waiting: 200_001, ..options(folder.path(), None) };
    let (mut worker, counters) = worker(disk, store.port, options);
    store.fail(&[Fault::Close]);
    uploads(&mut worker).unwrap_err();
    assert_eq!(files(folder.path()), ["records-2.csv", "records-3.csv"]);
    assert_eq!((counters.dropped(), counters.waiting_bytes()), (1, 200_001));
}

#[test]
fn one_process_uploads_a_folder_and_the_next_takes_over() {
    let (store, folder) = (Store::start(), folder());
    let disk = || super::disk::Folder::new(folder.path().to_owned());
    let mut first = disk();
    assert!(first.lock().unwrap());
    let (mut second, counters) = worker(disk(), store.port, options(folder.path(), None));
    uploads(&mut second).unwrap();
    assert_eq!((store.seen().len(), counters.waiting()), (0, 3));
    drop(first);
    uploads(&mut second).unwrap();
    assert_eq!(store.objects().len(), 3);
}

#[test]
fn kept_files_are_removed_by_their_age() {
    let (store, folder) = (Store::start(), folder());
    let disk = super::disk::Folder::new(folder.path().to_owned());
    let keep = Some(Duration::from_secs(3600));
    let (mut worker, counters) = worker(disk, store.port, options(folder.path(), keep));
    uploads(&mut worker).unwrap();
    let uploaded = folder.path().join("uploaded");
    fs::write(uploaded.join("other.csv"), "of another program").unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(3601);
    for name in ["records-1.csv", "other.csv"] {
        File::options().append(true).open(uploaded.join(name)).unwrap().set_modified(old).unwrap();
    }
    uploads(&mut worker).unwrap();
    assert_eq!(files(&uploaded), ["other.csv", "records-2.csv", "records-3.csv"]);
    assert_eq!(counters.removed(), 1);
}

#[test]
fn the_thread_retries_and_the_end_does_not_wait_for_a_store_that_hangs() {
    let (store, folder) = (Store::start(), folder());
    store.fail(&[Fault::Close, Fault::Stall, Fault::Answer(500, "", "")]);
    let counters = Arc::<UploadCounters>::default();
    let options_of = || options(folder.path(), None);
    let start = |port| Uploader::start(bucket(port), options_of(), counters.clone()).unwrap();
    let uploader = start(store.port);
    let began = Instant::now();
    while counters.stored() < 3 {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", counters.problem());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(uploader);
    assert_eq!((counters.failures(), counters.problem()), (3, None));

    fs::write(folder.path().join("records-9.csv"), "left").unwrap();
    store.fail(&vec![Fault::Stall; 100]);
    let uploader = start(store.port);
    let began = Instant::now();
    while counters.failures() < 4 {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", counters.problem());
        std::thread::sleep(Duration::from_millis(5));
    }
    let began = Instant::now();
    drop(uploader);
    assert!(began.elapsed() < LAST_ATTEMPTS + Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(files(folder.path()), ["records-9.csv"]);
}

/// A clock that is an hour slow: the store's time counts.
#[test]
fn a_wrong_clock_is_corrected_by_the_stores() {
    let store = Store::start();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("records-1.csv"), "x").unwrap();
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>late</Message></Error>";
    store.fail(&[Fault::Answer(403, "date: Sat, 30 Nov 2126 12:00:00 GMT\r\n", skewed)]);
    let disk = super::disk::Folder::new(folder.path().to_owned());
    let (mut worker, counters) = worker(disk, store.port, options(folder.path(), None));
    uploads(&mut worker).unwrap();
    assert_eq!((counters.failures(), counters.stored()), (0, 1));
    let stamps: Vec<_> =
        store.seen().iter().map(|seen| seen.headers["x-amz-date"].clone()).collect();
    assert!(stamps[1].starts_with("21261130T1200"), "{stamps:?}");
}

#[test]
fn objects_are_listed_by_pages_and_read_back() {
    let store = Store::start();
    for number in 0..5 {
        store.put(&format!("p/{number}"), &[number; 3]);
    }
    store.put("q/1", b"other");
    let mut bucket = bucket(store.port);
    let (mut keys, mut from) = (Vec::new(), None);
    loop {
        let (page, next) = bucket.list("p/", from.as_deref()).unwrap();
        assert!(page.iter().all(|listed| listed.size == 3));
        keys.extend(page.into_iter().map(|listed| listed.key));
        from = next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["p/0", "p/1", "p/2", "p/3", "p/4"]);
    let mut content = Vec::new();
    assert_eq!(bucket.get("q/1", &mut content).unwrap(), 5);
    assert_eq!(content, b"other");
    assert_eq!(bucket.get("q/2", &mut content).unwrap_err().code, "http_404");
    let other = "x-amz-meta-sha256: 00\r\n";
    store.fail(&[Fault::Answer(200, other, "changed"), Fault::ServeAndCut]);
    assert_eq!(bucket.get("q/1", &mut Vec::new()).unwrap_err().code, "damaged");
    assert_eq!(bucket.get("q/1", &mut Vec::new()).unwrap_err().code, "connection");
    store.fail(&[Fault::Answer(200, "", "<html>a page of a proxy</html>")]);
    assert_eq!(bucket.list("", None).unwrap_err().code, "list");
}
