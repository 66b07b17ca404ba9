"""An account's columns, alone and added up: its link, session, rate, limits in use, money, and why it is not ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui import todo
from gui.desk import Desk
from gui.grouping import ZERO, Parts, exact
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
STATE_TONES = {"active": "muted", "reducing": "warn", "disarmed": "muted", "halted": "crit"}
STATE_MARKS = {"reducing": "◐", "disarmed": "○", "halted": "■"}
NEAR_PERCENT = 80
"""From here on the use of a limit is marked."""


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


def _state(row: Row) -> str:
    state = str(row.get("state") or "active")
    return f"{STATE_MARKS.get(state, '')} {fmt.words(state)}".strip()


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


# --- limits in use ----------------------------------------------------------------------------


class InUse:
    """The fullest limit of each account, kept up as the table ``usage`` changes."""

    def __init__(self, desk: Desk) -> None:
        self._rows = desk.store.rows
        self._of: dict[str, set[str]] = {}  # keys of usage rows by account

    def take(self, keys: Iterable[str], removed: Iterable[str]) -> set[str]:
        """Take changed and removed rows of ``usage``; return the accounts they are about."""
        touched = set()
        for some, add in ((keys, True), (removed, False)):
            for key in some:
                kind, _, rest = key.partition(":")
                if kind != "account":
                    continue
                account = rest.rpartition("/")[0]
                touched.add(account)
                found = self._of.setdefault(account, set())
                (found.add if add else found.discard)(key)
        return touched

    def reset(self) -> None:
        """Take a snapshot."""
        self._of = {}
        self.take(self._rows(tables.USAGE), ())

    def rows(self, account: str) -> list[Row]:
        """Return an account's limits in use, the fullest first."""
        usage = self._rows(tables.USAGE)
        found = [usage[key] for key in self._of.get(account, ()) if key in usage]
        return sorted(found, key=lambda row: (-int(row.get("percent") or 0), str(row["limit"])))

    def percent(self, row: Row) -> int | None:
        """Return how full an account's fullest limit is, ``None`` without a limit."""
        found = self.rows(str(row["id"]))
        return int(found[0].get("percent") or 0) if found else None

    def text(self, row: Row) -> str:
        """Return that in words; from 80 % on with a mark."""
        percent = self.percent(row)
        if percent is None:
            return ""
        mark = "✕ " if percent >= 100 else "▲ " if percent >= NEAR_PERCENT else ""
        return f"{mark}{percent} %"

    def tone(self, row: Row) -> str:
        """Return the tone of that."""
        percent = self.percent(row) or 0
        return "crit" if percent >= 100 else "warn" if percent >= NEAR_PERCENT else "accent"

    def tip(self, row: Row) -> str:
        """Return every limit in use of an account, a line each."""
        found = self.rows(str(row["id"]))
        lines = [
            f"{limit_name(use['limit'])}: {use.get('text')} ({use.get('percent')} %)"
            for use in found
        ]
        return "\n".join(lines) or "No limit of it adds up over time."


def limit_name(name: object) -> str:
    """Return a limit's name in words: ``max_daily_loss`` is ``Daily loss``."""
    return fmt.words(str(name).removeprefix("max_"))


# --- rate headroom ------------------------------------------------------------------------------


def rate_share(row: Row) -> float | None:
    """Return what is left of the entries that may leave at once, 0 to 1."""
    most = row.get("rate_most")
    return int(row.get("rate_left") or 0) / int(most) if most else None


def _held_up(row: Row, quiet: float | None) -> bool:
    """Say whether its rate stops an account: orders wait for it, or its broker asked for quiet (``quiet`` s of it).

    Nothing left for a moment after a fan-out is how rate limits work, and no warning.
    """
    return bool(quiet) or (row.get("rate_left") == 0 and bool(row.get("queue")))


def _rate(row: Row, quiet: float | None) -> str:
    left, most = row.get("rate_left"), row.get("rate_most")
    if left is None:
        return ""
    mark = "▲ " if _held_up(row, quiet) else ""
    return f"{mark}{fmt.count(left)}/{fmt.count(most)}" if most else fmt.count(left)


# --- added up -----------------------------------------------------------------------------------


