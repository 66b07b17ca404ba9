"""What a session remembers of orders: their symbols, whose exits they are, which executions were told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from engine.model.identifiers import STOP_LEG, TARGET_LEG, exit_leg_id
from engine.model.messages import ExecutionReport
from engine.model.order import Order

MOST = 20_000
"""Of each kind; the older half is forgotten beyond. What is forgotten costs a look-up, never an order."""
_ValueT = TypeVar("_ValueT")


class Memory:
    """Of one account; Binance finds orders by symbol, and tells an execution by the reply and by the stream."""

    def __init__(self) -> None:
        self._symbols: dict[str, str] = {}
        self._legs: dict[str, tuple[str, str]] = {}
        self._told: dict[str, None] = {}

    def note(self, cl_ord_id: str, symbol: str) -> None:
        """Remember an order's symbol."""
        _keep(self._symbols, cl_ord_id, symbol)

    def symbol_of(self, cl_ord_id: str) -> str:
        """Return an order's symbol, empty if it is not known."""
        return self._symbols.get(cl_ord_id, "")

    def note_leg(self, entry: Order, leg: str) -> None:
        """Remember the exit an entry is sent with."""
        leg_id = exit_leg_id(entry.cl_ord_id, leg)
        _keep(self._legs, leg_id, (entry.cl_ord_id, leg))
        self.note(leg_id, entry.symbol)

    def note_lists(self, reports: Sequence[ExecutionReport], listed: Sequence[Any]) -> None:
        """Recognise exits by the entries that are listed with them: their ids are made of the entry's."""
        in_lists = [
            report
            for report, one in zip(reports, listed, strict=True)
            if isinstance(one, Mapping) and one.get("orderListId", -1) != -1
        ]
        ids = {report.cl_ord_id for report in in_lists}
        for entry in ids:
            for leg in (STOP_LEG, TARGET_LEG):
                if (leg_id := exit_leg_id(entry, leg)) in ids:
                    _keep(self._legs, leg_id, (entry, leg))

    def named(self, report: ExecutionReport) -> ExecutionReport:
        """Say of a report whose exit it is about, if any, and remember its symbol."""
        if report.symbol:
            self.note(report.cl_ord_id, report.symbol)
        found = self._legs.get(report.cl_ord_id)
        if found is not None:
            report.parent, report.leg = found
        return report

    def knows(self, exec_id: str) -> bool:
        """Say whether an execution was told."""
        return exec_id in self._told

    def is_new(self, exec_id: str) -> bool:
        """Say whether an execution was not told before, and count it as told."""
        if exec_id in self._told:
            return False
        _keep(self._told, exec_id, None)
        return True


def _keep(store: dict[str, _ValueT], key: str, value: _ValueT) -> None:
    store[key] = value
    if len(store) > MOST:
        for old in list(store)[: MOST // 2]:
            del store[old]
