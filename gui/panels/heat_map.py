"""Expected against actual, account by account and symbol by symbol; a cell that differs is settled where it stands."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from PySide6.QtWidgets import QLineEdit, QMenu

from engine.client import Row
from engine.model import tables
from engine.model.enums import ConnectionState
from gui import differences
from gui import formatting as fmt
from gui.commands import CONFIRM, HOLD, Command
from gui.desk import Desk
from gui.filter_edit import FilterEdit
from gui.heat_map import Cell, HeatMap
from gui.panel import Caption, Panel

FLAT = Cell("·", "muted")
NOT_COMPARED = "not compared"
REBUILD_TICKS = 20  # the axes are made anew every five seconds: a symbol nobody holds any more goes


class HeatMapPanel(Panel):
    """The heat map of positions: what our fills make, and what the brokers say where that is another."""

    NAME = "heat_map"
    TITLE = "Heat map"
    ABOUT = "Expected against actual positions, accounts × symbols"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.only_differing = False
        self._symbols: set[str] = set()
        self._ticks = 0
        self._cells: dict[str, tuple[Row | None, Row | None, Row | None, Cell]] = {}
        self.view = HeatMap(self.cell, self.words)
        self.view.setObjectName("heat_map.grid")
        self.view.setAccessibleName("Heat map: expected against actual positions")
        self.view.empty_title = "No positions"
        self.view.empty_text = (
            "A cell appears with the first fill, and says so when the broker's book differs."
        )
        self.view.fill_menu = self._fill_menu
        self.view.chosen.connect(self._act)
        self.view.moved.connect(self._on_moved)
        self.filter: QLineEdit = FilterEdit(self.TITLE)
        self.filter.setPlaceholderText("Accounts, symbols")
        self.filter.textChanged.connect(lambda _text: self.rebuild())
        self.said = Caption("", 12, 500, "text")
        self.said.setAccessibleName("The current cell in words")
        self.said.setContentsMargins(10, 5, 10, 5)
        self.said.shrink()
        self.count = Caption()
        for table, key_of in (
            (tables.POSITIONS, lambda key: key.partition("/")[::2]),
            (tables.DIFFERENCES, lambda key: (key.split("/", 2)[0], key.split("/", 2)[2])),
        ):
            desk.store.watch(table, partial(self._on_rows, key_of), self.rebuild)
        desk.store.watch(tables.ACCOUNTS, self._on_accounts, self.rebuild)
        desk.registry.add_all(self._commands())

    def build(self) -> None:
        """Put the grid in, and below it the current cell in words."""
        self.body.addWidget(self.view, 1)
        self.body.addWidget(self.said)
        button = self.desk.registry.button
        self.tools = [
            self.count,
            button("heat.only", "Only differences", "flat"),
            button("heat.next", "Next"),
            button("heat.adopt", "Adopt…"),
            button("heat.repair", "Repair…"),
            self.filter,
        ]
        self.rebuild()

    def _commands(self) -> list[Command]:
        group = "Expected and actual"
        return [
            Command("heat.only", "Heat map: only what differs", self._toggle, "filter mismatch", "", group,
                    checked=lambda: self.only_differing, about="Show accounts and symbols with a difference only"),
            Command("heat.next", "Heat map: next difference", self.next_difference, "mismatch jump", "N", group,
                    enabled=lambda: bool(self._differing()), scope=self.view, about="Go to the next cell that differs"),
            Command("heat.adopt", "Heat map: adopt the broker's position…", partial(self._settle, differences.ADOPT),
                    "reconcile accept", "A", group, CONFIRM, enabled=self._can(differences.ADOPT), scope=self.view,
                    about=differences.WORDS["adopt"]),
            Command("heat.repair", "Heat map: repair at the broker…", partial(self._settle, differences.REPAIR),
                    "reconcile fix", "R", group, HOLD, enabled=self._can(differences.REPAIR), scope=self.view,
                    about=differences.WORDS["repair"]),
        ]  # fmt: skip

    def _can(self, command: str) -> Any:
        return lambda: self.can_command() and differences.may(self._current(), command)

    # --- cells --------------------------------------------------------------------------------

    def _difference(self, account: str, symbol: str) -> Row | None:
        return self.store.rows(tables.DIFFERENCES).get(f"{account}/position/{symbol}")

    def _compared(self, account: str) -> bool:
        return _is_compared(self.store.rows(tables.ACCOUNTS).get(account))

    def cell(self, account: str, symbol: str) -> Cell:
        """Return what stands in a cell: ``+120`` where the books agree, ``+120 ≠ +80`` where they do not.

        Made once for the rows it is made of: a row that changes is another object.
        """
        store, key = self.store, f"{account}/{symbol}"
        row = store.rows(tables.POSITIONS).get(key)
        line = store.rows(tables.DIFFERENCES).get(f"{account}/position/{symbol}")
        owner = store.rows(tables.ACCOUNTS).get(account)
        if row is None and line is None:
            return FLAT
        known = self._cells.get(key)
        if known is None or known[0] is not row or known[1] is not line or known[2] is not owner:
            known = self._cells[key] = row, line, owner, _cell(row, line, owner)
        return known[3]

    def words(self, account: str, symbol: str) -> str:
        """Return what a cell means, in lines."""
        row = self.store.rows(tables.POSITIONS).get(f"{account}/{symbol}", {})
        line = self._difference(account, symbol)
        lines = [f"{account}  {symbol}", f"Expected {fmt.quantity(row.get('qty') or '0')}"]
        if line is not None:
            lines[1] = f"Expected {fmt.quantity(line.get('expected') or '0')}"
            lines.append(f"At the broker {fmt.quantity(line.get('actual') or '0')}")
            lines.append(f"Differs by {line.get('difference')}, seen {line.get('seen')} times")
            lines.append(str(line.get("text") or ""))
        elif not self._compared(account):
            lines.append("Not compared with its broker since the start")
        else:
            lines.append("The broker's book agrees")
        if fmt.number(row.get("qty")):
            lines.append(
                f"Average {fmt.average_price(row.get('avg_px'))}, mark {fmt.price(row.get('mark'))}"
            )
            lines.append(f"Open profit or loss {fmt.pnl(row.get('unrealised'))}")
        return "\n".join(part for part in lines if part)

    # --- axes ---------------------------------------------------------------------------------

    def _differing(self) -> list[tuple[str, str]]:
        rows = self.store.rows(tables.DIFFERENCES).values()
        return [(row["account"], row["symbol"]) for row in rows if row.get("kind") == "position"]

    def rebuild(self) -> None:
        """Make rows and columns anew."""
        self._cells.clear()
        differing = self._differing()
        if self.only_differing:
            accounts, self._symbols = {one[0] for one in differing}, {one[1] for one in differing}
        else:
            held = self.store.rows(tables.POSITIONS).values()
            accounts = set(self.store.rows(tables.ACCOUNTS))
            self._symbols = {row["symbol"] for row in held if fmt.number(row.get("qty"))}
            self._symbols.update(symbol for _account, symbol in differing)
        self._put_axes(sorted(accounts))

    def _put_axes(self, accounts: list[str]) -> None:
        words = self.filter.text().lower().split()
        symbols = sorted(self._symbols)
        for word in words:  # a word narrows whichever axis it is found on
            fewer_accounts = [name for name in accounts if word in name.lower()]
            fewer_symbols = [name for name in symbols if word in name.lower()]
            accounts = fewer_accounts or ([] if not fewer_symbols else accounts)
            symbols = fewer_symbols or ([] if not fewer_accounts else symbols)
        self.view.set_axes(accounts if symbols else [], symbols)
        self._say_count()
        self._on_moved()

    def _on_rows(self, key_of: Any, changed: Iterable[str], removed: Iterable[str]) -> None:
        gone = list(removed)
        cells = [key_of(key) for key in (*changed, *gone)]
        rows = self.store.rows(tables.POSITIONS)
        fresh = any(
            symbol not in self._symbols
            and fmt.number(rows.get(f"{account}/{symbol}", {}).get("qty"))
            for account, symbol in cells
        )
        if not self.isVisible():
            return  # showing it makes it anew
        if fresh or gone or self.only_differing:
            self.rebuild()
        self.view.touch(cells)

    def _on_accounts(self, changed: Iterable[str], removed: Iterable[str]) -> None:
        if self.isVisible() and (
            list(removed) or (not self.only_differing and not self.filter.text()
                              and any(key not in self.view.rows for key in _few(changed)))
        ):  # fmt: skip
            self.rebuild()

    def showEvent(self, event: Any) -> None:
        """Take what changed while it was hidden."""
        super().showEvent(event)
        self.rebuild()

    def tick(self) -> None:
        """Make the axes anew now and then, and keep the words of the current cell fresh."""
        self._ticks += 1
        if self._ticks % REBUILD_TICKS == 0:
            self.rebuild()
        self._on_moved()
        self._say_count()

    def on_link(self) -> None:
        """Grey the cells while they are not live."""
        stale = self.store.link is not ConnectionState.CONNECTED
        if stale != self.view.stale:
            self.view.stale = stale
            self.view.viewport().update()

    # --- words and acts -----------------------------------------------------------------------

    def _say_count(self) -> None:
        count = len(self._differing())
        text = f"▲ {count} differ{'s' if count == 1 else ''}" if count else "books agree"
        if self.count.text() != text:
            self.count.setText(text)
            self.count.set_tone("crit" if count else "muted")

    def _on_moved(self) -> None:
        names = self.view.current_names()
        text = "   ·   ".join(self.words(*names).split("\n")) if names else ""
        text = fmt.Privacy.veil(text)
        if self.said.text() != text:
            self.said.setText(text)
            self.desk.registry.refresh()

    def _current(self) -> Row | None:
        names = self.view.current_names()
        return self._difference(*names) if names else None

    def _settle(self, command: str) -> None:
        row = self._current()
        if row is not None and differences.may(row, command):
            differences.ask(self.desk, command, row)

    def _act(self) -> None:
        """Settle the current cell in the gentler way it offers."""
        for command in (differences.ADOPT, differences.REPAIR):
            if self.can_command() and differences.may(self._current(), command):
                self._settle(command)
                return

    def next_difference(self) -> None:
        """Go to the next cell that differs, from left to right and down, around."""
        rows = {name: at for at, name in enumerate(self.view.rows)}
        columns = {name: at for at, name in enumerate(self.view.columns)}
        found = sorted(
            (rows[account], columns[symbol])
            for account, symbol in self._differing()
            if account in rows and symbol in columns
        )
        later = [at for at in found if at > self.view.current]
        if found:
            self.view.go_to(*(later or found)[0])

    def _toggle(self) -> None:
        self.only_differing = not self.only_differing
        self.view.empty_title = "No differences" if self.only_differing else "No positions"
        self.rebuild()
        self.desk.layout_touched.emit()

    def _fill_menu(self, menu: QMenu) -> None:
        self.desk.registry.fill(menu, ["heat.adopt", "heat.repair", "", "heat.next", "heat.only"])

    def state(self) -> dict[str, Any]:
        """Keep what is shown."""
        return {"only": self.only_differing, "filter": self.filter.text()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what was shown."""
        if bool(state.get("only")) != self.only_differing:
            self._toggle()
        self.filter.setText(str(state.get("filter", "")))


