"""How far the market has moved since a held signal came, and whether that is too far to approve it unseen."""

from __future__ import annotations

from decimal import Decimal

from engine.config import SignalsConfig
from engine.model.numbers import to_text
from engine.model.signal import Signal
from engine.portfolio.marks import Marks

_HUNDRED = Decimal(100)


class DriftGuard:
    """Compares prices of entries that wait for an operator; exits are never held, so never asked about.

    ``percent``: the band (``signals.approval_drift_percent``; 0: no guard).
    """

    def __init__(self, config: SignalsConfig, marks: Marks) -> None:
        self.percent = config.approval_drift_percent
        self._marks = marks

    def market(self, symbol: str) -> Decimal | None:
        """Return the market's newest price, however old."""
        return self._marks.price(symbol)

    def since(self, signal: Signal) -> Decimal | None:
        """Return the price to measure from: the producer's when it decided, else the market's now."""
        return signal.reference_price or self.market(signal.symbol)

    def drift(self, symbol: str, since: Decimal | None) -> Decimal | None:
        """Return how far the market is from ``since``, in percent, with its sign; ``None`` where that is not known."""
        now = self.market(symbol)
        if now is None or since is None:
            return None
        return (now - since) / since * _HUNDRED

    def refusal(self, symbol: str, since: Decimal | None, when: str) -> str:
        """Say that the market has moved beyond the band since ``when``; empty when it has not, or nobody can tell."""
        drift = self.drift(symbol, since)
        if drift is None or since is None or not self.percent or abs(drift) <= self.percent:
            return ""
        now = self.market(symbol)
        assert now is not None
        return (
            f"{symbol} is at {to_text(now)}, {abs(drift):.2f} % > {to_text(self.percent)} % from"
            f" {to_text(since)} {when}"
        )
