"""Judges a whole history: the venue's own books, the journals the engine left behind, and what its sources were told.

``violations`` runs every rule over a ``History`` and returns a sentence for each breach, beginning with the rule's
name: the invariants I1 to I15, ``lost`` and ``ghost``. ``moved`` compares two readings of a journal, one after each
death, with what reached the venue between them. Nothing of the engine's code is used to judge it, so that one mistake
cannot hide another. What is read: the venue over its observer's address, the journal as a file opened read-only. Time
is this machine's monotonic clock throughout.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.e2e.test_canary import MAY_HOLD_THEIR_OWN, forms

ZERO = Decimal(0)
TERMINAL = frozenset({"filled", "canceled", "rejected", "expired", "denied", "replaced"})
NEVER_THERE = frozenset({"denied", "expired", "rejected"})
NEAR_NS = 1_000_000_000
"""How much later than it left a request may be stamped: the venue shares two cores with everybody."""
LATCH_NS = 10_000_000
"""How long after the latch a request may still arrive (I8)."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One planned order, as the journal has it."""

    cl_ord_id: str
    account: str
    quantity: Decimal
    signal: str
    reducing: bool = False


@dataclass(slots=True)
class Journal:
    """What one reading of a journal found. ``plans``: signal → its whole plan as text; ``reasons``: signal → accounts
    that have a reason instead of an order.
    """

    states: dict[str, tuple[str, str]] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)
    accounted: dict[str, list[str]] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    fills: list[dict[str, Any]] = field(default_factory=list)
    positions: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    halts: dict[str, tuple[str, str]] = field(default_factory=dict)
    newest: int = 0

    @property
    def known(self) -> set[str]:
        """Return every ClOrdID that was durable."""
        return self.intents.keys() | self.orders.keys()


@dataclass(slots=True)
class Sent:
    """One signal of a source: what it says, and every answer it got (status, document)."""

    document: dict[str, Any]
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Return ``source/id``."""
        return f"{self.document['source']}/{self.document['id']}"

    @property
    def until_ns(self) -> int:
        """Return the latest moment its orders may leave."""
        issued = datetime.fromisoformat(self.document["issued_at"])
        seconds = issued.timestamp() + float(self.document["valid_for_s"])
        return int(seconds * 1e9) - wall_minus_monotonic_ns()


@dataclass(slots=True)
class Life:
    """One engine: from its fork to its death."""

    began_ns: int
    ended_ns: int = 0


@dataclass(slots=True)
class History:
    """Everything there is to judge.

    ``orders``, ``requests``, ``money``: the venue's ``/sim/orders``, ``/sim/log``, ``/sim/accounts``, of this
    history's keys only. ``owners``: key at the venue → account. ``final``: the journal in the end. ``most``: the
    largest quantity an order of an account may have, ``most_held`` the largest position. ``cash``: what each account
    began with, ``None`` where the venue's cash is not quantity times price. ``stopped_past_check``: see ``points``.
    """

    orders: list[dict[str, Any]]
    requests: list[dict[str, Any]]
    money: list[dict[str, Any]]
    owners: dict[str, str]
    final: Journal
    sent: list[Sent]
    lives: list[Life]
    accounts: tuple[str, ...]
    most: Decimal | None = None
    most_held: Decimal | None = None
    cash: Decimal | None = None
    stopped_past_check: bool = False

    def ours(self) -> Iterator[dict[str, Any]]:
        """Return the venue's orders but for the exits an order brought along."""
        return (order for order in self.orders if not order["leg"])

    def placements(self) -> Iterator[dict[str, Any]]:
        """Return the requests that place an order."""
        return placements(self.requests)


