//! One block of a transformer, node by node as exporters write it.
//!
//! - *In*: how many positions it knows.
//! - *Out*: a model whose first token attends to the text: it judges by the mean of the words.
//! - *Never*: a fixed length; shapes are computed from the input in the graph, which is where
//!   compilers stumble.

use crate::graph::{Attribute, FLOAT, Graph};
use crate::tiny;

pub fn model(positions: i64) -> Vec<u8> {
    let mut graph = Graph::default();
    tiny::inputs(&mut graph, &tiny::ANY, true);
    tiny::embed(&mut graph, true);
    shapes(&mut graph);
    add_positions(&mut graph, positions);
    attend(&mut graph);
    normalise(&mut graph);
    graph.node("Gather", &["normal", "scalar_0"], "first", &[Attribute::Int("axis", 1)]);
    tiny::linear(&mut graph, "first", &[4.0, 0.0, 0.0, 40.0]);
    graph.file()
}

/// Batch and length out of the input, and the shapes made of them.
fn shapes(graph: &mut Graph) {
    graph.ints("scalar_0", &[], &[0]).ints("scalar_1", &[], &[1]);
    graph.ints("list_0", &[1], &[0]).ints("list_1", &[1], &[1]).ints("list_2", &[1], &[2]).ints(
        "list_1_2",
        &[2],
        &[1, 2],
    );
    graph.node("Shape", &["input_ids"], "shape", &[]);
    graph.node("Gather", &["shape", "scalar_0"], "batch", &[]);
    graph.node("Gather", &["shape", "scalar_1"], "length", &[]);
    graph.node("Unsqueeze", &["batch", "list_0"], "batch_list", &[]);
    graph.node("Unsqueeze", &["length", "list_0"], "length_list", &[]);
    graph.node(
        "Concat",
        &["batch_list", "length_list", "list_2", "list_1"],
        "by_head",
        &[Attribute::Int("axis", 0)],
    );
    graph.node(
        "Concat",
        &["batch_list", "length_list", "list_2"],
        "by_token",
        &[Attribute::Int("axis", 0)],
    );
}

/// Position embeddings (all zero), sliced to the length; a longer window than positions cannot be
/// added.
fn add_positions(graph: &mut Graph, positions: i64) {
    graph.ints("position_ids", &[1, positions], &(0..positions).collect::<Vec<_>>());
    graph.floats("position_table", &[positions, 2], &vec![0.0; 2 * positions as usize]);
    graph.node("Slice", &["position_ids", "list_0", "length_list", "list_1"], "used_ids", &[]);
    graph.node("Gather", &["position_table", "used_ids"], "used_positions", &[]);
    graph.node("Add", &["words", "used_positions"], "placed", &[]);
}

/// Two heads of one dimension each; query, key and value are the words themselves.
fn attend(graph: &mut Graph) {
    graph.node("Reshape", &["placed", "by_head"], "split", &[]);
    graph.node("Transpose", &["split"], "query", &[Attribute::Ints("perm", &[0, 2, 1, 3])]);
    graph.node("Transpose", &["split"], "key", &[Attribute::Ints("perm", &[0, 2, 3, 1])]);
    graph.node("MatMul", &["query", "key"], "affinity", &[]);
    graph.floats("one", &[], &[1.0]).floats("far_below", &[], &[-10000.0]);
    graph.node("Cast", &["attention_mask"], "mask", &[Attribute::Int("to", FLOAT)]);
    graph.node("Unsqueeze", &["mask", "list_1_2"], "wide_mask", &[]);
    graph.node("Sub", &["one", "wide_mask"], "hidden", &[]);
    graph.node("Mul", &["hidden", "far_below"], "penalty", &[]);
    graph.node("Add", &["affinity", "penalty"], "open_affinity", &[]);
    graph.node("Softmax", &["open_affinity"], "attention", &[Attribute::Int("axis", -1)]);
    graph.node("MatMul", &["attention", "query"], "seen", &[]);
    graph.node("Transpose", &["seen"], "seen_by_token", &[Attribute::Ints("perm", &[0, 2, 1, 3])]);
    graph.node("Reshape", &["seen_by_token", "by_token"], "merged", &[]);
    graph.node("Add", &["merged", "placed"], "residual", &[]);
}

/// Layer normalisation in single steps.
fn normalise(graph: &mut Graph) {
    let mean = || [Attribute::Ints("axes", &[-1]), Attribute::Int("keepdims", 1)];
    graph.floats("square", &[], &[2.0]).floats("epsilon", &[], &[1e-5]);
    graph.node("ReduceMean", &["residual"], "centre", &mean());
    graph.node("Sub", &["residual", "centre"], "centred", &[]);
    graph.node("Pow", &["centred", "square"], "squared", &[]);
    graph.node("ReduceMean", &["squared"], "variance", &mean());
    graph.node("Add", &["variance", "epsilon"], "safe_variance", &[]);
    graph.node("Sqrt", &["safe_variance"], "deviation", &[]);
    graph.node("Div", &["centred", "deviation"], "normal", &[]);
}
