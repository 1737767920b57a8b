"""What schemathesis needs to make requests that are right in more than their schema."""

import uuid

import schemathesis

# A random text is not a filter.
FILTERS = [
    "true",
    "false",
    'user == "ann"',
    'auth.tenant == "acme" && "admin" in auth.roles',
    "has(auth.guardian) || auth.age >= 18",
    '"room-1" in channels',
    'channels.exists(c, c.startsWith("room-"))',
    'connection.id == "5j53ca800000197vrw7kt5a9k8" || profile.status != "away"',
]

# Nor is it a cursor.
CURSOR = "04hd9rr-0.17"

# JSON Schema counts characters, and the server counts bytes.
BYTES = {"event": 128, "user": 256, "reason": 123}


def is_right(case):
    """Whether the request follows the description."""
    return case.meta is not None and case.meta.generation.mode.is_positive


def correct(fields):
    """Makes the fields of a body, an item or a query fit one another."""
    # Whether an event can be stored depends on its target and on the configuration.
    if fields.get("store") is True:
        fields["store"] = False
    if "filter" in fields:
        fields["filter"] = FILTERS[len(fields["filter"]) % len(FILTERS)]
    for name in BYTES.keys() & fields.keys():
        fields[name] = cut(fields[name], BYTES[name])
    if "users" in fields:
        fields["users"] = [cut(user, BYTES["user"]) for user in fields["users"]]
    # Only tokens that have been issued can be revoked.
    if "before" in fields:
        fields["before"] = 1767225600 if isinstance(fields["before"], int) else "2026-01-01T00:00:00Z"


def cut(text, most):
    """The text in at most so many bytes."""
    return text.encode()[:most].decode(errors="ignore")


@schemathesis.hook
def before_call(context, case, kwargs):
    if not is_right(case):
        return
    # A key that was used with another body is refused, so each request has a key of its own.
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = uuid.uuid4().hex

    if isinstance(case.body, dict):
        for fields in [case.body, *case.body.get("items", [])]:
            correct(fields)
    if case.query:
        correct(case.query)
        if "cursor" in case.query and case.operation.path != "/v1/channels":
            case.query["cursor"] = CURSOR


@schemathesis.check
def items_are_accepted_and_refused_as_calls_are(context, response, case):
    """A batch is answered 200 whatever becomes of its items."""
    if case.operation.path != "/v1/batch" or response.status_code != 200:
        return
    statuses = {result["status"] for result in response.json()["results"]}
    if is_right(case):
        assert statuses <= {200}, "an item as described was refused"
    else:
        assert statuses - {200}, "an item that is not as described was accepted"
