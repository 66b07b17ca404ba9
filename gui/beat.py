"""The desk's beat: who moves on with time alone has a turn when there is something to show, and rests otherwise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QObject, QTimer

BEAT_MS = 250
RESTS = 2  # beats between two turns of a part that nothing was told
LOOKS = 8  # beats between two looks at those that are said to be out of sight


@dataclass(eq=False)
class Part:
    """A part of the desk. ``lively`` says whether what it shows is another thing at every beat (tenths of a second)."""

    tick: Callable[[], None]
    in_sight: Callable[[], bool]
    lively: Callable[[], bool]
    told: int = -1  # what had been told when it last had its turn
    front: bool = (
        True  # not behind a tab, as far as one was told; ``in_sight`` knows, and costs more
    )

    def come_and_go(self, front: bool) -> None:
        """Take the news that it was raised or hidden; it has a turn at the next beat."""
        self.front, self.told = front, -1


class Beat(QObject):
    """Gives parts their turns, one in each turn of the event loop, so that no moment has all the work.

    ``news`` counts what was told: a part has its turn at the next beat after it rose, else at every second one.
    Nothing runs between two beats.
    """

    def __init__(self, news: Callable[[], int], parent: QObject) -> None:
        super().__init__(parent)
        self._news = news
        self._parts: list[Part] = []
        self._due: deque[Part] = deque()
        self._beats = 0
        self._timer = QTimer(self)
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self.beat)
        self._turns = QTimer(self)
        self._turns.setInterval(0)
        self._turns.timeout.connect(self.turn)

    def add(self, part: Part) -> None:
        """Take a part."""
        self._parts.append(part)

    def start(self) -> None:
        """Begin."""
        self._timer.start()

    def stop(self) -> None:
        """Give no more turns."""
        self._timer.stop()
        self._turns.stop()
        self._due.clear()

    def beat(self) -> None:
        """See whose turn it is (the timer; tests may call it)."""
        if self._due:
            return  # the last ones have not all had theirs
        self._beats += 1
        news, rested, look = self._news(), self._beats % RESTS == 0, self._beats % LOOKS == 0
        self._due.extend(
            part
            for part in self._parts
            if (part.front or look) and (rested or part.told != news or part.lively())
        )
        if self._due:
            self._turns.start()

    def turn(self) -> None:
        """Let the next part that is in sight have its turn."""
        while self._due:
            part = self._due.popleft()
            if part.in_sight():
                part.told = self._news()
                part.tick()
                break
        if not self._due:
            self._turns.stop()
