#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the checks of one engine and prints a line for each.

*In*: the URLs of an engine and of the gateway before it. *Out*: PASS, FAIL or SKIP with a reason for each check and for
the gateway's records of the requests it made; exit status 1 if any failed. *Never*: a check that cannot run but passes.

A check is a function whose docstring is its title. It asserts what the client sees and returns a `Seen` for each
request; those are then held against the gateway's records, as a line of their own.
"""
import argparse
import json
import pathlib
import sys
import traceback

import check_chat
import check_dialects
import check_load
import check_passthrough
import check_guardrails
import check_traffic
import record
from target import Skip, Target

CHECKS = check_chat.CHECKS + check_dialects.CHECKS + check_passthrough.CHECKS + check_guardrails.CHECKS + check_load.CHECKS + check_traffic.CHECKS


def main():
    options = parse_arguments()
    target = Target(engine=options.engine, engine_url=options.engine_url, base=options.gateway or options.engine_url,
                    admin=options.admin, scripts=json.loads(options.scripts.read_text()), parses_reasoning=options.parses_reasoning)
    counts = {"PASS": 0, "FAIL": 0, "SKIP": 0}
    for check in CHECKS:
        if options.only in check.__name__:
            for title, result, reason in run(target, check):
                counts[result] += 1
                tail = f"\n      {reason}" if result == "FAIL" else f" ({reason})" if reason else ""
                print(f"{result}  {options.engine}: {title}{tail}", flush=True)
    if options.tally:
        with options.tally.open("a") as tally:
            tally.write("{PASS} {FAIL} {SKIP}\n".format(**counts))
    print("{PASS} passed, {FAIL} failed, {SKIP} skipped".format(**counts))
    sys.exit(counts["FAIL"] > 0)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", required=True, choices=("vllm", "llama-cpp"))
    parser.add_argument("--engine-url", required=True, help="the engine itself")
    parser.add_argument("--gateway", help="the gateway before it; without one the engine is asked directly")
    parser.add_argument("--admin", help="the gateway's admin address")
    parser.add_argument("--scripts", required=True, type=pathlib.Path, help="the model's scripts.json")
    parser.add_argument("--parses-reasoning", action="store_true", help="the engine tells reasoning from text")
    parser.add_argument("--only", default="", metavar="TEXT", help="only checks whose function name contains TEXT")
    parser.add_argument("--tally", type=pathlib.Path, help="append the counts to this file")
    options = parser.parse_args()
    if bool(options.gateway) != bool(options.admin):
        parser.error("--gateway and --admin go together")
    return options


def run(target, check):
    """One check and, if it made requests that leave records, the comparison with those."""
    title, seen = check.__doc__.strip(), []

    def compare_records():
        if not target.admin:
            raise Skip("no gateway")
        for one in seen:
            record.compare(record.fetch(target.admin, one.request_id), one)

    yield title, *attempt(lambda: seen.extend(check(target) or []))
    if seen:
        yield f"{title}: records", *attempt(compare_records)


def attempt(action):
    try:
        action()
    except Skip as skip:
        return "SKIP", str(skip)
    except Exception as failure:  # a client that raises is a failed check, and the next check still runs
        if isinstance(failure, AssertionError) and str(failure):
            return "FAIL", str(failure)
        return "FAIL", traceback.format_exc(limit=-4).strip().replace("\n", "\n      ")
    return "PASS", ""


if __name__ == "__main__":
    main()
