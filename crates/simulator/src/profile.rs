//! Settings of a simulated engine.

use std::time::Duration;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::fault::Fault;

/// Speeds, limits and failures of an engine. The ranges of [`Profile::validate`] bound them.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Name of the model.
    pub model: String,
    /// Fixed time per request before it is scheduled: tokenizing and the like.
    pub base: Duration,
    /// Time per prompt token. A prompt token is four bytes.
    pub prefill: Duration,
    /// Maximum prompt tokens that one step reads, for all requests together.
    pub chunk: u64,
    /// Time of a step that makes one token of one answer.
    pub decode: Duration,
    /// Further time of such a step for each further answer of the batch.
    pub slowdown: Duration,
    /// Relative jitter of these times, 0 to 1.
    pub jitter: f64,
    /// Share of steps with a stall before them.
    pub stall_share: f64,
    /// How long a stall lasts, also one of [`Fault::Stall`].
    pub stall: Duration,
    /// Shares of requests that fail, by kind. Together at most 1.
    pub faults: Vec<(Fault, f64)>,
    /// Maximum answers that run at a time; further ones queue.
    pub slots: usize,
    /// Maximum tokens of prompts and answers that run at a time; further ones queue.
    pub kv_tokens: u64,
    /// Maximum requests in the queue; further ones get 503.
    pub max_queue: usize,
    /// Tokens of an answer without `max_tokens`.
    pub tokens: u32,
    /// Tokens in an event of a stream.
    pub tokens_per_event: u32,
    /// Seed of jitter, stalls and failures.
    pub seed: u64,
}

impl Profile {
    /// A small model on a fast accelerator: 20 ms to the first token, 8 ms per token.
    pub fn fast() -> Self {
        Profile {
            model: "sim-8b".into(),
            base: Duration::from_millis(20),
            prefill: Duration::from_micros(80),
            chunk: 2048,
            decode: Duration::from_millis(8),
            slowdown: Duration::from_micros(60),
            jitter: 0.15,
            stall_share: 0.0,
            stall: Duration::from_secs(1),
            faults: Vec::new(),
            slots: 64,
            kv_tokens: 400_000,
            max_queue: 1024,
            tokens: 64,
            tokens_per_event: 1,
            seed: 0,
        }
    }

    /// A large model under load: 90 ms to the first token, 25 ms per token, occasional stalls of
    /// 400 ms.
    pub fn slow() -> Self {
        Profile {
            model: "sim-70b".into(),
            base: Duration::from_millis(90),
            prefill: Duration::from_micros(400),
            decode: Duration::from_millis(25),
            slowdown: Duration::from_micros(300),
            jitter: 0.25,
            stall_share: 0.004,
            stall: Duration::from_millis(400),
            slots: 32,
            kv_tokens: 200_000,
            ..Profile::fast()
        }
    }

    /// Whether each setting is in its range.
    ///
    /// # Errors
    /// The first setting that is not, with its range.
    pub fn validate(&self) -> Result<(), String> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
        if self.model.is_empty() || self.model.len() > 128 || !self.model.bytes().all(is_word) {
            return Err("model must be 1 to 128 letters, digits and - _ . / :".into());
        }
        let times = [
            ("base", self.base, Duration::ZERO, Duration::from_secs(600)),
            ("prefill", self.prefill, Duration::ZERO, Duration::from_secs(1)),
            ("decode", self.decode, Duration::from_micros(1), Duration::from_secs(60)),
            ("slowdown", self.slowdown, Duration::ZERO, Duration::from_secs(1)),
            ("stall", self.stall, Duration::ZERO, Duration::from_secs(3600)),
        ];
        for (name, time, least, most) in times {
            if !(least..=most).contains(&time) {
                return Err(format!("{name} is {time:?}, but must be from {least:?} to {most:?}"));
            }
        }
        let counts = [
            ("chunk", self.chunk, 1_000_000),
            ("slots", self.slots as u64, 8192),
            ("kv-tokens", self.kv_tokens, 1_000_000_000),
            ("max-queue", self.max_queue as u64, 100_000),
            ("tokens", u64::from(self.tokens), u64::from(MAX_ANSWER_TOKENS)),
            ("tokens-per-event", u64::from(self.tokens_per_event), 256),
        ];
        for (name, count, most) in counts {
            let least = u64::from(name != "max-queue");
            if !(least..=most).contains(&count) {
                return Err(format!("{name} is {count}, but must be from {least} to {most}"));
            }
        }
        let shares = self.faults.iter().map(|(_, share)| *share);
        for share in shares.clone().chain([self.jitter, self.stall_share]) {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{share} is not a share; it must be from 0 to 1"));
            }
        }
        let sum: f64 = shares.sum();
        if sum > 1.0 + 1e-9 {
            return Err(format!("the shares of failures add up to {sum}; at most 1 is possible"));
        }
        Ok(())
    }

    /// How the request of this number fails, if it does.
    pub(super) fn fault(&self, number: u64) -> Option<Fault> {
        let mut random = SmallRng::seed_from_u64(self.seed ^ !number);
        let mut drawn: f64 = random.random();
        self.faults.iter().find_map(|(fault, share)| {
            drawn -= share;
            (drawn < 0.0).then_some(*fault)
        })
    }

    pub(super) fn vary(&self, mean: Duration, random: &mut SmallRng) -> Duration {
        if self.jitter <= 0.0 {
            return mean;
        }
        mean.mul_f64(1.0 + self.jitter * random.random_range(-1.0..1.0))
    }

    /// The stall before a step, usually none.
    pub(super) fn stall(&self, random: &mut SmallRng) -> Duration {
        let stalls = self.stall_share > 0.0 && random.random::<f64>() < self.stall_share;
        if stalls { self.stall } else { Duration::ZERO }
    }
}

/// Maximum tokens of an answer.
pub(super) const MAX_ANSWER_TOKENS: u32 = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_errors_that_name_the_range() {
        assert_eq!(Profile::fast().validate(), Ok(()));
        assert_eq!(Profile::slow().validate(), Ok(()));
        let fails = |change: fn(&mut Profile), says: &str| {
            let mut profile = Profile::fast();
            change(&mut profile);
            let error = profile.validate().unwrap_err();
            assert!(error.contains(says), "{error}");
        };
        fails(|p| p.slots = 0, "slots is 0, but must be from 1 to 8192");
        fails(|p| p.decode = Duration::ZERO, "decode is 0ns, but must be from 1µs to 60s");
        fails(|p| p.jitter = 2.0, "2 is not a share");
        fails(|p| p.jitter = f64::NAN, "NaN is not a share");
        fails(|p| p.model = "a\"b".into(), "letters, digits");
        fails(|p| p.faults = vec![(Fault::Reset, 0.6), (Fault::Stall, 0.6)], "add up to 1.2");
    }

    #[test]
    fn faults_come_in_their_shares_and_repeat_with_the_seed() {
        let faults = vec![(Fault::Status(429), 0.1), (Fault::Reset, 0.3)];
        let profile = Profile { faults, ..Profile::fast() };
        let drawn = || (0..10_000).map(|number| profile.fault(number)).collect::<Vec<_>>();
        let count = |fault| drawn().iter().filter(|drawn| **drawn == fault).count();
        assert!(count(Some(Fault::Status(429))).abs_diff(1_000) < 150);
        assert!(count(Some(Fault::Reset)).abs_diff(3_000) < 200);
        assert_eq!(drawn(), drawn());
        let other = Profile { seed: 7, ..profile.clone() };
        assert!((0..100).any(|number| other.fault(number) != profile.fault(number)));
    }
}
