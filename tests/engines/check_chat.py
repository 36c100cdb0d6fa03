# SPDX-License-Identifier: Apache-2.0
"""Chat completions through OpenAI's client: texts, usage, tool calls, reasoning, UTF-8, choices, limits."""
import json

from record import Seen, fetch
from target import MODEL, ask, equal, id_header, new_id
from wire import usage_of

TOOL = {"type": "function", "function": {"name": "set_unit", "description": "Set the unit", "parameters": {
    "type": "object", "properties": {"unit": {"type": "string"}, "on": {"type": "boolean"}}, "required": ["unit", "on"]}}}
TOOL_ARGUMENTS = {"unit": "celsius", "on": True}
WITH_USAGE = {"include_usage": True}
SPLIT_ATTEMPTS = 8


def whole(t, script, **options):
    """A non-streaming request; returns the completion and what was seen."""
    request_id = new_id()
    answer = t.openai().chat.completions.create(model=MODEL, messages=ask(script), extra_headers=id_header(request_id), **options)
    return answer, Seen(request_id, stream=False, usage=usage_of(answer.usage.model_dump()),
                        finish_reasons=sorted(c.finish_reason for c in answer.choices))


def streamed(t, script, **options):
    """A streaming request; returns its chunks and what was seen."""
    request_id = new_id()
    chunks = list(t.openai().chat.completions.create(
        model=MODEL, messages=ask(script), stream=True, extra_headers=id_header(request_id), **options))
    usages = [c.usage for c in chunks if c.usage]
    reasons = sorted(choice.finish_reason for c in chunks for choice in c.choices if choice.finish_reason)
    return chunks, Seen(request_id, stream=True, usage=usage_of(usages[-1].model_dump()) if usages else None, finish_reasons=reasons)


def joined(chunks, field="content", index=0):
    return "".join(getattr(choice.delta, field, None) or "" for c in chunks for choice in c.choices if choice.index == index)


def reasoning_of(message):
    """Engines disagree on the name of this field, and OpenAI's client knows neither."""
    return getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None) or ""


def has_usage(t, script, usage):
    equal(usage.completion_tokens, t.scripts[script]["tokens"], "completion_tokens")
    assert usage.prompt_tokens > 0, "no prompt tokens"
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total_tokens")


def chat(t):
    """chat, whole answer"""
    answer, seen = whole(t, "hello")
    equal(answer.choices[0].message.content, t.scripts["hello"]["text"], "the text")
    equal(answer.choices[0].finish_reason, "stop", "finish_reason")
    equal(answer.model, MODEL, "model")
    has_usage(t, "hello", answer.usage)
    return [seen]


def chat_stream(t):
    """chat, streaming with usage"""
    chunks, seen = streamed(t, "hello", stream_options=WITH_USAGE)
    equal(joined(chunks), t.scripts["hello"]["text"], "the text")
    equal(seen.finish_reasons, ["stop"], "finish_reasons")
    equal(joined(chunks, "role"), "assistant", "the role")
    equal(chunks[-1].choices, [], "the choices of the usage event")
    has_usage(t, "hello", chunks[-1].usage)
    return [seen]


def chat_stream_without_usage(t):
    """chat, streaming, usage not asked for and not shown"""
    chunks, seen = streamed(t, "hello")
    equal(joined(chunks), t.scripts["hello"]["text"], "the text")
    equal([c for c in chunks if c.usage or not c.choices], [], "the usage events")
    return [seen]


def chat_utf8(t):
    """chat, characters whose bytes are tokens of their own"""
    answer, one = whole(t, "utf8")
    chunks, other = streamed(t, "utf8", stream_options=WITH_USAGE)
    equal(answer.choices[0].message.content, t.scripts["utf8"]["text"], "the whole text")
    equal(joined(chunks), t.scripts["utf8"]["text"], "the streamed text")
    has_usage(t, "utf8", answer.usage)
    has_usage(t, "utf8", chunks[-1].usage)
    return [one, other]


