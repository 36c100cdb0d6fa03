# SPDX-License-Identifier: Apache-2.0
"""The export over OTLP, decoded by OpenTelemetry's own protobuf classes.

*In*: a machine. *Out*: checks. One gateway exports by gRPC, one by HTTP with gzip, in front of an engine that reports its times as
vLLM does. A third one has a spill: its collector dies, it is killed under load, and both come back. *Never*: a name, unit,
boundary or attribute that is not in the gateway's table of exported ones.
"""
import base64
import contextlib
import http.client
import http.server
import json
import pathlib
import re
import threading
import time
import urllib.parse
import urllib.request

from machine import eventually, free_port, get

NAME = "otlp"
PACKAGES = ("opentelemetry-proto==1.45.2", "grpcio==1.85.3")
HERE = pathlib.Path(__file__).parent
TABLE = HERE / "../../crates/otlp/src/semconv/exported.txt"
EXPORT_SECONDS = 30
# The pump of a gateway takes records from its workers every 20 ms, and a spill is synced every 100 ms.
UNSYNCED_SECONDS = 1
OUTAGE_SECONDS = 4
CLIENTS = 4

SETTINGS = """
otlp: {{endpoint: "{endpoint}", protocol: {protocol}, compression: gzip, interval: 1s, headers: "x-tenant=stack"{more}}}
backends: [{{name: engine, url: "{engine}"}}]
routes: [{{name: chat, backend: engine}}]
"""
BODY = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "a secret prompt"}]})
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KINDS = {"histogram": "histogram", "sum": "counter", "gauge": "gauge"}
TYPES = {"stringValue": "string", "intValue": "int", "doubleValue": "double", "boolValue": "bool", "arrayValue": "string[]"}


class Engine(http.server.BaseHTTPRequestHandler):
    """Two tokens, 100 ms each; then usage and vLLM's own times."""
    protocol_version = "HTTP/1.1"
    EVENTS = (
        (0.1, {"choices": [{"index": 0, "delta": {"content": "x"}}]}),
        (0.1, {"choices": [{"index": 0, "delta": {"content": "y"}}]}),
        (0, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        (0, {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2},
             "metrics": {"queue_time_ms": 30, "time_to_first_token_ms": 60, "generation_time_ms": 100}}),
    )

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        with contextlib.suppress(ConnectionError):  # a gateway is killed
            self.answer()

    def answer(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for pause, event in self.EVENTS:
            time.sleep(pause)
            self.chunk("data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m", **event}) + "\n\n")
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, text):
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())

    def log_message(self, *_):
        pass


class Receiver:
    def __init__(self, machine, python, name):
        self.machine, self.python, self.name = machine, python, name
        self.grpc, self.http = free_port(), free_port()
        self.start()

    def start(self):
        self.machine.spawn(self.name, [self.python, HERE / "otlp_receiver.py", "--grpc", self.grpc, "--http", self.http])
        self.machine.wait_until(self.name, f"http://127.0.0.1:{self.http}/")

    def requests(self, signal, transport=None):
        lines = self.machine.log(self.name).read_text().splitlines()
        all_requests = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in all_requests if one["signal"] == signal and transport in (None, one["transport"])]

    def accepted(self, signal, transport=None):
        return [one["message"] for one in self.requests(signal, transport) if one["answer"] != "busy"]

    def answer_next(self, transport, signal, answer):
        query = urllib.parse.urlencode({"transport": transport, "signal": signal, "answer": answer})
        urllib.request.urlopen(f"http://127.0.0.1:{self.http}/answers?{query}", data=b"", timeout=10).read()

    def metrics(self, transport=None):
        return [metric for message in self.accepted("metrics", transport) for resource in message["resourceMetrics"]
                for scope in resource["scopeMetrics"] for metric in scope["metrics"]]

    def spans(self, transport=None):
        return [span for message in self.accepted("traces", transport) for resource in message["resourceSpans"]
                for scope in resource["scopeSpans"] for span in scope["spans"]]

    def logs(self, transport=None):
        return [log for message in self.accepted("logs", transport) for resource in message["resourceLogs"]
                for scope in resource["scopeLogs"] for log in scope["logRecords"]]


class Target:
    def __init__(self, machine, receiver, python, engine, gateways):
        self.machine, self.receiver, self.python, self.engine, self.gateways = machine, receiver, python, engine, gateways


def request(url, request_id, **fields):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        headers = {"content-type": "application/json", "x-request-id": request_id, **fields}
        connection.request("POST", "/v1/chat/completions", BODY, headers)
        return connection.getresponse().read().decode()


def hexadecimal(text):
    return base64.b64decode(text or "").hex()


