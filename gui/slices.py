"""Long work on the desk's own thread, in slices of a few milliseconds: one in each turn of the event loop."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Final

from PySide6.QtCore import QObject, QTimer

SLICE_S: Final = 0.004
"""How long a slice is: frames and keys come between two of them."""


class Slices:
    """Does one work at a time. ``work`` is an iterator: between two of its steps it may be left for a while.

    ``parent`` owns the timer, which is made when something is first left for later.
    """

    def __init__(self, parent: QObject) -> None:
        self._parent = parent
        self._work: Iterator[None] | None = None
        self._until = 0.0
        self._running = False
        self._timer: QTimer | None = None

    @property
    def busy(self) -> bool:
        """Say whether something is left to do."""
        return self._work is not None

    def over(self) -> bool:
        """Say whether the time of this slice is used up."""
        return monotonic() >= self._until

    def begin(self, work: Iterator[None], seconds: float) -> None:
        """Begin a work: for so long at once, the rest in slices. What was at work before is given up."""
        self._work = work
        self._run(work, seconds)
        if self._work is work:
            self._start()

    def go_on(self) -> None:
        """Do the next slice (the timer; tests may call it)."""
        if self._work is not None:
            self._run(self._work, SLICE_S)

    def finish(self) -> None:
        """Do all that is left now; nothing where the work itself asks for it."""
        while self._work is not None and not self._running:
            self._run(self._work, float("inf"))

    def drop(self) -> None:
        """Give up what is at work."""
        self._work = None
        if self._timer is not None:
            self._timer.stop()

    def _start(self) -> None:
        if self._timer is None:
            self._timer = QTimer(self._parent)
            self._timer.setInterval(0)
            self._timer.timeout.connect(self.go_on)
        self._timer.start()

    def _run(self, work: Iterator[None], seconds: float) -> None:
        before, self._running = self._running, True
        self._until = monotonic() + seconds
        try:
            for _ in work:
                if self._work is not work:
                    return  # something else was begun meanwhile, or it was given up
                if self.over():
                    return
        finally:
            self._running = before
        if self._work is work:
            self.drop()
