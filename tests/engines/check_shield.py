# SPDX-License-Identifier: Apache-2.0
"""A guarded route: what the model says of a person and of a card does not reach the client, in any dialect.

The gateway of these checks has a second route with a guard; requests choose it by a header.
"""
from check_chat import joined
from record import Seen
from target import MODEL, Skip, ask, equal, id_header, new_id
from wire import usage_of

MASKED = "Write to [EMAIL_ADDRESS] or pay [CREDIT_CARD] today"


def headers(t):
    if not t.admin:
        raise Skip("no gateway")
    request_id = new_id()
    return request_id, {**id_header(request_id), "x-guarded": "yes"}


def shield_stream(t):
    """guarded chat, streaming, two choices"""
    request_id, extra = headers(t)
    chunks = list(t.openai().chat.completions.create(
        model=MODEL, messages=ask("private"), stream=True, n=2, extra_headers=extra, stream_options={"include_usage": True}))
    for index in (0, 1):
        equal(joined(chunks, index=index), MASKED, f"choice {index}")
    # llama.cpp states the tokens of one choice only.
    tokens, stated = t.scripts["private"]["tokens"], chunks[-1].usage.completion_tokens
    assert stated in (tokens, 2 * tokens), f"completion_tokens is {stated}, expected {tokens} for each choice"
    return [Seen(request_id, stream=True, usage=usage_of(chunks[-1].usage.model_dump()), finish_reasons=["stop", "stop"])]


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


CHECKS = (shield_stream, shield_whole, shield_harmless, shield_messages)
