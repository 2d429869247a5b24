"""`make audit` with a database of the test's own: every locked version is asked for, and what is found fails."""

import contextlib
import json
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from t5_pegasus.locations import ROOT

pytest.importorskip("pip_audit")

# What osv.dev answers of a package with a vulnerability (https://google.github.io/osv.dev/post-v1-query/).
FOUND = {
    "id": "PYSEC-0000-1",
    "aliases": ["CVE-0000-1"],
    "summary": "not a real one",
    "published": "2000-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "numpy", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999"}]}],
        }
    ],
}


class Database(HTTPServer):
    """An osv.dev: what it was asked, and the packages it knows something of."""

    def __init__(self, vulnerable=()):
        super().__init__(("127.0.0.1", 0), Answer)
        self.vulnerable, self.asked = vulnerable, set()


class Answer(BaseHTTPRequestHandler):
    """The answer to a query."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.server.asked.add((name, query["version"]))
        body = json.dumps({"vulns": [FOUND]} if name in self.server.vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing of each request."""


@contextlib.contextmanager
def running(database):
    threading.Thread(target=database.serve_forever, daemon=True).start()
    try:
        yield database
    finally:
        database.shutdown()
        database.server_close()


def audits():
    """Return the calls of pip-audit that `make audit` makes: their arguments."""
    recipe = subprocess.run(["make", "--dry-run", "audit"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = [shlex.split(line) for line in recipe.replace("\\\n", " ").splitlines()]
    return [words[1:] for words in commands if words and words[0].endswith("/pip-audit")]


def run(arguments, database):
    options = ["--vulnerability-service", "osv", "--osv-url", f"http://127.0.0.1:{database.server_port}/v1/query"]
    command = [sys.executable, "-m", "pip_audit", *arguments, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def locked(lock):
    """Return (name, version) of each line of a lock that has no condition: names as osv.dev is asked for them."""
    pins = re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^\s;]+)(?: \\)?$", (ROOT / lock).read_text(encoding="utf-8"), re.M)
    return {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in pins}


@pytest.mark.slow
def test_every_locked_version_is_asked_for():
    with running(Database()) as database:
        for arguments in audits():
            ran = run(arguments, database)
            assert ran.returncode == 0, ran.stderr
            assert "No known vulnerabilities found" in ran.stderr + ran.stdout
    locks = {path.relative_to(ROOT).as_posix() for path in (ROOT / "requirements").glob("*.txt")}
    assert {word for arguments in audits() for word in arguments if word.startswith("requirements/")} == locks
    expected = set().union(*map(locked, locks))
    assert len(expected) > 100
    assert expected <= database.asked


@pytest.mark.slow
def test_a_vulnerability_fails_and_so_does_a_database_that_is_not_there():
    (arguments,) = [each for each in audits() if "--no-deps" in each]
    with running(Database(vulnerable={"numpy"})) as database:
        ran = run(arguments, database)
        assert ran.returncode == 1
        assert re.search(r"numpy +\S+ +PYSEC-0000-1 +999", ran.stdout)
    assert run(arguments, database).returncode != 0
