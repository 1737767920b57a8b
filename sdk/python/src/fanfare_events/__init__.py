"""The function side of Fanfare, a realtime event server: its HTTP API, sync and async.

```python
fanfare = Fanfare.from_env()
fanfare.emit("alert", {"text": "Hello"}, filter=where("auth.tenant == {t}", t=tenant))
```
"""

# In the order of this file: filters, errors, what the API returns, what it takes, one call and its attempts, the calls,
# the clients, tokens. Everything up to the clients does no I/O, and both clients share it.

import asyncio
import base64
import functools
import hmac
import json
import os
import random
import re
import sys
import time
import types
import uuid
from collections.abc import AsyncIterator, Callable, Container, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    ParamSpec,
    TypeAlias,
    TypedDict,
    TypeVar,
    cast,
    final,
    overload,
)
from urllib.parse import quote

import httpx

# httpx needs typing_extensions on Python 3.10 as well.
if sys.version_info >= (3, 11):
    from typing import LiteralString, NotRequired, Required, Self, Unpack
else:
    from typing_extensions import LiteralString, NotRequired, Required, Self, Unpack

__all__ = [
    "ApiError",
    "AsyncFanfare",
    "BatchFailure",
    "BatchItem",
    "BatchResult",
    "BatchSuccess",
    "CallOptions",
    "Channel",
    "Connection",
    "DisconnectOptions",
    "Disconnected",
    "DispatchOptions",
    "EmitOptions",
    "EventOptions",
    "Except",
    "Explanation",
    "ExplanationValue",
    "ExplanationWarning",
    "Fanfare",
    "FanfareError",
    "Health",
    "Joined",
    "Left",
    "Liveness",
    "Member",
    "Placement",
    "Plan",
    "Problem",
    "ProblemCode",
    "PublishOptions",
    "Readiness",
    "Receipt",
    "ReplaceReceipt",
    "RevokeReceipt",
    "Rights",
    "Scope",
    "Sender",
    "StoredEvent",
    "TargetOptions",
    "To",
    "Token",
    "User",
    "Where",
    "item",
    "sign_token",
    "where",
]

R = TypeVar("R")
P = ParamSpec("P")


# --- Filters ---


@dataclass(frozen=True)
class Where:
    """A filter, and the values that it names as `params.*`. `where` makes one.

    Make one directly if the text of the filter is not constant: `Where(text, {"t": tenant})`.
    """

    filter: str
    params: Mapping[str, object] = field(default_factory=dict[str, object])


class _Template(Where):
    """A filter made by `where`, which another one can contain."""

    def __init__(self, pieces: Sequence[str], values: Mapping[str, object]) -> None:
        # Texts at even positions, names of values at odd ones.
        self._pieces: Sequence[str]
        self._values: Mapping[str, object]
        object.__setattr__(self, "_pieces", pieces)
        object.__setattr__(self, "_values", values)

        params: dict[str, object] = {}
        super().__init__(self._render(params), params)

    def _render(self, params: dict[str, object]) -> str:
        """The text of the filter. Its values are added to `params`."""
        written: dict[str, str] = {}
        for name in self._pieces[1::2]:
            if name in written:
                continue

            value = self._values[name]
            if isinstance(value, _Template):
                written[name] = f"({value._render(params)})"
                continue

            # The names are not those of the caller, which may be words of the filter language.
            key = f"p{len(params)}"
            params[key] = value
            written[name] = f"params.{key}"

        return "".join(written[piece] if at % 2 else piece for at, piece in enumerate(self._pieces))


# A string or a comment of a filter, or a value. In a raw string a backslash escapes nothing.
_TOKEN = re.compile(
    r"""
    (?P<text> [rR] (?P<raw> \"{3} | '{3} | ["'] ) .*? (?P=raw)
            | (?P<quote> \"{3} | '{3} | ["'] ) (?: \\. | [^\\] )*? (?P=quote)
            | // [^\n]* )
    | \{ (?P<name> [^\W\d]\w* ) \}
    """,
    re.VERBOSE | re.DOTALL,
)
_HOLE = re.compile(r"\{(\w+)\}")


def where(text: LiteralString, /, **values: object) -> Where:
    """A filter with values, which are bound as params and never become part of the text.

    ```python
    where('auth.tenant == {t} && "admin" in auth.roles', t=tenant)
    ```

    A value may itself be made by `where`. `None` is refused, since `auth.tenant == null` is true for everyone without a
    tenant: write `null` into the filter if you mean it.
    """
    pieces = [""]
    end = 0
    for token in _TOKEN.finditer(text):
        name = token["name"]
        if name is None:
            # In quotes it would be a part of the string, and the filter would mean something else.
            quoted = next((hole for hole in _HOLE.findall(token["text"]) if hole in values), None)
            if quoted is not None:
                raise TypeError(f"{{{quoted}}} is in quotes or in a comment of the filter: write it without quotes")
            continue

        if name not in values:
            raise TypeError(f"the filter names {{{name}}}, which has no value: where(…, {name}=…)")
        pieces[-1] += text[end : token.start()]
        pieces += [name, ""]
        end = token.end()
    pieces[-1] += text[end:]

    for name, value in values.items():
        if name not in pieces[1::2]:
            raise TypeError(f"the filter has no {{{name}}} for the value of that name")
        if value is None:
            raise TypeError(f"{name} is None: write null into the filter if you mean it")
        if isinstance(value, Where) and not isinstance(value, _Template):
            raise TypeError(f"{name} was not made by where(), so it cannot be part of another filter")

    return _Template(pieces, values)


