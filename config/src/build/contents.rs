//! Builds the settings of stored prompts and answers from a checked tree.

use std::path::PathBuf;
use std::time::Duration;

use super::Builder;
use crate::settings::{Action, Contents, GuardrailSettings};
use crate::tree::Table;

/// Digits of a key.
const KEY_DIGITS: usize = 64;

impl Builder {
    pub(super) fn contents(&mut self, root: &Table) -> Contents {
        let table = self.section(root, "contents");
        let path = table.text("path").filter(|path| !path.is_empty()).map(PathBuf::from);
        let (key, previous_keys) = (table.secret("key"), table.secret("previous_keys"));
        let is_key = |text: &str| {
            text.len() == KEY_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if path.is_some() && key.is_none() {
            let why = "is required with contents.path: 64 hexadecimal digits, as \
                       `openssl rand -hex 32` prints";
            self.wrong(&table, "key", why);
        }
        if key.is_some_and(|key| !is_key(key.reveal().trim())) {
            self.wrong(
                &table,
                "key",
                "must be 64 hexadecimal digits, as `openssl rand -hex 32` prints",
            );
        }
        if previous_keys.is_some_and(|keys| !keys.reveal().split(',').all(is_key)) {
            let why = "must be keys of 64 hexadecimal digits, separated by commas";
            self.wrong(&table, "previous_keys", why);
        }
        let has_log = |audit: &Table| audit.text("file").is_some_and(|file| !file.is_empty());
        if path.is_some()
            && !root.is_explained("audit")
            && !root.table("audit").is_some_and(has_log)
        {
            let why = "needs an audit log, because each read of contents is a line of it; set \
                       audit.file";
            self.wrong(&table, "path", why);
        }
        let (keep, max_size) = (table.duration("keep"), table.count("max_size"));
        if keep < Duration::from_secs(60) {
            self.wrong(&table, "keep", "must be at least 1m");
        }
        if max_size < 16 << 20 {
            self.wrong(&table, "max_size", "must be at least 16MiB");
        }
        let max_text = table.size("max_text");
        if !(1 << 10..=1 << 20).contains(&max_text) {
            self.wrong(&table, "max_text", "must be from 1KiB to 1MiB");
        }
        let (key, previous_keys) = (key.cloned(), previous_keys.cloned());
        Contents { path, key, previous_keys, keep, max_size, max_text }
    }

    /// Whether a route stores prompts and answers. `has_folder`: there is a place for them.
    pub(super) fn store_contents(
        &mut self,
        table: &Table,
        has_folder: bool,
        guardrail: Option<&GuardrailSettings>,
    ) -> bool {
        if table.text("store_contents") != Some("redacted") {
            return false;
        }
        if !has_folder {
            let why = "needs a folder and a key; set contents.path and contents.key";
            self.wrong(table, "store_contents", why);
        }
        let unchecked = guardrail.map(unchecked).unwrap_or_default();
        if guardrail.is_none() && !table.has("guardrail") {
            let why = "stores texts without what a guardrail finds in them; set a guardrail for \
                       this route";
            self.wrong(table, "store_contents", why);
        } else if let Some((guardrail, [first, ..])) = guardrail.zip(Some(&*unchecked)) {
            let why = format!(
                "stores texts without what a guardrail finds in them, and the guardrail {:?} has \
                 `{first}: off`; set it to flag, mask or block",
                guardrail.name
            );
            self.wrong(table, "store_contents", why);
        }
        true
    }
}

/// The checks that a redacted text needs, and that are off.
fn unchecked(guardrail: &GuardrailSettings) -> Vec<&'static str> {
    let checks = [
        ("input_pii", guardrail.input_pii),
        ("input_secrets", guardrail.input_secrets),
        ("output_pii", guardrail.output_pii),
        ("output_secrets", guardrail.output_secrets),
    ];
    let off = checks.into_iter().filter(|(_, action)| *action == Action::Off);
    off.map(|(name, _)| name).collect()
}
