"""G20: the engine's money against an exact model in fractions, over random fills, digit for digit."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from random import Random

from engine.model.enums import Side
from engine.model.messages import Fill
from engine.model.position import Position
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from tests.simulation.world import SimClock, World

_AT = datetime(2026, 3, 2, tzinfo=UTC)
_SYMBOLS = ("AAPL", "BTCUSDT", "EUR_USD")
_LOTS = {"AAPL": 0, "BTCUSDT": 8, "EUR_USD": 0}
_TICKS = {"AAPL": 2, "BTCUSDT": 2, "EUR_USD": 5}
_COST_WITHIN = Fraction(1, 10**15)
"""Average cost divides, so it is rounded at 28 digits; quantity, cash and total P&L only add and are exact."""


class Exact:
    """One position, in fractions."""

    def __init__(self) -> None:
        self.qty = Fraction(0)
        self.cash = Fraction(0)
        self.cost = Fraction(0)

    def apply(self, signed: Fraction, price: Fraction) -> None:
        """Add a fill by average cost."""
        before, after = self.qty, self.qty + signed
        self.cash -= signed * price
        if before * signed >= 0:
            self.cost += signed * price
        elif before * after > 0:
            self.cost = self.cost * after / before
        else:
            self.cost = after * price
        self.qty = after


def random_fill(rng: Random, number: int, account: str) -> Fill:
    """Make a fill of some size at some price; now and then one that is as small or as large as they come."""
    symbol = rng.choice(_SYMBOLS)
    digits, tick = _LOTS[symbol], _TICKS[symbol]
    most = rng.choice([3, 50, 10**6]) * 10**digits
    return Fill(
        account=account,
        exec_id=str(number),
        cl_ord_id="",
        symbol=symbol,
        side=rng.choice((Side.BUY, Side.SELL)),
        last_qty=Decimal(rng.randint(1, most)).scaleb(-digits),
        last_px=Decimal(rng.randint(1, 10**7)).scaleb(-tick),
        at=_AT,
    )


def differences(fills: int, seed: int = 1) -> list[str]:
    """Apply random fills to the engine's keeper and to fractions; return where they differ."""
    rng = Random(seed)
    marks = Marks(SimClock(World(seed)))
    keeper = PositionKeeper(marks)
    exact: dict[tuple[str, str], Exact] = {}
    accounts = [f"A-{number}" for number in range(20)]
    found: list[str] = []
    for symbol in _SYMBOLS:
        marks.set(symbol, Decimal("101.37"))
    mark = Fraction("101.37")
    for number in range(fills):
        fill = random_fill(rng, number, rng.choice(accounts))
        position = keeper.apply(fill)
        model = exact.setdefault((fill.account, fill.symbol), Exact())
        model.apply(Fraction(fill.last_qty) * fill.side.sign, Fraction(fill.last_px))
        found += _compare(number, position, model)
        if number % 1000 == 0:
            pnl = sum((e.cash + e.qty * mark for k, e in exact.items() if k[0] == fill.account))
            if abs(Fraction(keeper.pnl(fill.account).total) - pnl) > _COST_WITHIN:
                found.append(f"fill {number}: P&L of {fill.account} is {float(pnl)}")
        if len(found) > 10:
            break
    return found


def _compare(number: int, position: Position, model: Exact) -> list[str]:
    found = []
    for name in ("qty", "cash"):
        ours, theirs = Fraction(getattr(position, name)), getattr(model, name)
        if ours != theirs:
            found.append(f"fill {number}: {name} {float(ours)} is not {float(theirs)}")
    cost = Fraction(position.cost)
    if abs(cost - model.cost) > _COST_WITHIN * max(1, abs(model.cost)):
        found.append(f"fill {number}: cost {float(cost)} is not {float(model.cost)}")
    return found


def compare(fills: int) -> list[str]:
    """Return what a comparison came to, in words; more than one line when anything differs."""
    began = time.monotonic()
    found = differences(fills)
    took = time.monotonic() - began
    return [
        f"{fills} fills compared with exact fractions in {took:.1f} s: {len(found)} differences",
        *found,
    ]
