//! Distributions of lengths: of prompts, answers and conversations.
//!
//! - *In*: a text such as `32..512`, or measured lengths.
//! - *Out*: lengths of at least 1 and at most [`MAX_LENGTH`].
//! - *Never*: a unit. Its user counts words, tokens or turns.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

/// Maximum length.
pub const MAX_LENGTH: u32 = 1_000_000;
/// Maximum measured lengths of an empirical distribution.
const MAX_MEASURED: usize = 1_000_000;

/// A distribution of lengths.
#[derive(Clone, Debug, PartialEq)]
pub enum Length {
    /// All the same.
    Fixed(u32),
    /// Uniform between two lengths, both included.
    Uniform(u32, u32),
    /// Normal, with mean and standard deviation.
    Normal(f64, f64),
    /// Log-normal, with mean and standard deviation of the lengths themselves.
    LogNormal(f64, f64),
    /// One of these, each with the same probability.
    Empirical(Arc<[u32]>),
}

/// What texts of lengths look like.
const FORMS: &str = "write for example \"128\", \"32..512\" (uniform), \"256~64\" (normal: \
                     mean~deviation), \"lognormal:256~300\" or \"file:lengths.txt\" (a length a \
                     line)";

impl FromStr for Length {
    type Err = String;

    /// `128`, `32..512`, `256~64`, `lognormal:256~300`, or `file:PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a length from 1 to {MAX_LENGTH}; {FORMS}");
        if let Some(path) = text.strip_prefix("file:") {
            return measured(Path::new(path));
        }
        if let Some(spread) = text.strip_prefix("lognormal:") {
            let (mean, deviation) = spread.split_once('~').and_then(pair).ok_or_else(bad)?;
            return Ok(Length::LogNormal(mean, deviation));
        }
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (number(from).ok_or_else(bad)?, number(to).ok_or_else(bad)?);
            return if from <= to { Ok(Length::Uniform(from, to)) } else { Err(bad()) };
        }
        if let Some(spread) = text.split_once('~') {
            let (mean, deviation) = pair(spread).ok_or_else(bad)?;
            return Ok(Length::Normal(mean, deviation));
        }
        number(text).map(Length::Fixed).ok_or_else(bad)
    }
}

fn number(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|n| (1..=MAX_LENGTH).contains(n))
}

/// Mean and deviation.
fn pair((mean, deviation): (&str, &str)) -> Option<(f64, f64)> {
    let deviation: f64 = deviation.trim().parse().ok()?;
    let is_deviation = deviation >= 0.0 && deviation.is_finite();
    is_deviation.then_some((f64::from(number(mean)?), deviation))
}

/// The lengths of a file, one a line.
fn measured(path: &Path) -> Result<Length, String> {
    let name = path.display();
    let text = crate::read_file(path)?;
    let mut lengths = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let length = number(line).ok_or_else(|| {
            format!("{name}:{}: {line:?} is not a length from 1 to {MAX_LENGTH}", at + 1)
        })?;
        lengths.push(length);
    }
    match lengths.len() {
        0 => Err(format!("{name}: the file has no lengths")),
        1..=MAX_MEASURED => Ok(Length::Empirical(lengths.into())),
        _ => Err(format!("{name}: the file has more than {MAX_MEASURED} lengths")),
    }
}

impl Length {
    /// A length.
    pub fn sample(&self, random: &mut SmallRng) -> u32 {
        let clamped = |length: f64| length.round().clamp(1.0, f64::from(MAX_LENGTH)) as u32;
        match self {
            Length::Fixed(n) => *n,
            Length::Uniform(from, to) => random.random_range(*from..=*to),
            Length::Normal(mean, deviation) => clamped(mean + deviation * normal(random)),
            Length::LogNormal(mean, deviation) => {
                let variance = (1.0 + (deviation / mean).powi(2)).ln();
                let middle = mean.ln() - variance / 2.0;
                clamped((middle + variance.sqrt() * normal(random)).exp())
            }
            Length::Empirical(lengths) => lengths[random.random_range(0..lengths.len())],
        }
    }

