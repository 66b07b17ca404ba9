"""The latency of every stage of an order's way, and of every account's broker."""

from __future__ import annotations

from typing import Any

from engine.model.tables import STAGES
from engine.telemetry.histograms import Histogram, StageLatency


class Latency:
    """Stages by name. Values come in nanoseconds and are kept in microseconds."""

    def __init__(self) -> None:
        self.stages: dict[str, StageLatency] = {name: StageLatency() for name in STAGES}
        self._accounts: dict[str, Histogram] = {}

    def record(self, stage: str, nanoseconds: int) -> None:
        """Count one passage of a stage."""
        self.stages[stage].record(nanoseconds // 1000)

    def record_account(self, account: str, nanoseconds: int) -> None:
        """Count one answer of an account's broker."""
        histogram = self._accounts.get(account)
        if histogram is None:
            histogram = self._accounts[account] = Histogram(lasting=True)
        histogram.record(nanoseconds // 1000)

    def account_p50(self, account: str) -> int | None:
        """Return the median answer of an account's broker in microseconds."""
        histogram = self._accounts.get(account)
        return histogram.summary()["p50"] if histogram else None

    def tick(self) -> list[str]:
        """End a second; return the stages whose figures changed by it."""
        return [name for name, stage in self.stages.items() if stage.tick()]

    def row(self, stage: str, at: str) -> dict[str, Any]:
        """Return a row of the table ``latency``."""
        figures = self.stages[stage]
        return {
            "stage": stage,
            "total": figures.total.summary(),
            "minute": figures.minute().summary(),
            "second": figures.last.summary(),
            "buckets": figures.total.buckets(),
            "at": at,
        }

    def report(self) -> dict[str, Any]:
        """Return every stage's percentiles, since start and over the last minute."""
        return {
            "unit": "us",
            "stages": {
                name: {"total": _named(stage.total), "minute": _named(stage.minute())}
                for name, stage in self.stages.items()
            },
        }


def _named(histogram: Histogram) -> dict[str, int | None]:
    """Return a summary with the percentile also under the name the interface gives it."""
    summary = histogram.summary()
    return {**summary, "p99.9": summary["p999"]}
