#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""OpenAI's client, the gateway and one real engine: a round that is short enough for every test run.

*In*: the gateway's binary, and the python and script that serve SmolLM2-135M with llama.cpp. *Out*: PASS or FAIL with a
reason for each check and for the gateway's records of its requests; then "real engine: N passed, N failed"; exit
status 1 if any failed. *Never*: a process that outlives the round, a fixed port, an expected text that depends on the
weights: a text is the engine's own, received without the gateway, or a grammar forces it.
"""
import argparse
import collections
import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

import openai

import record
import wire
from check_chat import WITH_USAGE, joined
from check_load import LONG, REQUEST_COUNTER, idle, stops_early
from checks import run
from record import Seen
from target import Target, equal, eventually, id_header, new_id, samples
from wire import usage_of

MODEL = "smollm2"
QUESTION = "Name three colors."
MAX_TOKENS = 40
# Without a prompt cache, equal requests are computed alike and report equal usage.
REPEATABLE = {"cache_prompt": False}
START_SECONDS = 60
ROUND_SECONDS = 300
# Tokens after which a stream is under way.
UNDER_WAY = 5

# Requests select the guarded routes by a header. With `api_key`, paths that are no known API are not forwarded.
SETTINGS = """
listeners: [{{address: "127.0.0.1:0"}}]
admin: {{address: "127.0.0.1:0"}}
backends: [{{name: engine, url: "{engine}", api_key: not-checked-by-the-engine}}]
guardrails:
  - {{name: prompts, input_pii: redact, input_secrets: block, output_pii: off}}
  - {{name: answers, input_pii: off, output_pii: mask, hold_time: 30s}} # a busy machine may stall the engine
routes:
  - {{name: prompts, match: {{headers: {{x-guarded: prompts}}}}, backend: engine, guardrail: prompts}}
  - {{name: answers, match: {{headers: {{x-guarded: answers}}}}, backend: engine, guardrail: answers}}
  - {{name: plain, match: {{headers: {{x-usage: as-requested}}}}, backend: engine}}
  - {{name: default, backend: engine, include_usage: inject}}
"""


class Expired(BaseException):
    """The round takes too long. It is no Exception, because a check that fails does not end the round."""


class Round(Target):
    """A target with the same engine without the gateway beside it, and the engine's process id."""

    def __init__(self, engine_url, base, admin, engine_pid):
        super().__init__(engine="llama-cpp", engine_url=engine_url, base=base, admin=admin, scripts={}, parses_reasoning=False)
        self.engine_pid = engine_pid
        self.direct = None if base == engine_url else Round(engine_url, engine_url, None, engine_pid)


def user(text):
    return [{"role": "user", "content": text}]


def forced(text):
    """Options that leave the engine one text to generate."""
    return {"extra_body": {"grammar": f"root ::= {json.dumps(text)}"}, "max_tokens": 200}


def create(t, prompt, request_id, headers=None, **options):
    options = {"temperature": 0, "max_tokens": MAX_TOKENS, "extra_body": REPEATABLE, **options}
    return t.openai().chat.completions.create(
        model=MODEL, messages=user(prompt), extra_headers={**id_header(request_id), **(headers or {})}, **options)


def whole(t, prompt, headers=None, **options):
    """A completion that is not streamed, and what was seen."""
    request_id = new_id()
    answer = create(t, prompt, request_id, headers, **options)
    return answer, Seen(request_id, stream=False, model_requested=MODEL, usage=usage_of(answer.usage.model_dump()),
                        finish_reasons=[answer.choices[0].finish_reason])


def streamed(t, prompt, headers=None, **options):
    """The chunks of a stream, and what was seen."""
    request_id = new_id()
    chunks = list(create(t, prompt, request_id, headers, stream=True, **options))
    usages = [usage_of(chunk.usage.model_dump()) for chunk in chunks if chunk.usage]
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    return chunks, Seen(request_id, stream=True, model_requested=MODEL, usage=usages[-1] if usages else None, finish_reasons=reasons)


def long_stream(t, request_id):
    """A stream that is under way and far from its end."""
    stream, tokens = create(t, QUESTION, request_id, stream=True, max_tokens=LONG, extra_body={"ignore_eos": True}), 0
    while tokens < UNDER_WAY:
        tokens += bool(joined([next(stream)]))
    return stream


