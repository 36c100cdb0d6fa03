//! The classifier: tokenizer, model and labels as one.
//!
//! - *In*: [`Settings`], then texts.
//! - *Out*: scores by label, in the order of the settings.
//! - *Never*: a threshold, a decision; a text kept or logged.
//!
//! Loading ends with two trial runs, on the shortest and the longest possible window. They take as
//! long as two scores and detect at startup what would otherwise fail under traffic: a wrong number
//! of labels, fewer positions than `max_tokens`.

use crate::error::{InferenceError, LoadError};
use crate::model::Model;
use crate::scores;
use crate::settings::{Activation, Settings};
use crate::tokens::Cutter;
use std::fmt;

/// A local text classifier. Threads may share it; each call runs on its caller's thread.
pub struct Classifier {
    cutter: Cutter,
    model: Model,
    labels: Vec<String>,
    activation: Activation,
    max_text_bytes: usize,
}

/// Scores of a text, and how much of it was read for them.
#[derive(Clone, Debug, PartialEq)]
pub struct TextScores {
    /// From 0 to 1 by label, in the order of the settings: the highest of any window.
    pub scores: Vec<f32>,
    /// Windows that were read, at least 1.
    pub windows: usize,
    /// Windows in the middle of the text that were skipped because of `max_windows`. If above 0,
    /// low scores do not cover the whole text.
    pub skipped_windows: usize,
}

impl Classifier {
    /// Loads tokenizer and model, and makes the trial runs.
    ///
    /// # Errors
    /// A setting out of range; a file that is missing, too large or invalid; a model with
    /// unexpected inputs, output or number of labels.
    pub fn load(settings: &Settings) -> Result<Self, LoadError> {
        settings.check()?;
        let cutter = Cutter::load(settings)?;
        let model = Model::load(settings, cutter.pad())?;
        for window in cutter.trial_windows() {
            let logits = model.score_window(&window).map_err(|error| LoadError::Model {
                path: settings.model.clone(),
                reason: format!(
                    "a trial with {} tokens (max_tokens is {}) failed: {error}",
                    window.ids.len(),
                    settings.max_tokens
                ),
            })?;
            if logits.len() != settings.labels.len() {
                return Err(LoadError::Labels {
                    model: logits.len(),
                    settings: settings.labels.len(),
                });
            }
        }
        Ok(Self {
            cutter,
            model,
            labels: settings.labels.clone(),
            activation: settings.activation,
            max_text_bytes: settings.max_text_bytes,
        })
    }

    /// The labels, in the order of the scores.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Scores from 0 to 1 by label. They cover only the windows that were read;
    /// [`Classifier::read`] reports how many were skipped.
    ///
    /// # Errors
    /// As [`Classifier::read`].
    pub fn score(&self, text: &str) -> Result<Vec<f32>, InferenceError> {
        Ok(self.read(text)?.scores)
    }

    /// Scores, with the number of windows that were read and skipped. A long text is cut into
    /// overlapping windows and the maximum score of each label is returned, so with several windows
    /// the scores of a softmax may sum to more than 1.
    ///
    /// # Errors
    /// A text larger than allowed or without any token; a tokenizer or a model that fails on it.
    pub fn read(&self, text: &str) -> Result<TextScores, InferenceError> {
        if text.len() > self.max_text_bytes {
            return Err(InferenceError::TextTooLarge {
                bytes: text.len(),
                max_bytes: self.max_text_bytes,
            });
        }
        let cut = self.cutter.cut(text)?;
        let mut highest = vec![0.0; self.labels.len()];
        for window in &cut.windows {
            let logits = self.model.score_window(window)?;
            let scores = scores::activate(self.activation, &logits)
                .map_err(|index| self.not_finite(index))?;
            scores::raise(&mut highest, &scores);
        }
        Ok(TextScores {
            scores: highest,
            windows: cut.windows.len(),
            skipped_windows: cut.skipped_windows,
        })
    }

    fn not_finite(&self, index: usize) -> InferenceError {
        InferenceError::NotFinite { label: self.labels.get(index).cloned().unwrap_or_default() }
    }
}

impl fmt::Debug for Classifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Classifier")
            .field("labels", &self.labels)
            .field("activation", &self.activation)
            .finish_non_exhaustive()
    }
}
