"""The checker has teeth: every rule finds the history that breaks it, and nothing in one that is sound."""

from __future__ import annotations

import copy
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.crash.history import (
    LATCH_NS,
    NEAR_NS,
    RULES,
    History,
    Intent,
    Journal,
    Life,
    Sent,
    broken_chain,
    canaries,
    moved,
    same_state,
    violations,
)

NOW = time.monotonic_ns()
WALL = datetime.now(UTC)  # at that same moment
CASH = Decimal(1000)


def venue_order(cl_ord_id: str, key: str, **fields: Any) -> dict[str, Any]:
    return {
        "client_order_id": cl_ord_id,
        "key_id": key,
        "symbol": "AAPL",
        "side": "buy",
        "qty": "2",
        "filled_qty": "2",
        "status": "filled",
        "leg": None,
        "created_at": "2026-11-22T21:00:00Z",
        **fields,
    }


def request(n: int, cl_ord_id: str, key: str, at_ns: int = NOW) -> dict[str, Any]:
    row = {"n": n, "method": "POST", "client_order_id": cl_ord_id, "key_id": key}
    return {**row, "monotonic_ns": at_ns, "fault": ""}


def row(cl_ord_id: str, account: str, **fields: Any) -> dict[str, Any]:
    return {
        "cl_ord_id": cl_ord_id,
        "account": account,
        "status": "filled",
        "cum_qty": "2",
        "code": "",
        "text": "",
        "parent": "",
        "source": "bot",
        **fields,
    }


def fill(cl_ord_id: str, account: str, exec_id: str) -> dict[str, Any]:
    return {
        "cl_ord_id": cl_ord_id,
        "account": account,
        "exec_id": exec_id,
        "symbol": "AAPL",
        "side": "buy",
        "last_qty": "2",
        "last_px": "10",
        "fee_qty": "0",
    }


def journal() -> Journal:
    """Two accounts, one signal, each account's order filled."""
    return Journal(
        states={"bot/s": ("accepted", "")},
        plans={"bot/s": '[["O-1", "A", "2"], ["O-2", "B", "2"]]'},
        accounted={"bot/s": ["A", "B"]},
        intents={
            "O-1": Intent("O-1", "A", Decimal(2), "bot/s"),
            "O-2": Intent("O-2", "B", Decimal(2), "bot/s"),
        },
        orders={"O-1": row("O-1", "A"), "O-2": row("O-2", "B")},
        fills=[fill("O-1", "A", "E-1"), fill("O-2", "B", "E-2")],
        positions={("A", "AAPL"): Decimal(2), ("B", "AAPL"): Decimal(2)},
    )


def sound() -> History:
    held = {"AAPL": {"qty": "2"}}
    document = {
        "source": "bot",
        "id": "s",
        "issued_at": WALL.isoformat(),
        "valid_for_s": 60,
    }
    return History(
        orders=[venue_order("O-1", "KA"), venue_order("O-2", "KB")],
        requests=[request(1, "O-1", "KA"), request(2, "O-2", "KB")],
        money=[
            {"key_id": "KA", "positions": held, "cash": "980"},
            {"key_id": "KB", "positions": held, "cash": "980"},
        ],
        owners={"KA": "A", "KB": "B"},
        final=journal(),
        sent=[Sent(document, [(202, {"state": "accepted"}), (200, {"state": "accepted"})])],
        lives=[Life(NOW - 5 * NEAR_NS)],
        accounts=("A", "B"),
        most=Decimal(2),
        most_held=Decimal(2),
        cash=CASH,
    )


def test_a_sound_history_breaks_nothing():
    assert violations(sound()) == []
    assert moved(journal(), journal(), sound().requests) == []
    assert same_state(journal(), journal()) == []


def unplanned_order(h: History) -> None:
    h.orders.append(venue_order("O-9", "KA", filled_qty="0"))


def other_quantity(h: History) -> None:
    h.orders[0]["qty"] = "1.5"


def never_there(h: History) -> None:
    del h.orders[0]


def unknown_at_the_end(h: History) -> None:
    h.final.orders["O-1"]["status"] = "unknown"


def without_a_row(h: History) -> None:
    del h.final.orders["O-1"]


def denied_without_a_reason(h: History) -> None:
    never_there(h)
    h.final.orders["O-1"] |= {"status": "denied", "cum_qty": "0"}


def expired_yet_filled(h: History) -> None:
    h.final.orders["O-1"] |= {"status": "expired", "code": "ABSENT"}