def chat(t):
    """chat, whole answer: text, finish reason and usage are the engine's"""
    answer, seen = whole(t, QUESTION)
    alone, alone_seen = whole(t.direct, QUESTION)
    assert alone.choices[0].message.content, "the engine's text is empty"
    equal(answer.choices[0].message.content, alone.choices[0].message.content, "the text")
    equal((seen.usage, seen.finish_reasons), (alone_seen.usage, alone_seen.finish_reasons), "usage and finish reasons")
    equal((answer.model, answer.choices[0].message.role), (MODEL, "assistant"), "model and role")
    return [seen]


def chat_stream(t):
    """chat, streaming: the role is first, the pieces are the whole text, the finish reason is last"""
    chunks, seen = streamed(t, QUESTION, {"x-usage": "as-requested"})
    alone, alone_seen = whole(t.direct, QUESTION)
    equal(chunks[0].choices[0].delta.role, "assistant", "the role in the first chunk")
    assert len([chunk for chunk in chunks if joined([chunk])]) > 1, "the text came in one piece"
    equal(joined(chunks), alone.choices[0].message.content, "the text")
    equal(seen.finish_reasons, alone_seen.finish_reasons, "finish_reasons")
    equal([choice.finish_reason for choice in chunks[-1].choices], seen.finish_reasons, "the finish reason of the last chunk")
    return [seen]


def chat_stream_usage(t):
    """chat, streaming with include_usage: the last chunk has the engine's numbers"""
    chunks, seen = streamed(t, QUESTION, stream_options=WITH_USAGE)
    alone_chunks, alone = streamed(t.direct, QUESTION, stream_options=WITH_USAGE)
    equal((joined(chunks), len(chunks)), (joined(alone_chunks), len(alone_chunks)), "text and number of chunks")
    equal(chunks[-1].choices, [], "the choices of the usage chunk")
    equal((seen.usage, seen.finish_reasons), (alone.usage, alone.finish_reasons), "usage and finish reasons")
    return [seen]


def chat_stream_without_usage(t):
    """chat, streaming without include_usage: the client receives no usage, and the record has the engine's numbers"""
    chunks, seen = streamed(t, QUESTION)
    alone_chunks, _ = streamed(t.direct, QUESTION)
    _, counted = streamed(t.direct, QUESTION, stream_options=WITH_USAGE)
    equal([chunk for chunk in chunks if chunk.usage or not chunk.choices], [], "the usage chunks")
    equal((joined(chunks), len(chunks)), (joined(alone_chunks), len(alone_chunks)), "text and number of chunks")
    record.compare_usage(record.fetch(t.admin, seen.request_id)["usage"], counted)
    return [seen]


def cancel(t):
    """a client that leaves in mid-stream: the engine stops, and the next request is served"""
    before, request_id = idle(t), new_id()
    long_stream(t, request_id).close()
    stops_early(t, before)
    _, seen = whole(t, QUESTION)
    return [Seen(request_id, stream=True, outcome="client_gone", model_requested=MODEL), seen]


def guard_redacts(t):
    """guarded prompt, an e-mail address: the engine receives a placeholder"""
    secret = "My address is jane.roe@example.org. Write a greeting."
    redacted, seen = whole(t, secret, {"x-guarded": "prompts"})
    placeholder, same = whole(t.direct, secret.replace("jane.roe@example.org", "[EMAIL_ADDRESS_1]"))
    _, open_text = whole(t.direct, secret, max_tokens=1)
    assert same.usage["prompt_tokens"] != open_text.usage["prompt_tokens"], "the check cannot tell the prompts apart"
    equal(seen.usage, same.usage, "usage")
    equal(redacted.choices[0].message.content, placeholder.choices[0].message.content, "the text")
    return [seen]


