//! llama.cpp's native `/completion`, streamed and whole. There is no `[DONE]`: the last event has
//! `stop:true` and the counts.

use super::shared;
use crate::event::{Channel, EventReporter, EventVisitor, Usage};
use crate::json::{Malformed, Scan};

pub(super) fn read<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    if scan.peek() == Some(b'[') {
        return scan.array(|_, v| one(v, report));
    }
    one(scan, report)
}

fn one<L: EventVisitor>(
    scan: &mut Scan<'_>,
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let mut usage = Usage::default();
    let (mut content, mut stop, mut reason) = (None, false, None);
    scan.object(|key, v| {
        match key {
            b"content" => content = v.text()?,
            b"stop" => stop = v.boolean()? == Some(true),
            b"stop_type" => reason = v.text()?,
            b"timings" => report.times(shared::timings(v)?.1),
            b"tokens_predicted" => usage.completion_tokens = v.count()?,
            b"tokens_evaluated" => usage.prompt_tokens = v.count()?,
            b"model" => report.model(v.text()?),
            b"error" => shared::error(v, report)?,
            _ => {}
        }
        Ok(())
    })?;
    report.text(Channel::Content, 0, 0, content);
    if stop {
        report.finish(0, reason);
        report.end("stop:true");
    }
    report.usage(usage);
    Ok(())
}
