//! A gateway's record pipeline is killed twenty times under load, with a spill and a destination
//! that fails now and then.
//!
//! The child is this test binary: it runs the test `child`, which does nothing without a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lens::{Record, Tick};
use observatory::{
    DeliveryError, DeliverySettings, DeliverySink, Destination, DropReason, Group, NumberedRecord,
    Observatory, SeriesKey, SpillSettings, WhenFull,
};
use spill::{Limits, Spill};

const FOLDER: &str = "OBSERVATORY_TEST_FOLDER";
const DRAIN: &str = "OBSERVATORY_TEST_DRAIN";
const ROUNDS: usize = 20;
const MAX_SIZE: u64 = 256 << 20;

/// Appends the keys of records to a file; fails for a third of the batches, half of these after it
/// has written them.
struct Store(File);

impl Destination for Store {
    fn name(&self) -> &'static str {
        "store"
    }

    fn deliver(&mut self, batch: &[NumberedRecord], _: Duration) -> Result<(), DeliveryError> {
        let failure = || DeliveryError::Retryable { why: "a test fails".into(), after: None };
        let chance: f64 = rand::random();
        if chance < 0.17 {
            return Err(failure());
        }
        let lines: String = batch
            .iter()
            .map(|numbered| format!("{} {}\n", numbered.key.epoch, numbered.key.sequence))
            .collect();
        // A killed process may have left half a line.
        let lines = format!("\n{lines}");
        self.0.write_all(lines.as_bytes()).map_err(|_| failure())?;
        if chance < 0.34 { Err(failure()) } else { Ok(()) }
    }
}

fn record() -> Record {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r", "endpoint": "/v1/chat/completions",
        "stream": true, "outcome": "ok", "bytes_from_client": 10, "bytes_to_client": 20, "ledger_us": {}, "total_us": 1
    }))
    .expect("a record")
}

fn report(what: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {number}").and_then(|()| out.flush()).expect("the parent reads");
}

#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let store = OpenOptions::new().create(true).append(true).open(folder.join("store"));
    let settings = DeliverySettings {
        batch: 200,
        queue: 100_000,
        linger: Duration::ZERO,
        timeout: Duration::from_secs(1),
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        spill: Some(SpillSettings {
            path: folder.join("spill"),
            max_size: MAX_SIZE,
            max_age: None,
            when_full: WhenFull::DropNewest,
        }),
    };
    let sink = DeliverySink::start(Store(store.expect("a file")), settings).expect("starts");
    let observatory = Observatory::new(2, 10, vec![Box::new(sink)]);
    let counts = observatory.sinks().last().expect("a sink").clone();
    let unsynced = |(reason, count)| (reason == DropReason::Unsynced).then_some(count);
    report("lost", counts.dropped_by_reason().find_map(unsynced).unwrap_or(0));
    let delivery = counts.delivery().expect("it has a queue");
    if std::env::var_os(DRAIN).is_some() {
        while delivery.spilled() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        return;
    }
    let group = Group {
        route: "r".into(),
        backend: "b".into(),
        provider: "vllm".into(),
        operation: "chat",
        models: Vec::new().into(),
        labels: Vec::new().into(),
        server: "127.0.0.1:8000".into(),
    };
    let key = SeriesKey {
        group: observatory.group(group).0,
        model: 0,
        outcome: lens::record::Outcome::Ok,
    };
    for worker in 0.. {
        (0..50).for_each(|_| observatory.finished(worker, key, record(), Tick(1)));
        report("pushed", 50);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped());
    command
}

/// The number of a line of the child; the harness may have begun the line.
fn number(line: &str, what: &str) -> Option<u64> {
    line.rsplit_once(what)?.1.trim().parse().ok()
}

/// Runs the child, kills it after some lines unless it drains, and returns what it has lost.
fn run_child(folder: &Path, kill: bool) -> u64 {
    let mut command = start(folder);
    if !kill {
        command.env(DRAIN, "1");
    }
    let mut child = command.spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("the child runs").expect("text");
    let lost = loop {
        if let Some(lost) = number(&next(), "lost ") {
            break lost;
        }
    };
    if kill {
        let wanted = 20 + rand::random::<u32>() % 60;
        (0..wanted).for_each(|_| drop(next()));
        // Somewhere within a step. No result depends on the time.
        std::thread::sleep(Duration::from_micros(u64::from(rand::random::<u32>() % 20_000)));
        child.kill().expect("killed");
    }
    lines.map_while(Result::ok).for_each(drop);
    let status = child.wait().expect("ended");
    assert!(kill || status.success(), "{status}");
    lost
}

#[test]
fn killed_gateway_loses_only_counted_records_and_doubles_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut lost: u64 = (0..ROUNDS).map(|_| run_child(folder.path(), true)).sum();
    lost += run_child(folder.path(), false);
    let store = std::fs::read_to_string(folder.path().join("store")).expect("a store");
    let mut by_epoch: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for line in store.lines() {
        // A store that has a key ignores it.
        let Some((epoch, sequence)) = line.split_once(' ') else { continue };
        let Ok(sequence) = sequence.parse() else { continue };
        by_epoch.entry(epoch).or_default().insert(sequence);
    }
    assert!(by_epoch.len() >= ROUNDS - 2, "{} epochs", by_epoch.len());
    for (epoch, sequences) in &by_epoch {
        let last = sequences.last().copied().unwrap_or(0);
        assert_eq!(sequences.len() as u64, last + 1, "records of {epoch} are missing");
    }
    let stored: u64 = by_epoch.values().map(|sequences| sequences.len() as u64).sum();
    let limits = Limits { max_bytes: MAX_SIZE, max_age: None, when_full: WhenFull::DropNewest };
    let (spill, recovery) = Spill::open(&folder.path().join("spill"), limits, 1).expect("opens");
    assert_eq!((recovery.waiting, recovery.lost), (0, 0), "the last child ended in order");
    assert_eq!(stored + lost, spill.next_sequence(), "{lost} counted as lost");
    assert!(stored > 10_000, "{stored}");
}
