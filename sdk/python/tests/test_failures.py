"""Errors, and what is repeated."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from fanfare_events import ApiError, AsyncFanfare, Fanfare, FanfareError, where
from proxy import Fate, Proxy
from support import KEY, SECRET, Driver, Listener, Server

Make = Callable[..., Driver]
Listen = Callable[..., Listener]


@pytest.fixture
def behind(server: Server) -> Iterator[Callable[..., Proxy]]:
    """Puts proxies before the server."""
    proxies: list[Proxy] = []

    def behind(*fates: Fate) -> Proxy:
        proxies.append(Proxy(server.port, *fates))
        return proxies[-1]

    yield behind
    for proxy in proxies:
        proxy.close()


def answer(status: str, body: str = "", **headers: str) -> bytes:
    """An answer that the server gives only where it is broken, or that a proxy gives."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}", *lines, "", body]).encode()


def problem(status: str, code: str, **headers: str) -> bytes:
    return answer(status, json.dumps({"code": code, "detail": f"it is {code}"}), **headers)


def keys(proxy: Proxy) -> list[bytes]:
    """The idempotency keys of the requests."""
    return re.findall(rb"(?i)idempotency-key: (.*)\r\n", b"".join(proxy.requests))


# --- What is raised ---


def test_an_error_shows_where_the_filter_is_wrong(fanfare: Driver) -> None:
    with pytest.raises(ApiError) as failed:
        fanfare.emit("alert", filter=where('user == "änn" &&\n atuh.email == {e}', e="x"))
    error = failed.value
    assert (error.code, error.status) == ("undeclared_name", 400)
    assert '"atuh"' in error.detail
    assert error.excerpt == " atuh.email == params.p0\n ^^^^"
    assert str(error) == f"{error.detail}\n{error.excerpt}"
    # In bytes: `ä` is two.
    assert (error.offset, error.length) == (19, 4)
    assert isinstance(error, FanfareError)
    assert error.retry_after is None


def test_errors_can_be_copied_between_processes(fanfare: Driver) -> None:
    with pytest.raises(ApiError) as failed:
        fanfare.emit("alert", filter=where("atuh.x"))
    copied = pickle.loads(pickle.dumps(failed.value))
    assert type(copied) is ApiError
    assert (str(copied), copied.code, copied.offset) == (str(failed.value), "undeclared_name", 0)
    plain = pickle.loads(pickle.dumps(FanfareError("network", "no answer")))
    assert (str(plain), plain.code) == ("no answer", "network")


@pytest.mark.parametrize(
    ("event", "options", "code", "detail"),
    [
        ("", {}, "event_name_length", ""),
        ("fanfare:x", {}, "event_name_reserved", ""),
        ("a", {"to": None}, "bad_field", "to"),
        ("a", {"to": {"users": "ann"}}, "bad_field", "to.users"),
        ("a", {"to": {"users": [None]}}, "bad_field", "to.users[0]"),
        ("a", {"except_": {"users": None}}, "bad_field", "except.users"),
        ("a", {"excpt": {}}, "unknown_field", "except"),
        ("a", {"store": True}, "cannot_store", ""),
        ("a", {"idempotency_key": ""}, "idempotency_key_length", ""),
        ("a", {"idempotency_key": "ä"}, "idempotency_key_length", ""),
    ],
)
def test_a_wrong_call_is_refused(fanfare: Driver, event: str, options: dict[str, Any], code: str, detail: str) -> None:
    with pytest.raises(ApiError) as failed:
        fanfare.emit(event, **options)
    assert failed.value.code == code
    assert detail in failed.value.detail


@pytest.mark.parametrize("option", ["idempotency_key", "timeout", "retries"])
def test_an_option_that_is_none_by_mistake(fanfare: Driver, option: str) -> None:
    options: dict[str, Any] = {option: None}
    with pytest.raises(TypeError, match=f"{option} is None"):
        fanfare.emit("a", **options)


def test_a_target_that_is_named_twice(fanfare: Driver) -> None:
    with pytest.raises(TypeError, match="user"):
        fanfare.publish("ann", "a", user="bob")


def test_a_key_is_needed(make: Make, server: Server) -> None:
    for key in (None, "", "another-key"):
        with pytest.raises(ApiError) as failed:
            make(server.url, key).broadcast("a")
        assert (failed.value.code, failed.value.status) == ("unauthorized", 401)
    # From a file a key comes with a line end.
    assert make(server.url, f"{KEY}\n").broadcast("a")["nodes"] == 1


def test_a_key_is_never_shown(make: Make, server: Server) -> None:
    secret = "geheim-\nx-schlüssel"
    with pytest.raises(FanfareError) as failed:
        make(server.url, secret).broadcast("a")
    assert failed.value.code == "bad_key"
    assert "geheim" not in "".join(map(repr, [failed.value, failed.value.__cause__, failed.value.__context__]))
    assert KEY not in repr(make(server.url).client)


