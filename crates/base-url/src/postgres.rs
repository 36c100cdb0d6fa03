//! URLs of PostgreSQL databases.
//!
//! - *In*: `postgres://USER@HOST:PORT/DATABASE`, with `?sslmode=disable` for no TLS.
//! - *Out*: its parts.
//! - *Never*: a password, which does not belong in a URL: URLs are logged and copied.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::parse_port;

/// Port of PostgreSQL.
const PORT: u16 = 5432;
const EXAMPLE: &str = "write for example \"postgres://llm_lens@db.example.com:5432/llm_lens\"";

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl {
    /// The user.
    pub user: String,
    /// The host; an IPv6 address without brackets.
    pub host: String,
    /// The port. Default 5432.
    pub port: u16,
    /// The database.
    pub database: String,
    /// Whether to use TLS.
    pub tls: bool,
}

/// Why a text is not such a URL. It never contains the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PostgresUrlError(String);

impl PostgresUrl {
    /// Host and port.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@{}/{}", self.user, self.authority(), self.database)?;
        f.write_str(if self.tls { "" } else { "?sslmode=disable" })
    }
}

impl FromStr for PostgresUrl {
    type Err = PostgresUrlError;

    fn from_str(text: &str) -> Result<Self, PostgresUrlError> {
        let wrong = |why: &str| PostgresUrlError(format!("{why}; {EXAMPLE}"));
        let rest = ["postgres://", "postgresql://"]
            .into_iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .ok_or_else(|| wrong("must begin with postgres://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').ok_or_else(|| wrong("has no database"))?;
        let (user, host) = authority.rsplit_once('@').ok_or_else(|| wrong("has no user"))?;
        if user.contains(':') {
            return Err(PostgresUrlError(
                "contains a password; write it as password: ${NAME} or password: file:PATH, \
                 because URLs are logged and copied"
                    .into(),
            ));
        }
        if !is_name(user) {
            return Err(wrong("has no user of letters, digits, and _ - ."));
        }
        if !is_name(database) {
            return Err(wrong("has no database of letters, digits, and _ - ."));
        }
        let (host, port) =
            host_and_port(host).ok_or_else(|| wrong("has an invalid host or port"))?;
        let tls = uses_tls(query).map_err(|why| wrong(&why))?;
        Ok(PostgresUrl { user: user.into(), host, port, database: database.into(), tls })
    }
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_valid = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            (!host.is_empty() && host.bytes().all(is_valid)).then_some(())?;
            (host, port)
        }
    };
    let port = match port {
        "" => PORT,
        port => parse_port(port.strip_prefix(':')?)?,
    };
    Some((host.to_owned(), port))
}

/// Whether a query requests TLS, which is the default.
fn uses_tls(query: &str) -> Result<bool, String> {
    match query {
        "" | "sslmode=verify-full" => Ok(true),
        "sslmode=disable" => Ok(false),
        weaker if weaker.starts_with("sslmode=") => {
            Err("has an sslmode that does not verify the server; leave it out, or write \
             sslmode=disable for a connection without TLS"
                .into())
        }
        _ => Err("has a query other than sslmode, which is not supported".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PostgresUrl, String> {
        text.parse().map_err(|error: PostgresUrlError| error.to_string())
    }

    #[test]
    fn parts_and_defaults() {
        let url = parse("postgres://lens@db.example.com/records").unwrap();
        let parts = (&*url.user, &*url.host, url.port, &*url.database, url.tls);
        assert_eq!(parts, ("lens", "db.example.com", 5432, "records", true));
        for text in
            ["postgres://lens@[::1]:6000/records?sslmode=disable", "postgres://lens@db:1/records"]
        {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert!(parse("postgresql://l@h/d?sslmode=verify-full").unwrap().tls);
    }

    #[test]
    fn errors_have_the_reason_and_no_secret() {
        for (text, why) in [
            ("mysql://l@h/d", "must begin with postgres://"),
            ("postgres://l@h", "has no database"),
            ("postgres://l@h/", "has no database of letters"),
            ("postgres://h/d", "has no user"),
            ("postgres://l:hunter2@h/d", "contains a password; write it as password: ${NAME}"),
            ("postgres://l@hunter2@h/d", "has no user of letters"),
            ("postgres://l@h:0/d", "has an invalid host or port"),
            ("postgres://l@/d", "has an invalid host or port"),
            ("postgres://l@[::x]/d", "has an invalid host or port"),
            ("postgres://l@h/d?sslmode=require", "has an sslmode that does not verify"),
            ("postgres://l@h/d?password=hunter2", "has a query other than sslmode"),
            ("postgres://l@h/d#hunter2", "has no database of letters"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(why) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
