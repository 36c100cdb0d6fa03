#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The gateway beside the servers that operators run: Prometheus, Alertmanager, an OTLP receiver, and what other parts add.
#
#   run.sh [--only PART]
#
# Servers come from packages (make test-stack installs them). Python needs only its standard library; a part that needs more
# installs it in a venv under target/stack. The last line is "stack: N passed, M failed"; the exit status is 0 only if
# something passed and nothing failed.
# Environment: LLM_LENS_BIN, the gateway (default target/debug/llm-lens).
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
TARGET="${CARGO_TARGET_DIR:-$HERE/../../target}"
BIN="${LLM_LENS_BIN:-$TARGET/debug/llm-lens}"

fail() {
  echo "FAIL  $1"
  echo "stack: 0 passed, 1 failed"
  exit 1
}

[ -x "$BIN" ] || fail "no gateway at $BIN; build it or set LLM_LENS_BIN"
mkdir -p "$TARGET/stack"
exec python3 -B "$HERE/stack.py" --gateway "$BIN" --cache "$TARGET/stack" "$@"
