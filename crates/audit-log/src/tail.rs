//! Finds the last line of a chain in a log, and what follows it.
//!
//! - *In*: a log.
//! - *Out*: the head, and the bytes after it that are not of the chain.
//! - *Never*: more memory than a line; the whole file, unless its end has no line of a chain.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use sha2::{Digest as _, Sha256};

use crate::chain::{Digest, Head, Link, Unchained};
use crate::lines::Lines;

/// Bytes at the end of a file that are read first.
const WINDOW: u64 = 64 << 10;

/// The end of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The last line of a chain.
    pub(crate) head: Option<Head>,
    /// The bytes after it.
    pub(crate) unchained: Option<Unchained>,
}

/// Reads the end of a log of `size` bytes.
pub(crate) fn read_tail(file: &mut File, size: u64) -> io::Result<Tail> {
    let window = size.saturating_sub(WINDOW);
    let found = match last_line(file, window, size)? {
        None if window > 0 => last_line(file, 0, size)?,
        found => found,
    };
    let (head, end) = found.map_or((None, 0), |(head, end)| (Some(head), end));
    Ok(Tail { head, unchained: measure(file, end, size)? })
}

/// The last line of a chain between two places, and where it ends.
fn last_line(file: &mut File, from: u64, to: u64) -> io::Result<Option<(Head, u64)>> {
    file.seek(SeekFrom::Start(from))?;
    let mut lines = Lines::new(file.take(to - from));
    let (mut at, mut found) = (from, None);
    while let Some(line) = lines.next(|_| {})? {
        at += line.bytes;
        if let Some(link) = line.text.and_then(Link::parse) {
            found = Some((link.head(), at));
        }
    }
    Ok(found)
}

/// Number and hash of the bytes between two places.
fn measure(file: &mut File, from: u64, to: u64) -> io::Result<Option<Unchained>> {
    file.seek(SeekFrom::Start(from))?;
    let (mut sha, mut piece, mut rest) = (Sha256::new(), [0; 8 << 10], file.take(to - from));
    let mut bytes = 0;
    loop {
        let read = rest.read(&mut piece)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        sha.update(piece.get(..read).unwrap_or_default());
    }
    let sha256 = Digest(sha.finalize().into());
    Ok((bytes > 0).then_some(Unchained { bytes, sha256 }))
}
