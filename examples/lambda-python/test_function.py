"""The function as AWS Lambda runs it: from its archive, by the runtime client of AWS, for events of a Runtime API."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support import KEY, PATIENCE, SECRET, Listener, Server

HERE = Path(__file__).parent
EVENT = json.loads((HERE / "event.json").read_text())


class RuntimeApi(ThreadingHTTPServer):
    """The Runtime API, which hands out events and takes their results (version 2018-06-01)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.results: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.address = f"127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()

    def invoke(self, event: dict[str, Any]) -> tuple[str, Any]:
        """`response` or `error`, and what it says."""
        self.events.put(event)
        return self.results.get(timeout=PATIENCE)

    def stop(self) -> None:
        self.events.put(None)
        self.shutdown()
        self._thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert self.path == "/2018-06-01/runtime/invocation/next"
        event = self.server.events.get()
        if event is None:
            self.close_connection = True
            return
        body = json.dumps(event).encode()
        self.send_response(200)
        # The client of the runtime fails without a type.
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Lambda-Runtime-Aws-Request-Id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd")
        self.send_header("Lambda-Runtime-Deadline-Ms", "4102444800000")
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-central-1:111122223333:function:f")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.results.put((self.path.rpartition("/")[2], json.loads(body)))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Lambda unpacks."""
    # The python3 of the script is the one that runs the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([HERE / "build.sh"], check=True, env={**os.environ, "PATH": path})
    unpacked = tmp_path_factory.mktemp("task")
    zipfile.ZipFile(HERE / "function.zip").extractall(unpacked)
    return unpacked


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("--api-key", KEY, "--token-secret", SECRET, "--drain-delay", "0s")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def function(package: Path, server: Server) -> Iterator[RuntimeApi]:
    api = RuntimeApi()
    env = {
        "PATH": os.environ["PATH"],
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "FANFARE_URL": server.url,
        "FANFARE_API_KEY": KEY,
    }
    runtime = subprocess.Popen([sys.executable, "-m", "awslambdaric", "function.handler"], cwd=package, env=env)
    yield api
    runtime.kill()
    runtime.wait()
    api.stop()


def test_the_archive_has_everything(package: Path) -> None:
    # Without the packages that are installed here.
    lines = f"import sys; sys.path.insert(0, {str(package)!r}); import function; print(function.handler.__name__)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", lines], check=True, capture_output=True, text=True)
    assert run.stdout == "handler\n"


def test_the_customer_is_notified_once(function: RuntimeApi, server: Server) -> None:
    phone, laptop, other = Listener(server, "ann"), Listener(server, "ann"), Listener(server, "bob")
    kind, result = function.invoke(EVENT)
    assert (kind, result["connections"]) == ("response", 2)

    shipped = ("order-shipped", {"order": "4711", "carrier": "Post"})
    assert phone.event() == laptop.event() == shipped

    # EventBridge delivers the event again: the same answer, and nothing is sent.
    assert function.invoke(EVENT) == (kind, result)
    second = {**EVENT, "id": "another", "detail": {"id": "4712", "customer": "bob", "carrier": "Kurier"}}
    assert function.invoke(second)[1]["connections"] == 1
    assert function.invoke({**EVENT, "id": "third"})[1]["connections"] == 2
    assert phone.event() == laptop.event() == shipped
    # Nothing of another customer's order came before.
    assert other.event() == ("order-shipped", {"order": "4712", "carrier": "Kurier"})
    for listener in (phone, laptop, other):
        listener.close()


def test_a_failure_is_reported_to_lambda(function: RuntimeApi) -> None:
    # Lambda then delivers the event again, or keeps it as failed.
    kind, error = function.invoke({**EVENT, "id": "fourth", "detail": {**EVENT["detail"], "customer": None}})
    assert (kind, error["errorType"]) == ("error", "ApiError")
    kind, error = function.invoke({**EVENT, "id": ""})
    assert (kind, error["errorType"]) == ("error", "ApiError")
    assert "Idempotency-Key" in error["errorMessage"]
