"""Every call of the API against a real server: `test_<operation>` for each operation of docs/openapi.json."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from fanfare_events import ApiError, item, sign_token, where
from support import KEY, PATIENCE, ROOT, SECRET, Driver, Listener, Server

Listen = Callable[..., Listener]
Make = Callable[..., Driver]


def in_tenant(user: str, tenant: str) -> str:
    """A token with the claim `tenant`."""
    return sign_token(SECRET, user, claims={"tenant": tenant})


def test_emit(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen("ann", token=in_tenant("ann", name))
    bob = listen("bob", token=in_tenant("bob", name))
    eve = listen("eve", token=in_tenant("eve", f"{name}-other"))

    mine = where("auth.tenant == {t}", t=name)
    receipt = fanfare.emit("alert", {"text": "Grüße"}, filter=mine, except_={"users": ["bob"]}, receipt="cluster")
    assert receipt["matched"] == receipt["queued"] == 1
    assert (receipt["dropped"], receipt["stored"], receipt["filter_errors"]) == (0, 0, 0)
    assert (receipt["nodes"], receipt["missing_nodes"]) == (1, [])
    assert ann.event() == ("alert", {"text": "Grüße"})

    # What the others get next came later: they were left out.
    assert fanfare.emit("later", to={"connections": [bob.id, eve.id]}, scope="node")["matched"] == 2
    assert bob.event() == eve.event() == ("later", None)


def test_publish(fanfare: Driver, listen: Listen, name: str) -> None:
    phone, laptop = listen(name, device="phone"), listen(name, device="laptop")
    other = listen(f"{name}-2")

    assert fanfare.publish(name, "one", [1, None], except_={"devices": ["laptop"]})["matched"] == 1
    assert fanfare.publish([name, f"{name}-2"], "two", b"\x00\xff")["matched"] == 3
    assert phone.event() == ("one", [1, None])
    assert [phone.event(), laptop.event(), other.event()] == [("two", b"\x00\xff")] * 3


def test_send(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen("ann")
    fanfare.join(f"room-{name}", to={"connections": [ann.id]})
    fanfare.join(f"hall-{name}", to={"connections": [ann.id]})

    receipt = fanfare.send(f"room-{name}", "message", {"text": "hi"})
    [place] = receipt["publications"]
    assert (receipt["stored"], place["channel"], place["offset"]) == (1, f"room-{name}", 1)
    assert place["id"] == receipt["id"]
    assert fanfare.send([f"room-{name}", f"hall-{name}"], "both", store=False)["matched"] == 2
    assert [ann.event() for _ in range(3)] == [("message", {"text": "hi"}), ("both", None), ("both", None)]


def test_broadcast(fanfare: Driver, listen: Listen, name: str) -> None:
    ann, bob = listen(name), listen(f"{name}-2")
    receipt = fanfare.broadcast("news", 1.5, filter=where("user.startsWith({n})", n=name))
    assert receipt["matched"] == 2
    assert ann.event() == bob.event() == ("news", 1.5)
    assert fanfare.broadcast("all")["matched"] >= 2
    assert ann.event() == bob.event() == ("all", None)


def test_dispatch(fanfare: Driver, listen: Listen, name: str) -> None:
    ann, bob = listen(name), listen(f"{name}-2")
    both = [name, f"{name}-2"]
    assert fanfare.dispatch(both, "typing", "x", except_=[name])["matched"] == 1
    assert fanfare.dispatch(both, "typing", "y", except_={"connections": [bob.id]})["matched"] == 1
    assert (ann.event(), bob.event()) == (("typing", "y"), ("typing", "x"))
    assert fanfare.dispatch(["*"], "all")["matched"] >= 2
    assert ann.event() == bob.event() == ("all", None)


def test_batch(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen(name)
    items = [
        item.publish(name, "one", 1),
        item.emit("bad", filter=where("atuh.x == 1")),
        item.broadcast("two", b"\x01", filter=where("user == {n}", n=name)),
        item.dispatch([name], "three", except_=["nobody"]),
        item.send(f"room-{name}", "four"),
    ]
    results = fanfare.batch(items, idempotency_key=f"{name}-key")
    assert [result["status"] for result in results] == [200, 400, 200, 200, 200]
    assert results[0]["result"]["matched"] == 1
    assert results[1]["error"]["code"] == "undeclared_name"
    assert [ann.event() for _ in range(3)] == [("one", 1), ("two", b"\x01"), ("three", None)]

    # The same key: what succeeded is not sent again.
    again = fanfare.batch(items, idempotency_key=f"{name}-key")
    assert [again[at] for at in (0, 2, 3, 4)] == [results[at] for at in (0, 2, 3, 4)]
    fanfare.publish(name, "last")
    assert ann.event() == ("last", None)


def test_explain(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen(name)
    explanation = fanfare.explain(where("user == {n} && profile.status == 'away'", n=name), connection=ann.id)
    assert explanation["plan"]["access"] == "index"
    assert (explanation["looked_at"], explanation["matched"], explanation["errored"]) == (1, 0, 0)
    assert [warning["code"] for warning in explanation["warnings"]] == ["client_controlled"]
    values = {value["text"]: value.get("value") for value in explanation["values"]}
    assert values["user"] == name
    assert fanfare.explain(where("user == {n}", n=name))["sample"] == [ann.id]


def test_connections(fanfare: Driver, listen: Listen, name: str) -> None:
    ids = {listen(name).id for _ in range(5)}
    mine = where("user == {n}", n=name)
    assert {entry["id"] for entry in fanfare.connections(filter=mine)} == ids
    # Several pages.
    assert {entry["id"] for entry in fanfare.connections(filter=mine, limit=2)} == ids
    assert {entry["id"] for entry in fanfare.connections()} >= ids


def test_connection(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen(name, device="phone", token=in_tenant(name, "acme"))
    connection = fanfare.connection(ann.id)
    assert (connection["id"], connection["user"], connection["device"]) == (ann.id, name, "phone")
    assert connection["auth"]["tenant"] == "acme"
    assert (connection["ip"], connection["protocol"], connection["profile"]) == ("127.0.0.1", "fanfare.v1", None)
    assert connection["channels"] == []

    with pytest.raises(ApiError) as failed:
        fanfare.connection("nobody")
    assert (failed.value.code, failed.value.status) == ("unknown_connection", 404)


@pytest.mark.parametrize("suffix", ["", "/../x?y#z", " %2F+ä\n", "."])
def test_user(fanfare: Driver, listen: Listen, name: str, suffix: str) -> None:
    user = name + suffix
    assert fanfare.user(user) == {"online": False, "connections": 0}
    listen(user), listen(user)
    assert fanfare.user(user) == {"online": True, "connections": 2}


def test_users_whose_names_are_folders(fanfare: Driver, listen: Listen) -> None:
    for user in (".", ".."):
        listen(user)
        assert fanfare.user(user)["online"]


def test_channels(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen("ann")
    names = [f"{name}-{at}" for at in range(5)]
    for channel in names:
        fanfare.join(channel, to={"connections": [ann.id]})
    found = fanfare.channels(prefix=name, limit=2)
    assert [channel["channel"] for channel in found] == names
    assert {(channel["connections"], channel["users"]) for channel in found} == {(1, 1)}
    assert {channel["channel"] for channel in fanfare.channels()} >= set(names)


def test_channel(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen("ann")
    assert fanfare.channel(name) == {"channel": name, "connections": 0, "users": 0}
    fanfare.join(f"room-{name}", to={"connections": [ann.id]})
    offset = fanfare.send(f"room-{name}", "message")["publications"][0]["offset"]
    channel = fanfare.channel(f"room-{name}")
    assert (channel["connections"], channel["users"], channel["offset"]) == (1, 1, offset)
    assert channel["epoch"]
    assert fanfare.channel("..")["channel"] == ".."


def test_members(fanfare: Driver, listen: Listen, name: str) -> None:
    listeners = [listen(f"{name}-{at}") for at in range(5)]
    fanfare.join(name, filter=where("user.startsWith({n})", n=name))
    found = fanfare.members(name, limit=2)
    assert {member["id"] for member in found} == {listener.id for listener in listeners}
    assert {member["user"] for member in found} == {f"{name}-{at}" for at in range(5)}


def test_history(fanfare: Driver, name: str) -> None:
    channel = f"room-{name}"
    for at in range(5):
        fanfare.send(channel, "message", {"at": at})
    fanfare.send(channel, "bytes", b"\x00\xff")

    events = fanfare.history(channel, limit=2)
    assert [event["offset"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event["data"]["at"] for event in events[:5]] == [0, 1, 2, 3, 4]
    assert events[5]["data_base64"] == "AP8="
    assert [event["offset"] for event in fanfare.history(channel, after=4)] == [5, 6]

    with pytest.raises(ApiError, match="history"):
        fanfare.history(name)


def test_join(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen(name)
    assert fanfare.join(f"a-{name}", to={"users": [name]}) == {"joined": 1, "already": 0, "full": 0}
    assert ann.message("joined")["channel"] == f"a-{name}"
    assert fanfare.join(f"a-{name}", to={"users": [name]}) == {"joined": 0, "already": 1, "full": 0}
    mine = where("user == {n}", n=name)
    assert fanfare.join(f"b-{name}", filter=mine, except_={"connections": [ann.id]})["joined"] == 0


def test_leave(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen(name)
    fanfare.join(name, to={"users": [name]})
    assert fanfare.leave(name, filter=where("!(user in {staff})", staff=["eve"])) == {"left": 1}
    assert ann.message("left")["channel"] == name
    assert fanfare.leave(name, to={"users": [name]}) == {"left": 0}


def test_disconnect(fanfare: Driver, listen: Listen, name: str) -> None:
    ann, bob = listen(name), listen(f"{name}-2")
    assert fanfare.disconnect(to={"users": [name]}, code=4444, reason="signed out") == {"disconnected": 1}
    assert ann.end() == (4444, "signed out")
    assert fanfare.disconnect(filter=where("user == {n}", n=f"{name}-2")) == {"disconnected": 1}
    assert bob.end() == (4010, "disconnected")


def test_revoke(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen(name)
    receipt = fanfare.revoke(name)
    assert (receipt["disconnected"], receipt["nodes"]) == (1, 1)
    assert receipt["kept_until"] > receipt["before"] > 0
    assert ann.end()[0] == 4001
    assert fanfare.revoke([name, f"{name}-2"], before=int(time.time()) - 10)["disconnected"] == 0


def test_auth(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen(name)
    receipt = fanfare.auth(name, {"plan": "pro"}, can={"join": ["room-*"]})
    assert receipt == {"connections": 1, "nodes": 1}
    assert fanfare.connection(ann.id)["auth"]["plan"] == "pro"
    ann.send(op="join", id=1, channel=f"room-{name}")
    assert ann.message("ack")["id"] == 1


def test_tokens(fanfare: Driver, listen: Listen, name: str) -> None:
    token = fanfare.token(name, claims={"plan": "pro"}, can={"join": ["room-*"]}, ttl=60)
    assert token["ttl"] == 60
    assert token["expires_at"] > time.time() - PATIENCE
    ann = listen(name, token=token["token"])
    assert fanfare.connection(ann.id)["auth"]["plan"] == "pro"


def test_openapi(fanfare: Driver) -> None:
    assert fanfare.openapi() == json.loads((ROOT / "docs" / "openapi.json").read_text())


def test_healthz(fanfare: Driver) -> None:
    assert fanfare.healthz() == {"status": "ok"}


def test_livez(fanfare: Driver) -> None:
    assert fanfare.livez() == {"status": "ok"}


def test_readyz(make: Make) -> None:
    server = Server("--api-key", KEY, "--drain-delay", "60s", "--drain-timeout", "90s")
    try:
        # The server gives reasons to this machine, if a request brings no key.
        fanfare = make(server.url, key=None)
        assert fanfare.readyz() == {"ready": True}

        # A node that leaves is not ready. That is an answer, and no reason to ask again.
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while (ready := fanfare.readyz(scope="node"))["ready"]:
            assert time.monotonic() < deadline
        assert "draining" in ready["reasons"][0]
    finally:
        server.stop()


def test_metrics(fanfare: Driver) -> None:
    assert "# TYPE fanfare_connections gauge" in fanfare.metrics()


def test_request(fanfare: Driver, listen: Listen, name: str) -> None:
    ann = listen(name)
    body: dict[str, Any] = {"user": name, "event": "alert"}
    first = fanfare.request("POST", "/v1/publish", body, idempotency_key=name)
    assert fanfare.request("POST", "/v1/publish", body, idempotency_key=name) == first
    found = fanfare.request("GET", "/v1/connections", query={"filter": f"user == '{name}'", "limit": 1})
    assert [entry["id"] for entry in found["connections"]] == [ann.id]
