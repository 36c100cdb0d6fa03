//! Files as they are written, found, damaged and removed.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::{ContextV7, Timestamp, Uuid};

use super::*;
use crate::content::{Content, Part, PromptText};
use crate::frame::{END, FRAME_HEAD};
use crate::key::Keys;
use crate::reader::{FindError, Reader};

const DAY: u64 = 24 * 3_600_000;
/// A time of the tests, in Unix milliseconds.
const NOW: u64 = 1_790_000_000_000;

fn key(digit: char) -> MasterKey {
    MasterKey::from_hex(&digit.to_string().repeat(64)).unwrap()
}

/// The unique id of a request that began at this time.
fn id(ms: u64, number: u8) -> Uuid {
    let time = Timestamp::from_unix(ContextV7::new(), ms / 1000, (ms % 1000) as u32 * 1_000_000);
    let mut bytes = Uuid::new_v7(time).into_bytes();
    bytes[15] = number;
    Uuid::from_bytes(bytes)
}

fn content(id: &Uuid) -> Content {
    let text = PromptText { role: "user".into(), text: format!("text of {id}") };
    Content {
        unique_id: id.to_string(),
        request_id: "r".into(),
        at: 1,
        route: "chat".into(),
        prompt: Part { texts: vec![text], ..Part::default() },
        answer: Part::default(),
    }
}

fn plain(id: &Uuid) -> Plain {
    (*id.as_bytes(), rmp_serde::to_vec_named(&content(id)).unwrap())
}

struct Files {
    folder: tempfile::TempDir,
    counts: Arc<Counts>,
    limits: Limits,
}

impl Files {
    fn new() -> Self {
        let limits = Limits::new(Duration::from_millis(DAY), 1 << 30);
        Files { folder: tempfile::tempdir().unwrap(), counts: Arc::default(), limits }
    }

    fn open(&self, key: MasterKey) -> Folder {
        Folder::open(self.folder.path(), key, self.limits, self.counts.clone(), NOW).unwrap()
    }

    fn reader(&self, current: MasterKey, previous: &[MasterKey]) -> Reader {
        let keys = Keys { current, previous: previous.to_vec() };
        Reader::new(self.folder.path().to_owned(), keys, Duration::from_millis(DAY))
    }

    fn find(&self, id: &Uuid) -> Result<Content, FindError> {
        self.reader(key('a'), &[]).find(&id.to_string(), NOW)
    }

    fn paths(&self) -> Vec<PathBuf> {
        retention::list(self.folder.path()).unwrap().into_iter().map(|file| file.path).collect()
    }

    /// Writes these ids to one file, which is closed or not. Returns its path.
    fn write(&self, ids: &[Uuid], closes: bool) -> PathBuf {
        let before: BTreeSet<_> = self.paths().into_iter().collect();
        let mut folder = self.open(key('a'));
        folder.write(ids.iter().map(plain).collect(), NOW);
        if closes {
            folder.close(NOW);
        }
        self.paths().into_iter().find(|path| !before.contains(path)).unwrap()
    }
}

fn ids(count: u8) -> Vec<Uuid> {
    (0..count).map(|number| id(NOW, number)).collect()
}