def attributes(item):
    return {pair["key"]: next(iter(pair["value"].values())) for pair in item.get("attributes", [])}


def types(item):
    return {(pair["key"], TYPES[next(iter(pair["value"]))]) for pair in item.get("attributes", [])}


def table(kind):
    """Rows of the committed table for the default conventions: the columns after the modes."""
    rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    return [row[2:] for row in rows if row[0] == kind and "v1.41" in row[1].split()]


def sample(admin, name, **labels):
    total = 0.0
    for line in get(f"{admin}/metrics").splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+).*", line)
        if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
            total += float(found[2])
    return total


@contextlib.contextmanager
def start(machine):
    python = machine.venv("otlp", *PACKAGES)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    engine = f"http://127.0.0.1:{server.server_port}"
    try:
        receiver = Receiver(machine, python, "receiver")
        gateways = {}
        for transport, protocol, port in (("grpc", "grpc", receiver.grpc), ("http", "http/protobuf", receiver.http)):
            settings = SETTINGS.format(endpoint=f"http://127.0.0.1:{port}", protocol=protocol, engine=engine, more="")
            gateways[transport] = machine.gateway(f"gateway-{transport}", settings)
        yield Target(machine, receiver, python, engine, gateways)
    finally:
        server.shutdown()


def signals_arrive(t):
    """metrics, traces and logs arrive by gRPC and by HTTP with gzip, with headers, resource and scope"""
    for transport, (url, _) in t.gateways.items():
        request(url, f"first-{transport}", traceparent=f"00-{TRACE}-{PARENT}-01")
        for signal, key in (("metrics", "resourceMetrics"), ("traces", "resourceSpans"), ("logs", "resourceLogs")):
            assert eventually(lambda: t.receiver.accepted(signal, transport), EXPORT_SECONDS), f"no {signal} by {transport}"
            one = t.receiver.requests(signal, transport)[0]
            assert one["headers"].get("x-tenant") == "stack", one["headers"]
            assert transport == "grpc" or one["encoding"] == "gzip", one["encoding"]
            resource = attributes(one["message"][key][0]["resource"])
            assert resource["service.name"] == "llm-lens" and resource["service.instance.id"], resource


def metrics_are_in_the_table(t):
    """every metric has the name, kind, unit, boundaries and attributes of the table"""
    rows = {name: rest for name, *rest in table("metric")}
    wanted = {"gen_ai.client.operation.duration", "gen_ai.server.time_to_first_token", "llm_lens.engine_split"}
    for transport in t.gateways:
        def found():
            return wanted <= {metric["name"] for metric in t.receiver.metrics(transport)}
        assert eventually(found, EXPORT_SECONDS), f"{transport}: {wanted}"
    for metric in t.receiver.metrics():
        assert metric["name"] in rows, metric["name"]
        kind, unit, bounds, keys = rows[metric["name"]]
        [data] = [key for key in KINDS if key in metric]
        assert (KINDS[data], metric.get("unit", "")) == (kind, unit), metric
        for point in metric[data]["dataPoints"]:
            assert point.get("explicitBounds", []) == [float(bound) for bound in bounds.split()], (metric["name"], point)
            assert len(point.get("bucketCounts", [])) == (len(bounds.split()) + 1 if bounds else 0), metric["name"]
            assert set(attributes(point)) <= set(keys.split()), (metric["name"], attributes(point))
    return f"{len({metric['name'] for metric in t.receiver.metrics()})} metrics"


def spans_are_in_the_table(t):
    """spans form one tree below the client's span, inside of each other, with the attributes of the table"""
    rows = {}
    for kind, key, value in table("span"):
        rows.setdefault(kind, set()).add((key, value))
    for transport in t.gateways:
        spans = {hexadecimal(span["spanId"]): span for span in t.receiver.spans(transport)}
        assert all(hexadecimal(span["traceId"]) == TRACE for span in spans.values()), spans
        for span in spans.values():
            kind = span["kind"].removeprefix("SPAN_KIND_").lower()
            assert types(span) <= rows[kind], (kind, types(span) - rows[kind])
            parent = spans.get(hexadecimal(span.get("parentSpanId")))
            if kind == "server":
                assert hexadecimal(span["parentSpanId"]) == PARENT, span
                continue
            begin, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
            assert int(parent["startTimeUnixNano"]) <= begin <= end <= int(parent["endTimeUnixNano"]), (span, parent)
        names = {span["name"] for span in spans.values()}
        assert {"POST chat", "chat m", "llm_lens.engine.queue", "llm_lens.engine.prefill", "llm_lens.engine.decode"} <= names, names


