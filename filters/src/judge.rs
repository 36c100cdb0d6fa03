//! Judges: remote servers, and models in this process.
//!
//! - *In*: the settings of a judge; then the texts of prompts and windows of answers.
//! - *Out*: a [`Filter`] for each, which makes the call and turns the response into a report.
//! - *Never*: a name that comes from a response. Labels of judges are looked up in a closed list,
//!   because names become metric labels.
//!
//! A call has at most 64 texts and 256 KiB. Beyond that, the newest texts are kept, because older
//! ones have been judged before: texts of users, tools and assistants before system prompts, and
//! those before tool definitions. If findings mask or block, a larger prompt fails the judge
//! instead, because text that the judge does not see must not pass. Blank texts are left out; if no
//! text remains, no call is made. A response is valid only if all of it can be parsed.

mod common;
mod newest;
mod offsets;
mod reading;
mod words;

mod analyzer;
mod classify;
mod embeddings;
mod guard_model;
mod local;
mod moderation;
mod verdict;
mod webhook;

pub use local::{Local, LocalModel};

use std::sync::Arc;

use crate::filter::Filter;
use crate::settings::{Judge, JudgeKind};

/// The filter that calls this judge; `None` for a model in this process.
pub fn build(settings: &Judge) -> Option<Arc<dyn Filter>> {
    Some(match settings.kind {
        JudgeKind::Moderation => Arc::new(moderation::Moderation::new(settings)),
        JudgeKind::GuardModel => Arc::new(guard_model::GuardModel::new(settings)),
        JudgeKind::Classify => Arc::new(classify::Classify::new(settings)),
        JudgeKind::Analyzer => Arc::new(analyzer::Analyzer::new(settings)),
        JudgeKind::Webhook => Arc::new(webhook::Webhook::new(settings)),
        JudgeKind::Embeddings => Arc::new(embeddings::Embeddings::new(settings)),
        JudgeKind::Onnx => return None,
    })
}
