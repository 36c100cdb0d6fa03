//! A scripted workload crashes or fails at each of its steps: each write, sync, rename and removal.
//!
//! After each crash, the spill is opened again and checked: no acknowledged entry comes back, no
//! synced entry is missing, the order is kept, no sequence number is used twice.

mod fake_disk;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use fake_disk::{FakeDisk, Fault, Survives};
use spill::{Item, Limits, Reason, Spill, WhenFull};

const FOLDER: &str = "/spill";
const LIMITS: Limits =
    Limits { max_bytes: 64 << 10, max_age: None, when_full: WhenFull::DropOldest };
/// Three entries fill a segment.
const LONG: usize = 1_300;

/// What the workload has been promised.
#[derive(Default)]
struct Promised {
    /// Entries that a sync has confirmed.
    synced: BTreeMap<u64, Vec<u8>>,
    /// All entries before it are acknowledged, and the ledger was written.
    acknowledged: u64,
    /// The acknowledgement that may have been written.
    tried: u64,
    /// Number of the next entry, which its bytes begin with.
    number: u32,
    is_full: bool,
}

impl Promised {
    fn append(&mut self, spill: &mut Spill<FakeDisk>, count: usize, len: usize) -> io::Result<()> {
        // Without it, a crash counts too few lost entries.
        let _ = spill.announcer().announce(count as u64);
        let mut entries = Vec::new();
        for _ in 0..count {
            self.number += 1;
            let mut entry = vec![self.number as u8; len];
            entry.splice(..4, self.number.to_le_bytes());
            spill.append(&entry)?;
            entries.push(entry);
        }
        self.sync(spill, entries)
    }

    /// Syncs until it succeeds or the disk has crashed.
    fn sync(&mut self, spill: &mut Spill<FakeDisk>, entries: Vec<Vec<u8>>) -> io::Result<()> {
        let written = spill.sync(1).or_else(|_| spill.sync(1))?;
        assert!(
            self.synced.last_key_value().is_none_or(|(last, _)| *last < written.start),
            "a sequence number is used twice"
        );
        // A gap of an earlier crash precedes the entries.
        let first = written.end - entries.len() as u64;
        self.synced.extend((first..written.end).zip(entries));
        Ok(())
    }

    fn acknowledge(&mut self, spill: &mut Spill<FakeDisk>, items: usize) -> io::Result<()> {
        let end = spill.read(items, usize::MAX)?.end;
        self.tried = end;
        spill.acknowledge(end, 1).or_else(|_| spill.acknowledge(end, 1))?;
        self.acknowledged = end;
        Ok(())
    }

    /// Reads everything and compares it with the promises.
    fn check(&self, spill: &mut Spill<FakeDisk>) {
        let batch = spill.read(usize::MAX, usize::MAX).expect("readable");
        let mut at = spill.unacknowledged().start;
        assert!(at >= self.acknowledged, "{at} comes back, {} are acknowledged", self.acknowledged);
        assert!(at <= self.acknowledged.max(self.tried), "{at} was not acknowledged");
        for item in batch.items {
            match item {
                Item::Entry { sequence, bytes } => {
                    assert_eq!(sequence, at, "the order is kept, without gaps");
                    if let Some(expected) = self.synced.get(&sequence) {
                        assert_eq!(&bytes, expected, "entry {sequence}");
                    }
                    at += 1;
                }
                Item::Gap(gap) => {
                    assert_eq!(gap.first, at);
                    let lost = self.synced.range(gap.first..=gap.last).count();
                    let may = self.is_full && gap.reason == Reason::Full;
                    assert!(lost == 0 || may, "{lost} synced entries are missing: {gap:?}");
                    at = gap.last + 1;
                }
            }
        }
        assert_eq!(at, batch.end);
        let missing: Vec<_> = self.synced.range(at..).map(|(sequence, _)| *sequence).collect();
        assert!(missing.is_empty(), "missing at the end: {missing:?}");
    }
}

fn open(disk: &FakeDisk) -> io::Result<Spill<FakeDisk>> {
    Spill::open_on(disk.clone(), Path::new(FOLDER), LIMITS, 1)
        .map(|(spill, _)| spill)
        .map_err(io::Error::other)
}

/// Appends to several segments, acknowledges in parts, restarts, and fills the spill.
fn work(disk: &FakeDisk, promised: &mut Promised) -> io::Result<()> {
    let mut spill = open(disk).or_else(|_| open(disk))?;
    promised.append(&mut spill, 3, 10)?;
    promised.append(&mut spill, 1, 10)?;
    promised.acknowledge(&mut spill, 2)?;
    promised.append(&mut spill, 2, LONG)?;
    promised.append(&mut spill, 3, LONG)?;
    promised.acknowledge(&mut spill, 4)?;
    spill.skip(2, Reason::Skipped);
    promised.append(&mut spill, 2, LONG)?;
    promised.acknowledge(&mut spill, 9)?;
    drop(spill);
    let mut spill = open(disk).or_else(|_| open(disk))?;
    promised.append(&mut spill, 2, 10)?;
    promised.acknowledge(&mut spill, usize::MAX)?;
    promised.append(&mut spill, 4, LONG)?;
    drop(spill);
    let mut spill = open(disk).or_else(|_| open(disk))?;
    promised.is_full = true;
    for _ in 0..20 {
        promised.append(&mut spill, 3, LONG)?;
    }
    promised.acknowledge(&mut spill, 5)?;
    promised.append(&mut spill, 1, 10)
}

