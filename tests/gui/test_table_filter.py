from __future__ import annotations

from typing import Any

import pytest

from gui.table_filter import Texts, parse
from gui.table_model import Column

AGES = {"a": 5.0, "b": 90.0, "c": None}
COLUMNS = (
    Column("key", "Key", 60),
    Column("action", "Action", 60, text=lambda row: f"▲ {row['action'].title()}", also="side"),
    Column("symbol", "Symbol", 60),
    Column("filled", "Filled", 60, "number"),
    Column("sent_at.age", "Age", 60, "bar", text=lambda _row: "now", live=True,
           measure=lambda row: AGES[row["key"]]),
    Column("leaves", "Leaves in", 60),
)  # fmt: skip


def row(key: str, action: str, symbol: str, filled: object, **more: Any) -> dict[str, Any]:
    return {"key": key, "action": action, "symbol": symbol, "filled": filled, **more}


ROWS = [
    row("a", "buy", "NVDA", 3, id="brk:1", text="the market is closed"),
    row("b", "sell", "NVDA", "1200", id="brk:2"),
    row("c", "buy", "AMD", None, id="rev:1", leaves="at once"),
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "abc"),
        ("nvda", "ab"),
        ("NVDA buy", "a"),
        ("symbol:nv", "ab"),
        ("symbol=nv", ""),
        ("symbol=NVDA", "ab"),
        ("side:buy", "ac"),
        ("action=buy symbol:amd", "c"),
        ("symbol:amd,tsla", "c"),
        ("-symbol:amd", "ab"),
        ("-nvda", "c"),
        ("-", ""),
        ("amd|side:sell", "bc"),
        ("filled>=3", "ab"),
        ("filled>3", "b"),
        ("filled<1k", "a"),
        ("filled>1.1k", "b"),
        ("filled=3", "a"),
        ("-filled>=3", "c"),
        ("age<60", "a"),
        ("age>=1.5m", "b"),
        ("age<1h", "ab"),
        ("sent_at<10", "a"),
        ('"market is"', "a"),
        ('leavesin:"at once"', "c"),
        ("brk:1", "a"),
        ("http://x", ""),
        ("symbol:", "abc"),
        ("filled>3 side:buy", ""),
    ],
)
def test_what_a_filter_shows(text: str, shown: str) -> None:
    made = parse(text, COLUMNS, Texts(COLUMNS))
    assert "".join(r["key"] for r in ROWS if made.holds(r)) == shown
    assert made.problem == ""


@pytest.mark.parametrize("text", ["filled>x", "age<", "age<5parsecs", "filled>1,5"])
def test_what_cannot_be_compared_is_said_and_shows_nothing(text: str) -> None:
    made = parse(text, COLUMNS, Texts(COLUMNS))
    assert text in made.problem
    assert not any(made.holds(r) for r in ROWS)


def test_only_terms_on_columns_are_asked_again_when_a_row_changes() -> None:
    made = parse("market filled<5", COLUMNS, Texts(COLUMNS))
    assert made.still_holds(ROWS[0] | {"text": "open"})
    assert not made.still_holds(ROWS[0] | {"filled": 5})
    timed = [parse(text, COLUMNS, Texts(COLUMNS)).timed for text in ("age<5", "filled<5")]
    assert timed == [True, False]


def test_a_row_is_written_once_however_many_keys_are_typed() -> None:
    written: list[str] = []

    def write(row: dict[str, Any]) -> str:
        written.append(row["key"])
        return str(row["text"])

    columns = (Column("text", "Text", 80, "text", text=write),)
    texts = Texts(columns)
    row = {"key": "a", "text": "Market is closed"}
    for text in ("m", "ma", "closed", "xyz"):
        assert parse(text, columns, texts).holds(row) is (text != "xyz")
    assert written == ["a"]
    changed = row | {"text": "open"}
    assert parse("open", columns, texts).holds(changed)  # another row, though of the same key
    texts.clear()
    assert parse("closed", columns, texts).holds(row)
    assert written == ["a", "a", "a"]


@pytest.mark.parametrize(
    ("wider", "text", "expected"),
    [
        ("", "n", True),
        ("nv", "nvd", True),
        ("nv", "invd", True),
        ("nv", "nv side:buy", True),
        ("nv side:buy", "side:buy nvda", True),
        ("nvd", "nv", False),
        ("nv", "amd", False),
        ("-n", "-nv", False),
        ("a|b", "a|bc", False),
        ("symbol:n", "symbol:nv", False),  # may be: a comma after it would widen it
        ("sym", "symbol:", False),
        ("filled>3", "filled>30", False),
        ("filled>3", "filled>3 amd", True),
        ("age<60", "age<60 amd", False),  # rows come and go with time
        ("amd", "amd age<60", False),
        ("age<", "age<6", False),
    ],
)
def test_which_filters_narrow_the_one_before(wider: str, text: str, expected: bool) -> None:
    texts = Texts(COLUMNS)
    before, now = parse(wider, COLUMNS, texts), parse(text, COLUMNS, texts)
    assert now.narrows(before) is expected
    if expected:
        assert {r["key"] for r in ROWS if now.holds(r)} <= {
            r["key"] for r in ROWS if before.holds(r)
        }


@pytest.mark.parametrize("text", ["", "nvda", "nvda buy", "filled>3 side:buy", "-amd brk", "a|b"])
def test_rows_are_picked_as_they_are_held(text: str) -> None:
    made = parse(text, COLUMNS, Texts(COLUMNS))
    rows = {r["key"]: r for r in ROWS}
    assert made.pick(rows, rows) == [key for key, r in rows.items() if made.holds(r)]
