//! Judges: remote servers, and models in this process.
//!
//! - *In*: the settings of a judge; then the texts of prompts and windows of answers.
//! - *Out*: a [`Filter`] for each, which makes the call and turns the response into a report.
//! - *Never*: a word of the judge in a name. Its words are looked up in a closed list, because
//!   names become labels.
//!
//! A question holds at most 64 texts and 256 KiB. When there is more, the last ones win, because
//! the newest words have not been judged yet; words of users, tools and assistants go before system
//! prompts, and those before tool definitions. Where findings are acted on, more than that fails
//! the judge: what it does not see may not pass unseen. Blank texts are left out, and where nothing
//! is left, no call is made. A response that cannot be parsed to its end is invalid as a whole:
//! half a verdict is no verdict.

mod newest;
mod offsets;
mod reading;
mod seat;
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
