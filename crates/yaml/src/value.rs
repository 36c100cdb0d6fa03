//! Values with units, and secrets.

use std::fmt;
use std::time::Duration;

/// A secret. It prints and serializes as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret with that value.
    pub fn new(value: String) -> Self {
        Secret(value)
    }

    /// The plain value, for sending only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// `250ms`, `5s`, `10m`, `1h`; a fraction is allowed.
pub fn duration(text: &str) -> Result<Duration, String> {
    lens::duration::parse(text).map_err(|bad| bad.to_string())
}

/// `512`, `64KiB`, `10MiB`, `1GiB`; decimal units too.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size; write for example \"64KiB\" or \"10MiB\"");
    let (number, unit) = split(text).ok_or_else(bad)?;
    let bytes = match unit {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return Err(bad()),
    };
    Ok((number * bytes).round() as u64)
}

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let number: f64 = number.parse().ok()?;
    (number <= 1e15).then_some((number, unit.trim()))
}

/// Replace each `${NAME}` by the environment's value.
pub fn expand(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}').ok_or("\"${\" without \"}\"; write ${NAME}")?;
        out.push_str(before);
        out.push_str(
            &env(name).ok_or_else(|| format!("the environment variable {name} is not set"))?,
        );
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("10"), Ok(10));
    }

    #[test]
    fn environment() {
        let env = |name: &str| (name == "A").then(|| "x".to_owned());
        assert_eq!(expand("a${A}b${A}", env).as_deref(), Ok("axbx"));
        assert!(expand("${B}", env).unwrap_err().contains("B is not set"));
        assert!(expand("${A", env).is_err());
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::new("k-123".into());
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
    }
}
