//! Calls a model in this process.
//!
//! - *In*: the words of users, tools and answers.
//! - *Out*: a finding for each listed label whose score reaches the threshold, as in
//!   [`classify`](super::classify).
//! - *Never*: work on the relay's thread. A model takes at least milliseconds; the texts of a call
//!   are one job of the pool.

use std::sync::Arc;

use super::common::JudgeCommon;
use super::newest::MAX_TEXTS;
use super::words::{ATTACKS, Words};
use crate::BoxFuture;
use crate::filter::{Filter, Hooks};
use crate::host::Call;
use crate::report::{Category, Failure, Report};
use crate::settings::{Action, Judge};
use crate::subject::{Subject, TextSource};

/// A model that scores texts by label.
pub trait LocalModel: Send + Sync + std::fmt::Debug {
    /// The labels, in the order of the scores.
    fn labels(&self) -> &[String];

    /// Scores from 0 to 1 by label, and whether all of the text was read.
    ///
    /// # Errors
    /// [`Failure::TooLong`] or [`Failure::Panicked`], when there is no score.
    fn read(&self, text: &str) -> Result<(Vec<f32>, bool), Failure>;
}

/// The filter that runs a local model.
#[derive(Debug)]
pub struct Local {
    common: JudgeCommon,
    model: Arc<dyn LocalModel>,
}

impl Local {
    /// A filter with these settings.
    ///
    /// # Errors
    /// No label of the model counts, so the filter would never find anything.
    pub fn new(settings: &Judge, model: Arc<dyn LocalModel>) -> Result<Self, String> {
        let words = Words::new(ATTACKS, &settings.categories, Category::Unsafe, false);
        if !model.labels().iter().any(|label| words.find(label).is_some()) {
            let labels = model.labels().join(", ");
            return Err(format!(
                "none of the model's labels is a known harmful one ({labels}); list the harmful \
                 labels in `categories`"
            ));
        }
        Ok(Local { common: JudgeCommon::new(settings, words), model })
    }
}

impl Filter for Local {
    fn hooks(&self) -> Hooks {
        self.common.hooks()
    }

    fn judge<'a>(
        &'a self,
        subject: &'a Arc<Subject>,
        call: &'a Call<'a>,
    ) -> BoxFuture<'a, Result<Report, Failure>> {
        Box::pin(async move {
            let pieces = self.common.newest(subject, MAX_TEXTS, TextSource::is_untrusted)?;
            let (model, texts) = (
                self.model.clone(),
                pieces.iter().map(|piece| piece.words.to_owned()).collect::<Vec<_>>(),
            );
            let answers = call
                .offload(move || {
                    texts.iter().map(|text| model.read(text)).collect::<Result<Vec<_>, _>>()
                })
                .await?;
            let mut tally = self.common.tally(subject);
            for (piece, (scores, whole)) in pieces.iter().zip(answers?) {
                // Text that was not read must not pass if findings mask or block.
                if !whole && self.common.action(subject.side()) >= Action::Mask {
                    return Err(Failure::TooLong);
                }
                for (label, score) in self.model.labels().iter().zip(scores) {
                    if let Some(known) = self.common.words.find(label) {
                        tally.whole(
                            piece,
                            known,
                            if score.is_finite() { score.clamp(0.0, 1.0) } else { 1.0 },
                        );
                    }
                }
            }
            Ok(tally.done())
        })
    }
}
