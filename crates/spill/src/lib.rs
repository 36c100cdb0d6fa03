//! A queue on the disk that survives a crash.
//!
//! - *In*: entries, which are bytes; acknowledgements.
//! - *Out*: the entries that are not acknowledged, oldest first, and gaps where entries were lost.
//! - *Never*: the meaning of an entry; a clock: the caller passes the time; more bytes on the disk
//!   than [`Limits::max_bytes`]; a lost entry that is not counted.
//!
//! Entries get consecutive sequence numbers and go to segment files. An entry is safe when
//! [`Spill::sync`] has returned. [`Spill::acknowledge`] writes the ledger; a segment is removed
//! when all of its entries are acknowledged in the ledger. `docs/adr/0018-spill.md` describes each
//! step and what a crash after it may lose.

mod disk;
pub use disk::{Disk, FileSystem, Listed};

mod announced;
pub use announced::Announcer;

mod frame;
pub use frame::{MAX_ENTRY, Reason};

mod ledger;
mod scan;

mod spill;
pub use spill::{Batch, Counts, Gap, Item, Limits, OpenError, Recovery, Spill, WhenFull};