# --- Errors ---


class FanfareError(Exception):
    """A call failed. `code` is stable, and the message is for people.

    Codes of the server are in an `ApiError`. This package adds `network`, `timeout`, `bad_url` and `bad_key` for
    calls, and `bad_secret`, `bad_user` and `bad_claims` for `sign_token`.
    """

    code: str
    """What happened, for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self._message = message

    def __str__(self) -> str:
        return self._message


class ApiError(FanfareError):
    """The server refused a call: a problem document (RFC 9457). For a filter the message shows the mistake."""

    status: int
    """The HTTP status."""
    detail: str
    """What happened, in a sentence."""
    excerpt: str | None
    """For a filter: the line in question, with carets under the mistake."""
    offset: int | None
    """For a filter: where the mistake begins, in bytes."""
    length: int | None
    """For a filter: the length of the mistake in bytes."""
    retry_after: int | None
    """How many seconds to wait before another attempt, if the server said so."""

    def __init__(self, problem: Mapping[str, Any], status: int, retry_after: int | None = None) -> None:
        detail: str = problem.get("detail", f"the server answered {status}")
        excerpt: str | None = problem.get("excerpt")
        super().__init__(problem.get("code", "unknown"), f"{detail}\n{excerpt}" if excerpt else detail)

        # Exceptions are copied between processes by their arguments.
        self.args = (problem, status, retry_after)
        self.status = status
        self.detail = detail
        self.excerpt = excerpt
        self.offset = problem.get("offset")
        self.length = problem.get("length")
        self.retry_after = retry_after


# --- What the API returns. A test compares these types with docs/openapi.json. ---


ProblemCode: TypeAlias = Literal[
    "bad_json",
    "missing_field",
    "bad_field",
    "unknown_field",
    "bad_base64",
    "bad_params",
    "bad_query",
    "bad_path",
    "bad_channel",
    "body_incomplete",
    "event_name_length",
    "event_name_reserved",
    "data_too_deep",
    "cannot_store",
    "too_many_names",
    "name_too_long",
    "too_many_items",
    "unknown_call",
    "idempotency_key_length",
    "bad_token_request",
    "bad_claims",
    "bad_handshake",
    "unknown_protocol",
    "filter_syntax",
    "filter_unsupported",
    "unknown_function",
    "wrong_arguments",
    "undeclared_name",
    "unbound_param",
    "bad_regex",
    "not_boolean",
    "filter_too_long",
    "filter_too_large",
    "filter_too_deep",
    "filter_list_too_long",
    "unauthorized",
    "missing_scope",
    "development_only",
    "origin_refused",
    "unknown_path",
    "unknown_app",
    "unknown_connection",
    "no_history",
    "method_not_allowed",
    "body_timeout",
    "no_users",
    "no_token_secret",
    "body_too_large",
    "too_much_to_store",
    "content_type",
    "idempotency_key_reused",
    "upgrade_required",
    "internal",
    "busy",
    "bus_down",
    "history_unavailable",
    "history_over_quota",
    "idempotency_key_running",
    "idempotency_store_full",
    "revocations_full",
    "connection_limit",
    "address_limit",
    "accept_rate",
    "draining",
]

Scope: TypeAlias = Literal["cluster", "node"]


class Problem(TypedDict):
    """A problem document (RFC 9457)."""

    type: str
    """`urn:fanfare:problem:` and the code."""
    title: str
    """The status in words."""
    status: int
    """The HTTP status."""
    code: ProblemCode
    """What happened, for programs."""
    detail: str
    """What is wrong with this request, for people."""
    offset: NotRequired[int]
    """For an error in a filter: where the mistake begins, in bytes of the filter."""
    length: NotRequired[int]
    """For an error in a filter: the length of the mistake in bytes."""
    excerpt: NotRequired[str]
    """For an error in a filter: its line, and carets under the mistake."""


class Placement(TypedDict):
    """An event's place in a channel with history."""

    channel: str
    id: str
    """The id of the publication."""
    epoch: str
    """Offsets count within an epoch. A new epoch begins when the channel's history was lost."""
    offset: int
    """The event's number in the channel."""


class Receipt(TypedDict):
    """What became of an event."""

    id: str
    """The id of the publication: a UUID of version 7."""
    matched: int
    """Connections that the event is for: the sum of `queued` and `dropped`."""
    queued: int
    """Connections whose outbox has the event."""
    dropped: int
    """Connections that were too slow to get the event."""
    stored: int
    """The number of channels and users that the event was stored for."""
    filter_errors: int
    """Connections for which the filter ended in an error. They do not match."""
    nodes: int
    """The number of nodes whose counts these are."""
    missing_nodes: list[str]
    """Nodes that did not answer in time. Their connections are not counted."""
    publications: NotRequired[list[Placement]]
    """The event's place in each channel that stored it. Absent: no channel did."""


@final
class BatchSuccess(TypedDict):
    """The result of an item that succeeded."""

    status: Literal[200]
    result: Receipt


@final
class BatchFailure(TypedDict):
    """The result of an item that failed."""

    status: int
    error: Problem


BatchResult: TypeAlias = BatchSuccess | BatchFailure
"""`"result" in it` tells which one it is."""


class Plan(TypedDict):
    """How a filter is evaluated."""

    access: Literal["index", "scan", "nobody"]
    """`index`: connections are looked up. `scan`: every connection is evaluated. `nobody`: it can match nothing."""
    index: str | None
    """The index that is used."""
    keys: int
    """The number of keys looked up in it."""
    residual: bool
    """Whether the connections found in the index are evaluated as well."""
    description: str
    """The plan in words."""


