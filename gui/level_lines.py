"""The lines of a price chart that stand for stops, targets and orders; and moving them by hand or by key.

Imports pyqtgraph: imported when the first chart is made.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from PySide6.QtCore import QObject, Qt

from engine.errors import CommandRefused
from engine.model import tables
from gui import formatting as fmt
from gui import levels as lv
from gui.chart_items import LevelLine, Plot
from gui.commands import CONFIRM
from gui.desk import Desk

TONES = {lv.STOP: "neg", lv.TARGET: "pos", lv.ENTRY: "muted", lv.ORDER: "accent"}
REACH = 3.0  # heights of the candles, to which the range stretches for lines
NEAR = 0.025  # or this share of the price
LABEL_PX = 21  # labels nearer than this to each other stand side by side
LABEL_RIGHT, LABEL_LEFT = 0.985, 0.4  # shares of the width between which labels stand
LINES_Z = 1_000
LABELS_FIRST = (lv.STOP, lv.ORDER, lv.TARGET, lv.ENTRY)
_TICKS = {Qt.Key.Key_Up: 1, Qt.Key.Key_Down: -1, Qt.Key.Key_PageUp: 10, Qt.Key.Key_PageDown: -10}
_KEYS = {Qt.Key.Key_Escape, Qt.Key.Key_Return, Qt.Key.Key_Enter, *_TICKS}


class LevelLines(QObject):
    """Draws levels as lines of ``plot``; a stop or target that is dropped elsewhere is asked about, then sent.

    ``places``: decimals of prices. ``tell``: shows what is being moved (empty: nothing any more). ``again``: asks for
    the levels of now.
    """

    def __init__(
        self,
        desk: Desk,
        plot: Plot,
        places: Callable[[], int],
        tell: Callable[[str], None],
        again: Callable[[], None],
    ) -> None:
        super().__init__(plot)
        self._desk = desk
        self._plot = plot
        self._places = places
        self._tell = tell
        self._again = again
        self.lines: dict[str, LevelLine] = {}  # by the level's name
        self.levels: dict[str, lv.Level] = {}

    def draw(self, levels: list[lv.Level], *, may_move: bool) -> None:
        """Show these levels; lines that are being moved or wait for an answer stay."""
        found = {level.name: level for level in levels}
        for name, line in list(self.lines.items()):
            if name not in found and not line.moving and not line.waiting:
                self._plot.removeItem(self.lines.pop(name))
                self.levels.pop(name)
        for name, level in found.items():
            line = self.lines.get(name) or self._add(name, level)
            self.levels[name] = level
            if not line.moving and not line.waiting:
                line.tell(level.text)
            line.allow(level.kind in lv.MOVABLE and may_move and not line.waiting)

    def _add(self, name: str, level: lv.Level) -> LevelLine:
        dashed = level.kind == lv.ENTRY
        line = LevelLine(float(level.price), level.text, tone=TONES[level.kind], dashed=dashed)
        line.moved = lambda price: self._on_moved(name, price)
        line.dropped = lambda price: self._on_dropped(name, price)
        self.lines[name] = line
        self._plot.addItem(line, ignoreBounds=True)
        return line

    def restyle(self) -> None:
        """Take the theme's colours."""
        for line in self.lines.values():
            line.restyle()

    def prices(self) -> list[float]:
        """Return where the lines are."""
        return [line.value() for line in self.lines.values()]

    def reach(self, low: float, high: float) -> tuple[float, float, tuple[int, int]]:
        """Return a range with the lines in it, but for those so far off that the candles would be flat.

        How many lie above it and below it comes with it.
        """
        far = max(REACH * (high - low), high * NEAR)
        prices = self.prices()
        near = [price for price in prices if low - far <= price <= high + far]
        above, below = (
            sum(price > high + far for price in prices),
            sum(price < low - far for price in prices),
        )
        return min([low, *near]), max([high, *near]), (above, below)

    def place_labels(self, last: LevelLine) -> None:
        """Put no label on another: what is moved and the last price first, stops before entries; no room, no label."""
        box = self._plot.getPlotItem().vb
        low, high = box.viewRange()[1]
        wide, per_pixel = max(1.0, box.width()), (high - low) / max(1.0, box.height())
        order = {name: at for at, name in enumerate(LABELS_FIRST)}
        kinds = [(order[self.levels[name].kind], line) for name, line in self.lines.items()]
        taken: list[tuple[float, float, float]] = []  # left, right and height of those placed
        ranked = sorted(
            [(-1, last), *kinds],
            key=lambda one: (not (one[1].moving or one[1].waiting), one[0], one[1].value()),
        )
        for rank, (_, line) in enumerate(ranked):
            # A label lies over the lines of those after it; nothing stands beside the last price's.
            line.setZValue(LINES_Z - (len(ranked) if line is last else rank))
            label, height = line.label, line.value() / per_pixel
            width, right = label.boundingRect().width(), LABEL_RIGHT * wide
            for left, end, at in sorted(taken, reverse=True):
                if abs(at - height) < LABEL_PX and left < right and right - width < end:
                    right = left - 4
            shown = low <= line.value() <= high and right - width >= LABEL_LEFT * wide
            shown = shown or line.moving or line.waiting
            label.setVisible(shown)
            if shown:
                label.setPosition(max(right / wide, 0.3))
                taken.append((right - width, right, height))

    @property
    def moving(self) -> bool:
        """Say whether a line is being moved."""
        return any(line.moving for line in self.lines.values())

    def movable(self) -> list[str]:
        """Return the lines that may be moved, lowest first."""
        names = [name for name, line in self.lines.items() if line.movable]
        return sorted(names, key=lambda name: float(self.lines[name].value()))

    # --- moving -------------------------------------------------------------------------------

    def pick(self) -> None:
        """Take the next line that may be moved, for the arrow keys."""
        names = self.movable()
        now = next((at for at, name in enumerate(names) if self.lines[name].moving), -1)
        self.cancel()
        if names:
            name = names[(now + 1) % len(names)]
            self.lines[name].begin()
            self._plot.setFocus()
            self._on_moved(name, self.lines[name].value())

    def take_key(self, key: int, dry: bool) -> bool:
        """Take a key while a line is being moved; ``dry``: only say whether it is wanted."""
        line = next((line for line in self.lines.values() if line.moving), None)
        if line is None or key not in _KEYS:
            return False
        if dry:
            return True
        if key == Qt.Key.Key_Escape:
            self.cancel()
        elif key in _TICKS:
            line.move_to(line.value() + _TICKS[Qt.Key(key)] * 10.0 ** -self._places())
        else:
            line.drop()
        return True

    def cancel(self) -> None:
        """Put back what is being moved."""
        for name, line in self.lines.items():
            if line.moving:
                line.cancel()
                line.tell(self.levels[name].text)
                self._tell("")

    def _move(self, name: str, price: float) -> lv.Move:
        level = self.levels[name]
        places = max(self._places(), lv.places_of((level.low, level.high)))
        return lv.Move(level, Decimal(repr(float(price))).quantize(Decimal(1).scaleb(-places)))

    def _on_moved(self, name: str, price: float) -> None:
        move = self._move(name, price)
        level = move.level
        self.lines[name].tell(f"{level.prices} → {fmt.price(str(move.price))} · {level.whose}")
        self._tell(f"{move.title}: {level.whose}.  Let go or press Return to send, Escape keeps it.")  # fmt: skip

    def _on_dropped(self, name: str, price: float) -> None:
        """Ask before it is sent: old and new, whose, and what it means in money."""
        move, line = self._move(name, price), self.lines[name]
        rows = move.rows(self._desk.store.rows(tables.POSITIONS).get)
        if not rows:
            self._desk.say("warning", move.title, "No position has it there any more.")
        if not rows or move.price <= 0 or move.price == move.level.low == move.level.high:
            self._put_back(name)
            return
        line.waiting = True
        line.allow(may_move=False)
        line.restyle()
        self._tell("")
        word = lv.WORDS[move.level.kind].lower()
        self._desk.ask(
            "confirm",
            title=move.title,
            facts=move.facts(rows),
            go=f"Move {len(rows)} {word}{'s' if len(rows) != 1 else ''}",
            run=lambda: self._send(name, move),
            back=lambda: self._put_back(name),
            danger=CONFIRM,
        )

    async def _send(self, name: str, move: lv.Move) -> None:
        """Send what is still as it was when it was asked; the others have moved on their own."""
        rows = move.rows(self._desk.store.rows(tables.POSITIONS).get)
        try:
            if not rows:
                raise CommandRefused("NO_POSITION", "no position has it there any more")
            await self._desk.each(move.title, "set_stops", move.subjects(rows))
        finally:
            self._put_back(name)

    def _put_back(self, name: str) -> None:
        """Let a line say again what the engine says."""
        line, level = self.lines.get(name), self.levels.get(name)
        if line is not None and level is not None:
            line.waiting = False
            line.setPos(float(level.price))
            line.tell(level.text)
            line.restyle()
        self._tell("")
        self._again()
