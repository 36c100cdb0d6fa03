//! Values as PostgreSQL has them.
//!
//! - *In*: numbers and texts of records.
//! - *Out*: values that every column accepts.
//! - *Never*: a NUL in a text, which PostgreSQL refuses; it becomes U+FFFD. The whole record keeps
//!   it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lens::Record;

/// Maximum bytes of an id in its column, whose index has a limit. The whole record keeps it.
const MAX_ID: usize = 512;
/// The start of the year 9000: later times, of a wrong clock, have no name of a partition.
const MAX_US: u64 = 221_845_392_000_000_000;

/// A text without NUL.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

/// An id as its column has it.
pub(crate) fn id(text: &str) -> Cow<'_, str> {
    clean(text.get(..text.floor_char_boundary(MAX_ID)).unwrap_or(text))
}

/// An unsigned number as `bigint`. Numbers above 2^63 are clamped; none of ours is.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of a `bigint`; negative ones, which are never written, are 0.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The start of a record, in the range of times.
pub(crate) fn started_us(record: &Record) -> u64 {
    record.started_at.min(MAX_US - 1)
}

/// A time in Unix microseconds as `timestamptz`.
pub(crate) fn time(us: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us.min(MAX_US))
}

/// A `timestamptz` in Unix microseconds.
pub(crate) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_no_nul_and_ids_fit_an_index() {
        assert_eq!(clean("a\0b"), "a\u{fffd}b");
        assert!(matches!(clean("ab"), Cow::Borrowed("ab")));
        let long = "é".repeat(400);
        assert_eq!((id(&long).len(), id("x\0").as_ref()), (512, "x\u{fffd}"));
    }

    #[test]
    fn times_come_back_to_the_microsecond_and_end_with_the_year_9000() {
        for us in [0, 1, 1_767_312_000_000_001, MAX_US] {
            assert_eq!(micros(time(us)), us);
        }
        assert_eq!(micros(time(u64::MAX)), MAX_US);
        assert_eq!((int(u64::MAX), unsigned(-1)), (i64::MAX, 0));
    }
}
