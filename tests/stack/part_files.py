# SPDX-License-Identifier: Apache-2.0
"""The gateway's files of records, read by pyarrow, duckdb, polars and Google's protobuf.

*In*: a machine. *Out*: checks. The gateway writes Parquet under load; `llm-lens export` converts it to every other format.
*Never*: a reader of our own: what other programs read is the point.
"""
import collections
import contextlib
import json
import pathlib
import re
import subprocess
import time

from machine import Load, eventually, free_port, get, get_json

NAME = "files"
REQUIREMENTS = ("pyarrow==26.0.1", "duckdb==2.0.1", "polars==2.1.0", "grpcio-tools==1.85.1")
# Values of TTFT before percentiles are compared.
MIN_VALUES = 300
# The gateway's percentiles are exact to 1.1 % (docs/measurement.md); those of the file are exact.
TOLERANCE = 1.011
# Counts at the bounds of classic buckets err by 2.2 % of the bound.
BUCKET = 1.022
SCHEMA = pathlib.Path(__file__).parents[2] / "crates" / "files" / "schema" / "record.proto"
READERS = pathlib.Path(__file__).parent / "read_files.py"
FORMATS = ("jsonl", "csv", "msgpack", "pb", "arrow", "parquet")

SETTINGS = """
record_files: {{path: "{folder}", format: parquet, rotate_size: 64KiB}}
guardrails: [{{name: answers, output_pii: mask, rules: [{{name: heat, phrases: [celsius]}}]}}]
backends:
  - {{name: dead, url: "http://127.0.0.1:1"}}
  - {{name: engine, url: "{engine}"}}
pools: [{{name: both, backends: [dead, engine]}}]
routes:
  - {{name: chat, pool: both, guardrail: answers, retries: {{max: 2}}}}
"""


