"""Tokens that `sign_token` makes, as the server takes them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import pytest
from websockets.exceptions import ConnectionClosed

from fanfare_events import FanfareError, sign_token
from support import SECRET, Driver, Listener, Server

Listen = Callable[..., Listener]


def claims_of(token: str) -> dict[str, object]:
    payload = token.split(".")[1]
    claims: dict[str, object] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


@pytest.mark.parametrize("user", ["ann", "zürich 東京 🎉", '"', "x" * 256])
def test_the_server_takes_it(fanfare: Driver, listen: Listen, name: str, user: str) -> None:
    token = sign_token(SECRET, user, claims={"plan": "pro", "test": name}, can={"join": ["room-*"]})
    ann = listen(user, token=token)
    connection = fanfare.connection(ann.id)
    assert connection["user"] == user
    assert (connection["auth"]["plan"], connection["auth"]["test"]) == ("pro", name)

    # What `can` has, and nothing else.
    ann.send(op="join", id=1, channel=f"room-{name}")
    assert ann.message("ack")["id"] == 1
    ann.send(op="join", id=2, channel=f"hall-{name}")
    assert ann.message("error")["code"] == "forbidden"


def test_an_expired_one_is_refused(server: Server) -> None:
    # Clocks may differ by 5 seconds.
    with pytest.raises(ConnectionClosed) as closed:
        Listener(server, "ann", token=sign_token(SECRET, "ann", ttl=-60))
    assert closed.value.rcvd and closed.value.rcvd.code == 4005


def test_one_of_another_secret_is_refused(server: Server) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        Listener(server, "ann", token=sign_token("another-secret-of-32-bytes-or-more", "ann"))
    assert closed.value.rcvd and closed.value.rcvd.code == 4001


def test_what_it_says() -> None:
    before = int(time.time())
    claims = claims_of(sign_token(SECRET.encode(), "ann", claims={"iss": "shop", "nested": [{"a": None}]}, ttl=60))
    issued = claims["iat"]
    assert isinstance(issued, int) and before <= issued <= time.time()
    assert claims == {"iss": "shop", "nested": [{"a": None}], "sub": "ann", "iat": issued, "exp": issued + 60}
    assert claims_of(sign_token(SECRET, "ann", can={}))["can"] == {}


@pytest.mark.parametrize("secret", ["", "short", b"x" * 31, None])
def test_a_short_secret_is_refused(secret: str) -> None:
    with pytest.raises(FanfareError) as failed:
        sign_token(secret, "ann")
    assert failed.value.code == "bad_secret"


@pytest.mark.parametrize("user", ["", None, 4711, "ä" * 129])
def test_a_token_needs_a_user(user: str) -> None:
    with pytest.raises(FanfareError) as failed:
        sign_token(SECRET, user)
    assert failed.value.code == "bad_user"


@pytest.mark.parametrize("claim", ["sub", "iat", "exp", "can"])
def test_claims_cannot_replace_its_own(claim: str) -> None:
    with pytest.raises(FanfareError, match=claim) as failed:
        sign_token(SECRET, "ann", claims={claim: "eve"})
    assert failed.value.code == "bad_claims"
