//! ONNX models as judges.

use std::sync::Arc;

use filters::judge::{Local, LocalModel};
use filters::settings::Judge;
use filters::{Failure, Filter};
use onnx::{Classifier, InferenceError, Settings};

/// Load the model of a judge.
pub fn load_model(judge: &Judge) -> Result<Arc<dyn Filter>, String> {
    let files = judge.files.as_ref().ok_or("no model is named")?;
    let settings = Settings::new(&files.model, &files.tokenizer, files.labels.clone());
    let classifier = Classifier::load(&settings).map_err(|error| error.to_string())?;
    Ok(Arc::new(Local::new(judge, Arc::new(Model(classifier)))?))
}

#[derive(Debug)]
struct Model(Classifier);

impl LocalModel for Model {
    fn labels(&self) -> &[String] {
        self.0.labels()
    }

    fn read(&self, text: &str) -> Result<(Vec<f32>, bool), Failure> {
        match self.0.read(text) {
            Ok(reading) => Ok((reading.scores, reading.skipped_windows == 0)),
            Err(InferenceError::TextTooLarge { .. }) => Err(Failure::TooLong),
            // No tokens: no findings.
            Err(InferenceError::NoTokens) => Ok((Vec::new(), true)),
            Err(error) => {
                tracing::warn!(%error, "local model failed");
                Err(Failure::Panicked)
            }
        }
    }
}
