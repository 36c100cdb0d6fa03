use std::time::Duration;

use super::*;

const LIMITS: Limits =
    Limits { max_bytes: 1 << 20, max_age: None, when_full: WhenFull::DropOldest };

fn open(folder: &std::path::Path, limits: Limits) -> (Spill, Recovery) {
    Spill::open(folder, limits, 100).unwrap()
}

/// Entries as their first byte; gaps as (first, last, reason).
fn read(spill: &mut Spill, max_items: usize) -> (Vec<u8>, Vec<(u64, u64, Reason)>, u64) {
    let batch = spill.read(max_items, usize::MAX).unwrap();
    let (mut entries, mut gaps) = (Vec::new(), Vec::new());
    for item in batch.items {
        match item {
            Item::Entry { bytes, .. } => entries.push(bytes[0]),
            Item::Gap(Gap { first, last, reason }) => gaps.push((first, last, reason)),
        }
    }
    (entries, gaps, batch.end)
}

fn fill(spill: &mut Spill, numbers: Range<u8>, len: usize, now: u64) {
    for number in numbers {
        spill.append(&vec![number; len]).unwrap();
        spill.sync(now).unwrap();
    }
}

fn files(folder: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> =
        names.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn entries_come_back_until_they_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spill, recovery) = open(folder.path(), LIMITS);
    assert_eq!(recovery, Recovery::default());
    spill.append(b"a").unwrap();
    assert_eq!(spill.read(9, 9).unwrap().items, [], "an unsynced entry is not read");
    spill.append(b"b").unwrap();
    assert_eq!(spill.sync(100).unwrap(), 0..2);
    spill.append(b"c").unwrap();
    assert_eq!(spill.sync(100).unwrap(), 2..3);
    assert_eq!(read(&mut spill, 2), (b"ab".to_vec(), vec![], 2));
    assert_eq!(read(&mut spill, 9).0, b"abc");
    spill.acknowledge(1, 100).unwrap();
    assert_eq!(read(&mut spill, 9).0, b"bc");
    drop(spill);
    let (mut spill, recovery) = open(folder.path(), LIMITS);
    assert_eq!((recovery.waiting, recovery.lost), (2, 0));
    assert_eq!(read(&mut spill, 9), (b"bc".to_vec(), vec![], 3));
    spill.acknowledge(3, 100).unwrap();
    drop(spill);
    let (mut spill, _) = open(folder.path(), LIMITS);
    assert_eq!(files(folder.path()), ["announced", "ledger", "lock"], "the segment is removed");
    spill.append(b"d").unwrap();
    assert_eq!(spill.sync(100).unwrap(), 3..4, "numbers go on");
}

#[test]
fn folder_and_files_are_private_and_have_one_user() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a").join("b");
    let (mut spill, _) = open(&folder, LIMITS);
    spill.append(b"a").unwrap();
    spill.sync(100).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&folder) & 0o777, 0o700);
    for name in files(&folder) {
        assert_eq!(mode(&folder.join(&name)) & 0o777, 0o600, "{name}");
    }
    assert!(matches!(Spill::open(&folder, LIMITS, 100), Err(OpenError::InUse(_))));
    drop(spill);
    open(&folder, LIMITS);
}

#[test]
fn full_spill_drops_oldest_segments_and_leaves_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spill, _) = open(folder.path(), LIMITS);
    fill(&mut spill, 0..20, 60_000, 100);
    assert!(spill.bytes() <= LIMITS.max_bytes, "{}", spill.bytes());
    let lost = spill.counts().full;
    assert_eq!(lost, 3);
    let gap = vec![(0, lost - 1, Reason::Full)];
    assert_eq!(read(&mut spill, 99), ((3..20).collect(), gap.clone(), 20));
    drop(spill);
    let (mut spill, _) = open(folder.path(), LIMITS);
    assert_eq!(read(&mut spill, 99), ((3..20).collect(), gap, 20), "also after a restart");
    assert_eq!(spill.counts().full, 0);
    spill.acknowledge(20, 100).unwrap();
    assert_eq!(read(&mut spill, 99), (vec![], vec![], 20));
}

