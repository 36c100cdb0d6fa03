# SPDX-License-Identifier: Apache-2.0
"""Reads dashboards with Grafana's own types, and prints what the types do not know.

*In*: files. *Out*: a line for each field that is lost or changed; nothing if all are known. *Never*: a server.
"""
import json
import pathlib
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(ours, theirs, path):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from lost(value, theirs[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for one, other in zip(ours, theirs):
            yield from lost(one, other, f"{path}[]")
    elif ours != theirs:
        yield f"{path}: {ours!r} becomes {theirs!r}"


register_default_plugins()
found = set()
for file in map(pathlib.Path, sys.argv[1:]):
    ours = json.loads(file.read_text())
    theirs = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(ours)))
    found |= set(lost(ours, theirs, ""))
print("\n".join(sorted(found)))
