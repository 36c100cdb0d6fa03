//! How much later events leave than they would without the guardrail.
//!
//! - *In*: when events arrive, when they are released, and when the client has caught up.
//! - *Out*: the delays of the first event, of the first token, and of the last event.
//! - *Never*: time in which the event had to wait anyway, for the engine or for the client.
//!
//! Without the guardrail, an event leaves when it arrives, or when the client has accepted all
//! earlier bytes. The guardrail's work also makes later reads late, until the relay has waited for
//! the engine for as long.

use lens::Tick;
use transport::clock;

use super::OutputGuard;
use crate::request::AnswerDelays;

/// Measures the delays of one answer.
#[derive(Debug)]
pub(super) struct Delays {
    measured: AnswerDelays,
    /// Events released since the last `settle`.
    released: Option<Released>,
    /// When the answer began. A hedge may have read earlier.
    began: Tick,
    /// The current read, and how late it is because of earlier work, in nanoseconds.
    read: Tick,
    lag: u64,
    /// Nanoseconds of work since the current read, and the end of the last work.
    work: u64,
    worked_until: Tick,
    /// Whether the relay has waited for the engine since the last work.
    has_waited: bool,
    /// Whether the client had not accepted all earlier bytes at the current read.
    is_behind: bool,
    /// The guardrail has ended the answer, which therefore has no last event to compare.
    pub(super) is_cut: bool,
}

/// Earliest times of released events. `None`: the client has not caught up with it.
#[derive(Clone, Copy, Debug)]
struct Released {
    first: Option<Tick>,
    token: Option<Option<Tick>>,
    last: Option<Tick>,
}

impl Delays {
    pub(super) fn new(began: Tick) -> Self {
        Delays {
            measured: AnswerDelays::default(),
            released: None,
            began,
            read: began,
            lag: 0,
            work: 0,
            worked_until: began,
            has_waited: false,
            is_behind: false,
            is_cut: false,
        }
    }

    /// Bytes were read at `now`.
    pub(super) fn read(&mut self, now: Tick) {
        if now == self.read {
            return;
        }
        self.lag += std::mem::take(&mut self.work);
        if std::mem::take(&mut self.has_waited) {
            self.lag = self.lag.saturating_sub(now.nanos_since(self.worked_until));
        }
        self.read = now;
    }

    /// The earliest time of an event of the current read; `None` until the client has caught up.
    pub(super) fn earliest(&self) -> Option<Tick> {
        let earliest = Tick(self.read.0.saturating_sub(self.lag)).max(self.began);
        (!self.is_behind).then_some(earliest)
    }

    /// An event was queued for the client.
    #[inline]
    pub(super) fn released(&mut self, earliest: Option<Tick>, is_token: bool) {
        let released =
            self.released.get_or_insert(Released { first: earliest, token: None, last: earliest });
        released.last = earliest;
        if is_token && released.token.is_none() {
            released.token = Some(earliest);
        }
    }

    /// The guardrail has worked for `nanos`, until `now`. What it has released leaves now.
    pub(super) fn settle(&mut self, now: Tick, nanos: u64) {
        (self.work, self.worked_until) = (self.work + nanos, now);
        let Some(Released { first, token, last }) = self.released.take() else { return };
        let delay =
            |earliest: Option<Tick>| earliest.map_or(0, |earliest| now.nanos_since(earliest));
        self.measured.first_event.get_or_insert(delay(first));
        if let (None, Some(token)) = (self.measured.first_token, token) {
            self.measured.first_token = Some(delay(token));
        }
        self.measured.last_event = Some(delay(last));
    }

    /// The delays so far.
    pub(super) fn measured(&self) -> AnswerDelays {
        let last_event = self.measured.last_event.filter(|_| !self.is_cut);
        AnswerDelays { last_event, ..self.measured }
    }
}

impl OutputGuard {
    /// Account for the work since `began`.
    pub(super) fn worked(&mut self, began: Tick) {
        let now = clock::now();
        let nanos = now.nanos_since(began);
        self.busy += nanos;
        self.delays.settle(now, nanos);
    }

    /// The relay reads now. `is_behind`: the client has not accepted all earlier bytes.
    #[inline]
    pub(crate) fn before_read(&mut self, is_behind: bool) {
        self.delays.is_behind = is_behind;
    }

    /// There was nothing to read.
    #[inline]
    pub(crate) fn waited(&mut self) {
        self.delays.has_waited = true;
    }

    /// The client has accepted all bytes. Held events could leave from now on.
    #[inline]
    pub(crate) fn caught_up(&mut self, now: Tick) {
        if std::mem::take(&mut self.delays.is_behind) {
            for held in &mut self.queue {
                held.earliest.get_or_insert(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Tick {
        Tick(1_000 + nanos)
    }

    #[test]
    fn delay_is_the_time_from_the_earliest_time_to_the_release() {
        let mut delays = Delays::new(at(0));
        delays.read(at(10));
        let role = delays.earliest();
        delays.released(role, false);
        delays.settle(at(12), 2);
        delays.has_waited = true;
        delays.read(at(50));
        let token = delays.earliest();
        delays.settle(at(51), 1);
        delays.has_waited = true;
        delays.read(at(90));
        let end = delays.earliest();
        delays.released(token, true);
        delays.released(end, false);
        delays.settle(at(93), 3);
        let want =
            AnswerDelays { first_event: Some(2), first_token: Some(43), last_event: Some(3) };
        assert_eq!(delays.measured(), want);
        delays.is_cut = true;
        assert_eq!(delays.measured(), AnswerDelays { last_event: None, ..want });
    }

    #[test]
    fn work_delays_later_reads_until_the_relay_has_waited_as_long() {
        let mut delays = Delays::new(at(0));
        for number in 0..4 {
            delays.read(at(number * 10));
            let earliest = delays.earliest();
            delays.released(earliest, true);
            delays.settle(at(number * 10 + 10), 10);
        }
        assert_eq!(delays.measured().last_event, Some(40), "four works, and no wait");
        delays.has_waited = true;
        delays.read(at(70));
        assert_eq!(delays.earliest(), Some(at(60)), "ten are left of forty");
        delays.settle(at(70), 0);
        delays.has_waited = true;
        delays.read(at(200));
        assert_eq!(delays.earliest(), Some(at(200)));
    }

    #[test]
    fn event_behind_a_slow_client_is_not_delayed() {
        let mut delays = Delays::new(at(0));
        delays.is_behind = true;
        delays.read(at(10));
        let earliest = delays.earliest();
        delays.released(earliest, true);
        delays.settle(at(60), 1);
        assert_eq!(delays.measured().last_event, Some(0));
    }

    #[test]
    fn what_a_hedge_has_read_is_not_older_than_the_answer() {
        let mut delays = Delays::new(at(100));
        delays.read(at(20));
        assert_eq!(delays.earliest(), Some(at(100)));
    }
}
