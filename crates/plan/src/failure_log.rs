//! Log lines about failed calls of backends, limited per backend and cause.
//!
//! - *In*: each failed call: its backend, and the stable code of its error.
//! - *Out*: whether to log it, and how many lines were suppressed since the last one.
//! - *Never*: more than one line per second for a backend and a code: a dead backend fails
//!   thousands of calls, and its first line has all that an operator needs.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lens::Tick;
use parking_lot::Mutex;

use crate::clock;

/// Minimum time between two lines of one kind.
const PERIOD: Duration = Duration::from_secs(1);
/// Maximum kinds that are remembered. At the limit, those that may log again are forgotten.
const MAX_KINDS: usize = 4096;

static LIMITS: LazyLock<Mutex<Limits>> = LazyLock::new(Mutex::default);

/// Permission to log a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Number of lines suppressed since the last one; `None`: no line was.
    pub suppressed: Option<u64>,
}

/// Ask to log a failed call of a backend with this error code.
pub fn admit(backend: &Arc<str>, code: &str) -> Option<Permission> {
    LIMITS.lock().admit(backend, code, clock::now())
}

/// When a backend last logged an error code, and how many lines were suppressed since.
#[derive(Debug, Default)]
struct Limits(HashMap<(Arc<str>, String), (Tick, u64)>);

impl Limits {
    fn admit(&mut self, backend: &Arc<str>, code: &str, now: Tick) -> Option<Permission> {
        let is_due = |last: Tick| u128::from(now.nanos_since(last)) >= PERIOD.as_nanos();
        let kind = (backend.clone(), code.to_owned());
        let suppressed = match self.0.get_mut(&kind) {
            Some((last, suppressed)) if !is_due(*last) => {
                *suppressed += 1;
                return None;
            }
            Some((_, suppressed)) => *suppressed,
            None => 0,
        };
        if self.0.len() >= MAX_KINDS {
            self.0.retain(|_, (last, _)| !is_due(*last));
        }
        if self.0.len() < MAX_KINDS {
            self.0.insert(kind, (now, 0));
        }
        Some(Permission { suppressed: (suppressed > 0).then_some(suppressed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_for_each_backend_and_code() {
        let mut limits = Limits::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let at = |ms: u64| Tick::from_micros(ms * 1000);
        let first = Some(Permission { suppressed: None });
        assert_eq!(limits.admit(&a, "refused", at(0)), first);
        for ms in 1..=999 {
            assert_eq!(limits.admit(&a, "refused", at(ms)), None);
        }
        assert_eq!(limits.admit(&a, "closed", at(500)), first, "another cause");
        assert_eq!(limits.admit(&b, "refused", at(500)), first, "another backend");
        let next = Some(Permission { suppressed: Some(999) });
        assert_eq!(limits.admit(&a, "refused", at(1000)), next);
        assert_eq!(limits.admit(&a, "refused", at(2000)), first);
    }

    #[test]
    fn kinds_are_bounded() {
        let mut limits = Limits::default();
        for number in 0..3 * MAX_KINDS {
            let backend: Arc<str> = number.to_string().into();
            assert!(limits.admit(&backend, "refused", Tick(0)).is_some());
            assert!(limits.0.len() <= MAX_KINDS);
        }
        assert!(limits.admit(&"x".into(), "refused", Tick::from_micros(2_000_000)).is_some());
        assert_eq!(limits.0.len(), 1);
    }
}
