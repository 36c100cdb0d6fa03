# SPDX-License-Identifier: Apache-2.0
"""Reads files of records with the programs that operators use. Runs in the venv of part_files.

*In*: a reader, a format, files. *Out*: a JSON object: counts and sums that all readers must agree on.
"""
import importlib
import json
import pathlib
import subprocess
import sys
import tempfile


def summary(records, keys, total_us, ok, models):
    return {"records": int(records), "keys": int(keys), "total_us": int(total_us), "ok": int(ok), "models": sorted(models)}


def of_columns(columns):
    """From lists of values by column."""
    keys = set(zip(columns["instance"], columns["epoch"], columns["sequence"]))
    models = {model for model in columns["model_requested"] if model is not None}
    return summary(len(columns["id"]), len(keys), sum(columns["total_us"]), columns["outcome"].count("ok"), models)


COLUMNS = ["id", "instance", "epoch", "sequence", "total_us", "outcome", "model_requested"]


def pyarrow(end, path):
    if end == "parquet":
        from pyarrow import parquet
        table = parquet.read_table(path)
    elif end == "arrow":
        import pyarrow.ipc
        table = pyarrow.ipc.open_file(path).read_all()
    elif end == "csv":
        from pyarrow import csv as arrow_csv
        options = arrow_csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
        table = arrow_csv.read_csv(path, parse_options=arrow_csv.ParseOptions(newlines_in_values=True), convert_options=options)
    else:
        from pyarrow import json as arrow_json
        table = arrow_json.read_json(path)
    return of_columns(table.select(COLUMNS).to_pydict())


def duckdb(end, path):
    import duckdb
    connection = duckdb.connect()
    if end == "arrow":
        # duckdb reads Arrow IPC only with an extension; a table of pyarrow needs none.
        import pyarrow.ipc
        connection.register("records", pyarrow.ipc.open_file(path).read_all())
        source = "records"
    else:
        read = {"parquet": "read_parquet", "csv": "read_csv", "jsonl": "read_json"}[end]
        source = f"{read}('{path}')"
    [row] = connection.execute(f"""
        SELECT count(*), count(DISTINCT (instance, epoch, sequence)), sum(total_us), count(*) FILTER (outcome = 'ok'),
               list(DISTINCT model_requested) FROM {source}""").fetchall()
    return summary(*row[:4], [model for model in row[4] if model is not None])


def polars(end, path):
    import polars
    read = {"parquet": polars.read_parquet, "arrow": polars.read_ipc, "csv": polars.read_csv, "jsonl": polars.read_ndjson}[end]
    more = {"infer_schema_length": None} if end in ("csv", "jsonl") else {}
    return of_columns(read(path, **more).select(COLUMNS).to_dict(as_series=False))


def protobuf(schema, path):
    """Google's compiler and decoder, with the committed schema."""
    schema = pathlib.Path(schema)
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{schema.parent}", f"--python_out={out}", schema.name], check=True)
        sys.path.insert(0, out)
        record_pb2 = importlib.import_module("record_pb2")
    from google.protobuf.internal.decoder import _DecodeVarint32
    data, at = pathlib.Path(path).read_bytes(), 0
    columns = {name: [] for name in COLUMNS}
    while at < len(data):
        length, at = _DecodeVarint32(data, at)
        record = record_pb2.Record.FromString(data[at:at + length])
        at += length
        for name, values in columns.items():
            values.append(getattr(record, name) if record.HasField(name) else None)
        assert sum(value for _, value in record.ledger_us.ListFields()) == record.total_us, record
    return of_columns(columns)


def percentiles(path, column):
    """Exact ones, by the definition of the gateway's: the smallest value with at least that share at or below it."""
    import duckdb
    # A file has the tokens that the engine counted and estimated ones; the gateway has two timings.
    where = "AND NOT usage.estimated AND stream" if column == "tpot_us" else ""
    rows = duckdb.connect().execute(
        f"SELECT {column} FROM read_parquet('{path}') WHERE {column} IS NOT NULL {where} ORDER BY 1").fetchall()
    values = [row[0] for row in rows]
    exact = {f"p{p}": values[max(0, -(-len(values) * p // 100) - 1)] for p in (50, 95, 99)}
    return {"count": len(values), **exact}


def values(path, column):
    import duckdb
    rows = duckdb.connect().execute(f"SELECT {column} FROM read_parquet('{path}') WHERE {column} IS NOT NULL").fetchall()
    return [row[0] for row in rows]


def nested(path):
    import glob
    import duckdb
    from pyarrow import parquet
    tables = [parquet.read_table(file) for file in sorted(glob.glob(path))]
    ledgers = sum(sum(row["ledger_us"].values()) != row["total_us"] for table in tables for row in
                  table.select(["ledger_us", "total_us"]).to_pylist())
    [row] = duckdb.connect().execute(f"""
        SELECT count(*) FILTER (marks_us.first_token.arrival IS NOT NULL), sum(len(failed_attempts)),
               sum(len(guardrail.filters)), sum(usage.completion_tokens)
        FROM read_parquet('{path}')""").fetchall()
    backends = duckdb.connect().execute(
        f"SELECT DISTINCT a.backend FROM (SELECT unnest(failed_attempts) AS a FROM read_parquet('{path}'))").fetchall()
    return {"unequal_ledgers": ledgers, "first_tokens": row[0], "attempts": int(row[1]), "filters": int(row[2] or 0),
            "tokens": int(row[3] or 0), "attempt_backends": sorted(backend for backend, in backends)}


def query(text):
    import duckdb
    return {"rows": [[str(value) for value in row] for row in duckdb.connect().execute(text).fetchall()]}


if __name__ == "__main__":
    READERS = {"pyarrow": pyarrow, "duckdb": duckdb, "polars": polars, "protobuf": protobuf, "percentiles": percentiles,
               "nested": nested, "values": values, "query": query}
    print(json.dumps(READERS[sys.argv[1]](*sys.argv[2:])))
