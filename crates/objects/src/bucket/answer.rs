//! Answers that are not a success.
//!
//! - *In*: the head, and the XML that stores send.
//! - *Out*: an error with the store's reason, what it concerns, and when to call again.
//! - *Never*: a credential, which a store could repeat.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, RETRY_AFTER};
use http::response::Parts;
use http::{HeaderMap, StatusCode};

use crate::error::{ObjectError, Scope, readable};
use crate::options::Credentials;
use crate::xml;

/// Codes of S3 for faults of one object.
const OF_OBJECT: [&str; 7] = [
    "BadDigest",
    "EntityTooLarge",
    "IncompleteBody",
    "InvalidObjectName",
    "KeyTooLongError",
    "NoSuchKey",
    "XAmzContentSHA256Mismatch",
];

/// A failed call, and what the client does about it.
pub(super) struct Refusal {
    pub(super) error: ObjectError,
    pub(super) status: Option<StatusCode>,
    /// The store refuses the time of the signature.
    pub(super) is_skewed: bool,
    /// Its time, in Unix seconds.
    pub(super) date: Option<i64>,
}

impl From<ObjectError> for Refusal {
    fn from(error: ObjectError) -> Self {
        Refusal { error, status: None, is_skewed: false, date: None }
    }
}

pub(super) fn refusal(head: &Parts, body: &str, credentials: Option<&Credentials>) -> Refusal {
    let code = xml::text(body, "Code").unwrap_or_default();
    let message = xml::text(body, "Message").unwrap_or_default();
    let mut why = readable(&hide(&format!("{code}: {message}"), credentials));
    if code.is_empty() && message.is_empty() {
        why = hint(head).to_owned();
    }
    let region = head.headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
    if let (true, Some(region)) = (head.status.is_redirection(), region) {
        why = format!("the bucket is in the region {}; set it", readable(region));
    }
    let is_of_object = OF_OBJECT.contains(&&*code)
        || matches!(head.status.as_u16(), 409 | 412 | 413 | 414)
        || head.status == StatusCode::NOT_FOUND && code.is_empty();
    Refusal {
        error: ObjectError {
            code: format!("http_{}", head.status.as_u16()),
            why,
            scope: if is_of_object { Scope::Object } else { Scope::Store },
            retry_after: retry_after(&head.headers),
        },
        status: Some(head.status),
        is_skewed: code == "RequestTimeTooSkewed",
        date: date(&head.headers),
    }
}

fn hint(head: &Parts) -> &'static str {
    match head.status.as_u16() {
        401 | 403 => "the store refuses the credentials or does not permit the call",
        404 => "there is no such bucket or object",
        _ => "the answer has no reason",
    }
}

fn hide(text: &str, credentials: Option<&Credentials>) -> String {
    let Some(Credentials { access_key, secret_key, session_token }) = credentials else {
        return text.to_owned();
    };
    let secrets = [Some(access_key), Some(secret_key), session_token.as_ref()];
    let secrets = secrets.into_iter().flatten().filter(|secret| !secret.is_empty());
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

fn date(headers: &HeaderMap) -> Option<i64> {
    let at = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}
