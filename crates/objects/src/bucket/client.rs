//! Requests of S3.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use base_url::BaseUrl;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use jiff::Timestamp;

use super::answer::{self, Refusal};
use super::{Listed, Stored};
use crate::body::{Progress, RequestBody};
use crate::connection::{Connection, Sender, broken};
use crate::error::ObjectError;
use crate::options::{BucketOptions, OptionsError};
use crate::sign::{self, EMPTY_HASH, Hasher};
use crate::xml;

/// The hash with which an object was created, in its metadata.
const HASH: &str = "x-amz-meta-sha256";
/// Maximum bytes of an answer that is not an object.
const MAX_ANSWER: usize = 4 << 20;
/// Objects in an answer.
const PAGE: &str = "1000";

pub(super) struct Client {
    pub(super) progress: Progress,
    options: BucketOptions,
    connection: Connection,
    /// Value of `Host`.
    host: String,
    /// What paths begin with.
    base: String,
    /// Seconds to add to the clock for the store's.
    skew: i64,
}

/// A request of an object, or of the bucket if `key` is empty.
#[derive(Default)]
struct Request<'r> {
    method: Method,
    key: &'r str,
    query: &'r [(&'r str, &'r str)],
    headers: Vec<(&'static str, String)>,
    /// A file, the bytes of it, and their hash.
    body: Option<(&'r Arc<File>, u64, &'r str)>,
}

