"""How long a start takes with many open intents (G17).

    python -m tests.bench.recovery [INTENTS]

A book is written with that many intents of whose orders nothing is known, as an engine leaves it that is killed right
after its plans were durable. ``ready`` is the time from opening the journal to an engine that may take signals: the
file checked, everything loaded, every intent an unknown order with its exposure counted. Then the engine is connected
to a simulated venue and every intent looked up: ``resolved``, which is the broker's speed rather than ours.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import logging
import pstats
import sys
import tempfile
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import orjson

from engine.clock import rfc3339
from engine.documents import signal_document
from engine.home import Home
from engine.model.enums import OrderStatus, SignalState
from engine.model.identifiers import ClOrdIDs
from engine.signal_record import SignalRecord
from engine.stores.journal import Journal
from engine.stores.journal_rows import SignalEntry
from engine.wiring import build_engine
from tests.helpers import make_order, make_signal
from tests.processes import VenueProcess, alpaca
from tests.world import eventually, put_accounts, settings

ACCOUNTS = 200


async def write_book(path: Path, intents: int) -> None:
    """Write signals for ``ACCOUNTS`` accounts each, durable and not sent, and stop without a word."""
    journal = Journal(path)
    await journal.open()
    now = datetime.now(UTC)
    for number in range(max(intents // ACCOUNTS, 1)):
        signal = make_signal(f"s-{number}", issued_at=now, valid_for_s=Decimal(86_400))
        ids = ClOrdIDs(journal.book, signal.source, signal.id)
        record = SignalRecord(signal, "api", now, SignalState.ACCEPTED)
        for account in range(min(ACCOUNTS, intents)):
            name = f"A-{account:03}"
            record.orders[name] = make_order(
                ids.make(name, "entry"), account=name, created_at=now, source=signal.source,
                signal_id=signal.id, strategy=signal.strategy,
            )  # fmt: skip
        entry = SignalEntry(
            signal.source, signal.id, signal.body_hash, orjson.dumps(signal_document(signal)), "api",
            rfc3339(now), record.state.value, "", "", record.plan(),
        )  # fmt: skip
        await journal.commit_signal(entry)
    await journal.commit_fact("bench", "intents", {"number": intents})
    await journal.close()


async def measure(home: Home, intents: int, *, profile: bool, lookups: bool) -> dict[str, float]:
    """Start an engine on the book; return the seconds each part took."""
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    began, busy = time.perf_counter(), time.process_time()
    engine = await build_engine(home, settings())
    ready, busy = time.perf_counter() - began, time.process_time() - busy
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(25)
    unknown = sum(order.status.value == "unknown" for order in engine.orders.orders.values())
    assert unknown == intents, f"{unknown} unknown orders of {intents}"
    took = {"ready": ready, "of it CPU": busy}
    try:
        if lookups:
            began = time.perf_counter()
            await engine.start()
            await eventually(
                lambda: all(
                    o.status is not OrderStatus.UNKNOWN for o in engine.orders.orders.values()
                ),
                600.0,
            )
            took["resolved"] = time.perf_counter() - began
    finally:
        await engine.stop()
    return took


def main() -> int:
    """Print the times of one recovery; exit status 1 beyond 2 s for 10,000 intents, 10 s for 100,000."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("intents", nargs="?", type=int, default=10_000)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--lookups", action="store_true", help="also against the simulated venue")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    intents = max(args.intents // ACCOUNTS, 1) * min(ACCOUNTS, args.intents)
    with (
        tempfile.TemporaryDirectory() as directory,
        VenueProcess(Path(directory), "--still") as venue,
    ):
        home = Home(Path(directory) / "home")
        asyncio.run(put_accounts(home.path, [alpaca(n, venue.url) for n in range(ACCOUNTS)]))
        asyncio.run(write_book(home.journal, intents))
        took = asyncio.run(measure(home, intents, profile=args.profile, lookups=args.lookups))
    print(  # noqa: T201 (its purpose)
        f"{intents} open intents: " + ", ".join(f"{name} {s:.2f} s" for name, s in took.items())
    )
    return int(took["ready"] > (2.0 if intents <= 10_000 else 10.0))


if __name__ == "__main__":
    sys.exit(main())
