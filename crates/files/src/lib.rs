//! Records as files: written by the gateway, read by other programs, converted by `export`.
//!
//! - *In*: finished [`lens::Record`]s with their [`observatory::RecordKey`]s; files of any format.
//! - *Out*: JSON lines, CSV, MessagePack, Protobuf, and with the feature `arrow` Arrow IPC and
//!   Parquet. All have the [`COLUMNS`].
//! - *Never*: a prompt, an answer or a credential, which a record does not have; a file that looks
//!   complete and is not; a length of a file that is trusted.

mod column;
pub use column::{COLUMNS, Column, Group, Kind, markdown};

mod row;
pub use row::Row;

mod csv;
mod json_lines;
mod message_pack;
mod protobuf;
pub use protobuf::schema as protobuf_schema;

#[cfg(feature = "arrow")]
mod columnar;
#[cfg(not(feature = "arrow"))]
#[path = "columnar/off.rs"]
mod columnar;

mod reader;
pub use reader::{MAX_ROW, ReadError, Reader, open};

mod writer;
pub use writer::{RowWriter, WriteError, is_supported};

mod part;

mod folder;
pub use folder::{Counters, FolderOptions, sink};

mod upload;
pub use upload::{UploadSettings, Uploads, uploaded};

mod export;
pub use export::{Export, ExportError, FileSource, Progress, Source, SourceError, Target};
