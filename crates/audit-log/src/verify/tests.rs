use std::slice::from_ref;
use std::sync::Arc;

use observatory::{AuditLine, Sink};

use super::*;
use crate::chain::MAX_LINE;
use crate::log::AuditLog;

struct Log {
    folder: tempfile::TempDir,
    path: PathBuf,
    key: Option<ChainKey>,
}

fn finding(number: usize) -> Arc<AuditLine> {
    let text = format!(r#"{{"at":"2026-11-30T10:00:{number:02}.000000Z","rule":"pii.e\"m\"ail"}}"#);
    Arc::new(AuditLine::new(0, text))
}

impl Log {
    /// A log of `lines` lines.
    fn new(lines: usize, max_size: u64, key: Option<&str>) -> Log {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let key = key.map(|key| ChainKey::new(key.as_bytes()));
        let log = Log { folder, path, key };
        log.write(max_size, 0..lines);
        log
    }

    fn write(&self, max_size: u64, numbers: std::ops::Range<usize>) {
        let mut log = AuditLog::open(&self.path, max_size, 9, self.key.clone()).unwrap();
        numbers.for_each(|number| log.deliver(&[finding(number)]).unwrap());
    }

    fn options(&self) -> VerifyOptions {
        VerifyOptions { keys: self.key.iter().cloned().collect(), head: None }
    }

    fn verify(&self) -> Report {
        verify(&[self.folder.path().to_owned()], &self.options()).unwrap()
    }

    fn problems(&self) -> Vec<String> {
        listed(&self.verify().problems)
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap()
    }

    /// Verifies another text in place of the log, without a head file.
    fn verify_text(&self, text: &[u8], head: Option<Digest>) -> Report {
        let path = self.folder.path().join("changed");
        std::fs::write(&path, text).unwrap();
        let report = verify(from_ref(&path), &VerifyOptions { head, ..self.options() }).unwrap();
        std::fs::remove_file(path).unwrap();
        report
    }
}

fn listed(problems: &[Problem]) -> Vec<String> {
    let show = |problem: &Problem| {
        let line = problem.line.map(|line| format!("{line}: ")).unwrap_or_default();
        format!("{line}{}", problem.what)
    };
    problems.iter().map(show).collect()
}

#[test]
fn files_are_in_order_with_their_lines_and_times() {
    let log = Log::new(20, 1024, None);
    let report = log.verify();
    assert_eq!((listed(&report.problems), listed(&report.notes)), (vec![], vec![]));
    assert!(report.files.len() > 3, "{report:?}");
    assert!(report.files.last().is_some_and(|file| file.path == log.path));
    let mut next = 1;
    for FileReport { first, last, lines, .. } in &report.files {
        let (first, at) = first.clone().unwrap();
        assert_eq!((first, at), (next, Some(format!("2026-11-30T10:00:{:02}.000000Z", next - 1))));
        next += lines;
        assert_eq!(last.clone().unwrap().0, next - 1);
    }
    assert_eq!((next, report.head.map(|head| head.sequence)), (21, Some(20)));
    // Each file is valid without the others, and twice the same file is one.
    for path in report.files.iter().map(|file| file.path.clone()) {
        let report = verify(&[path.clone(), path], &VerifyOptions::default()).unwrap();
        assert_eq!((report.files.len(), listed(&report.problems)), (1, vec![]));
    }
}

/// Every byte, under changes that keep lines and that do not.
#[test]
fn each_changed_byte_is_found() {
    for key in [None, Some("sixteen-and-more")] {
        let log = Log::new(4, 1 << 20, key);
        let text = log.text().into_bytes();
        assert_eq!(log.verify_text(&text, None).problem_count, 0);
        for at in 0..text.len() {
            for change in [1, 0x20, 0x80, b'\n' ^ text[at]] {
                let mut changed = text.clone();
                changed[at] ^= change;
                if changed != text {
                    let report = log.verify_text(&changed, None);
                    assert!(report.problem_count > 0, "{at} {}", changed.escape_ascii());
                }
            }
            let removed = [&text[..at], &text[at + 1..]].concat();
            assert!(log.verify_text(&removed, None).problem_count > 0, "byte {at} removed");
            let doubled = [&text[..=at], &text[at..]].concat();
            assert!(log.verify_text(&doubled, None).problem_count > 0, "byte {at} doubled");
        }
    }
}

#[test]
fn each_removed_repeated_or_moved_line_is_found() {
    let log = Log::new(6, 1 << 20, None);
    let text = log.text();
    let head = log.verify().head.map(|head| head.chain);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let verified = |lines: &[&str], head| log.verify_text(lines.concat().as_bytes(), head);
    assert_eq!(verified(&lines, head).problem_count, 0);
    for one in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(one);
        let is_last = one == lines.len() - 1;
        // Only the head shows that the last lines were removed.
        assert_eq!(verified(&removed, None).problem_count > 0, !is_last, "line {one} removed");
        assert!(verified(&removed, head).problem_count > 0, "line {one} removed");
        for other in 0..lines.len() {
            let mut moved = lines.clone();
            let line = moved.remove(one);
            moved.insert(other, line);
            assert_eq!(verified(&moved, None).problem_count > 0, one != other, "{one} to {other}");
            let mut swapped = lines.clone();
            swapped.swap(one, other);
            assert_eq!(verified(&swapped, None).problem_count > 0, one != other);
            for inserted in [lines[other], "\n", "{}\n", "\u{0}\n"] {
                let mut more = lines.clone();
                more.insert(one, inserted);
                assert!(verified(&more, None).problem_count > 0, "{inserted} before {one}");
            }
        }
    }
    for end in 1..text.len() {
        let report = log.verify_text(&text.as_bytes()[..end], head);
        assert!(report.problem_count > 0, "cut at {end}");
    }
}

