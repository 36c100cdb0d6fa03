# SPDX-License-Identifier: Apache-2.0
"""Prometheus, Alertmanager and a receiver of alerts, set up by the files of deploy/prometheus.

*In*: a machine. *Out*: servers that use the project's rules and examples, with short windows and intervals, so that a test
takes seconds. *Never*: a rule of its own: names, expressions and thresholds are those of the files.
"""
import contextlib
import http.server
import json
import math
import pathlib
import re
import threading
import time

from machine import free_port, get_json

FILES = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
RULES = ("rules.yaml", "alerts.yaml")
# The length of each window and each `for` of the rules in a test.
SHORT = {"1m": "3s", "2m": "3s", "5m": "5s", "10m": "6s", "15m": "7s", "30m": "8s", "1h": "10s", "6h": "15s", "3d": "20s"}
DURATION = re.compile(r"(\[|\bfor: |\binterval: )(\d+[smhd])\b")


def shortened(text):
    """The same rules with short windows. A window that SHORT does not know is an error."""
    return DURATION.sub(lambda found: found[1] + SHORT[found[2]], text)


class Receiver:
    """A webhook that keeps the alerts it gets, each with its time of arrival."""

    def __init__(self):
        alerts = self.alerts = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                alerts.extend({**alert, "path": self.path, "at": time.monotonic()} for alert in body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def find(self, since, status, **labels):
        """Alerts that arrived since then, with this status and these labels."""
        return [alert for alert in list(self.alerts) if alert["at"] >= since and alert["status"] == status
                and all(alert["labels"].get(name) == value for name, value in labels.items())]


def start_alertmanager(machine, receiver):
    """Alertmanager with the example's routes; returns its address."""
    port = free_port()
    text = (FILES / "alertmanager.yaml").read_text().replace("127.0.0.1:9095", f"127.0.0.1:{receiver.port}")
    text = re.sub(r"group_wait: \w+", "group_wait: 500ms", text)
    text = re.sub(r"group_interval: \w+", "group_interval: 1s", text)
    file = machine.folder / "alertmanager.yaml"
    file.write_text(text)
    machine.spawn("alertmanager", [
        machine.tool("prometheus-alertmanager", "prometheus-alertmanager"), f"--config.file={file}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=", f"--storage.path={machine.folder}/alertmanager"])
    machine.wait_until("alertmanager", f"http://127.0.0.1:{port}/-/ready")
    return f"127.0.0.1:{port}"


class Prometheus:
    """One Prometheus with the project's rules. `native`: it ingests native histograms."""

    def __init__(self, machine, gateway_admin, alertmanager, native):
        self.kind = "native" if native else "classic"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        folder = machine.folder / self.kind
        folder.mkdir()
        for name in RULES:
            (folder / name).write_text(shortened((FILES / name).read_text()))
        text = (FILES / "prometheus.yaml").read_text()
        text = re.sub(r"_interval: 5s", "_interval: 1s", text).replace("127.0.0.1:9093", alertmanager)
        text = text.replace("127.0.0.1:9090", gateway_admin.removeprefix("http://"))
        self.config = folder / "prometheus.yaml"
        # Tells the alerts of the two servers apart.
        self.config.write_text(text.replace("global:\n", f"global:\n  external_labels: {{histograms: {self.kind}}}\n", 1))
        features = ["--enable-feature=native-histograms"] if native else []
        machine.spawn(f"prometheus-{self.kind}", [
            machine.tool("prometheus", "prometheus"), f"--config.file={self.config}", f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={folder}/data", *features])
        machine.wait_until(f"prometheus-{self.kind}", f"{self.url}/-/ready")

    def query(self, expression):
        """The samples of an instant query: labels and value. Values that are not a number are left out."""
        answer = get_json(f"{self.url}/api/v1/query", query=expression)
        assert answer["status"] == "success", answer
        samples = [(sample["metric"], float(sample["value"][1])) for sample in answer["data"]["result"] if "value" in sample]
        return [(labels, value) for labels, value in samples if not math.isnan(value)]

    def value(self, expression):
        """The value of the only sample, or none."""
        samples = self.query(expression)
        return samples[0][1] if len(samples) == 1 else None

    def rules(self):
        """All rules with their health."""
        groups = get_json(f"{self.url}/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def monitoring(machine, gateway_admin):
    """Two Prometheus servers, classic and native, one Alertmanager, and the receiver of alerts."""
    with Receiver() as receiver:
        alertmanager = start_alertmanager(machine, receiver)
        servers = [Prometheus(machine, gateway_admin, alertmanager, native) for native in (False, True)]
        yield servers, receiver