class ExplanationWarning(TypedDict):
    """A part of a filter that may not do what it seems to do."""

    code: Literal["client_controlled", "null_equals_null", "wrong_type"]
    message: str
    offset: int
    """Where the part begins, in bytes of the filter."""
    length: int
    """The length of the part in bytes."""


class ExplanationValue(TypedDict):
    """The value of a part of a filter for one connection."""

    text: str
    """The part."""
    offset: int
    """Where it begins, in bytes of the filter."""
    length: int
    """Its length in bytes."""
    value: NotRequired[Any]
    """`[redacted]` if it would show a path in `redact`."""
    error: NotRequired[str]
    """The error that it ends in, instead of a value."""


class Explanation(TypedDict):
    """How a filter is evaluated, and which connections match."""

    plan: Plan
    looked_at: int
    """Connections that the filter was evaluated for."""
    matched: int
    """Connections that match."""
    errored: int
    """Connections for which the filter ended in an error."""
    sample: list[str]
    """The ids of some that match."""
    warnings: list[ExplanationWarning]
    """Parts of the filter that may not do what they seem to do."""
    suggested_index: NotRequired[str]
    """If every connection is evaluated: the path whose index would make it a look-up, if there is one."""
    values: NotRequired[list[ExplanationValue]]
    """With `connection`: every part of the filter outside macros that is not a literal."""


class Connection(TypedDict):
    """A connection. A value at a path in `redact` is shown as the string `[redacted]`."""

    id: str
    """Unique in the cluster."""
    user: str | None
    """The user, from the token. `None`: anonymous."""
    device: str | None
    """The device that the client named."""
    ip: str
    """The client's address."""
    protocol: str
    """`fanfare.v1`."""
    connected_at: int
    """When it connected, in Unix seconds."""
    node: str
    """The node that has the connection."""
    auth: dict[str, Any] | str | None
    """The claims of the token. `None`: anonymous."""
    profile: dict[str, Any] | str | None
    """What the client says about itself. `None`: nothing."""
    channels: list[str]
    """Its channels, in the order in which it joined them."""


class User(TypedDict):
    """Whether a user is online."""

    online: bool
    """Whether the user has a connection."""
    connections: int
    """The number of the user's connections."""
    missing_nodes: NotRequired[list[str]]
    """Nodes that did not answer in time. Their connections are not counted."""


class Channel(TypedDict):
    """How many members a channel has, and where its history stands."""

    channel: str
    connections: int
    """The number of members."""
    users: int
    """The number of different users among them. Anonymous members count for none."""
    epoch: NotRequired[str]
    """Offsets count within an epoch. A new epoch begins when the channel's history was lost."""
    offset: NotRequired[int]
    """The offset of the newest stored event. 0: none yet."""
    missing_nodes: NotRequired[list[str]]
    """Nodes that did not answer in time. Their connections are not counted."""


class Member(TypedDict):
    """A member of a channel."""

    id: str
    """The member's connection."""
    user: str | None
    """The member's user. `None`: anonymous."""
    data: NotRequired[Any]
    """The member's profile. Absent: it has none."""


class Sender(TypedDict):
    """The client that sent an event."""

    connection: str
    """The sender's connection."""
    user: str | None
    """The sender's user. `None`: anonymous."""


# `from` cannot be the name of a field in a class.
StoredEvent = TypedDict(
    "StoredEvent",
    {
        "offset": Required[int],  # the event's number in the channel
        "id": Required[str],  # the id of the publication
        "at": Required[int],  # when it was stored, in Unix milliseconds
        "event": Required[str],
        "data": Any,
        "data_base64": str,  # if bytes were sent, instead of `data`
        "from": Sender,  # absent: an API call sent it
    },
    total=False,
)


class Joined(TypedDict):
    """What `join` did."""

    joined: int
    """Connections that joined."""
    already: int
    """Connections that were members before."""
    full: int
    """Connections that did not join because they are in too many channels."""
    missing_nodes: NotRequired[list[str]]
    """Nodes that did not answer in time. Their connections are not counted."""


class Left(TypedDict):
    """What `leave` did."""

    left: int
    """Connections that left."""
    missing_nodes: NotRequired[list[str]]
    """Nodes that did not answer in time. Their connections are not counted."""


class Disconnected(TypedDict):
    """What `disconnect` did."""

    disconnected: int
    """Connections that were closed."""
    missing_nodes: NotRequired[list[str]]
    """Nodes that did not answer in time. Their connections are not counted."""


class RevokeReceipt(TypedDict):
    """What `revoke` did."""

    disconnected: int
    """Connections that were closed."""
    before: int
    """Tokens that were issued before this are refused, in Unix seconds."""
    kept_until: int
    """Until when they are refused, in Unix seconds."""
    nodes: int
    """Nodes that have done it."""
    missing_nodes: NotRequired[list[str]]
    """Nodes that did not answer in time."""


class ReplaceReceipt(TypedDict):
    """What `auth` did."""

    connections: int
    """Connections whose claims were replaced."""
    nodes: int
    """Nodes that have done it."""
    missing_nodes: NotRequired[list[str]]
    """Nodes that did not answer in time."""


class Token(TypedDict):
    """A token that the server signed."""

    token: str
    """A JSON Web Token."""
    expires_at: int
    """When it expires, in Unix seconds."""
    ttl: int
    """Its life in seconds. Less than requested if that is over `limits.token_ttl`."""