#[test]
fn full_spill_drops_newest_entries_and_leaves_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { when_full: WhenFull::DropNewest, ..LIMITS };
    let (mut spill, _) = open(folder.path(), limits);
    fill(&mut spill, 0..20, 60_000, 100);
    assert_eq!(spill.counts().full, 3);
    let (entries, _, end) = read(&mut spill, 99);
    assert_eq!((entries, end), ((0..17).collect(), 17));
    spill.acknowledge(10, 100).unwrap();
    fill(&mut spill, 20..22, 60_000, 100);
    let (entries, gaps, end) = read(&mut spill, 99);
    let expected: Vec<u8> = (10..17).chain(20..22).collect();
    assert_eq!((entries, gaps, end), (expected, vec![(17, 19, Reason::Full)], 22));
}

/// The gap of dropped entries is written although the spill is full, and it is counted once.
#[test]
fn gap_of_a_full_spill_is_written_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { when_full: WhenFull::DropNewest, ..LIMITS };
    let (mut spill, _) = open(folder.path(), limits);
    spill.announcer().announce(20).unwrap();
    fill(&mut spill, 0..20, 60_000, 100);
    assert_eq!(spill.sync_gap(100).unwrap(), 17..20);
    drop(spill);
    let (mut spill, recovery) = open(folder.path(), limits);
    assert_eq!(recovery.lost, 0);
    assert_eq!(read(&mut spill, 99), ((0..17).collect(), vec![(17, 19, Reason::Full)], 20));
}

/// Entries of 60 kB: one for each segment.
#[test]
fn entries_expire_by_age_and_a_clock_that_goes_back_expires_none() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { max_age: Some(Duration::from_secs(60)), ..LIMITS };
    let (mut spill, _) = open(folder.path(), limits);
    fill(&mut spill, 0..2, 60_000, 100);
    fill(&mut spill, 2..4, 60_000, 150);
    assert_eq!(spill.sync(160).unwrap(), 4..4);
    assert_eq!(spill.counts().expired, 0);
    spill.sync(0).unwrap();
    assert_eq!(spill.counts().expired, 0);
    spill.sync(161).unwrap();
    assert_eq!(spill.counts().expired, 2);
    assert_eq!(read(&mut spill, 9), (vec![2, 3], vec![(0, 1, Reason::Expired)], 4));
    spill.sync(999).unwrap();
    assert_eq!(read(&mut spill, 9), (vec![], vec![(0, 3, Reason::Expired)], 4));
    spill.acknowledge(4, 999).unwrap();
    fill(&mut spill, 4..5, 10, 999);
    assert_eq!(read(&mut spill, 9), (vec![4], vec![], 5));
}

/// A segment that gets an entry now and then ends, so that its first entries expire.
#[test]
fn slow_entries_expire_too() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { max_age: Some(Duration::from_secs(80)), ..LIMITS };
    let (mut spill, _) = open(folder.path(), limits);
    for second in 100..200 {
        fill(&mut spill, 0..1, 10, second);
    }
    assert!(spill.counts().expired > 5, "{:?}", spill.counts());
}

#[test]
fn skipped_and_unsynced_entries_leave_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spill, _) = open(folder.path(), LIMITS);
    spill.announcer().announce(5).unwrap();
    spill.skip(1, Reason::Skipped);
    spill.append(b"a").unwrap();
    spill.skip(2, Reason::Bypassed);
    spill.append(b"b").unwrap();
    assert_eq!(spill.sync(100).unwrap(), 0..5);
    let gaps = vec![(0, 0, Reason::Skipped), (2, 3, Reason::Bypassed)];
    assert_eq!(read(&mut spill, 9), (b"ab".to_vec(), gaps, 5));
    spill.acknowledge(5, 100).unwrap();
    spill.announcer().announce(3).unwrap();
    spill.append(b"c").unwrap();
    assert_eq!(spill.discard(), 1);
    drop(spill);
    let (spill, recovery) = open(folder.path(), LIMITS);
    assert_eq!((recovery.waiting, recovery.lost), (0, 3));
    drop(spill);
    let (mut spill, recovery) = open(folder.path(), LIMITS);
    assert_eq!((recovery.waiting, recovery.lost), (3, 0), "it is counted once");
    spill.append(b"d").unwrap();
    spill.sync(100).unwrap();
    assert_eq!(read(&mut spill, 9), (b"d".to_vec(), vec![(5, 7, Reason::Unsynced)], 9));
    spill.announcer().announce(2).unwrap();
    spill.skip(2, Reason::Bypassed);
    assert_eq!(spill.next_sequence(), 11);
    assert_eq!(spill.sync_gap(100).unwrap(), 9..11);
    drop(spill);
    assert_eq!(open(folder.path(), LIMITS).1.lost, 0, "the gap is on the disk");
}

