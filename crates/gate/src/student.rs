//! Quantiles of Student's t.
//!
//! - *In*: a probability and degrees of freedom.
//! - *Out*: the quantile.
//! - *Never*: an approximation that depends on the degrees of freedom: the distribution function of
//!   whole degrees has a closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4).

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// Above these degrees of freedom, the quantile is that of this number: 0.1 % more than the normal.
const MAX_DEGREES: u32 = 2_000;

/// The value that a variable of `degrees` of freedom exceeds with the probability `tail`, from
/// 1e-9 to 0.5. `degrees` is at least 1.
pub(crate) fn upper_quantile(tail: f64, degrees: u32) -> f64 {
    let degrees = degrees.clamp(1, MAX_DEGREES);
    let tail = tail.clamp(1e-9, 0.5);
    // Of the angle atan(t / sqrt(degrees)), which is bounded.
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if (1.0 - central(middle, degrees)) / 2.0 > tail {
            low = middle;
        } else {
            high = middle;
        }
    }
    low.tan() * f64::from(degrees).sqrt()
}

/// Probability of a value between -t and t, where `angle` is atan(t / sqrt(degrees)).
fn central(angle: f64, degrees: u32) -> f64 {
    let (sine, cosine) = angle.sin_cos();
    let is_odd = degrees % 2 == 1;
    let (mut term, mut sum, mut step) =
        if is_odd { (cosine, if degrees > 1 { cosine } else { 0.0 }, 3) } else { (1.0, 1.0, 2) };
    while step < degrees {
        term *= cosine * cosine * f64::from(step - 1) / f64::from(step);
        sum += term;
        step += 2;
    }
    if is_odd { FRAC_2_PI * (angle + sine * sum) } else { sine * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (tail, degrees, wanted) in [
            (0.05, 1, 6.314),
            (0.05, 2, 2.920),
            (0.025, 3, 3.182),
            (0.01, 4, 3.747),
            (0.005, 19, 2.861),
            (0.01, 39, 2.426),
            (0.005, 39, 2.708),
            (0.05, 30, 1.697),
            (0.0005, 10, 4.587),
            (0.025, 1_000_000, 1.961),
            (0.5, 7, 0.0),
        ] {
            let got = upper_quantile(tail, degrees);
            assert!((got - wanted).abs() < 0.001, "{tail} {degrees}: {got}");
        }
    }
}
