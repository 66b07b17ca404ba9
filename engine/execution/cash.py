"""Cash expected from fills against the broker's: told when it differs by more than fees can explain, never acted on.

Deposits, withdrawals, interest and funding move money that no fill tells of, so a difference is an alert and nothing
more. Every comparison that agrees begins anew from what the broker said, so that fees do not add up for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from engine.model.messages import Balances
from engine.model.numbers import ZERO, to_text
from engine.model.position import Position
from engine.ports import Capabilities

FEES: Decimal = Decimal("0.003")
"""Of what was traded, so much may be missing for fees: the dearest of the brokers served here takes 0.1 % a side."""
PENNIES: Decimal = Decimal("0.05")
FACT = "cash"


@dataclass(slots=True)
class Baseline:
    """The broker's cash and our own sum when they were last taken as agreeing; what was traded since."""

    cash: Decimal
    ours: Decimal
    traded: Decimal = ZERO


class CashBook:
    """Each account's baseline; ``keep`` writes it into the journal."""

    def __init__(self, keep: Callable[[str, str, dict[str, Any] | None], None]) -> None:
        self._keep = keep
        self._baselines: dict[str, Baseline] = {}

    def load(self, facts: dict[str, dict[str, Any]]) -> None:
        """Take the baselines as they were before a restart."""
        for account, fact in facts.items():
            self._baselines[account] = Baseline(Decimal(fact["cash"]), Decimal(fact["ours"]))

    def traded(self, account: str, quantity: Decimal, price: Decimal) -> None:
        """Note a fill."""
        baseline = self._baselines.get(account)
        if baseline is not None:
            baseline.traded += quantity * price

    def agree(self, account: str, cash: Decimal, ours: Decimal) -> None:
        """Begin anew from here."""
        self._baselines[account] = Baseline(cash, ours)
        self._keep(FACT, account, {"cash": to_text(cash), "ours": to_text(ours)})

    def forget(self, account: str) -> None:
        """Drop a baseline: the next comparison makes a new one."""
        if self._baselines.pop(account, None) is not None:
            self._keep(FACT, account, None)

    def expected(self, account: str, cash: Decimal, ours: Decimal) -> Decimal | None:
        """Return what the cash should be where ``cash`` is not near enough, else ``None`` (and begin anew)."""
        baseline = self._baselines.get(account)
        if baseline is None:
            self.agree(account, cash, ours)
            return None
        moved = ours - baseline.ours
        expected = baseline.cash + moved
        # After a restart what was traded is known by what it moved, at the least.
        tolerance = PENNIES + FEES * max(baseline.traded, abs(moved))
        if abs(cash - expected) > tolerance:
            return expected
        if cash != baseline.cash or moved:
            self.agree(account, cash, ours)
        return None


def not_comparable(
    capabilities: Capabilities, balances: Balances, positions: Iterable[Position]
) -> str:
    """Say why an account's cash does not follow from its fills, empty if it does."""
    if not capabilities.cash:
        return "what the broker calls cash does not follow from fills"
    for position in positions:
        pair = capabilities.spot or "/" in position.symbol or "_" in position.symbol
        if pair and not position.symbol.endswith(balances.currency):
            return f"{position.symbol} is not paid in {balances.currency}"
        if capabilities.cash == "realised" and position.qty:
            return "the broker's cash holds realised gains only: compared while nothing is held"
    return ""


def own_sum(capabilities: Capabilities, positions: Iterable[Position]) -> Decimal:
    """Return what our fills have moved in all."""
    if capabilities.cash == "realised":
        return sum((position.realised for position in positions), ZERO)
    return sum((position.cash for position in positions), ZERO)