def test_what_is_not_json_is_not_sent(fanfare: Driver) -> None:
    for wrong in (float("nan"), {1, 2}, object(), "\ud800"):
        with pytest.raises((TypeError, ValueError)):
            fanfare.broadcast("a", wrong)


@pytest.mark.parametrize("url", ["events.example.com", "ftp://127.0.0.1", "http://127.0.0.1:port", ""])
def test_an_address_that_is_none(make: Make, url: str) -> None:
    # Making a client never fails.
    fanfare = make(url)
    with pytest.raises(FanfareError) as failed:
        fanfare.broadcast("a")
    assert failed.value.code == "bad_url"


def test_confidential_params_are_not_in_messages(make: Make) -> None:
    with pytest.raises(FanfareError) as failed:
        make("http://127.0.0.1:1", retries=0).connections(filter=where("user == {u}", u="confidential"))
    assert "confidential" not in str(failed.value)
    assert "GET http://127.0.0.1:1/v1/connections" in str(failed.value)


# --- What is repeated ---


@pytest.mark.parametrize(
    "fate", ["refuse", "lose the answer", problem("500 Oops", "internal"), problem("503 Oops", "busy")]
)
def test_a_repeat_sends_nothing_twice(
    make: Make, behind: Callable[..., Proxy], listen: Listen, name: str, fate: Fate
) -> None:
    ann = listen(name)
    proxy = behind(fate, fate)
    receipt = make(proxy.url).publish(name, "paid", 4711)
    assert receipt["matched"] == 1
    assert proxy.connections == 3
    assert len(set(keys(proxy))) == 1

    # It came once: this is the next one.
    make(proxy.url).publish(name, "last")
    assert [ann.event(), ann.event()] == [("paid", 4711), ("last", None)]
    assert len(set(keys(proxy))) == 2


def test_a_batch_is_repeated_with_one_key(make: Make, behind: Callable[..., Proxy], listen: Listen, name: str) -> None:
    ann = listen(name)
    proxy = behind("lose the answer")
    fanfare = make(proxy.url)
    assert fanfare.batch([{"call": "publish", "user": name, "event": "a"}])[0]["status"] == 200
    fanfare.publish(name, "last")
    assert [ann.event(), ann.event()] == [("a", None), ("last", None)]
    assert len(keys(proxy)) == 3 and len(set(keys(proxy))) == 2


def test_the_same_key_with_another_body_is_refused(fanfare: Driver, name: str) -> None:
    first = fanfare.publish(name, "a", 1, idempotency_key=name)
    assert fanfare.publish(name, "a", 1, idempotency_key=name) == first
    with pytest.raises(ApiError) as failed:
        fanfare.publish(name, "a", 2, idempotency_key=name)
    assert (failed.value.code, failed.value.status) == ("idempotency_key_reused", 422)


def test_the_last_failure_is_raised(make: Make, behind: Callable[..., Proxy]) -> None:
    proxy = behind("refuse", "refuse", problem("503 Oops", "busy", Retry_After="0"))
    with pytest.raises(ApiError) as failed:
        make(proxy.url).broadcast("a")
    assert (failed.value.code, failed.value.status, failed.value.retry_after) == ("busy", 503, 0)
    assert proxy.connections == 3


def test_retries_can_be_set(make: Make, behind: Callable[..., Proxy]) -> None:
    proxy = behind("refuse", "refuse", "refuse", "refuse")
    with pytest.raises(FanfareError) as failed:
        make(proxy.url, retries=0).broadcast("a")
    assert failed.value.code == "network"
    assert isinstance(failed.value.__cause__, httpx.RequestError)
    assert proxy.connections == 1
    assert make(proxy.url, retries=0).broadcast("a", retries=3)["nodes"] == 1


@pytest.mark.parametrize(
    ("fate", "code", "status"),
    [
        (problem("400 Bad", "bad_json"), "bad_json", 400),
        (answer("502 Bad Gateway", "<h1>Bad Gateway</h1>"), "unknown", 502),
        (answer("418 Teapot", "[]"), "unknown", 418),
        (answer("301 Moved", Location="http://127.0.0.1:1/"), "unknown", 301),
        (problem("503 Oops", "busy", Retry_After="86400"), "busy", 503),
    ],
)
def test_what_is_not_repeated(make: Make, behind: Callable[..., Proxy], fate: Fate, code: str, status: int) -> None:
    proxy = behind(fate)
    with pytest.raises(ApiError) as failed:
        make(proxy.url).broadcast("a")
    assert (failed.value.code, failed.value.status) == (code, status)
    assert proxy.connections == 1


