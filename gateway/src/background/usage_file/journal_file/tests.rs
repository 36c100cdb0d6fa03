use super::*;

fn used(key: &str, requests: u64) -> (UsageRow, Totals) {
    // Rows of the past would expire.
    let row = UsageRow {
        time: "2999-01-01".into(),
        owner: "team".into(),
        key: key.into(),
        model: "m".into(),
    };
    (row, Totals { requests, ..Totals::default() })
}

fn open(path: &Path) -> JournalFile {
    JournalFile::open(path, false).expect("it opens")
}

fn append(file: &mut JournalFile, added: &[(UsageRow, Totals)]) -> Vec<(UsageRow, Totals)> {
    let synced = file.synchronize(added, false);
    synced.appended.expect("it is writable");
    synced.others
}

fn requests(file: &JournalFile) -> u64 {
    file.rows().map(|(_, totals)| totals.requests).sum()
}

/// Names in the folder that start with `prefix`.
fn names(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

#[test]
fn appended_usage_survives_an_end_without_a_last_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    for turn in 0..3 {
        let mut file = open(&path);
        assert_eq!(requests(&file), 3 * turn);
        append(&mut file, &[used("k1", 1)]);
        append(&mut file, &[used("k1", 1), used("k2", 1)]);
    }
    assert_eq!((mode(&path), mode(&beside(&path, ".lock"))), (0o600, 0o600));
    assert_eq!(names(folder.path(), "").len(), 2);
}

#[test]
fn file_in_use_is_refused_and_a_successor_reads_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    let mut old = open(&path);
    append(&mut old, &[used("k", 1)]);
    let error = JournalFile::open(&path, false).err().expect("it is in use").to_string();
    assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
    let mut new = JournalFile::open(&path, true).expect("a successor may");
    append(&mut old, &[used("k", 2)]);
    assert_eq!(requests(&new), 1);
    new.catch_up();
    assert_eq!((requests(&new), new.is_owner()), (3, false));
    // Both append; each learns what the other has added, once.
    old.synchronize(&[used("k", 4)], true);
    assert_eq!(append(&mut new, &[used("k", 8)]), [used("k", 4)]);
    assert_eq!(append(&mut new, &[]), []);
    assert_eq!(old.synchronize(&[], true).others, [used("k", 8)]);
    old.synchronize(&[used("k", 16)], true);
    drop(old);
    assert_eq!(append(&mut new, &[]), [used("k", 16)]);
    assert!(new.is_owner());
    assert!(JournalFile::open(&path, false).is_err());
    drop(new);
    assert_eq!(requests(&open(&path)), 31);
}

#[test]
fn journal_that_has_grown_becomes_a_snapshot_that_others_find() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    let mut file = open(&path);
    file.min_growth = 1000;
    let mut waiting = JournalFile::open(&path, true).unwrap();
    let mut longest = 0;
    for _ in 0..50 {
        append(&mut file, &[used("k", 1)]);
        longest = longest.max(std::fs::metadata(&path).unwrap().len());
    }
    assert!(longest < 3000, "{longest}");
    waiting.catch_up();
    assert_eq!(requests(&waiting), 50);
    // A gateway that hands over writes no snapshot: its successor reads on.
    for _ in 0..50 {
        file.synchronize(&[used("k", 1)], true).appended.unwrap();
    }
    assert_eq!(waiting.synchronize(&[], false).others.len(), 50);
    drop((file, waiting));
    assert_eq!(requests(&open(&path)), 100);
}

#[test]
fn damaged_content_is_counted_copied_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    type Damage<'d> = &'d dyn Fn(&mut Vec<u8>);
    let damages: [Damage<'_>; 4] = [
        &|text| text.push(0xff),
        &|text| text.extend(b"{\"time\":\"2999-01-01\",\"requests\":-5}\n"),
        &|text| text.extend([0; 5000]),
        &|text| text.splice(0..0, *b"garbage\n").for_each(drop),
    ];
    for (turn, damage) in damages.iter().enumerate() {
        let _ = std::fs::remove_file(&path);
        let mut file = open(&path);
        append(&mut file, &[used("k1", 3), used("k2", 2)]);
        drop(file);
        let mut text = std::fs::read(&path).unwrap();
        damage(&mut text);
        std::fs::write(&path, &text).unwrap();
        let mut file = open(&path);
        assert_eq!((requests(&file), file.take_damaged()), (5, 1), "{turn}");
        let copies = names(folder.path(), "usage.jsonl.damaged-");
        assert_eq!(copies.len(), 1);
        let copy = folder.path().join(&copies[0]);
        assert_eq!((std::fs::read(&copy).unwrap(), mode(&copy)), (text, 0o600));
        std::fs::remove_file(copy).unwrap();
        append(&mut file, &[used("k1", 1)]);
        drop(file);
        let mut again = open(&path);
        assert_eq!((requests(&again), again.take_damaged()), (6, 0), "{turn}");
    }
}

/// A gateway killed in the middle of a write leaves a part of a line.
#[test]
fn partial_last_line_does_not_damage_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    let mut file = open(&path);
    append(&mut file, &[used("k", 1)]);
    let mut other = JournalFile::open(&path, true).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"time\":\"29").unwrap();
    append(&mut other, &[used("k", 2)]);
    append(&mut file, &[used("k", 4)]);
    drop((file, other));
    assert_eq!(requests(&open(&path)), 7);
}

#[test]
fn removed_cut_or_replaced_file_is_restored_by_the_running_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    let mut file = open(&path);
    append(&mut file, &[used("k", 1)]);
    std::fs::remove_file(&path).unwrap();
    append(&mut file, &[used("k", 2)]);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
    append(&mut file, &[used("k", 4)]);
    assert_eq!(names(folder.path(), "usage.jsonl.replaced-").len(), 1);
    drop(file);
    assert_eq!(requests(&open(&path)), 7);
}

#[test]
fn old_file_is_migrated_once_and_becomes_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    let old = "{\"time\":\"2999-01-01\",\"owner\":\"team\",\"key\":\"k\",\"model\":\"m\",\"requests\":3,\"input_tokens\":1,\"cached_tokens\":0,\"output_tokens\":2,\"reasoning_tokens\":0,\"cost_pico\":5}\n";
    std::fs::write(&path, [old, old].concat()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut file = open(&path);
    append(&mut file, &[used("k", 1)]);
    assert_eq!((requests(&file), mode(&path)), (4, 0o600));
    drop(file);
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("{\"usage_journal\":1"));
    assert_eq!(requests(&open(&path)), 4);
}

#[test]
fn other_things_than_a_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (path, error) in [
        (folder.path().to_owned(), "is not a regular file"),
        (folder.path().join("missing/usage.jsonl"), "No such file"),
        ("/dev/null".into(), "is not a regular file"),
    ] {
        let refused = JournalFile::open(&path, false).err().expect("refused").to_string();
        assert!(refused.contains(error), "{refused}");
    }
}
