//! Service level objectives, for goodput.

use std::time::Duration;

/// Percentile of objectives that name none.
const PERCENT: f64 = 95.0;

/// Objectives. Each has a percentile: a request meets them by its own times; a rate meets them if
/// so many percent of its requests do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    /// Maximum time to first token.
    pub ttft: Option<Duration>,
    /// Maximum time per output token.
    pub tpot: Option<Duration>,
    /// Maximum time of a whole request.
    pub total: Option<Duration>,
    /// The percentiles of the three.
    pub percents: [f64; 3],
}

impl Default for Slo {
    fn default() -> Self {
        Slo { ttft: None, tpot: None, total: None, percents: [PERCENT; 3] }
    }
}

impl Slo {
    /// Each objective alone, with its percentile.
    pub fn single(&self) -> Vec<(Slo, f64)> {
        let none = Slo::default();
        let all = [
            (Slo { ttft: self.ttft, ..none }, self.percents[0]),
            (Slo { tpot: self.tpot, ..none }, self.percents[1]),
            (Slo { total: self.total, ..none }, self.percents[2]),
        ];
        all.into_iter().filter(|(slo, _)| *slo != none).collect()
    }
}

impl std::str::FromStr for Slo {
    type Err = String;

    /// `ttft=500ms,tpot=50ms,total=10s`; each is optional. `ttft.p99=500ms` names a percentile.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut slo = Slo::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| {
                format!("{part:?} is not an objective; write for example ttft=500ms,tpot=50ms")
            })?;
            let (name, percent) = match name.trim().split_once(".p") {
                Some((name, percent)) => (name, Some(percent_of(percent)?)),
                None => (name.trim(), None),
            };
            let value = lens::duration::parse(value).map_err(|bad| bad.to_string())?;
            let (at, bound) = match name {
                "ttft" => (0, &mut slo.ttft),
                "tpot" => (1, &mut slo.tpot),
                "total" => (2, &mut slo.total),
                other => {
                    return Err(format!("{other:?} is not an objective; known: ttft, tpot, total"));
                }
            };
            *bound = Some(value);
            slo.percents[at] = percent.unwrap_or(PERCENT);
        }
        Ok(slo)
    }
}

fn percent_of(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (1.0..100.0).contains(percent));
    percent.ok_or_else(|| format!("p{text} is not a percentile from p1 to p99.99"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read() {
        let slo: Slo = "ttft=500ms, tpot=50ms".parse().unwrap();
        assert_eq!(
            (slo.ttft, slo.tpot, slo.total),
            (Some(Duration::from_millis(500)), Some(Duration::from_millis(50)), None)
        );
        let slo: Slo = "ttft.p99=500ms,total=9s".parse().unwrap();
        let percents: Vec<f64> = slo.single().into_iter().map(|(_, percent)| percent).collect();
        assert_eq!(percents, [99.0, 95.0]);
        for bad in ["", "ttft", "ttft=5", "x=5ms", "ttft.p0=5ms", "ttft.p100=5ms", "ttft.x=5ms"] {
            assert!(bad.parse::<Slo>().is_err(), "{bad}");
        }
    }
}
