//! Arrow IPC and Parquet in a build without the feature `arrow`: they are refused.

use std::fs::File;
use std::path::Path;

use lens::RecordFormat;

use crate::reader::{ReadError, Reader};
use crate::writer::{WriteError, is_supported};

/// Whether this build has the formats.
pub(crate) const SUPPORTED: bool = false;

/// As with the feature.
pub(crate) fn open_arrow(_: File) -> Result<Box<dyn Reader>, ReadError> {
    refuse(RecordFormat::Arrow)
}

/// As with the feature.
pub(crate) fn open_parquet(_: File) -> Result<Box<dyn Reader>, ReadError> {
    refuse(RecordFormat::Parquet)
}

fn refuse(format: RecordFormat) -> Result<Box<dyn Reader>, ReadError> {
    Err(ReadError::File(is_supported(format).err().unwrap_or_default()))
}

/// As with the feature.
pub(crate) fn convert(
    _: &mut dyn Reader,
    _: &Path,
    format: RecordFormat,
    _: &dyn Fn() -> bool,
) -> Result<Option<u64>, WriteError> {
    Err(WriteError::Unsupported(is_supported(format).err().unwrap_or_default()))
}
