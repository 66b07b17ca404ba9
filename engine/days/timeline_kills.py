"""How far a kill came on a recorded day, as the journal saw our own orders end.

What a broker's own list held, and so orders of others and when each account was verified flat, is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from engine.days.recorded import Told
from engine.model import tables
from engine.model.enums import OrderStatus
from engine.model.identifiers import OPERATOR
from engine.model.numbers import to_text
from engine.model.order import Order
from engine.model.position import Position
from engine.risk.trading_state import FIRM
from engine.views import Row

_SAME_PRESS_S: Final = 2.0


@dataclass(slots=True)
class Books:
    """What of the day so far is needed here; ``put`` changes a row, ``now`` is the moment as a stamp and in seconds."""

    orders: Mapping[str, Order]
    status: Mapping[str, OrderStatus]
    positions: Mapping[tuple[str, str], Position]
    brokers: Mapping[str, str]
    accounts: set[str]
    put: Callable[[str, str, Row | None], None]
    now: Callable[[], tuple[str, float]]


@dataclass(slots=True)
class _Press:
    """One press of the kill switch: by account, which orders worked then and which of them still do."""

    command_id: str
    scope: str
    at: float
    flatten: bool
    asked: dict[str, set[str]] = field(default_factory=dict)
    left: dict[str, set[str]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    verified_at: str = ""


class Kills:
    """Follows presses of the kill switch; told of each thing in its order."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._presses: dict[str, _Press] = {}  # by scope, the newest last

    def command(self, told: Told) -> None:
        """Take an operator's command: a kill begins."""
        body = told.facts.get("command")
        if not isinstance(body, dict) or body.get("command") != "kill":
            return
        scope, flatten = str(body.get("scope") or FIRM), bool(body.get("flatten"))
        _, at = self._books.now()
        before = self._presses.pop(scope, None)
        if before is not None and before.flatten:
            flatten = True
        if before is not None and before.flatten is flatten and at - before.at < _SAME_PRESS_S:
            self._presses[scope] = before  # the same press, come twice
            return
        press = self._presses[scope] = _Press(str(told.facts.get("id")), scope, at, flatten)
        wide = scope.partition(":")[0] in {"symbol", "strategy"}
        for account in sorted(self._books.accounts):
            if wide or self._covers(scope, account):
                press.asked[account], press.left[account] = set(), set()
        for name, order in self._books.orders.items():
            status = self._books.status.get(name)
            if status is not None and status.working and self._of(press, order):
                press.asked[order.account].add(name)
                press.left[order.account].add(name)
        for account in press.asked:
            self._show(account)

    def result(self, told: Told) -> None:
        """Take back a press that was refused."""
        result = told.facts.get("result")
        if isinstance(result, dict) and "error" in result:
            for scope, press in list(self._presses.items()):
                if press.command_id == told.facts.get("id"):
                    self._forget(scope)

    def latch(self, told: Told) -> None:
        """Forget a kill once its scope is armed again."""
        scope = str(told.facts.get("scope", ""))
        if told.facts.get("state") != "active":
            return
        for known in list(self._presses):
            if scope in {known, FIRM}:
                self._forget(known)

    def _forget(self, scope: str) -> None:
        for account in self._presses.pop(scope).asked:
            self._show(account)

    def _covers(self, scope: str, account: str) -> bool:
        kind, _, name = scope.partition(":")
        if kind == "account":
            return name == account
        return kind == FIRM or (kind == "broker" and self._books.brokers.get(account) == name)

    def _of(self, press: _Press, order: Order) -> bool:
        """Say whether an order is one a press cancels: of its scope, and no exit made since."""
        kind, _, name = press.scope.partition(":")
        if order.account not in press.asked:
            return False
        if order.source == OPERATOR and order.created_at.timestamp() >= press.at:
            return False
        return {"symbol": order.symbol, "strategy": order.strategy}.get(kind, name) == name

    def order_moved(self, order: Order, status: OrderStatus) -> None:
        """Take an order's new status."""
        for press in self._presses.values():
            left = press.left.get(order.account)
            if left is None or (order.cl_ord_id in left) is status.working:
                continue
            if not status.working:
                left.discard(order.cl_ord_id)
            elif self._of(press, order):  # came up after the press
                press.asked[order.account].add(order.cl_ord_id)
                left.add(order.cl_ord_id)
            self._show(order.account)

    def position_moved(self, account: str) -> None:
        """Take an account's new positions."""
        if any(account in press.asked for press in self._presses.values()):
            self._show(account)

    def _show(self, account: str) -> None:
        found = [press for press in self._presses.values() if account in press.asked]
        if not found:
            self._books.put(tables.KILL, account, None)
            return
        press = found[-1]
        asked, left = len(press.asked[account]), len(press.left[account])
        residual = {
            position.symbol: to_text(position.qty)
            for (owner, _), position in self._books.positions.items()
            if owner == account and position.qty
        }
        self._books.put(tables.KILL, account, {
            "account": account, "blocked": True, "cancels_sent": asked, "cancels_confirmed": asked - left,
            "working": left, "late": 0, "residual": residual, "done": not left and not (press.flatten and residual),
            "verified_at": press.verified_at or None, "error": press.errors.get(account, ""),
            "at": self._books.now()[0],
        })  # fmt: skip

    def alert(self, row: Row) -> None:
        """Take an alert: a kill could not be finished, or nothing works any more."""
        code, account, text = (str(row.get(name) or "") for name in ("code", "account", "text"))
        press = self._presses.get(text.partition(": ")[0])
        if press is None:
            return
        if code == "KILL_INCOMPLETE" and account in press.asked:
            press.errors[account] = text
            self._show(account)
        elif code == "HALTED" and "nothing works any more" in text:
            press.verified_at = str(row.get("last_at") or "")
            for one in press.asked:
                self._show(one)
