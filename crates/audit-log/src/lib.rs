//! The audit log: a file of JSON lines with a hash chain, its writer and its verifier.
//!
//! Each line has a sequence number and a hash over its text and the hash of the line before it.
//! So a line that was changed, removed, inserted or moved breaks the chain at its place.
//!
//! - *In*: lines from the pump of the observatory; files to verify.
//! - *Out*: the log, which continues its chain over restarts, rotation and several processes; a
//!   report of each break of a chain.
//! - *Never*: a wait of a request; a break that is repaired; more memory than the longest line.

mod chain;
pub use chain::{Digest, Head};

mod head_file;
pub use head_file::head_path;

mod key;
pub use key::{ChainKey, KeyId};

mod lines;

mod log;
pub use log::{AuditLog, PublishedHead};

mod tail;

mod verify;
pub use verify::{FileReport, Problem, Report, VerifyOptions, verify};
