# SPDX-License-Identifier: Apache-2.0
"""Holds the gateway's record of a request against what the client saw of it.

*In*: `Seen`, one for each request of a check. *Out*: an assertion for every field that the client can know better than
the gateway, or that must be consistent in itself: usage, events, finish reasons, the ledger, the order of the marks.
*Never*: a tolerance on a count. Absent means "not known" in a record, so an unreported count must be absent.
"""
import json
from dataclasses import dataclass

import wire
from target import MODEL, equal, eventually

USAGE = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
# A record and the client's clock agree on a duration up to the time a busy host takes to wake a process.
CLOCK_SLACK_US = 500_000


@dataclass
class Seen:
    """What a client saw of one request; None where it does not know."""
    request_id: str
    status: int | None = 200
    stream: bool | None = None
    outcome: str = "ok"
    model_requested: str | None = MODEL
    model_answered: str | None = None
    usage: dict | None = None
    finish_reasons: list | None = None
    events: int | None = None
    content_events: int | None = None
    comments: int | None = None
    body_bytes: int | None = None
    wall_us: int | None = None
    split: tuple | None = None  # the parts of the time that the engine reports


def seen_raw(exchange, asked):
    """All that the bytes of an exchange tell; `asked` is the body of the request."""
    seen = Seen(exchange.request_id, exchange.status, wall_us=exchange.wall_us, body_bytes=len(exchange.body))
    seen.model_requested = asked.get("model") if isinstance(asked, dict) else None
    if exchange.status != 200:
        seen.outcome = "upstream_error"
        return seen
    seen.stream, seen.model_answered = exchange.is_stream, wire.model_of(exchange)
    seen.usage, seen.finish_reasons = wire.last_usage(exchange), wire.finish_reasons_of(exchange)
    if exchange.is_stream:
        events, seen.comments = wire.parse_events(exchange.body)
        seen.events = len(events)
        seen.content_events = sum(wire.is_content(exchange.path, event) for event in events)
    return seen


def fetch(admin, request_id):
    """The record of a request. It is written when the request has settled, a moment after the client has its answer."""
    def look():
        answer = json.loads(wire.send(admin, "/api/requests?limit=200").body)
        return [record for record in answer["requests"] if record["id"] == request_id]
    found = eventually(look, seconds=10)
    assert len(found) == 1, f"{len(found)} records of {request_id}"
    return found[0]


def compare(record, seen):
    """Raises AssertionError at the first field that does not agree."""
    usage = record.get("usage") or {}
    for name, want in (("outcome", seen.outcome), ("http_status", seen.status), ("stream", seen.stream),
                       ("model_requested", seen.model_requested), ("model_answered", seen.model_answered),
                       ("content_events", seen.content_events), ("comments", seen.comments)):
        if want is not None:
            equal(record.get(name), want, name)
    if seen.events is not None:
        # Where the client did not ask for usage the gateway may; then it takes that one event out of the stream.
        asked_itself = seen.usage is None and "completion_tokens" in usage and not usage.get("estimated")
        if not (asked_itself and record.get("events") == seen.events + 1):
            equal(record.get("events"), seen.events, "events")
    if seen.finish_reasons is not None:
        equal(sorted(record.get("finish_reasons", [])), seen.finish_reasons, "finish_reasons")
    if seen.body_bytes is not None:
        sent = record["bytes_to_client"]
        assert sent >= seen.body_bytes, f"bytes_to_client is {sent}, the body has {seen.body_bytes}"
    compare_usage(usage, seen)
    compare_times(record, seen)
    compare_split(record, seen)


def compare_usage(usage, seen):
    if seen.usage is None:  # the engine told the client nothing; what the gateway knows it knows from elsewhere
        return
    assert not usage.get("estimated"), f"usage is an estimate, but the engine reported {seen.usage}"
    equal({name: usage[name] for name in USAGE if usage.get(name) is not None}, seen.usage, "usage")


def compare_times(record, seen):
    equal(sum(record["ledger_us"].values()), record["total_us"], "the sum of the ledger")
    assert record["total_us"] > 0, "total_us is 0"
    if seen.wall_us is not None:
        limit = seen.wall_us + CLOCK_SLACK_US
        assert record["total_us"] <= limit, f"total_us is {record['total_us']}, the client waited {seen.wall_us}"
    marks = record.get("marks_us") or {}
    for name, mark in marks.items():
        if mark.get("arrival") is not None and mark.get("written") is not None:
            assert mark["arrival"] <= mark["written"] <= record["total_us"], f"mark {name} is out of order: {mark}"
    order = [name for name in ("first_byte", "first_event", "first_token", "last_token") if name in marks]
    arrivals = [marks[name]["arrival"] for name in order]
    assert arrivals == sorted(arrivals), f"marks are out of order: {dict(zip(order, arrivals))}"
    if seen.stream and seen.content_events:
        assert "first_token" in marks and "last_token" in marks, f"no token marks in {sorted(marks)}"
        assert 0 < record["engine_ttft_us"] <= record["client_ttft_us"], "the engine's TTFT is not within the client's"
        if seen.content_events > 1:
            equal((record.get("itl_us") or {}).get("count"), seen.content_events - 1, "itl_us.count")


def compare_split(record, seen):
    """The engine's own report fills the measured time to first token, or the record says that it disagrees."""
    if seen.split is None:
        return
    split = record.get("engine_split")
    assert split, "the record has no engine_split"
    equal(sorted(name for name in split if name.endswith("_us")), sorted((*seen.split, "unexplained_us")), "the parts of engine_split")
    assert split["prefill_us"] > 0 and split["decode_us"] > 0, f"an empty part in {split}"
    before = sum(split.get(name, 0) for name in ("queue_us", "load_us", "prefill_us"))
    if seen.stream:
        filled, ttft = before + split["unexplained_us"], record["engine_ttft_us"]
        # A report beyond the measurement leaves nothing unexplained; beyond the tolerance, it disagrees.
        assert filled == ttft or (split["unexplained_us"] == 0 and before > ttft), f"{split} does not fill {ttft}"
    assert not split.get("disagrees"), f"{split} disagrees with {record.get('engine_ttft_us')} us to the first token"
