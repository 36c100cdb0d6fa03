//! Durations in settings and command-line arguments.

use std::time::Duration;

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// A number without a unit.
    #[error("{0:?} has no unit; write for example {0}s (units: us, ms, s, m, h, d)")]
    NoUnit(String),
    /// Anything else.
    #[error(
        "{0:?} is not a duration; write for example 250ms, 5s, 2m30s or 30d (units: us, ms, s, m, h, d)"
    )]
    Malformed(String),
}

/// Units with their seconds, longest first.
const UNITS: [(&str, f64); 6] =
    [("d", 86_400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6)];

/// Parse `250ms`, `5s`, `10m`, `1h`, `30d`, or a sum of them from the longest to the shortest unit:
/// `2m30s`. Fractions and the unit `us` are accepted.
///
/// # Errors
/// [`BadDuration`] if a number or unit is missing, or `Duration` overflows.
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    let trimmed = text.trim();
    if trimmed.parse::<f64>().is_ok_and(|number| number.is_finite() && number >= 0.0) {
        return Err(BadDuration::NoUnit(trimmed.to_owned()));
    }
    sum(trimmed).ok_or_else(|| BadDuration::Malformed(text.to_owned()))
}

fn sum(text: &str) -> Option<Duration> {
    let (mut rest, mut units, mut total) = (text, &UNITS[..], Duration::ZERO);
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !is_numeric(c))?);
        let after = after.trim_start();
        let (unit, after) =
            after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let at = units.iter().position(|(name, _)| *name == unit)?;
        let number: f64 = number.parse().ok()?;
        let part = Duration::try_from_secs_f64(number * units[at].1).ok()?;
        total = total.checked_add(part)?;
        // Each unit at most once, in order.
        units = &units[at + 1..];
        rest = after.trim_start();
        if rest.is_empty() {
            return Some(total);
        }
    }
}

fn is_numeric(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_what_is_none() {
        for (text, want) in [
            ("250ms", 250),
            ("1.5h", 5_400_000),
            (" 5 s ", 5000),
            ("2d", 172_800_000),
            ("500us", 0),
            ("2m30s", 150_000),
            ("1h 30m", 5_400_000),
            ("1s500ms", 1500),
            ("0s", 0),
        ] {
            assert_eq!(parse(text).map(|read| read.as_millis()), Ok(want), "{text}");
        }
        for bad in ["5 parsecs", "5", "", "s", "-1s", "1e3s", "1.2.3s", "99999999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in ["30s2m", "1m1m", "2m30", "2mx", "m30s", "-2m", "99999999999999d1s1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let told = |text| parse(text).unwrap_err().to_string();
        assert!(told("5").starts_with("\"5\" has no unit; write for example 5s (units: us"));
        assert!(told("2m30").contains("2m30s or 30d (units: us, ms, s, m, h, d)"));
    }
}
