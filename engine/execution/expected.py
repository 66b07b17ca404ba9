"""What a broker's answer may show of a position: all it was while the answer was on its way, and nothing else.

A broker's list of positions is of some moment between our question and its answer, or a little earlier where it answers
from a cache; and of what our orders did in that time we may hear before or after it. So a position is expected to be
what it is now, less any of the fills told since shortly before the question, once all our orders did was asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from engine.model.messages import BrokerPosition
from engine.model.numbers import ZERO

KEEP_NS = 120_000_000_000
MOST_FILLS = 1_000


@dataclass(frozen=True, slots=True)
class Span:
    """The least and the most a position may be found to be, and what it is now."""

    least: Decimal
    most: Decimal
    now: Decimal

    def wider(self, bought: Decimal, sold: Decimal) -> Span:
        """Return it with what orders of unknown outcome may have bought and sold."""
        return Span(self.least - sold, self.most + bought, self.now)

    def moved(self, quantity: Decimal) -> Span:
        """Return it with so much more of everything."""
        return Span(self.least + quantity, self.most + quantity, self.now + quantity)

    def misses(self, actual: Decimal, tolerance: Decimal) -> bool:
        """Say whether ``actual`` lies outside by more than the tolerance."""
        return actual < self.least - tolerance or actual > self.most + tolerance


class RecentFills:
    """What fills have moved lately. Times are monotonic nanoseconds.

    News of fills overtakes news, so a list may show any of the latest without any other: a position may be found to
    be what it is now less any of them.
    """

    def __init__(self) -> None:
        self._fills: dict[str, dict[str, deque[tuple[int, Decimal, Decimal]]]] = {}

    def note(self, account: str, symbol: str, at_ns: int, moved: Decimal) -> None:
        """Note by how much a fill has moved a position. The oldest of more than ``MOST_FILLS`` are kept as one."""
        of_account = self._fills.get(account)
        if of_account is None:
            of_account = self._fills[account] = {}
        kept = of_account.get(symbol)
        if kept is None:
            kept = of_account[symbol] = deque()
        kept.append((at_ns, moved, ZERO) if moved > 0 else (at_ns, ZERO, moved))
        while kept[0][0] < at_ns - KEEP_NS:
            kept.popleft()
        if len(kept) > MOST_FILLS:
            _, up, down = kept.popleft()
            then, more_up, more_down = kept.popleft()
            kept.appendleft((then, up + more_up, down + more_down))

    def span(self, account: str, symbol: str, since_ns: int, now: Decimal) -> Span:
        """Return what a position may be found to be in a list that knows all fills before a moment."""
        up = down = ZERO
        for at_ns, more_up, more_down in reversed(self._fills.get(account, {}).get(symbol, ())):
            if at_ns < since_ns:
                break
            up += more_up
            down += more_down
        return Span(now - up, now - down, now)

    def since(self, account: str, since_ns: int) -> bool:
        """Say whether an account has had a fill since a moment."""
        return any(kept[-1][0] >= since_ns for kept in self._fills.get(account, {}).values())


def outside(
    spans: Mapping[str, Span],
    actual: Mapping[str, BrokerPosition],
    tolerances: Mapping[str, Decimal],
) -> list[str]:
    """Return the symbols whose position at the broker is none that was expected."""
    found = []
    for symbol in {**spans, **actual}:
        told = actual.get(symbol)
        span = spans.get(symbol) or Span(ZERO, ZERO, ZERO)
        if span.misses(told.qty if told else ZERO, tolerances.get(symbol, ZERO)):
            found.append(symbol)
    return sorted(found)


def by_our_names(told: Iterable[BrokerPosition], ours: Iterable[str]) -> dict[str, BrokerPosition]:
    """Return positions under the names we know them by: some brokers list ``BTC/USD`` as ``BTCUSD``."""
    names = {symbol.replace("/", ""): symbol for symbol in ours}
    found: dict[str, BrokerPosition] = {}
    for position in told:
        name = names.get(position.symbol, position.symbol)
        before = found.get(name)
        if before is not None:  # told in parts: the sum is what is held
            position = BrokerPosition(name, before.qty + position.qty, position.avg_px)  # noqa: PLW2901
        found[name] = position
    return found


_FACTORS = tuple(
    Decimal(new) / Decimal(old)
    for new, old in (
        (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (10, 1), (12, 1), (15, 1), (20, 1), (25, 1),
        (30, 1), (50, 1), (100, 1), (3, 2), (5, 2), (5, 3), (4, 3), (5, 4), (6, 5), (11, 10),
    )
)  # fmt: skip
_NEAR = Decimal("0.01")


def looks_split(expected: Decimal, cost: Decimal, told: BrokerPosition) -> bool:
    """Say whether a position's difference is that of a split: a usual factor, and its cost as before (within 1 %)."""
    if not expected or not cost or told.qty / expected <= 0 or not told.avg_px:
        return False
    factor = told.qty / expected
    usual = any(abs(factor / one - 1) < _NEAR or abs(factor * one - 1) < _NEAR for one in _FACTORS)
    return usual and abs(told.qty * told.avg_px / cost - 1) < _NEAR
