"""A limit for each stage's p99, and whether it is kept: crossing is told once, until it is well below again."""

from __future__ import annotations

from typing import Any

BACK_BELOW = 0.9  # of the budget: only below this may the next crossing be told


class Budgets:
    """Budgets in microseconds by stage."""

    def __init__(self) -> None:
        self.limits: dict[str, float] = {}
        self.over: set[str] = set()

    def set(self, stage: str, limit_us: float | None) -> None:
        """Set or take away a stage's budget; it is judged anew."""
        self.over.discard(stage)
        if limit_us is None:
            self.limits.pop(stage, None)
        else:
            self.limits[stage] = limit_us

    def look(self, stage: str, p99_us: float | None) -> bool:
        """Take a stage's p99 of the last minute (``None``: nothing was measured); say whether it has just crossed."""
        limit = self.limits.get(stage)
        if limit is None or p99_us is None:
            return False
        if p99_us > limit:
            crossed = stage not in self.over
            self.over.add(stage)
            return crossed
        if p99_us < limit * BACK_BELOW:
            self.over.discard(stage)
        return False

    def state(self) -> dict[str, float]:
        """Return what is kept with the layout."""
        return dict(self.limits)

    def restore(self, state: Any, stages: tuple[str, ...]) -> None:
        """Take back what ``state`` returned; what is no budget is left out."""
        self.limits, self.over = {}, set()
        for stage, limit in state.items() if isinstance(state, dict) else ():
            if stage in stages and isinstance(limit, int | float) and limit > 0:
                self.limits[stage] = float(limit)