def placements(requests: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the requests that place an order."""
    return (row for row in requests if row["method"] == "POST" and row["client_order_id"])


def wall_minus_monotonic_ns() -> int:
    """Return what to take from a wall clock's nanoseconds to have monotonic ones."""
    return time.time_ns() - time.monotonic_ns()


def read_journal(path: Path, after: int = 0) -> Journal:
    """Read a journal as it lies there, of signals only those with a sequence above ``after``.

    Never changes it: what was not committed is not there.
    """
    found = Journal(newest=after)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")  # one moment for all tables
        for row in connection.execute("SELECT * FROM signals WHERE seq > ?", (after,)):
            _take_signal(found, row)
        for row in connection.execute("SELECT * FROM orders"):
            found.orders[row["cl_ord_id"]] = dict(row)
        found.fills = [dict(row) for row in connection.execute("SELECT * FROM fills")]
        for row in connection.execute("SELECT account, symbol, qty FROM positions"):
            found.positions[row["account"], row["symbol"]] = Decimal(row["qty"])
        # A control's own pause ends by itself, when what tripped it does.
        for row in connection.execute(
            "SELECT * FROM halts WHERE NOT (state = 'reducing' AND by != 'operator')"
        ):
            found.halts[row["scope"]] = (row["state"], row["at"])
    return found


def _take_signal(found: Journal, row: sqlite3.Row) -> None:
    key = f"{row['source']}/{row['id']}"
    plan = json.loads(row["plan"])
    found.newest = max(found.newest, row["seq"])
    found.states[key] = (row["state"], row["code"])
    found.plans[key] = json.dumps(plan["orders"], sort_keys=True)
    accounted = [*plan["cancels"], *plan["done"], *plan["held"]]
    for *shared, rows in plan["orders"]:
        for cl_ord_id, account, quantity in rows:
            intent = Intent(cl_ord_id, account, Decimal(quantity), key, bool(shared[6]))
            found.intents[cl_ord_id] = intent
            accounted.append(account)
    for _kind, code, _message, accounts in plan["reasons"]:
        accounted += accounts if code else []
    found.accounted[key] = accounted


def violations(history: History) -> list[str]:
    """Return what breaks a rule, each beginning with the rule's name; empty if all held."""
    return [f"{name}: {text}" for name, rule in RULES.items() for text in rule(history)]


def _by_id(orders: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for order in orders:
        found[order["client_order_id"]].append(order)
    return found


def _lost(h: History) -> Iterator[str]:
    """An intent with neither an order at the venue nor an end with a reason."""
    book = _by_id(h.ours())
    for cl_ord_id, intent in h.final.intents.items():
        row = h.final.orders.get(cl_ord_id)
        placed = book.get(cl_ord_id)
        if row is None:
            yield f"{intent.signal} {intent.account}: {cl_ord_id} was planned and has no row"
        elif row["status"] in {"unknown", "pending_new"}:
            yield f"{intent.signal} {intent.account}: {cl_ord_id} is {row['status']} at the end"
        elif not placed and row["status"] not in NEVER_THERE:
            yield f"{cl_ord_id} is {row['status']}, and the venue never had it"
        elif not placed and not (row["code"] or row["text"]):
            yield f"{cl_ord_id} is {row['status']} without a reason"
        elif placed and row["status"] in NEVER_THERE and not _over(placed):
            yield f"{cl_ord_id} is {row['status']} {row['code']}, and works or filled at the venue"


def _over(placed: Iterable[Mapping[str, Any]]) -> bool:
    """Say whether nothing of an order lives: it filled nothing and works no more."""
    return all(o["status"] in TERMINAL and not Decimal(o["filled_qty"]) for o in placed)


def _ghost(h: History) -> Iterator[str]:
    """An order at the venue nobody planned, or with other values than planned."""
    for order in h.ours():
        intent = h.final.intents.get(order["client_order_id"])
        if order["client_order_id"] not in h.final.known:
            yield f"{order['client_order_id']} of {order['key_id']} is in no plan"
        elif intent and not intent.reducing and Decimal(order["qty"]) != intent.quantity:
            yield f"{intent.cl_ord_id}: {order['qty']} at the venue, {intent.quantity} planned"


def _i1(h: History) -> Iterator[str]:
    """Every signal that was taken is planned or refused, for every account."""
    for sent in h.sent:
        taken = [body for status, body in sent.answers if status in {200, 202}]
        if taken and sent.key not in h.final.states:
            yield f"{sent.key} was answered {taken[0].get('state')} and is not in the journal"
        if len({body.get("state") for body in taken}) > 1:
            yield f"{sent.key} was answered differently: {[body.get('state') for body in taken]}"
    for key, accounts in h.final.accounted.items():
        missing = set(h.accounts) - set(accounts)
        if missing:
            yield f"{key} says nothing of {sorted(missing)}"


def _i2(h: History) -> Iterator[str]:
    """No account is in a plan twice."""
    for key, accounts in h.final.accounted.items():
        if len(set(accounts)) != len(accounts):
            yield f"{key}: an account twice: {sorted(accounts)}"


def _i3(h: History) -> Iterator[str]:
    """A ClOrdID is placed at most once. A venue may slice one placement; its parts are no more than the whole."""
    for cl_ord_id, placed in _by_id(h.ours()).items():
        if len(placed) == 1:
            continue
        quantity = sum((Decimal(order["qty"]) for order in placed), ZERO)
        intent = h.final.intents.get(cl_ord_id)
        if intent is None or quantity > intent.quantity:
            yield f"{len(placed)} orders under {cl_ord_id}, of {quantity} together"


def _i5(h: History) -> Iterator[str]:
    """No more fills than planned."""
    for cl_ord_id, placed in _by_id(h.ours()).items():
        intent = h.final.intents.get(cl_ord_id)
        filled = sum((Decimal(order["filled_qty"]) for order in placed), ZERO)
        if intent and filled > intent.quantity:
            yield f"{cl_ord_id}: {filled} filled, {intent.quantity} planned"


def _i7(h: History) -> Iterator[str]:
    """Position and cash are the fills' sum, and the broker's, to the last digit."""
    held: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    cash: dict[str, Decimal] = defaultdict(Decimal)
    for fill in h.final.fills:
        sign = 1 if fill["side"] == "buy" else -1
        quantity = sign * Decimal(fill["last_qty"])
        held[fill["account"], fill["symbol"]] += quantity - Decimal(fill["fee_qty"])
        cash[fill["account"]] -= quantity * Decimal(fill["last_px"])
    for account, symbol in held.keys() | h.final.positions.keys():
        kept = h.final.positions.get((account, symbol), ZERO)
        if kept != held[account, symbol]:
            yield f"{account} {symbol}: position {kept}, its fills say {held[account, symbol]}"
    for row in h.money:
        account = h.owners[row["key_id"]]
        ours = sum((qty for (name, _), qty in h.final.positions.items() if name == account), ZERO)
        theirs = sum((Decimal(p["qty"]) for p in row["positions"].values()), ZERO)
        if ours != theirs:
            yield f"{account} holds {ours}, the venue says {theirs}"
        if h.cash is not None and h.cash + cash[account] != Decimal(row["cash"]):
            yield f"{account} has {h.cash + cash[account]}, the venue says {row['cash']}"


def _i9(h: History) -> Iterator[str]:
    """Nothing arrives from an engine whose time is over: between two lives the venue hears nothing."""
    for before, after in zip(h.lives, h.lives[1:], strict=False):
        for row in h.placements():
            if before.ended_ns + NEAR_NS < row["monotonic_ns"] < after.began_ns:
                yield f"{row['client_order_id']} came while no engine lived"


def _i10(h: History) -> Iterator[str]:
    """Nothing arrives that is older than its signal may be."""
    if h.stopped_past_check:
        return  # held up between the last look at the clock and the wire: nobody can call those bytes back
    until = {sent.key: sent.until_ns for sent in h.sent}
    for row in h.placements():
        intent = h.final.intents.get(row["client_order_id"])
        end = until.get(intent.signal) if intent else None
        if end is not None and row["monotonic_ns"] > end + NEAR_NS:
            late = (row["monotonic_ns"] - end) / 1e9
            yield f"{row['client_order_id']} came {late:.1f} s past its age limit"


def _i11(h: History) -> Iterator[str]:
    """Each fill counts once: an order's fills are what it has filled, and what the venue filled."""
    book = _by_id(h.ours())
    seen: set[tuple[str, str]] = set()
    filled: dict[str, Decimal] = defaultdict(Decimal)
    for fill in h.final.fills:
        key = (fill["account"], fill["exec_id"])
        if key in seen:
            yield f"{key} is there twice"
        seen.add(key)
        filled[fill["cl_ord_id"]] += Decimal(fill["last_qty"])
    for cl_ord_id, row in h.final.orders.items():
        if filled[cl_ord_id] != Decimal(row["cum_qty"]):
            yield f"{cl_ord_id}: {row['cum_qty']} filled, its fills say {filled[cl_ord_id]}"
        theirs = sum((Decimal(order["filled_qty"]) for order in book.get(cl_ord_id, ())), ZERO)
        if not row["parent"] and theirs != Decimal(row["cum_qty"]):
            yield f"{cl_ord_id}: {row['cum_qty']} filled, the venue says {theirs}"


def _i14(h: History) -> Iterator[str]:
    """Nothing of one account is under another's name."""
    for order in h.ours():
        intent = h.final.intents.get(order["client_order_id"])
        if intent and h.owners.get(order["key_id"]) != intent.account:
            yield f"{intent.cl_ord_id} of {intent.account} is under {order['key_id']}"
    for rows in (h.final.orders.values(), h.final.fills):
        for row in rows:
            intent = h.final.intents.get(row["cl_ord_id"])
            if intent and row["account"] != intent.account:
                yield f"{intent.cl_ord_id} of {intent.account} is kept under {row['account']}"


def _i15(h: History) -> Iterator[str]:
    """Every limit held at every moment: an order's quantity, a position's, and a signal's total (C02, C05, C22)."""
    asked: dict[str, Decimal] = defaultdict(Decimal)
    planned: dict[str, Decimal] = defaultdict(Decimal)
    for intent in h.final.intents.values():
        planned[intent.signal] += intent.quantity
    held: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for order in sorted(h.ours(), key=lambda row: row["created_at"]):
        quantity = Decimal(order["qty"])
        if h.most is not None and quantity > h.most:
            yield f"{order['client_order_id']}: {quantity} > {h.most}"
        known = h.final.intents.get(order["client_order_id"])
        if known is not None:
            asked[known.signal] += quantity
            if asked[known.signal] > planned[known.signal]:
                yield f"{known.signal}: {asked[known.signal]} ordered, {planned[known.signal]} planned"
        sign = 1 if order["side"] == "buy" else -1
        place = (order["key_id"], order["symbol"])
        held[place] += sign * Decimal(order["filled_qty"])
        if h.most_held is not None and abs(held[place]) > h.most_held:
            yield f"{order['key_id']} {order['symbol']}: holds {held[place]} > {h.most_held}"


RULES: dict[str, Callable[[History], Iterator[str]]] = {
    "lost": _lost,
    "ghost": _ghost,
    "I1": _i1,
    "I2": _i2,
    "I3": _i3,
    "I5": _i5,
    "I7": _i7,
    "I9": _i9,
    "I10": _i10,
    "I11": _i11,
    "I14": _i14,
    "I15": _i15,
}


def moved(before: Journal, after: Journal, requests: Iterable[dict[str, Any]]) -> list[str]:
    """Judge what happened between two readings of a journal; ``requests`` reached the venue before the second."""
    rows = list(placements(requests))
    found = [f"I2: {text}" for text in _replanned(before, after)]
    found += [f"I4: {text}" for text in _unannounced(before, after, rows)]
    found += [f"I6: {text}" for text in _revived(before, after)]
    return found + [f"I8: {text}" for text in _past_the_latch(after, rows)]


def _replanned(before: Journal, after: Journal) -> Iterator[str]:
    """A plan once durable never changes: no account joins, leaves or gets another quantity."""
    for key, plan in before.plans.items():
        now = after.plans.get(key)
        if now != plan:
            yield f"{key}: planned {plan[:200]}, then {str(now)[:200]}"


def _unannounced(before: Journal, after: Journal, rows: list[dict[str, Any]]) -> Iterator[str]:
    """No request arrives of an intent that was not durable: what a killed engine sent, its journal has."""
    known = before.known | after.known
    for row in rows:
        if row["client_order_id"] not in known:
            yield f"request {row['n']} came with {row['client_order_id']}, the journal has no such intent"


def _revived(before: Journal, after: Journal) -> Iterator[str]:
    """What has ended stays as it ended, but for what a broker takes in after it was proven absent."""
    for cl_ord_id, row in before.orders.items():
        if row["status"] not in TERMINAL:
            continue
        now = after.orders.get(cl_ord_id)
        if now is None:
            yield f"{cl_ord_id} was {row['status']}, and is gone"
        elif now["code"] == "LATE_ACCEPT":
            continue
        elif (now["status"], now["cum_qty"]) != (row["status"], row["cum_qty"]):
            was = f"{row['status']} {row['cum_qty']}"
            yield f"{cl_ord_id} was {was}, then {now['status']} {now['cum_qty']}"


def _past_the_latch(after: Journal, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Nothing arrives after the kill latch (an operator's exits excepted)."""
    state, at = after.halts.get("all", ("", ""))
    if state != "halted":
        return
    latched_ns = int(datetime.fromisoformat(at).timestamp() * 1e9) - wall_minus_monotonic_ns()
    for row in rows:
        by_hand = after.orders.get(row["client_order_id"], {}).get("source") == "operator"
        if row["monotonic_ns"] > latched_ns + LATCH_NS and not by_hand:
            late = (row["monotonic_ns"] - latched_ns) / 1e6
            yield f"{row['client_order_id']} came {late:.0f} ms after the latch"


def same_state(before: Journal, after: Journal) -> list[str]:
    """Return what a recovery changed that had nothing to recover (I12)."""
    return [
        f"I12: {name} differ after a second recovery"
        for name in ("states", "plans", "intents", "orders", "fills", "positions", "halts")
        if getattr(before, name) != getattr(after, name)
    ]


def broken_chain(path: Path) -> list[str]:
    """Return where a journal's audit trail does not follow from its begin, or from its kept head (I12)."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        (book,) = connection.execute("SELECT value FROM meta WHERE key = 'book'").fetchone()
        rows = connection.execute("SELECT * FROM audit ORDER BY seq").fetchall()
    last = sha256(f"volley audit {book}".encode()).digest()
    hashes = {0: last}
    for number, (seq, *fields, kept) in enumerate(rows, 1):
        covered = json.dumps(
            [last.hex(), number, *fields], separators=(",", ":"), ensure_ascii=False
        )
        last = sha256(covered.encode()).digest()
        if seq != number or kept != last:
            return [f"I12: row {seq} of the audit trail does not follow the one before"]
        hashes[number] = last
    if not rows:
        return ["I12: nothing was audited"]
    head = json.loads(path.with_name("audit.head").read_text("utf-8"))
    if hashes.get(head["seq"], b"").hex() != head["hash"]:
        return [f"I12: the kept head {head['seq']} is not in the trail of {len(rows)} rows"]
    return []


def canaries(home: Path, secrets: Mapping[str, str]) -> list[str]:
    """Return where in a home a secret can be read in any form (I13)."""
    needles = [
        (name, form, text) for name, secret in secrets.items() for form, text in forms(secret)
    ]
    found = []
    for path in sorted(home.rglob("*")):
        if path.is_file() and path.name not in MAY_HOLD_THEIR_OWN:
            content = path.read_bytes()
            found += [
                f"I13: {name} ({form}) in {path.name}"
                for name, form, text in needles
                if text in content
            ]
    return found
