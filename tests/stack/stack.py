#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the parts of the stack, one after the other.

*In*: the gateway's binary, and a folder that outlives the run, for what a part installs. *Out*: PASS, SKIP or FAIL for each
check, with a reason or what was measured; then "stack: N passed, M failed"; exit status 1 if any failed or none passed.
*Never*: a process that outlives the run, a fixed port, a file outside of a temporary folder and the given one.

To add a part, write a module with `NAME`, `CHECKS` and `start`, and add it to PARTS. `start(machine)` is a context manager
that starts servers with the machine and yields the object that each check gets. A check is a function whose docstring is its
title; it raises AssertionError if it fails, and may return what it measured. Both raise LeftOut where a package is missing.
"""
import argparse
import collections
import pathlib
import signal
import sys
import tempfile
import traceback

import part_dashboard
import part_deploy
import part_files
import part_grafana
import part_objects
import part_otlp
import part_postgres
import part_prometheus
from machine import LeftOut, Machine

PARTS = (part_otlp, part_files, part_objects, part_prometheus, part_grafana, part_postgres, part_dashboard, part_deploy)
# Twice what a busy machine takes.
PART_SECONDS = 900


class Expired(BaseException):
    """A part takes too long. No check catches it."""


def attempt(check, target):
    try:
        return "PASS", check(target) or ""
    except LeftOut as reason:
        return "SKIP", str(reason)
    except AssertionError as failure:
        return "FAIL", str(failure) or traceback.format_exc(limit=-2)
    except Exception:  # noqa: BLE001 - a check that raises has failed, and the next one still runs
        return "FAIL", traceback.format_exc(limit=-4)


def run_part(part, options, report):
    with tempfile.TemporaryDirectory(prefix="llm-lens-stack-") as folder:
        with Machine(options.gateway, pathlib.Path(folder), options.cache) as machine:
            try:
                with part.start(machine) as target:
                    for check in part.CHECKS:
                        report(f"{part.NAME}: {check.__doc__.strip()}", *attempt(check, target))
            except LeftOut as reason:
                report(f"{part.NAME}: left out", "SKIP", str(reason))
            except (Exception, Expired) as failure:  # noqa: BLE001 - the last line is printed all the same
                report(f"{part.NAME}: {type(failure).__name__}", "FAIL", f"{failure}\n{machine.logs()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gateway", required=True, type=pathlib.Path, help="the gateway's binary")
    parser.add_argument("--cache", required=True, type=pathlib.Path, help="a folder for what parts install")
    parser.add_argument("--only", default="", help="only the part of this name")
    options = parser.parse_args()
    counts = collections.Counter()

    def report(title, result, note):
        counts[result] += 1
        note = note.strip().replace("\n", "\n      ")
        print(f"{result}  {title}" + (f"\n      {note}" if note else ""), flush=True)

    def expire(*_):
        raise Expired(f"the part takes longer than {PART_SECONDS} s")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes end, too
    signal.signal(signal.SIGALRM, expire)
    for part in PARTS:
        if options.only in ("", part.NAME):
            signal.alarm(PART_SECONDS)
            run_part(part, options, report)
            signal.alarm(0)
    print(f"stack: {counts['PASS']} passed, {counts['FAIL']} failed")
    sys.exit(counts["FAIL"] > 0 or counts["PASS"] == 0)


if __name__ == "__main__":
    main()