class Target:
    def __init__(self, machine, python, folder, timings, records, metrics):
        self.machine, self.python, self.folder = machine, python, folder
        self.timings, self.records, self.metrics = timings, records, metrics
        self.converted = machine.folder / "converted"

    def file(self, end):
        return self.converted / f"all.{end}"

    def read(self, what, *words):
        """The answer of a reader in the venv."""
        done = subprocess.run([self.python, "-B", READERS, what, *map(str, words)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    def export(self, *words):
        done = subprocess.run([self.machine.binary, "export", *map(str, words)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr.strip()


@contextlib.contextmanager
def start(machine):
    python = machine.venv("files", *REQUIREMENTS)
    engine = machine.engine("engine", free_port(), "--base", "20ms", "--decode", "1ms", "--jitter", "0.5")
    folder = machine.folder / "files"
    url, admin = machine.gateway("gateway", SETTINGS.format(folder=folder, engine=engine))

    def timings():
        routes = get_json(f"{admin}/api/routes")["routes"]
        return [one["timings"] for one in routes if one["route"] == "chat" and one["operation"] == "chat"]

    def enough():
        return all(timings()) and timings()[0]["client_ttft"]["count"] >= MIN_VALUES if timings() else False

    with Load(url, {}, clients=8):
        assert eventually(enough, 120), "too few requests"
    # All records are delivered when nothing is added any more.
    def records():
        sinks = get_json(f"{admin}/api/sinks")["sinks"]
        return {sink["sink"]: sink for sink in sinks}["files"]

    before = None
    while (now := (records()["records"], timings()[0]["client_ttft"]["count"])) != before:
        before = now
        time.sleep(1)
    last = timings()[0], records()["records"], get(f"{admin}/metrics")
    machine.stop("gateway")
    yield Target(machine, python, folder, *last)


def end_completes_all_files(t):
    """the gateway rotates its files, and completes the last one at its end"""
    names = sorted(path.name for path in t.folder.iterdir())
    assert names and all(name.endswith(".parquet") for name in names), names
    assert len(names) > 1, names
    return f"{len(names)} files, {t.records} records"


def every_format_is_exported(t):
    """llm-lens export converts them to every format"""
    t.converted.mkdir()
    for end in FORMATS:
        t.export("--from", t.folder, "--to", t.file(end))
    return ", ".join(f"{end}: {t.file(end).stat().st_size // 1024} KiB" for end in FORMATS)


def readers_agree(t):
    """pyarrow, duckdb and polars read the same records from each format, and protobuf those of the committed schema"""
    want = t.read("duckdb", "parquet", f"{t.folder}/*.parquet")
    assert want["records"] == want["keys"] == t.records, (want, t.records)
    seen = []
    for reader, end in (("pyarrow", "parquet"), ("pyarrow", "arrow"), ("pyarrow", "csv"), ("pyarrow", "jsonl"),
                        ("duckdb", "parquet"), ("duckdb", "csv"), ("duckdb", "jsonl"), ("duckdb", "arrow"),
                        ("polars", "parquet"), ("polars", "arrow"), ("polars", "csv"), ("polars", "jsonl")):
        got = t.read(reader, end, t.file(end))
        assert got == want, f"{reader} {end}: {got}, not {want}"
        seen.append(f"{reader} {end}")
    got = t.read("protobuf", SCHEMA, t.file("pb"))
    assert got == want, f"protobuf: {got}, not {want}"
    return f"{want}"


def percentiles_equal_those_of_the_gateway(t):
    """percentiles of TTFT and TPOT are those of /api/routes, within 1.1 %"""
    worst = 1.0
    for column, timing in (("client_ttft_us", "client_ttft"), ("engine_ttft_us", "engine_ttft"), ("tpot_us", "tpot")):
        got, want = t.read("percentiles", f"{t.folder}/*.parquet", column), t.timings[timing]
        assert got["count"] == want["count"], f"{column}: {got}, /api/routes has {want}"
        for name in ("p50", "p95", "p99"):
            has, should = got[name], want[f"{name}_us"]
            # Sketches have whole microseconds.
            factor = max((has - 1) / should, (should - 1) / has)
            assert factor <= TOLERANCE, f"{name} of {column} is {has}, /api/routes has {should}"
            worst = max(worst, factor)
    return f"at most a factor of {worst:.4f}"


def buckets_equal_those_of_metrics(t):
    """each bucket of TTFT in /metrics has the values of the files, within 2.2 % of its bound"""
    checked = 0
    for column, metric in (("client_ttft_us", "llm_lens_client_ttft_seconds"), ("engine_ttft_us", "llm_lens_engine_ttft_seconds")):
        values = t.read("values", f"{t.folder}/*.parquet", column)
        buckets = collections.Counter()
        for labels, count in re.findall(rf"^{metric}_bucket{{(.*)}} ([0-9.e+]+)", t.metrics, re.MULTILINE):
            if 'route="chat"' in labels:
                buckets[float(re.search(r'le="([^"]+)"', labels)[1])] += float(count)
        assert buckets[float("inf")] == len(values), f"{metric}: {buckets}"
        for bound, count in buckets.items():
            low, high = (sum(value <= bound * 1e6 * factor for value in values) for factor in (1 / BUCKET, BUCKET))
            assert low <= count <= high, f"{metric} le={bound}: {count}, the files have {low} to {high}"
            checked += 0 < count < len(values)
    assert checked > 0, "no bound lies between the values"
    return f"{checked} buckets between the least and the greatest value"


def nested_parts_are_queried(t):
    """duckdb queries nested parts: attempts, marks, ledger, guardrail filters"""
    got = t.read("nested", f"{t.folder}/*.parquet")
    assert got["unequal_ledgers"] == 0, got
    assert got["attempts"] > 0 and got["attempt_backends"] == ["dead"], got
    assert got["first_tokens"] >= MIN_VALUES, got
    return f"{got}"


def the_query_of_the_documentation_runs(t):
    """the query of docs/observability.md runs in duckdb"""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    query = page.split("## Parquet and duckdb")[1].split("```sql\n")[1].split("```")[0]
    query = query.replace("/var/lib/llm-lens/files/*.parquet", f"{t.folder}/*.parquet")
    rows = t.read("query", query)["rows"]
    assert rows, query
    return f"{rows[0]}"


def converted_files_come_back(t):
    """files that pass through all formats have the same records"""
    end = t.machine.folder / "back.parquet"
    t.export("--from", t.file("pb"), "--to", end)
    assert t.read("duckdb", "parquet", end) == t.read("duckdb", "parquet", t.file("parquet"))


CHECKS = (end_completes_all_files, every_format_is_exported, readers_agree, percentiles_equal_those_of_the_gateway,
          buckets_equal_those_of_metrics, nested_parts_are_queried, the_query_of_the_documentation_runs, converted_files_come_back)
