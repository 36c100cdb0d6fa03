//! Prompts of a length distribution, or from a file.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use rand::Rng;
use rand::rngs::SmallRng;

/// Distribution of prompt lengths in words. A word is about one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// All the same.
    Fixed(u32),
    /// Uniform between two lengths, both included.
    Uniform(u32, u32),
    /// Normal, with mean and standard deviation; at least 1.
    Normal(f64, f64),
}

/// Maximum words of a generated prompt.
const MAX_PROMPT_WORDS: u32 = 1_000_000;

impl FromStr for Length {
    type Err = String;

    /// `128`, `32..512`, or `256~64`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is not a length; write for example \"128\", \"32..512\" (uniform) or \"256~64\" (normal: mean~deviation)"
            )
        };
        let number = |s: &str| {
            s.trim()
                .parse::<u32>()
                .ok()
                .filter(|n| (1..=MAX_PROMPT_WORDS).contains(n))
                .ok_or_else(bad)
        };
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (number(from)?, number(to)?);
            return if from <= to { Ok(Length::Uniform(from, to)) } else { Err(bad()) };
        }
        if let Some((mean, deviation)) = text.split_once('~') {
            let deviation: f64 = deviation.trim().parse().map_err(|_| bad())?;
            return if deviation >= 0.0 && deviation.is_finite() {
                Ok(Length::Normal(f64::from(number(mean)?), deviation))
            } else {
                Err(bad())
            };
        }
        number(text).map(Length::Fixed)
    }
}

/// Where prompts come from.
#[derive(Clone, Debug)]
pub enum Prompts {
    /// Generated from random words.
    Made(Length),
    /// Taken from a file in turn.
    FromFile {
        /// The file.
        file: PathBuf,
        /// Its prompts.
        prompts: Vec<FilePrompt>,
    },
}

/// A line of a prompt file.
#[derive(Clone, Debug, PartialEq)]
pub enum FilePrompt {
    /// `{"prompt": "..."}` or a bare JSON string.
    Text(String),
    /// `{"messages": [...]}`, sent unchanged.
    Messages(serde_json::Value),
}

impl Prompts {
    /// Read a JSONL file.
    ///
    /// # Errors
    /// What is wrong, with the line's number.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))?;
        let mut given = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let value: serde_json::Value = serde_json::from_str(line)
                .map_err(|e| format!("{name}:{}:{}: {e}", at + 1, e.column()))?;
            let prompt = value.as_str().or_else(|| value["prompt"].as_str());
            given.push(match (prompt, value.get("messages")) {
                (Some(text), _) => FilePrompt::Text(text.to_owned()),
                (None, Some(messages)) => FilePrompt::Messages(messages.clone()),
                (None, None) => {
                    return Err(format!("{name}:{}: neither \"prompt\" nor \"messages\"", at + 1));
                }
            });
        }
        if given.is_empty() {
            Err(format!("{name}: the file has no prompts"))
        } else {
            Ok(Prompts::FromFile { file: path.to_owned(), prompts: given })
        }
    }

    /// The prompt of request `number`.
    pub(crate) fn prompt_for(&self, number: u64, random: &mut SmallRng) -> FilePrompt {
        match self {
            Prompts::Made(length) => FilePrompt::Text(words(length.sample(random), random)),
            Prompts::FromFile { prompts, .. } => {
                prompts[(number % prompts.len() as u64) as usize].clone()
            }
        }
    }
}

impl Length {
    fn sample(self, random: &mut SmallRng) -> u32 {
        match self {
            Length::Fixed(n) => n,
            Length::Uniform(from, to) => random.random_range(from..=to),
            Length::Normal(mean, deviation) => {
                // Box-Muller.
                let (u, v): (f64, f64) =
                    (random.random_range(f64::MIN_POSITIVE..1.0), random.random());
                let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                (mean + deviation * normal).round().clamp(1.0, f64::from(MAX_PROMPT_WORDS)) as u32
            }
        }
    }
}

fn words(n: u32, random: &mut SmallRng) -> String {
    const WORDS: [&str; 16] = [
        "sea", "wide", "cold", "ship", "deep", "wind", "salt", "tide", "sail", "port", "wave",
        "star", "rope", "mast", "gull", "fog",
    ];
    let mut text = String::with_capacity(n as usize * 5);
    for i in 0..n {
        if i > 0 {
            text.push(' ');
        }
        text.push_str(WORDS[random.random_range(0..WORDS.len())]);
    }
    text
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
        let uniform: Length = "3..5".parse().unwrap();
        assert!((0..100).all(|_| (3..=5).contains(&uniform.sample(&mut random))));
        for bad in ["", "0", "5..3", "x", "1~-1", "-1"] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
        assert_eq!(words(4, &mut random).split(' ').count(), 4);
    }
}
