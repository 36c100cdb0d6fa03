#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The end-to-end checks against real engines: vLLM and llama.cpp, each alone with the gateway before it.
#
#   run.sh [--direct] [--engine vllm|llama-bin|llama-cpp|pool] [--only TEXT]
#
# --direct   ask the engines without a gateway, which checks the checks; what needs a gateway is skipped
# --engine   only this engine. llama-bin: llama.cpp from a prebuilt package, or built from source where that cannot be
#            had; llama-cpp: built from source; pool: two vLLM and one llama.cpp together, of which one is killed
# --only     only checks whose function name contains TEXT
#
# The first run installs the engines (see engines.sh for what that takes). Environment: LLM_LENS_BIN, the gateway
# (default target/release/llm-lens), and what engines.sh reads. The last line is "N passed, N failed"; the exit status is 0
# only if something passed and nothing failed.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
BIN="${LLM_LENS_BIN:-$HERE/../../target/release/llm-lens}"
READY_SECONDS=30
DIRECT=0 ENGINES="vllm llama-bin pool" ONLY="" LLAMA=""

usage() { sed -n '3,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case "$1" in
    --direct) DIRECT=1 ;;
    --engine) ENGINES="${2:?}"; shift ;;
    --only) ONLY="${2:?}"; shift ;;
    *) usage ;;
  esac
  shift
done

SCRATCH="$(mktemp -d)"
touch "$SCRATCH/tally"
GATEWAY_PID="" ENGINE_RUNNING="" ENGINE_PORT=""
trap finish EXIT
trap 'exit 130' INT TERM

finish() { stop_gateway; stop_engine; rm -rf "$SCRATCH"; }

main() {
  local engine
  [ "$DIRECT" = 1 ] || [ -x "$BIN" ] || { echo "no gateway at $BIN; build it or set LLM_LENS_BIN" >&2; exit 2; }
  CLIENTS="$("$HERE/engines.sh" clients)"
  MODEL="$("$HERE/engines.sh" model)"
  "$CLIENTS" -c "import importlib.metadata as m; print(*(f'{p} {m.version(p)}' for p in ('openai', 'anthropic')), sep=', ')"
  for engine in $ENGINES; do
    if [ "$engine" = pool ]; then
      [ "$DIRECT" = 1 ] || [ -n "$ONLY" ] || check_pool
      continue
    fi
    if ! set_up "$engine"; then failed "$engine: cannot be set up"; continue; fi
    case "$engine" in
      llama-bin) check "$LLAMA" "$ONLY" --parses-reasoning ;;
      llama-cpp) check llama-cpp "$ONLY" --parses-reasoning ;;
      # vLLM's reasoning parser takes everything for reasoning that is not followed by </think>, so it is on for one script only.
      vllm)
        check vllm "$ONLY"
        case "$ONLY" in "" | *think*) REASONING=1 check vllm "${ONLY:-think}" --parses-reasoning ;; esac ;;
    esac
  done
  summary
}

set_up() { # ENGINE; for llama-bin, LLAMA is the llama.cpp that can be had
  local status=0
  "$HERE/engines.sh" setup "$1" || status=$?
  [ "$1" != llama-bin ] || LLAMA=llama-bin
  [ "$1:$status" = llama-bin:3 ] || return "$status"
  echo "llama-bin: left out, llama.cpp is built from source"
  LLAMA=llama-cpp
  "$HERE/engines.sh" setup llama-cpp
}

check() { # ENGINE ONLY [checks.py OPTION...]: one start of the engine, one gateway, one run of the checks
  local engine="$1" url gateway=() before after
  before=$(wc -l <"$SCRATCH/tally")
  ENGINE_PORT="$(free_port)" ENGINE_RUNNING="$engine"
  if ! url="$(PORT="$ENGINE_PORT" "$HERE/engines.sh" start "$engine")"; then failed "$engine: does not start"; return; fi
  if [ "$DIRECT" = 0 ]; then
    if ! start_gateway "$url"; then failed "$engine: the gateway does not become ready"; stop_engine; return; fi
    gateway=(--gateway "http://127.0.0.1:$LISTEN" --admin "http://127.0.0.1:$ADMIN")
  fi
  "$CLIENTS" -B "$HERE/checks.py" --engine "${engine/llama-bin/llama-cpp}" --engine-url "$url" --scripts "$MODEL/scripts.json" \
    --tally "$SCRATCH/tally" --only "$2" "${gateway[@]}" "${@:3}" || true
  after=$(wc -l <"$SCRATCH/tally")
  [ "$after" -gt "$before" ] || failed "$engine: the checks did not come to their end"
  stop_gateway
  stop_engine
}