class Health(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class Liveness(TypedDict):
    """Whether the process works."""

    status: Literal["ok", "stuck"]
    """`stuck`: the process is to be restarted."""
    reasons: NotRequired[list[str]]
    """Why it is stuck."""


class Readiness(TypedDict):
    """Whether a node is ready for traffic."""

    ready: bool
    reasons: NotRequired[list[str]]
    """Why it is not."""
    warnings: NotRequired[list[str]]
    """With `scope="node"`: what keeps it from reaching the other nodes."""


# --- What the API takes ---


class To(TypedDict, total=False):
    """The union of what is named. Each connection counts once."""

    users: Sequence[str]
    """All connections of these users."""
    channels: Sequence[str]
    """The members of these channels."""
    connections: Sequence[str]
    """These connections. An id of no connection is ignored."""


class Except(TypedDict, total=False):
    """Connections that do not get the event, whatever the target."""

    users: Sequence[str]
    """All connections of these users."""
    connections: Sequence[str]
    """These connections."""
    devices: Sequence[str]
    """All connections of these devices."""


class Rights(TypedDict, total=False):
    """What a client may do. What is absent is not allowed. In names, `*` stands for any run of characters."""

    join: Sequence[str]
    """Channels that the client may join."""
    send: Sequence[str]
    """Channels that it may send to. It need not be a member."""
    members: Sequence[str]
    """Channels whose members it may see."""
    call: Sequence[str]
    """Functions that it may call."""
    broadcast: bool
    """Whether it may send to everyone."""
    publish: bool
    """Whether it may send to users."""
    update: bool
    """Whether it may set its profile."""


# An option that is absent differs from one that is None. So a variable that is empty by mistake is refused, and does not
# change whom an event is for.


class CallOptions(TypedDict, total=False):
    """Options of every call."""

    timeout: float
    """Seconds that an attempt waits for a connection, and then for the answer."""
    retries: int
    """How often the call is repeated."""


class PublishOptions(CallOptions, total=False):
    """Options of a call that publishes."""

    idempotency_key: str
    """Names the call, so that a repeat by another process sends nothing. Default: a random one."""


class _EventOptions(PublishOptions, total=False):
    filter: Where
    """Only connections that match are meant: `filter=where("auth.tenant == {t}", t=tenant)`."""
    scope: Scope
    """Whose connections are meant: of all nodes, or of the node that answers."""
    receipt: Scope
    """Whose counts the receipt has: of all nodes, or of the node that answers."""
    store: bool
    """Whether to store the event for clients that are away. Absent: if it can be stored."""


class EventOptions(_EventOptions, total=False):
    """Options of `publish`, `send` and `broadcast`."""

    except_: Except
    """Connections that do not get the event, whatever the target."""


class EmitOptions(EventOptions, total=False):
    """Options of `emit`."""

    to: To
    """The connections meant. Absent: everyone."""


class DispatchOptions(_EventOptions, total=False):
    """Options of `dispatch`."""

    except_: Sequence[str] | Except
    """User ids, or an object as for the other calls."""


class TargetOptions(CallOptions, total=False):
    """Whom `join`, `leave` and `disconnect` mean. One of `to` and `filter` is required."""

    to: To
    filter: Where
    except_: Except


class DisconnectOptions(TargetOptions, total=False):
    """Options of `disconnect`."""

    code: int
    """The close code: 1000, or 3000 to 4999. Default 4010. Its range tells clients whether to come back."""
    reason: str
    """The close reason: at most 123 bytes."""


class _ExplainOptions(CallOptions, total=False):
    connection: str


class _PageOptions(CallOptions, total=False):
    limit: int
    """The largest number of entries that one request fetches."""


class _ConnectionsOptions(_PageOptions, total=False):
    filter: Where
    """Only connections that match are listed."""


class _ChannelsOptions(_PageOptions, total=False):
    prefix: str
    """Only channels whose names begin with this."""


class _HistoryOptions(_PageOptions, total=False):
    after: int
    """Only events after this offset."""


class _ReadyOptions(CallOptions, total=False):
    scope: Scope
    """`cluster`: ready only if the node also reaches the other nodes. `node`: whether this node alone is ready."""


class _RevokeOptions(CallOptions, total=False):
    before: int | str
    """Tokens issued before this are refused: Unix seconds, or a time by RFC 3339. Absent: all issued by now."""


class _AuthOptions(CallOptions, total=False):
    can: Rights
    """What the client may do. Absent: its rights stay as they are."""


class _TokenOptions(CallOptions, total=False):
    claims: Mapping[str, Any]
    """Further claims, which filters see as `auth.*`."""
    can: Rights
    """What the client may do."""
    ttl: int
    """The life of the token in seconds. Default 3600."""


class _RequestOptions(PublishOptions, total=False):
    query: Mapping[str, str | int]
    """Parameters of the address."""


BatchItem: TypeAlias = Mapping[str, Any]
"""The body of a publishing call, with its name in `call`. `item` makes it."""


# --- One call, and its attempts ---


def _json(response: httpx.Response) -> Any:
    return response.json()


@dataclass(frozen=True)
class _Call(Generic[R]):
    """A request, and how its answer is read. No client has sent it yet."""

    method: str
    path: str
    body: Mapping[str, object] | None = None
    query: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: CallOptions = field(default_factory=CallOptions)
    is_keyed: bool = False
    """Whether it gets a random idempotency key if it has none."""
    idempotency_key: str | None = None
    read: Callable[[httpx.Response], R] = _json
    results: Container[int] = ()
    """Statuses of errors whose body is a result."""


@dataclass(frozen=True)
class _Pages(Generic[R]):
    """A list that comes in pages."""

    call: _Call[dict[str, Any]]
    entries: str
    """The field of a page that has the entries."""
    next: str = "cursor"
    """The parameter that gets the `cursor` of the page before."""

    def after(self, page: Mapping[str, Any]) -> _Call[dict[str, Any]] | None:
        """The call for the next page. Nothing: this one was the last."""
        if "cursor" not in page:
            return None
        query = {**self.call.query, self.next: page["cursor"]}
        return _Call(self.call.method, self.call.path, query=query, options=self.call.options)


# A server or a proxy that asks for more is not waited for.
_LONGEST_PAUSE = 30.0


class _Attempts(Generic[R]):
    """The attempts of one call. A client sends `request`, gives `take` what came, and waits as long as that says."""

    result: R

    def __init__(self, call: _Call[R], request: httpx.Request, retries: int) -> None:
        self.request = request
        self._call = call
        self._left = retries
        self._backoff = 0.2

    def take(self, outcome: httpx.Response | httpx.RequestError) -> float | None:
        """Seconds to wait before the next attempt. Nothing: `result` is there. The last failure is raised."""
        is_worth_repeating = True
        cause: Exception | None = None
        advised = None
        failure: FanfareError

        if isinstance(outcome, httpx.RequestError):
            failure = _failure(outcome)
            cause = outcome
            is_worth_repeating = not isinstance(outcome, (httpx.UnsupportedProtocol, httpx.LocalProtocolError))
        elif outcome.is_success or self._is_result(outcome):
            try:
                self.result = self._call.read(outcome)
            except ValueError as error:
                failure = FanfareError("network", f"the answer to {_name(outcome.request)} cannot be read: {error}")
                cause = error
            else:
                return None
        else:
            failure = ApiError(_problem(outcome), outcome.status_code, _retry_after(outcome))
            advised = failure.retry_after
            is_worth_repeating = outcome.status_code in (500, 503)

        if not is_worth_repeating or self._left <= 0 or (advised or 0) > _LONGEST_PAUSE:
            raise failure from cause
        self._left -= 1

        # Jitter, so that callers that failed together do not come back together. Never earlier than advised.
        pause = (advised or 0) + self._backoff * random.uniform(0.5, 1)
        self._backoff *= 2
        return pause

    def _is_result(self, response: httpx.Response) -> bool:
        # A refusal is a problem document, which has another type.
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.status_code in self._call.results and is_json


def _name(request: httpx.Request) -> str:
    """A request for people. Its query is left out, since params of a filter may be confidential."""
    return f"{request.method} {request.url.copy_with(query=None)}"


def _failure(error: httpx.RequestError) -> FanfareError:
    name = _name(error.request)
    if isinstance(error, httpx.TimeoutException):
        timeout = error.request.extensions["timeout"]["read"]
        return FanfareError("timeout", f"no answer to {name} in {timeout} s")
    if isinstance(error, httpx.UnsupportedProtocol):
        return FanfareError("bad_url", f"{name}: the address of the server begins with http:// or https://")
    return FanfareError("network", f"no answer to {name}: {error or type(error).__name__}")


def _problem(response: httpx.Response) -> Mapping[str, Any]:
    """The problem document of a refusal. A proxy may answer with something else."""
    try:
        problem: Any = response.json()
    except ValueError:
        return {}
    return cast(Mapping[str, Any], problem) if isinstance(problem, dict) else {}


def _retry_after(response: httpx.Response) -> int | None:
    """`Retry-After` in seconds. As a date, which Fanfare does not send, it counts as absent."""
    try:
        return max(int(response.headers["retry-after"]), 0)
    except (KeyError, ValueError):
        return None


# --- The calls ---


def _built(build: Callable[..., R], client: object, *args: object, **kwargs: object) -> R:
    """What `build` makes of its arguments. A filter that is not where it belongs is refused with where that is."""
    call = build.__name__
    for name, value in kwargs.items():
        if isinstance(value, Where) and name != "filter":
            raise TypeError(f'{call}() has no filter "{name}": write filter=where(…)')
    if call != "explain" and any(isinstance(value, Where) for value in args):
        raise TypeError(f"{call}() takes a filter by its name: write filter=where(…)")
    try:
        return build(client, *args, **kwargs)
    except TypeError as error:
        # Python names a class that is nobody's business.
        message = str(error)
        if message.startswith(build.__qualname__):
            raise TypeError(f"{call}{message.removeprefix(build.__qualname__)}") from None
        raise


class _Method(Generic[P, R]):
    """A call of the API. `Fanfare` makes it and returns its result, `AsyncFanfare` returns a coroutine that does."""

    def __init__(self, build: Callable[Concatenate[Any, P], _Call[R]]) -> None:
        @functools.wraps(build)
        def call(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return client._answer(_built(build, client, *args, **kwargs))

        self._call = call

    @overload
    def __get__(self, client: None, owner: type) -> Callable[Concatenate[Any, P], Any]: ...
    @overload
    def __get__(self, client: "Fanfare", owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: "AsyncFanfare", owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __get__(self, client: "_Items", owner: type) -> Callable[P, BatchItem]: ...
    def __get__(self, client: Any, owner: type) -> Callable[..., Any]:
        return self._call if client is None else types.MethodType(self._call, client)


class _Listing(Generic[P, R]):
    """A call of the API that lists. `Fanfare` returns an iterator, and `AsyncFanfare` an async iterator."""

    def __init__(self, build: Callable[Concatenate[Any, P], _Pages[R]]) -> None:
        @functools.wraps(build)
        def call(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return client._iterate(_built(build, client, *args, **kwargs))

        self._call = call

    @overload
    def __get__(self, client: None, owner: type) -> Callable[Concatenate[Any, P], Any]: ...
    @overload
    def __get__(self, client: "Fanfare", owner: type) -> Callable[P, Iterator[R]]: ...
    @overload
    def __get__(self, client: "AsyncFanfare", owner: type) -> Callable[P, AsyncIterator[R]]: ...
    def __get__(self, client: Any, owner: type) -> Callable[..., Any]:
        return self._call if client is None else types.MethodType(self._call, client)


_CALL_OPTIONS = ("timeout", "retries")


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], CallOptions]:
    """The fields of a body, and the options of its call."""
    fields = dict(options)
    call: Any = {name: fields.pop(name) for name in _CALL_OPTIONS if name in fields}
    for name, value in call.items():
        if value is None:
            raise TypeError(f"{name} is None: leave it out for the client's own")

    if "except_" in fields:
        fields["except"] = fields.pop("except_")
    if "filter" in fields:
        fields.update(_filter(fields["filter"]))
    return fields, call


def _filter(where: Where) -> dict[str, Any]:
    if not isinstance(where, Where):
        raise TypeError(f"a filter is made by where(…), not {type(where).__name__}")
    return {"filter": where.filter, **({"params": where.params} if where.params else {})}


def _post(name: str, options: Mapping[str, Any], **more: object) -> _Call[Any]:
    fields, call = _split(options)
    # Unlike a display of two dictionaries, this refuses a field that is there twice.
    return _Call("POST", f"/v1/{name}", dict(**more, **fields), options=call)


def _get(path: str, options: Mapping[str, Any]) -> _Call[Any]:
    fields, call = _split(options)
    if "params" in fields:
        fields["params"] = _dumps(fields["params"])
    return _Call("GET", path, query=fields, options=call)


def _publishing(name: str, event: str, data: object, options: Mapping[str, Any], **target: object) -> _Call[Receipt]:
    content = {"data": data}
    if isinstance(data, (bytes, bytearray, memoryview)):
        content = {"data_base64": base64.b64encode(cast(bytes, data)).decode()}
    return _keyed(_post(name, options, **target, event=event, **content))


def _keyed(call: _Call[R]) -> _Call[R]:
    """`call` with a key that makes its repeats harmless. Without one in its options, it gets a random one."""
    body = dict(call.body or {})
    if "idempotency_key" in body and body["idempotency_key"] is None:
        raise TypeError("idempotency_key is None: leave it out for a random one")
    key: Any = body.pop("idempotency_key", None)
    return replace(call, body=body, is_keyed=True, idempotency_key=key)


def _dumps(value: object) -> str:
    # Neither NaN nor Infinity is JSON.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _segment(name: str) -> str:
    """A name as a part of a path."""
    # `.` and `..` would be taken for folders.
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


class _Publishing:
    """The calls that send an event. They can be items of a batch."""

    @_Method
    def emit(self, event: str, data: object = None, **options: Unpack[EmitOptions]) -> _Call[Receipt]:
        """Sends an event to every connection that `to`, `filter` and `except_` describe.

        `data` is anything that `json` can encode, or bytes. So for all calls that send.
        """
        return _publishing("emit", event, data, options)

    @_Method
    def publish(
        self, users: str | Sequence[str], event: str, data: object = None, **options: Unpack[EventOptions]
    ) -> _Call[Receipt]:
        """Sends an event to all connections of one user or several."""
        target = {"user": users} if isinstance(users, str) else {"users": users}
        return _publishing("publish", event, data, options, **target)

    @_Method
    def send(
        self, channels: str | Sequence[str], event: str, data: object = None, **options: Unpack[EventOptions]
    ) -> _Call[Receipt]:
        """Sends an event to the members of one channel or several."""
        target = {"channel": channels} if isinstance(channels, str) else {"channels": channels}
        return _publishing("send", event, data, options, **target)

    @_Method
    def broadcast(self, event: str, data: object = None, **options: Unpack[EventOptions]) -> _Call[Receipt]:
        """Sends an event to everyone."""
        return _publishing("broadcast", event, data, options)

    @_Method
    def dispatch(
        self, recipients: Sequence[str], event: str, data: object = None, **options: Unpack[DispatchOptions]
    ) -> _Call[Receipt]:
        """Sends an event to users, or to everyone by `["*"]`."""
        return _publishing("dispatch", event, data, options, recipients=recipients)


class _Items(_Publishing):
    """Makes the items of a batch."""

    def _answer(self, call: _Call[Any]) -> BatchItem:
        # They would be lost.
        if call.options or call.idempotency_key is not None:
            name = next(iter(call.options), "idempotency_key")
            raise TypeError(f"an item of a batch has no {name} of its own: give it to batch()")
        return {"call": call.path.rpartition("/")[2], **(call.body or {})}


item: Final = _Items()
"""Makes the items of a batch: `fanfare.batch([item.publish("ann", "a"), item.broadcast("b", 2)])`."""


class _Api(_Publishing):
    """Every call. Each describes its request, and the client that it is called on sends it."""

    @_Method
    def batch(self, items: Sequence[BatchItem], **options: Unpack[PublishOptions]) -> _Call[list[BatchResult]]:
        """Makes up to 100 publishing calls in one request. One that fails stops no other.

        ```python
        fanfare.batch([item.publish("ann", "a"), item.broadcast("b", 2)])
        ```
        """

        def results(response: httpx.Response) -> list[BatchResult]:
            found: list[BatchResult] = response.json()["results"]
            return found

        return replace(_keyed(_post("batch", options, items=items)), read=results)

    @_Method
    def explain(self, filter: Where, **options: Unpack[_ExplainOptions]) -> _Call[Explanation]:
        """Shows how a filter is evaluated and whom it matches. Sends nothing.

        With the id of a `connection`, it also shows the value of every part of the filter for that connection.
        """
        return _post("explain", {"filter": filter, **options})

    @_Listing
    def connections(self, **options: Unpack[_ConnectionsOptions]) -> _Pages[Connection]:
        """The connections, all of them or those that match a filter."""
        return _Pages(_get("/v1/connections", options), "connections")

    @_Method
    def connection(self, id: str, **options: Unpack[CallOptions]) -> _Call[Connection]:
        """One connection."""
        return _get(f"/v1/connections/{_segment(id)}", options)

    @_Method
    def user(self, user: str, **options: Unpack[CallOptions]) -> _Call[User]:
        """Whether a user is online."""
        return _get(f"/v1/users/{_segment(user)}", options)

    @_Listing
    def channels(self, **options: Unpack[_ChannelsOptions]) -> _Pages[Channel]:
        """The channels that have members, in the order of their names."""
        return _Pages(_get("/v1/channels", options), "channels")

    @_Method
    def channel(self, channel: str, **options: Unpack[CallOptions]) -> _Call[Channel]:
        """How many members a channel has, and where its history stands."""
        return _get(f"/v1/channels/{_segment(channel)}", options)

    @_Listing
    def members(self, channel: str, **options: Unpack[_PageOptions]) -> _Pages[Member]:
        """The members of a channel."""
        return _Pages(_get(f"/v1/channels/{_segment(channel)}/members", options), "members")

    @_Listing
    def history(self, channel: str, **options: Unpack[_HistoryOptions]) -> _Pages[StoredEvent]:
        """The stored events of a channel, the oldest first."""
        return _Pages(_get(f"/v1/channels/{_segment(channel)}/history", options), "events", next="after")

    @_Method
    def join(self, channel: str, **target: Unpack[TargetOptions]) -> _Call[Joined]:
        """Puts connections into a channel."""
        return _post("join", target, channel=channel)

    @_Method
    def leave(self, channel: str, **target: Unpack[TargetOptions]) -> _Call[Left]:
        """Takes connections out of a channel."""
        return _post("leave", target, channel=channel)

    @_Method
    def disconnect(self, **target: Unpack[DisconnectOptions]) -> _Call[Disconnected]:
        """Closes connections. The range of `code` tells clients whether to come back."""
        return _post("disconnect", target)

    @_Method
    def revoke(self, users: str | Sequence[str], **options: Unpack[_RevokeOptions]) -> _Call[RevokeReceipt]:
        """Refuses the tokens that users have now, and closes the connections that came with them."""
        target = {"user": users} if isinstance(users, str) else {"users": users}
        return _post("revoke", options, **target)

    @_Method
    def auth(self, user: str, claims: Mapping[str, Any], **options: Unpack[_AuthOptions]) -> _Call[ReplaceReceipt]:
        """Replaces the claims of a user's open connections."""
        return _post("auth", options, user=user, claims=claims)

    @_Method
    def token(self, user: str, **options: Unpack[_TokenOptions]) -> _Call[Token]:
        """Lets the server sign a token for a client. `sign_token` does the same without a request."""
        return _post("tokens", options, user=user)

    @_Method
    def openapi(self, **options: Unpack[CallOptions]) -> _Call[dict[str, Any]]:
        """The description of the HTTP API, as OpenAPI."""
        return _get("/v1/openapi.json", options)

    @_Method
    def healthz(self, **options: Unpack[CallOptions]) -> _Call[Health]:
        """Whether the process answers."""
        return _get("/healthz", options)

    @_Method
    def livez(self, **options: Unpack[CallOptions]) -> _Call[Liveness]:
        """Whether the process works, or should be restarted. Neither is an error."""
        return replace(_get("/livez", options), results=(503,))

    @_Method
    def readyz(self, **options: Unpack[_ReadyOptions]) -> _Call[Readiness]:
        """Whether the node is ready for traffic. Neither is an error."""
        return replace(_get("/readyz", options), results=(503,))

    @_Method
    def metrics(self, **options: Unpack[CallOptions]) -> _Call[str]:
        """Metrics, as OpenMetrics text."""

        def text(response: httpx.Response) -> str:
            return response.text

        return replace(_get("/metrics", options), read=text)

    @_Method
    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        **options: Unpack[_RequestOptions],
    ) -> _Call[Any]:
        """Any call, for what has no method here. It is repeated like all others."""
        call: Any = {name: value for name, value in options.items() if name in _CALL_OPTIONS}
        query = options.get("query", {})
        return _Call(method, path, body, query, call, idempotency_key=options.get("idempotency_key"))


# --- The clients ---


H = TypeVar("H", httpx.Client, httpx.AsyncClient)


class _Client(_Api, Generic[H]):
    """What both clients have: the server's address, and how calls are sent."""

    _http: H

    def __init__(
        self,
        url: str = "http://127.0.0.1:7070",
        key: str | None = None,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        http: H | None = None,
    ) -> None:
        """`url` is the server's address, and `key` an API key. A server in development needs none.

        `timeout`: seconds that an attempt waits for a connection, and then for the answer.
        `retries`: how often a call is repeated after a network error, a timeout, a 500 or a 503.
        `http`: a client of httpx to send with, for example one with a proxy. It is not closed.
        """
        self._url = url.rstrip("/")
        self._key = key.strip() if key else None
        self._timeout = timeout
        self._retries = retries
        self._is_owner = http is None
        self._http = self._new_http() if http is None else http

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        http: H | None = None,
    ) -> Self:
        """The server that `FANFARE_URL` and `FANFARE_API_KEY` name, in the environment of the process or in `env`."""
        # Not the default of the parameter, which help() would show with all its secrets.
        env = os.environ if env is None else env
        url = env.get("FANFARE_URL") or "http://127.0.0.1:7070"
        # A server reads the same variable, and may have several keys.
        key = env.get("FANFARE_API_KEY", "").partition(",")[0]
        return cls(url, key, timeout=timeout, retries=retries, http=http)

    @staticmethod
    def _new_http() -> H:
        raise NotImplementedError

    def _attempts(self, call: _Call[R]) -> _Attempts[R]:
        headers: dict[bytes, bytes] = {}
        if self._key:
            # What httpx says of such a header would show the key.
            if not re.fullmatch(r"[\x21-\x7e]+", self._key):
                raise FanfareError("bad_key", "the API key has a character that no API key has")
            headers[b"Authorization"] = f"Bearer {self._key}".encode()
        # One key for all attempts, so that a repeat sends nothing twice.
        idempotency_key = str(uuid.uuid4()) if call.is_keyed and call.idempotency_key is None else call.idempotency_key
        if idempotency_key is not None:
            headers[b"Idempotency-Key"] = idempotency_key.encode()

        content = None
        if call.body is not None:
            headers[b"Content-Type"] = b"application/json"
            content = _dumps(call.body).encode()

        timeout = call.options.get("timeout", self._timeout)
        url = f"{self._url}{call.path}"
        try:
            request = self._http.build_request(
                call.method, url, params=call.query or None, content=content, headers=headers, timeout=timeout
            )
        except httpx.InvalidURL as error:
            raise FanfareError("bad_url", f"{self._url} is not the address of a server: {error}") from error
        return _Attempts(call, request, call.options.get("retries", self._retries))


