#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes what a release consists of: an archive, a Debian package, a bill of materials, checksums.
#
#   package.sh [FOLDER]        # default target/package
#
# The Debian package needs cargo-deb, the bill of materials cargo-cyclonedx (`cargo install --locked cargo-deb cargo-cyclonedx`);
# without one, its file is left out, and a line says so. LLM_LENS_BIN names a binary that is built already.
set -eu

top="$(cd "$(dirname "$0")/../.." && pwd)"
folder="${1:-$top/target/package}"
target="${CARGO_TARGET_DIR:-$top/target}"
version="$(sed -n 's/^version = "\(.*\)"$/\1/p' "$top/Cargo.toml" | head -n 1)"
name="llm-lens-$version-$(uname -m)-linux"
cd "$top"

if [ -z "${LLM_LENS_BIN:-}" ]; then
  cargo build --release --locked -p llm-lens-cli
  LLM_LENS_BIN="$target/release/llm-lens"
fi

rm -rf "$folder"
root="$folder/$name"
install -D -m 0755 "$LLM_LENS_BIN" "$root/bin/llm-lens"
mkdir -p "$root/share/man/man1" "$root/share/bash-completion/completions" "$root/share/zsh/site-functions" \
  "$root/share/fish/vendor_completions.d"
"$LLM_LENS_BIN" man "$root/share/man/man1"
gzip -9 -n "$root"/share/man/man1/*.1
"$LLM_LENS_BIN" completions bash > "$root/share/bash-completion/completions/llm-lens"
"$LLM_LENS_BIN" completions zsh > "$root/share/zsh/site-functions/_llm-lens"
"$LLM_LENS_BIN" completions fish > "$root/share/fish/vendor_completions.d/llm-lens.fish"
install -D -m 0644 -t "$root/share/doc/llm-lens" LICENSE README.md CHANGELOG.md
install -D -m 0644 -t "$root/share/llm-lens/systemd" deploy/systemd/llm-lens@.service deploy/systemd/llm-lens.sysusers \
  deploy/systemd/gateway.yaml
install -m 0755 deploy/systemd/upgrade.sh "$root/share/llm-lens/systemd/"
for part in grafana prometheus logs; do cp -R "deploy/$part" "$root/share/llm-lens/"; done
# The same files give the same archive.
tar -C "$folder" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - "$name" | gzip -9 -n > "$folder/$name.tar.gz"

if command -v cargo-deb > /dev/null; then
  # Its assets are in target/deb, wherever FOLDER is.
  mkdir -p target
  rm -rf target/deb
  cp -R "$root" target/deb
  cargo deb --quiet --no-build --no-strip -p llm-lens-cli --output "$folder/"
else
  echo "package.sh: no Debian package: cargo-deb is not installed" >&2
fi
if command -v cargo-cyclonedx > /dev/null; then
  # It writes a file beside the manifest of each crate; that of the binary lists all.
  cargo cyclonedx --manifest-path crates/cli/Cargo.toml --format json --spec-version 1.5 --override-filename "$name.cdx"
  mv "crates/cli/$name.cdx.json" "$folder/"
  find . -path ./target -prune -o -name "$name.cdx.json" -exec rm {} +
else
  echo "package.sh: no bill of materials: cargo-cyclonedx is not installed" >&2
fi

rm -rf "$root"
cd "$folder"
find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum > SHA256SUMS
cat SHA256SUMS