fn steps() -> usize {
    let (disk, mut promised) = (FakeDisk::default(), Promised::default());
    work(&disk, &mut promised).expect("no fault");
    let steps = disk.steps();
    promised.check(&mut open(&disk).expect("opens"));
    steps
}

/// Opens the spill after a crash, checks it, and uses it once more.
fn check_after(disk: &FakeDisk, promised: &mut Promised, survives: Survives, seed: u64) {
    let disk = disk.restart(survives, seed);
    let mut spill = open(&disk).expect("opens after a crash");
    promised.check(&mut spill);
    let first_new = spill.unacknowledged().end;
    assert!(promised.synced.keys().all(|synced| *synced < first_new || promised.is_full));
    promised.append(&mut spill, 1, 10).expect("appends after a crash");
    promised.check(&mut spill);
    promised.acknowledge(&mut spill, usize::MAX).expect("acknowledges after a crash");
    drop(spill);
    promised.check(&mut open(&disk.restart(Survives::Synced, 0)).expect("opens again"));
}

#[test]
fn crash_at_each_step_breaks_no_promise() {
    let steps = steps();
    assert!(steps > 100, "{steps}");
    let mut tried: BTreeMap<&str, usize> = BTreeMap::new();
    for step in 0..steps {
        let mut crash = |survives, seed| {
            let (disk, mut promised) = (FakeDisk::default(), Promised::default());
            disk.set_fault(step, Fault::Crash);
            // Some steps may fail without an effect on the workload, such as a removal.
            let _ = work(&disk, &mut promised);
            assert!(disk.has_crashed());
            *tried.entry(disk.step_name(step)).or_default() += 1;
            check_after(&disk, &mut promised, survives, seed);
        };
        crash(Survives::Written, 0);
        crash(Survives::Synced, 0);
        (0..8).for_each(|seed| crash(Survives::SyncedAndSome, seed));
    }
    for operation in ["create", "write", "sync", "sync_folder", "remove"] {
        assert!(tried.contains_key(operation), "no {operation} in {tried:?}");
    }
}

#[test]
fn failure_at_each_step_breaks_no_promise() {
    for step in 0..steps() {
        for survives in [Survives::Written, Survives::Synced, Survives::SyncedAndSome] {
            let (disk, mut promised) = (FakeDisk::default(), Promised::default());
            disk.set_fault(step, Fault::Fail);
            work(&disk, &mut promised)
                .unwrap_or_else(|error| panic!("{step}, {}: {error}", disk.step_name(step)));
            check_after(&disk, &mut promised, survives, step as u64);
        }
    }
}

/// The renaming of damaged files, at each step.
#[test]
fn crash_while_a_damaged_segment_is_set_aside_breaks_no_promise() {
    let prepare = || {
        let (disk, mut promised) = (FakeDisk::default(), Promised::default());
        let mut spill = open(&disk).expect("opens");
        promised.append(&mut spill, 3, LONG).expect("appends");
        promised.append(&mut spill, 3, LONG).expect("appends");
        drop(spill);
        // The second entry of the first segment is damaged.
        let file = spill::Disk::open(&disk, Path::new("/spill/00000000000000000000.segment"));
        spill::Disk::write_at(&disk, &file.expect("a segment"), b"xx", LONG as u64 + 200)
            .expect("writes");
        promised.synced.remove(&1);
        (disk, promised)
    };
    let finish = |disk: &FakeDisk, promised: &mut Promised| {
        let mut spill = open(disk)?;
        promised.acknowledge(&mut spill, usize::MAX)?;
        promised.append(&mut spill, 1, LONG)?;
        promised.acknowledge(&mut spill, usize::MAX)
    };
    let (disk, mut promised) = prepare();
    disk.set_fault(usize::MAX, Fault::Crash);
    finish(&disk, &mut promised).expect("no fault");
    let steps = disk.steps();
    let mut renamed = false;
    for step in 0..steps {
        for survives in [Survives::Written, Survives::SyncedAndSome] {
            let (disk, mut promised) = prepare();
            disk.set_fault(step, Fault::Crash);
            let _ = finish(&disk, &mut promised);
            renamed |= disk.step_name(step) == "rename";
            check_after(&disk, &mut promised, survives, step as u64);
        }
    }
    assert!(renamed, "no rename in {steps} steps");
}
