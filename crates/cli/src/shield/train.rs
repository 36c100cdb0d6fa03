//! Training and measuring the classifiers.

use std::path::Path;

use anyhow::{Context, Result};
use classifier::Task;
use train::data::{self, File, Row};
use train::{Samples, fit, report};

use crate::write_stdout;

/// Train on everything and write the weights.
pub(crate) fn train(folder: &Path, out: &Path) -> Result<()> {
    let rows = read(folder)?;
    let samples = Samples::new(&rows)?;
    let model = fit(&rows, &samples, |_| true)?;
    let bytes = model.to_bytes();
    std::fs::write(out, &bytes).with_context(|| format!("cannot write {}", out.display()))?;
    write_stdout(&format!("{}: {} bytes from {} rows\n", out.display(), bytes.len(), rows.len()))?;
    for question in Task::ALL {
        let measured = model.measured(question);
        write_stdout(&format!(
            "{question:?}: AUC {:.4}, TPR at 1 % FPR {:.3}, over five folds\n",
            measured.auc, measured.tpr
        ))?;
    }
    Ok(())
}

/// Measures classifiers by cross-validation: each is tested on rows that it was not trained on.
pub(super) fn measure(folder: &Path, sources: bool) -> Result<String> {
    let rows = read(folder)?;
    let samples = Samples::new(&rows)?;
    let mut text = report::report(&rows, &report::folds(&rows, &samples)?);
    if sources {
        text.push_str(&report::sources(&rows, &samples)?);
    }
    Ok(text)
}

fn read(folder: &Path) -> Result<Vec<Row>> {
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (injection, toxicity, benign) =
        (file("injection.jsonl")?, file("toxicity.jsonl")?, file("benign.jsonl")?);
    Ok(data::rows([
        (File::Injection, &injection),
        (File::Toxicity, &toxicity),
        (File::Benign, &benign),
    ])?)
}
