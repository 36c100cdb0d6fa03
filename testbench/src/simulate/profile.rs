//! Timing profiles of a simulated engine.

use std::time::Duration;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// An engine's speeds.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Name of the model.
    pub model: String,
    /// Fixed time per request: scheduling, tokenizing.
    pub base: Duration,
    /// Time per prompt token. A prompt token is four bytes.
    pub prefill: Duration,
    /// Time per output token.
    pub decode: Duration,
    /// Relative jitter of these times, 0 to 1.
    pub jitter: f64,
    /// Share of tokens with a stall before them.
    pub stall_share: f64,
    /// How long a stall lasts.
    pub stall: Duration,
    /// Share of requests answered with 503, 0 to 1.
    pub error_share: f64,
    /// Maximum concurrent requests; further ones queue.
    pub slots: usize,
    /// Tokens of an answer without `max_tokens`.
    pub tokens: u32,
}

impl Profile {
    /// A small model on a fast accelerator: 20 ms to the first token, 8 ms per token.
    pub fn fast() -> Self {
        Profile {
            model: "sim-8b".into(),
            base: Duration::from_millis(20),
            prefill: Duration::from_micros(80),
            decode: Duration::from_millis(8),
            jitter: 0.15,
            stall_share: 0.0,
            stall: Duration::ZERO,
            error_share: 0.0,
            slots: 64,
            tokens: 64,
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
            jitter: 0.25,
            stall_share: 0.004,
            stall: Duration::from_millis(400),
            error_share: 0.0,
            slots: 32,
            tokens: 64,
        }
    }

    pub(super) fn first_token(&self, prompt_tokens: u64, random: &mut SmallRng) -> Duration {
        let prefill = self.prefill.saturating_mul(u32::try_from(prompt_tokens).unwrap_or(u32::MAX));
        self.vary(self.base + prefill, random)
    }

    pub(super) fn next_token(&self, random: &mut SmallRng) -> Duration {
        let stalls = self.stall_share > 0.0 && random.random::<f64>() < self.stall_share;
        self.vary(self.decode, random) + if stalls { self.stall } else { Duration::ZERO }
    }

    /// Whether the request of this number fails.
    pub(super) fn fails(&self, number: u64) -> bool {
        // Tokens of the answer are drawn from the same number.
        let mut random = SmallRng::seed_from_u64(!number);
        self.error_share > 0.0 && random.random::<f64>() < self.error_share
    }

    fn vary(&self, mean: Duration, random: &mut SmallRng) -> Duration {
        if self.jitter <= 0.0 {
            return mean;
        }
        mean.mul_f64(1.0 + self.jitter * random.random_range(-1.0..1.0))
    }
}
