//! Writes the files of a folder, and removes old ones.
//!
//! - *In*: plain contents, the time.
//! - *Out*: an open file, which is closed with an index at its maximum size or age.
//! - *Never*: a frame after a failed write in the same file: the failed bytes may be on the disk,
//!   and their nonce must not be used again. A new file is created.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};

use crate::frame::{FileHead, HEAD, Sealer, UniqueId};
use crate::key::MasterKey;
use crate::name::FileName;
use crate::recorder::Counts;
use crate::retention::{self, Limits};

/// Maximum frames of a file, which bounds its index in memory.
const MAX_FRAMES: usize = 64 << 10;
/// Interval between two searches for files to remove.
const RETENTION_MS: u64 = 10_000;
/// Wait after a failure: a full disk must not fill with files of one frame.
const RETRY_MS: u64 = 1000;
/// Interval between two syncs of the open file.
const SYNC_MS: u64 = 1000;

/// A content that is ready to be sealed.
pub(crate) type Plain = (UniqueId, Vec<u8>);

/// The files of one process in a folder.
pub(crate) struct Folder {
    path: PathBuf,
    key: MasterKey,
    limits: Limits,
    counts: Arc<Counts>,
    open: Option<OpenFile>,
    next_retention_ms: u64,
    retry_ms: u64,
    /// The last operation failed, and was logged.
    has_failed: bool,
}

struct OpenFile {
    file: File,
    name: FileName,
    sealer: Sealer,
    index: Vec<(UniqueId, u64)>,
    size: u64,
    synced_ms: u64,
    is_synced: bool,
}

impl Folder {
    /// Opens or creates the folder, and checks that it can be written.
    pub(crate) fn open(
        path: &Path,
        key: MasterKey,
        limits: Limits,
        counts: Arc<Counts>,
        now_ms: u64,
    ) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let probe = path.join(format!(".probe-{}", random()?));
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe);
        created.and_then(|_| std::fs::remove_file(&probe))?;
        let mut folder = Folder {
            path: path.to_owned(),
            key,
            limits,
            counts,
            open: None,
            next_retention_ms: 0,
            retry_ms: 0,
            has_failed: false,
        };
        folder.remove_old(now_ms);
        Ok(folder)
    }

    /// Appends contents. Those that cannot be written are lost and counted.
    pub(crate) fn write(&mut self, batch: Vec<Plain>, now_ms: u64) {
        let all = batch.len() as u64;
        if now_ms < self.retry_ms {
            return self.counts.add_failed(all);
        }
        match self.append(batch, now_ms) {
            Ok(stored) => {
                self.counts.add_stored(stored);
                self.counts.add_failed(all - stored);
                self.has_failed = false;
            }
            Err((stored, error)) => {
                self.counts.add_stored(stored);
                self.counts.add_failed(all - stored);
                self.failed("contents cannot be stored, further losses are counted", &error);
                self.retry_ms = now_ms.saturating_add(RETRY_MS);
            }
        }
    }

    /// Appends a batch to one file or several. Returns how many contents are stored.
    fn append(&mut self, batch: Vec<Plain>, now_ms: u64) -> Result<u64, (u64, io::Error)> {
        let (mut stored, mut bytes, mut pending) = (0, Vec::new(), 0);
        for (id, plain) in batch {
            if self.open.as_ref().is_some_and(|open| open.is_full(bytes.len(), &self.limits)) {
                self.flush(&mut bytes).map_err(|error| (stored, error))?;
                stored += std::mem::take(&mut pending);
                self.close(now_ms);
            }
            if self.open.is_none() {
                let open = OpenFile::create(&self.path, &self.key, now_ms);
                self.open = Some(open.map_err(|error| (stored, error))?);
            }
            let Some(open) = &mut self.open else { continue };
            let offset = open.size + bytes.len() as u64;
            if open.sealer.seal((&id, offset), plain, &mut bytes).is_ok() {
                open.index.push((id, offset));
                pending += 1;
            }
        }
        self.flush(&mut bytes).map_err(|error| (stored, error))?;
        Ok(stored + pending)
    }

    /// Writes sealed frames. After a failure, the file is given up; its whole frames can be read.
    fn flush(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if let Err(error) = open.file.write_all(bytes) {
            let path = self.path.join(open.name.to_string());
            if open.size == HEAD as u64 {
                let _ = std::fs::remove_file(path);
            }
            self.open = None;
            return Err(error);
        }
        open.size += bytes.len() as u64;
        open.is_synced = open.is_synced && bytes.is_empty();
        bytes.clear();
        Ok(())
    }

    /// Closes the open file at its age, syncs it, and removes old files. Called several times a
    /// second.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        let span_ms = self.limits.span_ms;
        let is_old = |open: &OpenFile| {
            // A clock that was set back must not keep a file open for longer.
            !(open.name.created_ms..open.name.created_ms.saturating_add(span_ms)).contains(&now_ms)
        };
        if self.open.as_ref().is_some_and(is_old) {
            self.close(now_ms);
        }
        if let Some(open) = &mut self.open
            && !open.is_synced
            && now_ms.abs_diff(open.synced_ms) >= SYNC_MS
        {
            let synced = open.file.sync_data();
            (open.is_synced, open.synced_ms) = (true, now_ms);
            if let Err(error) = synced {
                self.failed("contents cannot be synced", &error);
            }
        }
        let is_due = now_ms >= self.next_retention_ms
            || now_ms.saturating_add(2 * RETENTION_MS) < self.next_retention_ms;
        if is_due {
            self.remove_old(now_ms);
        }
    }

    /// Closes the open file: writes its index, and renames it.
    pub(crate) fn close(&mut self, now_ms: u64) {
        let Some(open) = self.open.take() else { return };
        if let Err(error) = open.close(&self.path, now_ms) {
            self.failed("a file of contents cannot be closed", &error);
        }
        self.remove_old(now_ms);
    }

    fn remove_old(&mut self, now_ms: u64) {
        self.next_retention_ms = now_ms.saturating_add(RETENTION_MS);
        let open = self.open.as_ref().map(|open| (open.name, open.size));
        match retention::remove_old(&self.path, &self.limits, open, now_ms) {
            Ok(removed) => {
                self.counts.add_removed(removed.files);
                self.counts.set_size(removed.size_left);
            }
            Err(error) => self.failed("old contents cannot be removed", &error),
        }
    }

    /// Counts a failure, and logs the first of a row.
    fn failed(&mut self, what: &str, error: &io::Error) {
        self.counts.add_failure();
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::error!(path = %self.path.display(), %error, "{what}");
        }
    }
}

