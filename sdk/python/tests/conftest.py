"""Fixtures: a server that tests share, clients of both kinds, and WebSockets that listen."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fanfare_events import AsyncFanfare, Fanfare
from support import KEY, SECRET, Driver, Listener, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server("--api-key", KEY, "--token-secret", SECRET, "--drain-delay", "0s")
    yield server
    server.stop()


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Driver]]:
    """Makes clients. Each test runs with `Fanfare`, and again with `AsyncFanfare`."""
    loop = asyncio.new_event_loop()
    made: list[Driver] = []

    def make(url: str, key: str | None = KEY, **options: Any) -> Driver:
        kind = Fanfare if request.param == "sync" else AsyncFanfare
        made.append(Driver(kind(url, key, **options), loop))
        return made[-1]

    yield make
    for driver in made:
        driver.close() if request.param == "sync" else driver.aclose()
    loop.close()


@pytest.fixture
def fanfare(make: Callable[..., Driver], server: Server) -> Driver:
    return make(server.url)


@pytest.fixture
def listen(server: Server) -> Iterator[Callable[..., Listener]]:
    """Connects clients to the server."""
    listeners: list[Listener] = []

    def listen(user: str, *, on: Server = server, **options: str) -> Listener:
        listeners.append(Listener(on, user, **options))
        return listeners[-1]

    yield listen
    for listener in listeners:
        listener.close()


@pytest.fixture
def name() -> str:
    """A name that no other test has: tests share a server."""
    return f"x{uuid.uuid4().hex[:12]}"
