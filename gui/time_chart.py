"""What charts over time have in common: panned and zoomed by mouse and key, following the newest until let go."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from gui.commands import Command


class TimeChart:
    """A part of a widget: its plot, how much of the time is in sight, whether the newest is kept in sight.

    The widget says what is the ``newest`` moment, scales to what is in sight (``fit_height``) and draws (``redraw``).
    """

    plot: Any = None  # made when it is first seen
    follow = True
    _span: float | None = None  # seconds in sight; None: everything

    def newest(self) -> float | None:
        """Return the newest moment in seconds since 1970, ``None`` where there is nothing."""
        raise NotImplementedError

    def fit_height(self) -> None:
        """Scale to what is in sight."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Draw, now or soon."""
        raise NotImplementedError

    def handled(self) -> None:
        """Take the news that somebody has moved it: it may follow no more."""

    def make_plot(self, name: str, axes: dict[str, Any]) -> Any:
        """Make the plot and return it: moved along the time by hand, scaled by the widget."""
        from gui import charts

        self.plot = plot = charts.plot(name, axes)
        plot.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        plot.setMouseEnabled(x=True, y=False)
        box = plot.getPlotItem().vb
        box.disableAutoRange()
        box.sigRangeChangedManually.connect(self._on_hand)
        box.sigXRangeChanged.connect(lambda *_: self.fit_height())
        return plot

    def moving_commands(self, name: str, title: str, newest: str, scope: QWidget) -> list[Command]:
        """Return what can be done with the keyboard, as ``name.follow`` and so on; ``newest``: what it follows."""
        group = f"{title} chart"

        def there() -> bool:
            return self.plot is not None

        return [
            Command(f"{name}.follow", f"{title}: follow the newest {newest}", self.toggle_follow,
                    "chart live right edge", "End", group, scope=scope, checked=lambda: self.follow,
                    about=f"Keep the newest {newest} in sight"),
            Command(f"{name}.zoom_in", f"{title}: zoom in", lambda: self.zoom(0.7), "chart closer", "+ | =", group,
                    scope=scope, enabled=there),
            Command(f"{name}.zoom_out", f"{title}: zoom out", lambda: self.zoom(1 / 0.7), "chart wider", "-", group,
                    scope=scope, enabled=there),
            Command(f"{name}.left", f"{title}: move left", lambda: self.pan(-0.25), "chart pan earlier", "Left",
                    group, scope=scope, enabled=there),
            Command(f"{name}.right", f"{title}: move right", lambda: self.pan(0.25), "chart pan later", "Right",
                    group, scope=scope, enabled=there),
        ]  # fmt: skip

    def _sight(self) -> tuple[float, float]:
        left, right = self.plot.viewRange()[0]
        return float(left), float(right)

    def _on_hand(self, *_: Any) -> None:
        """Take a pan or a zoom: whoever looks at the past is left there."""
        left, right = self._sight()
        self._span = right - left
        newest = self.newest()
        self.follow = newest is not None and right >= newest
        self.handled()

    def toggle_follow(self) -> None:
        """Keep the newest in sight, or let it go."""
        self.follow = not self.follow
        self.redraw()

    def zoom(self, factor: float) -> None:
        """Show ``factor`` times as much time, around the newest while it is followed."""
        left, right = self._sight()
        anchor = right if self.follow else (left + right) / 2
        self.plot.setXRange(
            anchor - (anchor - left) * factor, anchor + (right - anchor) * factor, padding=0
        )
        left, right = self._sight()
        self._span = right - left
        self.redraw()

    def pan(self, share: float) -> None:
        """Move by a share of what is in sight."""
        left, right = self._sight()
        by = share * (right - left)
        self.plot.setXRange(left + by, right + by, padding=0)
        self._on_hand()
