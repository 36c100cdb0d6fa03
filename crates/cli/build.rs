//! Commit and features for `llm-lens --version`.

use std::process::Command;

/// Features that change what the binary can do, in the order of `Cargo.toml`.
const FEATURES: [&str; 9] =
    ["arrow", "dns", "jwt", "redis", "tokenizer", "sqlite", "postgres", "onnx", "kubernetes"];

fn main() {
    let features: Vec<&str> = FEATURES
        .into_iter()
        .filter(|name| std::env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some())
        .collect();
    println!("cargo::rustc-env=LLM_LENS_COMMIT={}", commit());
    println!("cargo::rustc-env=LLM_LENS_FEATURES={}", features.join(" "));
    println!("cargo::rerun-if-env-changed=LLM_LENS_COMMIT");
    // Beside the commit that is checked out, the head of its branch moves.
    for path in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", path]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// The commit: from the environment, for builds without a repository, or from git.
fn commit() -> String {
    std::env::var("LLM_LENS_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown commit".into())
}

fn git(args: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
