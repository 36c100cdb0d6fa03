# SPDX-License-Identifier: Apache-2.0
"""Records of two gateways in a real PostgreSQL server.

*In*: a machine. *Out*: checks, of the gateways' records, and of what the crate's own tests find with the same server. *Never*: a
server with the rights of root, which PostgreSQL refuses: it runs as the user `postgres`.
"""
import contextlib
import http.client
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import tempfile

from machine import Load, LeftOut, eventually, free_port, get, get_json, tail

NAME = "postgres"
ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSWORD = "stack-password"
CRATE_SECONDS = 800
SETTINGS = """
backends: [{{name: engine, url: "{engine}"}}]
routes: [{{name: chat, backend: engine}}]
record_store:
  url: "postgres://lens@{host}:{port}/records?sslmode={sslmode}"
  password: "file:{password}"
  spill: {{path: "{spill}"}}
  {ca}
"""
BODY = json.dumps({"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "Name a color."}]})


def programs():
    """The folder of the server's programs: the newest version of Debian's, or the one in PATH."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    path = found[-1] if found else shutil.which("initdb")
    if not path or not shutil.which("psql"):
        raise LeftOut("install the package postgresql first")
    return pathlib.Path(path).parent


def certificates(folder):
    """Two certificate authorities, and a certificate of the first one for 127.0.0.1."""
    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "other-ca"):
        openssl("req", "-x509", *new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    openssl("req", *new[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=database")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names",
            "-out", "server.pem")
    for file in folder.glob("*.pem"):
        file.chmod(0o644)


class Server:
    """A server with a data folder of its own, on a port of its own. It offers TLS."""

    def __init__(self, machine, folder):
        self.machine, self.bin, self.port, self.data = machine, programs(), free_port(), folder / "data"
        self.user, self.folder = {}, folder
        certificates(folder)
        if os.getuid() == 0:
            try:
                account = pwd.getpwnam("postgres")
            except KeyError:
                raise LeftOut("there is no user postgres to run the server as") from None
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            for path in (folder, folder / "server.key"):
                os.chown(path, account.pw_uid, account.pw_gid)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        subprocess.run([self.bin / "initdb", "-D", self.data, "-U", "lens", "--auth=scram-sha-256", f"--pwfile={secret}",
                        "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"], check=True, capture_output=True, cwd=folder, **self.user)

    def start(self):
        self.machine.spawn("postgres", [
            self.bin / "postgres", "-D", self.data, "-p", self.port, "-c", "listen_addresses=127.0.0.1",
            "-c", "unix_socket_directories=", "-c", "max_connections=60", "-c", "ssl=on", "-c", f"ssl_cert_file={self.folder / 'server.pem'}",
            "-c", f"ssl_key_file={self.folder / 'server.key'}"], cwd=self.data, **self.user)
        ready = eventually(lambda: self.run("SELECT 1", "postgres").returncode == 0, 30)
        assert ready, f"the server does not start\n{tail(self.machine.log('postgres'))}"

    def crash(self):
        """End the server as a crash does."""
        process = self.machine.running.pop("postgres")
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=30)

    def command(self, database):
        return ["psql", "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", "lens", database]

    def run(self, sql, database="records"):
        return subprocess.run([*self.command(database), "-c", sql], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PGPASSWORD": PASSWORD})

    def sql(self, sql, database="records"):
        done = self.run(sql, database)
        assert done.returncode == 0, f"{sql}: {done.stderr}"
        return done.stdout.strip()

    def count(self, what="count(*) FROM llm_lens.records"):
        done = self.run(f"SELECT {what}")
        return int(done.stdout) if done.returncode == 0 else -1

    @contextlib.contextmanager
    def locked(self, table):
        """Hold a lock that stops every write to a table."""
        shell = subprocess.Popen(self.command("records"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                 env={**os.environ, "PGPASSWORD": PASSWORD})
        try:
            shell.stdin.write(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n")
            shell.stdin.flush()
            assert shell.stdout.readline().strip() == "locked"
            yield
        finally:
            shell.stdin.close()
            shell.wait(timeout=30)
            shell.stdout.close()


class Target:
    def __init__(self, machine, server, engine, folder):
        self.machine, self.server, self.engine, self.folder = machine, server, engine, folder
        self.urls, self.sent = {}, 0

    def gateway(self, name, secret=PASSWORD, host="127.0.0.1", sslmode="disable", ca=""):
        password = self.folder / f"password-{name}"
        password.write_text(secret)
        settings = SETTINGS.format(engine=self.engine, host=host, port=self.server.port, sslmode=sslmode, password=password,
                                   spill=self.folder / f"spill-{name}", ca=f'ca: "{ca}"' if ca else "")
        self.urls[name] = self.machine.gateway(name, settings)

    def admin(self, name):
        return self.urls[name][1]

    def send(self, name, requests):
        """Send requests, one after the other; each must succeed."""
        connection = http.client.HTTPConnection(self.urls[name][0].removeprefix("http://"), timeout=30)
        for _ in range(requests):
            connection.request("POST", "/v1/chat/completions", BODY, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
        connection.close()
        self.sent += requests

    def metric(self, name, metric):
        found = re.search(rf'^{metric}{{[^}}]*sink="store"[^}}]*}} (\S+)$', get(f"{self.admin(name)}/metrics"), re.MULTILINE)
        return float(found[1]) if found else None

    def spilled(self, name):
        return self.metric(name, "llm_lens_sink_spilled_records")

    def complete(self):
        """Wait until all records are stored; then rows, counts and rollups must agree with what was sent."""
        eventually(lambda: self.server.count() >= self.sent, 60)
        stored = {"rows": self.server.count(),
                  "keys": self.server.count("count(DISTINCT (instance, epoch, sequence)) FROM llm_lens.requests"),
                  "counts": self.server.count("sum(records) FROM llm_lens.facets WHERE field = 9")}
        for name in ("a", "b"):
            chart = get_json(f"{self.admin(name)}/api/charts", **{"from": "1h", "step": "1m"})
            stored[f"chart of {name}"] = sum(point["requests"] for series in chart["series"] for point in series["points"])
        assert set(stored.values()) == {self.sent}, f"{self.sent} records were sent; {stored}"
        return f"{self.sent} records"


@contextlib.contextmanager
def start(machine):
    # PostgreSQL's user cannot enter the folder of the machine.
    with tempfile.TemporaryDirectory(prefix="llm-lens-postgres-") as folder:
        server = Server(machine, pathlib.Path(folder))
        try:
            target = Target(machine, server, machine.engine("engine", free_port(), "--base", "2ms", "--decode", "1ms"), machine.folder)
            for name in ("a", "b"):
                target.gateway(name)
            yield target
        finally:
            if "postgres" in machine.running:
                server.crash()


def database_is_down_at_the_start(t):
    """gateways start without the database, name it, and their records wait in the spill"""
    t.send("a", 30)
    assert eventually(lambda: t.spilled("a") == 30), f"{t.spilled('a')} records are in the spill"
    refused = f"cannot connect to PostgreSQL at 127.0.0.1:{t.server.port}"
    assert eventually(lambda: "store" in get(f"{t.admin('a')}/readyz"), 30), get(f"{t.admin('a')}/readyz")
    assert refused in get(f"{t.admin('a')}/api/sinks"), get(f"{t.admin('a')}/api/sinks")
    assert eventually(lambda: refused in t.machine.log("a").read_text(), 30), tail(t.machine.log("a"))
    answer = subprocess.run(["curl", "-s", "-w", "%{http_code}", f"{t.admin('a')}/api/records"], capture_output=True, text=True, timeout=30)
    assert answer.stdout.endswith("503") and refused in answer.stdout, answer.stdout


def records_arrive_when_it_is_up(t):
    """they are stored when the database is there, and no sink is named any more"""
    t.server.start()
    t.server.sql("CREATE DATABASE records", "postgres")
    t.send("b", 20)
    result = t.complete()
    assert eventually(lambda: t.spilled("a") == 0, 30)
    assert eventually(lambda: "store" not in get(f"{t.admin('a')}/readyz"), 30), get(f"{t.admin('a')}/readyz")
    return result


def killed_in_a_batch(t):
    """two gateways write; one is killed with kill -9 within a transaction: nothing is doubled or lost"""
    for _ in range(3):
        with t.server.locked("llm_lens.rollups"):
            for name in ("a", "b"):
                t.send(name, 40)
            assert eventually(lambda: t.spilled("a") == 40), f"{t.spilled('a')} records are in the spill"
            waiting = "count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%llm_lens.rollups%'"
            assert eventually(lambda: t.server.count(waiting) == 2, 30), "the batches do not wait for the lock"
            process = t.machine.running.pop("a")
            process.kill()
            process.wait()
        t.gateway("a")
        t.complete()
    return f"{t.sent} records, {t.server.count('count(*) FROM llm_lens.sources')} starts of gateways"


def crash_of_the_server(t):
    """the server crashes and restarts under load: every record is stored once"""
    with contextlib.ExitStack() as stack:
        for name in ("a", "b"):
            stack.enter_context(Load(t.urls[name][0], {}))
        before = t.server.count()
        assert eventually(lambda: t.server.count() > before + 50, 30)
        t.server.crash()
        assert eventually(lambda: (t.spilled("a") or 0) > 50 and (t.spilled("b") or 0) > 50, 30)
        t.server.start()
        before = t.server.count()
        assert eventually(lambda: t.server.count() > before + 200, 60)
    for name in ("a", "b"):
        assert eventually(lambda: t.spilled(name) == 0, 30), f"{t.spilled(name)} records are left in the spill of {name}"
    # What the load sent is what the gateways have finished.
    eventually(lambda: t.server.count() == t.server.count("sum(records) FROM llm_lens.facets WHERE field = 9"), 10)
    for name in ("a", "b"):
        assert not t.metric(name, "llm_lens_sink_dropped_records_total"), "records were dropped"
    stored, gaps = t.server.count(), t.server.count(
        "sum(last - first + 1 - n) FROM (SELECT min(sequence) AS first, max(sequence) AS last, count(*) AS n FROM llm_lens.requests"
        " GROUP BY instance, epoch) sources")
    assert gaps == 0, f"{gaps} sequence numbers are missing"
    served, t.sent = stored - t.sent, stored
    return f"{served} records of the load; {t.complete()}"


def tls_is_verified(t):
    """with sslmode=verify-full, records are stored over TLS, and the pages read them over TLS"""
    t.gateway("tls", sslmode="verify-full", ca=t.server.folder / "ca.pem")
    t.send("tls", 10)
    t.complete()
    assert len(get_json(f"{t.admin('tls')}/api/records", limit=10)["records"]) == 10
    clients = ("FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
               " AND application_name <> 'psql'")
    found = eventually(lambda: t.server.sql(f"SELECT DISTINCT version {clients} AND ssl"), 10)
    assert found == "TLSv1.3", found
    return f"{t.server.count(f'count(*) {clients} AND ssl')} connections with {found}"


def tls_of_a_wrong_server_is_refused(t):
    """a server of an unknown authority, or with another name, gets no record and no password, and is named"""
    lines = []
    for name, host, ca in (("unknown-ca", "127.0.0.1", "other-ca.pem"), ("other-name", "localhost", "ca.pem")):
        t.gateway(name, host=host, sslmode="verify-full", ca=t.server.folder / ca)
        before = t.sent
        t.send(name, 3)
        t.sent = before
        assert eventually(lambda: t.spilled(name) == 3, 30), t.spilled(name)
        refused = f"cannot connect to PostgreSQL at {host}:{t.server.port}"
        assert eventually(lambda: refused in get(f"{t.admin(name)}/readyz"), 30), get(f"{t.admin(name)}/readyz")
        line = next(line for line in get(f"{t.admin(name)}/readyz").splitlines() if refused in line)
        assert "certificate" in line, line
        assert PASSWORD not in t.machine.log(name).read_text()
        t.machine.stop(name)
        lines.append(line)
    t.complete()
    return "\n".join(lines)


def gateways_agree(t):
    """both gateways answer the same, and pages have each record once"""
    for path, query in (("facets", {}), ("charts", {"from": "1h", "by": "model", "step": "1h"}), ("records", {"limit": 100})):
        one, other = (get_json(f"{t.admin(name)}/api/{path}", **query) for name in ("a", "b"))
        assert one == other and one, path
    seen, after = [], {}
    while after is not None:
        page = get_json(f"{t.admin('b')}/api/records", limit=1000, **after)
        seen += [record["id"] for record in page["records"]]
        after = {"after": page["next"]} if page["next"] else None
    assert len(seen) == len(set(seen)) == t.sent, f"{len(seen)} rows, {len(set(seen))} ids, {t.sent} records"
    [record] = get_json(f"{t.admin('a')}/api/records", id=seen[-1])["records"]
    assert record["outcome"] == "ok" and record["ledger_us"], record
    return f"{len(seen)} records in pages"


def sql_of_the_guide(t):
    """the query of docs/observability.md runs"""
    text = (ROOT / "docs" / "observability.md").read_text()
    query = text.split("### PostgreSQL")[1].split("```sql\n")[1].split("```")[0]
    assert "FROM llm_lens.requests" in query, query
    row = t.server.sql(query).splitlines()[0]
    assert row.startswith("m|"), row
    return row


def wrong_password(t):
    """a wrong password is a clear log line without it, and requests are served"""
    t.gateway("wrong", "not-the-password")
    before = t.sent
    t.send("wrong", 3)
    t.sent = before
    refused = "refuses the user lens: password authentication failed"
    assert eventually(lambda: refused in t.machine.log("wrong").read_text(), 30), tail(t.machine.log("wrong"))
    for text in (t.machine.log("wrong").read_text(), get(f"{t.admin('wrong')}/api/sinks"), get(f"{t.admin('wrong')}/readyz")):
        assert "not-the-password" not in text, text
    assert eventually(lambda: "store" in get(f"{t.admin('wrong')}/readyz"), 30)
    return next(line for line in t.machine.log("wrong").read_text().splitlines() if refused in line)


def crate_tests(t):
    """cargo test -p llm-lens-postgres: the same answers as SQLite, and faults"""
    url = f"postgres://lens@127.0.0.1:{t.server.port}/postgres?sslmode=disable"
    done = subprocess.run(
        ["cargo", "test", "--locked", "-q", "-p", "llm-lens-postgres", "--", "--include-ignored", "--test-threads=4"], cwd=ROOT,
        capture_output=True, text=True, timeout=CRATE_SECONDS,
        env={**os.environ, "LLM_LENS_TEST_POSTGRES": url, "LLM_LENS_TEST_POSTGRES_PASSWORD": PASSWORD})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return re.search(r"test result: (.*)", done.stdout)[1]


CHECKS = (database_is_down_at_the_start, records_arrive_when_it_is_up, killed_in_a_batch, crash_of_the_server, tls_is_verified,
          tls_of_a_wrong_server_is_refused, gateways_agree, sql_of_the_guide, wrong_password, crate_tests)
