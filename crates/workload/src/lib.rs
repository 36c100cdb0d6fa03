//! What a load test sends, and when.
//!
//! - *In*: a workload file, arguments, files of prompts, a trace, a seed.
//! - *Out*: the times of starts, and the bodies of requests. Both depend on the seed and on
//!   nothing else, so that two runs of the same workload send the same.
//! - *Never*: a clock, a socket, a default that is not in the table of `docs/load-test.md`.

pub mod arrival;
pub mod length;
pub mod prompts;
pub mod provider;
pub mod text;
pub mod trace;

mod image;
mod objectives;
pub use objectives::Slo;
mod request;
pub use request::{Cancel, Conversation, Images, Pause, Prefix, Request, Workload};

mod document;
mod file;
pub use file::{STARTER, Sweep, WorkloadFile, parse};

use std::path::Path;

/// Maximum bytes of a file of prompts, tools or lengths.
const MAX_FILE: u64 = 2 << 30;

/// Reads a text file.
fn read_file(path: &Path) -> Result<String, String> {
    let name = path.display();
    let size = std::fs::metadata(path).map_err(|e| format!("{name}: {e}"))?.len();
    if size > MAX_FILE {
        return Err(format!("{name}: is larger than {} GiB", MAX_FILE >> 30));
    }
    std::fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))
}

/// FNV-1a, as hexadecimal digits.
fn digest(bytes: impl Iterator<Item = u8>) -> String {
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
