"""Engines broken on purpose where the simulation does not look: the journal's disk, the parser, single controls."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any
from unittest.mock import patch

from engine.api import signatures
from engine.errors import InvalidSignal, InvariantError
from engine.execution.conservation import Ledger
from engine.execution.protective_exits import ProtectiveExits
from engine.intake import parser
from engine.model.enums import OrderStatus
from engine.model.identifiers import ClOrdIDs
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.order_news import OrderNews
from engine.risk import checks
from engine.risk.exposure import ExposureBook
from engine.risk.pretrade import PreTrade
from engine.stores import journal_thread
from engine.stores.journal_thread import JournalThread
from tests.crash import power_cut
from tests.simulation.sabotages import sabotage

# ---- the journal's disk --------------------------------------------------------------------------------------------


def _synchronous(level: str) -> Iterator[Any]:
    original = power_cut.opener

    def opener(disk: power_cut.Disk, _level: str = "FULL") -> Any:
        return original(disk, level)

    with patch.object(power_cut, "opener", opener):
        yield


@sabotage
def synchronous_normal() -> Iterator[Any]:
    """The WAL is not synced at every commit."""
    yield from _synchronous("NORMAL")


@sabotage
def synchronous_off() -> Iterator[Any]:
    """Nothing is ever synced."""
    yield from _synchronous("OFF")


class _Late:
    """A connection whose COMMIT takes place when the next transaction begins."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._owes = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *values: Any) -> Any:
        if sql == "COMMIT":
            self._owes = True
            return None
        if self._owes:
            self._owes = False
            self._connection.execute("COMMIT")
        return self._connection.execute(sql, *values)


@sabotage
def told_before_the_commit() -> Iterator[Any]:
    """Who waits for a commit is told of it before it takes place."""
    original = JournalThread._serve

    def serve(self: JournalThread, connection: Any) -> None:
        late = _Late(connection)
        original(self, late)  # type: ignore[arg-type]
        late.execute("SELECT 1")

    with patch.object(JournalThread, "_serve", serve):
        yield


@sabotage
def epoch_not_checked() -> Iterator[Any]:
    """A journal that another engine has taken over goes on writing."""
    with patch.object(JournalThread, "_check_epoch", lambda *_: None):
        yield


@sabotage
def goes_on_after_a_failed_sync() -> Iterator[Any]:
    """A commit that failed is told, and the next one is tried on the same file."""
    original = JournalThread._fail

    def fail(self: JournalThread, connection: Any, batch: Any, error: Exception) -> None:
        tell = self._tell
        with patch.object(self, "_tell", lambda results, _failure: tell(results, None)):
            original(self, connection, batch, error)
        self._broken = None

    with patch.object(journal_thread.JournalThread, "_fail", fail):
        yield


ENDLESS = 10**9

# ---- the parser ----------------------------------------------------------------------------------------------------


@sabotage
def any_number_python_reads() -> Iterator[Any]:
    """Exponents, signs, underscores, Unicode digits and NaN are numbers."""

    def lax(field: str, value: object) -> Decimal:
        try:
            return Decimal(str(value))
        except InvalidOperation:
            raise InvalidSignal("FORMAT", field, "no number") from None

    with patch.object(parser, "read_number", lax):
        yield


@sabotage
def last_of_two_keys_wins() -> Iterator[Any]:
    """A key may be there twice."""
    decoder = parser.json.JSONDecoder(
        object_pairs_hook=dict,
        parse_float=parser.Number,
        parse_int=parser.Number,
        parse_constant=parser._NotANumber,
    )
    with patch.object(parser, "_object", dict), patch.object(parser, "_DECODER", decoder):
        yield


@sabotage
def unknown_fields_ignored() -> Iterator[Any]:
    """A field nobody knows is passed over."""
    with patch.object(parser, "FIELDS", parser.FIELDS | {"extra"}):
        yield


@sabotage
def signals_from_the_future() -> Iterator[Any]:
    """A stamp ahead of the clock is taken."""
    with patch.object(parser, "check_not_future", lambda *_: None):
        yield


@sabotage
def action_and_fields_not_compared() -> Iterator[Any]:
    """Fields that make no sense for an action are taken."""
    with patch.object(parser, "_check_action", lambda _: None):
        yield


@sabotage
def audiences_without_end() -> Iterator[Any]:
    """A signal may name any number of accounts and tags."""
    with patch.object(parser, "MAX_NAMES", ENDLESS):
        yield


