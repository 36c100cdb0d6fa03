//! Removes whole files: by age, then by the size of the folder, oldest first.
//!
//! - *In*: the names and sizes of a folder.
//! - *Out*: fewer files.
//! - *Never*: a rewritten file; the file that this process writes; a file of another name.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::name::FileName;

/// Limits of the files of a folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Age at which a file is removed. All of its contents are younger or equal.
    pub(crate) keep_ms: u64,
    /// Maximum bytes of the folder.
    pub(crate) max_size: u64,
    /// Bytes after which a file is closed.
    pub(crate) max_file: u64,
    /// Time after which a file is closed, so that the last content of a file is removed only this
    /// much early.
    pub(crate) span_ms: u64,
}

impl Limits {
    pub(crate) fn new(keep: Duration, max_size: u64) -> Self {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        Limits {
            keep_ms,
            max_size,
            max_file: (max_size / 16).clamp(1 << 20, 32 << 20),
            span_ms: (keep_ms / 24).clamp(1000, 3_600_000),
        }
    }
}

/// What was removed, and what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) files: u64,
    pub(crate) size_left: u64,
}

/// A file of a folder.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: FileName,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

/// The files of a folder, oldest first.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<Listed>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(FileName::parse) else { continue };
        // It may have been removed or renamed since.
        let Ok(metadata) = entry.metadata() else { continue };
        files.push(Listed { name, path: entry.path(), size: metadata.len() });
    }
    files.sort_by_key(|file| file.name);
    Ok(files)
}

/// Removes files beyond the limits. `open`: the file that this process writes, and its size.
pub(crate) fn remove_old(
    folder: &Path,
    limits: &Limits,
    open: Option<(FileName, u64)>,
    now_ms: u64,
) -> io::Result<Removed> {
    let mut files = list(folder)?;
    files.retain(|file| open.is_none_or(|(name, _)| file.name != name));
    // The open file may grow to its maximum before the next search.
    let growth = limits.max_file;
    let mut size = files.iter().map(|file| file.size).sum::<u64>();
    let (mut removed, mut failure) = (0, None);
    for file in files {
        let is_old = file.name.created_ms.saturating_add(limits.keep_ms) <= now_ms;
        // It may be the open file of another gateway, during an upgrade.
        let may_be_open = file.name.closed_ms.is_none()
            && file.name.created_ms.saturating_add(2 * limits.span_ms) > now_ms;
        if !is_old && (may_be_open || size.saturating_add(growth) <= limits.max_size) {
            continue;
        }
        match std::fs::remove_file(&file.path) {
            Ok(()) => {
                removed += 1;
                size -= file.size;
            }
            // The other gateway of an upgrade has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => size -= file.size,
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(Removed { files: removed, size_left: size + open.map_or(0, |(_, size)| size) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn file(folder: &Path, created_ms: u64, closed_ms: Option<u64>, size: usize) -> FileName {
        let name = FileName { created_ms, closed_ms, random: created_ms as u32 };
        std::fs::write(folder.join(name.to_string()), vec![0; size]).unwrap();
        name
    }

    fn names(folder: &Path) -> Vec<FileName> {
        list(folder).unwrap().into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn files_are_removed_by_age_and_foreign_ones_never() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits::new(Duration::from_secs(24 * 3600), 1 << 30);
        assert_eq!(limits.span_ms, HOUR);
        let old = file(folder.path(), 0, Some(HOUR), 10);
        let torn = file(folder.path(), 1, None, 10);
        let young = file(folder.path(), 2 * HOUR, Some(3 * HOUR), 30);
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let remove = |now_ms| remove_old(folder.path(), &limits, None, now_ms).unwrap();
        assert_eq!(remove(24 * HOUR - 1), Removed { files: 0, size_left: 50 });
        assert_eq!(names(folder.path()), [old, torn, young]);
        assert_eq!(remove(24 * HOUR + 1), Removed { files: 2, size_left: 30 });
        assert_eq!(names(folder.path()), [young]);
        assert!(folder.path().join("notes.txt").exists());
    }

    #[test]
    fn oldest_files_are_removed_beyond_the_size() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { max_size: 100, max_file: 20, ..Limits::new(Duration::MAX, 0) };
        let now = 100 * HOUR;
        let files: Vec<_> = (1..=5).map(|at| file(folder.path(), at, Some(at), 20)).collect();
        let own = file(folder.path(), 0, None, 15);
        let other = file(folder.path(), now - 1, None, 20);
        let removed = remove_old(folder.path(), &limits, Some((own, 15)), now).unwrap();
        // Four of 20 and the growth of the open one fit.
        assert_eq!(removed, Removed { files: 2, size_left: 95 });
        assert_eq!(names(folder.path()), [vec![own], files[2..].to_vec(), vec![other]].concat());
        // The open file of another gateway stays, whatever the size.
        let limits = Limits { max_size: 1, ..limits };
        remove_old(folder.path(), &limits, Some((own, 15)), now).unwrap();
        assert_eq!(names(folder.path()), [own, other]);
    }
}
