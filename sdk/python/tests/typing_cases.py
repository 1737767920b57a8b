"""What type checkers see. Nothing here runs: mypy checks it, and an `ignore` that is not needed is an error as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from typing_extensions import assert_type

from fanfare_events import (
    AsyncFanfare,
    BatchFailure,
    BatchSuccess,
    Connection,
    Fanfare,
    Joined,
    Readiness,
    Receipt,
    StoredEvent,
    item,
    where,
)


def results(fanfare: Fanfare) -> None:
    assert_type(fanfare.emit("a", {"n": 1}, filter=where("user == {u}", u="ann"), to={"users": ["ann"]}), Receipt)
    assert_type(fanfare.publish(["ann"], "a", b"x", except_={"devices": ("laptop",)}, timeout=1), Receipt)
    assert_type(fanfare.dispatch(["*"], "a", except_=["ann"]), Receipt)
    assert_type(fanfare.join("room-1", to={"users": ["ann"]}), Joined)
    assert_type(fanfare.connections(limit=1), Iterator[Connection])
    assert_type(fanfare.history("room-1", after=1), Iterator[StoredEvent])
    assert_type(fanfare.readyz(scope="node"), Readiness)
    assert_type(fanfare.metrics(), str)
    assert_type(fanfare.request("GET", "/v1/new"), Any)
    with Fanfare.from_env() as made:
        assert_type(made, Fanfare)


async def results_of_the_async_client(fanfare: AsyncFanfare) -> None:
    emitting = fanfare.emit("a")
    _ = assert_type(emitting, Coroutine[Any, Any, Receipt])
    await emitting
    assert_type(await fanfare.send("room-1", "a", store=False), Receipt)
    assert_type(fanfare.connections(), AsyncIterator[Connection])
    async with AsyncFanfare.from_env() as made:
        assert_type(made, AsyncFanfare)


def results_of_a_batch(fanfare: Fanfare) -> None:
    for result in fanfare.batch([item.publish("ann", "a"), item.broadcast("b")]):
        if "result" in result:
            assert_type(result, BatchSuccess)
        else:
            assert_type(result, BatchFailure)
            assert_type(result["error"]["detail"], str)


def mistakes(fanfare: Fanfare, text: str) -> None:
    where(f"user == '{text}'")  # pyright: ignore[reportArgumentType]
    fanfare.emit()  # type: ignore[call-arg]
    fanfare.emit("a", filtre=where("true"))  # type: ignore[call-arg]
    fanfare.emit("a", filter="true")  # type: ignore[arg-type]
    fanfare.emit("a", filter=None)  # type: ignore[arg-type]
    fanfare.emit("a", to={"user": ["ann"]})  # type: ignore[typeddict-unknown-key]
    fanfare.emit("a", to=None)  # type: ignore[arg-type]
    fanfare.emit("a", scope="world")  # type: ignore[arg-type]
    fanfare.publish(1, "a")  # type: ignore[arg-type]
    fanfare.join("room-1", idempotency_key="k")  # type: ignore[call-arg]
    fanfare.emit("a")["matchd"]  # type: ignore[misc]
    fanfare.nothing()  # type: ignore[attr-defined]
    item.connections()  # type: ignore[attr-defined]
    Fanfare(url=1)  # type: ignore[arg-type]
