use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::verify::{Report, VerifyOptions, verify};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("audit.jsonl")
    }

    fn open(&self) -> AuditLog {
        AuditLog::open(&self.path(), 4096, 20, None).unwrap()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
    }

    fn report(&self) -> Report {
        verify(&[self.0.path().to_owned()], &VerifyOptions::default()).unwrap()
    }

    /// Asserts that the log is a chain of `lines` lines; returns the notes.
    fn assert_valid(&self, lines: u64) -> Vec<String> {
        let report = self.report();
        let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        assert_eq!((problems, report.head.unwrap_or_default().sequence), (vec![], lines));
        report.notes.iter().map(|note| note.what.clone()).collect()
    }

    fn append(&self, bytes: &[u8]) {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().append(true).open(self.path());
        file.unwrap().write_all(bytes).unwrap();
    }
}

fn finding(text: &str) -> Arc<AuditLine> {
    Arc::new(AuditLine::new(0, format!("{{\"rule\":\"{text}\"}}")))
}

fn write(log: &mut AuditLog, count: usize) {
    let lines: Vec<_> = (0..count).map(|number| finding(&format!("r{number}"))).collect();
    log.deliver(&lines).unwrap();
}

#[test]
fn chain_continues_over_restarts_and_rotation() {
    let folder = Folder::new();
    for _ in 0..20 {
        write(&mut folder.open(), 7);
    }
    assert_eq!(folder.assert_valid(140), [""; 0]);
    assert!(folder.report().files.len() > 3);
    for name in ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.head"] {
        let meta = std::fs::metadata(folder.0.path().join(name)).unwrap();
        assert!(meta.permissions().mode() & 0o777 == 0o600 && meta.len() <= 4096, "{name}");
    }
    let log = folder.open();
    assert_eq!((log.published().head().sequence, log.published().key_id()), (140, None));
    // A rotated file that is missing between two others is a gap.
    std::fs::remove_file(folder.0.path().join("audit.jsonl.1")).unwrap();
    assert!(folder.report().problem_count > 0);
}

/// There is one chain, whichever gateway writes.
#[test]
fn two_gateways_that_overlap_write_one_chain() {
    let folder = Folder::new();
    let mut logs = [folder.open(), folder.open()];
    for turn in 0..60 {
        write(&mut logs[turn % 2], 1 + turn % 3);
    }
    let lines = (0..60).map(|turn| 1 + turn % 3).sum();
    assert_eq!(folder.assert_valid(lines), [""; 0]);
    // At the same time, from several threads.
    std::thread::scope(|scope| {
        for log in &mut logs {
            scope.spawn(move || (0..50).for_each(|_| write(log, 3)));
        }
    });
    folder.assert_valid(lines + 300);
}

/// As logrotate does, without `copytruncate`.
#[test]
fn renamed_file_is_created_again_and_the_chain_continues() {
    let folder = Folder::new();
    let mut log = folder.open();
    for name in ["one", "two"] {
        write(&mut log, 2);
        std::fs::rename(folder.path(), folder.0.path().join(name)).unwrap();
    }
    // Also over a restart without the file, by the head file.
    let mut log = folder.open();
    write(&mut log, 2);
    folder.assert_valid(6);
    assert_eq!(folder.text("audit.jsonl").lines().count(), 2);
    // And without the head file, by the log.
    std::fs::remove_file(folder.0.path().join("audit.jsonl.head")).unwrap();
    write(&mut log, 1);
    drop(log);
    std::fs::remove_file(folder.0.path().join("audit.jsonl.head")).unwrap();
    write(&mut folder.open(), 1);
    folder.assert_valid(8);
}

/// Without the folder, lines go to the moved one.
#[test]
fn moved_folder_keeps_the_chain() {
    let outer = tempfile::tempdir().unwrap();
    let (before, after) = (outer.path().join("before"), outer.path().join("after"));
    std::fs::create_dir(&before).unwrap();
    let mut log = AuditLog::open(&before.join("audit.jsonl"), 4096, 2, None).unwrap();
    write(&mut log, 2);
    std::fs::rename(&before, &after).unwrap();
    write(&mut log, 2);
    std::fs::create_dir(&before).unwrap();
    write(&mut log, 2);
    let report = verify(&[after, before], &VerifyOptions::default()).unwrap();
    let lines: Vec<u64> = report.files.iter().map(|file| file.lines).collect();
    assert_eq!((lines, report.problems), (vec![4, 2], vec![]));
}

#[test]
fn line_that_a_crash_cut_is_named_by_the_next_one() {
    let folder = Folder::new();
    let mut log = folder.open();
    write(&mut log, 3);
    let whole = folder.text("audit.jsonl").lines().last().unwrap().to_owned();
    folder.append(&whole.as_bytes()[..40]);
    drop(log);
    let problems = folder.report().problems;
    assert!(problems[0].what.starts_with("a line of 40 bytes is cut"), "{problems:?}");
    let mut log = folder.open();
    write(&mut log, 3);
    let notes = folder.assert_valid(6);
    assert!(notes[0].starts_with("a line of 41 bytes is not of the chain, as"), "{notes:?}");
    // The line is protected from then on.
    let changed = folder.text("audit.jsonl").replacen(&format!("\n{}\n", &whole[..40]), "\n", 1);
    std::fs::write(folder.path(), changed).unwrap();
    let problems = folder.report().problems;
    assert!(problems[0].what.contains("were removed"), "{problems:?}");
}

