//! The second stage: gradient boosting of small trees on the logistic loss.
//!
//! - *In*: rows of numbers with label and weight.
//! - *Out*: trees.
//! - *Never*: chance; ties go to the lower number.

use super::solver::Chance;
use crate::classify::trees::{DEPTH, LEAVES, NODES, Tree};

/// Values of one number are told apart in so many steps.
const BINS: usize = 32;

/// How to boost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) trees: usize,
    pub(super) rate: f32,
    /// Ridge on the leaves.
    pub(super) ridge: f32,
    /// Per cent of the numbers that one tree may ask for.
    pub(super) share: usize,
    /// Least weight of a leaf.
    pub(super) least: f32,
}

/// The trees for rows `z` with labels and weights.
pub(super) fn boost(z: &[Vec<f32>], labels: &[bool], weights: &[f32], settings: &Settings) -> Vec<Tree> {
    let width = z.first().map_or(0, Vec::len);
    let edges: Vec<Vec<f32>> = (0..width).map(|j| edges(z, j)).collect();
    let binned: Vec<Vec<u8>> =
        z.iter().map(|row| row.iter().zip(&edges).map(|(v, e)| e.partition_point(|x| x < v) as u8).collect()).collect();
    let mut scores = vec![0f32; z.len()];
    let mut trees = Vec::with_capacity(settings.trees);
    let mut chance = Chance::new(0xb005);
    for _ in 0..settings.trees {
        let asked: Vec<bool> = (0..width).map(|_| chance.below(100) < settings.share).collect();
        let slopes: Vec<(f32, f32)> = scores
            .iter()
            .zip(labels)
            .zip(weights)
            .map(|((s, y), w)| {
                let p = 1.0 / (1.0 + (-s).exp());
                (w * (f32::from(u8::from(*y)) - p), w * p * (1.0 - p))
            })
            .collect();
        let tree = grow(&binned, &edges, &asked, &slopes, settings);
        for (s, row) in scores.iter_mut().zip(z) {
            *s += tree.value(row);
        }
        trees.push(tree);
    }
    trees
}

/// Values that cut a number into even shares.
fn edges(z: &[Vec<f32>], j: usize) -> Vec<f32> {
    let mut values: Vec<f32> = z.iter().filter_map(|row| row.get(j).copied()).collect();
    values.sort_by(f32::total_cmp);
    let mut edges: Vec<f32> = (1..BINS).filter_map(|b| values.get(values.len() * b / BINS).copied()).collect();
    // Rare counts lie above the last even share.
    edges.extend(values.last().map(|last| last - 0.5).filter(|v| *v > 0.0));
    edges.sort_by(f32::total_cmp);
    edges.dedup();
    edges
}

fn grow(binned: &[Vec<u8>], edges: &[Vec<f32>], asked: &[bool], slopes: &[(f32, f32)], settings: &Settings) -> Tree {
    let mut tree = Tree { nodes: [(0, f32::MAX); NODES], leaves: [0.0; LEAVES] };
    let mut place = vec![0usize; binned.len()];
    for level in 0..DEPTH {
        for node in (1 << level) - 1..(1 << (level + 1)) - 1 {
            let members: Vec<usize> = place.iter().enumerate().filter(|(_, p)| **p == node).map(|(i, _)| i).collect();
            let cut = best(binned, edges, asked, slopes, &members, settings);
            if let (Some((which, bin)), Some(slot)) = (cut, tree.nodes.get_mut(node)) {
                *slot = (which as u8, edges.get(which).and_then(|e| e.get(bin)).copied().unwrap_or(f32::MAX));
            }
            for i in members {
                let right = cut.is_some_and(|(which, bin)| binned.get(i).and_then(|r| r.get(which)).is_some_and(|b| *b as usize > bin));
                if let Some(p) = place.get_mut(i) {
                    *p = node * 2 + 1 + usize::from(right);
                }
            }
        }
    }
    let mut sums = [(0f32, 0f32); LEAVES];
    for (p, (g, h)) in place.iter().zip(slopes) {
        if let Some(sum) = sums.get_mut(p - NODES) {
            *sum = (sum.0 + g, sum.1 + h);
        }
    }
    tree.leaves = sums.map(|(g, h)| settings.rate * g / (h + settings.ridge));
    tree
}

/// The number and step that part the members best.
fn best(
    binned: &[Vec<u8>],
    edges: &[Vec<f32>],
    asked: &[bool],
    slopes: &[(f32, f32)],
    members: &[usize],
    settings: &Settings,
) -> Option<(usize, usize)> {
    let mut found = None;
    let mut most = 1e-3;
    for (which, (steps, asked)) in edges.iter().zip(asked).enumerate() {
        if !asked {
            continue;
        }
        let mut sums = [(0f32, 0f32); BINS + 2];
        let (mut g, mut h) = (0f32, 0f32);
        for &i in members {
            let (Some(bin), Some((a, b))) = (binned.get(i).and_then(|r| r.get(which)), slopes.get(i)) else { continue };
            if let Some(sum) = sums.get_mut(*bin as usize) {
                *sum = (sum.0 + a, sum.1 + b);
            }
            (g, h) = (g + a, h + b);
        }
        let (mut left, mut weight) = (0f32, 0f32);
        for (bin, (a, b)) in sums.iter().take(steps.len()).enumerate() {
            (left, weight) = (left + a, weight + b);
            if weight < settings.least || h - weight < settings.least {
                continue;
            }
            let gain = left * left / (weight + settings.ridge) + (g - left) * (g - left) / (h - weight + settings.ridge)
                - g * g / (h + settings.ridge);
            if gain > most {
                (most, found) = (gain, Some((which, bin)));
            }
        }
    }
    found
}