def logs_are_in_the_table(t):
    """each request has one log record, in the context of its call, with the attributes of the table and no content"""
    rows = {}
    for event, key, value in table("log"):
        rows.setdefault(event, set()).add((key, value))
    for transport in t.gateways:
        [log] = [log for log in t.receiver.logs(transport) if attributes(log)["llm_lens.request.id"] == f"first-{transport}"]
        assert log["eventName"] == "gen_ai.client.inference.operation.details", log
        assert types(log) <= rows[log["eventName"]], types(log) - rows[log["eventName"]]
        assert (log["severityText"], hexadecimal(log["traceId"])) == ("INFO", TRACE), log
        [call] = [span for span in t.receiver.spans(transport) if span["name"] == "chat m"]
        assert log["spanId"] == call["spanId"], log
    assert "secret prompt" not in t.machine.log("receiver").read_text()


def failures_are_retried_and_counted(t):
    """a busy collector gets the same batch again after Retry-After, and a partial success is counted"""
    for transport, (url, admin) in t.gateways.items():
        for signal, items in (("traces", t.receiver.spans), ("logs", t.receiver.logs)):
            t.receiver.answer_next(transport, signal, "busy")
            t.receiver.answer_next(transport, signal, "partial")
            request(url, f"again-{transport}-{signal}")

            def answers():
                found = [one["answer"] for one in t.receiver.requests(signal, transport)]
                return "busy" in found and found[found.index("busy") + 1:found.index("busy") + 2] == ["partial"]

            assert eventually(answers, EXPORT_SECONDS), f"{transport} {signal}"
            counted = eventually(lambda: sample(admin, "llm_lens_otlp_rejected_total", signal=signal) == 1)
            assert counted, get(f"{admin}/metrics")
            code = {"grpc": "grpc_unavailable", "http": "http_503"}[transport]
            assert sample(admin, "llm_lens_otlp_failures_total", signal=signal, code=code) == 1, f"{transport} {signal}"
            assert items(transport)


def spill_survives(t):
    """with the collector dead and the gateway killed under load, every request's span and log record arrive"""
    receiver = Receiver(t.machine, t.python, "spill-receiver")
    folder = t.machine.folder / "spill"
    settings = SETTINGS.format(endpoint=f"http://127.0.0.1:{receiver.http}", protocol="http/protobuf", engine=t.engine,
                               more=f', spill: {{path: "{folder}"}}')
    url, admin = t.machine.gateway("spilling", settings)
    t.machine.stop("spill-receiver")
    answered, stopped = {}, threading.Event()

    def load(client):
        for number in range(1_000_000):
            if stopped.is_set():
                return
            with contextlib.suppress(OSError, http.client.HTTPException):
                name = f"spilled-{client}-{number}"
                if request(url, name).endswith("data: [DONE]\n\n"):
                    answered[name] = time.monotonic()

    clients = [threading.Thread(target=load, args=(client,)) for client in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(OUTAGE_SECONDS)
    state = sample(admin, "llm_lens_sink_state", sink="otlp_traces", state="closed")
    spilled = sample(admin, "llm_lens_sink_spilled_records", sink="otlp_traces")
    gateway = t.machine.running.pop("spilling")
    killed = time.monotonic()
    gateway.kill()
    gateway.wait()
    stopped.set()
    for client in clients:
        client.join()
    assert state == 0 and spilled > 0, f"state closed {state}, {spilled} spilled"
    _, admin = t.machine.gateway("spilling", settings)
    receiver.start()
    synced = {name for name, at in answered.items() if at < killed - UNSYNCED_SECONDS}

    def missing(items):
        return synced - {attributes(item).get("llm_lens.request.id") for item in items}

    for signal, items in (("traces", receiver.spans), ("logs", receiver.logs)):
        assert eventually(lambda: not missing(items()), EXPORT_SECONDS), f"{signal}: {len(missing(items()))} of {len(synced)} missing"
        emptied = eventually(lambda: sample(admin, "llm_lens_sink_spilled_records", sink=f"otlp_{signal}") == 0)
        assert emptied, get(f"{admin}/metrics")
    unsynced = sample(admin, "llm_lens_sink_dropped_records_total", sink="otlp_traces", reason="unsynced")
    arrived = {attributes(span).get("llm_lens.request.id") for span in receiver.spans()} - {None}
    lost = len(set(answered) - arrived)
    return f"{len(answered)} answered, {spilled:.0f} spilled, {lost} of the last {UNSYNCED_SECONDS} s lost, {unsynced:.0f} counted as unsynced"


CHECKS = (signals_arrive, metrics_are_in_the_table, spans_are_in_the_table, logs_are_in_the_table, failures_are_retried_and_counted,
          spill_survives)
