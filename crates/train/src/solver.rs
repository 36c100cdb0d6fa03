//! The linear part: a support vector machine with squared hinge loss, solved in the dual.
//!
//! - *In*: sparse examples with a label and a cost each.
//! - *Out*: one weight per bucket.
//! - *Never*: nondeterminism; the order is shuffled with a fixed seed.

use classifier::hash::BUCKETS;

/// One example: features, label and cost.
pub(crate) struct Example {
    /// Buckets with their values.
    pub(crate) x: Vec<(u32, f32)>,
    /// Label: 1 or -1.
    pub(crate) y: f32,
    /// Misclassification cost.
    pub(crate) cost: f32,
}

/// A pseudo-random generator (xorshift) with a fixed seed.
pub(crate) struct XorShift(u64);

impl XorShift {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// The weights after `passes` over all examples.
pub(crate) fn solve(examples: &[Example], passes: usize) -> Vec<f32> {
    let mut weights = vec![0f32; BUCKETS];
    let mut alpha = vec![0f32; examples.len()];
    let norms: Vec<f32> =
        examples.iter().map(|e| e.x.iter().map(|(_, v)| v * v).sum::<f32>()).collect();
    let mut order: Vec<usize> = (0..examples.len()).collect();
    let mut chance = XorShift::new(0x5eed);
    for _ in 0..passes {
        for i in (1..order.len()).rev() {
            order.swap(i, chance.below(i + 1));
        }
        for &i in &order {
            let (Some(e), Some(a), Some(norm)) = (examples.get(i), alpha.get_mut(i), norms.get(i))
            else {
                continue;
            };
            let ridge = 0.5 / e.cost;
            let gradient = e.y * dot(&e.x, &weights) - 1.0 + ridge * *a;
            let next = (*a - gradient / (norm + ridge)).max(0.0);
            let step = (next - *a) * e.y;
            *a = next;
            if step != 0.0 {
                for (b, v) in &e.x {
                    if let Some(w) = weights.get_mut(*b as usize) {
                        *w += step * v;
                    }
                }
            }
        }
    }
    weights
}

/// Dot product of the features and their weights.
fn dot(x: &[(u32, f32)], weights: &[f32]) -> f32 {
    x.iter().map(|(b, v)| weights.get(*b as usize).map_or(0.0, |w| w * v)).sum()
}
