"""Eligibility: what would come of a signal now, each account against each rule; nothing is sent by asking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QVBoxLayout, QWidget

from engine.client import Row
from gui import columns as col
from gui import formatting as fmt
from gui.commands import Command
from gui.desk import Desk
from gui.filter_edit import FilterEdit
from gui.panel import Caption, Panel
from gui.preview import MARKS, TONES, Asker
from gui.table_model import Column, TableModel
from gui.table_view import TableView
from gui.theme import active

RULES: dict[str, tuple[str, str]] = {
    "strategy": ("Strategy", "It follows the strategy"),
    "symbol": ("Symbol", "The symbol is on its list"),
    "audience": ("Audience", "The signal is for it"),
    "signal": ("Signal", "The signal itself is in order: its age, its prices, not restricted, not a repeat"),
    "standing": ("On", "It is switched on and connected"),
    "state": ("State", "Nothing that bears on it is halted, paused or disarmed"),
    "limits_set": ("Limits", "A live account has the limits it must have"),
    "day_loss": ("Day loss", "Its day's loss is within its limit"),
    "hours": ("Hours", "Its trading hours"),
    "positions": ("Positions", "Number of open positions"),
    "reward_risk": ("Reward", "Reward for the risk"),
    "throttle": ("Throttle", "The strategy was reviewed often enough"),
    "size": ("Size", "Its sizing comes to something that can be traded"),
    "order_type": ("Type", "Its broker knows this type of order"),
    "unknown": ("Unknown", "No order of unknown outcome on the same side"),
    "order": ("Order", "Tick, lot and what the broker takes"),
    "quantity": ("Quantity", "Largest quantity of an order"),
    "value": ("Value", "Largest value of an order"),
    "day_orders": ("Orders", "Orders of the day: its own, the strategy's, the firm's"),
    "position": ("Position", "Largest position in the symbol"),
    "exposure": ("Exposure", "Open orders and gross exposure, its own and the firm's"),
    "fan_out": ("Fan-out", "What one signal may reach"),
    "leaving": ("Leaving", "What is asked at the last moment, and whether its turn comes in time"),
}  # fmt: skip
"""Title and meaning of the engine's rules, in the order in which they decide."""
PASS, BLOCK, UNASKED = "✓", "✕", "?"
ACTIONS = (("buy", "▲ Buy"), ("sell", "▼ Sell"), ("close", "Close"))
KINDS = (("market", "Market"), ("limit", "Limit"), ("stop", "Stop"))
EVERYBODY, PASSED_OVER = "", "passed over"
_COPIED = ("source", "time_in_force", "trail_percent", "reference_price", "audience")
"""What of a signal that came has no field here and is asked again all the same; its id and its stamp are not."""


def blocked(row: Row, rule: str) -> Row | None:
    """Return what a rule says against an account, ``None`` where it passes."""
    return next((block for block in row.get("blocks") or () if block["rule"] == rule), None)


