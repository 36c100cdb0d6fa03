//! Checks that a graph is a text classifier.
//!
//! - *In*: a parsed ONNX model.
//! - *Out*: its [`Signature`]: the input tensors that it requires, in its order, and the name of
//!   the output with the logits.
//! - *Never*: a check of the other nodes; tract decides whether they can run.
//!
//! The check runs before tract translates the graph, because its errors are readable and those of
//! tract are chains of failed unifications.

use crate::error::LoadError;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dimension;
use tract_onnx::pb::type_proto::{self, Value as Type};
use tract_onnx::pb::{GraphProto, ModelProto, ValueInfoProto};

/// The content of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `input_ids`: the tokens.
    Ids,
    /// `attention_mask`: 1 for a token, 0 for padding.
    Mask,
    /// `token_type_ids`: which of two texts a token belongs to; optional.
    Types,
}

impl Role {
    const ALL: [Self; 3] = [Self::Ids, Self::Mask, Self::Types];

    fn name(self) -> &'static str {
        match self {
            Self::Ids => "input_ids",
            Self::Mask => "attention_mask",
            Self::Types => "token_type_ids",
        }
    }
}

/// Inputs and output of a graph.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// In the graph's order.
    pub roles: Vec<Role>,
    /// Window length, if the graph fixes it; `None` if it is symbolic.
    pub length: Option<usize>,
    /// The name of the output that holds the logits.
    pub output: String,
}

/// Reads the signature. The outer error concerns the file as a whole, the inner one an input or
/// output.
pub(crate) fn signature(model: &ModelProto) -> Result<Result<Signature, LoadError>, String> {
    let graph = model.graph.as_ref().ok_or("it has no graph")?;
    if graph
        .initializer
        .iter()
        .any(|tensor| tensor.data_location == Some(DataLocation::External as i32))
    {
        return Err("its weights are in another file; export it with them inside".to_owned());
    }
    Ok(inputs(graph)
        .and_then(|(roles, length)| Ok(Signature { roles, length, output: output(graph)? })))
}

fn inputs(graph: &GraphProto) -> Result<(Vec<Role>, Option<usize>), LoadError> {
    let mut roles = Vec::new();
    let mut fixed = None;
    // Older exporters list the weights among the inputs.
    let weight =
        |input: &&ValueInfoProto| graph.initializer.iter().any(|tensor| tensor.name == input.name);
    for input in graph.input.iter().filter(|input| !weight(input)) {
        let wrong = |reason: String| LoadError::Input { name: input.name.clone(), reason };
        let known = Role::ALL.into_iter().find(|role| role.name() == input.name);
        let role = known.ok_or_else(|| {
            wrong(
                "is not supported; supported: input_ids, attention_mask, token_type_ids".to_owned(),
            )
        })?;
        if roles.contains(&role) {
            return Err(wrong("occurs twice".to_owned()));
        }
        let length = window_length(input).map_err(wrong)?;
        if length.is_some() && fixed.is_some() && length != fixed {
            return Err(wrong("has a different fixed length than the other inputs".to_owned()));
        }
        fixed = fixed.or(length);
        roles.push(role);
    }
    for needed in [Role::Ids, Role::Mask] {
        if !roles.contains(&needed) {
            return Err(LoadError::Input {
                name: needed.name().to_owned(),
                reason: "is missing from the model".to_owned(),
            });
        }
    }
    Ok((roles, fixed))
}

/// Checks that an input is int64 of shape `[batch, sequence]` with a batch of 1 or symbolic;
/// returns the sequence length if it is fixed.
fn window_length(input: &ValueInfoProto) -> Result<Option<usize>, String> {
    let tensor = tensor(input).ok_or("is not a tensor")?;
    if tensor.elem_type != DataType::Int64 as i32 {
        return Err(format!("is {}, expected int64", type_name(tensor.elem_type)));
    }
    let Some(shape) = &tensor.shape else { return Ok(None) };
    let [batch, sequence] = shape.dim.as_slice() else {
        return Err(format!("has {} dimensions, expected [batch, sequence]", shape.dim.len()));
    };
    if let Some(Dimension::DimValue(batch)) = batch.value
        && batch > 1
    {
        return Err(format!("requires a batch of {batch}, expected 1"));
    }
    match sequence.value {
        Some(Dimension::DimValue(length)) if length > 0 => Ok(usize::try_from(length).ok()),
        _ => Ok(None),
    }
}

/// The only output, or the one that is called `logits`.
fn output(graph: &GraphProto) -> Result<String, LoadError> {
    let wrong = |reason: String| Err(LoadError::Output { reason });
    let found = match graph.output.as_slice() {
        [only] => Some(only),
        several => several.iter().find(|output| output.name == "logits"),
    };
    let Some(found) = found else {
        return wrong(format!("{} outputs, none of them named \"logits\"", graph.output.len()));
    };
    if !graph.node.iter().any(|node| node.output.contains(&found.name)) {
        return wrong(format!("no node produces {:?}", found.name));
    }
    match tensor(found).map(|tensor| tensor.elem_type) {
        // Some exporters omit the type; the trial run at load detects a wrong one.
        None => Ok(found.name.clone()),
        Some(kind) if kind == DataType::Float as i32 => Ok(found.name.clone()),
        Some(kind) => wrong(format!("{:?} is {}, expected float32", found.name, type_name(kind))),
    }
}

fn tensor(value: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    let Type::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    Some(tensor)
}

fn type_name(code: i32) -> String {
    DataType::try_from(code)
        .map_or_else(|_| format!("type {code}"), |kind| format!("{kind:?}").to_lowercase())
}
