"""Accounts: connection, money, the switch, and why one is not ready."""

from __future__ import annotations

from PySide6.QtWidgets import QPushButton

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui import todo
from gui.commands import CONFIRM, HOLD, Command, Work
from gui.desk import Desk
from gui.panel import TablePanel
from gui.table_model import Column

LINK_TONES = {
    "connected": "pos", "connecting": "accent", "degraded": "warn", "disconnected": "crit", "error": "crit",
}  # fmt: skip
LINK_MARKS = {
    "connected": "●",
    "connecting": "○",
    "degraded": "◐",
    "disconnected": "○",
    "error": "✕",
}
STATE_TONES = {"active": "", "reducing": "warn", "disarmed": "muted", "halted": "crit"}


def readiness(row: Row) -> str:
    """Return in a word or two whether an account can trade now, and if not, why not."""
    if not row.get("active"):
        return "Switched off"
    link = row.get("connection")
    if link != "connected":
        return str(row.get("connection_text") or fmt.words(link))
    state = str(row.get("state") or "active")
    if state != "active":
        return fmt.words(state)
    if row.get("unknown_orders"):
        return f"{row['unknown_orders']} unknown to resolve"
    return "Ready"


def needs(row: Row) -> bool:
    """Say whether a person has something to do for an account, or it cannot trade."""
    return bool(row.get("todo")) or (bool(row.get("active")) and readiness(row) != "Ready")


def _ready(row: Row) -> str:
    """Return the readiness with a mark where it is wanting: colour is never alone."""
    text = readiness(row)
    return text if text == "Ready" else f"▲ {text}"


def _session(left: float | None) -> str:
    if left is None:
        return ""
    if left <= 0:
        return "✕ ended"
    return f"▲ {fmt.age(left)}" if left <= todo.SOON_S else fmt.age(left)


def _session_tone(left: float | None) -> str:
    if left is not None and left <= todo.SOON_S:
        return "crit" if left <= 0 else "warn"
    return "muted"


def _tip(row: Row) -> str:
    """Return everything that bears on whether an account can trade, a line each."""
    facts = [
        ("To do", row.get("todo")),
        ("Link", row.get("connection_text") or fmt.words(row.get("connection"))),
        (
            "Session ends",
            row.get("session_expires_at") and fmt.Times.full(row["session_expires_at"]),
        ),
        ("Broker last answered", row.get("last_probe_at") and fmt.Times.full(row["last_probe_at"])),
        ("Connections", row.get("warm_connections")),
        ("Entries it may send at once", row.get("rate_left")),
        ("Orders waiting", row.get("queue")),
        ("Quiet until", row.get("paused_until") and fmt.Times.full(row["paused_until"])),
        ("Last error", row.get("last_error")),
    ]
    return "\n".join(f"{name}: {value}" for name, value in facts if value not in (None, ""))


def _connections(row: Row) -> str:
    """Return the tone of an account's connections: fewer than wanted is a warning."""
    warm, _, wanted = str(row.get("warm_connections") or "").partition("/")
    return "muted" if warm == wanted else "warn"


def sizing(row: Row) -> str:
    """Return an account's sizing in words."""
    rule = row.get("sizing")
    if not isinstance(rule, dict):
        return ""
    method = str(rule.get("method", ""))
    value = next(
        (rule[name] for name in ("quantity", "percent", "value", "factor") if rule.get(name)), ""
    )
    unit = {
        "percent_equity": "% of equity",
        "risk_percent": "% at risk",
        "fixed": " units",
        "multiplier": "×",
    }
    return (
        f"{value}{unit.get(method, '')}"
        if value and method in unit
        else f"{fmt.words(method)} {value}".strip()
    )


