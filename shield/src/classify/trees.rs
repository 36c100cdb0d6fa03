//! The second stage: a sum of small decision trees over a few dozen readable numbers.
//!
//! - *In*: the sums of the linear stage, counts of the parts that words play, facts.
//! - *Out*: one score, 0 at the prior.
//! - *Never*: more than [`DEPTH`] questions a tree.

/// Questions from the root to a leaf.
pub(crate) const DEPTH: usize = 3;
/// Inner nodes of one tree.
pub(crate) const NODES: usize = (1 << DEPTH) - 1;
/// Leaves of one tree.
pub(crate) const LEAVES: usize = 1 << DEPTH;

/// One complete tree.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tree {
    /// Which number a node asks for, and the value above which it goes right.
    pub(crate) nodes: [(u8, f32); NODES],
    /// What the leaves add.
    pub(crate) leaves: [f32; LEAVES],
}

impl Tree {
    /// What this tree adds for the numbers `z`.
    pub(crate) fn value(&self, z: &[f32]) -> f32 {
        let mut node = 0;
        for _ in 0..DEPTH {
            let (which, at) = self.nodes.get(node).copied().unwrap_or_default();
            let right = z.get(which as usize).copied().unwrap_or(0.0) > at;
            node = node * 2 + 1 + usize::from(right);
        }
        self.leaves.get(node - NODES).copied().unwrap_or(0.0)
    }
}