class Fanfare(_Client[httpx.Client]):
    """The HTTP API of a server. Threads may share it.

    ```python
    fanfare = Fanfare.from_env()
    fanfare.publish("ann", "invoice-paid", {"id": 4711})
    ```
    """

    @staticmethod
    def _new_http() -> httpx.Client:
        return httpx.Client()

    def _answer(self, call: _Call[R]) -> R:
        attempts = self._attempts(call)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = self._http.send(attempts.request)
            except httpx.RequestError as error:
                outcome = error

            pause = attempts.take(outcome)
            if pause is None:
                return attempts.result
            time.sleep(pause)

    def _iterate(self, pages: _Pages[R]) -> Iterator[R]:
        call: _Call[dict[str, Any]] | None = pages.call
        while call:
            page = self._answer(call)
            yield from page[pages.entries]
            call = pages.after(page)

    def close(self) -> None:
        """Closes the connections to the server."""
        if self._is_owner:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncFanfare(_Client[httpx.AsyncClient]):
    """The HTTP API of a server, for asyncio. It belongs to one event loop.

    ```python
    async with AsyncFanfare.from_env() as fanfare:
        await fanfare.publish("ann", "invoice-paid", {"id": 4711})
    ```
    """

    @staticmethod
    def _new_http() -> httpx.AsyncClient:
        return httpx.AsyncClient()

    async def _answer(self, call: _Call[R]) -> R:
        attempts = self._attempts(call)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = await self._http.send(attempts.request)
            except httpx.RequestError as error:
                outcome = error

            pause = attempts.take(outcome)
            if pause is None:
                return attempts.result
            await asyncio.sleep(pause)

    async def _iterate(self, pages: _Pages[R]) -> AsyncIterator[R]:
        call: _Call[dict[str, Any]] | None = pages.call
        while call:
            page = await self._answer(call)
            for entry in page[pages.entries]:
                yield entry
            call = pages.after(page)

    async def aclose(self) -> None:
        """Closes the connections to the server."""
        if self._is_owner:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


