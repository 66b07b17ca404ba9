"""How long each order took, from the rows of orders: the newest few thousand, by broker and account."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from engine.client import Row
from engine.model import tables
from gui import formatting as fmt
from gui.bridge import Store

KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered order. ``send_us``: from plan to first byte; ``ack_us``: from last byte to answer."""

    at: float
    key: str
    broker: str
    account: str
    signal: str
    symbol: str
    side: str
    send_us: float
    ack_us: float

    @property
    def total_us(self) -> float:
        """Return what is ours and the broker's together."""
        return self.send_us + self.ack_us


class Samples:
    """Every order is counted once, when its answer is known."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.kept: deque[Sample] = deque(maxlen=KEPT)
        self._seen: set[str] = set()
        self.fresh = True
        store.watch(tables.ORDERS, self._on_rows, self._on_reset)
        self._on_reset()

    def _on_reset(self) -> None:
        self.kept.clear()
        self._seen.clear()
        self._on_rows(self._store.rows(tables.ORDERS), ())

    def _on_rows(self, changed: Iterable[str], _removed: object) -> None:
        rows = self._store.rows(tables.ORDERS)
        for key in changed:
            if key not in self._seen and (row := rows.get(key)) and row.get("ack_us") is not None:
                self._add(key, row)

    def _add(self, key: str, row: Row) -> None:
        at = fmt.epoch(row.get("created_at"))
        if at is None:
            return
        if len(self.kept) == KEPT:
            self._seen.discard(self.kept[0].key)
        self._seen.add(key)
        self.fresh = True
        self.kept.append(
            Sample(
                at, key, str(row.get("broker")), str(row.get("account")),
                f"{row.get('source')}/{row.get('signal_id')}", str(row.get("symbol")), str(row.get("side")),
                float(row.get("first_byte_us") or 0), float(row["ack_us"]),
            )
        )  # fmt: skip

    def of(self, whose: str) -> list[Sample]:
        """Return those of ``broker:NAME``, of ``account:ID``, or (empty) all."""
        kind, _, name = whose.partition(":")
        if not kind:
            return list(self.kept)
        return [sample for sample in self.kept if getattr(sample, kind) == name]

    def names(self) -> list[str]:
        """Return what may be chosen: brokers, then accounts."""
        brokers = sorted({sample.broker for sample in self.kept})
        accounts = sorted({sample.account for sample in self.kept})
        return [f"broker:{name}" for name in brokers] + [f"account:{name}" for name in accounts]

    def slowest(self, count: int) -> list[Sample]:
        """Return the slowest orders, the worst first."""
        return sorted(self.kept, key=lambda sample: -sample.total_us)[:count]


def percentile(values: list[float], share: float) -> float:
    """Return a percentile of sorted values (nearest rank)."""
    return values[min(len(values) - 1, max(0, -int(-share * len(values) // 1) - 1))]
