"""Values never become part of a filter's text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fanfare_events import Where, item, sign_token, where
from support import SECRET, Driver, Listener

HOSTILE = [
    '" || true || "',
    "' || true || '",
    "\\",
    '\\" || true //',
    "{t}",
    "{{t}}",
    "params.p0",
    "}{",
    "// comment",
    '"""',
    "r'",
    "zürich 東京 🎉 \u202e",
    "line\nbreak\ttab\x00",
    "",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_means_itself(fanfare: Driver, listen: Callable[..., Listener], name: str, value: str) -> None:
    ann = listen("ann", token=sign_token(SECRET, "ann", claims={"tenant": value, "test": name}))
    bob = listen("bob", token=sign_token(SECRET, "bob", claims={"tenant": "other", "test": name}))

    mine = where("auth.test == {test} && auth.tenant == {t}", test=name, t=value)
    assert fanfare.emit("alert", value, filter=mine)["matched"] == 1
    assert ann.event() == ("alert", value)
    # In the address of a GET as well.
    assert [entry["id"] for entry in fanfare.connections(filter=mine)] == [ann.id]

    others = where("auth.test == {test} && !({mine})", test=name, mine=mine)
    assert fanfare.emit("others", filter=others)["matched"] == 1
    assert bob.event() == ("others", None)


def test_values_of_every_kind(fanfare: Driver, listen: Callable[..., Listener], name: str) -> None:
    claims = {"n": 3, "x": 1.5, "roles": ["admin"], "place": {"zip": 3000}, "ok": True}
    listen(name, token=sign_token(SECRET, name, claims=claims))
    everything = where(
        "user == {user} && auth.n == {n} && auth.x == {x} && {role} in auth.roles && auth.place == {place} && auth.ok == {ok}",
        user=name,
        role="admin",
        **{key: claims[key] for key in ("n", "x", "place", "ok")},
    )
    assert fanfare.explain(everything)["matched"] == 1


def test_the_text_is_constant() -> None:
    one = where("auth.tenant == {t} && user in {users} || auth.t == {t}", t='" || true || "', users=["a", "b"])
    assert one.filter == "auth.tenant == params.p0 && user in params.p1 || auth.t == params.p0"
    assert one.params == {"p0": '" || true || "', "p1": ["a", "b"]}
    assert (where("true").filter, where("true").params) == ("true", {})


def test_filters_compose() -> None:
    mine = where("auth.tenant == {t}", t="acme")
    away = where("user == {a} || user == {b}", a="bob", b="eve")
    both = where("{mine} && !{away} && profile.n > {n} || {mine}", mine=mine, away=away, n=3)
    assert both.filter == (
        "(auth.tenant == params.p0) && !(user == params.p1 || user == params.p2) && profile.n > params.p3"
        " || (auth.tenant == params.p0)"
    )
    assert both.params == {"p0": "acme", "p1": "bob", "p2": "eve", "p3": 3}
    assert mine.params == {"p0": "acme"}


def test_words_of_the_language_are_names_like_others(fanfare: Driver) -> None:
    words = {word: word for word in ("in", "null", "true", "namespace", "function", "has", "größe")}
    text = " && ".join(f"user != {{{word}}}" for word in words)
    assert fanfare.explain(where(text, **words))["errored"] == 0


@pytest.mark.parametrize(
    "text",
    [
        """auth.name == "{x}" """,
        """auth.name == '{x}' """,
        """auth.name == r'\\' && auth.b == "{x}" """,
        r"""auth.name == 'it\'s {x}' """,
        '''auth.name == """a "quoted" {x}""" ''',
        """auth.name == 'a' // {x}""",
    ],
)
def test_a_value_in_quotes_is_refused(text: str) -> None:
    with pytest.raises(TypeError, match="without quotes"):
        where(text, x=1)


def test_other_braces_stay(fanfare: Driver) -> None:
    text = r"""auth.place == {"city": "Bern", "in": {"zip": {zip}}} || user.matches("^a{2,3}\\p{L}$") // {L}"""
    made = where(text, zip=3000)
    assert made.filter == text.replace("{zip}", "params.p0")
    assert fanfare.explain(made)["errored"] == 0
    assert where("auth.m == {{a}: 1}", a="k").filter == "auth.m == {params.p0: 1}"


def test_what_was_forgotten_is_refused() -> None:
    with pytest.raises(TypeError, match=r"\{t\}.*no value"):
        where("auth.tenant == {t}")
    with pytest.raises(TypeError, match=r"no \{t\}"):
        where("auth.tenant == 'x'", t=1)
    with pytest.raises(TypeError, match="t is None"):
        where("auth.tenant == {t}", t=None)
    with pytest.raises(TypeError, match="not made by where"):
        where("{part}", part=Where("params.x", {"x": True}))


def test_a_filter_that_is_no_filter_is_refused(fanfare: Driver) -> None:
    wrongs: list[Any] = [None, "user == 'ann'", {"filter": "true"}]
    for wrong in wrongs:
        for call in (fanfare.emit, fanfare.broadcast, item.emit):
            with pytest.raises(TypeError, match=r"made by where\(…\)"):
                call("alert", filter=wrong)
        with pytest.raises(TypeError, match=r"made by where\(…\)"):
            fanfare.connections(filter=wrong)
        with pytest.raises(TypeError, match=r"made by where\(…\)"):
            fanfare.explain(wrong)


def test_a_filter_in_the_wrong_place_is_told_where_it_belongs(fanfare: Driver) -> None:
    true = where("true")
    calls: list[Any] = [fanfare.emit, item.emit]
    for call in calls:
        with pytest.raises(TypeError, match=r'^emit\(\) has no filter "filters": write filter=where'):
            call("alert", 1, filters=true)
        with pytest.raises(TypeError, match=r"^emit\(\) takes a filter by its name: write filter=where"):
            call("alert", 1, true)
        with pytest.raises(TypeError, match=r"^emit\(\) takes from 2 to 3 positional arguments"):
            call("alert", 1, 2)


def test_a_text_that_is_not_constant(fanfare: Driver, listen: Callable[..., Listener], name: str) -> None:
    listen(name)
    assert fanfare.explain(Where("user == params.who", {"who": name}))["matched"] == 1


def test_an_item_has_no_options_of_a_call() -> None:
    options: list[Any] = [{"timeout": 1.0}, {"retries": 0}, {"idempotency_key": "k"}]
    for option in options:
        with pytest.raises(TypeError, match=next(iter(option))):
            item.broadcast("a", **option)
