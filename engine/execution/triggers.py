"""The prices at which one symbol's positions are to be closed, kept so that a price costs a look at the nearest."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from decimal import Decimal

from engine.model.identifiers import STOP_LEG, TARGET_LEG
from engine.model.position import Levels

TRAIL_LEG = "trail"
TIME_LEG = "time"

_HUNDRED = Decimal(100)
_WORST = {True: Decimal(0), False: Decimal("Infinity")}  # by whether the position is long
Entry = tuple[Decimal, str, str]  # price, account, leg


class _Step:
    """Accounts whose best price is the same, and the price that closes them."""

    __slots__ = ("accounts", "best", "trigger")

    def __init__(self, best: Decimal, trigger: Decimal, accounts: set[str]) -> None:
        self.best = best
        self.trigger = trigger
        self.accounts = accounts


class TrailLadder:
    """The trailing stops of one side and one percentage.

    A best price only ever improves, and a new one overtakes every lesser one: the steps form a stack, best first, whose
    end melts together as the price improves. So a price costs a look at both ends, and each step melts once.
    """

    __slots__ = ("_factor", "_long", "_moved", "_of", "_steps")

    def __init__(self, percent: Decimal, *, long: bool) -> None:
        self._long = long
        self._factor = 1 - percent / _HUNDRED if long else 1 + percent / _HUNDRED
        self._steps: list[_Step] = []
        self._of: dict[str, _Step] = {}
        self._moved: dict[int, _Step] = {}

    def __len__(self) -> int:
        return len(self._of)

    def add(self, account: str, best: Decimal) -> None:
        """Watch an account whose best price so far is ``best``."""
        at = 0
        while at < len(self._steps) and self._beats(self._steps[at].best, best):
            at += 1
        if at == len(self._steps) or self._steps[at].best != best:
            self._steps.insert(at, _Step(best, best * self._factor, set()))
        step = self._steps[at]
        step.accounts.add(account)
        self._of[account] = step

    def remove(self, account: str) -> None:
        """Watch an account no more."""
        step = self._of.pop(account)
        step.accounts.discard(account)
        if not step.accounts:
            self._steps.remove(step)

    def best(self, account: str) -> Decimal:
        """Return an account's best price."""
        return self._of[account].best

    def move(self, price: Decimal) -> list[str]:
        """Take a price; return the accounts it closes (which stay until they are removed)."""
        steps = self._steps
        if steps and self._beats(price, steps[-1].best):
            self._improve(price)
        fired: list[str] = []
        for step in steps:
            if price > step.trigger if self._long else price < step.trigger:
                break
            fired += sorted(step.accounts)
        return fired

    def _improve(self, price: Decimal) -> None:
        """Melt the steps that ``price`` overtakes into one; only the smaller ones' accounts are touched."""
        steps = self._steps
        step = steps.pop()
        while steps and not self._beats(steps[-1].best, price):
            step = self._melt(step, steps.pop())
        step.best, step.trigger = price, price * self._factor
        steps.append(step)
        self._moved[id(step)] = step

    def _melt(self, one: _Step, other: _Step) -> _Step:
        if len(one.accounts) < len(other.accounts):
            one, other = other, one
        one.accounts |= other.accounts
        for account in other.accounts:
            self._of[account] = one
        return one

    def _beats(self, price: Decimal, other: Decimal) -> bool:
        return price > other if self._long else price < other

    def take_moved(self) -> Iterator[tuple[str, Decimal]]:
        """Return the accounts whose best price has improved since this was asked last, with that price."""
        moved, self._moved = self._moved, {}
        for step in moved.values():
            for account in step.accounts:
                if self._of.get(account) is step:  # not melted into another meanwhile
                    yield account, step.best


class Triggers:
    """Every level of one symbol that the engine watches. ``hit`` costs two comparisons and one look per trail.

    An account is watched for one position: long or short, with a stop loss, a take profit, a trail, or some of them.
    """

    __slots__ = ("_falling", "_of", "_rising", "_trails")

    def __init__(self) -> None:
        self._falling: list[Entry] = []  # fire at or below their price; the nearest last
        self._rising: list[Entry] = []  # fire at or above their price; the nearest first
        self._trails: dict[tuple[bool, Decimal], TrailLadder] = {}
        self._of: dict[
            str, tuple[list[tuple[list[Entry], Entry]], tuple[bool, Decimal] | None]
        ] = {}

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, account: str) -> bool:
        return account in self._of

    def accounts(self) -> list[str]:
        """Return who is watched."""
        return list(self._of)

    def set(self, account: str, levels: Levels, best: Decimal | None, *, long: bool) -> None:
        """Watch ``levels`` of an account instead of what was watched; a trail without ``best`` begins at the next
        price."""
        self.remove(account)
        if not levels:
            return
        entries: list[tuple[list[Entry], Entry]] = []
        for price, leg, falls in (
            (levels.stop_loss, STOP_LEG, long),
            (levels.take_profit, TARGET_LEG, not long),
        ):
            if price is not None:
                where = self._falling if falls else self._rising
                entry = (price, account, leg)
                insort(where, entry)
                entries.append((where, entry))
        trail = None
        if levels.trail_percent is not None:
            trail = (long, levels.trail_percent)
            ladder = self._trails.get(trail)
            if ladder is None:
                ladder = self._trails[trail] = TrailLadder(levels.trail_percent, long=long)
            # Any price beats the worst one there is: the first one it meets becomes its best.
            ladder.add(account, best if best is not None else _WORST[long])
        self._of[account] = (entries, trail)

    def best(self, account: str, percent: Decimal | None, *, long: bool) -> Decimal | None:
        """Return the best price an account's trail of ``percent`` has met; ``None``: none, or it has another trail."""
        _entries, trail = self._of.get(account, ((), None))
        if trail is None or trail != (long, percent):
            return None
        best = self._trails[trail].best(account)
        return None if best == _WORST[long] else best

    def remove(self, account: str) -> None:
        """Watch an account no more."""
        entries, trail = self._of.pop(account, ((), None))
        for where, entry in entries:
            del where[bisect_left(where, entry)]
        if trail is not None:
            ladder = self._trails[trail]
            ladder.remove(account)
            if not ladder:
                del self._trails[trail]

    def hit(self, price: Decimal) -> dict[str, str]:
        """Take a price; return account → leg of what it closes, watched no more. A stop goes before a target."""
        fired: dict[str, str] = {}
        for _price, account, leg in self._reached(price):
            if fired.get(account) != STOP_LEG:
                fired[account] = leg
        for ladder in self._trails.values():
            for account in ladder.move(price):
                if fired.get(account) != STOP_LEG:
                    fired[account] = TRAIL_LEG
        for account in fired:
            self.remove(account)
        return fired

    def _reached(self, price: Decimal) -> list[Entry]:
        falling, rising = self._falling, self._rising
        reached: list[Entry] = []
        if falling and falling[-1][0] >= price:
            reached += falling[bisect_left(falling, (price, "", "")) :]
        if rising and rising[0][0] <= price:
            end = 0
            while end < len(rising) and rising[end][0] <= price:
                end += 1
            reached += rising[:end]
        return reached

    def take_moved(self) -> Iterator[tuple[str, Decimal]]:
        """Return the accounts whose best price has improved since this was asked last, with that price."""
        for ladder in self._trails.values():
            yield from ladder.take_moved()
