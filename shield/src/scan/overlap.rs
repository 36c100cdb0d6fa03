//! Resolves overlapping findings.
//!
//! - *In*: findings in any order.
//! - *Out*: findings in the order of the text, without overlaps within a family: a key inside a URL
//!   stays.
//! - *Never*: a short finding with a low score inside a longer one with a high score.

use crate::finding::{Family, Finding};

/// Of overlapping findings, the longest stays; of equally long ones, the one with the higher score.
/// A much higher score outweighs a little more length.
pub(super) fn resolve(mut found: Vec<Finding>, out: &mut Vec<Finding>) {
    found.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then(a.span.start.cmp(&b.span.start)));
    let mut taken = std::collections::BTreeMap::<(Family, usize), Finding>::new();
    for finding in found {
        let key = |at| (finding.family, at);
        let left = taken.range(key(0)..key(finding.span.end)).next_back();
        if left.is_none_or(|(_, f)| f.span.end <= finding.span.start) {
            taken.insert(key(finding.span.start), finding);
        }
    }
    let from = out.len();
    out.extend(taken.into_values());
    if let Some(new) = out.get_mut(from..) {
        new.sort_by_key(|f| f.span.start);
    }
}

/// The score, plus a quarter of the binary logarithm of the length.
fn weight(finding: &Finding) -> f32 {
    finding.score + (finding.span.len() as f32).log2() / 4.0
}
