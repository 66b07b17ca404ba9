"""The engine's own parts as it sees them: what wiring puts in, so that the facade imports none of it."""

from __future__ import annotations

from typing import Any, Protocol


class PriceSource(Protocol):
    """Where reference prices come from."""

    @property
    def problem(self) -> str:
        """Return what is wrong, empty when nothing is."""
        ...

    def follow(self, symbol: str) -> None:
        """Keep a symbol's price fresh."""
        ...

    async def ask(self, symbol: str) -> None:
        """Get a symbol's price now, within a second."""
        ...

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """End."""
        ...


class Service(Protocol):
    """Runs beside the engine: another intake, a watch."""

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """End."""
        ...


class Operator(Protocol):
    """Carries out commands (engine.operator_desk)."""

    async def handle(self, document: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        ...


class Reports(Protocol):
    """Answers questions about the engine (engine.reports)."""

    async def start(self) -> None:
        """Begin ticking."""
        ...

    async def stop(self) -> None:
        """End."""
        ...

    async def signal_detail(self, key: str) -> dict[str, Any] | None:
        """Return one signal."""
        ...

    async def list_rows(
        self, table: str, where: dict[str, str], limit: int, after: str | None
    ) -> dict[str, Any]:
        """Return a page of rows."""
        ...

    def latency(self) -> dict[str, Any]:
        """Return the stages' percentiles."""
        ...

    def readiness(self) -> list[str]:
        """Return why the engine is not ready."""
        ...

    def metrics_text(self) -> str:
        """Return Prometheus text."""
        ...