def parts(row: Row) -> Parts:
    """Return what an account adds to its group."""
    return {
        **{name: exact(row.get(name)) for name in ("equity", "day_pnl", "unrealised", "exposure")},
        **{
            name: Decimal(int(row.get(name) or 0))
            for name in ("positions", "open_orders", "unknown_orders", "rejects")
        },
        "on": Decimal(bool(row.get("active"))),
        "up": Decimal(row.get("connection") == "connected"),
        "needing": Decimal(needs(row)),
    }


def group_columns() -> tuple[Column, ...]:
    """Return the columns of accounts added up."""

    def of(key: str) -> Callable[[Row], str]:
        return lambda row: f"{int(row.get(key) or ZERO)}/{row.get('rows')}"

    def share(key: str) -> Callable[[Row], float | None]:
        return lambda row: float(row.get(key) or ZERO) / row["rows"] if row.get("rows") else None

    return (
        col.text("group", "Group", 120),
        col.count("rows", "Accounts", 86),
        Column("up", "Connected", 84, "bar", text=of("up"), raw=share("up"), bar=share("up"),
               tone=lambda row: "pos" if share("up")(row) == 1 else "warn", about="Connected, of all"),
        Column("on", "On", 70, "bar", text=of("on"), raw=share("on"), bar=share("on"),
               tone=lambda row: "accent" if share("on")(row) == 1 else "muted", about="Switched on, of all"),
        col.count("needing", "Needing", 70, "warn", about="Cannot trade, or have something to do"),
        col.money("equity", "Equity", 116),
        col.pnl("day_pnl", "Day P&L", 104, flash=True),
        col.pnl("unrealised", "Open P&L", 104),
        col.money("exposure", "Exposure", 116),
        col.count("positions", "Positions", 74),
        col.count("open_orders", "Open", 54, "accent"),
        col.count("unknown_orders", "Unknown", 70, "warn"),
        col.count("rejects", "Rejected", 68, "crit"),
    )  # fmt: skip


def columns(desk: Desk, in_use: InUse) -> tuple[Column, ...]:
    """Return the columns of accounts one by one."""
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
        col.text("state", "State", 96, text=_state, tone=lambda row: STATE_TONES.get(str(row.get("state")), "")),
        col.money("exposure", "Exposure", 90),
        Column("used", "Limits", 66, "bar", text=in_use.text, raw=in_use.percent, tone=in_use.tone,
               bar=lambda row: (in_use.percent(row) or 0) / 100, tip=in_use.tip,
               about="How full the fullest of its limits is; hover for all"),
        Column("rate_left", "Rate left", 84, "bar", text=lambda row: _rate(row, quiet(row)), raw=rate_share,
               tone=lambda row: "warn" if _held_up(row, quiet(row)) else "muted", bar=rate_share, tip=_tip,
               live=True,
               about="Entries its limits would let leave at once, of those they allow while nothing has left lately;"
               " ▲ orders wait for it, or its broker asked for quiet"),
        Column("session", "Session", 70, text=lambda row: _session(left(row)), raw=left, live=True,
               tone=lambda row: _session_tone(left(row)), tip=_tip,
               about="Life left of its login, where its broker ends sessions"),
        col.text("ready", "Readiness", 130, text=_ready, raw=readiness,
                 tone=lambda row: "muted" if readiness(row) == "Ready" else "warn",
                 tip=_tip),
        col.text("todo", "To do", 200, tone=lambda _row: "warn", tip=_tip,
                 about="What a person must do, empty if nothing"),
        col.count("positions", "Pos", 42),
        col.count("open_orders", "Open", 48, "accent"),
        col.count("unknown_orders", "Unk", 42, "warn"),
        col.count("rejects", "Rej", 42, "crit"),
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
        col.money("cash", "Cash", visible=False),
        col.money("buying_power", "Buying power", 104, visible=False),
        col.text("sizing", "Sizing", 130, text=sizing, raw=sizing,
                 tone=lambda _row: "muted"),
        col.text("tags", "Tags", 90, text=lambda row: " ".join(row.get("tags") or ()), tone=lambda _row: "muted"),
        col.quiet("approval", "Approval", 70),
        col.text("last_error", "Last error", 220, tone=lambda _row: "muted"),
    )  # fmt: skip
