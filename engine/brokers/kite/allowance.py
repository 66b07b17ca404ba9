"""How many orders Kite takes of an account in a day, counted here: it does not say."""

from __future__ import annotations

from datetime import datetime

from engine.brokers.kite.mapping import IST

DAY_LIMIT = 5_000
"""Orders of one account in a day, refused ones and changes included."""
DAY_RESERVE = 100
"""How many of them entries leave for exits."""


class Allowance:
    """One account's orders of the day in India."""

    def __init__(self) -> None:
        self._day = ""
        self._used = 0

    @property
    def used(self) -> int:
        """Return how many orders and changes were sent today."""
        today = datetime.now(IST).date().isoformat()
        if self._day != today:
            self._day, self._used = today, 0
        return self._used

    def count(self) -> None:
        """Count one more."""
        self._used = self.used + 1

    def at_least(self, used: int) -> None:
        """Take the broker's word for how many there were: placed elsewhere, or before a restart."""
        self._used = max(self.used, used)

    def refused(self, waiting: int, *, reducing: bool) -> str:
        """Return why no further order may be sent, empty when one may; ``waiting``: sent, not counted yet."""
        used = self.used + waiting
        if used < DAY_LIMIT - (0 if reducing else DAY_RESERVE):
            return ""
        return f"{used} of the {DAY_LIMIT} orders of the day are used up"
