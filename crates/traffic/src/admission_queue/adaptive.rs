//! A cap that follows the engine.
//!
//! - *In*: the engine's time to first token of completed requests, and the number in flight.
//! - *Out*: the maximum number in flight.
//! - *Never*: a cap outside the bounds of the settings; growth while the cap is not used.
//!
//! The gradient of Netflix's concurrency-limits library (`Gradient2Limit`), with the floor of time
//! to first token in place of the long-term mean: a gradient
//! `g = clamp(TOLERANCE x floor / recent, 0.5, 1)`, and every [`PERIOD`]
//! `cap = cap + SMOOTH x (cap x g + sqrt(cap) - cap)`. The floor is the lowest mean of one to two
//! [`WINDOW`]s, so that an engine that is permanently slower is not throttled forever.

use std::time::Duration;

use lens::Tick;

/// How much slower than its floor the engine may be before the cap shrinks. Prompts differ in
/// length, and with them time to first token.
const TOLERANCE: f64 = 2.0;
/// Share of the difference to the wanted cap that a step applies.
const SMOOTH: f64 = 0.2;
/// Nanoseconds between steps.
const PERIOD: u64 = 100_000_000;
/// Length of a floor window in nanoseconds.
const WINDOW: u64 = 60_000_000_000;
/// Weight of a new value in the recent mean.
const NEW: f64 = 0.2;

#[derive(Debug)]
pub(super) struct Adaptive {
    least: f64,
    most: f64,
    cap: f64,
    recent: f64,
    /// Lowest value of `recent` in this window, and in the one before.
    floors: [f64; 2],
    window: Tick,
    stepped: Tick,
}

impl Adaptive {
    pub(super) fn new(least: u64, most: u64) -> Self {
        let (least, most) = (least.max(1) as f64, most as f64);
        let cap = (least * 4.0).min(most);
        Adaptive {
            least,
            most,
            cap,
            recent: 0.0,
            floors: [f64::INFINITY; 2],
            window: Tick(0),
            stepped: Tick(0),
        }
    }

    pub(super) fn cap(&self) -> u64 {
        self.cap as u64
    }

    /// Learn from a completed request. `in_flight` includes it.
    pub(super) fn learn(&mut self, in_flight: u64, now: Tick, ttft: Duration) {
        let ttft = ttft.as_secs_f64().max(1e-6);
        self.recent =
            if self.recent == 0.0 { ttft } else { self.recent + NEW * (ttft - self.recent) };
        if now.nanos_since(self.window) >= WINDOW {
            self.floors = [f64::INFINITY, self.floors[0]];
            self.window = now;
        }
        self.floors[0] = self.floors[0].min(self.recent);
        if now.nanos_since(self.stepped) < PERIOD {
            return;
        }
        self.stepped = now;
        let floor = self.floors[0].min(self.floors[1]);
        let gradient = (TOLERANCE * floor / self.recent).clamp(0.5, 1.0);
        let wanted = self.cap * gradient + self.cap.sqrt();
        // A cap that is less than half used gives no evidence for a higher one.
        if wanted <= self.cap || in_flight as f64 >= self.cap / 2.0 {
            self.cap = (self.cap + SMOOTH * (wanted - self.cap)).clamp(self.least, self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates an engine with `slots` slots. Requests above that wait in the engine.
    fn run(adaptive: &mut Adaptive, slots: f64, base_ms: f64, seconds: u64, from: u64) {
        for step in 0..seconds * 20 {
            let load = adaptive.cap();
            let ttft = base_ms * (load as f64 / slots).max(1.0).powi(2);
            adaptive.learn(
                load,
                Tick(from + step * 50_000_000),
                Duration::from_secs_f64(ttft / 1e3),
            );
        }
    }

    #[test]
    fn the_cap_settles_near_the_knee_and_follows_it() {
        let mut adaptive = Adaptive::new(2, 1000);
        run(&mut adaptive, 32.0, 50.0, 30, 1);
        let settled = adaptive.cap();
        assert!((32..=64).contains(&settled), "{settled}");
        run(&mut adaptive, 8.0, 50.0, 30, 31_000_000_000);
        let shrunk = adaptive.cap();
        assert!((6..=18).contains(&shrunk), "{shrunk}");
        // An engine that is permanently slower, with the same slots, is not throttled forever.
        run(&mut adaptive, 32.0, 500.0, 400, 62_000_000_000);
        assert!(adaptive.cap() >= 32, "{}", adaptive.cap());
    }

    #[test]
    fn an_idle_backend_keeps_its_cap() {
        let mut adaptive = Adaptive::new(2, 1000);
        for step in 0..1000 {
            adaptive.learn(1, Tick(step * 200_000_000), Duration::from_millis(10));
        }
        assert_eq!(adaptive.cap(), 8);
    }
}
