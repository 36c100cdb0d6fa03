//! `/v1/embeddings` and Ollama's `/api/embed`: only the model, the counts and errors are read;
//! vectors are skipped.

use super::shared;
use crate::event::{EventReporter, EventVisitor, Usage};
use crate::json::{Malformed, Scan};

pub(super) fn read<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    scan.object(|key, v| {
        match key {
            b"usage" => report.usage(shared::usage(v)?),
            // Ollama.
            b"prompt_eval_count" => {
                report.usage(Usage { prompt_tokens: v.count()?, ..Usage::default() })
            }
            b"model" => report.model(v.text()?),
            b"error" => shared::error(v, report)?,
            b"detail" => shared::detail(v, report)?,
            _ => {}
        }
        Ok(())
    })
}
