# SPDX-License-Identifier: Apache-2.0
"""Clients that leave, many at once, and the counters: that the engine stops generating, that fifty streams
do not mix, and that the gateway's metrics count what was done."""
import asyncio
import json
import time

import wire
from record import Seen
from target import MODEL, Skip, ask, equal, eventually, id_header, new_id, samples
from wire import CHAT, usage_of

STREAMS = 50
# More than an engine makes in seconds, so that an engine that went on would be seen to.
LONG = 1900
# llama.cpp looks for a client that left when its queue was silent for a second, and a look at its metrics is not silence.
METRICS_PAUSE = 1.5
REQUEST_COUNTER = "llm_lens_requests_total"


def generated(t):
    """Tokens the engine has made so far."""
    metrics = t.engine_metrics()
    return metrics["vllm:generation_tokens_total" if t.engine == "vllm" else "llamacpp:tokens_predicted_total"]


def idle(t):
    """Wait until the engine has nothing to do; returns the tokens it has made so far."""
    assert eventually(lambda: t.engine_busy() == 0), "the engine is busy before the check"
    return generated(t)


def stops_early(t, before):
    """The engine becomes idle without having made all that it was asked for."""
    time.sleep(METRICS_PAUSE)
    assert eventually(lambda: t.engine_busy() == 0, pause=METRICS_PAUSE), f"the engine still works on {t.engine_busy()} requests"
    made = generated(t) - before
    assert made < LONG, f"the engine made all {made:.0f} tokens for a client that had left"


def cancel_stream(t):
    """a client that leaves in mid-stream stops the engine"""
    before, request_id = idle(t), new_id()
    stream = t.openai().chat.completions.create(model=MODEL, messages=ask("hello"), stream=True, max_tokens=LONG,
                                                extra_body={"ignore_eos": True}, extra_headers=id_header(request_id))
    while not any(choice.delta.content for choice in next(stream).choices):
        pass
    stream.close()
    stops_early(t, before)
    return [Seen(request_id, stream=True, outcome="client_gone")]


def cancel_whole(t):
    """a client that leaves while it waits for a whole answer stops the engine"""
    before, request_id = idle(t), new_id()
    body = {"model": MODEL, "messages": ask("hello"), "max_tokens": LONG, "ignore_eos": True}
    connection = wire.connect(t.base)
    connection.request("POST", CHAT, json.dumps(body), {"content-type": "application/json", **id_header(request_id)})
    assert eventually(lambda: t.engine_busy() == 1), "the engine never began"
    connection.close()
    stops_early(t, before)
    return [Seen(request_id, None, False, "client_gone")]  # no status: none was sent


def concurrent_streams(t):
    """50 streams at once, each with its own text"""
    async def one(client, script):
        request_id, text, usage = new_id(), "", None
        stream = await client.chat.completions.create(model=MODEL, messages=ask(script), stream=True,
                                                      stream_options={"include_usage": True}, extra_headers=id_header(request_id))
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        equal(text, t.scripts[script]["text"], f"the text of {request_id}")
        equal(usage.completion_tokens, t.scripts[script]["tokens"], f"completion_tokens of {request_id}")
        return Seen(request_id, stream=True, usage=usage_of(usage.model_dump()), finish_reasons=["stop"])

    async def all_of_them():
        async with t.async_openai() as client:
            return await asyncio.gather(*(one(client, "hello" if n % 2 else "utf8") for n in range(STREAMS)))

    return asyncio.run(all_of_them())


def metrics(t):
    """the gateway's metrics parse and count requests"""
    if not t.admin:
        raise Skip("no gateway")

    def counted():
        exposition = wire.send(t.admin, "/metrics")
        equal(exposition.status, 200, "status")
        found = [sample.value for sample in samples(exposition.body.decode()) if sample.name == REQUEST_COUNTER]
        return sum(found)

    requests, before = 7, counted()
    for n in range(requests):
        equal(t.send(CHAT, {"model": MODEL, "messages": ask("hello"), "stream": n % 2 == 0}).status, 200, "status")
    eventually(lambda: counted() - before >= requests, seconds=10)
    equal(counted() - before, requests, f"the growth of {REQUEST_COUNTER}")


def request_ids(t):
    """every response carried the id of its request"""
    if not t.admin:
        raise Skip("no gateway")
    equal(t.wrong_ids, [], "the ids sent and returned that differ")


# request_ids is last: it looks back on all the others.
CHECKS = (cancel_stream, cancel_whole, concurrent_streams, metrics, request_ids)
