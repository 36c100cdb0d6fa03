//! The journal of usage: lines that gateways append to one file, and that are read after a restart.
//!
//! - *In*: the usage that a gateway adds; lines, its own and those of other gateways.
//! - *Out*: lines to append; sums; a snapshot, which is a shorter journal with the same sums.
//! - *Never*: a line that counts twice, however often it is read; a damaged line that affects
//!   another one, or counts.
//!
//! A journal is a snapshot and additions, as JSON lines. The snapshot is a header and the sums of
//! each row. An addition has a writer and a number, which grows with each addition of the writer:
//! an addition up to the last known number is already included. Each line ends with a checksum of
//! its text. ADR 0016 explains the design.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{DAYS, MAX_ROWS, Totals, UsageRow, day};

/// Version in the header.
const VERSION: u32 = 1;
/// Start of a header.
const HEADER: &[u8] = b"{\"usage_journal\":";
/// Text before and after a checksum.
const CHECK: (&[u8], &[u8]) = (b",\"check\":\"", b"\"}");
/// Length of a checksum in hexadecimal digits.
const CHECK_DIGITS: usize = 16;
/// Writers whose last number a snapshot keeps, the latest ones. Writers append at the same time
/// only during an upgrade, so that earlier ones have ended long ago.
const MAX_WRITERS: usize = 64;

/// A line that is no line of a journal, or whose checksum is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a usage journal")]
pub struct DamagedLine;

/// The content of a journal. Only reading lines changes it.
#[derive(Debug)]
pub struct UsageJournal {
    /// Identifies this gateway among the writers.
    writer: Arc<str>,
    /// Identifies the snapshot.
    snapshot: String,
    rows: BTreeMap<UsageRow, RowSum>,
    /// The number of the last addition of each writer.
    numbers: BTreeMap<Arc<str>, u64>,
    old_format: bool,
}

#[derive(Debug, Default)]
struct RowSum {
    /// The row of the snapshot.
    base: Totals,
    /// Additions since then.
    added: Totals,
}

#[derive(Serialize, Deserialize)]
struct JournalHeader {
    usage_journal: u32,
    snapshot: String,
    numbers: BTreeMap<Arc<str>, u64>,
}

/// A row of the snapshot, or an addition if it has a writer.
#[derive(Serialize, Deserialize)]
struct JournalLine {
    #[serde(flatten)]
    row: UsageRow,
    #[serde(flatten)]
    totals: Totals,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writer: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
}

/// A line of the files before the journal: a row without a checksum.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldLine {
    time: String,
    #[serde(default)]
    owner: Arc<str>,
    #[serde(default)]
    key: Arc<str>,
    #[serde(default)]
    model: Arc<str>,
    requests: u64,
    input_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
    cost_pico: u64,
}

impl UsageJournal {
    /// An empty journal. `writer` is different for each gateway; later ones are greater.
    pub fn new(writer: &str) -> Self {
        UsageJournal {
            writer: writer.into(),
            snapshot: String::new(),
            rows: BTreeMap::new(),
            numbers: BTreeMap::new(),
            old_format: false,
        }
    }

