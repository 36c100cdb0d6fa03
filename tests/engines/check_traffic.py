# SPDX-License-Identifier: Apache-2.0
"""Limits and keys with the official clients: a stream is cut at its budget, the client takes that for an end, and the charge is what it got."""
import os

import openai

import record
from target import MODEL, Skip, ask, id_header, new_id

# What the routes `limited` and `limited-claude` of run.sh allow in all.
BUDGET = 20
CLAUDE_BUDGET = 4
LONG = 400


def gateway_only(t):
    if not t.admin:
        raise Skip("no gateway")


def charged(t, request_id):
    """What the record says that the request used."""
    seen = record.fetch(t.admin, request_id)
    assert seen["outcome"] == "limited", seen["outcome"]
    assert seen["error_code"] == "budget_exhausted", seen
    return seen["usage"]["completion_tokens"]


def budget_chat(t):
    """a stream is cut at its budget, and the OpenAI client reads a proper end"""
    gateway_only(t)
    request_id = new_id()
    headers = {"x-limited": "chat", **id_header(request_id)}
    stream = t.openai().chat.completions.create(model=MODEL, messages=ask("hello"), stream=True, max_tokens=LONG,
                                                extra_body={"ignore_eos": True}, extra_headers=headers)
    events, reasons = 0, []
    for chunk in stream:
        events += sum(bool(choice.delta.content) for choice in chunk.choices)
        reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["length"], reasons
    tokens = charged(t, request_id)
    # An event may be several tokens where the engine merges them, and then four bytes count as one.
    assert events <= tokens and (t.merges_events or BUDGET <= tokens <= BUDGET + 10), (events, tokens)
    try:
        t.openai().chat.completions.create(model=MODEL, messages=ask("hello"), max_tokens=5, extra_headers={"x-limited": "chat"})
    except openai.RateLimitError as error:
        assert error.code == "rate_limit_exceeded" and error.response.headers["retry-after"], error
    else:
        raise AssertionError("the budget is gone, and a request passed")


def budget_claude(t):
    """the same with the Anthropic client"""
    gateway_only(t)
    request_id = new_id()
    with t.anthropic().messages.stream(model=MODEL, max_tokens=LONG, messages=ask("hello"), extra_body={"ignore_eos": True},
                                       extra_headers={"x-limited": "claude", **id_header(request_id)}) as stream:
        message = stream.get_final_message()
    # The script has eight tokens; where the engine puts all of them into one event there is nothing to cut.
    if not (t.merges_events and message.stop_reason == "end_turn"):
        assert message.stop_reason == "max_tokens", message.stop_reason
        assert message.content and charged(t, request_id) >= CLAUDE_BUDGET


def keys(t):
    """a key passes, and no other"""
    gateway_only(t)
    good = openai.OpenAI(base_url=f"{t.base}/v1", api_key=os.environ["LLM_LENS_CHECK_KEY"], max_retries=0, timeout=120)
    headers = {"x-keyed": "yes"}
    answer = good.chat.completions.create(model=MODEL, messages=ask("hello"), max_tokens=5, extra_headers=headers)
    assert answer.choices[0].message.content
    try:
        t.openai().chat.completions.create(model=MODEL, messages=ask("hello"), max_tokens=5, extra_headers=headers)
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key", error.code
    else:
        raise AssertionError("a wrong key passed")


def counted(t):
    """a prompt reserves as many tokens as the engine says that it has"""
    gateway_only(t)
    left = 1_000_000
    for prompt in ("hello", "The sea is wide, deep and cold; ships cross it slowly. " * 30, "\u00e4\u20ac\U0001f600 \n\t{}"):
        answer = t.openai().completions.with_raw_response.create(model=MODEL, prompt=prompt, max_tokens=1, extra_headers={"x-counted": "yes"})
        tokens = answer.parse().usage.prompt_tokens
        reserved = left - int(answer.headers["x-ratelimit-remaining-tokens"])
        assert reserved == tokens, (prompt[:20], reserved, tokens)
        left -= tokens


CHECKS = (budget_chat, budget_claude, keys, counted)