def accepted_and_forgotten(h: History) -> None:
    h.final.states.clear()


def answered_differently(h: History) -> None:
    h.sent[0].answers.append((200, {"state": "refused"}))


def an_account_unspoken_of(h: History) -> None:
    h.accounts = ("A", "B", "C")


def an_account_planned_twice(h: History) -> None:
    h.final.accounted["bot/s"].append("A")


def sent_twice(h: History) -> None:
    h.orders.append(venue_order("O-1", "KA", filled_qty="0"))


def filled_twice(h: History) -> None:
    h.orders[0] |= {"qty": "4", "filled_qty": "4"}


def a_float_sum(h: History) -> None:
    h.final.positions["A", "AAPL"] = Decimal("2.0000000000000004")


def position_not_the_brokers(h: History) -> None:
    h.money[1]["positions"]["AAPL"] = {"qty": "1"}


def cash_not_the_brokers(h: History) -> None:
    h.money[0]["cash"] = "980.01"


def a_dead_engine_sends(h: History) -> None:
    h.lives = [Life(0, NOW - 3 * NEAR_NS), Life(NOW + NEAR_NS)]


def sent_too_old(h: History) -> None:
    long_ago = WALL - timedelta(seconds=120)
    h.sent[0].document["issued_at"] = long_ago.isoformat()


def a_fill_counted_twice(h: History) -> None:
    h.final.fills.append(fill("O-1", "A", "E-1"))
    h.final.positions["A", "AAPL"] = Decimal(4)


def a_fill_missed(h: History) -> None:
    h.final.fills.pop(0)
    h.final.positions["A", "AAPL"] = Decimal(0)


def filled_behind_our_back(h: History) -> None:
    h.final.orders["O-1"]["cum_qty"] = "0"


def under_anothers_key(h: History) -> None:
    h.orders[0]["key_id"], h.orders[1]["key_id"] = "KB", "KA"


def kept_under_anothers_name(h: History) -> None:
    h.final.fills[0]["account"] = "B"


def over_the_quantity_limit(h: History) -> None:
    h.most = Decimal("1.9")


def over_the_position_limit(h: History) -> None:
    h.most_held = Decimal(1)


def more_than_planned(h: History) -> None:
    h.orders[0]["qty"] = "3"
    h.most = None


BREAKS: list[tuple[str, Callable[[History], None]]] = [
    ("ghost", unplanned_order),
    ("ghost", other_quantity),
    ("lost", never_there),
    ("lost", unknown_at_the_end),
    ("lost", without_a_row),
    ("lost", denied_without_a_reason),
    ("lost", expired_yet_filled),
    ("I1", accepted_and_forgotten),
    ("I1", answered_differently),
    ("I1", an_account_unspoken_of),
    ("I2", an_account_planned_twice),
    ("I3", sent_twice),
    ("I5", filled_twice),
    ("I7", a_float_sum),
    ("I7", position_not_the_brokers),
    ("I7", cash_not_the_brokers),
    ("I9", a_dead_engine_sends),
    ("I10", sent_too_old),
    ("I11", a_fill_counted_twice),
    ("I11", a_fill_missed),
    ("I11", filled_behind_our_back),
    ("I14", under_anothers_key),
    ("I14", kept_under_anothers_name),
    ("I15", over_the_quantity_limit),
    ("I15", over_the_position_limit),
    ("I15", more_than_planned),
]