impl OpenFile {
    fn create(folder: &Path, key: &MasterKey, now_ms: u64) -> io::Result<Self> {
        let mut salt = [0; 32];
        fill(&mut salt)?;
        let name = FileName { created_ms: now_ms, closed_ms: None, random: random()? };
        let path = folder.join(name.to_string());
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        let head = FileHead::new(key.id(), salt, now_ms);
        if let Err(error) = file.write_all(head.bytes()) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        let (sealer, index, size) = (Sealer::new(key, head), Vec::new(), HEAD as u64);
        Ok(OpenFile { file, name, sealer, index, size, synced_ms: now_ms, is_synced: false })
    }

    /// Whether the next frame goes to another file. `pending`: bytes that are not written yet.
    fn is_full(&self, pending: usize, limits: &Limits) -> bool {
        self.size + pending as u64 >= limits.max_file || self.index.len() >= MAX_FRAMES
    }

    fn close(mut self, folder: &Path, now_ms: u64) -> io::Result<()> {
        let index = self.sealer.index(std::mem::take(&mut self.index), self.size);
        let index = index.map_err(|_| io::Error::other("the index cannot be sealed"))?;
        self.file.write_all(&index)?;
        self.file.sync_data()?;
        let closed_ms = Some(now_ms.max(self.name.created_ms));
        let closed = FileName { closed_ms, ..self.name };
        std::fs::rename(folder.join(self.name.to_string()), folder.join(closed.to_string()))?;
        File::open(folder)?.sync_all()
    }
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let filled = SystemRandom::new().fill(bytes);
    filled.map_err(|_| io::Error::other("the system has no random bytes"))
}

fn random() -> io::Result<u32> {
    let mut bytes = [0; 4];
    fill(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests;
