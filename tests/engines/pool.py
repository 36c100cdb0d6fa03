#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A pool of two vLLM and one llama.cpp before which a gateway stands; one vLLM is killed in the middle of a stream.

*In*: the engines' URLs, the process id of the vLLM that dies, the gateway's binary. *Out*: PASS or FAIL with a reason for each check; exit status 1
if any failed. *Never*: an engine killed that was not named for it.
"""
import argparse
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import openai

MODEL = "scripted"
TEXT = "The sea is wide, deep and cold; ships cross it slowly."


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Gateway:
    """One gateway with a pool, ended with its block."""

    def __init__(self, binary, backends, route):
        self.listen, self.admin = free_port(), free_port()
        listed = ", ".join(f'{{name: {name}, url: "{url}"{more}}}' for name, url, more in backends)
        names = ", ".join(name for name, _, _ in backends)
        self.folder = tempfile.TemporaryDirectory()
        config = pathlib.Path(self.folder.name) / "gateway.yaml"
        config.write_text(f'''listeners: [{{address: "127.0.0.1:{self.listen}"}}]
admin: {{address: "127.0.0.1:{self.admin}"}}
backends: [{listed}]
pools: [{{name: p, backends: [{names}], balance: round_robin}}]
routes: [{{name: r, pool: p, retries: {{min_per_second: 100}}{route}}}]
timeouts: {{between_events: 5s}}
''')
        self.log = open(pathlib.Path(self.folder.name) / "log", "w+")
        self.process = subprocess.Popen([binary, "gateway", "--config", str(config)], stdout=self.log, stderr=self.log)
        for _ in range(300):
            try:
                if self.get("/readyz"):
                    break
            except OSError:
                time.sleep(0.1)
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.listen}/v1", api_key="none", max_retries=0, timeout=120)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.log.close()
        self.folder.cleanup()

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=10) as answer:
            return answer.read().decode()

    def record(self, request_id):
        for _ in range(100):
            for seen in json.loads(self.get("/api/requests?limit=1000"))["requests"]:
                if seen["id"] == request_id:
                    return seen
            time.sleep(0.05)
        raise AssertionError(f"no record of {request_id}")


class CutAfter:
    """A way to an engine that breaks off behind so many bytes of the answer's body."""

    def __init__(self, url, marker, times):
        self.target = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        self.marker, self.times = marker, times
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.server.accept()
            threading.Thread(target=self.carry, args=(near,), daemon=True).start()

    def carry(self, near):
        far = socket.create_connection(self.target)

        def up():
            while data := near.recv(65536):
                far.sendall(data)

        threading.Thread(target=up, daemon=True).start()
        seen = b""
        while data := far.recv(65536):
            seen += data
            at = -1
            for _ in range(self.times):
                at = seen.find(self.marker, at + 1)
                if at < 0:
                    break
            if at >= 0:
                near.sendall(data[:max(0, len(data) - (len(seen) - at) + 5)])
                for end in (near, far):
                    end.shutdown(socket.SHUT_RDWR)
                return
            near.sendall(data)


def stream(gateway, request_id, on_event=None, prompt=None, **more):
    """What a client hears of a chat, or of a completion where there is a prompt: text, roles, finish reasons, and the error at its end if there is one."""
    said, roles, reasons, error, backend = "", 0, [], None, None
    try:
        chat = {"messages": [{"role": "user", "content": "[[hello]]"}]}
        api, asked = (gateway.client.completions, {"prompt": prompt}) if prompt else (gateway.client.chat.completions, chat)
        raw = api.with_raw_response.create(
            model=MODEL, stream=True, temperature=0, extra_headers={"x-request-id": request_id}, **asked, **more)
        backend = raw.headers["x-llm-lens-backend"].split(";")[0]
        for chunk in raw.parse():
            for choice in chunk.choices:
                said += (choice.text if prompt else choice.delta.content) or ""
                roles += not prompt and choice.delta.role is not None and not choice.delta.content
                reasons += [choice.finish_reason] if choice.finish_reason else []
            if on_event:
                on_event(backend, said)
    except (openai.APIError, Exception) as broken:  # noqa: BLE001 - whatever the client makes of it is the finding
        error = broken
    return said, roles, reasons, error, backend


