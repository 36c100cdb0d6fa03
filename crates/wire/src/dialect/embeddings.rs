//! `/v1/embeddings`: only the model, the counts and errors are read; vectors are skipped.

use super::shared;
use crate::event::{Listener, Teller};
use crate::json::{Malformed, Scan};

pub(super) fn read<L: Listener>(
    scan: &mut Scan<'_>,
    tell: &mut Teller<'_, L>,
) -> Result<(), Malformed> {
    scan.object(|key, v| {
        match key {
            b"usage" => tell.usage(shared::usage(v)?),
            b"model" => tell.model(v.text()?),
            b"error" => shared::error(v, tell)?,
            b"detail" => shared::detail(v, tell)?,
            _ => {}
        }
        Ok(())
    })
}
