"""What the tests stand on: a real server, clients of both kinds, and WebSockets that listen."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from fanfare_events import AsyncFanfare, Fanfare, sign_token

ROOT = Path(__file__).parents[3]
KEY = "test-key-of-the-python-package"
SECRET = "test-secret-of-the-python-package"

# Long enough for a machine under load. Nothing waits for it that comes.
PATIENCE = 60.0


def program() -> str:
    """The server's program."""
    built = [ROOT / "target" / profile / "fanfare" for profile in ("release", "debug")]
    found = os.environ.get("FANFARE_BIN") or next((str(path) for path in built if path.exists()), None)
    if not found:
        raise RuntimeError("build the server, or name its program in FANFARE_BIN")
    return found


class Server:
    """A server on a free port of loopback."""

    def __init__(self, *flags: str) -> None:
        # The server refuses variables of its prefix that it does not know.
        env = {name: value for name, value in os.environ.items() if not name.startswith("FANFARE_")}
        common = ["--listen", "127.0.0.1:0", "--log", "info", "--channel-history", "room-*=1000"]
        command = [program(), "serve", *common, *flags]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

        log = []
        assert self.process.stdout
        for line in self.process.stdout:
            log.append(line)
            serving = re.search(r"serving address=(127\.0\.0\.1):(\d+)", line)
            if serving:
                self.port = int(serving[2])
                break
        else:
            raise RuntimeError(f"the server ended with {self.process.wait()}:\n{''.join(log)}")

        # A full pipe would block the server.
        self._reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self._reader.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout
        self.process.stdout.close()


class Listener:
    """A client that is connected by WebSocket."""

    def __init__(self, server: Server, user: str, *, token: str | None = None, **query: str) -> None:
        query["token"] = token or sign_token(SECRET, user)
        url = f"ws://127.0.0.1:{server.port}/v1/connect?{urlencode(query)}"
        self._stack = ExitStack()
        self._socket = self._stack.enter_context(connect(url, subprotocols=[Subprotocol("fanfare.v1")], proxy=None))
        self.id: str = self.message("welcome")["connection"]

    def receive(self) -> dict[str, Any]:
        """The next message of any kind. An event of bytes has them as `bytes`."""
        frame = self._socket.recv(timeout=PATIENCE)
        if isinstance(frame, str):
            message: dict[str, Any] = json.loads(frame)
            return message
        length = int.from_bytes(frame[1:3], "big")
        return {**json.loads(frame[3 : 3 + length]), "bytes": frame[3 + length :]}

    def message(self, op: str) -> dict[str, Any]:
        """The next message with this `op`."""
        while True:
            message = self.receive()
            if message.get("op") == op:
                return message

    def event(self) -> tuple[str, Any]:
        """The name and the data of the next event."""
        while True:
            message = self.receive()
            if "event" in message:
                return message["event"], message.get("bytes", message.get("data"))

    def send(self, **message: object) -> None:
        self._socket.send(json.dumps(message))

    def end(self) -> tuple[int | None, str]:
        """Waits until the server closes the connection. Its code and its reason."""
        try:
            while True:
                self.receive()
        except ConnectionClosed as closed:
            assert closed.rcvd
            return closed.rcvd.code, closed.rcvd.reason

    def close(self) -> None:
        self._stack.close()


class Driver:
    """One of the two clients, whose calls wait for their results. Lists are whole."""

    def __init__(self, client: Fanfare | AsyncFanfare, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self._loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        return lambda *args, **kwargs: self._wait(method(*args, **kwargs))

    def _wait(self, result: Any) -> Any:
        if inspect.iscoroutine(result):
            return self._loop.run_until_complete(result)
        if isinstance(result, AsyncIterator):
            return self._loop.run_until_complete(_collect(result))
        return list(result) if isinstance(result, Iterator) else result


async def _collect(entries: AsyncIterator[Any]) -> list[Any]:
    return [entry async for entry in entries]
