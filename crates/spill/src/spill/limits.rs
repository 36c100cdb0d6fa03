//! Removing segments: those that are acknowledged, too old, or too much.
//!
//! - *In*: the time, the size of the batch that is about to be written.
//! - *Out*: removed segments; counts of dropped entries; damaged segments under another name.
//! - *Never*: a removed file before the ledger, on the disk, says that its entries are acknowledged
//!   or dropped.

use std::io;
use std::path::Path;

use crate::disk::Disk;
use crate::frame::{Kind, Reason};
use crate::ledger::State;
use crate::scan::Scanner;

use super::{MAX_DAMAGED_FILES, OpenGap, START, Spill, WhenFull};

impl<D: Disk> Spill<D> {
    /// Removes what exceeds the limits. With [`WhenFull::DropNewest`], this may be the batch.
    pub(super) fn apply_limits(&mut self, now: u64) -> io::Result<()> {
        self.drop_expired(now)?;
        let max = self.limits.max_bytes();
        // A gap alone is written also beyond the limit.
        let batch = match self.unsynced.entries {
            0 => 0,
            _ => self.unsynced.frames.len() as u64,
        };
        if self.bytes() + batch <= max {
            return Ok(());
        }
        self.remove_done(now)?;
        if self.limits.when_full == WhenFull::DropOldest {
            while self.bytes() + batch > max && !self.segments.is_empty() {
                self.drop_oldest(1, Reason::Full, now)?;
            }
        }
        if self.bytes() + batch > max {
            self.drop_batch();
        }
        Ok(())
    }

    /// Removes segments of acknowledged and dropped entries.
    pub(super) fn remove_done(&mut self, now: u64) -> io::Result<()> {
        let State { acknowledged, dropped, .. } = self.ledger.state();
        let done = acknowledged.max(dropped);
        while let Some(segment) = self.segments.front() {
            let is_active = self.segments.len() == 1 && self.active.is_some();
            if self.end_of(0) > done || is_active {
                break;
            }
            let path = self.segment_path(segment.first);
            let removed = match segment.damaged {
                true => set_aside(&self.disk, &self.folder, &path, now),
                false => self.disk.remove(&path),
            };
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            self.segments.pop_front();
        }
        Ok(())
    }

    fn drop_expired(&mut self, now: u64) -> io::Result<()> {
        let Some(max_age) = self.limits.max_age else { return Ok(()) };
        // A time in the future counts as now.
        let is_expired = |written: u64| now.saturating_sub(written) > max_age.as_secs();
        let expired = self.segments.iter().take_while(|s| is_expired(s.written)).count();
        if expired > 0 { self.drop_oldest(expired, Reason::Expired, now) } else { Ok(()) }
    }

    /// Drops the oldest segments: ledger first, then the files.
    fn drop_oldest(&mut self, count: usize, reason: Reason, now: u64) -> io::Result<()> {
        if count >= self.segments.len() {
            self.active = None;
        }
        let end = self.end_of(count.saturating_sub(1));
        let acknowledged = self.cursor.sequence;
        let lost = self.entries_until(count, end);
        self.ledger.write(&self.disk, State { acknowledged, dropped: end, reason })?;
        match reason {
            Reason::Expired => self.counts.expired += lost,
            _ => self.counts.full += lost,
        }
        self.read_end = None;
        self.remove_done(now)
    }

    /// Unacknowledged entries of the first `count` segments.
    fn entries_until(&self, count: usize, end: u64) -> u64 {
        let mut entries = 0;
        for segment in self.segments.iter().take(count) {
            let path = self.segment_path(segment.first);
            let Ok(file) = self.disk.open(&path) else { continue };
            let mut scanner = Scanner::new(&self.disk, &file, START, segment.len);
            while let Ok(Some((frame, _))) = scanner.next() {
                let counts = (self.cursor.sequence..end).contains(&frame.sequence);
                entries += u64::from(counts && frame.kind == Kind::Entry);
            }
        }
        entries
    }

    /// Drops the batch in memory.
    fn drop_batch(&mut self) {
        let count = self.unsynced.end.saturating_sub(self.next);
        self.counts.full += self.discard();
        self.gap = Some(OpenGap { count, reason: Reason::Full });
    }
}

/// Renames a damaged file to `NAME.damaged-SECONDS`, and removes the oldest ones of such files.
pub(super) fn set_aside<D: Disk>(disk: &D, folder: &Path, path: &Path, now: u64) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{now}"));
    disk.rename(path, &folder.join(name))?;
    let since = |name: &str| Some(name.split_once(".damaged-")?.1.parse::<u64>().unwrap_or(0));
    let mut damaged: Vec<(u64, String)> = disk
        .list(folder)?
        .into_iter()
        .filter_map(|file| Some((since(&file.name)?, file.name)))
        .collect();
    damaged.sort();
    let excess = damaged.len().saturating_sub(MAX_DAMAGED_FILES);
    damaged.iter().take(excess).try_for_each(|(_, name)| disk.remove(&folder.join(name)))
}