#[test]
fn problem_names_the_place_and_what_happened() {
    let log = Log::new(6, 1 << 20, None);
    let text = log.text();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let problems =
        |lines: &[&str]| listed(&log.verify_text(lines.concat().as_bytes(), None).problems);
    let changed = lines[2].replace("pii", "xxx");
    assert_eq!(
        problems(&[lines[0], lines[1], &changed, lines[3], lines[4]]),
        ["3: line 3 of the chain was changed: its hash differs"]
    );
    let renumbered = lines[2].replace("\"sequence\":3", "\"sequence\":30");
    assert_eq!(
        problems(&[lines[0], lines[1], &renumbered, lines[3], lines[4]]),
        ["3: lines 3 to 29 of the chain are missing before this line"]
    );
    assert_eq!(
        problems(&[lines[0], lines[2], lines[5]]),
        [
            "2: line 2 of the chain is missing before this line",
            "3: lines 4 to 5 of the chain are missing before this line"
        ]
    );
    assert_eq!(
        problems(&[lines[0], lines[1], lines[0], lines[2]]),
        [
            "3: a new chain begins after line 2 of another",
            "4: line 2 of the chain is missing before this line"
        ]
    );
    assert_eq!(
        problems(&[lines[0], "text\n", "\n", lines[1]]),
        ["2: 2 lines of 6 bytes are not of the chain: changed, inserted, or written without one"]
    );
    assert_eq!(
        problems(&[lines[1], lines[2]]),
        ["1: line 2 of the chain cannot be verified: the lines before it are not in these files"]
    );
    assert_eq!(
        problems(&[lines[0], lines[1].trim_end()]),
        ["2: the line has no line feed: the end of the file was cut"]
    );
    let cut = &lines[1][..30];
    assert_eq!(
        problems(&[lines[0], cut]),
        ["2: a line of 30 bytes is cut: by a crash, or because the end of the file was removed"]
    );
}

#[test]
fn files_that_are_missing_empty_or_without_a_chain_are_named() {
    let log = Log::new(20, 1024, None);
    let middle = log.verify().files[1].clone_range();
    std::fs::remove_file(&middle.0).unwrap();
    let missing =
        format!("1: lines {} to {} of the chain are missing before this line", middle.1, middle.2);
    assert_eq!(log.problems(), [missing]);
    let log = Log::new(20, 1024, None);
    std::fs::remove_file(&log.verify().files[0].path).unwrap();
    std::fs::write(log.folder.path().join("empty"), "").unwrap();
    std::fs::write(log.folder.path().join("empty.head"), "").unwrap();
    std::fs::write(log.folder.path().join("old"), "{\"rule\":\"x\"}\n\u{0}").unwrap();
    let report = log.verify();
    assert_eq!(listed(&report.problems), [""; 0]);
    let notes = listed(&report.notes);
    assert_eq!(notes[..2], ["empty", "has no line of a chain, so that it cannot be verified"]);
    assert!(notes[2].starts_with("begins at line "), "{notes:?}");
    // Only such files are nothing that can be valid.
    let old = log.folder.path().join("old");
    let report = verify(&[old], &VerifyOptions::default()).unwrap();
    assert_eq!(
        listed(&report.problems),
        ["no line of a chain was found, so that nothing was verified"]
    );
    let error = verify(&[log.folder.path().join("absent")], &VerifyOptions::default());
    assert!(error.is_err_and(|error| error.to_string().contains("absent: ")));
}

