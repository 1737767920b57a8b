"""What schemathesis needs to make requests that are right in more than their schema."""

import re
import uuid

import schemathesis
from hypothesis import strategies as st

# A random text is not a filter.
FILTERS = st.sampled_from(
    [
        "true",
        "false",
        'user == "ann"',
        'auth.tenant == "acme" && "admin" in auth.roles',
        "has(auth.guardian) || auth.age >= 18",
        '"room-1" in channels',
        'channels.exists(c, c.startsWith("room-"))',
        'connection.id == "5j53ca800000197vrw7kt5a9k8" || profile.status != "away"',
    ]
)
schemathesis.openapi.format("cel", FILTERS)

# Nor is it a cursor, which is some node's name and a place there.
NAMES = st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=6, max_size=6)
PLACES = st.integers(0, 9)
CURSORS = st.builds("{}-{}.{}".format, NAMES.map(lambda name: name + "r"), PLACES, PLACES)
schemathesis.openapi.format("cursor", CURSORS)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Makes the parts of a request agree with one another and with the requests before."""
    # A key that was used with another body is refused: each request gets a key of its own.
    key = case.headers.get("Idempotency-Key") if case.headers else None
    if key is not None and re.fullmatch(r"[!-~]([\t -~]{0,126}[!-~])?", str(key)):
        case.headers["Idempotency-Key"] = uuid.uuid4().hex

    items = case.body.get("items") if isinstance(case.body, dict) else None
    for body in [case.body, *items] if isinstance(items, list) else [case.body]:
        if not isinstance(body, dict):
            continue
        # Whether an event can be stored depends on its target and on the configuration.
        if body.get("store") is True:
            body["store"] = False
        # The filter of the examples names this param.
        if "params.t" in str(body.get("filter")):
            params = body.setdefault("params", {})
            if isinstance(params, dict):
                params["t"] = "acme"


@schemathesis.check
def items_are_accepted_and_refused_as_calls_are(context, response, case):
    """A batch is answered 200 whatever becomes of its items."""
    if case.operation.path != "/v1/batch" or response.status_code != 200:
        return
    statuses = {result["status"] for result in response.json()["results"]}
    if case.meta.generation.mode.is_positive:
        assert statuses <= {200}, "an item as described was refused"
    else:
        assert statuses - {200}, "an item that is not as described was accepted"