check_pool() { # three engines at a time, and gateways of its own
  local ports=() urls=() n names victim before
  for engine in vllm llama-bin; do
    set_up "$engine" || { failed "pool: $engine cannot be set up"; return; }
  done
  names=(vllm vllm "$LLAMA")
  for n in 0 1 2; do
    ports[n]="$(free_port)"
    if ! urls[n]="$(PORT="${ports[n]}" "$HERE/engines.sh" start "${names[n]}")"; then failed "pool: ${names[n]} does not start"; break; fi
  done
  if [ "${#urls[@]}" = 3 ]; then
    before=$(wc -l <"$SCRATCH/tally")
    victim="$(cat "${LLM_LENS_ENGINES_DIR:-$HOME/.cache/llm-lens-engines}/run/vllm-${ports[1]}.pid")"
    "$CLIENTS" -B "$HERE/pool.py" --bin "$BIN" --vllm "${urls[0]}" "${urls[1]}" --llama-cpp "${urls[2]}" --victim "$victim" --tally "$SCRATCH/tally" || true
    [ "$(wc -l <"$SCRATCH/tally")" -gt "$before" ] || failed "pool: the checks did not come to their end"
  fi
  for n in "${!ports[@]}"; do PORT="${ports[n]}" "$HERE/engines.sh" stop "${names[n]}" 2>/dev/null || true; done
}

start_gateway() { # UPSTREAM_URL
  local deadline=$((SECONDS + READY_SECONDS))
  LISTEN="$(free_port)" ADMIN="$(free_port)"
  # The last route is what --upstream makes, but for keys; the others are for the checks of guards and of traffic.
  cat >"$SCRATCH/gateway.yaml" <<YAML
listeners: [{address: "127.0.0.1:$LISTEN"}]
admin: {address: "127.0.0.1:$ADMIN"}
backends: [{name: default, url: "$1"}]
auth: {keys: "$SCRATCH/keys.yaml", secret: "only-for-these-checks"}
rate_limits:
  - {name: chat-budget, unit: output_tokens, amount: 20, window: 30d, per: all, routes: [limited]}
  - {name: counted, unit: input_tokens, amount: 1000000, window: 30d, per: all, routes: [counted]}
  - {name: claude-budget, unit: output_tokens, amount: 4, window: 30d, per: all, routes: [limited-claude]}
guardrails:
  - {name: strict, rules: [{name: scale, phrases: [celsius]}, {name: waves, phrases: ["the waves"]}]}
  - name: stern
    input_pii: redact
    output_toxicity: flag
    output_mode: hold
    judge_window: 32B
    rules: [{name: ships, phrases: ["ships cross"], output: block}]
routes:
  - {name: guarded, match: {headers: {x-guarded: "yes"}}, backend: default, guardrail: strict, auth: off}
  - {name: stern, match: {headers: {x-guarded: "stern"}}, backend: default, guardrail: stern, security_headers: true, auth: off}
  - {name: keyed, match: {headers: {x-keyed: "yes"}}, backend: default}
  - {name: limited, match: {headers: {x-limited: chat}}, backend: default, auth: off}
  - {name: counted, match: {headers: {x-counted: "yes"}}, backend: default, auth: off, tokenizer: "$MODEL/tokenizer.json"}
  - {name: limited-claude, match: {headers: {x-limited: claude}}, backend: default, auth: off}
  - {name: default, backend: default, auth: off}
YAML
  rm -f "$SCRATCH/keys.yaml"
  LLM_LENS_CHECK_KEY="$("$BIN" key create --config "$SCRATCH/gateway.yaml" --owner checks)"
  export LLM_LENS_CHECK_KEY
  "$BIN" gateway --config "$SCRATCH/gateway.yaml" >"$SCRATCH/gateway.log" 2>&1 &
  GATEWAY_PID=$!
  until curl -fsS -m 2 -o /dev/null "http://127.0.0.1:$ADMIN/readyz" 2>/dev/null; do
    if ! kill -0 "$GATEWAY_PID" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      tail -25 "$SCRATCH/gateway.log" >&2
      stop_gateway
      return 1
    fi
    sleep 0.1
  done
}

stop_gateway() {
  [ -n "$GATEWAY_PID" ] || return 0
  kill -TERM "$GATEWAY_PID" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 "$GATEWAY_PID" 2>/dev/null || break; sleep 0.1; done
  kill -KILL "$GATEWAY_PID" 2>/dev/null || true
  wait "$GATEWAY_PID" 2>/dev/null || true
  GATEWAY_PID=""
}

stop_engine() {
  [ -z "$ENGINE_RUNNING" ] || PORT="$ENGINE_PORT" "$HERE/engines.sh" stop "$ENGINE_RUNNING"
  ENGINE_RUNNING=""
}

free_port() {
  "$CLIENTS" -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"
}

failed() { # a failure outside of the checks
  echo "FAIL  $1"
  echo "0 1 0" >>"$SCRATCH/tally"
}

summary() {
  local passed failed skipped
  read -r passed failed skipped < <(awk '{p += $1; f += $2; s += $3} END {print p + 0, f + 0, s + 0}' "$SCRATCH/tally")
  echo "$skipped skipped"
  echo "$passed passed, $failed failed"
  [ "$passed" -gt 0 ] && [ "$failed" -eq 0 ]
}

main
