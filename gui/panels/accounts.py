"""Accounts: connection, money, the switch, and why one is not ready."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from PySide6.QtWidgets import QPushButton

from engine.client import Row
from engine.model import tables
from gui import account_columns, todo
from gui import formatting as fmt
from gui.commands import CONFIRM, HOLD, Command, Work
from gui.desk import Desk
from gui.grouping import GroupedPanel, Parts
from gui.table_model import Column
from gui.undo import pause

COUNT_AGAIN_S = 5.0  # what there is to do changes with time as well: sessions end


class AccountsPanel(GroupedPanel):
    """Every account with its switch, or groups of them added up."""

    NAME = "accounts"
    TITLE = "Accounts"
    ABOUT = (
        "The fleet: connection, session, rate, limits in use, money and the switch of every account"
    )
    GROUPINGS = (("broker", "By broker"), ("tags", "By tag"), ("environment", "By environment"),
                 ("approval", "By approval"), ("connection", "By link"))  # fmt: skip
    OTHERS = ()
    GROUP_SORT = ("rows", True)
    TABLE = tables.ACCOUNTS
    SORT = ("id", False)
    EMPTY = (
        "No accounts",
        "Import some with “volley accounts import FILE.json”, or start with --demo for practice ones.",
    )

    def __init__(self, desk: Desk) -> None:
        self.in_use = account_columns.InUse(desk)
        self.in_use.reset()
        super().__init__(desk)
        self.todo = QPushButton()
        self._told = -1
        self._counted_at = 0.0
        self.view.toggled.connect(self._on_toggled)
        desk.store.watch(tables.USAGE, self._on_usage, self._on_all_usage)
        desk.registry.add_all(self._commands())

    def columns(self) -> tuple[Column, ...]:
        """Return the columns; what is left of sessions is told by the engine's clock."""
        return account_columns.columns(self.desk, self.in_use)

    def group_columns(self) -> tuple[Column, ...]:
        """Return the columns of groups."""
        return account_columns.group_columns()

    def parts(self, row: Row) -> Parts:
        """Return what an account adds to its group."""
        return account_columns.parts(row)

    def _on_usage(self, changed: Iterable[str], removed: Iterable[str]) -> None:
        touched = self.in_use.take(changed, removed)
        self.model.apply([account for account in touched if account in self.model.rows], ())

    def _on_all_usage(self) -> None:
        self.in_use.reset()
        self.model.load()

    def build(self) -> None:
        """Put table and buttons in."""
        super().build()
        button = self.desk.registry.button
        self.todo = button("todo.show", "To do")
        self.tools = [
            self.picker,
            self.todo,
            button("account.needs", "Needs something"),
        ]

    def tick(self) -> None:
        """Move ages on and say how much there is to do."""
        super().tick()
        now = monotonic()
        if self.store.news == self._told and now - self._counted_at < COUNT_AGAIN_S:
            return
        self._told, self._counted_at = self.store.news, now
        count = todo.urgent(todo.items(self.store.rows, self.store.age_of))
        text = f"{todo.MARKS['warn']} To do {count}" if count else "To do"
        if self.todo.text() != text:
            self.todo.setText(text)
            self.todo.setAccessibleName(f"To do before the open: {count}")

    def _commands(self) -> list[Command]:
        some, group = self.offers(lambda _row: True), "Accounts"
        return [
            Command("account.toggle", "Switch account on or off", self._toggle, "activate enable disable", "Space",
                    group, enabled=some, scope=self.view, about="Switch the selected accounts on or off"),
            Command("account.pause", "Pause account", lambda: self._scope("pause"), "no new entries", "P", group,
                    enabled=some, scope=self.view, about="Take no new entries for the selected accounts; exits pass"),
            Command("account.resume", "Resume account", lambda: self._scope("resume"), "entries again", "Shift+P",
                    group, enabled=some, scope=self.view, about="End the pause of the selected accounts"),
            Command("account.log_in", "Log in…", self._log_in, "login token session kite browser", "L", group,
                    enabled=self.offers(lambda row: bool(row.get("logs_in"))), scope=self.view,
                    about="Make the day's login at the account's broker, in the browser"),
            Command("account.limits", "Limits…", self._limits, "max order value quantity loss", "", group,
                    enabled=some, scope=self.view, about="See and change the limits of the selected account"),
            Command("account.change", "Change accounts…", self._change, "group edit approval sizing limits many", "",
                    group, enabled=some, scope=self.view,
                    about="Set approval, sizing or limits of all selected accounts at once"),
            Command("account.kill", "Halt account…", self._kill, "kill stop", "", group, CONFIRM, enabled=some,
                    about="Halt the selected account and cancel its working orders"),
            Command("account.flatten", "Flatten this account…", self._flatten, "close everything", "", group, HOLD,
                    enabled=some, about="Cancel and close everything of the selected account"),
            Command("account.needs", "Only accounts that need something", self._only_needs, "readiness filter to do",
                    "", group, checked=lambda: self.model.keep is not None,
                    about="Show only accounts that cannot trade or for which there is something to do"),
            Command("account.reload", "Reload accounts", self._reload, "refresh", "F5", group,
                    enabled=self.can_command, about="Read the accounts again now"),
        ]  # fmt: skip

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["account.toggle", "account.log_in", "", "account.pause", "account.resume", "account.limits",
                "account.change", "",
                "account.kill", "account.flatten", "", "account.reload"]  # fmt: skip

    def _only_needs(self) -> None:
        self.model.keep = None if self.model.keep else account_columns.needs
        self.model.load()
        self._regroup()
        self.tick()
        self.desk.registry.refresh()

    def _log_in(self) -> None:
        row = next((row for row in self.chosen() if row.get("logs_in")), None)
        if row:
            self.desk.ask("log_in", account=dict(row))

    def _limits(self) -> None:
        row = self.chosen_one()
        if row:
            self.desk.ask("limits", account=dict(row))

    def _change(self) -> None:
        rows = self.chosen()
        if rows:
            self.desk.ask("accounts", accounts=[dict(row) for row in rows])

    def _on_toggled(self, key: str, _column: str) -> None:
        row = self.model.rows.get(key)
        if row is not None and self.can_command():
            self.desk.spawn(self._set_active([row]), f"Switch {key}")

    def _toggle(self) -> Work:
        return self._set_active(self.chosen())

    async def _set_active(self, rows: list[Row]) -> None:
        """Ask the engine; the switches move when the engine says so, not before. All go the way of the first."""
        active = not rows[0]["active"]
        if len(rows) == 1:
            await self.desk.command("set_account_active", account=rows[0]["id"], active=active)
        else:
            accounts = [row["id"] for row in rows]
            await self.desk.command("set_accounts_active", accounts=accounts, active=active)
        word = "on" if active else "off"
        self.desk.say("ok", f"{len(rows)} account{'s' if len(rows) > 1 else ''} switched {word}")

    def _scope(self, command: str) -> Work:
        subjects = [{"scope": f"account:{row['id']}"} for row in self.chosen()]
        word = "Paused" if command == "pause" else "Resumed"
        if command == "pause":
            title = f"Paused {len(subjects)} account{'s' if len(subjects) > 1 else ''}"
            return pause(self.desk, title, [one["scope"] for one in subjects])
        return self.desk.each(
            f"{word} {len(subjects)} account{'s' if len(subjects) > 1 else ''}", command, subjects
        )

    def _kill(self) -> None:
        row = self.chosen_one()
        if row:
            self._confirm(row, "Halt", "kill", CONFIRM)

    def _flatten(self) -> None:
        row = self.chosen_one()
        if row:
            self._confirm(row, "Flatten", "flatten", HOLD)

    def _confirm(self, row: Row, word: str, command: str, danger: int) -> None:
        facts = [
            ("Account", f"{row['id']}  {row.get('name') or ''}"),
            ("Positions", fmt.count(row.get("positions"))),
            ("Working orders", fmt.count(row.get("open_orders"))),
            ("Open profit or loss", fmt.pnl(row.get("unrealised"))),
        ]
        self.desk.ask(
            "confirm",
            title=f"{word} account {row['id']}",
            facts=facts,
            go=f"Hold to {word.lower()}" if danger == HOLD else f"{word} {row['id']}",
            run=lambda: self._send(command, f"account:{row['id']}", word),
            danger=danger,
        )

    async def _send(self, command: str, scope: str, word: str) -> None:
        await self.desk.command(command, scope=scope, reason="by hand at the desk")
        self.desk.say("ok", f"{word}: {scope}")
        self.desk.show_panel("risk")

    async def _reload(self) -> None:
        await self.desk.command("reload_accounts")
        self.desk.say("ok", "Accounts read again")
