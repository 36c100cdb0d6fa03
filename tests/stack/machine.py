# SPDX-License-Identifier: Apache-2.0
"""What every part of the stack uses: processes that end with the run, ports, engines, a gateway, and a load.

*In*: the gateway's binary and two folders. *Out*: servers on loopback, and their logs. *Never*: a process ended by its name.
"""
import contextlib
import hashlib
import http.client
import json
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

START_SECONDS = 30
INSTALL_SECONDS = 300
STOP_SECONDS = 10
# Fixed ports lie below the range from which the kernel takes ports of clients.
PORTS = range(20000, 32000)


class LeftOut(Exception):
    """A part cannot run here; the reason is its text."""


def free_port():
    for port in random.sample(PORTS, 100):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                s.bind(("127.0.0.1", port))
                return port
    raise RuntimeError("no free port")


def get(url, seconds=10):
    with urllib.request.urlopen(url, timeout=seconds) as answer:
        return answer.read().decode()


def get_json(url, **query):
    return json.loads(get(f"{url}?{urllib.parse.urlencode(query)}" if query else url))


def eventually(probe, seconds=15, pause=0.1):
    """Probe until the answer is true; returns the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()) and time.monotonic() < deadline:
        time.sleep(pause)
    return answer


class Machine:
    """Starts processes, each with a log, and ends them with its block."""

    def __init__(self, binary, folder, cache):
        self.binary, self.folder, self.cache = binary.resolve(), folder, cache
        self.running = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.terminate()
        for name in list(self.running):
            self.stop(name)

    def tool(self, name, package):
        """The path of a command; without it, the part is left out."""
        path = shutil.which(name)
        if not path:
            raise LeftOut(f"install the package {package} first")
        return path

    def venv(self, name, *requirements):
        """The python of a venv with these packages (name==version), installed once; without them, the part is left out."""
        folder = self.cache / f"venv-{name}-{hashlib.sha256(' '.join(requirements).encode()).hexdigest()[:12]}"
        python, installed = folder / "bin" / "python", folder / "installed"
        if not installed.exists():
            try:
                for command in ([sys.executable, "-m", "venv", "--clear", folder],
                                [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]):
                    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            except subprocess.SubprocessError as failure:
                reason = (getattr(failure, "stderr", None) or str(failure)).strip().splitlines()[-1]
                raise LeftOut(f"{' '.join(requirements)} cannot be installed: {reason}") from failure
            installed.touch()
        return python

    def spawn(self, name, command, **options):
        """Start a process; its output is appended to the log of that name."""
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **{"cwd": self.folder, **options})
        return self.running[name]

    def stop(self, name):
        process = self.running.pop(name)
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait_until(self, name, url):
        """Wait until a server answers 200."""
        def answers():
            with contextlib.suppress(OSError, http.client.HTTPException):
                return get(url) is not None
            return self.running[name].poll() is not None

        if not eventually(answers, START_SECONDS) or self.running[name].poll() is not None:
            raise RuntimeError(f"{name} does not start\n{tail(self.log(name))}")

    def engine(self, name, port, *options):
        """A simulated engine; returns its URL."""
        self.spawn(name, [self.binary, "simulate", "--listen", f"127.0.0.1:{port}", *options])
        self.wait_until(name, f"http://127.0.0.1:{port}/health")
        return f"http://127.0.0.1:{port}"

    def gateway(self, name, settings, admin=""):
        """A gateway with these settings, on ports of its own, and more members of `admin`; returns the URLs of its listener and its admin listener."""
        listen, port = free_port(), free_port()
        file = self.folder / f"{name}.yaml"
        file.write_text(f'listeners: [{{address: "127.0.0.1:{listen}"}}]\nadmin: {{address: "127.0.0.1:{port}"{admin}}}\n{settings}')
        self.spawn(name, [self.binary, "gateway", "--config", file])
        self.wait_until(name, f"http://127.0.0.1:{port}/readyz")
        return f"http://127.0.0.1:{listen}", f"http://127.0.0.1:{port}"

    def log(self, name):
        return self.folder / f"{name}.log"

    def logs(self):
        return "\n".join(f"{log.name}:\n{tail(log)}" for log in sorted(self.folder.glob("*.log")))


def tail(log: pathlib.Path, lines=15):
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


class Load:
    """Streams requests of some clients to a gateway until it is stopped; can pause. `broken` counts the requests, each on a
    connection of its own, that got no whole answer; error statuses are answers."""

    def __init__(self, url, headers, clients=4, tokens=8, prompt="Name three colors."):
        self.address = url.removeprefix("http://")
        self.headers = {"content-type": "application/json", **headers}
        self.body = json.dumps({"model": "m", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": tokens,
                                "messages": [{"role": "user", "content": prompt}]})
        self.broken = 0
        self.stopped, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.threads = [threading.Thread(target=self.client, daemon=True) for _ in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.go.set()
        for thread in self.threads:
            thread.join(timeout=30)

    def client(self):
        while self.go.wait() and not self.stopped.is_set():
            connection = http.client.HTTPConnection(self.address, timeout=30)
            try:
                connection.request("POST", "/v1/chat/completions", self.body, self.headers)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                self.broken += 1
            connection.close()
            self.stopped.wait(0.05)
