//! Finds the content of a request.
//!
//! A unique id has the time of its request, so files that were closed before are not read. A
//! complete file is searched by its index, others frame by frame up to the last whole one.
//!
//! - *In*: a unique id, keys.
//! - *Out*: the content, or why it is not found.
//! - *Never*: a content that was changed or moved; a file as a whole in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::content::Content;
use crate::frame::{
    END, ENTRY, FRAME_HEAD, FileEnd, FileHead, FrameHead, HEAD, Opener, UniqueId, array,
};
use crate::key::{KeyId, Keys};
use crate::retention::{Listed, list};

/// Reads stored contents. It does not block the recorder.
#[derive(Clone, Debug)]
pub struct Reader {
    folder: PathBuf,
    keys: Arc<Keys>,
    keep: Duration,
}

/// Why a content is not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It is not a unique id.
    #[error("not a unique id: records have it as `unique_id`, or as `id` if they have none")]
    NotAnId,
    /// It is not stored.
    #[error(
        "no contents of this request are stored: its route has no `store_contents`, it was \
         refused before its prompt was checked, or `contents.max_size` has removed them"
    )]
    NotStored,
    /// It is older than `contents.keep`.
    #[error("the contents of this request would be older than contents.keep, and are removed")]
    Expired,
    /// Its file needs another key.
    #[error("the contents of this request need the key {0}; add it to contents.previous_keys")]
    NoKey(KeyId),
    /// Its frame was changed.
    #[error("the contents of this request are damaged, in the file {0}")]
    Damaged(String),
    /// A file cannot be read.
    #[error("the files of contents cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl FindError {
    /// The word in the audit log.
    pub fn name(&self) -> &'static str {
        match self {
            FindError::NotAnId => "invalid",
            FindError::NotStored => "not_stored",
            FindError::Expired => "expired",
            FindError::NoKey(_) => "no_key",
            FindError::Damaged(_) => "damaged",
            FindError::Io(_) => "unreadable",
        }
    }
}

/// Where a frame is in a file.
type Place = Option<(u64, FrameHead)>;

impl Reader {
    pub(crate) fn new(folder: PathBuf, keys: Keys, keep: Duration) -> Self {
        Reader { folder, keys: Arc::new(keys), keep }
    }

    /// Find the content of a request. `now_ms`: Unix milliseconds. Reads files: call it on a thread
    /// that may block.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn find(&self, unique_id: &str, now_ms: u64) -> Result<Content, FindError> {
        let id = Uuid::parse_str(unique_id).map_err(|_| FindError::NotAnId)?;
        let (seconds, nanos) = id.get_timestamp().ok_or(FindError::NotAnId)?.to_unix();
        let began_ms = seconds.saturating_mul(1000) + u64::from(nanos / 1_000_000);
        let mut failure = None;
        for file in list(&self.folder)? {
            if file.name.closed_ms.is_some_and(|closed| closed < began_ms) {
                continue;
            }
            match self.search(&file, id.as_bytes()) {
                Ok(Some(content)) => return Ok(content),
                Ok(None) => {}
                // It was removed or renamed since the folder was listed.
                Err(FindError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failure = Some(error),
            }
        }
        let keep_ms = u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX);
        Err(match failure {
            Some(failure) => failure,
            None if began_ms.saturating_add(keep_ms) <= now_ms => FindError::Expired,
            None => FindError::NotStored,
        })
    }

    /// The content in one file.
    fn search(&self, listed: &Listed, id: &UniqueId) -> Result<Option<Content>, FindError> {
        let file = self.open(listed)?;
        let size = file.metadata()?.len();
        let damaged = || FindError::Damaged(listed.name.to_string());
        let mut head = [0; HEAD];
        if size < HEAD as u64 {
            // Its process ended before it had written the head.
            return Ok(None);
        }
        file.read_exact_at(&mut head, 0)?;
        let head = FileHead::parse(head).ok_or_else(damaged)?;
        let key = self.keys.find(head.key_id());
        let opener = key.map(|key| Opener::new(key, head.clone()));
        let indexed = match &opener {
            Some(opener) => find_by_index(&file, size, opener, id)?,
            None => None,
        };
        let place = match indexed {
            Some(place) => place,
            None => find_by_frames(&file, size, id)?,
        };
        let Some((offset, frame)) = place else { return Ok(None) };
        let opener = opener.ok_or_else(|| FindError::NoKey(head.key_id()))?;
        let mut sealed = vec![0; frame.length];
        file.read_exact_at(&mut sealed, offset + FRAME_HEAD as u64)?;
        let plain = opener.open(frame, offset, sealed).ok_or_else(damaged)?;
        rmp_serde::from_slice(&plain).map(Some).map_err(|_| damaged())
    }

    /// Opens a file, also if it was closed, and so renamed, since it was listed.
    fn open(&self, listed: &Listed) -> io::Result<File> {
        let opened = File::open(&listed.path);
        let is_gone = opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if !is_gone || listed.name.closed_ms.is_some() {
            return opened;
        }
        let is_it = |file: &Listed| {
            (file.name.created_ms, file.name.random) == (listed.name.created_ms, listed.name.random)
        };
        match list(&self.folder)?.into_iter().find(is_it) {
            Some(renamed) => File::open(renamed.path),
            None => opened,
        }
    }
}

/// Where the index has the frame. `None`: the file has no valid index.
fn find_by_index(
    file: &File,
    size: u64,
    opener: &Opener,
    id: &UniqueId,
) -> io::Result<Option<Place>> {
    let Some(at) = size.checked_sub(END as u64) else { return Ok(None) };
    let mut end = [0; END];
    file.read_exact_at(&mut end, at)?;
    let Some(end) = FileEnd::parse(&end, size) else { return Ok(None) };
    let mut entries = vec![0; end.entries.saturating_mul(ENTRY)];
    file.read_exact_at(&mut entries, end.offset)?;
    if !opener.is_index(&end, &entries) {
        return Ok(None);
    }
    let (entries, _) = entries.as_chunks::<ENTRY>();
    let found = entries.binary_search_by_key(id, |entry| array(entry, 0)).ok();
    let Some(entry) = found.and_then(|found| entries.get(found)) else { return Ok(Some(None)) };
    let offset = u64::from_be_bytes(array(entry, 16));
    let frame = frame_at(file, end.offset, offset)?.filter(|frame| frame.id == *id);
    // A frame that is not where the index has it was changed, which the search by frames finds.
    Ok(frame.map(|frame| Some((offset, frame))))
}

/// Searches the frames up to the last whole one.
fn find_by_frames(file: &File, size: u64, id: &UniqueId) -> io::Result<Place> {
    let mut offset = HEAD as u64;
    while let Some(frame) = frame_at(file, size, offset)? {
        if frame.id == *id {
            return Ok(Some((offset, frame)));
        }
        offset += (FRAME_HEAD + frame.length) as u64;
    }
    Ok(None)
}

/// The frame at `offset`, if it ends before `limit`.
fn frame_at(file: &File, limit: u64, offset: u64) -> io::Result<Option<FrameHead>> {
    let mut head = [0; FRAME_HEAD];
    if offset.saturating_add(FRAME_HEAD as u64) > limit {
        return Ok(None);
    }
    file.read_exact_at(&mut head, offset)?;
    let end = |frame: &FrameHead| offset + (FRAME_HEAD + frame.length) as u64;
    Ok(FrameHead::parse(&head).filter(|frame| end(frame) <= limit))
}
