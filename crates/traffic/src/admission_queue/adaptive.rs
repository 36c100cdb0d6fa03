//! A cap that follows the engine.
//!
//! - *In*: how fast the engine served completed requests ([`Served`]), and the number in flight.
//! - *Out*: the maximum number in flight.
//! - *Never*: a cap outside the bounds of the settings; growth while the cap is not used; a long
//!   prompt taken for congestion.
//!
//! The gradient of Netflix's concurrency-limits library (`Gradient2Limit`), with a floor of time to
//! first token in place of the long-term mean. Each prompt length, by powers of two, has its own
//! floor: the lowest mean of one to two [`WINDOW`]s, so that an engine that is permanently slower
//! is not throttled forever. Answers that are not streamed have no first token: their whole time is
//! compared with a floor for their size, which counts an output token as [`OUTPUT_WEIGHT`] of a
//! prompt. The slowness is the recent mean of time / floor; the gradient is
//! `g = clamp(TOLERANCE / slowness, 0.5, 1)`, and every [`PERIOD`]
//! `cap = cap + SMOOTH x (cap x g + sqrt(cap) - cap)`.

use std::time::Duration;

use lens::Tick;

/// How much slower than its floor the engine may be before the cap shrinks. Prompts of one class
/// differ in length by up to this factor.
const TOLERANCE: f64 = 2.0;
/// Share of the difference to the wanted cap that a step applies.
const SMOOTH: f64 = 0.2;
/// Nanoseconds between steps.
const PERIOD: u64 = 100_000_000;
/// Length of a floor window in nanoseconds.
const WINDOW: u64 = 60_000_000_000;
/// Weight of a new value in the recent means.
const NEW: f64 = 0.2;
/// Prompt tokens that take as long as one output token. Prefill is parallel, decode is not.
const OUTPUT_WEIGHT: u64 = 64;
/// Number of classes of length, by powers of two: up to a billion tokens.
const CLASSES: usize = 32;

#[derive(Debug)]
pub(super) struct Adaptive {
    least: f64,
    most: f64,
    cap: f64,
    /// Recent mean of time / floor.
    slowness: f64,
    streams: Classes,
    whole: Classes,
    window: Tick,
    stepped: Tick,
}

/// How the engine served a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Time to the first token of a stream.
    FirstToken(Duration),
    /// Time of a whole answer.
    Whole(Duration),
}

/// Times by length.
#[derive(Debug)]
struct Classes([Class; CLASSES]);

/// Times of requests of about one length.
#[derive(Clone, Copy, Debug)]
struct Class {
    /// Recent mean in seconds.
    recent: f64,
    /// Lowest value of `recent` in this window, and in the one before; infinite: no request.
    floors: [f64; 2],
}

impl Class {
    fn floor(&self) -> f64 {
        self.floors[0].min(self.floors[1])
    }

    fn learn(&mut self, took: f64) {
        let is_known = self.floor().is_finite();
        self.recent = if is_known { self.recent + NEW * (took - self.recent) } else { took };
        self.floors[0] = self.floors[0].min(self.recent);
    }
}

impl Adaptive {
    pub(super) fn new(least: u64, most: u64) -> Self {
        let (least, most) = (least.max(1) as f64, most as f64);
        let cap = (least * 4.0).min(most);
        Adaptive {
            least,
            most,
            cap,
            slowness: 1.0,
            streams: Classes::new(),
            whole: Classes::new(),
            window: Tick(0),
            stepped: Tick(0),
        }
    }

    pub(super) fn cap(&self) -> u64 {
        self.cap as u64
    }

    /// Learn from a completed request with `prompt` computed and `output` generated tokens.
    /// `in_flight` includes it.
    pub(super) fn learn(
        &mut self,
        in_flight: u64,
        now: Tick,
        served: Served,
        (prompt, output): (u64, u64),
    ) {
        if now.nanos_since(self.window) >= WINDOW {
            self.streams.next_window();
            self.whole.next_window();
            self.window = now;
        }
        let ratio = match served {
            Served::FirstToken(took) => self.streams.learn(took, prompt),
            Served::Whole(took) => {
                self.whole.learn(took, prompt.saturating_add(output.saturating_mul(OUTPUT_WEIGHT)))
            }
        };
        self.slowness += NEW * (ratio - self.slowness);
        if now.nanos_since(self.stepped) < PERIOD {
            return;
        }
        self.stepped = now;
        let gradient = (TOLERANCE / self.slowness).clamp(0.5, 1.0);
        let wanted = self.cap * gradient + self.cap.sqrt();
        // A cap that is less than half used gives no evidence for a higher one.
        if wanted <= self.cap || in_flight as f64 >= self.cap / 2.0 {
            self.cap = (self.cap + SMOOTH * (wanted - self.cap)).clamp(self.least, self.most);
        }
    }
}

impl Classes {
    fn new() -> Self {
        Classes([Class { recent: 0.0, floors: [f64::INFINITY; 2] }; CLASSES])
    }

    fn next_window(&mut self) {
        for class in &mut self.0 {
            class.floors = [f64::INFINITY, class.floors[0]];
        }
    }

