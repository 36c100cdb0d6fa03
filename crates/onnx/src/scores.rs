//! Combines the scores of windows into scores of the text.
//!
//! - *In*: the logits of one window after the other.
//! - *Out*: for each label the highest score of any window: one bad passage in a long text is not
//!   averaged away.
//! - *Never*: a score outside 0 to 1; a NaN.

use crate::settings::Activation;

/// The scores of one window, or the index of the first logit that is not finite.
pub(crate) fn activate(activation: Activation, logits: &[f32]) -> Result<Vec<f32>, usize> {
    if let Some(index) = logits.iter().position(|logit| !logit.is_finite()) {
        return Err(index);
    }
    Ok(match activation {
        Activation::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        Activation::Softmax => softmax(logits),
    })
}

/// Keeps the higher score of each label.
pub(crate) fn raise(highest: &mut [f32], window: &[f32]) {
    for (high, score) in highest.iter_mut().zip(window) {
        *high = high.max(*score);
    }
}

/// Logits are shifted by the largest one, so that no exponential overflows and the sum is at least
/// 1.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_stay_between_0_and_1_at_the_edges() {
        for activation in [Activation::Softmax, Activation::Sigmoid] {
            for logits in [[0.0, 0.0], [f32::MAX, f32::MIN], [-1e30, -1e30], [90.0, -90.0]] {
                let scores = activate(activation, &logits).unwrap();
                assert!(
                    scores.iter().all(|score| (0.0..=1.0).contains(score)),
                    "{activation:?} {logits:?} {scores:?}"
                );
            }
        }
    }

    #[test]
    fn known_values() {
        assert_eq!(activate(Activation::Softmax, &[1.0, 1.0]), Ok(vec![0.5, 0.5]));
        assert_eq!(activate(Activation::Sigmoid, &[0.0, 100.0]), Ok(vec![0.5, 1.0]));
        assert_eq!(activate(Activation::Sigmoid, &[0.0, f32::NAN]), Err(1));
        assert_eq!(activate(Activation::Softmax, &[f32::INFINITY, 0.0]), Err(0));
    }

    #[test]
    fn the_highest_window_wins() {
        let mut highest = vec![0.0; 2];
        raise(&mut highest, &[0.2, 0.8]);
        raise(&mut highest, &[0.6, 0.4]);
        assert_eq!(highest, [0.6, 0.8]);
    }
}