class AccountsPanel(TablePanel):
    """Every account with its switch."""

    NAME = "accounts"
    TITLE = "Accounts"
    ABOUT = "Connection, equity, day P&L and the switch of every account"
    TABLE = tables.ACCOUNTS
    SORT = ("id", False)
    EMPTY = (
        "No accounts",
        "Import some with “volley accounts import FILE.json”, or start with --demo for practice ones.",
    )

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.todo = QPushButton()
        self.view.toggled.connect(self._on_toggled)
        desk.registry.add_all(self._commands())

    def columns(self) -> tuple[Column, ...]:
        """Return the columns; what is left of sessions is told by the engine's clock."""
        return _columns(self.desk)

    def build(self) -> None:
        """Put table and buttons in."""
        super().build()
        button = self.desk.registry.button
        self.todo = button("todo.show", "To do")
        self.tools = [
            self.todo,
            button("account.needs", "Needs something"),
        ]

    def tick(self) -> None:
        """Move ages on and say how much there is to do."""
        super().tick()
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
        return ["account.toggle", "account.log_in", "", "account.pause", "account.resume", "account.limits", "",
                "account.kill", "account.flatten", "", "account.reload"]  # fmt: skip

    def _only_needs(self) -> None:
        self.model.keep = None if self.model.keep else needs
        self.model.load()
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

    def _on_toggled(self, key: str, _column: str) -> None:
        row = self.model.rows.get(key)
        if row is not None and self.can_command():
            self.desk.spawn(self._set_active([row]), f"Switch {key}")

    def _toggle(self) -> Work:
        return self._set_active(self.chosen())

    async def _set_active(self, rows: list[Row]) -> None:
        """Ask the engine; the switch moves when the engine says so, not before."""
        for row in rows:
            await self.desk.command(
                "set_account_active", account=row["id"], active=not row["active"]
            )
        word = "on" if not rows[0]["active"] else "off"
        self.desk.say("ok", f"{len(rows)} account{'s' if len(rows) > 1 else ''} switched {word}")

    def _scope(self, command: str) -> Work:
        subjects = [{"scope": f"account:{row['id']}"} for row in self.chosen()]
        word = "Paused" if command == "pause" else "Resumed"
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


def _columns(desk: Desk) -> tuple[Column, ...]:
    store = desk.store

    def left(row: Row) -> float | None:
        return todo.session_left(row, store.age_of)

    def quiet(row: Row) -> float | None:
        age = store.age_of(row.get("paused_until"))
        return None if age is None or age >= 0 else -age

    return (
        col.text("active", "On", 42, kind="toggle", text=lambda row: "On" if row.get("active") else "Off",
                 tone=lambda row: "accent" if row.get("active") else "muted",
                 about="Switch an account on or off; its working orders are still managed"),
        col.text("id", "Account", 72),
        col.chip("connection", "Link", 100, LINK_TONES, LINK_MARKS),
        col.money("equity", "Equity", 90),
        col.pnl("day_pnl", "Day P&L", 78, flash=True),
        col.text("ready", "Readiness", 130, text=_ready, raw=readiness,
                 tone=lambda row: "muted" if readiness(row) == "Ready" else "warn",
                 tip=_tip),
        Column("session", "Session", 84, text=lambda row: _session(left(row)), raw=left, live=True,
               tone=lambda row: _session_tone(left(row)), tip=_tip,
               about="Life left of its login, where its broker ends sessions"),
        col.text("todo", "To do", 200, tone=lambda _row: "warn", tip=_tip,
                 about="What a person must do, empty if nothing"),
        col.count("positions", "Pos", 42),
        col.count("open_orders", "Open", 48, "accent"),
        col.count("unknown_orders", "Unk", 42, "warn"),
        col.count("rejects", "Rej", 42, "crit"),
        col.count("rate_left", "Rate left", 62, about="Entries its limits would let leave at once"),
        col.count("queue", "Queue", 48, "warn", about="Orders waiting for their turn"),
        col.text("warm_connections", "Conns", 48, tone=_connections, about="Order connections open, of those wanted"),
        Column("paused_until", "Quiet for", 70, text=lambda row: fmt.countdown(quiet(row)) if quiet(row) else "",
               raw=quiet, live=True, tone=lambda _row: "warn",
               about="Time left of the quiet its broker asked for; nothing is sent to it until then"),
        col.stamp("session_expires_at", "Session ends", about="When its token ends and has to be renewed",
                  visible=False),
        Column("last_probe_at", "Answered", 74, text=lambda row: fmt.age(store.age_of(row.get("last_probe_at"))),
               raw=lambda row: fmt.epoch(row.get("last_probe_at")), live=True, tone=lambda _row: "muted",
               tip=lambda row: fmt.Times.full(row.get("last_probe_at")), about="How long ago its broker last answered"),
        col.micros("ack_p50_us", "Ack p50"),
        col.text("name", "Name", 110),
        col.quiet("broker", "Broker", 70),
        col.quiet("environment", "Env", 60),
        col.pnl("unrealised", "Open P&L", visible=False),
        col.pnl("realised", "Realised", visible=False),
        col.money("exposure", "Exposure", visible=False),
        col.money("cash", "Cash", visible=False),
        col.money("buying_power", "Buying power", 104, visible=False),
        col.text("sizing", "Sizing", 130, text=sizing, raw=sizing,
                 tone=lambda _row: "muted"),
        col.text("tags", "Tags", 90, text=lambda row: " ".join(row.get("tags") or ()), tone=lambda _row: "muted"),
        col.quiet("approval", "Approval", 70),
        col.text("last_error", "Last error", 220, tone=lambda _row: "muted"),
    )  # fmt: skip
