"""What a broker says against what the journal expects, line by line (control C25): no I/O, no clocks.

A line counts once two comparisons in a row have found it. Brokers answer from caches, and news passes each other on the
way: one look is no proof. A line that counts stays in the journal until a comparison no longer finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from engine.model.messages import ExecutionReport
from engine.model.numbers import to_text

ORDER: Final = "order"
POSITION: Final = "position"
CASH: Final = "cash"
ADOPT: Final = "adopt"
REPAIR: Final = "repair"
PROVEN: Final = 2
"""So many comparisons in a row must find a difference before it counts."""
FACT: Final = "difference"
"""The kind of fact under which the journal keeps the lines that count."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference that one comparison found. ``subject`` tells lines of an account and kind apart.

    ``qty`` and ``avg_px``: the broker's position; ``report``: the broker's order. Adopting and repairing need them.
    """

    account: str
    kind: str
    subject: str
    symbol: str
    expected: str
    actual: str
    difference: str
    text: str
    code: str = "DRIFTED"
    actions: tuple[str, ...] = (ADOPT, REPAIR)
    value: Decimal | None = None
    qty: Decimal | None = None
    avg_px: Decimal | None = None
    report: ExecutionReport | None = None

    @property
    def key(self) -> str:
        """Return the key of its row in the table ``differences``."""
        return f"{self.account}/{self.kind}/{self.subject}"


@dataclass(slots=True)
class Difference:
    """A line: the newest finding, how often in a row it was made, since when; ``at``: when its values last changed."""

    found: Finding
    since: str
    at: str
    seen: int = 1
    acted: bool = False
    """Its account was latched for it, or a person has lifted that latch knowing of it."""

    @property
    def counts(self) -> bool:
        """Say whether it is believed."""
        return self.seen >= PROVEN

    def row(self, broker: str) -> dict[str, Any]:
        """Return its row of the table ``differences``."""
        found = self.found
        return {
            "key": found.key,
            "account": found.account,
            "broker": broker,
            "kind": found.kind,
            "symbol": found.symbol,
            "expected": found.expected,
            "actual": found.actual,
            "difference": found.difference,
            "value": None if found.value is None else format(found.value.quantize(_CENT), "f"),
            "seen": self.seen,
            "since": self.since,
            "at": self.at,
            "actions": list(found.actions),
            "text": found.text,
        }


_CENT = Decimal("0.01")
_KEPT = ("account", "kind", "subject", "symbol", "expected", "actual", "difference", "text", "code")


@dataclass(slots=True)
class Change:
    """What one comparison changed: lines that count from now on, and lines that are gone."""

    proven: list[Difference] = field(default_factory=list)
    gone: list[Difference] = field(default_factory=list)


class DifferenceBook:
    """Every line by account and key. ``keep`` writes one into the journal (``None``: takes it out)."""

    def __init__(self, keep: Callable[[str, str, dict[str, Any] | None], None]) -> None:
        self._keep = keep
        self._lines: dict[str, dict[str, Difference]] = {}

    def load(self, facts: dict[str, dict[str, Any]]) -> None:
        """Take the lines that counted before a restart."""
        for fact in facts.values():
            # What may be done is known once the broker has been asked again.
            found = Finding(**{name: fact[name] for name in _KEPT}, actions=())
            line = Difference(found, fact["since"], fact["at"], PROVEN, fact["acted"])
            self._of(found.account)[found.key] = line

    def _of(self, account: str) -> dict[str, Difference]:
        return self._lines.setdefault(account, {})

    def _find(self, key: str) -> Difference | None:
        account = key.partition("/")[0]  # ids have no slash
        return self._lines.get(account, {}).get(key)

    def get(self, key: str) -> Difference | None:
        """Return a line that counts."""
        line = self._find(key)
        return line if line is not None and line.counts else None

    def lines(self, account: str | None = None) -> list[Difference]:
        """Return the lines that count, of one account or of all."""
        chosen = self._lines.values() if account is None else (self._lines.get(account, {}),)
        return [line for lines in chosen for line in lines.values() if line.counts]

    def suspected(self, account: str, kind: str) -> bool:
        """Say whether a line waits for its second look."""
        return any(
            not line.counts and line.found.kind == kind
            for line in self._lines.get(account, {}).values()
        )

    def compared(
        self,
        account: str,
        kind: str,
        findings: Iterable[Finding],
        now: str,
        doubtful: Collection[str] = (),
    ) -> Change:
        """Take what one comparison found; lines of ``doubtful`` subjects stay as they are, found or not."""
        change = Change()
        found = {one.key: one for one in findings if one.subject not in doubtful}
        for key, line in list(self._lines.get(account, {}).items()):
            same = line.found.kind == kind
            if same and key not in found and line.found.subject not in doubtful:
                self._drop(line, change)
        for one in found.values():
            self._see(one, now, change)
        return change

    def _see(self, found: Finding, now: str, change: Change) -> None:
        lines = self._of(found.account)
        line = lines.get(found.key)
        if line is None:
            lines[found.key] = Difference(found, now, now)
            return
        before = (line.found.expected, line.found.actual)
        changed = before != (found.expected, found.actual)
        line.at = now if changed else line.at
        counted = line.counts
        line.found = found
        line.seen += 1
        if not counted:
            change.proven.append(line)
        if changed or not counted:
            self.note(line)

    def _drop(self, line: Difference, change: Change) -> None:
        del self._lines[line.found.account][line.found.key]
        if line.counts:
            change.gone.append(line)
            self._keep(FACT, line.found.key, None)

    def drop(self, key: str) -> None:
        """Take out a line that was settled."""
        line = self._find(key)
        if line is not None:
            self._drop(line, Change())

    def forget(self, account: str) -> list[str]:
        """Drop a removed account's lines; return their keys."""
        keys = list(self._lines.get(account, {}))
        for key in keys:
            self.drop(key)
        self._lines.pop(account, None)
        return keys

    def note(self, line: Difference) -> None:
        """Write a line into the journal."""
        kept = {name: getattr(line.found, name) for name in _KEPT}
        fact = {**kept, "since": line.since, "at": line.at, "acted": line.acted}
        self._keep(FACT, line.found.key, fact)


def signed(value: Decimal) -> str:
    """Write a difference with its sign."""
    return f"+{to_text(value)}" if value > 0 else to_text(value)