# --- Tokens ---


def sign_token(
    secret: str | bytes,
    user: str,
    *,
    claims: Mapping[str, Any] | None = None,
    can: Rights | None = None,
    ttl: int = 600,
) -> str:
    """Signs a token for a client with the secret that the server has as `FANFARE_TOKEN_SECRET` (HS256).

    ```python
    sign_token(secret, "ann", claims={"plan": "pro"}, can={"join": ["room-*"]})
    ```

    Filters see `claims` as `auth.*`. `can` is what the client may do, and `ttl` the life of the token in seconds.
    """
    key = secret.encode() if isinstance(secret, str) else secret
    if len(key or b"") < 32:
        raise FanfareError("bad_secret", "the token secret must have at least 32 bytes")
    # The token would belong to nobody, or be refused.
    if not isinstance(user, str) or not 1 <= len(user.encode()) <= 256:
        raise FanfareError("bad_user", "a token needs a user: a string of 1 to 256 bytes")
    reserved = sorted({"sub", "iat", "exp", "can"} & set(claims or {}))
    if reserved:
        raise FanfareError("bad_claims", f"{reserved[0]} cannot be among the claims: sign_token sets it")

    now = int(time.time())
    payload = {**(claims or {}), "sub": user, "iat": now, "exp": now + ttl}
    if can is not None:
        payload["can"] = can

    text = f"{_base64url(_dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{_base64url(_dumps(payload).encode())}"
    return f"{text}.{_base64url(hmac.digest(key, text.encode(), 'sha256'))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
