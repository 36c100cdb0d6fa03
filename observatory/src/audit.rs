//! The audit log: a sink that appends a line for each finding to a file.
//!
//! - *In*: lines, by the pump.
//! - *Out*: the file, rotated to `.1`, `.2` ... at its maximum size, and created again if it was
//!   renamed.
//! - *Never*: a file that other users can read.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::rotating_file::RotatingFile;
use crate::sink::{Queued, Sink, SinkError};

/// A line of the audit log: one finding.
#[derive(Debug)]
pub struct AuditLine {
    /// When it was found, Unix microseconds.
    pub at: u64,
    /// JSON, without the line feed.
    pub text: String,
}

impl Queued for AuditLine {
    fn at(&self) -> u64 {
        self.at
    }
}

/// The file of the audit log.
#[derive(Debug)]
pub struct AuditLog {
    file: RotatingFile,
}

impl AuditLog {
    /// Opens or creates the file. It rotates before it exceeds `max_size` bytes and keeps `keep`
    /// rotated files.
    ///
    /// # Errors
    /// The I/O error.
    pub fn open(path: &Path, max_size: u64, keep: usize) -> io::Result<Self> {
        Ok(AuditLog { file: RotatingFile::open(path.to_owned(), max_size, keep)? })
    }
}

impl Sink<AuditLine> for AuditLog {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn deliver(&mut self, batch: &[Arc<AuditLine>]) -> Result<(), SinkError> {
        let (mut lost, mut why) = (0, String::new());
        self.file.reopen_if_moved();
        for line in batch {
            if let Err(error) = self.file.write(format!("{}\n", line.text).as_bytes()) {
                lost += 1;
                why = format!("{}: {error}", self.file.path().display());
            }
        }
        if lost > 0 { Err(SinkError { lost, why }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn line(text: String) -> Arc<AuditLine> {
        Arc::new(AuditLine { at: 0, text })
    }

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("llm-lens-audit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn lines_stay_whole_and_files_rotate_within_their_bounds() {
        let folder = folder("rotate");
        let path = folder.join("audit.jsonl");
        let mut log = AuditLog::open(&path, 1024, 2).unwrap();
        let lines: Vec<_> = (0..100).map(|number| line(format!("{number:0>99}"))).collect();
        assert_eq!(log.deliver(&lines), Ok(()));
        let mut names: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
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

    /// As logrotate does, without `copytruncate`; and as another gateway does that shares the file
    /// during an upgrade.
    #[test]
    fn renamed_file_is_created_again() {
        let folder = folder("renamed");
        let path = folder.join("audit.jsonl");
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let mut log = AuditLog::open(&path, 1024, 2).unwrap();
        log.deliver(&[line("one".into())]).unwrap();
        std::fs::rename(&path, folder.join("old")).unwrap();
        log.deliver(&[line("two".into())]).unwrap();
        std::fs::remove_file(&path).unwrap();
        log.deliver(&[line("three".into())]).unwrap();
        assert_eq!((text("old"), text("audit.jsonl")), ("one\n".into(), "three\n".into()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut other = AuditLog::open(&path, 1024, 2).unwrap();
        for _ in 0..100 {
            other.deliver(&[line("x".repeat(99))]).unwrap();
            log.deliver(&[line("y".repeat(99))]).unwrap();
        }
        assert!(text("audit.jsonl").len() <= 1024 && text("audit.jsonl.1").len() <= 1024);
        assert!(text("audit.jsonl").contains('x') && text("audit.jsonl").contains('y'));
        // Without the folder, the line goes to the renamed file.
        let moved = folder.with_extension("moved");
        let _ = std::fs::remove_dir_all(&moved);
        std::fs::rename(&folder, &moved).unwrap();
        log.deliver(&[line("last".into())]).unwrap();
        assert!(std::fs::read_to_string(moved.join("audit.jsonl")).unwrap().ends_with("last\n"));
        std::fs::remove_dir_all(moved).unwrap();
    }

    #[test]
    fn lines_lost_to_a_full_disk_are_counted() {
        let mut log = AuditLog::open(Path::new("/dev/full"), 1 << 20, 1).unwrap();
        let lines: Vec<_> = (0..10).map(|number| line(number.to_string())).collect();
        let error = log.deliver(&lines).expect_err("the disk is full");
        assert!(error.lost == 10 && error.why.contains("/dev/full"), "{error:?}");
    }
}
