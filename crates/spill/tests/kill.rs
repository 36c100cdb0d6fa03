//! A process that appends under load is killed twenty times.
//!
//! The child is this test binary: it runs the test `child`, which does nothing without a folder.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::Rng as _;
use spill::{Item, Limits, Reason, Spill, WhenFull};

const FOLDER: &str = "SPILL_TEST_FOLDER";
const ROUNDS: usize = 20;
const BATCH: u64 = 50;
const LIMITS: Limits =
    Limits { max_bytes: 256 << 20, max_age: None, when_full: WhenFull::DropOldest };

/// What the parent knows from the lines of the child: each is the end of a range of entries.
#[derive(Debug, Default)]
struct Reported {
    announced: u64,
    synced: u64,
    acknowledged: u64,
}

impl Reported {
    fn read(&mut self, line: &str) {
        // The harness may have begun the line.
        let mut words = line.split_whitespace().rev();
        let Some(end) = words.next().and_then(|end| end.parse().ok()) else { return };
        match words.next() {
            Some("announced") => self.announced = end,
            Some("synced") => self.synced = end,
            Some("acknowledged") => self.acknowledged = end,
            _ => {}
        }
    }
}

fn report(what: &str, end: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {end}").and_then(|()| out.flush()).expect("the parent reads");
}

/// An entry has its sequence number and some hundred bytes.
fn entry(sequence: u64) -> Vec<u8> {
    let mut bytes = vec![sequence as u8; 400 + (sequence % 700) as usize];
    bytes.splice(..8, sequence.to_le_bytes());
    bytes
}

#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (mut spill, _) = Spill::open(Path::new(&folder), LIMITS, 1).expect("opens");
    let mut next = spill.next_sequence();
    for round in 0.. {
        spill.announcer().announce(BATCH).expect("announces");
        report("announced", next + BATCH);
        for _ in 0..BATCH {
            spill.append(&entry(next)).expect("appends");
            next += 1;
        }
        assert_eq!(spill.sync(1).expect("syncs").end, next);
        report("synced", next);
        // Slower than the appends, so that segments wait.
        if round % 2 == 0 {
            let end = spill.read(BATCH as usize, usize::MAX).expect("reads").end;
            spill.acknowledge(end, 1).expect("acknowledges");
            report("acknowledged", end);
        }
    }
}

/// Runs the child and kills it after some lines.
fn kill_child(folder: &Path, reported: &mut Reported) {
    let mut child = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut random = rand::rng();
    for _ in 0..random.random_range(5..150) {
        let line = lines.next().expect("the child runs").expect("text");
        reported.read(&line);
    }
    // Somewhere within a step. No result depends on the time.
    std::thread::sleep(Duration::from_micros(random.random_range(0..3_000)));
    child.kill().expect("killed");
    child.wait().expect("ended");
    lines.map_while(Result::ok).for_each(|line| reported.read(&line));
}

#[test]
fn killed_process_loses_only_the_batch_it_had_not_synced() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut reported, mut lost) = (Reported::default(), 0);
    for round in 0..ROUNDS {
        kill_child(folder.path(), &mut reported);
        let (mut spill, recovery) = Spill::open(folder.path(), LIMITS, 1).expect("opens");
        let synced = spill.unacknowledged();
        assert!(synced.start >= reported.acknowledged, "{round}: {synced:?} {reported:?}");
        assert!(synced.end >= reported.synced, "{round}: {synced:?} {reported:?}");
        // What was announced and not synced is counted.
        let announced = spill.next_sequence();
        assert!(
            [reported.announced, reported.announced + BATCH].contains(&announced),
            "{round}: {synced:?} {recovery:?} {reported:?}"
        );
        assert!(recovery.lost <= BATCH, "{round}: {recovery:?}");
        lost += recovery.lost;
        let batch = spill.read(usize::MAX, usize::MAX).expect("readable");
        let mut at = synced.start;
        for item in batch.items {
            match item {
                Item::Entry { sequence, bytes } => {
                    assert_eq!((sequence, &bytes), (at, &entry(at)), "{round}");
                    at += 1;
                }
                Item::Gap(gap) => {
                    assert_eq!((gap.first, gap.reason), (at, Reason::Unsynced), "{round}");
                    assert!(gap.count() <= lost, "{round}: {gap:?}");
                    at = gap.last + 1;
                }
            }
        }
        assert_eq!(at, synced.end, "{round}");
    }
    assert!(reported.synced > 1_000, "{reported:?}");
}
