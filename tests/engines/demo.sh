#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The demo with a real engine: llama.cpp's server with SmolLM2-135M, behind the gateway of `llm-lens demo`.
#
#   demo.sh [ARGUMENT OF llm-lens demo...]
#
# The engine is installed once, under target/engines (130 MB of downloads, less than a minute). Where it cannot be had, the
# only line is "demo: ..." with the reason, and the exit status is 1. Ctrl-C ends the gateway and the engine.
# Environment: LLM_LENS_BIN, the gateway (default target/release/llm-lens), THREADS of the engine (default 1), and what
# engines.sh reads.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
TARGET="${CARGO_TARGET_DIR:-$HERE/../../target}"
BIN="${LLM_LENS_BIN:-$TARGET/release/llm-lens}"
export LLM_LENS_ENGINES_DIR="${LLM_LENS_ENGINES_DIR:-$TARGET/engines}"
START_SECONDS=60
engine=""

main() {
  local run="$LLM_LENS_ENGINES_DIR/run" url demo status=0
  [ -x "$BIN" ] || fail "no gateway at $BIN; build it or set LLM_LENS_BIN"
  mkdir -p "$run"
  "$HERE/engines.sh" setup llama-bin >/dev/null 2>"$run/demo-setup.log" ||
    fail "llama.cpp cannot be set up: $(tail -1 "$run/demo-setup.log" | sed 's/^\[engines\] //'); make demo without ENGINE needs nothing"
  trap end_engine EXIT
  # Bash starts it with INT ignored: it serves until the gateway has ended.
  "$LLM_LENS_ENGINES_DIR/venv-llama-bin/bin/python" -B "$HERE/llama_server.py" --threads "${THREADS:-1}" \
    >"$run/demo.url" 2>"$run/demo.log" &
  engine=$!
  url="$(await_url "$run")"
  "$BIN" demo --backend "$url" "$@" &
  demo=$!
  # A terminal sends INT to the gateway, too. TERM and HUP come to this process only.
  trap : INT
  trap 'kill -TERM "$demo" 2>/dev/null || true' TERM HUP
  while :; do
    wait "$demo" && status=0 || status=$?
    kill -0 "$demo" 2>/dev/null || break # a signal has interrupted the wait
  done
  exit "$status"
}

await_url() { # FOLDER: the base URL, once the model is loaded
  local deadline=$((SECONDS + START_SECONDS))
  until [ -s "$1/demo.url" ]; do
    kill -0 "$engine" 2>/dev/null || fail "llama.cpp ended: $(tail -1 "$1/demo.log"); log $1/demo.log"
    [ "$SECONDS" -lt "$deadline" ] || fail "llama.cpp has not loaded its model in $START_SECONDS s; log $1/demo.log"
    sleep 0.1
  done
  cat "$1/demo.url"
}

end_engine() {
  kill -TERM "$engine" 2>/dev/null || true
  wait "$engine" 2>/dev/null || true
}

fail() {
  echo "demo: $1" >&2
  exit 1
}

main "$@"