@pytest.mark.parametrize(
    ("rule", "spoil"), BREAKS, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_broken_history_is_found(rule: str, spoil: Callable[[History], None]):
    history = sound()
    spoil(history)
    found = violations(history)
    assert any(text.startswith(f"{rule}: ") for text in found), found


def test_one_placement_that_the_venue_sliced_is_no_duplicate() -> None:
    history = sound()
    history.orders[0] |= {"qty": "1", "filled_qty": "1"}
    history.orders.append(venue_order("O-1", "KA", qty="1", filled_qty="1"))
    assert not [text for text in violations(history) if text.startswith(("I3", "I5"))]


def test_every_rule_is_tried():
    assert {rule for rule, _ in BREAKS} == set(RULES)


def replanned(after: Journal, requests: list[dict[str, Any]]) -> None:
    after.plans["bot/s"] = '[["O-1", "A", "2"]]'


def forgotten(after: Journal, requests: list[dict[str, Any]]) -> None:
    after.plans.clear()


def sent_before_it_was_durable(after: Journal, requests: list[dict[str, Any]]) -> None:
    requests.append(request(3, "O-7", "KA"))


def revived(after: Journal, requests: list[dict[str, Any]]) -> None:
    after.orders["O-1"]["status"] = "new"


def filled_on_after_its_end(after: Journal, requests: list[dict[str, Any]]) -> None:
    after.orders["O-1"]["cum_qty"] = "3"


def gone(after: Journal, requests: list[dict[str, Any]]) -> None:
    del after.orders["O-1"]


def sent_after_the_latch(after: Journal, requests: list[dict[str, Any]]) -> None:
    at = datetime.now(UTC) - timedelta(microseconds=3 * LATCH_NS / 1000)
    after.halts["all"] = ("halted", at.isoformat())
    requests.append(request(3, "O-1", "KA", time.monotonic_ns()))


MOVES: list[tuple[str, Callable[[Journal, list[dict[str, Any]]], None]]] = [
    ("I2", replanned),
    ("I2", forgotten),
    ("I4", sent_before_it_was_durable),
    ("I6", revived),
    ("I6", filled_on_after_its_end),
    ("I6", gone),
    ("I8", sent_after_the_latch),
]


@pytest.mark.parametrize(
    ("rule", "spoil"), MOVES, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_journal_that_moved_wrongly_is_found(
    rule: str, spoil: Callable[[Journal, list[dict[str, Any]]], None]
):
    after, requests = journal(), sound().requests
    spoil(after, requests)
    found = moved(journal(), after, requests)
    assert any(text.startswith(f"{rule}: ") for text in found), found


def test_what_a_broker_took_late_may_come_back():
    before, after = journal(), journal()
    before.orders["O-1"] |= {"status": "expired", "code": "ABSENT", "cum_qty": "0"}
    after.orders["O-1"] |= {"code": "LATE_ACCEPT"}
    assert moved(before, after, []) == []


def test_exits_by_hand_may_leave_after_the_latch():
    after, requests = journal(), sound().requests
    sent_after_the_latch(after, requests)
    after.orders["O-1"]["source"] = "operator"
    assert moved(journal(), after, requests) == []


@pytest.mark.parametrize("name", ["orders", "fills", "positions", "plans", "halts"])
def test_a_recovery_that_changes_something_is_found(name: str):
    after = copy.deepcopy(journal())
    changed = getattr(after, name)
    if isinstance(changed, list):
        changed.pop()
    elif name == "halts":
        changed["all"] = ("halted", "")
    else:
        changed.pop(next(iter(changed)))
    assert same_state(journal(), after) == [f"I12: {name} differ after a second recovery"]


def audited(directory: Path) -> Path:
    """Return a journal with a trail of three rows and its head, made by the rule of the trail."""
    path = directory / "journal.sqlite3"
    last = sha256(b"volley audit book-1").digest()
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE meta (key TEXT, value TEXT)")
        made.execute("INSERT INTO meta VALUES ('book', 'book-1')")
        made.execute(
            "CREATE TABLE audit (seq INT, at TEXT, kind TEXT, account TEXT, facts TEXT, hash BLOB)"
        )
        for seq in (1, 2, 3):
            fields = (f"2026-11-22T21:00:0{seq}Z", "signal", "A", '{"id":"s"}')
            text = json.dumps([last.hex(), seq, *fields], separators=(",", ":"))
            last = sha256(text.encode()).digest()
            made.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)", (seq, *fields, last))
        made.commit()
    head = {"book": "book-1", "seq": 3, "hash": last.hex()}
    path.with_name("audit.head").write_text(json.dumps(head), "utf-8")
    return path


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET facts = '{}' WHERE seq = 2",
        "UPDATE audit SET account = 'B' WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 1",
        "DELETE FROM audit WHERE seq = 3",
        "DELETE FROM audit",
    ],
)
def test_a_changed_audit_trail_is_found(tmp_path: Path, change: str):
    path = audited(tmp_path)
    assert broken_chain(path) == []
    with closing(sqlite3.connect(path)) as journal_file:
        journal_file.execute(change)
        journal_file.commit()
    [found] = broken_chain(path)
    assert found.startswith("I12: ")


def test_a_secret_in_the_home_is_found(tmp_path: Path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "engine.log").write_text("secret=aHVzaC1odXNoLXRoZS1zZWNyZXQ=", "utf-8")
    assert canaries(tmp_path, {"it": "hush-hush-the-secret"})
    assert not canaries(tmp_path, {"it": "another-secret-altogether"})
