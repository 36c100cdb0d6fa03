//! What a gate checks: relative thresholds, and absolute bounds.

use crate::metric::Metric;

/// Maximum of a threshold, in percent.
const MAX_PERCENT: f64 = 1_000.0;
/// Maximum checks of a gate.
const MAX_CHECKS: usize = 32;

/// A change that is a regression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// The metric.
    pub metric: Metric,
    /// The change for the worse that is tolerated, as a share of the baseline: 0.05 is 5 %. Points
    /// of a share for failures.
    pub tolerated: f64,
}

/// An absolute value that the candidate may not exceed, whatever the baseline is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The metric.
    pub metric: Metric,
    /// In microseconds, requests per second, or as a share.
    pub value: f64,
}

/// Parses `ttft.p95=+5%,goodput=-2%`.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_thresholds(text: &str) -> Result<Vec<Threshold>, String> {
    let thresholds = list(text, |metric, value| {
        let sign = if metric.larger_is_worse() { '+' } else { '-' };
        let bad = || {
            format!(
                "{value:?} is not a threshold of {metric}; write for example {metric}={sign}5%, from \
                 0.01 to {MAX_PERCENT} percent"
            )
        };
        let number = value.strip_prefix(sign).and_then(|rest| rest.strip_suffix('%'));
        let percent = number.and_then(|number| number.trim().parse::<f64>().ok());
        let percent = percent.filter(|percent| (0.01..=MAX_PERCENT).contains(percent));
        Ok(Threshold { metric, tolerated: percent.ok_or_else(bad)? / 100.0 })
    })?;
    once_each(thresholds.iter().map(|threshold| threshold.metric))?;
    Ok(thresholds)
}

/// Parses `ttft.p95=800ms,goodput=12,failures=1%`.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_bounds(text: &str) -> Result<Vec<Bound>, String> {
    let bounds = list(text, |metric, value| {
        let number = |text: &str| {
            text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)
        };
        let value = match metric {
            Metric::Time(..) => {
                let time = lens::duration::parse(value).map_err(|bad| bad.to_string())?;
                Some(time.as_secs_f64() * 1e6)
            }
            Metric::Goodput => number(value),
            Metric::Failures => value.strip_suffix('%').and_then(number).map(|n| n / 100.0),
        }
        .ok_or_else(|| {
            format!(
                "{value:?} is not a bound of {metric}; write for example goodput=12 or failures=1%"
            )
        })?;
        Ok(Bound { metric, value })
    })?;
    once_each(bounds.iter().map(|bound| bound.metric))?;
    Ok(bounds)
}

/// Parses `METRIC=VALUE,METRIC=VALUE`.
fn list<T>(text: &str, item: impl Fn(Metric, &str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let items: Vec<T> = text
        .split(',')
        .map(|part| {
            let (name, value) = part.split_once('=').ok_or_else(|| {
                format!("{part:?} is not METRIC=VALUE; write for example ttft.p95=+5%,goodput=-2%")
            })?;
            item(name.parse()?, value.trim())
        })
        .collect::<Result<_, _>>()?;
    if items.len() > MAX_CHECKS {
        return Err(format!("{} checks, but at most {MAX_CHECKS} are supported", items.len()));
    }
    Ok(items)
}

fn once_each(metrics: impl Iterator<Item = Metric>) -> Result<(), String> {
    let mut seen: Vec<Metric> = Vec::new();
    for metric in metrics {
        if seen.contains(&metric) {
            return Err(format!("{metric} is given twice"));
        }
        seen.push(metric);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_and_bounds_are_read() {
        let thresholds = parse_thresholds("ttft.p95=+5%, goodput=-2%,failures=+0.5%").unwrap();
        let tolerated: Vec<f64> = thresholds.iter().map(|t| t.tolerated).collect();
        assert_eq!(tolerated, [0.05, 0.02, 0.005]);
        let bounds = parse_bounds("ttft.p95=800ms,goodput=12,failures=1%").unwrap();
        let values: Vec<f64> = bounds.iter().map(|bound| bound.value).collect();
        assert_eq!(values, [800_000.0, 12.0, 0.01]);
    }

    /// A check that is misspelled must not be a check that always passes.
    #[test]
    fn trap_unknown_or_malformed_checks_are_errors() {
        for bad in [
            "",
            "ttft.p95",
            "ttft.p95=",
            "ttft.p95=5%",
            "ttft.p95=-5%",
            "goodput=+2%",
            "ttft.p95=+5",
            "ttft.p95=+0%",
            "ttft.p95=+nan%",
            "ttft.p95=+5%,",
            "ttft.p95=+5%,ttft.p95=+9%",
            "latency=+5%",
        ] {
            assert!(parse_thresholds(bad).is_err(), "{bad}");
        }
        for bad in ["", "ttft.p95=800", "goodput=x", "goodput=-1", "failures=1", "ttft=1s"] {
            assert!(parse_bounds(bad).is_err(), "{bad}");
        }
        let many = vec!["ttft.p95=1s"; MAX_CHECKS + 1].join(",");
        assert!(parse_bounds(&many).unwrap_err().contains("33 checks"));
    }
}
