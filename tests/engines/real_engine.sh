#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A short round with a real engine: OpenAI's client, the gateway, and llama.cpp's server with SmolLM2-135M.
#
#   real_engine.sh
#
# The engine and the client are installed once, under target/engines (130 MB of downloads, less than a minute). Where they
# cannot be had, the only line is "real engine: left out: REASON", and the exit status is 0. Otherwise the last line is
# "real engine: N passed, N failed"; the exit status is 0 only if nothing failed.
# Environment: LLM_LENS_BIN, the gateway (default target/debug/llm-lens), and what engines.sh reads.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
TARGET="${CARGO_TARGET_DIR:-$HERE/../../target}"
BIN="${LLM_LENS_BIN:-$TARGET/debug/llm-lens}"
export LLM_LENS_ENGINES_DIR="${LLM_LENS_ENGINES_DIR:-$TARGET/engines}"

main() {
  [ -x "$BIN" ] || fail "no gateway at $BIN; build it or set LLM_LENS_BIN"
  mkdir -p "$LLM_LENS_ENGINES_DIR"
  local log="$LLM_LENS_ENGINES_DIR/setup" engine client engine_status=0 client_status=0
  "$HERE/engines.sh" setup llama-bin >/dev/null 2>"$log-engine.log" &
  engine=$!
  "$HERE/engines.sh" clients >/dev/null 2>"$log-client.log" &
  client=$!
  wait "$engine" || engine_status=$?
  wait "$client" || client_status=$?
  accept_setup "$engine_status" "$log-engine.log"
  accept_setup "$client_status" "$log-client.log"
  exec "$LLM_LENS_ENGINES_DIR/venv-clients/bin/python" -B "$HERE/real_engine.py" --gateway "$BIN" \
    --engine "$LLM_LENS_ENGINES_DIR/venv-llama-bin/bin/python" "$HERE/llama_server.py"
}

accept_setup() { # STATUS LOG: what engines.sh returned and wrote
  local reason
  reason="$(tail -1 "$2")"
  reason="${reason#"[engines] "}"
  case "$1" in
    0) ;;
    3) echo "real engine: left out: $reason"; exit 0 ;;
    *) cat "$2" >&2; fail "$reason" ;;
  esac
}

fail() {
  echo "FAIL  real engine: $1"
  echo "real engine: 0 passed, 1 failed"
  exit 1
}

main
