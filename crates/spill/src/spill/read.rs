//! Reading and acknowledging entries.
//!
//! - *In*: segments; acknowledgements.
//! - *Out*: synced entries and gaps, in order, each at least once until it is acknowledged.
//! - *Never*: an entry that is not synced; a missing entry without a [`Gap`].

use std::io;
use std::ops::Range;

use crate::disk::Disk;
use crate::frame::{Kind, Reason};
use crate::ledger::State;
use crate::scan::Scanner;

use super::{START, Spill};

/// Missing entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Sequence number of the first missing entry.
    pub first: u64,
    /// Sequence number of the last missing entry.
    pub last: u64,
    /// Why they are missing.
    pub reason: Reason,
}

impl Gap {
    fn new(missing: Range<u64>, reason: Reason) -> Self {
        Gap { first: missing.start, last: missing.end.saturating_sub(1), reason }
    }

    /// Number of missing entries.
    pub fn count(&self) -> u64 {
        self.last.saturating_sub(self.first) + 1
    }
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An entry.
    Entry {
        /// Its sequence number.
        sequence: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Missing entries.
    Gap(Gap),
}

/// The oldest items that are not acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The items, in order.
    pub items: Vec<Item>,
    /// Sequence number after the last item. Pass it to [`Spill::acknowledge`].
    pub end: u64,
}

/// Where reading starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    /// All entries before it are acknowledged.
    pub(super) sequence: u64,
    /// First sequence number of the segment of `offset`.
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// Where the last read ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadEnd {
    cursor: Cursor,
    /// Missing entries that it met in damaged segments.
    damaged: u64,
}

/// A read in progress.
struct Reading {
    batch: Batch,
    at: Cursor,
    damaged: u64,
    bytes: usize,
    max_items: usize,
    max_bytes: usize,
}

impl<D: Disk> Spill<D> {
    /// The oldest items that are not acknowledged: at most `max_items`, and no further one when
    /// their entries have `max_bytes`. The same items are returned until they are acknowledged.
    ///
    /// # Errors
    /// The I/O error. A segment that the disk cannot read counts as damaged instead.
    pub fn read(&mut self, max_items: usize, max_bytes: usize) -> io::Result<Batch> {
        let mut reading = Reading {
            batch: Batch::default(),
            at: self.cursor,
            damaged: 0,
            bytes: 0,
            max_items,
            max_bytes,
        };
        let before = |segment: &super::Segment| segment.first < self.cursor.segment;
        let first = self.segments.iter().take_while(|segment| before(segment)).count();
        for index in first..self.segments.len() {
            if reading.is_full() {
                break;
            }
            self.read_segment(index, &mut reading)?;
        }
        if !reading.is_full() && reading.at.sequence < self.next {
            self.push_gap(&mut reading, self.next);
        }
        let Reading { mut batch, at, damaged, .. } = reading;
        batch.end = at.sequence;
        self.read_end = Some(ReadEnd { cursor: at, damaged });
        Ok(batch)
    }

    /// Acknowledges all entries before `end`: they are not read again. Their segments are removed.
    ///
    /// # Errors
    /// The ledger cannot be written. The entries come back after a restart; the next call writes
    /// the ledger again.
    pub fn acknowledge(&mut self, end: u64, now: u64) -> io::Result<()> {
        let end = end.min(self.next);
        if end > self.cursor.sequence {
            let is_read_end = |read: &ReadEnd| read.cursor.sequence == end;
            match self.read_end.take().filter(is_read_end) {
                Some(ReadEnd { cursor, damaged }) => {
                    self.cursor = cursor;
                    self.counts.damaged += damaged;
                }
                None => self.cursor = self.cursor_at(end),
            }
        }
        let state = State { acknowledged: self.cursor.sequence, ..self.ledger.state() };
        self.ledger.write(&self.disk, state)?;
        // A file that cannot be removed is removed by a later call, or at the next start.
        let _ = self.remove_done(now);
        Ok(())
    }

    /// The cursor of a sequence number: the start of its segment, from which earlier entries are
    /// skipped.
    pub(super) fn cursor_at(&self, sequence: u64) -> Cursor {
        let segment = self.segments.iter().rev().find(|segment| segment.first <= sequence);
        Cursor { sequence, segment: segment.map_or(0, |segment| segment.first), offset: START }
    }

    /// Reads on in a segment, to its end or until the batch is full.
    fn read_segment(&mut self, index: usize, reading: &mut Reading) -> io::Result<()> {
        let Some(segment) = self.segments.get(index).copied() else { return Ok(()) };
        let end = self.end_of(index);
        if reading.at.segment != segment.first {
            reading.at = Cursor { segment: segment.first, offset: START, ..reading.at };
        }
        if reading.at.sequence < segment.first {
            self.push_gap(reading, segment.first);
        }
        let damaged = reading.damaged;
        match self.read_frames(segment.len, end, reading) {
            Err(error) if !is_unreadable(&error) => return Err(error),
            _ => {}
        }
        if !reading.is_full() && reading.at.sequence < end {
            self.push_gap(reading, end);
        }
        if reading.damaged > damaged
            && let Some(segment) = self.segments.get_mut(index)
        {
            segment.damaged = true;
        }
        Ok(())
    }

    fn read_frames(&self, len: u64, end: u64, reading: &mut Reading) -> io::Result<()> {
        let file = self.disk.open(&self.segment_path(reading.at.segment))?;
        let mut scanner = Scanner::new(&self.disk, &file, reading.at.offset, len);
        while !reading.is_full()
            && let Some((frame, payload)) = scanner.next()?
        {
            if frame.sequence >= end {
                // Left over from a write that failed; the next segment has these numbers.
                break;
            }
            if frame.end <= reading.at.sequence {
                continue;
            }
            if frame.sequence > reading.at.sequence {
                self.push_gap(reading, frame.sequence);
                // The frame is read again after the gap.
                if reading.is_full() {
                    break;
                }
            }
            match frame.kind {
                Kind::Entry => reading.push(frame.sequence, payload),
                Kind::Gap(reason) => {
                    let gap = Gap::new(reading.at.sequence..frame.end, reason);
                    reading.batch.items.push(Item::Gap(gap));
                }
            }
            reading.at.sequence = frame.end;
            reading.at.offset = scanner.position();
        }
        Ok(())
    }

    /// Entries up to `end` are missing.
    fn push_gap(&self, reading: &mut Reading, end: u64) {
        let State { dropped, reason, .. } = self.ledger.state();
        let missing = reading.at.sequence..end;
        let reason = if missing.end <= dropped { reason } else { Reason::Damaged };
        if reason == Reason::Damaged {
            reading.damaged += end - missing.start;
        }
        reading.batch.items.push(Item::Gap(Gap::new(missing, reason)));
        reading.at.sequence = end;
    }
}

impl Reading {
    fn is_full(&self) -> bool {
        self.batch.items.len() >= self.max_items.max(1) || self.bytes >= self.max_bytes.max(1)
    }

    fn push(&mut self, sequence: u64, payload: &[u8]) {
        self.bytes += payload.len();
        self.batch.items.push(Item::Entry { sequence, bytes: payload.to_vec() });
    }
}

/// The file is missing, or the disk cannot read it (`EIO`).
fn is_unreadable(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(EIO)
}
