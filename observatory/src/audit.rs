//! The audit log: lines, appended to a file by a thread of its own.
//!
//! - *In*: lines from any thread.
//! - *Out*: the file, set aside as `.1`, `.2` ... when it has grown to its bound.
//! - *Never*: a wait of whoever writes: a line that finds the queue full, or the disk, is counted and gone. Nobody but the owner of the
//!   process may read the file.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::rotating_file::RotatingFile;

/// Lines that wait to be written: some hundred requests with findings each.
const QUEUE: usize = 4096;

/// What became of lines.
#[derive(Debug, Default)]
pub struct AuditCounts {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl AuditCounts {
    /// Lines in the file.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Lines that found the queue full, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A log that is being written. Dropping it writes what waits.
#[derive(Debug)]
pub struct AuditLog {
    lines: Option<SyncSender<String>>,
    counts: Arc<AuditCounts>,
    writer: Option<JoinHandle<()>>,
}

impl AuditLog {
    /// Open or make the file. It is set aside before it grows beyond `max_size` bytes; `keep` files set aside are kept.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path, max_size: u64, keep: usize, counts: Arc<AuditCounts>) -> io::Result<Self> {
        let rotating = RotatingFile::open(path.to_owned(), max_size, keep)?;
        let (lines, take) = sync_channel(QUEUE);
        let seen = counts.clone();
        // Joined when the log is dropped.
        let writer = std::thread::Builder::new().name("llm-lens-audit".into()).spawn(move || write_all(rotating, &take, &seen))?;
        Ok(AuditLog { lines: Some(lines), counts, writer: Some(writer) })
    }

    /// Append a line, its end not included.
    pub fn write(&self, line: String) {
        let sent = self.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
        if !sent {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.lines.take();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_all(mut file: RotatingFile, take: &Receiver<String>, counts: &AuditCounts) {
    let mut complained = false;
    for mut line in take {
        line.push('\n');
        match file.write(line.as_bytes()) {
            Ok(()) => {
                counts.written.fetch_add(1, Ordering::Relaxed);
                complained = false;
            }
            Err(error) => {
                counts.dropped.fetch_add(1, Ordering::Relaxed);
                // Once for each time it breaks: a full disk is not filled by saying so.
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!(path = %file.path().display(), %error, "audit log cannot be written; lines are lost and counted until it can");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("llm-lens-audit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn lines_are_whole_files_are_bounded_and_old_ones_go() {
        let folder = folder("rotate");
        let path = folder.join("audit.jsonl");
        let counts = Arc::new(AuditCounts::default());
        let log = AuditLog::open(&path, 1024, 2, counts.clone()).unwrap();
        for number in 0..100 {
            log.write(format!("{number:0>99}"));
        }
        drop(log);
        assert_eq!((counts.written(), counts.dropped()), (100, 0));
        let mut names: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]);
        for name in &names {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            assert!(text.len() <= 1024 && text.lines().all(|line| line.len() == 99), "{name}");
        }
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("99\n"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let counts = Arc::new(AuditCounts::default());
        let log = AuditLog::open(Path::new("/dev/full"), 1 << 20, 1, counts.clone()).unwrap();
        (0..10).for_each(|number| log.write(number.to_string()));
        drop(log);
        assert_eq!((counts.written(), counts.dropped()), (0, 10));
    }
}
