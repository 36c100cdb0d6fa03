//! The process and its operating system: descriptors, memory, signals, its successor.
//!
//! - *In*: limits and files of the kernel, signals, the socket of a hand-over.
//! - *Out*: bounds for connections and memory, wanted ends and reloads, listeners that pass from
//!   one process to the next, the metrics of the process, reports to the service manager.
//! - *Never*: a request, a setting that it interprets.

pub mod descriptors;
pub mod hand_over;
pub mod memory;
pub mod metrics;
pub mod notify;
pub mod signals;
