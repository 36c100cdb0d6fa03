//! A record store as the source of an export, in a build without the feature `sqlite`.

use std::path::Path;

use files::{Source, SourceError};
use lens::RecordFilter;

/// An error.
pub(super) fn open(
    folder: &Path,
    _: &RecordFilter,
    _: Option<&str>,
) -> Result<Box<dyn Source>, SourceError> {
    let folder = folder.display();
    Err(SourceError(format!("{folder} is a record store: this build has no feature `sqlite`")))
}
