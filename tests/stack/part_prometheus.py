# SPDX-License-Identifier: Apache-2.0
"""The gateway's metrics, the recording rules and the alerts, in a real Prometheus and Alertmanager.

*In*: a machine. *Out*: checks. Three routes get a load. The engine of `chat` turns slow, fast again, and dies; the guardrail of
`guarded` holds its answers; nothing happens to `steady`. *Never*: an alert about `steady`.
"""
import contextlib
import subprocess
import time

from machine import Load, eventually, free_port, get, get_json
from prometheus import FILES, RULES, monitoring

NAME = "prometheus"
ALERT_SECONDS = 30
RESOLVE_SECONDS = 60
# Longer than the longest window of the rules.
HISTORY_SECONDS = 25
# Values of a timing before percentiles are compared.
MIN_VALUES = 300
# The gateway's percentiles are exact to 1.1 %, native buckets to 2.2 %, classic ones to a factor of 1.5 (docs/measurement.md).
TOLERANCE = {"native": 1.033, "classic": 1.5 * 1.033}
TIMINGS = {"llm_lens_engine_ttft_seconds": "engine_ttft", "llm_lens_client_ttft_seconds": "client_ttft",
           "llm_lens_time_per_output_token_seconds": "tpot"}
FAST = ("--base", "30ms", "--decode", "2ms")
# The first token is soon, so that holding it for another one takes more than a quarter of the time.
CALM = ("--base", "5ms", "--decode", "20ms", "--slowdown", "0s")
SLOW = ("--base", "3s", "--decode", "200ms")
ROUTES = ("chat", "steady", "guarded")

SETTINGS = """
backends:
  - {{name: engine, url: "{chat}", health: {{path: /health, interval: 200ms, unhealthy: 2, healthy: 2}}}}
  - {{name: calm, url: "{calm}"}}
pools: [{{name: chat, backends: [engine]}}]
guardrails: [{{name: answers, output_mode: hold, rules: [{{name: heat, phrases: [celsius]}}]}}]
routes:
  - {{name: steady, match: {{headers: {{x-route: steady}}}}, backend: calm}}
  - {{name: guarded, match: {{headers: {{x-route: guarded}}}}, backend: calm, guardrail: answers}}
  - {{name: chat, pool: chat}}
"""


class Target:
    def __init__(self, machine, engine_port, admin, servers, receiver, loads):
        self.machine, self.engine_port, self.admin = machine, engine_port, admin
        self.servers, self.receiver, self.loads = servers, receiver, loads

    def engine(self, options):
        """Replace the engine of `chat`."""
        if "engine" in self.machine.running:
            self.machine.stop("engine")
        self.machine.engine("engine", self.engine_port, *options)

    def alert(self, since, alertname, **labels):
        """Wait until both servers' alert arrived; returns the seconds that it took and the last one."""
        kinds = [server.kind for server in self.servers]

        def arrived():
            found = [self.receiver.find(since, "firing", alertname=alertname, histograms=kind, **labels) for kind in kinds]
            return [alerts[0] for alerts in found] if all(found) else None

        alerts = eventually(arrived, ALERT_SECONDS)
        assert alerts, f"{alertname} did not arrive from both servers within {ALERT_SECONDS} s; arrived: " + str(
            [alert["labels"] for alert in self.receiver.alerts if alert["at"] >= since])
        last = max(alerts, key=lambda alert: alert["at"])
        seconds = last["at"] - since
        assert seconds < ALERT_SECONDS, f"{alertname} took {seconds:.1f} s"
        return f"{alertname} after {seconds:.1f} s", last

    def timings(self, route):
        routes = get_json(f"{self.admin}/api/routes")["routes"]
        [one] = [one for one in routes if one["route"] == route and one["operation"] == "chat"]
        return one["timings"]


@contextlib.contextmanager
def start(machine):
    for tool, package in (("promtool", "prometheus"), ("amtool", "prometheus-alertmanager")):
        machine.tool(tool, package)
    engine_port = free_port()
    chat, calm = machine.engine("engine", engine_port, *FAST), machine.engine("calm", free_port(), *CALM)
    settings = SETTINGS.format(chat=chat, calm=calm)
    url, admin = machine.gateway("gateway", settings)
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Load(url, {"x-route": route})) for route in ROUTES]
        servers, receiver = stack.enter_context(monitoring(machine, admin))
        yield Target(machine, engine_port, admin, servers, receiver, loads)


