//! Durations in settings and command-line arguments.

use std::time::Duration;

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration (for example 250ms, 5s, 10m, 1h, 30d)")]
pub struct BadDuration(String);

/// Parse `250ms`, `5s`, `10m`, `1h` or `30d`. Fractions and the unit `us` are accepted.
///
/// # Errors
/// [`BadDuration`] if the number or unit is missing, or `Duration` overflows.
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    let bad = || BadDuration(text.to_owned());
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = trimmed.split_at_checked(end).ok_or_else(bad)?;
    let seconds = match unit.trim_start() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())
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
        ] {
            assert_eq!(parse(text).map(|read| read.as_millis()), Ok(want), "{text}");
        }
        for bad in ["5 parsecs", "5", "", "s", "-1s", "1e3s", "1.2.3s", "99999999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
