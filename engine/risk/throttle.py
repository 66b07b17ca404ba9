"""The repeated-execution throttle (control C11): how often a strategy was carried out without a person's review.

One execution is one signal whose entries left by themselves; what an operator approved or forced is none. A person's
review begins the count anew; neither a restart nor another day does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FACT = "unreviewed"
"""The journal's facts: by strategy the executions counted, and the newest signal (``seq``) among them."""
SINCE = "*"
"""The fact of the signal from which on executions are counted, whatever the strategy."""


@dataclass(slots=True)
class _Executions:
    """Of one strategy: those on disk, those being written, the newest signal seen."""

    durable: int = 0
    pending: int = 0
    seq: int = 0


class Throttle:
    """Counts executions per strategy; ``most`` is ``None`` where the control is off."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._strategies: dict[str, _Executions] = {}

    @property
    def on(self) -> bool:
        """Say whether executions are counted."""
        return self._most is not None

    def refusal(self, strategy: str) -> tuple[str, str] | None:
        """Refuse another execution of a strategy that has had all of its own."""
        done = self.executions(strategy)
        if self._most is None or done < self._most:
            return None
        text = f"{strategy} was carried out {done} times since its last review, the limit is {self._most}"
        return "UNREVIEWED", text

    def begin(self, strategy: str) -> None:
        """Count an execution as soon as it is planned."""
        self._of(strategy).pending += 1

    def end(self, strategy: str, seq: int | None) -> dict[str, Any] | None:
        """Take the news that its signal is durable as number ``seq``, or (``None``) that it came to nothing.

        Return what the journal is to keep of the strategy.
        """
        found = self._of(strategy)
        found.pending -= 1
        if seq is None:
            return None
        found.durable += 1
        found.seq = max(found.seq, seq)
        return {"executions": found.durable, "seq": found.seq}

    def reviewed(self, strategy: str) -> tuple[int, dict[str, Any]]:
        """Begin a strategy's count anew; return what it was, and what the journal is to keep."""
        found = self._of(strategy)
        before, found.durable = found.durable, 0
        return before, {"executions": 0, "seq": found.seq}

    def load(
        self, facts: Mapping[str, Mapping[str, Any]], executions: Iterable[tuple[str, int]]
    ) -> dict[str, Any] | None:
        """Go on after a restart; ``executions`` are the newest ones on disk: strategy and number of the signal.

        Those that no fact counts yet are counted. Return what the journal is to keep under ``SINCE``, if it has not.
        """
        newest = list(executions)
        for strategy, fact in facts.items():
            if strategy != SINCE:
                kept = _Executions(durable=fact["executions"], seq=fact["seq"])
                self._strategies[strategy] = kept
        if SINCE not in facts:  # executions of a time without this control count for nothing
            return {"seq": max((seq for _strategy, seq in newest), default=0)}
        since = facts[SINCE]["seq"]
        for strategy, seq in newest:
            found = self._of(strategy)
            if seq > max(found.seq, since):
                found.durable += 1
                found.seq = seq
        return None

    def executions(self, strategy: str) -> int:
        """Return a strategy's executions since its last review."""
        found = self._strategies.get(strategy)
        return found.durable + found.pending if found is not None else 0

    def strategies(self) -> list[str]:
        """Return the strategies that were carried out since their last review."""
        return [name for name in self._strategies if self.executions(name)]

    def _of(self, strategy: str) -> _Executions:
        found = self._strategies.get(strategy)
        if found is None:
            found = self._strategies[strategy] = _Executions()
        return found