impl Client {
    pub(super) fn new(options: BucketOptions) -> Result<Self, OptionsError> {
        // Names of buckets with dots do not fit into the certificates of AWS.
        let is_in_host = options.endpoint.is_none() && !options.bucket.contains('.');
        let endpoint: BaseUrl = match &options.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => {
                let bucket =
                    if is_in_host { format!("{}.", options.bucket) } else { String::new() };
                let url = format!("https://{bucket}s3.{}.amazonaws.com", options.region);
                url.parse().map_err(|why| OptionsError(format!("{url} {why}")))?
            }
        };
        let mut base = endpoint.prefix.clone();
        if !is_in_host {
            base.push('/');
            base.push_str(&options.bucket);
        }
        let connection = Connection::new(&endpoint, options.ca.as_deref())?;
        let (host, progress) = (endpoint.authority.clone(), Progress::default());
        Ok(Client { progress, options, connection, host, base, skew: 0 })
    }

    pub(super) async fn put_new(
        &mut self,
        key: &str,
        file: &Arc<File>,
        size: u64,
        hash: &str,
    ) -> Result<Stored, ObjectError> {
        let headers = vec![("if-none-match", "*".to_owned()), (HASH, hash.to_owned())];
        let body = Some((file, size, hash));
        let request = Request { method: Method::PUT, key, headers, body, ..Request::default() };
        match self.call(&request).await {
            Ok(_) => Ok(Stored::Now(size)),
            Err(refusal) if refusal.status == Some(StatusCode::PRECONDITION_FAILED) => {
                self.compare(key, size, hash).await
            }
            Err(refusal) => Err(refusal.error),
        }
    }

    /// Whether the object of this name has this content.
    async fn compare(&mut self, key: &str, size: u64, hash: &str) -> Result<Stored, ObjectError> {
        let request = Request { method: Method::HEAD, key, ..Request::default() };
        let (head, _) = self.call(&request).await.map_err(|refusal| refusal.error)?;
        let value = |name: &str| head.get(name).and_then(|value| value.to_str().ok());
        let has_size = value(CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok());
        if has_size != Some(size) {
            return Ok(Stored::Other);
        }
        let has_hash = match value(HASH) {
            Some(known) => known == hash,
            // Another program has created it, or the store keeps no metadata.
            None => {
                let mut hasher = Hashing(Hasher::new());
                self.get(key, &mut hasher).await?;
                hasher.0.finish() == hash
            }
        };
        Ok(if has_hash { Stored::Before } else { Stored::Other })
    }

    pub(super) async fn get(&mut self, key: &str, out: &mut dyn Write) -> Result<u64, ObjectError> {
        let request = Request { method: Method::GET, key, ..Request::default() };
        let (sender, answer) = self.send(&request).await?;
        if !answer.status().is_success() {
            return Err(self.refusal(sender, answer).await.error);
        }
        let (head, mut body) = answer.into_parts();
        let (mut size, mut hasher) = (0u64, Hasher::new());
        while let Some(frame) = body.frame().await {
            let Ok(part) = frame.map_err(broken)?.into_data() else { continue };
            self.progress.add();
            size += part.len() as u64;
            hasher.add(&part);
            let written = out.write_all(&part);
            written.map_err(|error| ObjectError::object("file", error.to_string()))?;
        }
        self.connection.keep(sender);
        let known = head.headers.get(HASH).and_then(|value| value.to_str().ok());
        if known.is_some_and(|known| known != hasher.finish()) {
            let problem = "its hash is not the one with which it was created";
            return Err(ObjectError::object("damaged", problem));
        }
        Ok(size)
    }

    pub(super) async fn list(
        &mut self,
        prefix: &str,
        from: Option<&str>,
    ) -> Result<(Vec<Listed>, Option<String>), ObjectError> {
        let mut query = vec![("list-type", "2"), ("max-keys", PAGE), ("prefix", prefix)];
        query.extend(from.map(|token| ("continuation-token", token)));
        let request = Request { method: Method::GET, query: &query, ..Request::default() };
        let (_, body) = self.call(&request).await.map_err(|refusal| refusal.error)?;
        let listed = |content: &str| {
            let size = xml::text(content, "Size")?.parse().ok()?;
            Some(Listed { key: xml::text(content, "Key")?, size })
        };
        let all: Option<Vec<Listed>> = xml::elements(&body, "Contents").map(listed).collect();
        let is_list = body.contains("</ListBucketResult>");
        let wrong = || ObjectError::store("list", "the answer is not a list of objects");
        let all = all.filter(|_| is_list).ok_or_else(wrong)?;
        let is_cut = xml::text(&body, "IsTruncated").as_deref() == Some("true");
        let next = xml::text(&body, "NextContinuationToken").filter(|_| is_cut);
        Ok((all, next))
    }

    /// Sends a request and reads the whole answer.
    async fn call(&mut self, request: &Request<'_>) -> Result<(HeaderMap, String), Refusal> {
        let (sender, answer) = self.send(request).await?;
        if answer.status().is_success() {
            let (head, body) = answer.into_parts();
            let body = self.read(body).await?;
            self.connection.keep(sender);
            return Ok((head.headers, body));
        }
        let refusal = self.refusal(sender, answer).await;
        let Some(date) = refusal.date.filter(|_| refusal.is_skewed) else { return Err(refusal) };
        // The clock of this machine is wrong. The store's time counts for its signatures.
        self.skew += date - self.now();
        tracing::warn!(seconds = self.skew, "the clock differs from that of the object store");
        let (sender, answer) = self.send(request).await?;
        if !answer.status().is_success() {
            return Err(self.refusal(sender, answer).await);
        }
        let (head, body) = answer.into_parts();
        let body = self.read(body).await?;
        self.connection.keep(sender);
        Ok((head.headers, body))
    }

    /// The reason of an answer that is not a success.
    async fn refusal(&mut self, sender: Sender, answer: http::Response<Incoming>) -> Refusal {
        let (head, body) = answer.into_parts();
        let body = match self.read(body).await {
            Ok(body) => {
                self.connection.keep(sender);
                body
            }
            // The status counts.
            Err(_) => String::new(),
        };
        answer::refusal(&head, &body, self.options.credentials.as_ref())
    }

    async fn read(&self, mut body: Incoming) -> Result<String, ObjectError> {
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(part) = frame.map_err(broken)?.into_data() else { continue };
            if all.len() + part.len() > MAX_ANSWER {
                return Err(ObjectError::store("answer", "the answer is longer than 4 MiB"));
            }
            all.extend_from_slice(&part);
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }

    async fn send(
        &mut self,
        request: &Request<'_>,
    ) -> Result<(Sender, http::Response<Incoming>), ObjectError> {
        let message = self.message(request)?;
        self.connection.send(message).await
    }

    fn message(&self, request: &Request<'_>) -> Result<http::Request<RequestBody>, ObjectError> {
        let key = sign::encode(request.key, true);
        let path = if key.is_empty() && !self.base.is_empty() {
            self.base.clone()
        } else {
            format!("{}/{key}", self.base)
        };
        let query = sign::query(request.query);
        let stamp = self.stamp();
        let hash = request.body.map_or(EMPTY_HASH, |(_, _, hash)| hash);
        let mut headers = request.headers.clone();
        headers.push(("host", self.host.clone()));
        headers.push(("x-amz-content-sha256", hash.to_owned()));
        headers.push(("x-amz-date", stamp.clone()));
        let credentials = self.options.credentials.as_ref();
        let token = credentials.and_then(|credentials| credentials.session_token.clone());
        headers.extend(token.map(|token| ("x-amz-security-token", token)));
        let authorization = credentials.map(|credentials| {
            let (method, payload) = (request.method.as_str(), hash);
            let call =
                sign::Call { method, path: &path, query: &query, headers: &headers, payload };
            sign::authorization(&call, credentials, &self.options.region, &stamp)
        });
        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        let body = match request.body {
            Some((file, size, _)) => RequestBody::file(file.clone(), size, self.progress.clone()),
            None => RequestBody::empty(),
        };
        let wrong = |error: http::Error| ObjectError::object("request", error.to_string());
        let mut message = http::Request::builder()
            .method(request.method.clone())
            .uri(target)
            .body(body)
            .map_err(wrong)?;
        let all = message.headers_mut();
        for (name, value) in headers {
            let name = if name == "host" { HOST } else { http::HeaderName::from_static(name) };
            all.insert(name, secret_value(&value)?);
        }
        if let Some(value) = authorization {
            all.insert(AUTHORIZATION, secret_value(&value)?);
        }
        let agent = concat!("llm-lens/", env!("CARGO_PKG_VERSION"));
        all.insert(USER_AGENT, HeaderValue::from_static(agent));
        Ok(message)
    }

    /// The time of the store, in Unix seconds.
    fn now(&self) -> i64 {
        let own = i64::try_from((self.options.wall_us)() / 1_000_000).unwrap_or(0);
        own + self.skew
    }

    fn stamp(&self) -> String {
        let at = Timestamp::from_second(self.now()).unwrap_or_default();
        at.strftime("%Y%m%dT%H%M%SZ").to_string()
    }
}

fn secret_value(text: &str) -> Result<HeaderValue, ObjectError> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| ObjectError::object("request", "a header has an invalid character"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Hashes what is written.
struct Hashing(Hasher);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
