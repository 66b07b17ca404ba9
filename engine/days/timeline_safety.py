"""What kept a recorded day safe, as the audit trail tells it: differences with brokers, controls, kills.

Exact: which limits refused what, which control tripped and why, each difference that counted from when it was proven
until it was gone. From the record of the day (``engine.days.record``): limits in use, how controls were set, orders
of others; a day that was recorded before it kept them has none of these (``recorded``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from engine.days.record import Line
from engine.days.recorded import Told
from engine.days.timeline_kills import Books, Kills
from engine.execution.differences import CASH, POSITION, PROVEN, signed
from engine.model import tables
from engine.model.controls import BY_CODE, CONTROLS
from engine.model.enums import OrderStatus
from engine.model.order import Order
from engine.views import Row

NOT_RECORDED: Final = "not recorded"
_BREAKER: Final = "C24"
_DIFFERS: Final = "C25"
_THROTTLE: Final = "C11"


@dataclass(slots=True)
class _Control:
    refusals: int = 0
    tripped: dict[str, str] = field(default_factory=dict)
    was: str | None = None  # on, off, failing, as the record of the day last said


class Safety:
    """Follows a day's audit trail; told of each thing in its order."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._kills = Kills(books)
        self._lines: dict[str, Row] = {}  # differences by key
        self._controls = {control.number: _Control() for control in CONTROLS}
        self._reasons: dict[str, Counter[str]] = {}  # what each signal was refused for so far
        self._kept: dict[str, set[str]] = {tables.USAGE: set(), tables.EXTERNAL: set()}
        self.recorded: set[str] = set()
        """Tables the record of the day had something to say of."""
        self._kinds: dict[str, Callable[[Told], None]] = {
            "command": self._kills.command,
            "result": self._kills.result,
            "latch": self._latch,
            "difference": self._differs,
            "difference_gone": self._agrees,
            "adopt": self._adopted,
            "trip": self._trip,
            "trip_over": self._trip_over,
            "tripped": self._throttled,
            "reviewed": self._reviewed,
            "breaker": self._breaker,
        }

    def open(self, standing: Iterable[Told]) -> None:
        """Begin with what stood from the days before."""
        for control in CONTROLS:
            self._books.put(tables.CONTROLS, control.number, {
                "number": control.number, "title": control.title, "meaning": control.meaning, "state": None,
                "setting": NOT_RECORDED, "refusals": 0, "last_at": None, "last_code": "", "last_account": "",
                "last_text": "",
            })  # fmt: skip
        for told in standing:
            self.take(told)

    def wants(self, told: Told) -> bool:
        """Say whether a row of the audit trail is for ``take``."""
        return told.kind in self._kinds

    def take(self, told: Told) -> None:
        """Take a row of the audit trail."""
        self._kinds[told.kind](told)

    def line(self, line: Line) -> None:
        """Take a line of the record of the day."""
        for table, known in self._kept.items():
            rows = line.get(table) or {}
            if table in line:
                self.recorded.add(table)
            if (
                "run" in line
            ):  # another engine's run: what it does not tell of is not there any more
                rows = dict.fromkeys(known) | rows
            for key, row in rows.items():
                self._books.put(table, key, row)
                (known.discard if row is None else known.add)(key)
        if tables.CONTROLS in line:
            self.recorded.add(tables.CONTROLS)
            for number, row in line[tables.CONTROLS].items():
                if number in self._controls:
                    self._set(number, row)

    # ---- orders, positions, latches --------------------------------------------------------------------------

    def order_moved(self, order: Order, status: OrderStatus) -> None:
        """Take an order's new status."""
        self._kills.order_moved(order, status)
        if status is OrderStatus.DENIED:
            self._refused(order.code, order.account, order.text)

    def position_moved(self, account: str) -> None:
        """Take an account's new positions."""
        self._kills.position_moved(account)

    def _latch(self, told: Told) -> None:
        self._kills.latch(told)
        if told.facts.get("state") == "active":
            self._clear("C22", str(told.facts.get("scope", "")))  # no row of its own tells its end

    # ---- differences -----------------------------------------------------------------------------------------

    def _differs(self, told: Told) -> None:
        facts = told.facts
        key = self._key(told)
        row: Row = {
            "key": key, "account": told.account, "broker": self._books.brokers.get(told.account, ""),
            **{name: str(facts.get(name) or "") for name in ("kind", "symbol", "expected", "actual", "text")},
            "difference": str(facts.get("difference") or _gap(facts)), "value": facts.get("value"), "seen": PROVEN,
            "since": told.at, "at": told.at, "actions": [],
        }  # fmt: skip
        self._lines[key] = row
        self._books.put(tables.DIFFERENCES, key, row)
        self._count_lines(told)

    def _agrees(self, told: Told) -> None:
        self._settled(self._key(told), told)

    def _adopted(self, told: Told) -> None:
        self._settled(str(told.facts.get("key")), told)

    def _settled(self, key: str, told: Told) -> None:
        if self._lines.pop(key, None) is not None:
            self._books.put(tables.DIFFERENCES, key, None)
            self._count_lines(told)

    @staticmethod
    def _key(told: Told) -> str:
        facts = told.facts
        subject = facts.get("subject") or facts.get("symbol")
        return f"{told.account}/{facts.get('kind')}/{subject}"

    def _count_lines(self, told: Told) -> None:
        """Say in the account's row how many lines it has, and in the control's whether it stands tripped."""
        own = [row for row in self._lines.values() if row["account"] == told.account]
        if told.account in self._books.accounts:
            self._books.put(tables.ACCOUNTS, told.account, {"differences": len(own)})
        texts = [row["text"] for row in own if row["kind"] != CASH]
        if texts:
            code = str(told.facts.get("code") or "")
            self._trip_control(_DIFFERS, told.account, code, told.account, "; ".join(texts))
        else:
            self._clear(_DIFFERS, told.account)

    # ---- controls --------------------------------------------------------------------------------------------

    def reasons(
        self, signal: str, told: Told, plan: Iterable[tuple[str, str, str, list[str]]]
    ) -> None:
        """Count what a signal's plan refused, and what a later plan of the same refused anew."""
        now: Counter[str] = Counter()
        for _, code, count in told.facts.get("reasons", ()):
            now[code] += int(count)
        fresh = now - self._reasons.get(signal, Counter())
        self._reasons[signal] = now
        known = {code: (accounts, text) for _, code, text, accounts in plan}
        for code, count in fresh.items():
            accounts, text = known.get(code, ([], ""))
            self._refused(code, accounts[-1] if accounts else "", text, count)

    def _refused(self, code: str, account: str, text: str, count: int = 1) -> None:
        number = BY_CODE.get(code)
        if number is not None:
            self._controls[number].refusals += count
            self._note(number, code, account, text)

    def alert(self, row: Row) -> None:
        """Take an alert: the newest a control has done, or a kill's end."""
        code, account = str(row.get("code") or ""), str(row.get("account") or "")
        text = str(row.get("text") or "")
        number = BY_CODE.get(code)
        if number is not None:
            self._note(number, code, account, text)
        self._kills.alert(row)

    def _trip(self, told: Told) -> None:
        facts = told.facts
        number = str(facts.get("control", ""))
        if number in self._controls:
            self._trip_control(
                number,
                str(facts.get("scope", "")),
                str(facts.get("code") or ""),
                told.account,
                str(facts.get("text") or ""),
            )

    def _trip_over(self, told: Told) -> None:
        self._clear(str(told.facts.get("control", "")), str(told.facts.get("scope", "")))

    def _throttled(self, told: Told) -> None:
        self._trip_control(
            _THROTTLE, str(told.facts.get("strategy")), "", "", str(told.facts.get("text") or "")
        )

    def _reviewed(self, told: Told) -> None:
        self._clear(_THROTTLE, str(told.facts.get("strategy")))

    def _breaker(self, told: Told) -> None:
        venue = str(told.facts.get("venue"))
        if told.facts.get("open"):
            self._trip_control(
                _BREAKER, venue, "BREAKER_OPEN", "", str(told.facts.get("text") or "")
            )
        else:
            self._clear(_BREAKER, venue)

    def _trip_control(self, number: str, key: str, code: str, account: str, text: str) -> None:
        self._controls[number].tripped[key] = text
        self._note(number, code, account, text)

    def _clear(self, number: str, key: str) -> None:
        control = self._controls.get(number)
        if control is not None and control.tripped.pop(key, None) is not None:
            self._put(number, {})

    def _note(self, number: str, code: str, account: str, text: str) -> None:
        last = {
            "last_at": self._books.now()[0],
            "last_code": code,
            "last_account": account,
            "last_text": text,
        }
        self._put(number, last)  # fmt: skip

    def _set(self, number: str, row: Mapping[str, Any]) -> None:
        state = row.get("state")
        if state != "tripped":
            self._controls[number].was = state
        self._put(number, {"setting": str(row.get("setting") or "")})

    def _put(self, number: str, columns: Row) -> None:
        control = self._controls[number]
        state = "tripped" if control.tripped else control.was
        self._books.put(
            tables.CONTROLS, number, {**columns, "refusals": control.refusals, "state": state}
        )


def _gap(facts: Mapping[str, Any]) -> str:
    """Return by how much two books differ, where both say it in numbers."""
    if facts.get("kind") not in {POSITION, CASH}:
        return ""
    try:
        return signed(Decimal(str(facts.get("actual"))) - Decimal(str(facts.get("expected"))))
    except InvalidOperation:
        return ""
