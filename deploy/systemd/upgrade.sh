#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Replaces the running gateway by one of the installed binary, without refusing a connection. Install the new binary first.
#
#   llm-lens-upgrade
#
# The instance that does not run starts with --upgrade and takes the listeners; the other one drains and ends. If the new one
# does not serve, the old one goes on, and this script fails. After a rollback of the binary, the same command goes back.
set -eu

# A folder that only root may write to.
environment="${LLM_LENS_START_ENV:-/run/llm-lens-start.env}"
is_active() { systemctl is-active --quiet "llm-lens@$1.service"; }
fail() { echo "llm-lens-upgrade: $1" >&2; exit 1; }

is_active a && is_active b && fail "both instances run: an upgrade is under way; wait for the end of its drain"
if is_active a; then old=a new=b; elif is_active b; then old=b new=a; else
  fail "no instance runs; start one with: systemctl start llm-lens@a"
fi

trap 'rm -f "$environment"' EXIT
echo LLM_LENS_START=--upgrade > "$environment"
systemctl reset-failed "llm-lens@$new.service" 2>/dev/null || true
systemctl start --no-block "llm-lens@$new.service"
# The successor waits ten seconds for its predecessor, and the predecessor five seconds for the socket of its successor.
systemctl kill --kill-whom=main --signal=QUIT "llm-lens@$old.service"

for _ in $(seq 300); do
  if is_active "$new"; then
    # After a reboot, the new one starts.
    systemctl disable --quiet "llm-lens@$old.service"
    systemctl enable --quiet "llm-lens@$new.service"
    echo "llm-lens@$new serves; llm-lens@$old drains"
    exit 0
  fi
  systemctl is-failed --quiet "llm-lens@$new.service" && break
  sleep 0.2
done
systemctl stop "llm-lens@$new.service" || true
fail "llm-lens@$new does not serve, llm-lens@$old goes on; see: journalctl -u llm-lens@$new"
