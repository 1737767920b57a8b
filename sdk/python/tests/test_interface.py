"""The package and docs/openapi.json describe the same API, so that a call or a field that is new cannot be forgotten."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

import fanfare_events
import test_calls
from fanfare_events import AsyncFanfare, Fanfare
from support import ROOT

API = json.loads((ROOT / "docs" / "openapi.json").read_text())
SCHEMAS: dict[str, dict[str, Any]] = API["components"]["schemas"]

# Not calls of a function: clients connect by WebSocket, the page is for people, and the client for pages.
NO_CALLS = {"connect", "page", "client"}

OPERATIONS = {
    operation["operationId"]: operation
    for methods in API["paths"].values()
    for operation in methods.values()
    if operation["operationId"] not in NO_CALLS
}

# One token for one user.
METHODS = {"tokens": "token"}

# A parameter of a method that has another name in the API, or stands for several fields.
FIELDS = {
    "except_": {"except"},
    "filter": {"filter", "params"},
    "data": {"data", "data_base64"},
    "users": {"user", "users"},
    "channels": {"channel", "channels"},
}

# What the package handles by itself.
HIDDEN = {"timeout", "retries", "idempotency_key", "cursor"}


def method(operation: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(Fanfare, METHODS.get(operation, operation))
    return found


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_a_method_and_a_test(operation: str) -> None:
    name = METHODS.get(operation, operation)
    assert callable(getattr(Fanfare, name)) and callable(getattr(AsyncFanfare, name))
    assert inspect.getdoc(getattr(Fanfare, name))
    assert callable(getattr(test_calls, f"test_{operation}"))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_field_has_a_parameter(operation: str) -> None:
    described = OPERATIONS[operation]
    content = described.get("requestBody", {}).get("content", {}).get("application/json", {})
    fields = set(resolve(content.get("schema", {})).get("properties", {}))
    fields |= {parameter["name"] for parameter in described.get("parameters", []) if "name" in parameter}

    hints = get_type_hints(method(operation), vars(fanfare_events))
    names = set()
    for parameter in list(inspect.signature(method(operation)).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            names |= set(get_type_hints(get_args(hints[parameter.name])[0]))
        else:
            names.add(parameter.name)

    taken: set[str] = set().union(*(FIELDS.get(name, {name}) for name in names - HIDDEN))
    assert taken == fields - HIDDEN


def resolve(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


# Schemas without a name, and the types of this package.
INLINE = {
    ("Explanation", "warnings"): "ExplanationWarning",
    ("Explanation", "values"): "ExplanationValue",
    ("StoredEvent", "from"): "Sender",
}


def fits(hint: Any, schema: Mapping[str, Any], inline: str | None = None) -> bool:
    """Whether a type is what a schema describes."""
    name = schema["$ref"].rpartition("/")[2] if "$ref" in schema else None
    if schema.get("type") == "object":
        name = inline
    if name and typing.is_typeddict(getattr(fanfare_events, name, None)):
        return bool(hint is getattr(fanfare_events, name))

    schema = resolve(schema)
    if "enum" in schema or "const" in schema:
        return get_origin(hint) is Literal and set(get_args(hint)) == set(schema.get("enum", [schema.get("const")]))
    if isinstance(schema.get("type"), list):
        each = {{"string": str, "null": type(None), "object": dict[str, Any]}[kind] for kind in schema["type"]}
        return get_origin(hint) in (Union, types.UnionType) and set(get_args(hint)) == each

    match schema.get("type"):
        case "array":
            return get_origin(hint) in (list, Sequence) and fits(get_args(hint)[0], schema["items"], inline)
        case "object":
            return bool(hint == dict[str, Any])
        case "integer":
            return hint is int
        case "boolean":
            return hint is bool
        case "string":
            return hint is str
        case None:
            return hint is Any
    return False


TYPES = sorted(name for name in SCHEMAS if typing.is_typeddict(getattr(fanfare_events, name, None)))


def test_every_result_has_a_type() -> None:
    for operation in OPERATIONS.values():
        schema = operation["responses"]["200"]["content"].get("application/json", {}).get("schema", {})
        name = schema.get("$ref", "").rpartition("/")[2]
        if name.endswith("Page"):
            continue  # the package gives their entries
        assert not name or name == "BatchResults" or name in TYPES
    assert {"Connection", "Channel", "Member", "StoredEvent", "Problem", "To", "Except", "Rights"} <= set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_a_type_is_what_the_schema_says(name: str) -> None:
    schema = SCHEMAS[name]
    kind = getattr(fanfare_events, name)
    hints = get_type_hints(kind)
    assert set(hints) == set(schema["properties"])
    assert kind.__required_keys__ == set(schema.get("required", ()))
    for field, hint in hints.items():
        assert fits(hint, schema["properties"][field], INLINE.get((name, field))), f"{field}: {hint}"


@pytest.mark.parametrize(("name", "field"), INLINE)
def test_a_type_of_a_part_is_what_the_schema_says(name: str, field: str) -> None:
    schema = SCHEMAS[name]["properties"][field]
    schema = schema.get("items", schema)
    kind = getattr(fanfare_events, INLINE[name, field])
    hints = get_type_hints(kind)
    assert set(hints) == set(schema["properties"])
    assert kind.__required_keys__ == set(schema["required"])
    for key, hint in hints.items():
        assert fits(hint, schema["properties"][key]), f"{key}: {hint}"


def test_everything_public_is_exported() -> None:
    own = {name for name, value in vars(fanfare_events).items() if getattr(value, "__module__", "") == "fanfare_events"}
    variables = {"H", "P", "R"}
    assert {name for name in own - variables if not name.startswith("_")} <= set(fanfare_events.__all__)
    assert sorted(fanfare_events.__all__, key=str) == fanfare_events.__all__


def test_help_shows_calls() -> None:
    assert "environ" not in str(inspect.signature(Fanfare.from_env))
    assert str(inspect.signature(Fanfare.emit)).startswith("(self, event: str, data: object = None, **options")
    assert str(inspect.signature(Fanfare().emit)).startswith("(event: str, data: object = None, **options")
