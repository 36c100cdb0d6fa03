//! Complete files in buckets of object stores that speak the API of S3.
//!
//! - *In*: files of a folder, each complete and never changed; credentials.
//! - *Out*: objects, each created once and never overwritten; local files that are removed only
//!   when the store has acknowledged the object.
//! - *Never*: the meaning of a file; a credential in an error, a log or a URL; more of a file in
//!   memory than a part of 64 KiB.

mod error;
pub use error::{ObjectError, Scope};

mod options;
pub use options::{BucketOptions, Credentials, OptionsError};

mod sign;

mod tls;

mod connection;

mod body;

mod bucket;
pub use bucket::{Bucket, Listed, Stored};

mod xml;

mod uploader;
pub use uploader::{UploadCounters, UploadOptions, Uploader};

#[cfg(test)]
mod s3;
