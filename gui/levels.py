"""The prices at which something of a symbol waits: working orders, stops, targets, average entries. No drawing here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from engine.client import Row
from gui import formatting as fmt

STOP, TARGET, ENTRY, ORDER = "stop_loss", "take_profit", "entry", "order"
MOVABLE = (STOP, TARGET)
WORKING = frozenset({"pending_new", "new", "partially_filled", "pending_cancel", "unknown"})
MOST_LINES = {STOP: 4, TARGET: 4, ENTRY: 2, ORDER: 4}
"""Lines of one kind and side; where accounts have more different prices than that, the nearest share a line."""
WORDS = {STOP: "Stop", TARGET: "Target", ENTRY: "Entry"}
MARKS = {STOP: "✕", TARGET: "◎", ENTRY: "–", ORDER: "⋯"}


@dataclass(frozen=True, slots=True)
class Level:
    """One line: what waits there, at which price (the middle of several), of which rows (keys), and how much."""

    kind: str
    side: str  # of the position, or of the order: buy or sell
    low: Decimal
    high: Decimal
    keys: tuple[str, ...]  # of positions, or of orders
    accounts: tuple[str, ...]
    quantity: Decimal
    word: str

    @property
    def name(self) -> str:
        """Return what stays the same while the price does."""
        return f"{self.kind}/{self.side}/{self.word}/{self.low}/{self.high}"

    @property
    def price(self) -> Decimal:
        """Return where the line is drawn."""
        return self.low if self.low == self.high else (self.low + self.high) / 2

    @property
    def text(self) -> str:
        """Return the label: what, at which price, of how many accounts, how much."""
        return f"{MARKS[self.kind]} {self.word} {self.prices} · {self.whose} · {fmt.quantity(str(self.quantity))}"

    @property
    def prices(self) -> str:
        """Return the price, or the lowest and the highest."""
        low, high = fmt.price(str(self.low)), fmt.price(str(self.high))
        return low if self.low == self.high else f"{low}…{high}"

    @property
    def whose(self) -> str:
        """Return the account, or how many."""
        count = len(self.accounts)
        return fmt.Privacy.veil(self.accounts[0]) if count == 1 else f"{count} accounts"


def decimal(value: object) -> Decimal | None:
    """Return an exact number, or nothing."""
    try:
        return None if value in {None, ""} else Decimal(str(value))
    except InvalidOperation:
        return None


def levels_of(
    positions: Iterable[Row], orders: Iterable[Row], symbol: str, account: str = ""
) -> list[Level]:
    """Return the lines of a symbol, of every account or of one."""
    found: dict[tuple[str, str, str], list[tuple[Decimal, str, str, Decimal]]] = {}

    def note(
        kind: tuple[str, str, str], price: Decimal | None, row: Row, quantity: Decimal
    ) -> None:
        if price is not None and price > 0:
            key = row["cl_ord_id"] if kind[0] == ORDER else row["key"]
            found.setdefault(kind, []).append((price, key, row["account"], quantity))

    for row in positions:
        quantity = decimal(row.get("qty"))
        if row["symbol"] != symbol or not quantity or account not in {"", row["account"]}:
            continue
        side, word = ("buy", "Long") if quantity > 0 else ("sell", "Short")
        note((ENTRY, side, word), decimal(row.get("avg_px")), row, quantity)
        for kind in MOVABLE:
            note((kind, side, WORDS[kind]), decimal(row.get(kind)), row, quantity)
    for row in orders:
        left = decimal(row.get("leaves_qty"))
        mine = row["symbol"] == symbol and account in {"", row["account"]}
        if not mine or row.get("status") not in WORKING or not left or row.get("parent"):
            continue  # what hangs on an entry is drawn as the position's stops
        word = f"{fmt.side(row['side'])} {row['order_type'].replace('_', ' ')}"
        price = row.get("stop_price" if row["order_type"] == "stop" else "limit_price")
        note((ORDER, row["side"], word), decimal(price), row, left)
    made: list[Level] = []
    for (kind, side, word), entries in found.items():
        made += _lines(kind, side, word, entries)
    return made


def _lines(
    kind: str, side: str, word: str, entries: list[tuple[Decimal, str, str, Decimal]]
) -> list[Level]:
    """Return one line a price, or at most ``MOST_LINES`` of them, parted at the widest gaps."""
    entries.sort()
    prices = sorted({entry[0] for entry in entries})
    gaps = sorted(range(1, len(prices)), key=lambda at: prices[at - 1] - prices[at])  # widest first
    edges = sorted(gaps[: MOST_LINES[kind] - 1])
    begins = [prices[at] for at in (0, *edges)] if prices else []
    made = []
    for number, begin in enumerate(begins):
        end = begins[number + 1] if number + 1 < len(begins) else None
        mine = [entry for entry in entries if entry[0] >= begin and (end is None or entry[0] < end)]
        made.append(
            Level(
                kind, side, mine[0][0], mine[-1][0], tuple(entry[1] for entry in mine),
                tuple(sorted({entry[2] for entry in mine})), sum((entry[3] for entry in mine), Decimal(0)), word,
            )
        )  # fmt: skip
    return made


@dataclass(frozen=True, slots=True)
class Move:
    """A stop or target that somebody dragged to another price."""

    level: Level
    price: Decimal

    def rows(self, find: Callable[[str], Row | None]) -> list[Row]:
        """Return the positions it moves: those of the line that are still open with that level where it was."""
        rows = []
        for key in self.level.keys:
            row = find(key)
            at = decimal(row.get(self.level.kind)) if row else None
            if (
                row
                and decimal(row.get("qty"))
                and at is not None
                and self.level.low <= at <= self.level.high
            ):
                rows.append(row)
        return rows

    def subjects(self, rows: list[Row]) -> list[dict[str, Any]]:
        """Return the fields of each ``set_stops``: the other levels stay as they are now."""
        return [
            {
                "account": row["account"],
                "symbol": row["symbol"],
                **{name: row.get(name) or None for name in (STOP, TARGET, "trail_percent")},
                self.level.kind: format(self.price, "f"),
            }
            for row in rows
        ]

    @property
    def title(self) -> str:
        """Return what is asked."""
        word = WORDS[self.level.kind].lower()
        return f"Move the {word} from {self.level.prices} to {fmt.price(str(self.price))}"

    def facts(self, rows: list[Row]) -> list[tuple[str, str]]:
        """Return what it means in money: what closing there would bring, before and after."""
        before = after = Decimal(0)
        for row in rows:
            quantity, average = decimal(row["qty"]), decimal(row.get("avg_px"))
            old = decimal(row[self.level.kind])
            if quantity is not None and average is not None and old is not None:
                before += quantity * (old - average)
                after += quantity * (self.price - average)
        total = sum((decimal(row["qty"]) or Decimal(0) for row in rows), Decimal(0))
        accounts = sorted(row["account"] for row in rows)
        shown = ", ".join(accounts[:6]) + (f" and {len(accounts) - 6} more" if len(accounts) > 6 else "")  # fmt: skip
        return [
            ("Symbol", rows[0]["symbol"]),
            ("Accounts", f"{len(rows)}: {shown}"),
            ("Quantity", fmt.quantity(str(total))),
            ("Mark", fmt.price(rows[0].get("mark"))),
            ("Price", f"{self.level.prices} → {fmt.price(str(self.price))}"),
            ("Closed there, before", fmt.pnl(f"{before:.2f}")),
            ("Closed there, after", fmt.pnl(f"{after:.2f}")),
            ("Difference", fmt.pnl(f"{after - before:.2f}")),
        ]


def places_of(texts: Iterable[object]) -> int:
    """Return how many decimals prices of this symbol have, as far as is known (at least two, at most eight)."""
    most = 2
    for text in texts:
        fraction = str(text or "").partition(".")[2].rstrip("0")
        most = max(most, min(len(fraction), 8))
    return most
