//! The ledger: where the time of a request went.
//!
//! At any instant a request is in exactly one [`State`]. A state change attributes the time since
//! the previous change to the old state, so the parts always sum to the total.
//!
//! - *In*: state changes with their instants.
//! - *Out*: time in each state, in microseconds that sum to the total in microseconds exactly.
//! - *Never*: two states at once. If activities overlap, the one that blocks progress gets the
//!   time.

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Tick;

/// What a request is waiting for or busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The request is being read from the client.
    ReadRequest,
    /// Authentication.
    Authenticate,
    /// Waiting for admission.
    Queue,
    /// Guardrails check the request.
    GuardrailInput,
    /// A backend is selected.
    Route,
    /// A connection to the backend is reused or opened, including TLS.
    Connect,
    /// The request is being written to the backend.
    Send,
    /// The request is sent; no byte of the answer has arrived.
    AwaitFirstByte,
    /// The answer has begun; no event with generated text has arrived. With engines that send the
    /// head at once, this is their queue and the prefill.
    AwaitFirstToken,
    /// There is nothing to forward until the backend sends more bytes: after the first token of a
    /// stream, or after the head of an answer whose tokens are not timed.
    AwaitToken,
    /// Guardrails check the answer.
    GuardrailOutput,
    /// A guardrail holds an event.
    Hold,
    /// Bytes are ready, but the client does not accept them.
    ClientWrite,
    /// The gateway's own work, not covered by another state.
    Gateway,
    /// The answer is complete; the rest is bookkeeping on the connection.
    Settle,
}

impl State {
    /// All states, in the order in which a request enters them.
    pub const ALL: [State; 15] = [
        State::ReadRequest,
        State::Authenticate,
        State::Queue,
        State::GuardrailInput,
        State::Route,
        State::Connect,
        State::Send,
        State::AwaitFirstByte,
        State::AwaitFirstToken,
        State::AwaitToken,
        State::GuardrailOutput,
        State::Hold,
        State::ClientWrite,
        State::Gateway,
        State::Settle,
    ];

    /// The name in records and labels.
    pub fn name(self) -> &'static str {
        match self {
            State::ReadRequest => "read_request",
            State::Authenticate => "authenticate",
            State::Queue => "queue",
            State::GuardrailInput => "guardrail_input",
            State::Route => "route",
            State::Connect => "connect",
            State::Send => "send",
            State::AwaitFirstByte => "await_first_byte",
            State::AwaitFirstToken => "await_first_token",
            State::AwaitToken => "await_token",
            State::GuardrailOutput => "guardrail_output",
            State::Hold => "hold",
            State::ClientWrite => "client_write",
            State::Gateway => "gateway",
            State::Settle => "settle",
        }
    }
}

/// Intervals of most requests without a stream.
const USUAL_INTERVALS: usize = 16;
/// Maximum intervals of a ledger: a stream may change its state with every event.
pub const MAX_INTERVALS: usize = 256;

/// A time interval in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The state.
    pub state: State,
    /// When it began.
    pub from: Tick,
    /// When it ended.
    pub to: Tick,
}

/// The open ledger of one request.
#[derive(Clone, Debug)]
pub struct Ledger {
    spent: [u64; State::ALL.len()],
    state: State,
    started: Tick,
    since: Tick,
    intervals: Option<Vec<Interval>>,
}

impl Ledger {
    /// Open a ledger in `state`.
    pub fn open(state: State, now: Tick) -> Self {
        Ledger { spent: [0; State::ALL.len()], state, started: now, since: now, intervals: None }
    }

    /// Record intervals from now on, up to [`MAX_INTERVALS`], for trace spans. The sums do not
    /// change.
    pub fn keep_intervals(&mut self) {
        self.intervals.get_or_insert_with(|| Vec::with_capacity(USUAL_INTERVALS));
    }

    /// The closed intervals, in order. Once [`MAX_INTERVALS`] is reached, later intervals extend
    /// the last one.
    pub fn intervals(&self) -> &[Interval] {
        self.intervals.as_deref().unwrap_or_default()
    }

    /// When the ledger was opened.
    pub fn started(&self) -> Tick {
        self.started
    }

    /// The current state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Enter `state`. An instant before the last change is replaced by the time of that change.
    #[inline]
    pub fn switch(&mut self, state: State, now: Tick) {
        let now = now.max(self.since);
        self.spent[self.state as usize] += now.0 - self.since.0;
        if let Some(intervals) = self.intervals.as_mut().filter(|_| now > self.since) {
            keep(intervals, Interval { state: self.state, from: self.since, to: now });
        }
        self.since = now;
        self.state = state;
    }

    /// Nanoseconds in a state so far, not counting the open interval.
    pub fn nanos(&self, state: State) -> u64 {
        self.spent[state as usize]
    }

    /// Close the ledger.
    pub fn close(mut self, now: Tick) -> Parts {
        self.switch(self.state, now);
        Parts::from_nanos(&self.spent)
    }
}

