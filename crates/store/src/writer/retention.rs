//! Partitions that leave the store: too old, too much, or damaged.
//!
//! - *In*: the limits of the options.
//! - *Out*: files removed as a whole, or renamed.
//! - *Never*: a partition that another process writes; the newest partition because of the size.

use super::Writer;
use crate::counters::add;
use crate::partition::{self, Partition};
use crate::schema::OpenError;

impl Writer {
    /// Drop partitions, and damaged files, whose records are all older than `keep` at `now_us` in
    /// Unix microseconds. Returns the number of dropped partitions.
    pub fn drop_old(&mut self, now_us: u64) -> usize {
        let keep_us = u64::try_from(self.options.keep.as_micros()).unwrap_or(u64::MAX);
        let is_old = |found: Partition| found.end_us().saturating_add(keep_us) <= now_us;
        for file in partition::list_set_aside(&self.folder).unwrap_or_default() {
            if is_old(file.partition) {
                file.remove();
            }
        }
        let all = partition::list(&self.folder).unwrap_or_default();
        all.into_iter().filter(|found| is_old(*found) && self.drop_partition(*found)).count()
    }

    /// Drop damaged files, then the oldest partitions, while the folder is too large. The newest
    /// partition stays, however small the limit is. Returns the number of dropped partitions.
    pub fn drop_excess(&mut self) -> usize {
        let all = partition::list(&self.folder).unwrap_or_default();
        let damaged = partition::list_set_aside(&self.folder).unwrap_or_default();
        let sizes: Vec<u64> = all.iter().map(|found| found.bytes(&self.folder)).collect();
        let mut bytes: u64 = sizes.iter().chain(damaged.iter().map(|file| &file.bytes)).sum();
        let max = if self.options.max_bytes == 0 { u64::MAX } else { self.options.max_bytes };
        for file in damaged {
            if bytes > max {
                bytes -= file.bytes;
                file.remove();
            }
        }
        let mut dropped = 0;
        for (found, size) in all.iter().zip(sizes).take(all.len().saturating_sub(1)) {
            if bytes > max && self.drop_partition(*found) {
                bytes -= size;
                dropped += 1;
            }
        }
        self.counters.set_bytes(bytes);
        dropped
    }

    /// Remove a partition, unless another process writes it.
    fn drop_partition(&mut self, partition: Partition) -> bool {
        self.open.retain(|open| open.partition != partition);
        let removed = match partition.lock(&self.folder) {
            Ok(Some(_lock)) => partition.remove(&self.folder),
            Ok(None) => return false,
            Err(error) => Err(error),
        };
        match &removed {
            Ok(()) => self.counters.add_dropped_partitions(1),
            Err(error) => {
                let file = partition.path(&self.folder);
                tracing::error!(file = %file.display(), %error, "cannot remove a file of records");
            }
        }
        removed.is_ok()
    }

    /// Rename a damaged partition, unless another process writes it, which will find the damage.
    pub(super) fn set_aside(&mut self, partition: Partition, error: &OpenError, now_us: u64) {
        self.open.retain(|open| open.partition != partition);
        let renamed = match partition.lock(&self.folder) {
            Ok(Some(_lock)) => partition.set_aside(&self.folder, now_us),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        match renamed {
            Ok(aside) => {
                add(&self.counters.damaged_partitions, 1);
                tracing::error!(
                    file = %aside.display(),
                    %error,
                    "a damaged file of records was renamed; `sqlite3 FILE .recover` reads what is left"
                );
            }
            Err(renaming) => tracing::error!(
                file = %partition.path(&self.folder).display(),
                %error,
                %renaming,
                "a file of records is damaged and cannot be renamed"
            ),
        }
    }
}
