//! Sessions of browsers that have signed in.
//!
//! - *In*: the token of a sign-in, the time.
//! - *Out*: a random id for the cookie; the token that an id stands for.
//! - *Never*: more than [`MAX_OF_TOKEN`] sessions of a token: a further one ends the oldest. An id:
//!   its hash is kept. They are in memory, so a restart ends all.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use lens::Tick;
use parking_lot::Mutex;
use rand::RngCore as _;

use crate::digest::Digest;

/// Maximum sessions of a token.
const MAX_OF_TOKEN: usize = 64;

/// The id of a session: 256 random bits.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionId(String);

impl SessionId {
    fn random() -> Self {
        let mut bytes = [0; 32];
        // A generator that is secure and seeded by the system.
        rand::rng().fill_bytes(&mut bytes);
        SessionId(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(***)")
    }
}

#[derive(Clone, Copy, Debug)]
struct Session {
    token: Digest,
    opened: Tick,
}

/// The open sessions, by the hash of their id.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<Digest, Session>>);

impl Sessions {
    /// Open a session of a token. `is_valid` decides which tokens still exist.
    pub(crate) fn open(
        &self,
        token: Digest,
        now: Tick,
        max_age: Duration,
        is_valid: impl Fn(Digest) -> bool,
    ) -> (SessionId, Digest) {
        let id = SessionId::random();
        let mut all = self.0.lock();
        all.retain(|_, session| session.is_open(now, max_age) && is_valid(session.token));
        let own = all.iter().filter(|(_, session)| session.token == token);
        if own.clone().count() >= MAX_OF_TOKEN {
            let oldest = own.min_by_key(|(_, session)| session.opened).map(|(key, _)| *key);
            oldest.and_then(|key| all.remove(&key));
        }
        let key = Digest::new(id.reveal().as_bytes());
        all.insert(key, Session { token, opened: now });
        (id, key)
    }

    /// The token of an open session, and the time that is left.
    pub(crate) fn find(
        &self,
        key: Digest,
        now: Tick,
        max_age: Duration,
    ) -> Option<(Digest, Duration)> {
        let session = *self.0.lock().get(&key)?;
        let left = max_age.checked_sub(session.age(now)).filter(|left| !left.is_zero())?;
        Some((session.token, left))
    }

    /// End a session.
    pub(crate) fn close(&self, key: Digest) {
        self.0.lock().remove(&key);
    }

    /// Open sessions.
    pub(crate) fn count(&self, now: Tick, max_age: Duration) -> usize {
        self.0.lock().values().filter(|session| session.is_open(now, max_age)).count()
    }
}

impl Session {
    fn age(&self, now: Tick) -> Duration {
        Duration::from_nanos(now.nanos_since(self.opened))
    }

    fn is_open(&self, now: Tick, max_age: Duration) -> bool {
        self.age(now) < max_age
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Tick {
        Tick::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn sessions_end_at_their_age_and_when_closed() {
        let sessions = Sessions::default();
        let token = Digest::new(b"t");
        let (id, key) = sessions.open(token, at(1), AGE, |_| true);
        assert_eq!(key, Digest::new(id.reveal().as_bytes()));
        assert_eq!(sessions.find(key, at(10), AGE), Some((token, Duration::from_secs(1))));
        assert_eq!(sessions.find(key, at(11), AGE), None);
        assert_eq!(sessions.count(at(11), AGE), 0);
        let (_, other) = sessions.open(token, at(2), AGE, |_| true);
        sessions.close(other);
        assert_eq!(sessions.find(other, at(2), AGE), None);
        assert!(sessions.find(key, at(2), AGE).is_some());
    }

    #[test]
    fn each_token_has_a_bounded_number_and_ends_its_own_oldest() {
        let sessions = Sessions::default();
        let (one, other) = (Digest::new(b"one"), Digest::new(b"other"));
        let (_, kept) = sessions.open(other, at(0), AGE, |_| true);
        let (_, first) = sessions.open(one, at(1), AGE, |_| true);
        for _ in 0..MAX_OF_TOKEN {
            sessions.open(one, at(2), AGE, |_| true);
        }
        assert_eq!(sessions.count(at(2), AGE), MAX_OF_TOKEN + 1);
        assert!(sessions.find(first, at(2), AGE).is_none());
        assert!(sessions.find(kept, at(2), AGE).is_some());
        // Sessions of a token that is gone make room.
        sessions.open(one, at(3), AGE, |token| token == other);
        assert_eq!(sessions.count(at(3), AGE), 2);
    }

    #[test]
    fn ids_are_random_and_not_shown() {
        let (one, other) = (SessionId::random(), SessionId::random());
        assert!(one != other && one.reveal().len() == 64);
        assert_eq!(format!("{one:?}"), "SessionId(***)");
    }
}
