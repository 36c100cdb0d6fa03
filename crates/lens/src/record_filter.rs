//! Which records: conditions such as `route=chat` or `slower_than=2s`.
//!
//! - *In*: conditions with the names of the parameters of `/api/records`, and the time.
//! - *Out*: whether a record matches all of them.
//! - *Never*: a condition that is ignored.

use jiff::Timestamp;

use crate::duration;
use crate::record::{Outcome, Record};

/// A field that is compared with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Route,
    Backend,
    Model,
    Caller,
    Owner,
    ErrorCode,
}

/// A condition on a record.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// Started at or after, Unix microseconds.
    From(u64),
    /// Started before, Unix microseconds.
    To(u64),
    Equals(Field, String),
    Outcome(Outcome),
    Status(u16),
    Stream(bool),
    /// Total time above, in microseconds.
    SlowerThan(u64),
    /// Client TTFT above, in microseconds.
    TtftOver(u64),
}

/// Conditions that must all hold. The default matches every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordFilter(Vec<Condition>);

impl RecordFilter {
    /// Names of conditions.
    pub const NAMES: [&str; 13] = [
        "from",
        "to",
        "route",
        "backend",
        "model",
        "caller",
        "owner",
        "outcome",
        "error_code",
        "status",
        "stream",
        "slower_than",
        "ttft_over",
    ];

    /// Adds the condition `NAME=VALUE`. `now_us` is the wall-clock time in Unix microseconds.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn add(&mut self, condition: &str, now_us: u64) -> Result<(), String> {
        let (name, text) = condition
            .split_once('=')
            .ok_or_else(|| format!("{condition:?} is not NAME=VALUE, for example route=chat"))?;
        let equals = |field| Ok(Condition::Equals(field, text.to_owned()));
        let condition = match name {
            "from" => time(name, text, now_us).map(Condition::From),
            "to" => time(name, text, now_us).map(Condition::To),
            "route" => equals(Field::Route),
            "backend" => equals(Field::Backend),
            "model" => equals(Field::Model),
            "caller" => equals(Field::Caller),
            "owner" => equals(Field::Owner),
            "error_code" => equals(Field::ErrorCode),
            "outcome" => outcome(text).map(Condition::Outcome),
            "status" => text
                .parse()
                .map(Condition::Status)
                .map_err(|_| format!("status must be a status such as 200, not {text:?}")),
            "stream" => text
                .parse()
                .map(Condition::Stream)
                .map_err(|_| format!("stream must be true or false, not {text:?}")),
            "slower_than" => micros(name, text).map(Condition::SlowerThan),
            "ttft_over" => micros(name, text).map(Condition::TtftOver),
            _ => Err(format!("{name:?} is unknown; known: {}", Self::NAMES.join(", "))),
        };
        self.0.push(condition?);
        Ok(())
    }

    /// Whether a record matches.
    pub fn matches(&self, record: &Record) -> bool {
        self.0.iter().all(|condition| condition.holds(record))
    }

    /// Whether a record that started from `from_us` to before `to_us` can match.
    pub fn overlaps(&self, from_us: u64, to_us: u64) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::From(from) => *from < to_us,
            Condition::To(to) => from_us < *to,
            _ => true,
        })
    }
}

impl Condition {
    fn holds(&self, record: &Record) -> bool {
        match self {
            Condition::From(from) => record.started_at >= *from,
            Condition::To(to) => record.started_at < *to,
            Condition::Equals(field, text) => field.value(record) == Some(text),
            Condition::Outcome(outcome) => record.outcome == *outcome,
            Condition::Status(status) => record.http_status == Some(*status),
            Condition::Stream(stream) => record.stream == *stream,
            Condition::SlowerThan(us) => record.total_us > *us,
            Condition::TtftOver(us) => record.client_ttft_us.is_some_and(|ttft| ttft > *us),
        }
    }
}

impl Field {
    fn value(self, record: &Record) -> Option<&str> {
        match self {
            Field::Route => Some(&record.route),
            Field::Backend => record.backend.as_deref(),
            Field::Model => record.model_requested.as_deref(),
            Field::Caller => record.caller.as_deref(),
            Field::Owner => record.owner.as_deref(),
            Field::ErrorCode => record.error_code.as_deref(),
        }
    }
}

