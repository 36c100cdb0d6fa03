//! Metric values that each scrape reads from counters and states.
//!
//! - *In*: counters and states, from components that implement [`Observe`].
//! - *Out*: [`Sample`]s by the names of the metric catalog.
//! - *Never*: a name or a label that is not in the catalog: exporters reject it, and a test fails.

use crate::Tick;

/// A metric value that does not come from records.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Metric name, as in the catalog.
    pub name: &'static str,
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value, in the unit of the metric.
    pub value: f64,
}

/// A component with metrics.
pub trait Observe {
    /// Add the current values to `samples`.
    fn observe(&self, now: Tick, samples: &mut Samples);
}

/// Collects samples. Labels of enclosing scopes come first.
#[derive(Debug, Default)]
pub struct Samples {
    labels: Vec<(&'static str, String)>,
    all: Vec<Sample>,
}

impl Samples {
    /// Add a value.
    pub fn push(&mut self, name: &'static str, value: f64) {
        self.all.push(Sample { name, labels: self.labels.clone(), value });
    }

    /// Add a value with one more label.
    pub fn push_with(&mut self, name: &'static str, label: (&'static str, &str), value: f64) {
        self.with_labels(&[label], |samples| samples.push(name, value));
    }

    /// Add several counts.
    pub fn counts(&mut self, counts: &[(&'static str, u64)]) {
        counts.iter().for_each(|(name, value)| self.push(name, *value as f64));
    }

    /// Collect samples with additional labels.
    pub fn with_labels(
        &mut self,
        labels: &[(&'static str, &str)],
        collect: impl FnOnce(&mut Samples),
    ) {
        let before = self.labels.len();
        self.labels.extend(labels.iter().map(|(name, value)| (*name, (*value).to_owned())));
        collect(self);
        self.labels.truncate(before);
    }

    /// The collected samples.
    pub fn into_vec(self) -> Vec<Sample> {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_what_contains_it() {
        let mut samples = Samples::default();
        samples.push("a", 1.0);
        samples.with_labels(&[("pool", "p")], |samples| {
            samples.with_labels(&[("backend", "b")], |samples| samples.counts(&[("b", 2)]));
            samples.push_with("c", ("state", "up"), 1.0);
        });
        samples.push("d", 0.0);
        let labels: Vec<Vec<String>> = samples
            .into_vec()
            .iter()
            .map(|sample| {
                sample
                    .labels
                    .iter()
                    .map(|(name, value)| format!("{}:{name}={value}", sample.name))
                    .collect()
            })
            .collect();
        assert_eq!(
            labels,
            [
                vec![],
                vec!["b:pool=p".to_owned(), "b:backend=b".into()],
                vec!["c:pool=p".into(), "c:state=up".into()],
                vec![]
            ]
        );
    }
}
