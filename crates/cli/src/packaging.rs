//! `completions` and `man`: files that packages install.
//!
//! - *In*: the arguments of all commands.
//! - *Out*: a script for a shell; manual pages in a folder.
//! - *Never*: a text that is not also printed by `--help`.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Args;

/// The name of the binary.
const NAME: &str = "llm-lens";

/// The script with which a shell completes arguments.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes `llm-lens.1`, and a page for each command, such as `llm-lens-key-create.1`.
pub(crate) fn write_man_pages(folder: &Path) -> Result<()> {
    anyhow::ensure!(folder.is_dir(), "{} is not a folder; create it first", folder.display());
    clap_mangen::generate_to(Args::command(), folder)
        .with_context(|| format!("cannot write manual pages to {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_every_command() {
        let command = Args::command();
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let script = completions(shell);
            for known in command.get_subcommands().map(clap::Command::get_name) {
                assert!(script.contains(known), "{shell}: {known}");
            }
        }
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write_man_pages(folder.path()).expect("a writable folder");
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("a page");
        assert!(page("llm-lens.1").contains("measures every stream"));
        assert!(page("llm-lens-gateway.1").contains("SIGHUP"));
        assert!(page("llm-lens-key-create.1").contains("printed once"));
        let missing = folder.path().join("missing");
        let error = write_man_pages(&missing).expect_err("no folder").to_string();
        assert!(error.contains("create it first"), "{error}");
    }
}