def spreads(options, engines):
    """three engines of two kinds answer in turn, and are known as well"""
    with Gateway(options.bin, [(name, url, ", health: {interval: 200ms}") for name, url in engines], "") as gateway:
        backends = set()
        for n in range(9):
            said, roles, reasons, error, backend = stream(gateway, f"spread-{n}", max_tokens=40)
            assert (said, reasons, error) == (TEXT, ["stop"], None), (said, reasons, error, backend)
            backends.add(backend)
        assert backends == {name for name, _ in engines}, backends
        known = {row["backend"]: row for row in json.loads(gateway.get("/api/backends"))["backends"]}
        assert all(row["state"] == "healthy" and row["ttft_ms"] > 0 for row in known.values()), known


def spliced(options, engines):
    """a stream that is cut after three tokens is gone on with by an engine of the other kind, without a letter too many or too few"""
    chat, completion = (b'"content":', 4, None), (b'"text":', 3, "<|hello|>")
    for (first, second), (marker, times, prompt) in itertools.product(((0, 2), (2, 0), (0, 1)), (chat, completion)):
        way = CutAfter(engines[first][1], marker, times)
        with Gateway(options.bin, [("cut", way.url, ""), (engines[second][0], engines[second][1], "")], ", resume: on") as gateway:
            for n in range(2):
                said, roles, reasons, error, _ = stream(gateway, f"splice-{n}", prompt=prompt, max_tokens=40)
                assert (said, reasons, error) == (TEXT, ["stop"], None), (first, second, prompt, said, reasons, error)
                assert roles <= 1, roles
            resumes = [resume for n in range(2) for resume in gateway.record(f"splice-{n}").get("resumes", [])]
            assert resumes and all(resume["backend"] == engines[second][0] for resume in resumes), (first, second, resumes)


def killed(options, engines):
    """a vLLM process is killed in mid-stream: with continuation off the client is told, with it on the answer goes on"""
    order = [engines[1], engines[0], engines[2]]
    long = {"max_tokens": 600, "extra_body": {"ignore_eos": True}}

    def kill(backend, said):
        if backend == engines[1][0] and len(said) > 60 and not kill.done:
            kill.done = True
            os.killpg(options.victim, signal.SIGKILL)

    kill.done = False
    with Gateway(options.bin, [(n, u, "") for n, u in order], ", resume: on") as on, \
            Gateway(options.bin, [(n, u, "") for n, u in order], "") as off:
        results = {}

        def without():
            results["off"] = stream(off, "off", None, **long)

        other = threading.Thread(target=without)
        other.start()
        results["on"] = stream(on, "on", kill, **long)
        other.join()
        assert kill.done, "it was not killed in time"
        said, roles, reasons, error, _ = results["on"]
        assert error is None and reasons == ["length"] and roles <= 1 and said.startswith(TEXT), (said[:80], reasons, error, roles)
        record = on.record("on")
        assert record["outcome"] == "ok" and len(record["resumes"]) == 1 and record["failed_attempts"][0]["backend"] == engines[1][0], record
        said, _, reasons, error, _ = results["off"]
        assert error is not None and not reasons and said, (said[:80], reasons, error)
        assert off.record("off")["outcome"] == "upstream_failed", off.record("off")
        # Later requests are not affected.
        for n in range(12):
            said, _, reasons, error, backend = stream(off, f"after-{n}", max_tokens=40)
            assert (said, reasons, error) == (TEXT, ["stop"], None) and backend != engines[1][0], (said, reasons, error, backend)
        states = {row["backend"]: row["state"] for row in json.loads(off.get("/api/backends"))["backends"]}
        assert states[engines[1][0]] == "ejected", states


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True)
    parser.add_argument("--vllm", required=True, nargs=2, metavar="URL")
    parser.add_argument("--llama-cpp", required=True, metavar="URL")
    parser.add_argument("--victim", required=True, type=int, help="the process id of the second vLLM, which leads its group")
    parser.add_argument("--tally", type=pathlib.Path)
    options = parser.parse_args()
    engines = [("vllm-1", options.vllm[0]), ("vllm-2", options.vllm[1]), ("llama-cpp", options.llama_cpp)]
    counts = [0, 0]
    for check in (spreads, spliced, killed):
        try:
            check(options, engines)
            result, reason = "PASS", ""
        except Exception as error:  # noqa: BLE001 - the next check runs all the same
            result, reason = "FAIL", f"\n      {type(error).__name__}: {error}"
        counts[result == "FAIL"] += 1
        print(f"{result}  pool: {check.__doc__}{reason}", flush=True)
    if options.tally:
        with options.tally.open("a") as tally:
            tally.write(f"{counts[0]} {counts[1]} 0\n")
    sys.exit(counts[1] > 0)


if __name__ == "__main__":
    main()