def guard_blocks(t):
    """guarded prompt, a key: refused with content_blocked, and the engine receives nothing"""
    before, key, request_id = t.engine_metrics()["llamacpp:prompt_tokens_total"], "AKIA" + "Z7Q2MXN4RTV6WYB3", new_id()
    try:
        create(t, f"Use {key} to log in.", request_id, {"x-guarded": "prompts"}, stream=True)
    except openai.BadRequestError as error:
        equal(error.code, "content_blocked", "the code")
        assert key not in str(error), "the error repeats the key"
    else:
        raise AssertionError("the prompt was accepted")
    equal(t.engine_metrics()["llamacpp:prompt_tokens_total"], before, "the engine's prompt tokens")
    return [Seen(request_id, 400, outcome="blocked", model_requested=MODEL)]


def guard_masks(t):
    """guarded answer, streaming and whole: an e-mail address and a card number are masked, all else is unchanged"""
    said = "Dear Jane, write to jane.roe@example.org or pay with 4111 1111 1111 1111 today."
    masked = "Dear Jane, write to [EMAIL_ADDRESS] or pay with [CREDIT_CARD] today."
    options = forced(said)
    alone, _ = whole(t.direct, QUESTION, **options)
    equal(alone.choices[0].message.content, said, "the engine's text")
    chunks, one = streamed(t, QUESTION, {"x-guarded": "answers"}, stream_options=WITH_USAGE, **options)
    answer, other = whole(t, QUESTION, {"x-guarded": "answers"}, **options)
    equal(joined(chunks), masked, "the streamed text")
    equal(answer.choices[0].message.content, masked, "the whole text")
    return [one, other]


def guard_harmless(t):
    """guarded answer, nothing to mask: the stream is the engine's"""
    chunks, seen = streamed(t, QUESTION, {"x-guarded": "answers"}, stream_options=WITH_USAGE)
    alone_chunks, alone = streamed(t.direct, QUESTION, stream_options=WITH_USAGE)
    equal((joined(chunks), len(chunks)), (joined(alone_chunks), len(alone_chunks)), "text and number of chunks")
    equal((seen.usage, seen.finish_reasons), (alone.usage, alone.finish_reasons), "usage and finish reasons")
    return [seen]


def parallel(t):
    """two streams that are open at the same time, each with its own text"""
    texts = ["one two three four five six seven eight nine ten", "red green blue yellow black white brown orange pink gray"]
    requests = [new_id() for _ in texts]
    streams = [create(t, QUESTION, request_id, stream=True, stream_options=WITH_USAGE, **forced(text))
               for request_id, text in zip(requests, texts)]
    received = list(zip(*itertools.zip_longest(*streams)))
    seen, ids = [], []
    for request_id, text, chunks in zip(requests, texts, received):
        chunks = [chunk for chunk in chunks if chunk]
        equal(joined(chunks), text, f"the text of {request_id}")
        ids.append({chunk.id for chunk in chunks})
        seen.append(Seen(request_id, stream=True, model_requested=MODEL, usage=usage_of(chunks[-1].usage.model_dump()), finish_reasons=["stop"]))
    equal([len(one) for one in ids], [1, 1], "the completion ids of each stream")
    assert ids[0] != ids[1], "the streams have the same id"
    return seen


def models(t):
    """the list of models is the engine's"""
    equal([model.id for model in t.openai().models.list()], [MODEL], "the models")
    equal([model.id for model in t.openai().models.list()], [model.id for model in t.direct.openai().models.list()], "the models")


def unknown_path(t):
    """an unknown path is the gateway's 404"""
    try:
        t.openai().post("/nothing", body={"model": MODEL}, cast_to=object)
    except openai.NotFoundError as error:
        equal(error.code, "unknown_endpoint", "the code")
    else:
        raise AssertionError("it was forwarded")


def bad_request(t):
    """an error of the engine raises what it raises without the gateway"""
    raised = []
    for target in (t, t.direct):
        try:
            create(target, QUESTION, new_id(), max_tokens=1, extra_body={"grammar": "root ::= ("})
        except openai.BadRequestError as error:
            raised.append((error.status_code, error.body))
    equal(len(raised), 2, "the number of errors")
    equal(raised[0], raised[1], "status and body")


