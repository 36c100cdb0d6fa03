# SPDX-License-Identifier: Apache-2.0
"""Every query of the Grafana dashboards, on a real Prometheus that scraped a run.

*In*: a machine. *Out*: checks. A gateway with a pool, an admission queue, a guardrail, limits, hedges, a canary, an offload route
and records has traffic; engines report load, cache and their own times, one of them fails now and then. *Never*: a query of its
own: expressions and variables are those of deploy/grafana.
"""
import contextlib
import http.server
import json
import pathlib
import re
import subprocess
import threading
import time
import urllib.parse

from machine import Load, eventually, get_json
from prometheus import monitoring

NAME = "grafana"
DASHBOARDS = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"
READER = pathlib.Path(__file__).with_name("read_dashboards.py")
# Grafana's types of its version 10.1, and the fields that newer versions have.
TYPES = "grafana-foundation-sdk==1769699998!10.1.0"
NEWER = {".templating.list[].definition", ".panels[].options.tooltip.mode"}
# Long enough for blocks that prefix balancing remembers.
PROMPT = "Name three colors. " * 400
# The longest window of the shortened rules is 20 s.
HISTORY_SECONDS = 25
WINDOW = "5s"
# Panels that have no data in a healthy run, with the reason.
EMPTY = {
    "Settings are stale since": "the settings are current",
}

SETTINGS = """
access_log: {{file: "{folder}/access.jsonl"}}
record_store: {{path: "{folder}/records"}}
store: {{url: "redis://127.0.0.1:1", on_failure: local}}
backends:
  - {{name: first, url: "{first}", models: [m], engine_metrics: {{interval: 200ms}}, admission: {{max_requests: 2}}}}
  - {{name: second, url: "{second}", models: [m], admission: {{max_requests: 2}}}}
  - {{name: next, url: "{first}"}}
pools:
  - {{name: main, backends: [first, second], balance: prefix, tier: edge}}
  - {{name: spare, backends: [second], tier: cloud}}
  - {{name: new, backends: [next]}}
guardrails: [{{name: answers, input_pii: flag, rules: [{{name: colors, phrases: [colors], input: flag, output: flag}}]}}]
rate_limits: [{{name: everyone, per: all, unit: requests, amount: 100000}}]
routes:
  - {{name: offload, match: {{headers: {{x-route: offload}}}}, pool: main, fallback: [spare], offload: {{prompt_tokens: 2}}}}
  - {{name: canary, match: {{headers: {{x-route: canary}}}}, pool: main, canary: {{pool: new, share: 0.5}}}}
  - {{name: chat, pool: main, fallback: [spare], guardrail: answers, hedge: {{after: 5ms, budget: 0.5}}, resume: "on"}}
"""


