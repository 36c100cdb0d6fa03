# SPDX-License-Identifier: Apache-2.0
"""A guarded route: what the model says of a person and of a card does not reach the client, in any dialect.

The gateway of these checks has a second route with a guard; requests choose it by a header.
"""
import json

from check_chat import TOOL, expected_thought, joined, reasoning_of
from record import Seen
from target import MODEL, Skip, ask, equal, id_header, new_id
from wire import usage_of

MASKED = "Write to [EMAIL_ADDRESS] or pay [CREDIT_CARD] today"


BEFORE = "The sea is wide, deep and cold;"


def headers(t, guard="yes"):
    if not t.admin:
        raise Skip("no gateway")
    request_id = new_id()
    return request_id, {**id_header(request_id), "x-guarded": guard}


def shield_stream(t):
    """guarded chat, streaming, two choices"""
    request_id, extra = headers(t)
    chunks = list(t.openai().chat.completions.create(
        model=MODEL, messages=ask("private"), stream=True, n=2, extra_headers=extra, stream_options={"include_usage": True}))
    for index in (0, 1):
        equal(joined(chunks, index=index), MASKED, f"choice {index}")
    # llama.cpp states the tokens of each choice, vLLM their sum. The gateway records the sum.
    tokens, stated = t.scripts["private"]["tokens"], chunks[-1].usage.completion_tokens
    assert stated in (tokens, 2 * tokens), f"completion_tokens is {stated}, expected {tokens} for each choice"
    usage = usage_of(chunks[-1].usage.model_dump()) | {"completion_tokens": 2 * tokens}
    return [Seen(request_id, stream=True, usage=usage, finish_reasons=["stop", "stop"])]


def shield_whole(t):
    """guarded chat, whole answer"""
    request_id, extra = headers(t)
    answer = t.openai().chat.completions.create(model=MODEL, messages=ask("private"), extra_headers=extra)
    equal(answer.choices[0].message.content, MASKED, "the text")
    return [Seen(request_id, stream=False, usage=usage_of(answer.usage.model_dump()), finish_reasons=["stop"])]


def shield_harmless(t):
    """guarded chat, streaming, nothing to mask"""
    request_id, extra = headers(t)
    chunks = list(t.openai().chat.completions.create(model=MODEL, messages=ask("hello"), stream=True, extra_headers=extra))
    equal(joined(chunks), t.scripts["hello"]["text"], "the text")
    return [Seen(request_id, stream=True, finish_reasons=["stop"])]


def shield_messages(t):
    """guarded Messages, streaming"""
    request_id, extra = headers(t)
    with t.anthropic().messages.stream(model=MODEL, messages=ask("private"), max_tokens=60, extra_headers=extra) as events:
        answer = events.get_final_message()
    equal("".join(block.text for block in answer.content if block.type == "text"), MASKED, "the text")
    return [Seen(request_id, stream=True, usage=usage_of(answer.usage.model_dump()), finish_reasons=[answer.stop_reason])]


def shield_blocked(t):
    """blocked chat, streaming, two choices: cut before the phrase, ended by a content filter"""
    request_id, extra = headers(t, "stern")
    chunks = list(t.openai().chat.completions.create(model=MODEL, messages=ask("hello"), stream=True, n=2, extra_headers=extra))
    text = "".join(joined(chunks, index=index) for index in (0, 1))
    assert "ships" not in text, f"the text is {text!r}"
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert set(reasons) == {"content_filter"}, f"finish reasons are {reasons}"
    return [Seen(request_id, stream=True, outcome="blocked")]


def shield_blocked_whole(t):
    """blocked chat, whole answer: its texts are withheld, its usage is not"""
    request_id, extra = headers(t, "stern")
    answer = t.openai().chat.completions.create(model=MODEL, messages=ask("hello"), extra_headers=extra)
    equal((answer.choices[0].message.content or "", answer.choices[0].finish_reason), ("", "content_filter"), "text and finish reason")
    return [Seen(request_id, stream=False, outcome="blocked", usage=usage_of(answer.usage.model_dump()))]


def shield_refused_messages(t):
    """blocked Messages, streaming: a refusal"""
    request_id, extra = headers(t, "stern")
    with t.anthropic().messages.stream(model=MODEL, messages=ask("hello"), max_tokens=60, extra_headers=extra) as events:
        answer = events.get_final_message()
    text = "".join(block.text for block in answer.content if block.type == "text")
    equal((text.rstrip(), answer.stop_reason), (BEFORE, "refusal"), "text and stop reason")
    return [Seen(request_id, stream=True, outcome="blocked")]


def shield_judged(t):
    """judged chat, streaming: windows are held, judged, and all of them pass"""
    request_id, extra = headers(t, "stern")
    messages = ask("private")
    messages[-1]["content"] += " My address is jane.roe@example.org."
    raw = t.openai().chat.completions.with_raw_response.create(model=MODEL, messages=messages, stream=True, extra_headers=extra)
    assert raw.headers["x-security-validated"].startswith("redact"), raw.headers["x-security-validated"]
    equal(joined(list(raw.parse())), MASKED, "the text")
    return [Seen(request_id, stream=True, finish_reasons=["stop"])]


def shield_tool(t):
    """guarded chat, streaming, the arguments of a tool call"""
    request_id, extra = headers(t)
    chunks = list(t.openai().chat.completions.create(
        model=MODEL, messages=ask("tool"), stream=True, tools=[TOOL], extra_headers=extra))
    pieces = [call for c in chunks for choice in c.choices for call in choice.delta.tool_calls or []]
    equal(json.loads("".join(p.function.arguments or "" for p in pieces)), {"unit": "[SCALE]", "on": True}, "the arguments")
    return [Seen(request_id, stream=True, finish_reasons=["tool_calls"])]


def shield_think(t):
    """guarded chat, streaming, reasoning"""
    request_id, extra = headers(t)
    chunks = list(t.openai().chat.completions.create(model=MODEL, messages=ask("think"), stream=True, extra_headers=extra))
    thought = "".join(reasoning_of(choice.delta) for c in chunks for choice in c.choices)
    expected = tuple(text.replace("the waves", "[WAVES]") for text in expected_thought(t))
    assert "[WAVES]" in "".join(expected), f"nothing to mask in {expected}"
    equal((thought.strip(), joined(chunks).strip()), expected, "reasoning and text")
    return [Seen(request_id, stream=True, finish_reasons=["stop"])]


def shield_responses(t):
    """guarded Responses, streaming: in its deltas and in what it says again at its end"""
    request_id, extra = headers(t)
    events = list(t.openai().responses.create(
        model=MODEL, input=ask("private")[0]["content"], max_output_tokens=60, stream=True, extra_headers=extra))
    equal("".join(e.delta for e in events if e.type == "response.output_text.delta"), MASKED, "the streamed text")
    equal(events[-1].response.output_text, MASKED, "the text of the last event")
    return [Seen(request_id, stream=True, finish_reasons=["completed"])]


CHECKS = (shield_stream, shield_whole, shield_harmless, shield_messages, shield_tool, shield_think, shield_responses,
          shield_blocked, shield_blocked_whole, shield_refused_messages, shield_judged)
