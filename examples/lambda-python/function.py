"""An order was shipped: every page that its customer has open learns of it."""

from typing import Any, TypedDict

from fanfare_events import Fanfare


class Order(TypedDict):
    id: str
    customer: str
    carrier: str


# Made once, and used again by the next events of the same instance. An attempt ends after 3 seconds: 1.5 to connect, and
# 1.5 for the answer. So three attempts end before Lambda ends the function after 10 seconds.
fanfare = Fanfare.from_env(timeout=1.5)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Takes an event of EventBridge with the detail type `Order Shipped`."""
    order: Order = event["detail"]
    data = {"order": order["id"], "carrier": order["carrier"]}

    # EventBridge may deliver an event twice. By its id the second one sends nothing.
    receipt = fanfare.publish(order["customer"], "order-shipped", data, idempotency_key=event["id"])
    return {"publication": receipt["id"], "connections": receipt["matched"]}