def _is_compared(owner: Row | None) -> bool:
    return not str((owner or {}).get("reconciliation") or "").startswith(NOT_COMPARED)


def _cell(row: Row | None, line: Row | None, owner: Row | None) -> Cell:
    if line is not None:
        ours, theirs = fmt.number(line.get("expected")), fmt.number(line.get("actual"))
        text = f"{_signed(line.get('expected'))} ≠ {_signed(line.get('actual'))}"
        most = max(abs(ours or 0.0), abs(theirs or 0.0))
        share = abs((theirs or 0.0) - (ours or 0.0)) / most if most else 1.0
        return Cell(text, "crit", "crit", round(0.25 + 0.75 * min(share, 1.0), 2))
    quantity = fmt.number(row.get("qty")) if row else None
    if row is None or not quantity:
        return FLAT
    tone = fmt.tone_of(quantity)
    return Cell(_signed(row["qty"]) + ("" if _is_compared(owner) else " ?"), tone, tone, 0.05)


def _few(keys: Iterable[str]) -> list[str]:
    return list(keys)[:2000]


def _signed(value: object) -> str:
    """Write a held quantity with its sign; none is ``0``."""
    text = str(value or "0")
    try:
        short = fmt.short_quantity(text)
    except ValueError:
        return text
    return f"+{short}" if (fmt.number(text) or 0) > 0 else short
