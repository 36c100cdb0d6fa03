//! The writer of the audit log: a sink that appends a line for each finding, and for each read of
//! stored contents.
//!
//! - *In*: lines, by the pump.
//! - *Out*: the file, rotated to `.1`, `.2` ... at its maximum size, and created again if it was
//!   renamed; the head of its chain.
//! - *Never*: a repaired chain. If lines at the end were removed, the chain continues from the head
//!   that the gateway knows, so that the gap shows.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use lens::observe::Samples;
use observatory::{AuditLine, FileStamp, RotatingFile, Sink, SinkError};

use crate::chain::{Head, Linker, Unchained};
use crate::head_file::HeadFile;
use crate::key::{ChainKey, KeyId};
use crate::tail::{Tail, read_tail};

/// The head of the chain, for readers on other threads.
#[derive(Clone, Debug)]
pub struct PublishedHead {
    head: Arc<Mutex<Head>>,
    key_id: Option<KeyId>,
}

impl PublishedHead {
    /// The last line that this process has written or found.
    pub fn head(&self) -> Head {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the chain's key, if it has one.
    pub fn key_id(&self) -> Option<KeyId> {
        self.key_id
    }

    /// Adds the metric of the chain.
    pub fn observe(&self, samples: &mut Samples) {
        samples.push("llm_lens_audit_sequence", self.head().sequence as f64);
    }

    fn publish(&self, head: Head) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = head;
    }
}

/// The file of the audit log, and the chain of its lines.
#[derive(Debug)]
pub struct AuditLog {
    file: RotatingFile,
    /// `None`: the log is a device or a pipe, and its chain starts with the process.
    head_file: Option<HeadFile>,
    key: Option<ChainKey>,
    head: Head,
    published: PublishedHead,
    /// The file as this process knows it.
    known: Option<FileStamp>,
    /// What follows the last line and is not of the chain.
    unchained: Option<Unchained>,
    /// The last line in the file is not the head, so the next one states the hash before it.
    has_gap: bool,
}

impl AuditLog {
    /// Opens or creates the file, and finds the head of its chain. The file rotates before it
    /// exceeds `max_size` bytes; `keep` rotated files are kept.
    ///
    /// # Errors
    /// The I/O error of the file or of its head file.
    pub fn open(
        path: &Path,
        max_size: u64,
        keep: usize,
        key: Option<ChainKey>,
    ) -> io::Result<Self> {
        let file = RotatingFile::open(path.to_owned(), max_size, keep)?;
        let is_file = std::fs::metadata(path)?.is_file();
        let head_file = is_file.then(|| HeadFile::open(path)).transpose()?;
        let key_id = key.as_ref().map(ChainKey::id);
        let published = PublishedHead { head: Arc::default(), key_id };
        let (head, known, unchained) = (Head::default(), None, None);
        let mut log =
            AuditLog { file, head_file, key, head, published, known, unchained, has_gap: false };
        log.lock()?;
        log.find_head();
        log.unlock();
        Ok(log)
    }

    /// The head of the chain, for other threads.
    pub fn published(&self) -> PublishedHead {
        self.published.clone()
    }

    fn lock(&mut self) -> io::Result<()> {
        let locked = self.head_file.as_mut().map_or(Ok(()), HeadFile::lock);
        self.file.reopen_if_moved();
        locked
    }

    /// Publishes the head, and lets other processes write.
    fn unlock(&mut self) {
        self.published.publish(self.head);
        self.known = self.file.stamp();
        self.head_file.iter().for_each(HeadFile::unlock);
    }

    /// Finds the head of the chain: of what this process wrote last, the head file, and the end of
    /// the log, that with the highest number.
    fn find_head(&mut self) {
        let Some(head_file) = &self.head_file else { return };
        if let Some(head) = head_file.head().filter(|head| head.sequence > self.head.sequence) {
            self.head = head;
        }
        let stamp = self.file.stamp();
        if stamp == self.known {
            return;
        }
        match self.read_end() {
            Ok(Tail { head: Some(found), unchained }) => {
                if found.sequence > self.head.sequence {
                    self.head = found;
                }
                self.unchained = unchained;
                self.has_gap = found != self.head;
            }
            Ok(Tail { head: None, unchained }) => {
                self.unchained = unchained;
                self.has_gap = self.unchained.is_some() && self.head != Head::default();
            }
            Err(error) => {
                let path = self.file.path().display();
                tracing::error!(%path, %error, "end of the audit log cannot be read");
            }
        }
        self.log_problems();
    }

    /// Reads the end of the log; a line that is not complete gets a line feed before.
    fn read_end(&mut self) -> io::Result<Tail> {
        let size = self.file.end_line()?;
        read_tail(&mut self.file.reader()?, size)
    }

    fn log_problems(&self) {
        let path = self.file.path().display();
        if let Some(Unchained { bytes, .. }) = &self.unchained {
            tracing::warn!(%path, bytes, "audit log ends with bytes outside of its chain, the next line names them");
        }
        if self.has_gap {
            let sequence = self.head.sequence;
            tracing::error!(%path, sequence, "audit log does not end with the last line of its chain: lines were removed or changed");
        }
    }

    /// Appends a finding.
    fn append(&mut self, object: &str) -> Result<(), String> {
        let mut linked = self.link(object)?;
        if self.file.would_rotate(linked.0.len()) {
            self.file.rotate().map_err(|error| self.named(&error))?;
            // A log without a chain stays outside of the new one.
            if self.head == Head::default() {
                self.unchained = None;
            }
            linked = self.link(object)?;
        }
        let (line, head) = linked;
        self.file.write(&line).map_err(|error| self.named(&error))?;
        self.head = head;
        self.unchained = None;
        self.has_gap = false;
        Ok(())
    }

    fn named(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.file.path().display())
    }

    /// The next line. The first one of a file states the hash before it, as after a gap.
    fn link(&self, object: &str) -> Result<(Vec<u8>, Head), String> {
        let (key, unchained) = (self.key.as_ref(), self.unchained.as_ref());
        let with_previous = self.file.is_empty() || self.has_gap;
        Linker { head: &self.head, key, unchained, with_previous }.link(object)
    }
}

impl Sink<AuditLine> for AuditLog {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn deliver(&mut self, batch: &[Arc<AuditLine>]) -> Result<(), SinkError> {
        let (mut lost, mut why) = (0, String::new());
        if let Err(error) = self.lock() {
            return Err(SinkError { lost: batch.len() as u64, why: error.to_string() });
        }
        self.find_head();
        for line in batch {
            match self.append(&line.text) {
                Ok(()) => line.confirm(),
                Err(error) => {
                    lost += 1;
                    why = error;
                }
            }
        }
        if let Some(Err(error)) = self.head_file.as_ref().map(|file| file.set_head(&self.head)) {
            let path = self.file.path().display();
            tracing::error!(%path, %error, "head file of the audit log cannot be written");
        }
        self.unlock();
        if lost > 0 { Err(SinkError { lost, why }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
