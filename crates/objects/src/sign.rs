//! Signatures of AWS, version 4, for S3.
//!
//! - *In*: a call, credentials, the time.
//! - *Out*: the value of `Authorization`; hashes; encoded paths and queries.
//! - *Never*: a clock.

use ring::{digest, hmac};

use crate::options::Credentials;

/// The hash of an empty body.
pub(crate) const EMPTY_HASH: &str =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What is signed.
pub(crate) struct Call<'c> {
    pub(crate) method: &'c str,
    /// The encoded path.
    pub(crate) path: &'c str,
    /// The encoded query, as [`query`] returns it.
    pub(crate) query: &'c str,
    /// Names in lower case, with their values. All are signed.
    pub(crate) headers: &'c [(&'static str, String)],
    /// The hash of the body.
    pub(crate) payload: &'c str,
}

/// The value of `Authorization`. `stamp` is the time, as in `x-amz-date`: 20130524T000000Z.
pub(crate) fn authorization(
    call: &Call<'_>,
    credentials: &Credentials,
    region: &str,
    stamp: &str,
) -> String {
    let day = stamp.get(..8).unwrap_or_default();
    let mut headers: Vec<&(&str, String)> = call.headers.iter().collect();
    headers.sort_by_key(|(name, _)| *name);
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let Call { method, path, query, payload, .. } = call;
    let request = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("{ALGORITHM}\n{stamp}\n{scope}\n{}", hash(request.as_bytes()));
    let first = format!("AWS4{}", credentials.secret_key);
    let key = [day, region, "s3", "aws4_request"]
        .into_iter()
        .fold(first.into_bytes(), |key, word| mac(&key, word));
    let signature = hex::encode(mac(&key, &text));
    let id = &credentials.access_key;
    format!("{ALGORITHM} Credential={id}/{scope},SignedHeaders={names},Signature={signature}")
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

/// SHA-256 in hex digits.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// SHA-256 of bytes that come in parts.
pub(crate) struct Hasher(digest::Context);

impl Hasher {
    pub(crate) fn new() -> Self {
        Hasher(digest::Context::new(&digest::SHA256))
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> String {
        hex::encode(self.0.finish().as_ref())
    }
}

/// A text with percent signs for all bytes but unreserved ones. `keeps_slash`: for a path.
pub(crate) fn encode(text: &str, keeps_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if keeps_slash => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// An encoded query, in the order of the names.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let encoded =
        |(name, value): &(&str, &str)| format!("{}={}", encode(name, false), encode(value, false));
    let mut all: Vec<String> = pairs.iter().map(encoded).collect();
    all.sort();
    all.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "examplebucket.s3.amazonaws.com";

    /// The examples of AWS's documentation, "Signature Calculations for the Authorization Header".
    fn signature(method: &str, path: &str, query: &str, more: &[(&'static str, &str)]) -> String {
        let payload =
            more.iter().find(|(name, _)| *name == "x-amz-content-sha256").expect("a hash").1;
        let mut headers: Vec<(&'static str, String)> =
            more.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        headers.push(("x-amz-date", "20130524T000000Z".into()));
        headers.push(("host", HOST.into()));
        let call = Call { method, path, query, headers: &headers, payload };
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            session_token: None,
        };
        let value = authorization(&call, &credentials, "us-east-1", "20130524T000000Z");
        let scope = "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,";
        assert!(value.starts_with(&format!("{ALGORITHM} {scope}")), "{value}");
        value.rsplit_once('=').expect("a signature").1.to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_documentation() {
        let empty = ("x-amz-content-sha256", EMPTY_HASH);
        assert_eq!(
            signature("GET", "/test.txt", "", &[("range", "bytes=0-9"), empty]),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let text = hash(b"Welcome to Amazon S3.");
        let put = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", text.as_str()),
        ];
        assert_eq!(
            signature("PUT", &encode("/test$file.text", true), "", &put),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        let list = query(&[("prefix", "J"), ("max-keys", "2")]);
        assert_eq!(
            signature("GET", "/", &list, &[empty]),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn hashes_of_parts_are_those_of_the_whole() {
        let mut hasher = Hasher::new();
        ["a", "", "bc"].iter().for_each(|part| hasher.add(part.as_bytes()));
        assert_eq!(hasher.finish(), hash(b"abc"));
        assert_eq!(Hasher::new().finish(), EMPTY_HASH);
    }

    #[test]
    fn only_unreserved_characters_are_not_encoded() {
        assert_eq!(encode("a/b=c d+é~", true), "a/b%3Dc%20d%2B%C3%A9~");
        assert_eq!(query(&[("list-type", "2"), ("a", "x/y")]), "a=x%2Fy&list-type=2");
    }
}