class Engine:
    """Streams eight tokens as llama.cpp does, with its timings, and reports load as vLLM does. Each tenth request fails."""

    def __init__(self):
        count = iter(range(1, 1 << 62))

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                lines = ("vllm:num_requests_running 2", "vllm:num_requests_waiting 1", "vllm:kv_cache_usage_perc 0.25")
                self.answer(200, "text/plain", ("\n".join(lines) + "\n").encode())

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                if next(count) % 10 == 0:
                    return self.answer(503, "application/json", b'{"error": {"message": "busy"}}')
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for number in range(8):
                    time.sleep(0.02)
                    self.event({"choices": [{"index": 0, "delta": {"content": f"word{number} "}, "finish_reason": None}]})
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                            "timings": {"prompt_n": 5, "prompt_ms": 10.0, "predicted_n": 8, "predicted_ms": 140.0}})
                self.event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13,
                                                     "prompt_tokens_details": {"cached_tokens": 2}}})
                self.chunk(b"data: [DONE]\n\n")
                self.chunk(b"")
                return None

            def event(self, fields):
                common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
                self.chunk(b"data: " + json.dumps({**common, **fields}).encode() + b"\n\n")

            def chunk(self, data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

            def answer(self, status, kind, body):
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """A hedge that lost closes its connection."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Target:
    def __init__(self, machine, servers):
        self.machine, self.servers = machine, servers


@contextlib.contextmanager
def start(machine):
    machine.tool("promtool", "prometheus")
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(Engine()) for _ in range(2)]
        settings = SETTINGS.format(folder=machine.folder, first=engines[0].url, second=engines[1].url)
        url, admin = machine.gateway("gateway", settings)
        servers, _ = stack.enter_context(monitoring(machine, admin))
        for route, clients in (("chat", 6), ("offload", 1), ("canary", 2)):
            stack.enter_context(Load(url, {"x-route": route}, clients=clients, prompt=PROMPT))
        time.sleep(HISTORY_SECONDS)
        yield Target(machine, servers)


def queries():
    """Dashboard, panel and expression of every query, the values of variables filled in, once for each family of names."""
    for file in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(file.read_text())
        [family] = [one for one in dashboard["templating"]["list"] if one["name"] == "family"]
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                families = family["options"] if "${family}" in target["expr"] else family["options"][:1]
                for option in families:
                    text = target["expr"].replace("${family}", option["value"])
                    text = text.replace("$__rate_interval", WINDOW).replace("$__range", "1m")
                    yield dashboard["title"], panel["title"], re.sub(r"\$(instance|route|backend|model)\b", ".*", text)


def fields_are_known(t):
    """Grafana's own types know every field of the dashboards"""
    python = t.machine.venv("grafana", TYPES)
    done = subprocess.run([python, "-B", READER, *sorted(DASHBOARDS.glob("*.json"))], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    unknown = set(done.stdout.split("\n")) - NEWER - {""}
    assert not unknown, "\n".join(sorted(unknown))


def every_query_has_data(t):
    """every query of every panel has data, on a server with classic and on one with native histograms"""
    silent, count = [], 0
    for dashboard, panel, expression in queries():
        assert "$" not in expression, f"{panel}: an unknown variable in {expression}"
        for server in t.servers:
            count += 1
            found = eventually(lambda: has_data(server, expression), 10)
            if not found and panel not in EMPTY:
                silent.append(f"{server.kind}, {dashboard}, {panel}: {expression}")
    assert not silent, "\n".join(silent)
    return f"{count} queries"


def has_data(server, expression):
    """Native heat maps have histograms in place of values."""
    answer = get_json(f"{server.url}/api/v1/query", query=expression)
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def families_agree(t):
    """the medians of both families of names agree within the width of their buckets"""
    pairs = (("llm_lens_engine_ttft_seconds", "gen_ai_server_time_to_first_token_seconds"),
             ("llm_lens_engine_duration_seconds", "gen_ai_server_request_duration_seconds"))
    for server in (server for server in t.servers if server.kind == "native"):
        for pair in pairs:
            ours, theirs = (server.value(f'histogram_quantile(0.5, sum({name}{{route="chat"}}))') for name in pair)
            assert ours and theirs and 0.9 < ours / theirs < 1.1, f"{pair}: {ours}, {theirs}"


def variables_have_values(t):
    """the queries of the variables find gateways, routes, backends and models"""
    for file in sorted(DASHBOARDS.glob("*.json")):
        for variable in json.loads(file.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
                match = urllib.parse.quote(series.replace("$route", ".*"))
                values = get_json(f"{t.servers[0].url}/api/v1/label/{label}/values?match[]={match}")["data"]
                assert values, f"{file.name}: {variable['name']} has no values"


def share_of_states_is_whole(t):
    """the shares of the panel of states sum to 1"""
    [expression] = [e for _, panel, e in queries() if panel == "Time by state"]
    for server in t.servers:
        total = server.value(f"sum({expression})")
        assert total and abs(total - 1) < 0.001, f"{server.kind}: {total}"


CHECKS = (fields_are_known, every_query_has_data, variables_have_values, families_agree, share_of_states_is_whole)
