"""What rows of a recorded day are made of: a signal's counts, and accounts of which only trades are known."""

from __future__ import annotations

from typing import Final

from engine.days.recorded import RecordedDay, Told
from engine.model import tables
from engine.model.enums import OrderStatus
from engine.views import Row


def accounts_of(day: RecordedDay) -> set[str]:
    """Return every account that traded on a day or held something."""
    found = {kept.order.account for kept in day.orders} | {fill.account for fill in day.fills}
    return found | {account for account, _ in day.opening}


def planned(told: Told) -> dict[str, int]:
    """Return how many accounts a plan held, passed over and refused."""
    counts = {"held": int(told.facts.get("held", 0)), "skipped": 0, "refused": 0}
    for how, _, count in told.facts.get("reasons", ()):
        counts[how if how in counts else "refused"] += int(count)
    return counts


def shown(counts: dict[str, int]) -> Row:
    """Return the counts as the row of a signal has them."""
    row: Row = {name: count for name, count in counts.items() if name != "denied"}
    row["refused"] += counts["denied"]
    return row


_SENT: Final = frozenset(
    set(OrderStatus) - {OrderStatus.PENDING_NEW, OrderStatus.DENIED, OrderStatus.UNKNOWN}
)


def classes(status: OrderStatus) -> list[str]:
    """Return which counts of its signal an order of this status is in."""
    named = {
        OrderStatus.DENIED: "denied", OrderStatus.UNKNOWN: "unknown", OrderStatus.FILLED: "filled",
        OrderStatus.REJECTED: "rejected",
    }  # fmt: skip
    found = [named[status]] if status in named else []
    if status in _SENT:
        found.append("sent")
    if status.working and status is not OrderStatus.UNKNOWN:
        found.append("working")
    return found


def bare_account(account: str) -> Row:
    """Return a row of an account of which only its trades are known."""
    row: Row = dict.fromkeys(tables.COLUMNS[tables.ACCOUNTS])
    return row | {
        "id": account, "name": "", "broker": "", "environment": "", "active": True, "tags": [], "strategies": ["*"],
        "symbols": ["*"], "approval": "auto", "sizing": {}, "limits": {}, "connection": "connected",
        "connection_text": "as recorded", "state": "active", "open_orders": 0, "unknown_orders": 0, "rejects": 0,
        "queue": 0, "todo": "", "logs_in": False, "differences": 0, "external_orders": 0, "last_error": "",
        "positions": 0,
    }  # fmt: skip
