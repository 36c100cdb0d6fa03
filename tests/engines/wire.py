# SPDX-License-Identifier: Apache-2.0
"""What the bytes of one exchange say, read without any client library.

*In*: a request, sent with http.client. *Out*: the exchange, its server-sent events and their counts, its usage and
finish reasons, and a canonical text in which two answers to the same request are equal when nothing altered them.
*Never*: code shared with the gateway. The point is a second opinion.
"""
import http.client
import json
import time
import urllib.parse
from dataclasses import dataclass

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"

# Differs between two answers to the same request.
VOLATILE = {"id", "item_id", "call_id", "created", "created_at", "completed_at", "timings", "signature"}
RESPONSES_TEXT = {"response.output_text.delta", "response.reasoning_text.delta", "response.reasoning_summary_text.delta",
                  "response.refusal.delta", "response.function_call_arguments.delta"}


@dataclass
class Exchange:
    """One finished exchange; `wall_us` runs from before the connect to the last byte of the body."""
    path: str
    request_id: str
    status: int
    headers: dict
    body: bytes
    wall_us: int

    @property
    def is_stream(self):
        return self.headers.get("content-type", "").startswith("text/event-stream")


@dataclass
class Event:
    """One dispatched event: its `event:` field ("" when absent) and its data."""
    name: str
    data: str

    @property
    def json(self):
        """The data as an object; {} for `[DONE]` and other things that are none."""
        try:
            value = json.loads(self.data)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def connect(base, timeout=120):
    address = urllib.parse.urlsplit(base)
    return http.client.HTTPConnection(address.hostname, address.port, timeout=timeout)


def send(base, path, body=None, *, request_id="", method=None):
    """One request on a connection of its own. A dict is sent as JSON, bytes as they are."""
    payload = json.dumps(body, ensure_ascii=False).encode() if isinstance(body, (dict, list)) else body
    headers = {"content-type": "application/json"} if payload is not None else {}
    if request_id:
        headers["x-request-id"] = request_id
    connection, start = connect(base), time.monotonic()
    try:
        connection.request(method or ("GET" if payload is None else "POST"), path, payload, headers)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    wall_us = int((time.monotonic() - start) * 1e6)
    return Exchange(path, request_id, answer.status, {k.lower(): v for k, v in answer.getheaders()}, content, wall_us)


def parse_events(body):
    """The dispatched events of a stream and the number of its comments, as the HTML standard reads them."""
    events, comments, name, data = [], 0, "", []
    for line in body.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append(Event(name, "\n".join(data)))
            name, data = "", []
        elif not field:
            comments += 1
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return events, comments


def is_content(path, event):
    """Whether an event carries model output: text, reasoning, refusal, or a tool call's name or arguments."""
    body = event.json
    kind = body.get("type")
    if path == RESPONSES:
        opens_call = kind == "response.output_item.added" and body["item"].get("type") == "function_call"
        return opens_call or kind in RESPONSES_TEXT and bool(body["delta"])
    if path == MESSAGES:
        if kind == "content_block_start":
            return body["content_block"]["type"] == "tool_use"
        return kind == "content_block_delta" and any(body["delta"].get(k) for k in ("text", "thinking", "partial_json"))
    return any(choice_has_content(choice) for choice in body.get("choices", []))


def choice_has_content(choice):
    delta = choice.get("delta") or {}
    calls = [call.get("function") or {} for call in delta.get("tool_calls") or []]
    return bool(choice.get("text")) or any(delta.get(k) for k in ("content", "reasoning", "reasoning_content", "refusal")) \
        or any(call.get("name") or call.get("arguments") for call in calls)


def objects(exchange):
    """The JSON objects of an exchange: one for each event, or the body alone."""
    return [e.json for e in parse_events(exchange.body)[0]] if exchange.is_stream else [json.loads(exchange.body)]


def usage_of(reported):
    """An engine's usage object under the names of the gateway's record, and only what it reported."""
    reported = reported or {}
    inputs = reported.get("prompt_tokens_details") or reported.get("input_tokens_details") or {}
    outputs = reported.get("completion_tokens_details") or reported.get("output_tokens_details") or {}
    known = {
        "prompt_tokens": reported.get("prompt_tokens", reported.get("input_tokens")),
        "completion_tokens": reported.get("completion_tokens", reported.get("output_tokens")),
        "reasoning_tokens": outputs.get("reasoning_tokens"),
        "cached_tokens": inputs.get("cached_tokens", reported.get("cache_read_input_tokens")),
    }
    return {name: count for name, count in known.items() if count is not None}


def last_usage(exchange):
    """The usage an exchange ended with, or None. Anthropic's events update it field by field."""
    merged = {}
    for body in objects(exchange):
        for holder in (body, body.get("message") or {}, body.get("response") or {}):
            merged |= holder.get("usage") or {}
    return usage_of(merged) or None


def model_of(exchange):
    """The model that the engine says it is, or None."""
    names = [holder.get("model") for body in objects(exchange) for holder in (body, body.get("message") or {}, body.get("response") or {})]
    return next((name for name in names if name), None)


def finish_reasons_of(exchange):
    """Why each choice ended, in the engine's own words, sorted."""
    found = []
    for body in objects(exchange):
        found += [choice.get("finish_reason") for choice in body.get("choices", [])]
        found.append((body.get("delta") or {}).get("stop_reason") if exchange.path == MESSAGES and exchange.is_stream
                     else body.get("stop_reason"))
        if exchange.path == RESPONSES:
            response = body.get("response") or body
            found.append(response.get("status") if response.get("status") != "in_progress" and "usage" in response else None)
    return sorted(reason for reason in found if reason)


# ---- is it the same answer?

def masked(value):
    if isinstance(value, dict):
        return {key: "*" if key in VOLATILE else masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list) else value


def masked_text(text):
    """JSON with its volatile fields masked, in its own order and with its own numbers; other text as it is."""
    try:
        return json.dumps(masked(json.loads(text, parse_float=str)), ensure_ascii=False)
    except ValueError:
        return text


def lines_of(exchange):
    """The body line by line, framing included, each JSON payload masked."""
    if not exchange.is_stream:
        return [masked_text(exchange.body.decode())]
    lines = exchange.body.decode().split("\n")
    return ["data: " + masked_text(line[6:]) if line.startswith("data: ") else line for line in lines]


def folded_events(exchange):
    """The events with neighbouring pieces of text joined: equal for two answers that an engine cut differently."""
    folded = []
    for event in parse_events(exchange.body)[0]:
        body = json.loads(masked_text(event.data)) if event.json else event.data
        text = take_text(body) if event.json else None
        frame = (event.name, json.dumps(body, ensure_ascii=False))
        if text is not None and folded and folded[-1][0] == frame and folded[-1][1] is not None:
            folded[-1] = (frame, folded[-1][1] + text)
        else:
            folded.append((frame, text))
    return folded


def take_text(body):
    """Take the text out of an event that carries one piece of it and return it; None for any other event."""
    body.pop("sequence_number", None)  # counts events, so it moves when they merge
    holders = [body, body.get("delta")]
    for choice in body.get("choices") or []:
        delta = choice.get("delta") or {}
        holders += [choice, delta, *(call.get("function") for call in delta.get("tool_calls") or [])]
    slots = [(holder, key) for holder in holders if isinstance(holder, dict)
             for key in ("text", "content", "reasoning", "reasoning_content", "thinking", "partial_json", "arguments", "delta")
             if isinstance(holder.get(key), str)]
    if len(slots) != 1:
        return None
    holder, key = slots[0]
    text, holder[key] = holder[key], "*"
    return text