def test_an_answer_that_cannot_be_read(make: Make, behind: Callable[..., Proxy]) -> None:
    proxy = behind(answer("200 OK", "<h1>Welcome</h1>"))
    with pytest.raises(FanfareError, match="cannot be read"):
        make(proxy.url, retries=0).broadcast("a")
    # A problem of a proxy is no answer of /readyz.
    proxy = behind(answer("503 Oops", "<h1>Away</h1>", Content_Type="text/html"))
    with pytest.raises(ApiError) as failed:
        make(proxy.url, retries=0).readyz()
    assert failed.value.status == 503


def test_an_attempt_that_takes_too_long(make: Make, behind: Callable[..., Proxy], listen: Listen, name: str) -> None:
    ann = listen(name)
    proxy = behind("say nothing", "say nothing")
    with pytest.raises(FanfareError, match=r"no answer to POST http://127.0.0.1:\d+/v1/publish in 0.2 s") as failed:
        make(proxy.url, timeout=0.2, retries=1).publish(name, "a")
    assert failed.value.code == "timeout"
    proxy.expect(2)

    # As many repeats as it takes on a slow machine.
    proxy = behind("say nothing")
    make(proxy.url).publish(name, "b", timeout=1.0, retries=50)
    assert proxy.connections > 1
    assert ann.event() == ("b", None)


def test_retry_after_is_waited_for(make: Make, behind: Callable[..., Proxy]) -> None:
    proxy = behind(problem("503 Oops", "busy", Retry_After="1"))
    began = time.monotonic()
    make(proxy.url).broadcast("a")
    # Without it the pause would be 0.2 s at most.
    assert time.monotonic() - began >= 1
    assert proxy.connections == 2


def test_a_server_without_room(make: Make) -> None:
    # Room for the answer of one idempotency key.
    flags = ["--api-key", KEY, "--token-secret", SECRET, "--limit", "idempotency_entries=1"]
    server = Server(*flags)
    try:
        fanfare = make(server.url)
        fanfare.broadcast("a")
        with pytest.raises(ApiError) as failed:
            fanfare.broadcast("b", retries=0)
        assert (failed.value.code, failed.value.status) == ("idempotency_store_full", 503)
        assert failed.value.retry_after and failed.value.retry_after >= 1
    finally:
        server.stop()

    # There is room again after a moment, which repeats wait for.
    server = Server(*flags, "--limit", "idempotency_window=1s")
    try:
        fanfare = make(server.url)
        fanfare.broadcast("a")
        assert fanfare.broadcast("b", retries=100)["nodes"] == 1
    finally:
        server.stop()


def test_a_server_that_is_away(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(FanfareError, match=f"no answer to POST http://127.0.0.1:{port}/v1/broadcast: ") as failed:
        make(f"http://127.0.0.1:{port}", retries=1).broadcast("a")
    assert failed.value.code == "network"


# --- How clients are made ---


def test_from_env(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Fanfare.from_env({"FANFARE_URL": f"{server.url}/", "FANFARE_API_KEY": f"{KEY},another"}) as fanfare:
        assert fanfare.broadcast("a")["nodes"] == 1

    monkeypatch.setenv("FANFARE_URL", server.url)
    monkeypatch.setenv("FANFARE_API_KEY", KEY)
    with Fanfare.from_env(retries=0) as fanfare:
        assert fanfare.broadcast("a")["nodes"] == 1


def test_the_default_address(monkeypatch: pytest.MonkeyPatch) -> None:
    # Something else may listen there, so nothing is sent.
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={})

    monkeypatch.delenv("FANFARE_URL", raising=False)
    monkeypatch.delenv("FANFARE_API_KEY", raising=False)
    with httpx.Client(transport=httpx.MockTransport(handle)) as http:
        Fanfare.from_env(http=http).healthz()
        Fanfare.from_env({"FANFARE_URL": "", "FANFARE_API_KEY": ""}, http=http).healthz()
    assert [str(request.url) for request in asked] == ["http://127.0.0.1:7070/healthz"] * 2
    assert not any("authorization" in request.headers for request in asked)


def test_a_client_of_ones_own(server: Server) -> None:
    with httpx.Client(headers={"X-Trace": "1"}) as http:
        with Fanfare(server.url, KEY, http=http) as fanfare:
            assert fanfare.healthz() == {"status": "ok"}
        # It is still open.
        assert http.get(f"{server.url}/healthz").status_code == 200


async def many_calls(url: str, user: str) -> None:
    async with AsyncFanfare(url, KEY) as fanfare:
        receipts = await asyncio.gather(*(fanfare.publish(user, "a", at) for at in range(20)))
        assert len({receipt["id"] for receipt in receipts}) == 20
        async for channel in fanfare.channels(limit=1):
            assert channel["channel"]
            break


def test_calls_at_the_same_time(server: Server, listen: Listen, name: str) -> None:
    ann = listen(name)
    asyncio.run(many_calls(server.url, name))
    assert sorted(ann.event()[1] for _ in range(20)) == list(range(20))