def _cell(rule: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        block = blocked(row, rule)
        if block is not None:
            return f"{BLOCK} {col.code_title(block['code'])}"
        return UNASKED if rule in (row.get("unasked") or ()) else PASS

    return text


def _cell_tone(rule: str) -> Callable[[Row], str]:
    def tone(row: Row) -> str:
        if blocked(row, rule) is None:
            return "muted"
        return "crit" if row.get("rule") == rule else "warn"

    return tone


def _cell_tip(rule: str) -> Callable[[Row], str]:
    title, about = RULES[rule]

    def tip(row: Row) -> str:
        block = blocked(row, rule)
        if block is None:
            unasked = rule in (row.get("unasked") or ())
            why = "Cannot be asked: it has no quantity." if unasked else "Passes."
            return f"{title}: {about}\n{why}"
        decides = "This decides." if row.get("rule") == rule else "It would stop it, too."
        return f"{title}: {about}\n{col.explain(block)}\n{decides}"

    return tip


def _columns() -> tuple[Column, ...]:
    def outcome(row: Row) -> str:
        value = str(row["outcome"])
        return f"{MARKS.get(value, '')} {fmt.words(value)}".strip()

    def why(row: Row) -> str:
        more = len(row.get("blocks") or ()) - 1
        title = col.code_title(row.get("code"))
        return f"{title}  +{more}" if title and more > 0 else title

    def leaves(row: Row) -> str:
        seconds = row.get("leaves_in_s")
        return "" if seconds is None else col.in_about(round(float(seconds) * 1000))

    return (
        col.text("account", "Account", 76),
        col.text("outcome", "Outcome", 82, kind="chip", text=outcome, tone=lambda row: TONES[row["outcome"]]),
        col.text("code", "Decided by", 150, text=why, tip=col.explain,
                 tone=lambda row: TONES[row["outcome"]],
                 about="The rule that decides, and how many others would stop it too"),
        col.quantity("quantity", "Qty", 62),
        col.money("value", "Value", 88),
        col.money("risk", "Risk", 76),
        col.text("leaves_in_s", "Leaves", 62, kind="number", text=leaves, tone=lambda _row: "muted"),
        *(
            Column(f"rule.{rule}", title, 124, text=_cell(rule), tone=_cell_tone(rule), tip=_cell_tip(rule),
                   about=about)
            for rule, (title, about) in RULES.items()
        ),
    )  # fmt: skip


class EligibilityPanel(Panel):
    """Accounts × rules for a signal that is only asked about."""

    NAME = "eligibility"
    TITLE = "Eligibility"
    ABOUT = "What would come of a signal now: who would trade how much, and each rule that stops the others"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.answer: dict[str, Any] = {}
        self.every_rule = False
        self._copied: dict[str, Any] = {}  # what of a signal that came has no field here
        self._shown = EVERYBODY
        self.model = TableModel(_columns(), desk.store, self)
        self.model.sort(0)
        self.view = TableView(self.model, self.NAME, self)
        self.view.setAccessibleName("Eligibility: accounts and rules")
        self.view.changed = desk.layout_touched.emit
        self.view.chosen.connect(desk.registry.refresh)
        self.view.fill_menu = lambda menu: desk.registry.fill(menu, ["eligibility.account"])
        self.view.empty_title = "What if this signal came now?"
        self.view.empty_text = (
            "Name a symbol, or take the selected signal: every account and every rule that stops it appear here. "
            "Nothing is sent."
        )
        self.filter = FilterEdit(self.TITLE, self.model)
        self.filter.textChanged.connect(self.model.set_filter)
        self.total = Caption("", 13, 600, "text")
        self.total.setAccessibleName("What would come of it")
        self.total.shrink()
        self.asker = Asker(desk, self.question, self)
        self.asker.answered.connect(self._on_answer)
        self.asker.failed.connect(self._on_words)
        self.asker.outdated.connect(self._on_outdated)
        self._make_fields()
        desk.registry.add_all(self._commands())

    # --- widgets ------------------------------------------------------------------------------

    def _make_fields(self) -> None:
        self.strategy = self._edit("Strategy", "manual", 96)
        self.symbol = self._edit("Symbol", "", 76)
        self.symbol.setPlaceholderText("AAPL")
        self.action = self._box("Side", ACTIONS)
        self.kind = self._box("Type", KINDS)
        self.numbers = {
            "quantity": self._edit("Quantity", "", 76),
            "price": self._edit("Price", "", 76),
            "stop_loss": self._edit("Stop loss", "", 76),
            "take_profit": self._edit("Take profit", "", 76),
        }
        for name in ("quantity", "stop_loss", "take_profit"):
            self.numbers[name].setPlaceholderText("none")
        self.codes = QComboBox()
        self.codes.setAccessibleName("Which accounts to show")
        self.codes.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.codes.addItem("Every account", EVERYBODY)
        self.codes.activated.connect(self._on_code)
        self._on_kind()

    def _edit(self, name: str, text: str, width: int) -> QLineEdit:
        edit = QLineEdit(text)
        edit.setObjectName(f"eligibility.{name.lower().replace(' ', '_')}")
        edit.setAccessibleName(name)
        edit.setFixedWidth(active().px(width))
        edit.textEdited.connect(lambda _text: self._edited())
        edit.returnPressed.connect(self.asker.ask)
        return edit

    def _box(self, name: str, entries: tuple[tuple[str, str], ...]) -> QComboBox:
        box = QComboBox()
        box.setAccessibleName(name)
        for value, text in entries:
            box.addItem(text, value)
        box.activated.connect(lambda _at: self._edited())
        return box

    def build(self) -> None:
        """Put the fields, what comes of it and the table in."""
        button = self.desk.registry.button
        form = QHBoxLayout()
        form.setContentsMargins(10, 6, 10, 2)
        form.setSpacing(6)
        for name, widget in (
            ("If", self.action), ("", self.symbol), ("of", self.strategy), ("came now,", self.kind),
            ("at", self.numbers["price"]), ("quantity", self.numbers["quantity"]),
            ("stop", self.numbers["stop_loss"]), ("target", self.numbers["take_profit"]),
        ):  # fmt: skip
            if name:
                form.addWidget(Caption(name, 12))
            form.addWidget(widget)
        form.addStretch(1)
        said = QHBoxLayout()
        said.setContentsMargins(10, 2, 10, 5)
        said.addWidget(self.total, 1)
        head = QWidget()
        lines = QVBoxLayout(head)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(0)
        lines.addLayout(form)
        lines.addLayout(said)
        self.body.addWidget(head)
        self.body.addWidget(self.view, 1)
        self.tools: list[QWidget] = [
            button("eligibility.signal", "Selected signal"),
            button("eligibility.rules", "Every rule"),
            self.codes,
            self.filter,
        ]
        self._show_rules()

    def _commands(self) -> list[Command]:
        group = "Accounts"
        return [
            Command("eligibility.show", "What if this signal came now?", self._show,
                    "eligibility matrix who would trade why not preview", "", group,
                    about="Who would trade, how much, and what stops the others; nothing is sent"),
            Command("eligibility.signal", "What if the selected signal came again?", self._take_signal,
                    "eligibility matrix why preview", "", group,
                    enabled=lambda: self.can_command() and self.desk.signal_key is not None,
                    about="Ask about the selected signal as though it came now"),
            Command("eligibility.rules", "Show every rule", self._toggle_rules, "eligibility matrix columns", "",
                    group, checked=lambda: self.every_rule,
                    about="Show every rule, not only those that stop somebody"),
            Command("eligibility.account", "Show this account", self._show_account, "", "", group,
                    enabled=lambda: self.view.current_key() is not None,
                    about="Open the accounts and select this one"),
        ]  # fmt: skip

    # --- the question -------------------------------------------------------------------------

    def question(self) -> dict[str, Any]:
        """Return the fields of the command ``preview``.

        Raises:
            ValueError: something is missing.
        """
        if not self.can_command():
            raise ValueError("There is no engine to ask.")
        symbol, kind = self.symbol.text().strip().upper(), self.kind.currentData()
        if not symbol:
            raise ValueError("Name a symbol, or take the selected signal.")
        signal: dict[str, Any] = {
            **self._copied,
            "strategy": self.strategy.text().strip() or "manual",
            "symbol": symbol,
            "action": self.action.currentData(),
        }
        typed = {name: edit.text().strip() for name, edit in self.numbers.items()}
        price = typed.pop("price")
        if self.action.currentData() != "close":
            signal["order_type"] = kind
            if kind != "market":
                if not price:
                    raise ValueError(f"A {kind} order needs a price.")
                signal["limit_price" if kind == "limit" else "stop_price"] = price
            signal |= {name: text for name, text in typed.items() if text}
        return {"signal": signal, "rules": True}

    def _edited(self) -> None:
        self._copied = {}
        self._on_kind()
        self.asker.changed()

    def _on_kind(self) -> None:
        entry = self.action.currentData() != "close"
        self.kind.setEnabled(entry)
        for name, edit in self.numbers.items():
            edit.setEnabled(entry and (name != "price" or self.kind.currentData() != "market"))
        self.numbers["price"].setPlaceholderText(
            "" if self.numbers["price"].isEnabled() else "market"
        )

    async def _take_signal(self) -> None:
        """Ask about the selected signal as it came, but for its id and stamp."""
        assert self.desk.signal_key is not None
        raw: dict[str, Any] = (await self.desk.signal_detail(self.desk.signal_key)).get("raw") or {}
        self._show()
        self.strategy.setText(str(raw.get("strategy", "")))
        self.symbol.setText(str(raw.get("symbol", "")))
        for box, name in ((self.action, "action"), (self.kind, "order_type")):
            box.setCurrentIndex(max(0, box.findData(raw.get(name))))
        for name in ("quantity", "stop_loss", "take_profit"):
            self.numbers[name].setText(str(raw.get(name) or ""))
        self.numbers["price"].setText(str(raw.get("limit_price") or raw.get("stop_price") or ""))
        self._copied = {name: raw[name] for name in _COPIED if raw.get(name) is not None}
        self._on_kind()
        self.asker.changed()
        self.asker.ask()

    def _show(self) -> None:
        self.desk.show_panel(self.NAME)
        self.symbol.setFocus()

    def showEvent(self, event: QShowEvent) -> None:
        """Ask again while in sight."""
        super().showEvent(event)
        if self.symbol.text():
            self.asker.changed()

    def hideEvent(self, event: QHideEvent) -> None:
        """Ask no more while nobody looks."""
        self.asker.stop()
        super().hideEvent(event)

    # --- the answer ---------------------------------------------------------------------------

    def _on_answer(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.model.stale = False
        self.model.show_rows({str(row["account"]): row for row in answer.get("accounts", ())})
        self.model.resort()
        self._show_codes()
        self._show_rules()
        self.total.set_tone("text")
        self.total.setText(summary(answer))
        self.view.viewport().update()

    def _on_words(self, tone: str, words: str) -> None:
        self.answer = {}
        self.model.show_rows({})
        self._show_codes()
        self.total.set_tone(tone)
        self.total.setText(words)

    def _on_outdated(self) -> None:
        self.model.stale = True
        self.total.set_tone("muted")
        self.view.viewport().update()

    def on_link(self) -> None:
        """Grey what was answered while the engine is away, and ask again when it is back."""
        if not self.store.connected:
            self._on_outdated()
        elif self.isVisible() and self.symbol.text():
            self.asker.changed()

    def _show_codes(self) -> None:
        """Offer the codes there are, each with its count; what was chosen stays chosen."""
        rows = self.answer.get("accounts", ())
        over = [row for row in rows if row["outcome"] in {"skip", "refuse"}]
        counts = Counter(str(row["code"]) for row in rows if row["code"])
        entries = [(f"Every account ({len(rows)})", EVERYBODY),
                   (f"Only those passed over ({len(over)})", PASSED_OVER)]  # fmt: skip
        entries += [(f"{col.code_title(code)} ({n})", code) for code, n in counts.most_common()]
        if entries == [
            (self.codes.itemText(at), self.codes.itemData(at)) for at in range(self.codes.count())
        ]:
            return
        if self.codes.view().isVisible():
            return  # somebody chooses just now
        self.codes.clear()
        for text, code in entries:
            self.codes.addItem(text, code)
        at = self.codes.findData(self._shown)
        self.codes.setCurrentIndex(max(at, 0))
        if at < 0:
            self._on_code()

    def _on_code(self, _at: int = 0) -> None:
        self._shown = shown = str(self.codes.currentData() or "")
        keep: Callable[[Row], bool] | None = None
        if shown == PASSED_OVER:
            keep = lambda row: row["outcome"] in {"skip", "refuse"}  # noqa: E731
        elif shown:
            keep = lambda row: row["code"] == shown  # noqa: E731
        self.model.keep = keep
        self.model.load()

    def _show_rules(self) -> None:
        """Show the rules that stop somebody, or all."""
        stopping = {
            block["rule"]
            for row in self.answer.get("accounts", ())
            for block in row.get("blocks") or ()
        }
        for at, column in enumerate(self.model.columns):
            if column.key.startswith("rule."):
                shown = self.every_rule or column.key.removeprefix("rule.") in stopping
                if self.view.isColumnHidden(at) is shown:
                    self.view.setColumnHidden(at, not shown)

    def _toggle_rules(self) -> None:
        self.every_rule = not self.every_rule
        self._show_rules()
        self.desk.registry.refresh()

    def _show_account(self) -> None:
        key = self.view.current_key()
        if key is not None:
            self.desk.go_to("accounts", key)

    # --- kept with the layout -----------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Keep the question."""
        return {
            "strategy": self.strategy.text(),
            "symbol": self.symbol.text(),
            "every_rule": self.every_rule,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back the question."""
        self.strategy.setText(str(state.get("strategy") or "manual"))
        self.symbol.setText(str(state.get("symbol") or ""))
        self.every_rule = bool(state.get("every_rule"))
        self._show_rules()


def summary(answer: dict[str, Any]) -> str:
    """Return in a line how many would trade, wait, be passed over, and for which reasons most."""
    rows = answer.get("accounts", ())
    if answer.get("code") and not any(row["outcome"] in {"send", "hold"} for row in rows):
        return f"{BLOCK} Nobody would trade: {answer['message']} ({answer['code']})"
    counts = Counter(str(row["outcome"]) for row in rows)
    sends = counts["send"]
    said = [f"{MARKS['send']} {sends} would trade"]
    if counts["hold"]:
        said.append(f"{MARKS['hold']} {counts['hold']} would wait for approval")
    over = counts["skip"] + counts["refuse"]
    if over:
        codes = Counter(
            col.code_title(row["code"]) for row in rows if row["outcome"] in {"skip", "refuse"}
        )
        why = ", ".join(f"{title} {count}" for title, count in codes.most_common(3))
        said.append(f"{BLOCK} {over} passed over: {why}")
    if answer.get("price") is not None:
        said.append(f"at {fmt.price(answer['price'])}")
    if sends:
        said.append(col.leaving(round(float(answer.get("finish_s") or 0) * 1000), None, sends))
    return "   ".join(said)