    /// Read a line, with or without its line feed. Returns an addition of another writer that was
    /// not known yet.
    ///
    /// # Errors
    /// The line is damaged; nothing has changed.
    pub fn read(&mut self, line: &[u8]) -> Result<Option<(UsageRow, Totals)>, DamagedLine> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.is_empty() {
            return Ok(None);
        }
        let Some(checked) = checked(line) else { return self.read_old(line) };
        if line.starts_with(HEADER) {
            let header: JournalHeader = serde_json::from_slice(checked).map_err(|_| DamagedLine)?;
            return self.read_header(header).map(|()| None);
        }
        let JournalLine { row, totals, writer, number } =
            serde_json::from_slice(checked).map_err(|_| DamagedLine)?;
        if row.time.parse::<Date>().is_err() {
            return Err(DamagedLine);
        }
        let (Some(writer), Some(number)) = (writer, number) else {
            self.rows.entry(row).or_default().base = totals;
            return Ok(None);
        };
        let last = self.numbers.entry(writer.clone()).or_default();
        if number <= *last {
            return Ok(None);
        }
        *last = number;
        self.rows.entry(row.clone()).or_default().added.add(&totals);
        Ok((writer != self.writer).then_some((row, totals)))
    }

    fn read_header(&mut self, header: JournalHeader) -> Result<(), DamagedLine> {
        if header.usage_journal != VERSION {
            return Err(DamagedLine);
        }
        // A file that was doubled has the same header twice. Another header starts another journal.
        if header.snapshot != self.snapshot {
            let own = self.numbers.get(&self.writer).copied().unwrap_or_default();
            self.clear();
            self.snapshot = header.snapshot;
            self.numbers = header.numbers;
            if own > 0 {
                let number = self.numbers.entry(self.writer.clone()).or_default();
                *number = own.max(*number);
            }
        }
        Ok(())
    }

    /// Lines of the old format precede those of a journal, if there are any.
    fn read_old(&mut self, line: &[u8]) -> Result<Option<(UsageRow, Totals)>, DamagedLine> {
        let old: OldLine = serde_json::from_slice(line).map_err(|_| DamagedLine)?;
        if !self.snapshot.is_empty() || old.time.parse::<Date>().is_err() {
            return Err(DamagedLine);
        }
        let row = UsageRow { time: old.time, owner: old.owner, key: old.key, model: old.model };
        self.rows.entry(row).or_default().base = Totals {
            requests: old.requests,
            input_tokens: old.input_tokens,
            cached_tokens: old.cached_tokens,
            output_tokens: old.output_tokens,
            reasoning_tokens: old.reasoning_tokens,
            cost_pico: old.cost_pico,
        };
        self.old_format = true;
        Ok(None)
    }

    /// Whether the old format was read. A snapshot migrates it.
    pub fn has_old_format(&self) -> bool {
        self.old_format
    }

    /// The sums.
    pub fn rows(&self) -> impl Iterator<Item = (UsageRow, Totals)> {
        self.rows.iter().map(|(row, sum)| (row.clone(), sum.total()))
    }

    /// Lines that add `rows`. Append them to the file, then read them.
    ///
    /// # Errors
    /// A row cannot be written as JSON.
    pub fn additions(&self, rows: &[(UsageRow, Totals)]) -> io::Result<Vec<u8>> {
        let mut number = self.numbers.get(&self.writer).copied().unwrap_or_default();
        let mut lines = Vec::new();
        for (row, totals) in rows {
            number += 1;
            let writer = Some(self.writer.clone());
            let line =
                JournalLine { row: row.clone(), totals: *totals, writer, number: Some(number) };
            write_checked(&mut lines, &line)?;
        }
        Ok(lines)
    }

    /// Drop days that are too old, and the oldest rows if there are too many. `wall_us` is now, in
    /// Unix microseconds.
    pub fn expire(&mut self, wall_us: u64) {
        let Some(today) = day(wall_us) else { return };
        let is_old = |row: &UsageRow| {
            row.time.parse::<Date>().is_ok_and(|day| (today - day).get_days() as i64 > DAYS)
        };
        while let Some((oldest, _)) = self.rows.first_key_value() {
            if self.rows.len() <= MAX_ROWS && !is_old(oldest) {
                break;
            }
            self.rows.pop_first();
        }
        while self.numbers.len() > MAX_WRITERS {
            self.numbers.pop_first();
        }
    }

    /// Forget all lines, to read another file. The additions of this gateway keep their numbers.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.snapshot.clear();
        self.numbers.retain(|writer, _| *writer == self.writer);
        self.old_format = false;
    }

    /// A snapshot has replaced all lines.
    pub fn set_snapshot(&mut self, snapshot: &str) {
        for sum in self.rows.values_mut() {
            *sum = RowSum { base: sum.total(), added: Totals::default() };
        }
        self.snapshot = snapshot.into();
        self.old_format = false;
    }

    /// Write a journal with the same sums and no additions. `snapshot` identifies it.
    ///
    /// # Errors
    /// The I/O error.
    pub fn write_snapshot(&self, snapshot: &str, out: &mut impl Write) -> io::Result<()> {
        let numbers = self.numbers.clone();
        let header = JournalHeader { usage_journal: VERSION, snapshot: snapshot.into(), numbers };
        write_checked(out, &header)?;
        self.rows().try_for_each(|(row, totals)| {
            write_checked(out, &JournalLine { row, totals, writer: None, number: None })
        })
    }
}

impl RowSum {
    fn total(&self) -> Totals {
        let mut total = self.base;
        total.add(&self.added);
        total
    }
}

/// A line as JSON with a checksum as its last member.
fn write_checked(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    // The closing brace moves behind the checksum.
    text.pop();
    let check = checksum(&text);
    text.extend_from_slice(CHECK.0);
    text.extend_from_slice(check.as_bytes());
    text.extend_from_slice(CHECK.1);
    text.push(b'\n');
    out.write_all(&text)
}

/// The line, if its checksum is right.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let open = line.strip_suffix(CHECK.1)?;
    let (rest, digits) = open.split_at_checked(open.len().checked_sub(CHECK_DIGITS)?)?;
    let text = rest.strip_suffix(CHECK.0)?;
    (checksum(text).as_bytes() == digits).then_some(line)
}

/// The first 64 bits of SHA-256, in hexadecimal digits.
fn checksum(text: &[u8]) -> String {
    let mut digits = String::with_capacity(CHECK_DIGITS);
    for byte in Sha256::digest(text).iter().take(CHECK_DIGITS / 2) {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests;