    /// Learn from a request of that length. Returns its time / floor.
    fn learn(&mut self, took: Duration, length: u64) -> f64 {
        let took = took.as_secs_f64().max(1e-6);
        let at = (length.checked_ilog2().map_or(0, |power| power as usize + 1)).min(CLASSES - 1);
        if let Some(class) = self.0.get_mut(at) {
            class.learn(took);
        }
        took / self.floor(at)
    }

    /// Time of requests of a class without congestion.
    ///
    /// A class that is new may have been seen under congestion only. In its first window, its floor
    /// is at most that of longer requests, and at most in proportion to that of shorter ones.
    fn floor(&self, at: usize) -> f64 {
        let of = |class: &usize| self.0.get(*class).map_or(f64::INFINITY, Class::floor);
        let own = of(&at);
        if self.0.get(at).is_some_and(|class| class.floors[1].is_finite()) {
            return own;
        }
        let is_known = |class: &usize| of(class).is_finite();
        // Class 0 has requests of unknown length.
        let shorter = (1..at).rev().find(is_known);
        let longer = (at + 1..CLASSES).find(is_known).filter(|_| at > 0);
        let in_proportion =
            shorter.map_or(f64::INFINITY, |class| of(&class) * 2f64.powi((at - class) as i32));
        own.min(in_proportion).min(longer.map_or(f64::INFINITY, |class| of(&class)))
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
                Served::FirstToken(Duration::from_secs_f64(ttft / 1e3)),
                (500, 20),
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
            let served = Served::FirstToken(Duration::from_millis(10));
            adaptive.learn(1, Tick(step * 200_000_000), served, (500, 20));
        }
        assert_eq!(adaptive.cap(), 8);
    }

    /// Time to first token of an engine with `slots` slots: 10 ms and 0.3 ms for each token.
    fn linear(load: u64, slots: f64, prompt: u64) -> Duration {
        let base = 0.01 + 0.0003 * prompt as f64;
        Duration::from_secs_f64(base * (load as f64 / slots).max(1.0).powi(2))
    }

    /// Requests at 40 a second for `seconds`, with prompts of the lengths in turn.
    fn serve(adaptive: &mut Adaptive, slots: f64, prompts: &[u64], seconds: u64, from: u64) {
        for step in 0..seconds * 40 {
            let (load, now) = (adaptive.cap(), Tick(from + step * 25_000_000));
            let prompt = prompts[step as usize % prompts.len()];
            let served = Served::FirstToken(linear(load, slots, prompt));
            adaptive.learn(load, now, served, (prompt, 20));
        }
    }

    #[test]
    fn longer_prompts_are_no_congestion() {
        let second = 1_000_000_000;
        for prompts in [&[1300][..], &[20_000], &[60, 1300, 20_000], &[300, 8]] {
            let mut adaptive = Adaptive::new(2, 60);
            serve(&mut adaptive, 1000.0, &[60], 30, 1);
            assert_eq!(adaptive.cap(), 60);
            serve(&mut adaptive, 1000.0, prompts, 10, 31 * second);
            assert_eq!(adaptive.cap(), 60, "{prompts:?}");
            // And shorter ones again.
            serve(&mut adaptive, 1000.0, &[60], 10, 42 * second);
            assert_eq!(adaptive.cap(), 60, "{prompts:?}");
        }
    }

    /// Answers that are not streamed: 1 ms for each output token.
    #[test]
    fn whole_answers_move_the_cap_whatever_their_length() {
        let mut adaptive = Adaptive::new(2, 1000);
        let mut run = |outputs: &[u64], slots: f64, from: u64| {
            for step in 0..1200 {
                let load = adaptive.cap();
                let output = outputs[step as usize % outputs.len()];
                let millis = (5.0 + output as f64) * (load as f64 / slots).max(1.0).powi(2);
                let served = Served::Whole(Duration::from_secs_f64(millis / 1e3));
                let now = Tick((from + step * 25) * 1_000_000);
                adaptive.learn(load, now, served, (500, output));
            }
            adaptive.cap()
        };
        assert!((32..=64).contains(&run(&[100], 32.0, 1)));
        // Longer answers are no congestion, a slower engine is.
        let longer = run(&[100, 900, 3000], 32.0, 30_001);
        assert!((32..=64).contains(&longer), "{longer}");
        let slower = run(&[100], 8.0, 60_001);
        assert!((6..=20).contains(&slower), "{slower}");
    }

    #[test]
    fn congestion_is_seen_at_any_prompt_length() {
        let second = 1_000_000_000;
        let mut adaptive = Adaptive::new(2, 1000);
        serve(&mut adaptive, 32.0, &[60], 30, 1);
        assert!((32..=64).contains(&adaptive.cap()), "{}", adaptive.cap());
        // Long prompts, for which the engine has fewer slots: they have never been seen without
        // congestion.
        serve(&mut adaptive, 8.0, &[20_000], 20, 31 * second);
        assert!((6..=24).contains(&adaptive.cap()), "{}", adaptive.cap());
    }
}