def chat_tool(t):
    """chat, a tool call in a whole answer"""
    answer, seen = whole(t, "tool", tools=[TOOL])
    calls = answer.choices[0].message.tool_calls
    equal([(c.function.name, json.loads(c.function.arguments)) for c in calls], [("set_unit", TOOL_ARGUMENTS)], "the tool calls")
    equal(answer.choices[0].finish_reason, "tool_calls", "finish_reason")
    has_usage(t, "tool", answer.usage)
    return [seen]


def chat_tool_stream(t):
    """chat, a tool call in a stream"""
    chunks, seen = streamed(t, "tool", tools=[TOOL], stream_options=WITH_USAGE)
    pieces = [call for c in chunks for choice in c.choices for call in choice.delta.tool_calls or []]
    equal("".join(p.function.name or "" for p in pieces), "set_unit", "the name")
    equal(json.loads("".join(p.function.arguments or "" for p in pieces)), TOOL_ARGUMENTS, "the arguments")
    equal(seen.finish_reasons, ["tool_calls"], "finish_reasons")
    has_usage(t, "tool", chunks[-1].usage)
    return [seen]


def expected_thought(t):
    """The reasoning and the answer of `think`: apart where the engine parses reasoning, else all of it answer."""
    text = t.scripts["think"]["text"]
    if not t.parses_reasoning:
        return "", text
    thought, answer = text.removeprefix("<think>").split("</think>")
    return thought.strip(), answer.strip()


def chat_think(t):
    """chat, reasoning in a whole answer"""
    answer, seen = whole(t, "think")
    message = answer.choices[0].message
    equal((reasoning_of(message).strip(), message.content.strip()), expected_thought(t), "reasoning and text")
    has_usage(t, "think", answer.usage)
    return [seen]


def chat_think_stream(t):
    """chat, reasoning in a stream"""
    chunks, seen = streamed(t, "think", stream_options=WITH_USAGE)
    thought = "".join(reasoning_of(choice.delta) for c in chunks for choice in c.choices)
    equal((thought.strip(), joined(chunks).strip()), expected_thought(t), "reasoning and text")
    has_usage(t, "think", chunks[-1].usage)
    return [seen]


def chat_limit(t):
    """chat, cut at max_tokens"""
    answer, one = whole(t, "hello", max_tokens=3)
    chunks, other = streamed(t, "hello", max_tokens=3, stream_options=WITH_USAGE)
    equal(one.finish_reasons + other.finish_reasons, ["length", "length"], "finish_reasons")
    equal(answer.choices[0].message.content, "The sea is wide,", "the whole text")
    equal(joined(chunks), "The sea is wide,", "the streamed text")
    equal((one.usage["completion_tokens"], other.usage["completion_tokens"]), (3, 3), "completion_tokens")
    return [one, other]


def chat_two_choices(t):
    """chat, two choices in one stream"""
    chunks, seen = streamed(t, "hello", n=2, stream_options=WITH_USAGE)
    equal([joined(chunks, index=n) for n in (0, 1)], [t.scripts["hello"]["text"]] * 2, "the texts")
    equal(seen.finish_reasons, ["stop", "stop"], "finish_reasons")
    # vLLM's usage is the sum; llama.cpp's is that of each choice, which the gateway adds up.
    seen.usage["completion_tokens"] = 2 * t.scripts["hello"]["tokens"]
    return [seen]


def chat_split(t):
    """chat, the engine's own report on its time"""
    parts = ("queue_us", "prefill_us", "decode_us") if t.engine == "vllm" else ("prefill_us", "decode_us")
    return [agreeing(t, parts, lambda: whole(t, "hello")),
            agreeing(t, parts, lambda: streamed(t, "hello", stream_options=WITH_USAGE))]


def agreeing(t, parts, request):
    """The first of some requests on which engine and gateway agree: a process that waits for a busy core measures something else."""
    for _ in range(SPLIT_ATTEMPTS):
        _, seen = request()
        seen.split = parts
        if t.admin is None or not fetch(t.admin, seen.request_id).get("engine_split", {}).get("disagrees"):
            break
    return seen


CHECKS = (chat, chat_stream, chat_stream_without_usage, chat_utf8, chat_tool, chat_tool_stream, chat_think, chat_think_stream,
          chat_limit, chat_two_choices, chat_split)
