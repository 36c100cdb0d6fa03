//! Stored contents: prompts and answers of routes that opt in.
//!
//! - *In*: texts of a request with the spans of all findings in them.
//! - *Out*: encrypted files, which are removed at their age or size; the content of one request.
//! - *Never*: a finding's text in a file; a wait of a request; more memory than [`MAX_MEMORY`]; a
//!   key in a log or an error.
//!
//! A [`Draft`] gathers the texts of a request. The [`Recorder`] redacts it on a thread of its own,
//! encrypts it and appends it to a file of its [folder](ContentOptions::folder). A [`Reader`] finds
//! it by the `unique_id` of the request. `docs/adr/0026-contents.md` describes the format.
#![deny(clippy::indexing_slicing)]

mod content;
pub use content::{AnswerText, Content, Part, PromptText, Word};

mod redact;
pub use redact::Span;

mod budget;
pub use budget::MAX_MEMORY;

mod tap;
pub use tap::AnswerTap;

mod draft;
pub use draft::{Draft, Request, Scan};

mod key;
pub use key::{InvalidKey, KeyId, Keys, MasterKey};

mod frame;
mod name;

mod folder;
mod retention;

mod reader;
pub use reader::{FindError, Reader};

mod recorder;
pub use recorder::{ContentOptions, Counts, Recorder};