impl FileReport {
    /// Its path, first and last number.
    fn clone_range(&self) -> (PathBuf, u64, u64) {
        let number = |end: &Option<(u64, Option<String>)>| end.clone().unwrap().0;
        (self.path.clone(), number(&self.first), number(&self.last))
    }
}

/// Lines that were removed while no gateway ran are missing by the head file.
#[test]
fn cut_end_is_found_by_the_head_file_and_by_a_published_head() {
    let log = Log::new(6, 1 << 20, None);
    let published = log.verify().head.unwrap().chain;
    let text = log.text();
    let cut: String = text.split_inclusive('\n').take(4).collect();
    std::fs::write(&log.path, cut).unwrap();
    let problems = log.problems();
    assert!(
        problems.len() == 1 && problems[0].starts_with(&format!("head {published} (of line 6 in ")),
        "{problems:?}"
    );
    // Without the head file, only the published head shows it.
    std::fs::remove_file(head_path(&log.path)).unwrap();
    assert_eq!(log.problems(), [""; 0]);
    let options = VerifyOptions { head: Some(published), ..log.options() };
    let report = verify(from_ref(&log.path), &options).unwrap();
    assert!(listed(&report.problems)[0].contains("(of --head) is not in the log"));
}

#[test]
fn chain_under_a_key_cannot_be_made_anew_without_it() {
    let log = Log::new(3, 1 << 20, Some("sixteen-and-more"));
    assert_eq!(log.problems(), [""; 0]);
    let id = log.key.as_ref().unwrap().id();
    let with = |keys: Vec<ChainKey>| {
        let options = VerifyOptions { keys, head: None };
        listed(&verify(from_ref(&log.path), &options).unwrap().problems)
    };
    let need = format!("1: 3 lines from here on need the key with the id {id}");
    assert_eq!(with(vec![])[0], need);
    assert_eq!(with(vec![ChainKey::new(b"another")])[0], need);
    assert_eq!(with(vec![ChainKey::new(b"another"), log.key.clone().unwrap()]), [""; 0]);
    // The whole log is replaced by one without a key.
    let forged = Log::new(3, 1 << 20, None);
    let report = verify(from_ref(&forged.path), &log.options()).unwrap();
    assert_eq!(
        listed(&report.problems)[0],
        "1: 3 lines from here on have no key: any program that can write the file could have made \
         them"
    );
    // A key that changes: the chain goes on, and both keys verify it.
    let next = Log { key: Some(ChainKey::new(b"another")), ..log };
    next.write(1 << 20, 3..5);
    let keys = vec![next.key.clone().unwrap(), ChainKey::new(b"sixteen-and-more")];
    let report = verify(from_ref(&next.path), &VerifyOptions { keys, head: None }).unwrap();
    assert_eq!((listed(&report.problems), report.head.unwrap().sequence), (vec![], 5));
}

/// Long and binary lines take bounded memory, whether they are of the chain or not.
#[test]
fn huge_and_binary_lines_are_problems() {
    let log = Log::new(2, 1 << 20, None);
    let text = log.text();
    let huge = [&vec![b'x'; 3 * MAX_LINE][..], b"\n\xff\xfe\n"].concat();
    let (one, two) = text.split_at(text.find('\n').unwrap() + 1);
    let report = log.verify_text(&[one.as_bytes(), &huge, two.as_bytes()].concat(), None);
    let bytes = huge.len();
    assert_eq!(
        listed(&report.problems),
        [format!(
            "2: 2 lines of {bytes} bytes are not of the chain: changed, inserted, or written \
             without one"
        )]
    );
    // A file of many problems lists some and counts all.
    let many: String = (0..500).flat_map(|_| [one, "x\n"]).collect();
    let report = log.verify_text(many.as_bytes(), None);
    assert_eq!((report.problems.len(), report.problem_count > 900), (MAX_PROBLEMS, true));
}