/// Add an interval. It extends the last one if the state is the same or the list is full.
fn keep(intervals: &mut Vec<Interval>, next: Interval) {
    let is_full = intervals.len() >= MAX_INTERVALS;
    match intervals.last_mut() {
        Some(last) if is_full || last.state == next.state && last.to == next.from => {
            last.to = next.to
        }
        _ => intervals.push(next),
    }
}

/// Microseconds per state of a closed ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts([u64; State::ALL.len()]);

impl Parts {
    /// Rounds so that the parts sum to the rounded whole: each part is the difference of two
    /// rounded running sums.
    fn from_nanos(spent: &[u64; State::ALL.len()]) -> Self {
        let mut parts = [0; State::ALL.len()];
        let mut sum = 0;
        for (part, nanos) in parts.iter_mut().zip(spent) {
            let before = sum / 1000;
            sum += nanos;
            *part = sum / 1000 - before;
        }
        Parts(parts)
    }

    /// Microseconds in a state.
    pub fn micros(&self, state: State) -> u64 {
        self.0[state as usize]
    }

    /// The sum of all parts.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// States with their microseconds.
    pub fn iter(&self) -> impl Iterator<Item = (State, u64)> + '_ {
        State::ALL.into_iter().zip(self.0)
    }
}

impl Serialize for Parts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (state, micros) in self.iter() {
            map.serialize_entry(state.name(), &micros)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct States;
        impl<'de> Visitor<'de> for States {
            type Value = Parts;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map from ledger state to microseconds")
            }

            /// Unknown states are dropped, so that older readers accept newer records.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
                let mut parts = Parts::default();
                while let Some((name, micros)) = map.next_entry::<String, u64>()? {
                    if let Some(state) = State::ALL.into_iter().find(|s| s.name() == name) {
                        parts.0[state as usize] = micros;
                    }
                }
                Ok(parts)
            }
        }
        deserializer.deserialize_map(States)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn always_closes(
            steps in proptest::collection::vec((0usize..State::ALL.len(), 0u64..5_000_000), 0..50),
            end in 0u64..1_000_000,
        ) {
            let mut now = Tick(17);
            let mut ledger = Ledger::open(State::ReadRequest, now);
            for (state, nanos) in steps {
                now = Tick(now.0 + nanos);
                ledger.switch(State::ALL[state], now);
            }
            now = Tick(now.0 + end);
            let parts = ledger.close(now);
            prop_assert_eq!(parts.total(), now.micros_since(Tick(17)));
        }

        #[test]
        fn clock_stepping_back_does_not_change_the_total(
            ticks in proptest::collection::vec(0u64..10_000_000, 1..30),
        ) {
            let mut ledger = Ledger::open(State::Gateway, Tick(0));
            for (at, tick) in ticks.iter().enumerate() {
                ledger.switch(State::ALL[at % State::ALL.len()], Tick(*tick));
            }
            let latest = ticks.iter().copied().max().unwrap();
            prop_assert_eq!(ledger.close(Tick(0)).total(), latest / 1000);
        }
    }

    #[test]
    fn intervals_cover_the_time_and_are_bounded() {
        let mut ledger = Ledger::open(State::ReadRequest, Tick(10));
        ledger.switch(State::Gateway, Tick(20));
        assert!(ledger.intervals().is_empty(), "not recorded by default");
        ledger.keep_intervals();
        ledger.switch(State::Gateway, Tick(25));
        ledger.switch(State::Connect, Tick(30));
        ledger.switch(State::Send, Tick(30));
        ledger.switch(State::AwaitToken, Tick(40));
        let want = [(State::Gateway, 20, 30), (State::Send, 30, 40)]
            .map(|(state, from, to)| Interval { state, from: Tick(from), to: Tick(to) });
        assert_eq!(ledger.intervals(), want);
        for at in 0..1000 {
            ledger.switch(
                if at % 2 == 0 { State::ClientWrite } else { State::AwaitToken },
                Tick(41 + at),
            );
        }
        let kept = ledger.intervals();
        assert_eq!((kept.len(), kept[MAX_INTERVALS - 1].to), (MAX_INTERVALS, Tick(1040)));
        assert!(kept.windows(2).all(|pair| pair[0].to == pair[1].from), "without a gap");
    }

    #[test]
    fn serialises_every_state() {
        let mut ledger = Ledger::open(State::Send, Tick(0));
        ledger.switch(State::Gateway, Tick::from_micros(7));
        let parts = ledger.close(Tick::from_micros(10));
        let json = serde_json::to_value(parts).unwrap();
        assert_eq!(
            (&json["send"], &json["gateway"], &json["queue"]),
            (&7.into(), &3.into(), &0.into())
        );
        assert_eq!(serde_json::from_value::<Parts>(json).unwrap(), parts);
    }
}
