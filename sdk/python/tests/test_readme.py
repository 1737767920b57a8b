"""The examples of README.md run as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fanfare_events import sign_token
from support import KEY, SECRET, Listener, Server

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_examples(
    server: Server,
    listen: Callable[..., Listener],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FANFARE_URL", server.url)
    monkeypatch.setenv("FANFARE_API_KEY", KEY)
    monkeypatch.setenv("FANFARE_TOKEN_SECRET", SECRET)
    claims = {"plan": "pro", "tenant": "acme", "roles": ["admin"]}
    eve = listen("eve", token=sign_token(SECRET, "eve", claims=claims, can={"join": ["room-*"]}), channel="room-1")
    ann = listen("ann")

    names: dict[str, Any] = {}
    examples = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    outputs = []
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)  # noqa: S102
        outputs.append(capsys.readouterr().out)
    names["fanfare"].close()

    first, calls, filters, errors, asynchronous, tokens = outputs
    assert first == "1 connections\n"
    assert calls == "eve ['room-1']\n"
    assert names["failed"] == []
    # What the README prints below the example.
    assert f"```text\n{errors}```" in README
    assert asynchronous == "eve\n"
    assert (filters, tokens) == ("", "")

    assert [ann.event()[0] for _ in range(4)] == ["invoice-paid", "paid", "news", "invoice-paid"]
    assert [eve.event() for _ in range(4)] == [
        ("alert", {"text": "Hello"}),
        ("message", {"text": "Hello"}),
        ("news", None),
        ("alert", "Hello"),
    ]
    listen("ann", token=names["token"])