    /// The distribution as reports show it.
    pub fn json(&self) -> Value {
        match self {
            Length::Fixed(n) => json!({"kind": "fixed", "length": n}),
            Length::Uniform(min, max) => json!({"kind": "uniform", "min": min, "max": max}),
            Length::Normal(mean, deviation) => {
                json!({"kind": "normal", "mean": mean, "deviation": deviation})
            }
            Length::LogNormal(mean, deviation) => {
                json!({"kind": "lognormal", "mean": mean, "deviation": deviation})
            }
            Length::Empirical(lengths) => {
                let bytes = lengths.iter().flat_map(|length| length.to_le_bytes());
                json!({"kind": "empirical", "lengths": lengths.len(), "digest": crate::digest(bytes)})
            }
        }
    }
}

impl std::fmt::Display for Length {
    /// As it is written in arguments.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Length::Fixed(n) => write!(f, "{n}"),
            Length::Uniform(min, max) => write!(f, "{min}..{max}"),
            Length::Normal(mean, deviation) => write!(f, "{mean}~{deviation}"),
            Length::LogNormal(mean, deviation) => write!(f, "lognormal:{mean}~{deviation}"),
            Length::Empirical(lengths) => write!(f, "{} measured lengths", lengths.len()),
        }
    }
}

/// A value of the standard normal distribution.
pub(crate) fn normal(random: &mut SmallRng) -> f64 {
    // Box-Muller.
    let (u, v): (f64, f64) = (random.random_range(f64::MIN_POSITIVE..1.0), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn lengths_are_read_and_kept() {
        let mut random = SmallRng::seed_from_u64(1);
        assert_eq!("128".parse(), Ok(Length::Fixed(128)));
        assert_eq!("256~64".parse(), Ok(Length::Normal(256.0, 64.0)));
        assert_eq!("lognormal:256~300".parse(), Ok(Length::LogNormal(256.0, 300.0)));
        for text in ["128", "3..5", "256~64", "lognormal:256~300"] {
            assert_eq!(text.parse::<Length>().unwrap().to_string(), text);
        }
        let uniform: Length = "3..5".parse().unwrap();
        assert!((0..100).all(|_| (3..=5).contains(&uniform.sample(&mut random))));
        for bad in ["", "0", "5..3", "x", "1~-1", "-1", "lognormal:3", "file:/absent", "2000000"] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
    }

    #[test]
    fn distributions_have_their_mean_and_deviation() {
        let mut random = SmallRng::seed_from_u64(2);
        for length in [Length::Normal(500.0, 50.0), Length::LogNormal(500.0, 400.0)] {
            let drawn: Vec<f64> =
                (0..40_000).map(|_| f64::from(length.sample(&mut random))).collect();
            let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
            let variance =
                drawn.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
            let wanted = if matches!(length, Length::Normal(..)) { 50.0 } else { 400.0 };
            assert!((mean - 500.0).abs() < 10.0, "{length:?}: mean {mean}");
            assert!((variance.sqrt() - wanted).abs() < wanted * 0.06, "{length:?}: {variance}");
        }
    }

    #[test]
    fn measured_lengths_are_drawn_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lengths.txt");
        std::fs::write(&path, "7\n\n900\n7\n").unwrap();
        let length: Length = format!("file:{}", path.display()).parse().unwrap();
        let mut random = SmallRng::seed_from_u64(3);
        let drawn: Vec<u32> = (0..3_000).map(|_| length.sample(&mut random)).collect();
        let sevens = drawn.iter().filter(|n| **n == 7).count();
        assert!(drawn.iter().all(|n| [7, 900].contains(n)) && (1_900..2_100).contains(&sevens));
        std::fs::write(&path, "7\nx\n").unwrap();
        let error = format!("file:{}", path.display()).parse::<Length>().unwrap_err();
        assert!(error.contains("lengths.txt:2: \"x\" is not a length"), "{error}");
    }
}