#[test]
fn contents_are_found_in_open_closed_and_older_files() {
    let files = Files::new();
    let ids = ids(5);
    let (first, rest) = ids.split_at(2);
    files.write(first, true);
    let mut folder = files.open(key('a'));
    for id in rest {
        folder.write(vec![plain(id)], NOW);
        assert_eq!(files.find(id).unwrap(), content(id), "while the file is open");
    }
    folder.close(NOW + 1);
    for id in &ids {
        assert_eq!(files.find(id).unwrap(), content(id));
    }
    assert_eq!(files.counts.stored(), 5);
    for path in files.paths() {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(4).any(|part| part == b"text" || part == b"chat"), "{path:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(matches!(files.find(&id(NOW, 99)), Err(FindError::NotStored)));
    assert!(matches!(files.find(&id(NOW - DAY, 1)), Err(FindError::Expired)));
    for wrong in ["x", "", "018f0000-0000-4000-8000-000000000000", "../../etc/passwd"] {
        let found = files.reader(key('a'), &[]).find(wrong, NOW);
        assert!(matches!(found, Err(FindError::NotAnId)), "{wrong}");
    }
}

/// No changed byte leads to another text. Outside of the frame itself, it does not hide it either.
#[test]
fn every_changed_byte_is_noticed_or_harmless() {
    let files = Files::new();
    let ids = ids(3);
    let path = files.write(&ids, true);
    let whole = std::fs::read(&path).unwrap();
    let frame = (whole.len() - HEAD - 3 * 24 - END) / 3;
    for at in 0..whole.len() {
        for bit in [1, 0x80] {
            let mut changed = whole.clone();
            changed[at] ^= bit;
            std::fs::write(&path, changed).unwrap();
            for (number, id) in ids.iter().enumerate() {
                let is_own = (HEAD + number * frame..HEAD + (number + 1) * frame).contains(&at);
                match files.find(id) {
                    Ok(found) => assert!(found == content(id) && !is_own, "{at} {bit}"),
                    // A length that was changed also hides later frames if there is no index.
                    Err(error) => {
                        assert!(is_own || at < HEAD, "{at} {bit}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn moved_frames_do_not_open() {
    let files = Files::new();
    let ids = ids(4);
    let (path, other) = (files.write(&ids[..2], false), files.write(&ids[2..], false));
    let (one, two) = (std::fs::read(&path).unwrap(), std::fs::read(&other).unwrap());
    let middle = HEAD + (one.len() - HEAD) / 2;
    // The frames of a file in the other order, and a frame of another file with the same key.
    let swapped = [&one[..HEAD], &one[middle..], &one[HEAD..middle]].concat();
    std::fs::write(&path, swapped).unwrap();
    for id in &ids[..2] {
        assert!(matches!(files.find(id), Err(FindError::Damaged(_))));
    }
    std::fs::write(&path, [&one[..middle], &two[middle..]].concat()).unwrap();
    std::fs::remove_file(&other).unwrap();
    assert_eq!(files.find(&ids[0]).unwrap(), content(&ids[0]));
    assert!(matches!(files.find(&ids[3]), Err(FindError::Damaged(_))));
}

/// A process may be killed at any byte.
#[test]
fn torn_file_is_read_to_its_last_whole_frame() {
    let files = Files::new();
    let ids = ids(3);
    let path = files.write(&ids, false);
    let whole = std::fs::read(&path).unwrap();
    let frame = (whole.len() - HEAD) / 3;
    for length in 0..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        for (number, id) in ids.iter().enumerate() {
            let is_whole = length >= HEAD + (number + 1) * frame;
            let found = files.find(id);
            assert_eq!(found.is_ok(), is_whole, "{length}: {found:?}");
            assert!(is_whole || matches!(found, Err(FindError::NotStored)), "{length}");
        }
    }
}

#[test]
fn files_are_closed_at_their_size_and_age_and_removed_in_time() {
    let mut files = Files::new();
    files.limits = Limits { max_file: 1000, ..files.limits };
    let mut folder = files.open(key('a'));
    let ids = ids(20);
    folder.write(ids.iter().map(plain).collect(), NOW);
    let at_once = files.paths();
    assert!(at_once.len() > 3, "a batch goes on in the next file: {at_once:?}");
    for id in &ids {
        assert_eq!(files.find(id).unwrap(), content(id));
    }
    folder.tick(NOW + files.limits.span_ms - 1);
    let is_open = |path: &PathBuf| path.to_string_lossy().contains("open");
    assert!(files.paths().iter().any(is_open));
    folder.tick(NOW + files.limits.span_ms);
    assert!(!files.paths().iter().any(is_open));
    assert_eq!(files.counts.removed_files(), 0);
    folder.tick(NOW + DAY);
    assert_eq!((files.paths().len(), files.counts.size()), (0, 0));
    assert_eq!(files.counts.removed_files(), at_once.len() as u64);
}

#[test]
fn clock_that_is_set_back_closes_the_file_and_does_not_stop_the_search() {
    let files = Files::new();
    let mut folder = files.open(key('a'));
    let id = id(NOW, 1);
    folder.write(vec![plain(&id)], NOW);
    folder.tick(NOW - DAY);
    assert!(!files.paths()[0].to_string_lossy().contains("open"));
    assert_eq!(files.find(&id).unwrap(), content(&id));
    assert_eq!(folder.next_retention_ms, NOW - DAY + RETENTION_MS);
}

/// A number must not seal two texts, so nothing is appended after a failure.
#[test]
fn failed_write_gives_the_file_up() {
    let files = Files::new();
    let ids = ids(4);
    let mut folder = files.open(key('a'));
    folder.write(vec![plain(&ids[0])], NOW);
    let path = files.paths().remove(0);
    folder.open.as_mut().unwrap().file = File::open(&path).unwrap();
    folder.write(vec![plain(&ids[1])], NOW);
    assert_eq!((files.counts.stored(), files.counts.failed(), files.counts.failures()), (1, 1, 1));
    folder.write(vec![plain(&ids[2])], NOW + RETRY_MS - 1);
    assert_eq!((files.counts.failed(), files.paths().len()), (2, 1), "it waits");
    folder.write(vec![plain(&ids[3])], NOW + RETRY_MS);
    assert_eq!((files.counts.stored(), files.paths().len()), (2, 2));
    assert!(files.find(&ids[0]).is_ok() && files.find(&ids[3]).is_ok());
    assert!(files.find(&ids[1]).is_err() && files.find(&ids[2]).is_err());
}

/// Two gateways of an upgrade write to one folder, each to its own files with its own keys.
#[test]
fn gateways_share_a_folder_and_no_file_key_occurs_twice() {
    let files = Files::new();
    let ids = ids(40);
    let (mut one, mut two) = (files.open(key('a')), files.open(key('a')));
    for pair in ids.chunks(2) {
        one.write(vec![plain(&pair[0])], NOW);
        two.write(vec![plain(&pair[1])], NOW);
        if pair[0].as_bytes()[15].is_multiple_of(8) {
            one.close(NOW);
        }
    }
    let heads: BTreeSet<Vec<u8>> =
        files.paths().iter().map(|path| std::fs::read(path).unwrap()[..HEAD].to_vec()).collect();
    assert_eq!(heads.len(), files.paths().len());
    assert!(heads.len() > 3);
    for id in &ids {
        assert_eq!(files.find(id).unwrap(), content(id));
    }
}

#[test]
fn older_files_need_their_own_key() {
    let files = Files::new();
    let ids = ids(2);
    for (letter, id) in ['b', 'a'].into_iter().zip(&ids) {
        let mut folder = files.open(key(letter));
        folder.write(vec![plain(id)], NOW);
        folder.close(NOW);
    }
    let old = ids[0].to_string();
    let found = files.reader(key('a'), &[]).find(&old, NOW);
    assert!(matches!(found, Err(FindError::NoKey(id)) if id == key('b').id()));
    let keys = [key('c'), key('b')];
    assert_eq!(files.reader(key('a'), &keys).find(&old, NOW).unwrap(), content(&ids[0]));
    assert_eq!(files.find(&ids[1]).unwrap(), content(&ids[1]));
    // A file with the id of a key in its head that is not its key.
    let path = files
        .paths()
        .into_iter()
        .find(|path| std::fs::read(path).unwrap()[8..12] == key('b').id().0);
    let mut bytes = std::fs::read(path.as_ref().unwrap()).unwrap();
    bytes[8..12].copy_from_slice(&key('a').id().0);
    std::fs::write(path.unwrap(), bytes).unwrap();
    assert!(matches!(files.find(&ids[0]), Err(FindError::Damaged(_))));
}

#[test]
fn frame_heads_with_wild_lengths_are_not_read() {
    let files = Files::new();
    let ids = ids(1);
    let path = files.write(&ids, false);
    let mut bytes = std::fs::read(&path).unwrap();
    for length in [0, 1, 15, u32::MAX, 17 << 20, bytes.len() as u32] {
        bytes[HEAD..HEAD + 4].copy_from_slice(&length.to_be_bytes());
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(files.find(&ids[0]), Err(FindError::NotStored)), "{length}");
    }
    let short = (bytes.len() - HEAD - FRAME_HEAD) as u32 - 1;
    bytes[HEAD..HEAD + 4].copy_from_slice(&short.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(files.find(&ids[0]), Err(FindError::Damaged(_))));
}
