//! Reads a whole file, up to a maximum size.
//!
//! - *In*: a path and the maximum size in bytes.
//! - *Out*: the bytes, or an error that names the path.
//! - *Never*: trust in the size that the file system reports: the read itself is bounded, so
//!   reading a pipe or a growing file also ends.

use crate::error::LoadError;
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, LoadError> {
    let refused = |source| LoadError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(refused)?;
    let size = file.metadata().map_err(refused)?.len();
    let too_large = || LoadError::FileTooLarge { path: path.to_owned(), max_bytes };
    if size > max_bytes {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > max_bytes { Err(too_large()) } else { Ok(bytes) }
}