def promtool(*words, text=None):
    done = subprocess.run(["promtool", *map(str, words)], input=text, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def files_are_valid(_):
    """promtool and amtool accept rules, alerts and both examples"""
    promtool("check", "rules", *(FILES / name for name in RULES))
    promtool("check", "config", FILES / "prometheus.yaml")
    subprocess.run(["amtool", "check-config", FILES / "alertmanager.yaml"], check=True, capture_output=True, timeout=60)


def short_files_are_valid(t):
    """promtool accepts the copies with short windows"""
    for server in t.servers:
        promtool("check", "config", server.config)


def rule_tests_pass(_):
    """promtool test rules: every alert fires and is silent where it should"""
    promtool("test", "rules", *sorted((FILES / "tests").glob("*.yaml")))


def metrics_are_valid(t):
    """promtool check metrics accepts /metrics"""
    promtool("check", "metrics", text=get(f"{t.admin}/metrics"))


def histograms_have_their_form(t):
    """one server has classic buckets, the other native histograms, and not both"""
    for server in t.servers:
        buckets = "count(llm_lens_client_ttft_seconds_bucket)"
        native = "count(histogram_count(llm_lens_client_ttft_seconds))"
        there, absent = (native, buckets) if server.kind == "native" else (buckets, native)
        assert eventually(lambda: server.value(there)), f"{server.kind}: no {there}"
        assert server.value(absent) is None, f"{server.kind}: {absent} is {server.value(absent)}"


def rules_are_evaluated(t):
    """every rule is evaluated without an error, and the series of the objectives exist for all routes"""
    def burn_rates(server):
        return {(labels["route"], labels["slo"]) for labels, _ in server.query("route:llm_lens_slo_burn:ratio3d")}

    want = {(route, slo) for route in ROUTES for slo in ("availability", "ttft", "tpot")}
    for server in t.servers:
        assert eventually(lambda: burn_rates(server) >= want, 30), f"{server.kind}: burn rates of {burn_rates(server)}"
        wrong = [(rule["name"], rule.get("lastError")) for rule in server.rules() if rule["health"] != "ok"]
        assert not wrong, f"{server.kind}: {wrong}"
        for series in ("route_backend:llm_lens_engine_ttft_seconds:quantile5m", "route:llm_lens_client_ttft_seconds:quantile5m",
                       "route_backend:llm_lens_time_per_output_token_seconds:quantile5m",
                       "route:llm_lens_client_inter_token_seconds:quantile5m"):
            complete = eventually(lambda: len(server.query(series)) == 3 * len(ROUTES))
            assert complete, f"{server.kind}: {series}: {server.query(series)}"


def percentiles_agree(t):
    """histogram_quantile agrees with /api/routes within the width of a bucket"""
    def values():
        return {name: timing["count"] for name, timing in t.timings("chat").items() if name in TIMINGS.values()}

    assert eventually(lambda: min(values().values(), default=0) >= MIN_VALUES, 60), f"counts of values: {values()}"
    for load in t.loads:
        load.go.clear()
    try:
        idle = 'sum(llm_lens_in_flight_requests{route="chat"}) == 0'
        worst = {server.kind: max(compare(t, server, idle), default=0) for server in t.servers}
    finally:
        for load in t.loads:
            load.go.set()
    return ", ".join(f"{kind}: at most a factor of {factor:.3f}" for kind, factor in worst.items())


def compare(t, server, idle):
    """How far off each percentile of a server is, as factors."""
    for metric, timing in TIMINGS.items():
        native = server.kind == "native"
        count = f'sum(histogram_count({metric}{{route="chat"}}))' if native else f'sum({metric}_count{{route="chat"}})'
        assert eventually(lambda: server.query(idle) and server.value(count) == t.timings("chat")[timing]["count"]), (
            f"{server.kind}: {count} is {server.value(count)}, /api/routes has {t.timings('chat')[timing]['count']}")
        for quantile, name in ((0.5, "p50_us"), (0.95, "p95_us"), (0.99, "p99_us")):
            series = f'sum({metric}{{route="chat"}})' if native else f'sum by (le) ({metric}_bucket{{route="chat"}})'
            got, want = server.value(f"histogram_quantile({quantile}, {series})"), t.timings("chat")[timing][name] / 1e6
            factor = max(got / want, want / got)
            assert factor <= TOLERANCE[server.kind], f"{server.kind}: {name} of {metric} is {got}, /api/routes has {want}"
            yield factor


def no_alert_without_a_cause(t):
    """no alert while both engines are well, but for the guardrail that holds answers"""
    alerts = [alert["labels"] for alert in t.receiver.find(0, "firing") if alert["labels"].get("route") != "guarded"]
    assert not alerts, alerts


def slow_guardrail(t):
    """a guardrail that holds answers until they end: the alert for the time to the first token arrives"""
    found = [eventually(lambda: t.receiver.find(0, "firing", alertname="LlmLensGuardrailOverhead", route="guarded", of="ttft",
                                                histograms=server.kind), ALERT_SECONDS)
             for server in t.servers]
    assert all(found), [alert["labels"] for alert in t.receiver.alerts]
    return found[0][0]["annotations"]["description"]


def slow_engine(t):
    """an engine that turns slow: the alerts for TTFT and TPOT arrive within 30 s, and name route and backend"""
    since = time.monotonic()
    t.engine(SLOW)
    notes = []
    for alertname in ("LlmLensTtftBurn", "LlmLensTpotBurn"):
        note, alert = t.alert(since, alertname, route="chat", severity="page")
        notes.append(note)
        described = alert["annotations"]["description"]
        assert "route chat" in described and described.endswith(": engine."), described
        assert alert["path"] == "/pages", alert["path"]
    return "; ".join(notes)


def alerts_resolve(t):
    """the alerts end when the engine is fast again"""
    since = time.monotonic()
    t.engine(FAST)

    def firing():
        """Alerts about the route whose last notification is not their end."""
        last = {str(sorted(alert["labels"].items())): alert for alert in list(t.receiver.alerts)}
        return [alert["labels"] for alert in last.values()
                if alert["status"] == "firing" and alert["labels"].get("route") == "chat"]

    def over():
        """Nothing burns in any window, so that no alert comes back."""
        burns = 'route:llm_lens_slo_burn:ratio3d{route="chat"} >= 1 or ALERTS{route="chat"}'
        return not any(server.query(burns) for server in t.servers) and not firing()

    assert firing(), "nothing fires"
    # Earlier, windows may hold too few values of the slow engine, or none.
    done = eventually(lambda: time.monotonic() - since > HISTORY_SECONDS and over(), RESOLVE_SECONDS)
    assert done, f"still firing after {RESOLVE_SECONDS} s: {firing()}"
    return f"after {time.monotonic() - since:.1f} s"


def dead_engine(t):
    """an engine that dies: the alerts for availability and for its pool arrive within 30 s"""
    since = time.monotonic()
    t.machine.stop("engine")
    burn, alert = t.alert(since, "LlmLensAvailabilityBurn", route="chat", severity="page")
    described = alert["annotations"]["description"]
    assert "route chat" in described and described.endswith(": engine."), described
    pool, _ = t.alert(since, "LlmLensPoolDown", pool="chat")
    return f"{burn}; {pool}"


def other_route_is_silent(t):
    """no alert names the other route"""
    alerts = [alert["labels"] for alert in t.receiver.find(0, "firing", route="steady")]
    assert not alerts, alerts


def dead_gateway(t):
    """a gateway that dies: the alert arrives within 30 s"""
    since = time.monotonic()
    t.machine.stop("gateway")
    return t.alert(since, "LlmLensDown")[0]


# In this order: the engine is fast until slow_engine, and gone after dead_engine.
CHECKS = (files_are_valid, short_files_are_valid, metrics_are_valid, histograms_have_their_form, rules_are_evaluated,
          percentiles_agree, slow_guardrail, no_alert_without_a_cause, slow_engine, alerts_resolve, dead_engine,
          other_route_is_silent, dead_gateway, rule_tests_pass)
