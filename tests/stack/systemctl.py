# SPDX-License-Identifier: Apache-2.0
"""What upgrade.sh needs of systemctl, for two instances of a unit, without systemd.

*In*: a folder, the gateway's binary, the unit, the words of systemctl. *Out*: processes of the unit's ExecStartPre and ExecStart,
active once they report READY=1. *Never*: a second process of an instance, a restart.

    systemctl.py FOLDER BINARY UNIT start|stop|kill|is-active|is-failed|... [OPTION ...] llm-lens@INSTANCE.service
"""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

START_SECONDS = 30


def instance_of(unit):
    return unit.removeprefix("llm-lens@").removesuffix(".service")


def pid_of(folder, instance):
    """The pid of a process that runs."""
    try:
        pid = int((folder / f"{instance}.pid").read_text())
        os.kill(pid, 0)
        return pid
    except (OSError, ValueError):
        return None


def command(folder, binary, unit, key):
    """A command of the unit, with the settings of the folder."""
    [line] = [line for line in unit.read_text().splitlines() if line.startswith(f"{key}=")]
    start = folder / "start.env"
    words = line.removeprefix(f"{key}=").split()
    upgrade = start.read_text().strip().partition("=")[2] if start.exists() else ""
    replaced = {"/usr/bin/llm-lens": str(binary), "/etc/llm-lens/gateway.yaml": str(folder / "gateway.yaml")}
    return [word for word in (upgrade if word == "$LLM_LENS_START" else replaced.get(word, word) for word in words) if word]


def supervise(folder, binary, unit, instance):
    """Run the command in this process's child until it ends; the state is a file."""
    state = folder / f"{instance}.state"
    path = folder / f"{instance}.notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, (folder / f"{instance}.log").open("ab") as log:
        manager.bind(str(path))
        manager.settimeout(0.1)
        environment = {**os.environ, "NOTIFY_SOCKET": str(path), "RUNTIME_DIRECTORY": str(folder / "run")}
        streams = {"env": environment, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        if subprocess.call(command(folder, binary, unit, "ExecStartPre"), **streams):
            state.write_text("failed")
            return
        child = subprocess.Popen(command(folder, binary, unit, "ExecStart"), **streams)
        (folder / f"{instance}.pid").write_text(str(child.pid))
        while child.poll() is None:
            try:
                report = manager.recv(4096).decode()
            except TimeoutError:
                continue
            if "READY=1" in report:
                state.write_text("active")
            elif "STOPPING=1" in report:
                state.write_text("deactivating")
        state.write_text("inactive" if child.returncode == 0 else "failed")


def start(folder, binary, unit, instance, wait):
    (folder / f"{instance}.state").write_text("activating")
    (folder / f"{instance}.pid").unlink(missing_ok=True)
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        supervise(folder, binary, unit, instance)
        os._exit(0)
    deadline = time.monotonic() + START_SECONDS
    while wait and state_of(folder, instance) == "activating" and time.monotonic() < deadline:
        time.sleep(0.05)
    return 0 if not wait or state_of(folder, instance) == "active" else 1


def state_of(folder, instance):
    state = folder / f"{instance}.state"
    return state.read_text() if state.exists() else "inactive"


def stop(folder, instance):
    deadline = time.monotonic() + START_SECONDS
    while (pid := pid_of(folder, instance)) and time.monotonic() < deadline:
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
    return 0


def main():
    folder, binary, unit = map(pathlib.Path, sys.argv[1:4])
    action, *words = sys.argv[4:]
    [name] = [word for word in words if not word.startswith("--")]
    instance = instance_of(name)
    if action == "start":
        return start(folder, binary, unit, instance, "--no-block" not in words)
    if action == "stop":
        return stop(folder, instance)
    if action == "kill":
        assert "--signal=QUIT" in words, words
        os.kill(pid_of(folder, instance), signal.SIGQUIT)
        return 0
    if action in ("is-active", "is-failed"):
        return 0 if state_of(folder, instance) == action.removeprefix("is-") else 3
    assert action in ("enable", "disable", "reset-failed"), action
    return 0


if __name__ == "__main__":
    sys.exit(main())