/// Each byte of a segment is damaged in turn: the other entries come back, and the missing ones
/// are a gap.
#[test]
fn damaged_segments_lose_only_damaged_entries_and_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spill, _) = open(folder.path(), LIMITS);
    (0..4).for_each(|number| spill.append(&[number; 3]).unwrap());
    spill.sync(100).unwrap();
    drop(spill);
    // Not the last segment, whose end may be torn.
    let (mut spill, _) = open(folder.path(), LIMITS);
    fill(&mut spill, 4..5, 3, 100);
    drop(spill);
    let path = folder.path().join(segment_name(0));
    let whole = std::fs::read(&path).unwrap();
    for place in START as usize..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x40;
        std::fs::write(&path, damaged).unwrap();
        let (mut spill, _) = open(folder.path(), LIMITS);
        let hit = ((place - START as usize) / 27) as u8;
        let rest: Vec<u8> = (0..5).filter(|number| *number != hit).collect();
        let gap = vec![(u64::from(hit), u64::from(hit), Reason::Damaged)];
        assert_eq!(read(&mut spill, 99), (rest, gap, 5), "byte {place}");
        if place + 1 == whole.len() {
            spill.acknowledge(5, 777).unwrap();
            assert_eq!(spill.counts().damaged, 1);
        }
    }
    let aside = format!("{}.damaged-777", segment_name(0));
    assert!(files(folder.path()).contains(&aside), "{:?}", files(folder.path()));
}

#[test]
fn missing_segment_is_a_gap_and_few_damaged_files_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spill, _) = open(folder.path(), LIMITS);
    fill(&mut spill, 0..12, 60_000, 100);
    for number in [2, 4, 6, 8, 10] {
        std::fs::remove_file(folder.path().join(segment_name(number))).unwrap();
        std::fs::write(folder.path().join(segment_name(number + 1)), b"LLSPILL1").unwrap();
    }
    let (entries, gaps, end) = read(&mut spill, 99);
    assert_eq!((entries, end), (vec![0, 1], 12));
    let missing: u64 = gaps.iter().map(|(first, last, _)| last - first + 1).sum();
    assert_eq!(missing, 10);
    spill.acknowledge(end, 100).unwrap();
    fill(&mut spill, 12..14, 60_000, 100);
    let (_, _, end) = read(&mut spill, 99);
    spill.acknowledge(end, 100).unwrap();
    let aside = files(folder.path()).into_iter().filter(|name| name.contains(".damaged-"));
    assert_eq!(aside.count(), MAX_DAMAGED_FILES);
}

#[test]
fn damaged_ledger_is_set_aside_and_entries_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spill, _) = open(folder.path(), LIMITS);
    fill(&mut spill, 0..3, 10, 100);
    spill.acknowledge(2, 100).unwrap();
    drop(spill);
    std::fs::write(folder.path().join("ledger"), vec![7; 5000]).unwrap();
    let (mut spill, recovery) = open(folder.path(), LIMITS);
    assert!(recovery.ledger_damaged);
    assert_eq!(read(&mut spill, 9).0, [0, 1, 2]);
    assert!(files(folder.path()).contains(&"ledger.damaged-100".to_owned()));
}

#[test]
fn entry_over_the_maximum_length_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spill, _) = open(folder.path(), LIMITS);
    assert!(spill.append(&vec![0; MAX_ENTRY + 1]).is_err());
    spill.append(&vec![1; MAX_ENTRY - 100]).unwrap();
    spill.sync(100).unwrap();
    assert_eq!(read(&mut spill, 9).0, [1]);
}
