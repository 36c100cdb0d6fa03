//! A compiled model, and runs of it.
//!
//! - *In*: the bytes of an ONNX file; windows of tokens.
//! - *Out*: the logits of a window.
//! - *Never*: state that outlives a run: threads may share one model, each run has its own memory.
//!
//! The batch is always 1: windows of a text differ in length, and padding them to one batch
//! computes unused results. The length stays symbolic where tract can compile that, so that a short
//! text costs little. Where the graph fixes a length, or tract compiles it only for a fixed one,
//! windows are padded to that length and the mask hides the rest.

use crate::error::{InferenceError, LoadError};
use crate::fence::fenced;
use crate::file;
use crate::graph::{self, Role, Signature};
use crate::settings::Settings;
use crate::tokens::Window;
use std::path::Path;
use std::sync::Arc;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

pub(crate) struct Model {
    plan: Arc<TypedRunnableModel>,
    roles: Vec<Role>,
    /// Window length that the plan requires; `None` if it accepts any.
    length: Option<usize>,
    pad: i64,
}

impl Model {
    /// Reads, checks and compiles the model; `pad` is the id that windows are padded with.
    pub fn load(settings: &Settings, pad: i64) -> Result<Self, LoadError> {
        let path = settings.model.as_path();
        let proto = parse(path, settings.max_model_bytes)?;
        let Signature { roles, length: fixed, output } =
            graph::signature(&proto).map_err(|reason| unusable(path, reason))??;
        if let Some(fixed) = fixed
            && fixed < settings.max_tokens
        {
            let reason = format!(
                "{} is above the model's fixed input length of {fixed} tokens",
                settings.max_tokens
            );
            return Err(LoadError::Setting { name: "max_tokens", reason });
        }
        let compiled = |length| fenced(|| compile(&proto, &roles, &output, length));
        let (plan, length) = match (compiled(fixed), fixed) {
            (Ok(plan), length) => (plan, length),
            (Err(reason), Some(_)) => return Err(unusable(path, reason)),
            // The first error is reported: it names the cause. The second only shows that a fixed
            // length did not help.
            (Err(reason), None) => match compiled(Some(settings.max_tokens)) {
                Ok(plan) => (plan, Some(settings.max_tokens)),
                Err(_) => return Err(unusable(path, reason)),
            },
        };
        Ok(Self { plan, roles, length, pad })
    }

    /// The logits of one window.
    pub fn score_window(&self, window: &Window) -> Result<Vec<f32>, InferenceError> {
        fenced(|| self.logits(window)).map_err(|reason| InferenceError::Model { reason })
    }

    fn logits(&self, window: &Window) -> TractResult<Vec<f32>> {
        let outputs = self.plan.run(self.inputs(window)?)?;
        let logits = outputs.first().ok_or_else(|| TractError::msg("it returned no output"))?;
        let [1, _] = logits.shape() else {
            return Err(TractError::msg(format!(
                "its output has the shape {:?}, expected [1, labels]",
                logits.shape()
            )));
        };
        Ok(logits.to_plain_array_view::<f32>()?.iter().copied().collect())
    }

    fn inputs(&self, window: &Window) -> TractResult<TVec<TValue>> {
        let length = self.length.unwrap_or(window.ids.len());
        let filled = |role: &Role| {
            let (mut row, beyond) = match role {
                Role::Ids => (window.ids.clone(), self.pad),
                Role::Mask => (vec![1; window.ids.len()], 0),
                Role::Types => (window.types.clone(), 0),
            };
            row.resize(length, beyond);
            Tensor::from_shape(&[1, length], &row).map(IntoTValue::into_tvalue)
        };
        self.roles.iter().map(filled).collect()
    }
}

fn parse(path: &Path, max_bytes: u64) -> Result<ModelProto, LoadError> {
    let bytes = file::read(path, max_bytes)?;
    fenced(|| onnx().proto_model_for_read(&mut bytes.as_slice()))
        .map_err(|reason| unusable(path, reason))
}

/// Translates and optimises the graph for windows of `length`, or of any length.
fn compile(
    proto: &ModelProto,
    roles: &[Role],
    output: &str,
    length: Option<usize>,
) -> TractResult<Arc<TypedRunnableModel>> {
    // Ignores the shape annotations of the file: they use its own symbols for batch and length.
    let framework = onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
    let mut model = framework.model_for_proto_model(proto)?;
    let length =
        length.map_or_else(|| model.symbols.sym("window").to_dim(), |length| length.to_dim());
    for index in 0..roles.len() {
        model.set_input_fact(
            index,
            InferenceFact::dt_shape(i64::datum_type(), tvec![1.to_dim(), length.clone()]),
        )?;
    }
    let outlet = model
        .find_outlet_label(output)
        .ok_or_else(|| TractError::msg(format!("no node produces {output:?}")))?;
    model.select_output_outlets(&[outlet])?;
    model.into_optimized()?.into_runnable()
}

fn unusable(path: &Path, reason: String) -> LoadError {
    LoadError::Model { path: path.to_owned(), reason }
}
