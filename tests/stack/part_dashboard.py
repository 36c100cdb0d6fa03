# SPDX-License-Identifier: Apache-2.0
"""The dashboard, in a real headless Chromium, on data of a real run.

*In*: a machine. *Out*: checks. Of two backends, one is slow; a client names a model that would be markup; a guardrail flags.
*Never*: another host: the browser's network is closed but for the gateway.
"""
import contextlib
import json
import pathlib
import subprocess
import urllib.error
import urllib.request

from machine import eventually, free_port, get_json

NAME = "dashboard"
PACKAGES = ("playwright==1.65.2", "axe-playwright-python==0.1.8")
BROWSER = pathlib.Path(__file__).with_name("browser.py")
REQUESTS = 60
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"

SETTINGS = """
record_store: {{path: "{records}"}}
backends:
  - {{name: edge, url: "{fast}"}}
  - {{name: cloud, url: "{slow}"}}
guardrails: [{{name: checked, input_injection: flag, input_pii: redact}}]
pools: [{{name: all, backends: [edge, cloud], balance: round_robin}}]
routes: [{{name: chat, pool: all, guardrail: checked}}]
objectives: [{{route: chat, ttft: {{p95: 100ms}}, availability: 99}}]
rate_limits: [{{name: daily, unit: requests, amount: 500, window: day, per: all}}]
"""


GUARDED = """
record_store: {{path: "{records}"}}
backends: [{{name: edge, url: "{fast}"}}]
routes: [{{name: chat, backend: edge}}]
"""
TOKENS = {"ops": "a-token-of-an-operator", "grafana": "a-token-of-a-viewer"}
ADMIN = (f', auth: {{tokens: [{{name: ops, token: {TOKENS["ops"]}, role: operator}}, '
         f'{{name: grafana, token: {TOKENS["grafana"]}}}]}}')


class Target:
    def __init__(self, machine, python, admin, listen, guarded):
        self.machine, self.python, self.admin, self.listen, self.guarded = machine, python, admin, listen, guarded

    def browse(self, *words, admin=None):
        """Run one script of browser.py; returns what it found, and fails with its output."""
        command = [self.python, "-B", BROWSER, admin or self.admin, *words]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout.strip()

    def ask(self, model="m"):
        body = json.dumps({"model": model, "stream": True, "max_tokens": 8,
                           "messages": [{"role": "user", "content": "say hello to joe@example.com"}]}).encode()
        request = urllib.request.Request(self.listen + "/v1/chat/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()


@contextlib.contextmanager
def start(machine):
    machine.tool("chromium", "chromium")
    python = machine.venv("dashboard", *PACKAGES)
    fast = machine.engine("fast", free_port(), "--base", "10ms", "--decode", "2ms", "--model", "m")
    slow = machine.engine("slow", free_port(), "--base", "400ms", "--decode", "4ms", "--model", "m")
    listen, admin = machine.gateway("gateway", SETTINGS.format(records=machine.folder / "records", fast=fast, slow=slow))
    _, guarded = machine.gateway("guarded", GUARDED.format(records=machine.folder / "guarded-records", fast=fast), ADMIN)
    target = Target(machine, python, admin, listen, guarded)
    for _ in range(REQUESTS):
        target.ask()
    with contextlib.suppress(urllib.error.HTTPError):
        target.ask(HOSTILE)
    stored = eventually(lambda: len(get_json(admin + "/api/records", limit=100)["records"]) >= REQUESTS)
    assert stored, "the records are not stored"
    yield target


def pages_are_accessible(target):
    """Each page is shown at 390 and 1440 pixels, light and dark; axe finds nothing, nothing is wider than the screen."""
    return target.browse("pages", target.machine.cache / "screenshots")


def a_newcomer_finds_the_slow_backend(target):
    """The overview names the slow backend, and leads to one of its requests and to the state that took the time."""
    return target.browse("newcomer")


def the_tail_is_live(target):
    """The live tail shows a request as it ends; a paused one does not move."""
    target.machine.spawn("tail", [target.python, "-B", BROWSER, target.admin, "tail"])
    process = target.machine.running["tail"]
    # The script says when it watches, when it has paused, and when it is content.
    for word in ("watching", "paused"):
        said = eventually(lambda word=word: word in target.machine.log("tail").read_text(), seconds=30)
        assert said, target.machine.log("tail").read_text()
        target.ask()
        target.ask()
    ended = eventually(lambda: process.poll() is not None, seconds=30)
    assert ended and process.returncode == 0, target.machine.log("tail").read_text()


def a_token_signs_in(target):
    """A gateway with admin.auth shows a form; a token opens the pages and the live tail, until it signs out."""
    return target.browse("sign_in", target.machine.cache / "screenshots", *TOKENS.values(), admin=target.guarded)


def the_playground_streams(target):
    """A chat of the playground is answered as it arrives, and its waterfall is shown; a stopped one says so."""
    return target.browse("playground", target.machine.cache / "screenshots")


def settings_are_checked(target):
    """A text on the settings page is checked: what it would change, and when; problems with their lines."""
    return target.browse("settings", target.machine.cache / "screenshots", target.machine.folder / "gateway.yaml")


def views_are_saved(target):
    """A name for filters stays in the browser, leads to the requests, and can be deleted."""
    return target.browse("views", target.machine.cache / "screenshots")


def names_are_no_markup(target):
    """A model's name with markup is text, on every page that shows it."""
    return target.browse("hostile")


def unreadable_records_hide_nothing_else(target):
    """While stored records cannot be read, pages say so and show what the gateway has in memory."""
    return target.browse("unreadable")


def a_restart_is_survived(target):
    """The page says that the gateway does not answer, and continues when it does."""
    target.machine.spawn("restart", [target.python, "-B", BROWSER, target.admin, "restart"])
    process = target.machine.running["restart"]
    log = target.machine.log("restart")
    assert eventually(lambda: "shown" in log.read_text(), seconds=30), log.read_text()
    target.machine.stop("gateway")
    assert eventually(lambda: "alone" in log.read_text(), seconds=30), log.read_text()
    target.machine.spawn("gateway", [target.machine.binary, "gateway", "--config", target.machine.folder / "gateway.yaml"])
    ended = eventually(lambda: process.poll() is not None, seconds=30)
    assert ended and process.returncode == 0, log.read_text()


CHECKS = (pages_are_accessible, a_newcomer_finds_the_slow_backend, the_tail_is_live, a_token_signs_in,
          the_playground_streams, settings_are_checked, views_are_saved, names_are_no_markup,
          unreadable_records_hide_nothing_else, a_restart_is_survived)
