# SPDX-License-Identifier: Apache-2.0
"""Where the checks send their requests: one engine, directly or through the gateway.

*In*: base URLs and the model's scripts. *Out*: the official clients, request ids, and what the engine says of its own
work. Every response of the gateway must carry the request id that the client sent; the clients' hooks watch for it.
"""
import time
import uuid
from dataclasses import dataclass, field

import anthropic
import openai
from prometheus_client.parser import text_string_to_metric_families

import wire

MODEL = "scripted"
# The name under which each engine counts the requests it works on or has queued.
BUSY = {"vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting"),
        "llama-cpp": ("llamacpp:requests_processing", "llamacpp:requests_deferred")}


class Skip(Exception):
    """This check cannot run here; the message says why."""


@dataclass
class Target:
    """`base` is what the clients talk to; `admin` is None when that is the engine itself."""
    engine: str
    engine_url: str
    base: str
    admin: str | None
    scripts: dict
    parses_reasoning: bool
    wrong_ids: list = field(default_factory=list)
    responses: int = 0  # with a status, from `base`

    @property
    def merges_events(self):
        """vLLM puts several tokens into one event when its API process lags, so two answers may be cut differently."""
        return self.engine == "vllm"

    def openai(self):
        client = openai.DefaultHttpxClient(event_hooks={"response": [self.watch_id]})
        return openai.OpenAI(base_url=f"{self.base}/v1", api_key="none", max_retries=0, timeout=120, http_client=client)

    def async_openai(self):
        async def watch(response):
            self.watch_id(response)
        client = openai.DefaultAsyncHttpxClient(event_hooks={"response": [watch]})
        return openai.AsyncOpenAI(base_url=f"{self.base}/v1", api_key="none", max_retries=0, timeout=120, http_client=client)

    def anthropic(self):
        client = anthropic.DefaultHttpxClient(event_hooks={"response": [self.watch_id]})
        return anthropic.Anthropic(base_url=self.base, api_key="none", max_retries=0, timeout=120, http_client=client)

    def send(self, path, body=None, *, method=None):
        """One request without a client library, with a request id of its own."""
        exchange = wire.send(self.base, path, body, request_id=new_id(), method=method)
        self.note_id(exchange.request_id, exchange.headers.get("x-request-id"))
        return exchange

    def watch_id(self, response):
        self.note_id(response.request.headers.get("x-request-id"), response.headers.get("x-request-id"))

    def note_id(self, sent, returned):
        """A response carries the id of its request, or a new one where the request had none."""
        self.responses += 1
        if self.admin and (not returned or sent and sent != returned):
            self.wrong_ids.append((sent, returned))

    def engine_metrics(self):
        """The engine's own metrics: {sample name: sum over its labels}."""
        text = wire.send(self.engine_url, "/metrics").body.decode()
        totals = {}
        for sample in samples(text):
            totals[sample.name] = totals.get(sample.name, 0) + sample.value
        return totals

    def engine_busy(self):
        """How many requests the engine works on or has queued."""
        metrics = self.engine_metrics()
        return sum(metrics[name] for name in BUSY[self.engine])


def samples(text):
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def new_id():
    return f"check-{uuid.uuid4().hex}"


def id_header(request_id):
    return {"x-request-id": request_id}


def ask(script):
    """The messages that make the model answer with a script."""
    return [{"role": "user", "content": f"Please [[{script}]] now"}]


def eventually(probe, seconds=15, pause=0.05):
    """Ask until the answer is true; returns the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()) and time.monotonic() < deadline:
        time.sleep(pause)
    return answer


def equal(got, want, what):
    assert got == want, f"{what} is {got!r}, expected {want!r}"
