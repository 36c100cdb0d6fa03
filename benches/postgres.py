#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the bench of the store of records in PostgreSQL against a server of its own.

*In*: the bench's binary, and its arguments. *Out*: its lines. *Never*: a server that outlives the run. The server has the settings
of Debian's package, and writes to the temporary folder (TMPDIR).
"""
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "stack"))

from machine import Machine  # noqa: E402
from part_postgres import PASSWORD, Server  # noqa: E402


def main():
    binary, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="llm-lens-bench-") as folder:
        folder = pathlib.Path(folder)
        with Machine(pathlib.Path(binary), folder, folder) as machine:
            server = Server(machine, folder)
            server.start()
            try:
                server.sql("CREATE DATABASE records", "postgres")
                url = f"postgres://lens@127.0.0.1:{server.port}/records?sslmode=disable"
                done = subprocess.run([machine.binary, "--url", url, *arguments], check=False,
                                      env={**os.environ, "LLM_LENS_BENCH_PASSWORD": PASSWORD})
                size, records = int(server.sql("SELECT pg_database_size('records')")), server.count()
                print(f"size: {size / 1e9:.2f} GB, {size // max(records, 1)} bytes per record, indexes included")
            finally:
                server.crash()
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
