# SPDX-License-Identifier: Apache-2.0
"""Nothing is altered on the way: answers, errors and lists are what the engine itself would have sent.

Each request goes to the engine directly and then through the gateway. Fields that differ between any two answers (ids,
times) are masked; of everything else the order of keys, the digits of numbers and the framing of streams must be equal.
"""
import anthropic
import openai

import wire
from check_chat import TOOL, WITH_USAGE
from check_dialects import ANTHROPIC_TOOL, PROMPT
from record import seen_raw
from target import MODEL, Skip, ask, equal
from wire import CHAT, COMPLETIONS, MESSAGES, RESPONSES

# How often an engine that merges events may be asked again until it cuts an answer in the same way twice.
ATTEMPTS = 5


def same_answer(t, path, body, method=None):
    """Ask both, compare, and return what was seen through the gateway."""
    wire.send(t.engine_url, path, body, method=method)  # fills the prompt cache, so that both report the same cached tokens
    attempts, seen = ATTEMPTS if t.merges_events else 1, []
    for attempt in range(attempts):
        direct = wire.send(t.engine_url, path, body, method=method)
        through = t.send(path, body, method=method)
        seen.append(seen_raw(through, body))
        equal(through.status, direct.status, "status")
        equal(through.headers.get("content-type"), direct.headers.get("content-type"), "content-type")
        same = wire.lines_of(through) == wire.lines_of(direct)
        if t.merges_events and direct.is_stream:
            same = same or wire.folded_events(through) == wire.folded_events(direct)
        if same:
            return seen
    raise AssertionError(first_difference(wire.lines_of(through), wire.lines_of(direct)))


def first_difference(got, want):
    for number, (a, b) in enumerate(zip(got, want)):
        if a != b:
            return f"line {number} is {a!r}, the engine alone sends {b!r}"
    return f"{len(got)} lines, the engine alone sends {len(want)}"


def chat_body(script, **options):
    return {"model": MODEL, "messages": ask(script), "temperature": 0, **options}


def chats_unaltered(t):
    """unaltered: chat streams"""
    usage = {"stream": True, "stream_options": WITH_USAGE}
    bodies = [chat_body("hello", **usage), chat_body("utf8", **usage), chat_body("tool", tools=[TOOL], **usage),
              chat_body("hello", logprobs=True, top_logprobs=2, **usage)]
    return [seen for body in bodies for seen in same_answer(t, CHAT, body)]


def chat_without_usage_unaltered(t):
    """unaltered: a chat stream whose client did not ask for usage, whether or not the gateway does"""
    return same_answer(t, CHAT, chat_body("hello", stream=True))


def think_unaltered(t):
    """unaltered: reasoning in chat, Responses and Messages"""
    usage = {"stream": True, "stream_options": WITH_USAGE}
    requests = [(CHAT, chat_body("think", **usage)), (CHAT, chat_body("think")),
                (RESPONSES, {"model": MODEL, "input": ask("think")[0]["content"], "max_output_tokens": 60, "stream": True}),
                (MESSAGES, chat_body("think", max_tokens=60, stream=True))]
    return [seen for path, body in requests for seen in same_answer(t, path, body)]


def whole_answers_unaltered(t):
    """unaltered: whole answers of every dialect"""
    requests = [(CHAT, chat_body("hello")), (CHAT, chat_body("tool", tools=[TOOL])), (CHAT, chat_body("utf8")),
                (COMPLETIONS, {"model": MODEL, "prompt": PROMPT, "max_tokens": 60}),
                (RESPONSES, {"model": MODEL, "input": ask("hello")[0]["content"], "max_output_tokens": 60}),
                (MESSAGES, chat_body("hello", max_tokens=60))]
    return [seen for path, body in requests for seen in same_answer(t, path, body)]


def dialects_unaltered(t):
    """unaltered: streams of the other dialects"""
    requests = [(COMPLETIONS, {"model": MODEL, "prompt": PROMPT, "max_tokens": 60, "stream": True, "stream_options": WITH_USAGE}),
                (RESPONSES, {"model": MODEL, "input": ask("utf8")[0]["content"], "max_output_tokens": 60, "stream": True}),
                (MESSAGES, chat_body("utf8", max_tokens=60, stream=True)),
                (MESSAGES, chat_body("tool", max_tokens=60, stream=True, tools=[ANTHROPIC_TOOL]))]
    return [seen for path, body in requests for seen in same_answer(t, path, body)]


def long_stream_unaltered(t):
    """unaltered: a stream of 300 tokens that goes past the script's end"""
    body = chat_body("hello", stream=True, stream_options=WITH_USAGE, max_tokens=300, ignore_eos=True)
    found = same_answer(t, CHAT, body)
    for seen in found:
        equal((seen.usage["completion_tokens"], seen.finish_reasons), (300, ["length"]), "tokens and finish reasons")
    return found


def models(t):
    """models are listed as the engine lists them"""
    equal([m.id for m in t.openai().models.list()], [MODEL], "the models")
    same_answer(t, "/v1/models", None)


def errors(t):
    """errors keep their status and body"""
    bodies = [
        (CHAT, chat_body("hello", temperature="hot")), (CHAT, chat_body("hello", temperature="hot", stream=True)),
        (CHAT, chat_body("hello", max_tokens=-5, stream=True)),
        (CHAT, chat_body("hello", messages=[{"role": "user", "content": "word " * 4000}])),
        (CHAT, b'{"model": "scripted", "messages": ['), (COMPLETIONS, {"model": MODEL, "prompt": PROMPT, "temperature": "hot"}),
        (MESSAGES, chat_body("hello", max_tokens=60, temperature="hot"))]
    for path, body in bodies:
        for seen in same_answer(t, path, body):
            assert seen.status >= 400, f"{path} answered {seen.status} to {str(body)[:80]}"


def unknown_paths(t):
    """embeddings are refused by the engine, unknown paths by the gateway"""
    same_answer(t, "/v1/embeddings", {"model": MODEL, "input": ["blue"]})
    # The settings have `auth`: only model APIs and public reads are forwarded.
    for body in ({"a": 1}, None):
        equal(t.send("/v1/nothing", body).status, 404, "status")
    try:
        t.openai().embeddings.create(model=MODEL, input="blue")
    except (openai.NotFoundError, openai.InternalServerError) as error:  # vLLM 404, llama.cpp 501
        assert error.status_code in (404, 501), error
    else:
        raise AssertionError("the engine made embeddings")


def unknown_model(t):
    """an unknown model is the engine's error"""
    if t.engine == "llama-cpp":
        raise Skip("llama.cpp answers to any model name")
    for body in (chat_body("hello", model="no-such"), chat_body("hello", model="no-such", stream=True)):
        equal({seen.status for seen in same_answer(t, CHAT, body)}, {404}, "status")


def client_exceptions(t):
    """official clients raise what they raise for the engine itself"""
    def openai_error():
        t.openai().chat.completions.create(model=MODEL, messages=ask("hello"), max_tokens=-5)

    def anthropic_error():
        t.anthropic().messages.create(model=MODEL, messages=ask("hello"), max_tokens=60, extra_body={"temperature": "hot"})

    for call, kind in ((openai_error, openai.BadRequestError), (anthropic_error, anthropic.BadRequestError)):
        try:
            call()
        except kind as error:
            assert error.body, "the error has no body"
        else:
            raise AssertionError(f"no {kind.__name__}")


CHECKS = (chats_unaltered, chat_without_usage_unaltered, think_unaltered, whole_answers_unaltered, dialects_unaltered,
          long_stream_unaltered, models, errors, unknown_paths, unknown_model, client_exceptions)
