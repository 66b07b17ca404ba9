"""Saved views of a table: a filter with its columns and its order, under a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from PySide6.QtWidgets import QMenu, QPushButton

View = Mapping[str, Any]
MOST = 30


class Views:
    """The views of one table: those it comes with, and those a person saved. They live in the layout file."""

    def __init__(
        self, own: Mapping[str, View], take: Callable[[View], None], give: Callable[[], View]
    ) -> None:
        self.own = dict(own)
        self.saved: dict[str, View] = {}
        self._take = take
        self._give = give

    def names(self) -> list[str]:
        """Return every name, those it comes with first."""
        return [*self.own, *(name for name in self.saved if name not in self.own)]

    def show(self, name: str) -> None:
        """Show a view."""
        view = self.saved.get(name) or self.own.get(name)
        if view is not None:
            self._take(view)

    def save(self, name: str) -> None:
        """Keep what is shown under a name, in the place of what had it."""
        self.saved.pop(name, None)
        while len(self.saved) >= MOST:
            del self.saved[next(iter(self.saved))]
        self.saved[name] = dict(self._give())

    def delete(self, name: str) -> None:
        """Forget a saved view; one the table comes with is as it was."""
        self.saved.pop(name, None)

    def restore(self, saved: object) -> None:
        """Take saved views back, beside those there are: a layout loses none."""
        if isinstance(saved, dict):
            self.saved.update(
                {str(name): view for name, view in saved.items() if isinstance(view, dict)}
            )


class ViewsButton(QPushButton):
    """Opens the list of views. ``save`` asks for a name; ``touched`` is told of every change."""

    def __init__(
        self, title: str, views: Views, save: Callable[[], None], touched: Callable[[], None]
    ) -> None:
        super().__init__("≡")
        self._views = views
        self._save = save
        self._touched = touched
        self.setProperty("variant", "flat")
        self.setAccessibleName(f"Views of {title}")
        self.setToolTip("Saved views: filter, columns and order under a name")
        self.setMenu(QMenu(self))
        self.menu().aboutToShow.connect(lambda: self.fill(self.menu()))

    def fill(self, menu: QMenu) -> None:
        """Put the views there are into a menu."""
        menu.clear()
        for name in self._views.names():
            menu.addAction(name, partial(self._views.show, name))
        if menu.actions():
            menu.addSeparator()
        menu.addAction("Save this view…", self._save)
        if self._views.saved:
            gone = menu.addMenu("Delete")
            for name in self._views.saved:
                gone.addAction(name, partial(self._delete, name))

    def _delete(self, name: str) -> None:
        self._views.delete(name)
        self._touched()