/// A time in Unix microseconds: RFC 3339, or a duration before now.
///
/// # Errors
/// The text is neither.
pub fn time(name: &str, text: &str, now_us: u64) -> Result<u64, String> {
    if let Ok(ago) = duration::parse(text) {
        return Ok(now_us.saturating_sub(whole_micros(ago)));
    }
    let at = text.parse::<Timestamp>().ok();
    at.and_then(|at| u64::try_from(at.as_microsecond()).ok()).ok_or_else(|| {
        format!(
            "{name} must be a time such as 2026-01-31T12:00:00Z or a duration before now such as 6h, not {text:?}"
        )
    })
}

/// A duration in microseconds.
///
/// # Errors
/// The text is no duration.
pub fn micros(name: &str, text: &str) -> Result<u64, String> {
    duration::parse(text).map(whole_micros).map_err(|error| format!("{name}: {error}"))
}

/// The outcome with this name.
///
/// # Errors
/// The name is unknown.
pub fn outcome(name: &str) -> Result<Outcome, String> {
    Outcome::ALL.into_iter().find(|outcome| outcome.name() == name).ok_or_else(|| {
        let known = Outcome::ALL.map(Outcome::name).join(", ");
        format!("outcome must be one of {known}, not {name:?}")
    })
}

fn whole_micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_323_045_678_901;

    fn matches(conditions: &[&str], record: &Record) -> bool {
        let mut filter = RecordFilter::default();
        for condition in conditions {
            filter.add(condition, NOW).unwrap();
        }
        filter.matches(record)
    }

    #[test]
    fn each_condition_selects_and_excludes() {
        let record = Record {
            backend: Some("b".into()),
            model_requested: Some("m=1".into()),
            caller: Some("c".into()),
            owner: Some("o".into()),
            error_code: Some("e".into()),
            http_status: Some(200),
            total_us: 2_000_001,
            client_ttft_us: Some(500_001),
            ..Record::bare()
        };
        assert_eq!(record.started_at, NOW);
        for (name, holds, fails) in [
            ("from", "2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:05.678902Z"),
            ("to", "2026-01-02T03:04:05.678902Z", "0s"),
            ("route", "r", "x"),
            ("backend", "b", "x"),
            ("model", "m=1", "m"),
            ("caller", "c", ""),
            ("owner", "o", "O"),
            ("outcome", "ok", "timeout"),
            ("error_code", "e", "x"),
            ("status", "200", "201"),
            ("stream", "false", "true"),
            ("slower_than", "2s", "3s"),
            ("ttft_over", "500ms", "500001us"),
        ] {
            let (good, bad) = (format!("{name}={holds}"), format!("{name}={fails}"));
            assert!(matches(&[&good], &record), "{good}");
            assert!(!matches(&[&bad], &record), "{bad}");
            assert!(!matches(&[&good, &bad], &record), "all must hold");
            assert!(RecordFilter::NAMES.contains(&name));
        }
        assert!(matches(&[], &record));
        assert!(!matches(&["backend="], &Record::bare()), "absent is not empty");
        assert!(!matches(&["ttft_over=0s"], &Record::bare()));
    }

    #[test]
    fn windows_that_cannot_match_are_known() {
        let mut filter = RecordFilter::default();
        filter.add("from=2h", NOW).unwrap();
        filter.add("to=1h", NOW).unwrap();
        let hour = 3_600_000_000;
        for (from, to, overlaps) in [
            (NOW - 3 * hour, NOW - 2 * hour, false),
            (NOW - 2 * hour, NOW, true),
            (NOW - hour, NOW, false),
        ] {
            assert_eq!(filter.overlaps(from, to), overlaps, "{from} {to}");
        }
    }

    #[test]
    fn wrong_conditions_say_what_to_write() {
        for (condition, known) in [
            ("route", "NAME=VALUE"),
            ("rout=x", "known: from, to, route"),
            ("outcome=good", "client_gone"),
            ("status=ok", "such as 200"),
            ("stream=1", "true or false"),
            ("slower_than=5 parsecs", "slower_than: "),
            ("from=soon", "such as 6h"),
        ] {
            let error = RecordFilter::default().add(condition, NOW).unwrap_err();
            assert!(error.contains(known), "{condition}: {error}");
        }
    }
}
