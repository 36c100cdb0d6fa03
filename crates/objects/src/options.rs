//! Where a bucket is, and how its store is called.
//!
//! - *In*: values of settings; variables of the environment, by their usual names.
//! - *Out*: options.
//! - *Never*: a secret that is printed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base_url::{BaseUrl, BucketUrl};

/// Default region. Stores other than AWS ignore it.
const REGION: &str = "us-east-1";
/// Time without progress after which a call fails.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Credentials of the store. Their debug form has no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key id.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
    /// The token of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// A bucket.
#[derive(Clone, Debug)]
pub struct BucketOptions {
    /// The bucket. Its path is a part of the names that the caller uses.
    pub bucket: String,
    /// The store; `None`: AWS, in `region`.
    pub endpoint: Option<BaseUrl>,
    /// The region of signatures.
    pub region: String,
    /// `None`: calls are not signed.
    pub credentials: Option<Credentials>,
    /// PEM file with certificate authorities; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Time without progress after which a call fails.
    pub timeout: Duration,
    /// Reads the wall clock, in Unix microseconds.
    pub wall_us: fn() -> u64,
}

/// Options cannot be used. The text has no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionsError(pub String);

impl BucketOptions {
    /// Options with the values of the variables that AWS's programs read: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_DEFAULT_REGION`,
    /// `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_CA_BUNDLE`. Empty ones count as unset.
    ///
    /// # Errors
    /// A value is invalid, or one of the keys is missing.
    pub fn from_variables(
        url: &BucketUrl,
        variable: impl Fn(&str) -> Option<String>,
        wall_us: fn() -> u64,
    ) -> Result<Self, OptionsError> {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| {
                let value = variable(name).filter(|value| !value.is_empty())?;
                Some((*name, value))
            })
        };
        let value = |name| first(&[name]).map(|(_, value)| value);
        let endpoint = match first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]) {
            None => None,
            Some((name, url)) => {
                let parsed = url.parse().map_err(|why| OptionsError(format!("{name} {why}")))?;
                Some(parsed)
            }
        };
        let keys = (value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"));
        let session_token = value("AWS_SESSION_TOKEN");
        let region = first(&["AWS_REGION", "AWS_DEFAULT_REGION"]).map(|(_, value)| value);
        let region = region.unwrap_or_else(|| REGION.to_owned());
        if !is_region(&region) {
            let problem = "AWS_REGION must have only letters, digits and hyphens";
            return Err(OptionsError(problem.into()));
        }
        Ok(BucketOptions {
            bucket: url.bucket.clone(),
            endpoint,
            region,
            credentials: credentials(keys, session_token)?,
            ca: value("AWS_CA_BUNDLE").map(PathBuf::from),
            timeout: TIMEOUT,
            wall_us,
        })
    }
}

/// Whether a text can be a region.
pub(crate) fn is_region(text: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=64).contains(&text.len()) && text.chars().all(is_known)
}

fn credentials(
    keys: (Option<String>, Option<String>),
    session_token: Option<String>,
) -> Result<Option<Credentials>, OptionsError> {
    let is_value = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    match keys {
        (Some(access_key), Some(secret_key)) => {
            let token = session_token.as_deref().unwrap_or_default();
            if ![&access_key, &secret_key, token].into_iter().all(is_value) {
                let problem = "credentials must be printable ASCII without spaces";
                return Err(OptionsError(problem.into()));
            }
            Ok(Some(Credentials { access_key, secret_key, session_token }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(OptionsError(
            "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY; set both or none".into(),
        )),
        (None, Some(_)) => Err(OptionsError(
            "AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID; set both or none".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> Result<BucketOptions, OptionsError> {
        let url = "s3://records/x".parse().unwrap();
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        BucketOptions::from_variables(&url, find, || 0)
    }

    #[test]
    fn variables_have_the_names_that_people_expect() {
        let none = options(&[("AWS_REGION", "")]).unwrap();
        assert_eq!((none.endpoint, none.credentials, &*none.region), (None, None, "us-east-1"));
        let all = options(&[
            ("AWS_ACCESS_KEY_ID", "AKID"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("AWS_SESSION_TOKEN", "token"),
            ("AWS_DEFAULT_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:8333"),
            ("AWS_CA_BUNDLE", "/ca.pem"),
        ])
        .unwrap();
        assert_eq!(all.endpoint.as_ref().unwrap().port, 8333);
        assert_eq!(&*all.region, "eu-central-1");
        assert_eq!(all.ca.as_deref(), Some(std::path::Path::new("/ca.pem")));
        let credentials = all.credentials.clone().unwrap();
        assert_eq!(credentials.session_token.as_deref(), Some("token"));
        let printed = format!("{all:?}");
        assert!(!printed.contains("hidden") && !printed.contains("token"), "{printed}");
    }

    #[test]
    fn wrong_variables_are_named_without_their_values() {
        for (name, value, problem) in [
            ("AWS_ACCESS_KEY_ID", "AKID", "without AWS_SECRET_ACCESS_KEY"),
            ("AWS_SECRET_ACCESS_KEY", "hidden", "without AWS_ACCESS_KEY_ID"),
            (
                "AWS_ENDPOINT_URL_S3",
                "http://a:hidden@b",
                "AWS_ENDPOINT_URL_S3 contains credentials",
            ),
            ("AWS_REGION", "a/b", "AWS_REGION must have"),
        ] {
            let error = options(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("hidden"), "{error}");
        }
    }
}