@sabotage
def members_without_end() -> Iterator[Any]:
    """The object ``meta`` may have any number of members."""
    with patch.object(parser, "MAX_META", ENDLESS):
        yield


@sabotage
def bodies_without_end() -> Iterator[Any]:
    """A signal may be of any length."""
    with patch.object(parser, "MAX_BYTES", ENDLESS):
        yield


# ---- single rules --------------------------------------------------------------------------------------------------


@sabotage
def ids_by_chance() -> Iterator[Any]:
    """A ClOrdID is drawn, not derived: a second engine names the same order otherwise."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

    def make(*_: Any, **__: Any) -> str:
        return "".join(random.choices(letters, k=20))

    with patch.object(ClOrdIDs, "make", make):
        yield


@sabotage
def nan_by_comparison() -> Iterator[Any]:
    """Whether a number is one is asked by comparing it, as floats are: NaN passes every limit."""

    def is_plain(number: Decimal) -> bool:
        return not float(number) <= 0

    with patch.object(checks, "is_plain", is_plain):
        yield


@sabotage
def executions_not_checked_for_numbers() -> Iterator[Any]:
    """What a broker tells of an execution is compared, not looked at."""

    def check(_self: Order, report: ExecutionReport) -> None:
        if float(report.last_qty) < 0 or float(report.last_px) < 0:
            raise InvariantError("negative")

    with patch.object(Order, "_check_exact", check):
        yield


@sabotage
def exit_beside_one_of_unknown_outcome() -> Iterator[Any]:
    """A second exit leaves while nobody knows what became of the first."""
    with patch.object(ProtectiveExits, "_under_way", lambda *_: False):
        yield


@sabotage
def entries_beside_an_unknown_one() -> Iterator[Any]:
    """An order of unknown outcome holds up no other of its account, symbol and side."""
    with patch.object(PreTrade, "_unknown", lambda *_: None):
        yield


@sabotage
def unknown_orders_not_reserved() -> Iterator[Any]:
    """What is unknown counts against no limit."""
    original = ExposureBook.follow

    def follow(self: ExposureBook, order: Order) -> None:
        if order.status is OrderStatus.UNKNOWN:
            self.forget(order)
        else:
            original(self, order)

    with patch.object(ExposureBook, "follow", follow):
        yield


@sabotage
def reservations_never_released() -> Iterator[Any]:
    """An order that has ended still counts."""
    original = ExposureBook.follow

    def follow(self: ExposureBook, order: Order) -> None:
        if not order.status.terminal:
            original(self, order)

    with patch.object(ExposureBook, "follow", follow):
        yield


@sabotage
def reservations_released_twice() -> Iterator[Any]:
    """The end of an order gives its room back, and once more."""
    original = ExposureBook._end

    def end(self: ExposureBook, key: str) -> None:
        known = self._orders[key]
        account = self._accounts[known.account]
        account.value -= known.value
        self._firm.value -= known.value
        original(self, key)

    with patch.object(ExposureBook, "_end", end):
        yield


@sabotage
def nothing_counts_what_leaves() -> Iterator[Any]:
    """An order may leave twice, and larger than it was planned."""
    with patch.object(Ledger, "let_go", lambda *_: ""):
        yield


@sabotage
def late_accepts_left_alone() -> Iterator[Any]:
    """An order that was closed as absent and turns up at its broker is left there."""
    with patch.object(OrderNews, "_note_late", lambda *_: None):
        yield


@sabotage
def position_limit_not_asked_at_sending() -> Iterator[Any]:
    """What has filled since an entry was planned is not counted when it leaves."""
    with patch.object(PreTrade, "position_refusal", lambda *_: None):
        yield


@sabotage
def exits_not_counted_in_positions() -> Iterator[Any]:
    """An exit under way takes exposure away, and nothing else."""
    with patch.object(ExposureBook, "_follow_exit", lambda *_: None):
        yield


@sabotage
def replay_window_off() -> Iterator[Any]:
    """A right signature is right for ever."""
    original = signatures.Signatures.__init__

    def begin(self: Any, keys: Any, _window_s: float, *rest: Any, **named: Any) -> None:
        original(self, keys, float("inf"), *rest, **named)

    with patch.object(signatures.Signatures, "__init__", begin):
        yield


@sabotage
def signatures_compared_by_their_beginning() -> Iterator[Any]:
    """The first bytes of a signature decide."""
    with patch.object(signatures.hmac, "compare_digest", lambda a, b: a[:8] == b[:8]):
        yield
