//! Axes: from values to shares of the length of an axis, and where its ticks are.

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm. Values at or below 0 have no place.
    Log,
    /// Percentiles from 0 to 100: the nearer to 100, the wider, so that 90, 99 and 99.9 are equally
    /// far from each other.
    Percentile,
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it shows, with its unit.
    pub label: String,
    /// How values are spread over it.
    pub scale: Scale,
}

impl Axis {
    /// An axis.
    pub fn new(label: &str, scale: Scale) -> Self {
        Axis { label: label.to_owned(), scale }
    }
}

/// An axis with its range, in the values of its scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    scale: Scale,
    from: f64,
    to: f64,
}

/// Highest percentile that has a place.
const MAX_PERCENTILE: f64 = 99.999;

impl Scale {
    /// The place of a value on the scale; `None` if it has none.
    fn place(self, value: f64) -> Option<f64> {
        let place = match self {
            Scale::Linear => value,
            Scale::Log => value.log10(),
            Scale::Percentile => -(1.0 - value.min(MAX_PERCENTILE) / 100.0).log10(),
        };
        place.is_finite().then_some(place)
    }
}

impl Range {
    /// The range of these values.
    pub(crate) fn covering(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for place in values.filter_map(|value| scale.place(value)) {
            (from, to) = (from.min(place), to.max(place));
        }
        if from > to {
            return None;
        }
        if scale == Scale::Linear {
            // Lengths are compared from 0, unless all are far from it.
            if from >= 0.0 && from < 0.7 * to {
                from = 0.0;
            }
            let step = step((to - from).max(to.abs() * 0.1).max(1e-9));
            (from, to) = ((from / step).floor() * step, (to / step).ceil() * step);
            if from == to {
                to = from + step;
            }
        } else if to - from < 0.2 {
            (from, to) = (from - 0.1, to + 0.1);
        }
        if scale == Scale::Percentile {
            from = from.max(0.0);
        }
        Some(Range { scale, from, to })
    }

    /// The share of the axis at which a value is.
    pub(crate) fn share(&self, value: f64) -> Option<f64> {
        let place = self.scale.place(value)?;
        Some((place - self.from) / (self.to - self.from))
    }

    /// Ticks: shares and labels.
    pub(crate) fn ticks(&self) -> Vec<(f64, String)> {
        let values: Vec<f64> = match self.scale {
            Scale::Linear => {
                let step = step(self.to - self.from);
                let first = (self.from / step).ceil() as i64;
                let last = ((self.to / step) * (1.0 + 1e-9)).floor() as i64;
                (first..=last).map(|n| n as f64 * step).collect()
            }
            Scale::Log => self.log_ticks(),
            Scale::Percentile => vec![0.0, 50.0, 90.0, 99.0, 99.9, 99.99],
        };
        let is_inside = |share: &f64| (-1e-6..=1.0 + 1e-6).contains(share);
        let tick = |value: f64| Some((self.share(value).filter(is_inside)?, label(value)));
        values.into_iter().filter_map(tick).collect()
    }

    fn log_ticks(&self) -> Vec<f64> {
        let decades = self.to - self.from;
        let of_decade: &[f64] = match decades {
            d if d > 4.0 => &[1.0],
            d if d > 1.5 => &[1.0, 3.0],
            d if d > 0.5 => &[1.0, 2.0, 5.0],
            _ => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
        };
        let range = self.from.floor() as i32..=self.to.ceil() as i32;
        range.flat_map(|d| of_decade.iter().map(move |n| n * 10_f64.powi(d))).collect()
    }
}

/// A step of 1, 2 or 5 of a power of ten, of which there are about five in a length.
fn step(length: f64) -> f64 {
    let rough = length / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = rough / power;
    let nice = [1.0, 2.0, 5.0, 10.0].into_iter().find(|nice| *nice >= factor - 1e-9);
    nice.unwrap_or(10.0) * power
}

/// A value for people.
pub(crate) fn label(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        return format!("{}M", short(value / 1e6));
    }
    if size >= 1e4 {
        return format!("{}k", short(value / 1e3));
    }
    short(value)
}

fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1_000.0 || size == 0.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        size if size >= 0.1 => 3,
        _ => 5,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, values: &[f64]) -> Vec<String> {
        let range = Range::covering(scale, values.iter().copied()).unwrap();
        range.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(Scale::Linear, &[3.0, 97.0]), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(Scale::Linear, &[1_000.0, 1_001.0]).len(), 6);
        assert_eq!(labels(Scale::Log, &[0.8, 120.0]), ["1", "3", "10", "30", "100"]);
        assert_eq!(labels(Scale::Percentile, &[1.0, 99.9]), ["50", "90", "99", "99.9"]);
        assert_eq!(labels(Scale::Linear, &[0.0, 20_000.0]).last().unwrap(), "20k");
    }

    #[test]
    fn values_have_their_places() {
        let linear = Range::covering(Scale::Linear, [0.0, 10.0].into_iter()).unwrap();
        assert_eq!(linear.share(5.0), Some(0.5));
        let log = Range::covering(Scale::Log, [1.0, 100.0].into_iter()).unwrap();
        assert_eq!((log.share(10.0), log.share(0.0)), (Some(0.5), None));
        let percentile = Range::covering(Scale::Percentile, [0.0, 99.0].into_iter()).unwrap();
        assert!((percentile.share(90.0).unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(Range::covering(Scale::Log, [0.0].into_iter()), None);
        assert_eq!(Range::covering(Scale::Linear, [f64::NAN].into_iter()), None);
        // Equal values have a range, too.
        let one = Range::covering(Scale::Linear, [0.0].into_iter()).unwrap();
        assert!(one.share(0.0).unwrap().is_finite());
    }
}
