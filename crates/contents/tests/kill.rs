//! A recorder is killed under load. What it has reported as stored is found afterwards.
//!
//! The child is this test binary: it runs the test `child`, which does nothing without a folder.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contents::{ContentOptions, Keys, MasterKey, Recorder, Request, Span};
use uuid::Uuid;

const FOLDER: &str = "CONTENTS_TEST_FOLDER";
const ROUNDS: usize = 10;
const BATCH: u64 = 40;
const SECRET: &str = "hunter2000";

fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64
}

fn recorder(folder: &Path) -> Recorder {
    let current = MasterKey::from_hex(&"7".repeat(64)).expect("a key");
    Recorder::start(ContentOptions {
        folder: folder.to_owned(),
        keys: Keys { current, previous: Vec::new() },
        keep: Duration::from_secs(3600),
        max_size: 256 << 20,
        max_text: 64 << 10,
        wall_us,
    })
    .expect("a recorder")
}

/// Stores a request with a secret in its prompt and in its answer.
fn store(recorder: &Recorder) -> Uuid {
    let id = Uuid::now_v7();
    let mut draft = recorder.draft().expect("there is memory");
    let span = || Span { range: 4..4 + SECRET.len(), kind: "SECRET".into() };
    let text = format!("key {SECRET} of {id}");
    draft.set_prompt([("user", &*text, vec![span()])].into_iter());
    let mut tap = draft.tap_answer();
    tap.begin(0, "content", 0);
    text.as_bytes().chunks(5).for_each(|piece| tap.push(0, str::from_utf8(piece).expect("ASCII")));
    tap.found(0, span().range, &"SECRET".into());
    draft.set_answer(tap, Some(|_| usize::MAX));
    let (unique_id, at) = (id.to_string().into(), wall_us());
    let request =
        Request { unique_id, id: "client".into(), at, route: "chat".into(), incomplete: None };
    recorder.store(draft, request);
    id
}

#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let recorder = recorder(&folder);
    for batch in 1.. {
        let ids: Vec<Uuid> = (0..BATCH).map(|_| store(&recorder)).collect();
        while recorder.counts().stored() < batch * BATCH {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut out = std::io::stdout().lock();
        let lines: String = ids.iter().map(|id| format!("stored {id}\n")).collect();
        out.write_all(lines.as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
    }
}

#[test]
fn what_was_stored_survives_kills() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stored = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let ids = lines
            .map_while(Result::ok)
            .filter_map(|line| line.split_once("stored ").map(|(_, id)| id.to_owned()));
        // Killed in the middle of later batches.
        stored.extend(ids.take(BATCH as usize * (1 + round % 3)));
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    let recorder = recorder(folder.path());
    for id in &stored {
        let content = recorder.reader().find(id, wall_us() / 1000);
        let content = content.unwrap_or_else(|error| panic!("{id}: {error}"));
        let want = format!("key [SECRET] of {id}");
        assert_eq!(content.prompt.texts[0].text, want);
        assert_eq!(content.answer.texts[0].text, want);
        assert_eq!((content.answer.incomplete, content.answer.cut), (None, false));
    }
    assert!(stored.len() > ROUNDS * BATCH as usize);
    let files: Vec<_> = std::fs::read_dir(folder.path()).expect("readable").flatten().collect();
    assert!(files.len() >= ROUNDS, "a file for each process");
    for file in files {
        let bytes = std::fs::read(file.path()).expect("readable");
        assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()));
    }
}

#[test]
fn closing_writes_what_waits_and_later_contents_are_counted_as_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let recorder = recorder(folder.path());
    let ids: Vec<Uuid> = (0..BATCH).map(|_| store(&recorder)).collect();
    let late = recorder.draft().expect("there is memory");
    recorder.close();
    assert_eq!(recorder.counts().stored(), BATCH);
    let request = Request {
        unique_id: Uuid::now_v7().to_string().into(),
        id: "late".into(),
        at: 0,
        route: "chat".into(),
        incomplete: None,
    };
    recorder.store(late, request);
    assert_eq!(recorder.counts().failed(), 1);
    for id in ids {
        assert!(recorder.reader().find(&id.to_string(), wall_us() / 1000).is_ok());
    }
}

/// A recorder whose disk is slow: the queue ends at its memory, and requests do not wait.
#[test]
fn contents_beyond_the_memory_are_dropped_and_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let recorder = recorder(folder.path());
    let drafts: Vec<_> = std::iter::from_fn(|| recorder.draft()).collect();
    assert!(drafts.len() * 512 <= contents::MAX_MEMORY, "{}", drafts.len());
    assert_eq!(recorder.counts().without_memory(), 1);
    drop(drafts);
    assert!(recorder.draft().is_some());
}
