# SPDX-License-Identifier: Apache-2.0
"""The other dialects through their official clients: completions, OpenAI Responses, Anthropic Messages."""
from check_chat import TOOL, TOOL_ARGUMENTS, WITH_USAGE, expected_thought
from record import Seen
from target import MODEL, ask, equal, id_header, new_id
from wire import usage_of

# The token that starts the script, which the chat template writes at the end of a prompt.
PROMPT = "<|hello|>"
ANTHROPIC_TOOL = {"name": TOOL["function"]["name"], "description": TOOL["function"]["description"],
                  "input_schema": TOOL["function"]["parameters"]}


def completion(t):
    """completions, whole and streaming"""
    ids = [new_id(), new_id()]
    create, text = t.openai().completions.create, t.scripts["hello"]["text"]
    answer = create(model=MODEL, prompt=PROMPT, max_tokens=60, extra_headers=id_header(ids[0]))
    chunks = list(create(model=MODEL, prompt=PROMPT, max_tokens=60, stream=True, stream_options=WITH_USAGE,
                         extra_headers=id_header(ids[1])))
    usages = [answer.usage, [c.usage for c in chunks if c.usage][-1]]
    equal(answer.choices[0].text, text, "the whole text")
    equal("".join(choice.text for c in chunks for choice in c.choices), text, "the streamed text")
    equal([u.completion_tokens for u in usages], [t.scripts["hello"]["tokens"]] * 2, "completion_tokens")
    return [Seen(i, stream=stream, usage=usage_of(u.model_dump()), finish_reasons=["stop"])
            for i, stream, u in zip(ids, (False, True), usages)]


def respond(t, script, **options):
    """A Responses request; returns the response, the events if it streamed, and what was seen."""
    request_id, events = new_id(), []
    answer = t.openai().responses.create(model=MODEL, input=ask(script)[0]["content"], max_output_tokens=60,
                                         extra_headers=id_header(request_id), **options)
    if options.get("stream"):
        events = list(answer)
        equal(events[-1].type, "response.completed", "the last event")
        answer = events[-1].response
    equal(answer.status, "completed", "status")
    equal(answer.usage.output_tokens, t.scripts[script]["tokens"], "output_tokens")
    usage = usage_of(answer.usage.model_dump())
    return answer, events, Seen(request_id, stream=bool(events), usage=usage, finish_reasons=["completed"])


def response(t):
    """Responses, whole answer"""
    answer, _, seen = respond(t, "hello")
    equal(answer.output_text, t.scripts["hello"]["text"], "the text")
    return [seen]


def response_stream(t):
    """Responses, streaming"""
    answer, events, seen = respond(t, "utf8", stream=True)
    text = t.scripts["utf8"]["text"]
    equal("".join(e.delta for e in events if e.type == "response.output_text.delta"), text, "the streamed text")
    equal(answer.output_text, text, "the text of the last event")
    return [seen]


def response_think_stream(t):
    """Responses, reasoning in a stream"""
    _, events, seen = respond(t, "think", stream=True)
    parts = ["".join(e.delta for e in events if e.type == f"response.{kind}.delta").strip()
             for kind in ("reasoning_text", "output_text")]
    equal(tuple(parts), expected_thought(t), "reasoning and text")
    return [seen]


def message(t, script, stream=False, **options):
    """A Messages request; returns the message (put together by the client if it streamed) and what was seen."""
    request_id = new_id()
    arguments = {"model": MODEL, "messages": ask(script), "max_tokens": 60, "extra_headers": id_header(request_id), **options}
    if stream:
        with t.anthropic().messages.stream(**arguments) as events:
            answer = events.get_final_message()
    else:
        answer = t.anthropic().messages.create(**arguments)
    equal(answer.usage.output_tokens, t.scripts[script]["tokens"], "output_tokens")
    return answer, Seen(request_id, stream=stream, usage=usage_of(answer.usage.model_dump()), finish_reasons=[answer.stop_reason])


def blocks(answer, kind, field):
    return [getattr(block, field) for block in answer.content if block.type == kind]


def messages(t):
    """Messages, whole answer"""
    answer, seen = message(t, "hello")
    equal(blocks(answer, "text", "text"), [t.scripts["hello"]["text"]], "the text")
    equal(answer.stop_reason, "end_turn", "stop_reason")
    return [seen]


def messages_stream(t):
    """Messages, streaming"""
    answer, seen = message(t, "utf8", stream=True)
    equal(blocks(answer, "text", "text"), [t.scripts["utf8"]["text"]], "the text")
    equal(answer.stop_reason, "end_turn", "stop_reason")
    return [seen]


def messages_tool(t):
    """Messages, a tool call whole and streaming"""
    found = []
    for stream in (False, True):
        answer, seen = message(t, "tool", stream, tools=[ANTHROPIC_TOOL])
        equal(blocks(answer, "tool_use", "name"), ["set_unit"], "the tool")
        equal(blocks(answer, "tool_use", "input"), [TOOL_ARGUMENTS], "the input")
        equal(answer.stop_reason, "tool_use", "stop_reason")
        found.append(seen)
    return found


def messages_think_stream(t):
    """Messages, thinking in a stream"""
    answer, seen = message(t, "think", stream=True)
    parts = ["".join(blocks(answer, *kind)).strip() for kind in (("thinking", "thinking"), ("text", "text"))]
    equal(tuple(parts), expected_thought(t), "thinking and text")
    return [seen]


CHECKS = (completion, response, response_stream, response_think_stream, messages, messages_stream, messages_tool,
          messages_think_stream)
