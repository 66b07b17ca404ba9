"""What may be chosen for a price chart: symbols, and the accounts that hold or work one."""

from __future__ import annotations

from PySide6.QtWidgets import QComboBox

from engine.client import Row
from engine.model import tables
from gui import formatting as fmt
from gui.bridge import Store
from gui.levels import WORKING

EVERYBODY = "All accounts"


def symbols_of(store: Store, shown: str) -> list[str]:
    """Return the symbols to choose from: held first, then worked, then the others that were heard of."""
    orders, engine = store.rows(tables.ORDERS).values(), store.engine
    held = {row["symbol"] for row in store.rows(tables.POSITIONS).values() if fmt.number(row.get("qty"))}  # fmt: skip
    worked = {row["symbol"] for row in orders if row.get("status") in WORKING}
    said = {row["symbol"] for row in store.rows(tables.SIGNALS).values() if row.get("symbol")}
    found: list[str] = []
    for symbols in (held, worked, said, set(engine.get("prices") or {}), {shown} - {""}):
        found += sorted(symbols.difference(found))
    return found


def held_rows(store: Store, symbol: str, account: str = "") -> list[Row]:
    """Return the open positions of a symbol, of every account or of one."""
    return [
        row
        for row in store.rows(tables.POSITIONS).values()
        if row["symbol"] == symbol
        and fmt.number(row.get("qty"))
        and account in {"", row["account"]}
    ]


def accounts_of(store: Store, symbol: str, shown: str) -> list[tuple[str, str]]:
    """Return the accounts to choose from, as title and name."""
    mine = {row["account"] for row in held_rows(store, symbol)} | ({shown} - {""})
    for row in store.rows(tables.ORDERS).values():
        if row["symbol"] == symbol and row.get("status") in WORKING:
            mine.add(row["account"])
    return [(EVERYBODY, ""), *((fmt.Privacy.veil(name), name) for name in sorted(mine))]


def offer(combo: QComboBox, items: list[tuple[str, str]], chosen: str) -> None:
    """Offer these choices, unless they are offered already; nobody is told of a choice by this."""
    known = [(combo.itemText(at), combo.itemData(at)) for at in range(combo.count())]
    combo.blockSignals(True)
    if known != items:
        combo.clear()
        for text, data in items:
            combo.addItem(text, data)
    combo.setCurrentIndex(combo.findData(chosen))
    combo.blockSignals(False)


def combo_box(name: str, width: int) -> QComboBox:
    """Return a chooser that is as wide as its choices."""
    combo = QComboBox()
    combo.setAccessibleName(name)
    combo.setToolTip(name)
    combo.setMinimumWidth(width)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
    return combo