def metrics(t):
    """the metrics page parses, and its requests by outcome are those of the round"""
    def by_outcome():
        page = wire.send(t.admin, "/metrics")
        equal(page.status, 200, "status")
        counts = collections.Counter()
        for sample in samples(page.body.decode()):
            if sample.name == REQUEST_COUNTER:
                counts[sample.labels["outcome"]] += int(sample.value)
        return counts

    eventually(lambda: by_outcome().total() >= t.responses, seconds=10)
    counts = by_outcome()
    equal(counts.total(), t.responses, f"the sum of {REQUEST_COUNTER}")
    records = json.loads(wire.send(t.admin, "/api/requests?limit=1000").body)["requests"]
    equal(dict(counts), dict(collections.Counter(one["outcome"] for one in records)), f"{REQUEST_COUNTER} by outcome")
    for outcome in ("ok", "client_gone", "blocked", "upstream_error"):
        assert counts[outcome] > 0, f"no request with the outcome {outcome}"


def killed(t):
    """an engine that is killed in mid-stream: the client raises the gateway's APIError, in this stream and in the next request"""
    request_id = new_id()
    stream = long_stream(t, request_id)
    os.kill(t.engine_pid, signal.SIGKILL)
    try:
        for chunk in stream:
            reasons = [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
            assert not reasons, f"the stream ends with {reasons}"
    except openai.APIError as error:
        assert error.code, f"the error has no code: {error!r}"
    else:
        raise AssertionError("the stream ends without an error")
    try:
        create(t, QUESTION, new_id())
    except openai.InternalServerError as error:
        assert error.status_code in (502, 503) and error.code, f"the next error is {error!r}, code {error.code}"
    else:
        raise AssertionError("a request was served without an engine")
    return [Seen(request_id, stream=True, outcome="upstream_failed", model_requested=MODEL)]


# metrics looks back on the checks before it; killed leaves no engine.
CHECKS = (chat, chat_stream, chat_stream_usage, chat_stream_without_usage, cancel, guard_redacts, guard_blocks, guard_masks,
          guard_harmless, parallel, models, unknown_path, bad_request, metrics, killed)


@contextlib.contextmanager
def server(command, log, lines):
    """A process whose first `lines` of output are the last words of those lines; it is ended with the block."""
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)
    late = threading.Timer(START_SECONDS, process.kill)
    try:
        late.start()
        output = [process.stdout.readline() for _ in range(lines)]
        late.cancel()
        if not all(output):
            status = process.wait(timeout=START_SECONDS)
            raise RuntimeError(f"{pathlib.Path(command[0]).name} does not start, status {status}\n{tail(log)}")
        yield process, [next(word for word in line.split() if word.startswith("http://")) for line in output]
    finally:
        late.cancel()
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def tail(log):
    return "\n".join(log.read_text(errors="replace").splitlines()[-25:])


def run_round(options, folder, counts):
    settings, gateway_log = folder / "gateway.yaml", folder / "gateway.log"
    with contextlib.ExitStack() as stack:
        engine, [url] = stack.enter_context(server(options.engine, folder / "engine.log", 1))
        settings.write_text(SETTINGS.format(engine=url))
        command = [options.gateway, "gateway", "--config", str(settings)]
        _, (base, admin) = stack.enter_context(server(command, gateway_log, 2))
        target = Round(url, base, admin, engine.pid)
        for check in CHECKS:
            for title, result, reason in run(target, check):
                counts[result] += 1
                print(f"{result}  real engine: {title}" + (f"\n      {reason}" if reason else ""), flush=True)
        if counts["FAIL"]:
            print(f"the gateway's log:\n{tail(gateway_log)}")


def expire(*_):
    raise Expired(f"the round takes longer than {ROUND_SECONDS} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gateway", required=True, help="the gateway's binary")
    parser.add_argument("--engine", required=True, nargs="+", help="the command that starts the engine and prints its URL")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes end, too
    signal.signal(signal.SIGALRM, expire)
    signal.alarm(ROUND_SECONDS)
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_round(options, pathlib.Path(folder), counts)
        except (Exception, Expired) as failure:  # noqa: BLE001 - the last line is printed all the same
            counts["FAIL"] += 1
            print(f"FAIL  real engine: {type(failure).__name__}: {failure}")
    print(f"real engine: {counts['PASS']} passed, {counts['FAIL']} failed")
    sys.exit(counts["FAIL"] > 0)


if __name__ == "__main__":
    main()