/// A crash between the line and the head file, and one before the line feed.
#[test]
fn log_that_is_ahead_of_its_head_file_counts() {
    let folder = Folder::new();
    write(&mut folder.open(), 3);
    let head = folder.text("audit.jsonl.head");
    write(&mut folder.open(), 3);
    std::fs::write(folder.0.path().join("audit.jsonl.head"), head).unwrap();
    let text = folder.text("audit.jsonl");
    std::fs::write(folder.path(), text.trim_end()).unwrap();
    write(&mut folder.open(), 2);
    assert_eq!(folder.assert_valid(8), [""; 0]);
}

/// A cut that falls on the first line of the next file.
#[test]
fn cut_line_before_a_rotation_is_named_in_the_next_file() {
    let folder = Folder::new();
    let mut log = folder.open();
    while !log.file.would_rotate(300) {
        write(&mut log, 1);
    }
    let lines = log.published().head().sequence;
    folder.append(&vec![b'x'; 400]);
    write(&mut log, 2);
    assert!(folder.text("audit.jsonl.1").ends_with("xxx\n"));
    let notes = folder.assert_valid(lines + 2);
    assert!(notes[0].starts_with("a line of 401 bytes"), "{notes:?}");
    let report = verify(&[folder.path()], &VerifyOptions::default()).unwrap();
    assert_eq!(report.problem_count, 0, "the file is valid alone: {report:?}");
}

#[test]
fn log_of_a_version_without_a_chain_is_covered_by_the_first_line() {
    let folder = Folder::new();
    let old = "{\"rule\":\"old\"}\n".repeat(20);
    std::fs::write(folder.path(), &old).unwrap();
    write(&mut folder.open(), 2);
    let notes = folder.assert_valid(2);
    assert!(notes[0].starts_with("20 lines of 300 bytes are not of the chain, as"), "{notes:?}");
    std::fs::write(folder.path(), folder.text("audit.jsonl").replacen("old", "new", 1)).unwrap();
    assert_eq!(folder.report().problem_count, 1);
    // A full one is rotated away, and has no chain.
    let folder = Folder::new();
    std::fs::write(folder.path(), old.repeat(13)).unwrap();
    write(&mut folder.open(), 2);
    let notes = folder.assert_valid(2);
    assert_eq!(notes, ["has no line of a chain, so that it cannot be verified"]);
}

/// The gateway knows the head, so the next line leaves a gap.
#[test]
fn lines_removed_from_the_end_show_also_after_the_log_went_on() {
    for restart in [false, true] {
        let folder = Folder::new();
        let mut log = folder.open();
        write(&mut log, 5);
        let text = folder.text("audit.jsonl");
        let kept: String = text.split_inclusive('\n').take(3).collect();
        std::fs::write(folder.path(), kept).unwrap();
        if restart {
            log = folder.open();
        }
        write(&mut log, 2);
        let problems: Vec<String> =
            folder.report().problems.iter().map(|problem| problem.what.clone()).collect();
        assert_eq!(problems, ["lines 4 to 5 of the chain are missing before this line"]);
    }
}

#[test]
fn files_stay_within_their_bounds_with_and_without_kept_ones() {
    for (keep, files) in [(0, 1), (2, 3)] {
        let folder = Folder::new();
        let mut log = AuditLog::open(&folder.path(), 1024, keep, None).unwrap();
        write(&mut log, 100);
        let report = folder.report();
        assert_eq!((report.files.len(), report.problems), (files, vec![]));
        for file in report.files {
            assert!(std::fs::metadata(file.path).unwrap().len() <= 1024);
        }
    }
}

#[test]
fn lines_lost_to_a_full_disk_or_a_lock_are_counted() {
    let mut log = AuditLog::open(Path::new("/dev/full"), 1 << 20, 1, None).unwrap();
    let lines: Vec<_> = (0..10).map(|number| finding(&number.to_string())).collect();
    let error = log.deliver(&lines).expect_err("the disk is full");
    assert!(error.lost == 10 && error.why.contains("/dev/full"), "{error:?}");
    assert!(!Path::new("/dev/full.head").exists());
    let folder = Folder::new();
    let mut log = folder.open();
    let invalid = Arc::new(AuditLine::new(0, "no object".into()));
    let error = log.deliver(&[finding("a"), invalid, finding("b")]).expect_err("one is lost");
    assert_eq!(error.lost, 1);
    folder.assert_valid(2);
}

#[test]
fn chain_of_many_lines_uses_the_end_of_the_file_only() {
    let folder = Folder::new();
    let mut log = AuditLog::open(&folder.path(), 64 << 20, 1, None).unwrap();
    write(&mut log, 2000);
    let size = std::fs::metadata(folder.path()).unwrap().len();
    let mut file = std::fs::File::open(folder.path()).unwrap();
    let tail = read_tail(&mut file, size).unwrap();
    assert_eq!(tail, Tail { head: Some(log.published().head()), unchained: None });
    // A long tail of other text is measured in whole.
    folder.append(&vec![b'x'; 200 << 10]);
    let tail = read_tail(&mut file, size + (200 << 10)).unwrap();
    assert_eq!(tail.head, Some(log.published().head()));
    assert_eq!(tail.unchained.map(|unchained| unchained.bytes), Some(200 << 10));
}
