//! Training and measuring the classifiers.

use std::path::Path;

use anyhow::{Context, Result};
use classifier::Task;
use train::data::{self, File, Row};
use train::{Partition, Samples, fit, held_out, report};

use crate::write_stdout;

/// Train on everything and write the weights.
pub(crate) fn train(folder: &Path, out: &Path) -> Result<()> {
    let rows = read(folder)?;
    let samples = Samples::new(&rows)?;
    let model = fit(&rows, &samples)?.model;
    let bytes = model.to_bytes();
    std::fs::write(out, &bytes).with_context(|| format!("cannot write {}", out.display()))?;
    write_stdout(&format!("{}: {} bytes from {} rows\n", out.display(), bytes.len(), rows.len()))?;
    for task in Task::ALL {
        let measured = model.measured(task);
        write_stdout(&format!(
            "{task:?}: AUC {:.4}, TPR at 1 % FPR {:.3}, on sources that were held out\n",
            measured.auc, measured.tpr
        ))?;
    }
    Ok(())
}

/// Measures classifiers: each row by weights that were trained without its source, and with
/// `languages` also without its language.
pub(super) fn measure(folder: &Path, languages: bool) -> Result<String> {
    let rows = read(folder)?;
    let samples = Samples::new(&rows)?;
    let trained = fit(&rows, &samples)?;
    let mut text = report::report(&rows, &trained);
    if languages {
        let held = held_out(&rows, &samples, &Partition::by_language(&rows));
        text.push_str(&report::languages(&rows, &trained, &held));
    }
    Ok(text)
}

/// The rows of a folder, and of its folders.
fn read(folder: &Path) -> Result<Vec<Row>> {
    let mut folders = vec![folder.to_owned()];
    let inner = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in inner {
        let path = entry?.path();
        if path.join("injection.jsonl").exists() {
            folders.push(path);
        }
    }
    // The order decides about the weights.
    folders.sort();
    let mut texts = Vec::new();
    for folder in folders {
        for (file, name) in [
            (File::Injection, "injection.jsonl"),
            (File::Toxicity, "toxicity.jsonl"),
            (File::Benign, "benign.jsonl"),
        ] {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            texts.push((file, text));
        }
    }
    Ok(data::rows(texts.iter().map(|(file, text)| (*file, text.as_str())))?)
}
