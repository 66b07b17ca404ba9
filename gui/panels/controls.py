"""Controls: how much of each limit is used, and the thirty controls with what each has refused."""

from __future__ import annotations

from engine.client import Row
from engine.model import tables
from engine.model.codes import CODES
from gui import columns as col
from gui import formatting as fmt
from gui.commands import CONFIRM, Command
from gui.desk import Desk
from gui.panel import PairPanel
from gui.table_model import Column

STATE_TONES = {"on": "pos", "off": "muted", "tripped": "crit", "failing": "warn"}
STATE_MARKS = {"on": "●", "off": "○", "tripped": "■", "failing": "▲"}
NEAR, OVER = 80, 100


def _explain(row: Row) -> str:
    found = CODES.get(str(row.get("last_code") or ""))
    return f"{row.get('last_code')}\n{found.explanation}" if found else ""


def _share(row: Row) -> float:
    return min(1.0, int(row.get("percent") or 0) / 100)


def _tone(row: Row) -> str:
    percent = int(row.get("percent") or 0)
    return "crit" if percent >= OVER else "warn" if percent >= NEAR else "accent"


def _percent(row: Row) -> str:
    percent = int(row.get("percent") or 0)
    mark = "■ " if percent >= OVER else "▲ " if percent >= NEAR else ""
    return f"{mark}{percent} %"


def _scope(row: Row) -> str:
    scope = str(row.get("scope") or "")
    return "The firm" if scope == "all" else scope.replace(":", " ", 1)


def _usage_columns() -> tuple[Column, ...]:
    return (
        col.text("scope", "Scope", 110, text=_scope),
        col.text("limit", "Limit", 170, text=lambda row: fmt.words(row.get("limit")),
                 tip=lambda row: str(row.get("text") or "")),
        Column("percent", "Used", 110, "bar", text=_percent,
               raw=lambda row: int(row.get("percent") or 0), bar=_share, tone=_tone,
               about="Of the limit; a mark and red at 100 %"),
        col.text("used", "In use", 96, kind="number"),
        col.text("most", "At most", 96, kind="number"),
        col.quiet("unit", "Unit", 70),
        col.text("text", "In words", 320, tip=lambda row: str(row.get("text") or "")),
    )  # fmt: skip


class ControlsPanel(PairPanel):
    """Limits in use above, the thirty controls below."""

    NAME = "controls"
    TITLE = "Controls"
    ABOUT = "Limits in use, and the thirty controls: their setting, their state, what they refused"
    TABLE = tables.CONTROLS
    SORT = ("number", False)
    EMPTY = ("No controls yet", "They show as soon as the engine is there.")
    COLUMNS = (
        col.quiet("number", "No.", 44),
        col.text("title", "Control", 150, tip=lambda row: str(row.get("meaning") or "")),
        col.chip("state", "State", 88, STATE_TONES, STATE_MARKS),
        col.text("setting", "Setting", 220, tip=lambda row: str(row.get("setting") or "")),
        col.count("refusals", "Refused", 62, "warn", flash=True),
        col.stamp("last_at", "Last"),
        col.text("last_code", "Reason", 130, text=lambda row: col.code_title(row.get("last_code")),
                 tip=_explain),
        col.text("last_account", "Account", 80),
        col.text("last_text", "Last refusal", 320, tip=lambda row: str(row.get("last_text") or "")),
    )  # fmt: skip

    SECOND = tables.USAGE
    SECOND_COLUMNS = _usage_columns()
    SECOND_NAME = "usage"
    SECOND_SORT = ("percent", True)
    SECOND_EMPTY = (
        "No limits set",
        "The firm's are in volley.toml, an account's in its document, or set from its row menu.",
    )
    SECOND_ABOVE = True
    SIZES = (160, 240)

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        desk.registry.add(
            Command("control.review", "Reviewed: let the strategy go on…", self._review, "repeated execution throttle",
                    "", "Risk", CONFIRM, enabled=lambda: self.can_command() and bool(self._strategy()),
                    about="Confirm a strategy's automated executions; its count begins anew")
        )  # fmt: skip

    def build(self) -> None:
        """Put both tables in, and the button."""
        super().build()
        self.tools = [self.desk.registry.button("control.review", "Reviewed…")]

    def tick(self) -> None:
        """Count what is tripped, and how many limits are nearly used up."""
        super().tick()
        tripped = sum(row.get("state") == "tripped" for row in self.model.rows.values())
        near = sum(int(row.get("percent") or 0) >= NEAR for row in self.second.rows.values())
        text = f"{tripped} tripped · {near} limits above {NEAR} %"
        if self.count.text() != text:
            self.count.setText(text)

    def _strategy(self) -> str:
        """Return the strategy whose throttle is selected among the limits in use."""
        for key in self.second_view.chosen_keys():
            row = self.second.rows.get(key)
            if row is not None and row.get("limit") == "max_unreviewed":
                return str(row["scope"]).partition(":")[2]
        return ""

    def _review(self) -> None:
        strategy = self._strategy()
        if strategy:
            self.desk.ask(
                "confirm",
                title=f"Strategy {strategy} was reviewed",
                facts=[("Strategy", strategy), ("What happens", "Its automated executions count from zero again.")],
                go="It was reviewed",
                run=lambda: self._send(strategy),
                danger=CONFIRM,
            )  # fmt: skip

    async def _send(self, strategy: str) -> None:
        await self.desk.command("review", strategy=strategy)
        self.desk.say("ok", f"Strategy {strategy} reviewed")
