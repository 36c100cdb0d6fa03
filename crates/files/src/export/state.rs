//! How far an export is: a small JSON file beside the target.
//!
//! - *In*: checkpoints.
//! - *Out*: the last checkpoint, after an interruption.
//! - *Never*: a checkpoint of another export, which is refused.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Export, ExportError, failed};
use crate::part;

/// Maximum bytes of the file.
const MAX_STATE: u64 = 1 << 20;
/// Version of the file.
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// What identifies the source.
    source: String,
    pub(super) conditions: Vec<String>,
    format: String,
    /// Whether the target is a folder is a part of its identity, too.
    is_folder: bool,
    /// The time of the start, from which conditions such as `from=6h` count.
    pub(super) now_us: u64,
    /// Where the source continues; `None`: at its beginning.
    pub(super) place: Option<String>,
    /// Complete files.
    pub(super) files: u64,
    /// Bytes of the unfinished file.
    pub(super) size: u64,
    /// Its records.
    pub(super) rows: u64,
    /// Records of all files.
    pub(super) records: u64,
    /// Whether the source was read to its end.
    pub(super) is_done: bool,
}

impl State {
    pub(super) fn new(export: &Export, now_us: u64) -> Self {
        State {
            version: VERSION,
            source: export.source.clone(),
            conditions: export.conditions.clone(),
            format: export.format.name().to_owned(),
            is_folder: matches!(export.target, super::Target::Folder(..)),
            now_us,
            place: None,
            files: 0,
            size: 0,
            rows: 0,
            records: 0,
            is_done: false,
        }
    }

    /// `None`: there is no file.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, ExportError> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_STATE).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(path, error.into())),
            Ok(_) => {}
        }
        let state: Option<State> = serde_json::from_str(&text).ok();
        state.filter(|state| state.version == VERSION).map(Some).ok_or_else(|| {
            let path = path.display();
            ExportError::Target(format!(
                "{path} is not a checkpoint of this version; remove it and begin again"
            ))
        })
    }

    /// This state, if it is of the export that `fresh` would begin.
    pub(super) fn continued(self, fresh: &State) -> Result<Self, ExportError> {
        let of = |state: &State| {
            let State { source, conditions, format, .. } = state;
            format!("--from {source} --format {format} --where {conditions:?}")
        };
        let is_same = of(&self) == of(fresh) && self.is_folder == fresh.is_folder;
        match is_same {
            true => Ok(self),
            false => Err(ExportError::Target(format!(
                "the interrupted export was of {}; resume it with the same arguments",
                of(&self)
            ))),
        }
    }

    /// Replaces the file.
    pub(super) fn save(&self, path: &Path) -> Result<(), ExportError> {
        let mut temporary = path.to_owned().into_os_string();
        temporary.push(".tmp");
        let temporary = Path::new(&temporary);
        let save = || {
            let mut file = File::create(temporary)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(temporary, path)?;
            part::sync_folder(path)
        };
        save().map_err(|error| failed(path, error.into()))
    }
}
