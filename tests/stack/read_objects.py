# SPDX-License-Identifier: Apache-2.0
"""Reads the objects of a bucket; runs in the venv of part_files.

*In*: a command, the endpoint, the keys, words. *Out*: JSON on standard output. *Never*: code of the gateway: these are the S3
clients of pyarrow and polars.
"""
import json
import math
import sys

import polars
import pyarrow.fs


def create(fs, _options, bucket):
    fs.create_dir(bucket)
    return {}


def objects(fs, _options, path):
    files = fs.get_file_info(pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {file.path: file.size for file in files if file.type == pyarrow.fs.FileType.File}


def records(_fs, options, path):
    """Counts of records, of different keys, of missing sequence numbers, and the partitions."""
    rows = polars.scan_parquet(f"s3://{path}/**/*.parquet", storage_options=options, hive_partitioning=True)
    rows = rows.select("instance", "epoch", "sequence", "date", "id").collect()
    spans = rows.group_by("instance", "epoch").agg(
        (polars.col("sequence").max() + 1 - polars.col("sequence").n_unique()).alias("missing"))
    return {"records": rows.height, "keys": rows.select("instance", "epoch", "sequence").n_unique(),
            "missing": int(spans["missing"].sum()), "starts": spans.height, "dates": sorted(map(str, rows["date"].unique()))}


def percentile(_fs, options, path):
    rows = polars.scan_parquet(f"s3://{path}/**/*.parquet", storage_options=options, hive_partitioning=True)
    values = sorted(rows.select(polars.col("client_ttft_us").drop_nulls()).collect()["client_ttft_us"])
    return {"count": len(values), "p95": values[math.ceil(0.95 * len(values)) - 1]}


def main():
    command, endpoint, access_key, secret_key, *words = sys.argv[1:]
    fs = pyarrow.fs.S3FileSystem(access_key=access_key, secret_key=secret_key, endpoint_override=endpoint, region="us-east-1",
                                 allow_bucket_creation=True)
    options = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key, "aws_endpoint_url": endpoint,
               "aws_region": "us-east-1", "aws_allow_http": "true"}
    commands = {"create": create, "objects": objects, "records": records, "percentile": percentile}
    print(json.dumps(commands[command](fs, options, *words)))


if __name__ == "__main__":
    main()
