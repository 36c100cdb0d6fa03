//! URLs of buckets of object stores.
//!
//! - *In*: `s3://BUCKET`, `s3://BUCKET/PATH`.
//! - *Out*: the bucket and the path.
//! - *Never*: a credential or a query, which do not belong in a URL: URLs are logged and copied.

use std::fmt;
use std::str::FromStr;

/// Maximum bytes of a path. Names of objects may have 1,024.
const MAX_PATH: usize = 512;
const EXAMPLE: &str = "write for example \"s3://llm-lens-records/production\"";

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketUrl {
    /// The bucket.
    pub bucket: String,
    /// What follows the slash after the bucket, as written. May be empty.
    pub path: String,
}

/// Why a text is not such a URL. It never contains the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; {EXAMPLE}")]
pub struct BucketUrlError(&'static str);

impl BucketUrl {
    /// Whether a text is meant as such a URL.
    pub fn is_scheme_of(text: &str) -> bool {
        text.starts_with("s3://")
    }

    /// What the names of all objects below the path begin with: empty, or with a slash at its end.
    pub fn prefix(&self) -> String {
        match self.path.as_str() {
            "" => String::new(),
            path if path.ends_with('/') => path.to_owned(),
            path => format!("{path}/"),
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl FromStr for BucketUrl {
    type Err = BucketUrlError;

    fn from_str(text: &str) -> Result<Self, BucketUrlError> {
        let rest = text.strip_prefix("s3://").ok_or(BucketUrlError("must begin with s3://"))?;
        if rest.contains('@') {
            let problem = "contains a credential; it belongs in access_key and secret_key";
            return Err(BucketUrlError(problem));
        }
        if rest.contains(['?', '#']) {
            return Err(BucketUrlError("has a query, which is not supported"));
        }
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket(bucket) {
            let problem = "has no bucket of 3 to 63 lower-case letters, digits, dots and hyphens";
            return Err(BucketUrlError(problem));
        }
        if !is_path(path) {
            let problem = "has a path with characters other than letters, digits and -_.=+,~ \
                           between single slashes, with . or .., or longer than 512 bytes";
            return Err(BucketUrlError(problem));
        }
        Ok(BucketUrl { bucket: bucket.to_owned(), path: path.to_owned() })
    }
}

fn is_bucket(text: &str) -> bool {
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&text.len())
        && text.chars().all(|c| is_end(c) || c == '.' || c == '-')
        && text.starts_with(is_end)
        && text.ends_with(is_end)
        && !text.contains("..")
}

fn is_path(text: &str) -> bool {
    let is_part = |part: &str| {
        let is_known = |c: char| c.is_ascii_alphanumeric() || "-_.=+,~".contains(c);
        !part.is_empty() && part != "." && part != ".." && part.chars().all(is_known)
    };
    let parts = text.strip_suffix('/').unwrap_or(text);
    text.is_empty() || text.len() <= MAX_PATH && parts.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_and_path() {
        for (text, bucket, path, prefix) in [
            ("s3://records", "records", "", ""),
            ("s3://records/", "records", "", ""),
            ("s3://a.b-1/x/date=2026-11-30/", "a.b-1", "x/date=2026-11-30/", "x/date=2026-11-30/"),
            ("s3://records/all.parquet", "records", "all.parquet", "all.parquet/"),
        ] {
            let url: BucketUrl = text.parse().unwrap();
            assert_eq!((&*url.bucket, &*url.path, &*url.prefix()), (bucket, path, prefix));
            assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn wrong_urls_are_named_and_not_repeated() {
        let long = format!("s3://records/{}", "a".repeat(513));
        for (text, problem) in [
            ("gs://records", "must begin with s3://"),
            ("s3://key:secret@records", "contains a credential"),
            ("s3://records?X-Amz-Signature=secret", "has a query"),
            ("s3://Records", "has no bucket"),
            ("s3://ab", "has no bucket"),
            ("s3://-ab-", "has no bucket"),
            ("s3://a..b", "has no bucket"),
            ("s3:///x", "has no bucket"),
            ("s3://records/a//b", "has a path"),
            ("s3://records/../b", "has a path"),
            ("s3://records/a b", "has a path"),
            ("s3://records//", "has a path"),
            (&long, "has a path"),
        ] {
            let error = text.parse::<BucketUrl>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("write for example"), "{error}");
            assert!(!error.contains("secret@") && !error.contains("Signature"), "{error}");
        }
    }
}
