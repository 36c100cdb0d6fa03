//! The number of entries that exist, written before they are appended.
//!
//! - *In*: counts of entries that will be appended.
//! - *Out*: at the next start, how many entries a killed process had not appended yet.
//! - *Never*: a sync: the number survives the end of the process, not that of the machine.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::Disk;

const NAME: &str = "announced";
/// The number and its checksum.
const LEN: usize = 12;

/// Writes the number of announced entries. Use it from one thread, before entries wait in memory.
#[derive(Debug)]
pub struct Announcer<D: Disk> {
    disk: D,
    file: D::File,
    /// Sequence number after the last announced entry.
    end: AtomicU64,
}

impl<D: Disk> Announcer<D> {
    /// Opens or creates the file.
    pub(crate) fn open(disk: &D, folder: &Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        let file = match disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path)?,
            opened => opened?,
        };
        let mut bytes = [0; LEN];
        let read = disk.read_at(&file, &mut bytes, 0)?;
        // A damaged number is as unknown as a missing one.
        let end = if read == LEN { decode(&bytes).unwrap_or(0) } else { 0 };
        Ok(Announcer { disk: disk.clone(), file, end: AtomicU64::new(end) })
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    pub(crate) fn raise(&self, end: u64) {
        self.end.fetch_max(end, Ordering::Relaxed);
    }

    /// Notes that `count` entries exist. Each of them must be passed to [`crate::Spill::append`] or
    /// counted by [`crate::Spill::skip`]. Costs one write into the page cache.
    ///
    /// # Errors
    /// The I/O error. A crash then counts too few lost entries.
    pub fn announce(&self, count: u64) -> io::Result<()> {
        let end = self.end.fetch_add(count, Ordering::Relaxed) + count;
        self.disk.write_at(&self.file, &encode(end), 0)
    }
}

fn encode(end: u64) -> [u8; LEN] {
    let number = end.to_le_bytes();
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&crc32fast::hash(&number).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; LEN]) -> Option<u64> {
    let (number, checksum) = bytes.split_first_chunk::<8>()?;
    (checksum == crc32fast::hash(number).to_le_bytes()).then(|| u64::from_le_bytes(*number))
}
