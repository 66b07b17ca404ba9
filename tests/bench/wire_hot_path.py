"""What ``WirePool.send`` and the reading of its reply cost without any system call.

``python tests/bench/wire_hot_path.py [--orders 200000]`` runs a real pool and its connection on a
transport that only counts, so what is left is our own Python and the parser. Best of five; beside it the
parser alone on the same reply, and the stamps (three readings of the clock) alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from httptools import HttpResponseParser

from engine.brokers.connection import Connection
from engine.brokers.wire import Exchange, WireHub, WirePool
from tests.bench.wire_floor import REPLY, REQUEST


class Counting:
    """A transport that takes everything at once."""

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


class Quiet(Exchange):
    __slots__ = ()

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        pass

    def on_failure(self, left: bool, reason: str) -> None:
        raise AssertionError(reason)


class Sink:
    """The callbacks the wire has, empty."""

    def on_message_begin(self) -> None:
        pass

    def on_body(self, piece: bytes) -> None:
        pass

    def on_message_complete(self) -> None:
        pass


def best(work: Callable[[int], None], orders: int) -> float:
    """Return microseconds an order."""
    found = []
    for _ in range(5):
        start = time.perf_counter_ns()
        work(orders)
        found.append((time.perf_counter_ns() - start) / 1e3 / orders)
    return min(found)


async def measure(orders: int) -> dict[str, float]:
    hub = WireHub()
    hub.attach()
    pool = WirePool(hub, "venue", 1, tls=False)
    pool._stopped = False
    lane = pool._orders
    connection = Connection(lane)
    transport: Any = Counting()
    connection.connection_made(transport)
    lane.adopt(connection)
    parser = HttpResponseParser(Sink())

    def both(count: int) -> None:
        for _ in range(count):
            pool.send(REQUEST, Quiet())
            connection.data_received(REPLY)

    def parse(count: int) -> None:
        for _ in range(count):
            parser.feed_data(REPLY)

    def clock(count: int) -> None:
        for _ in range(count):
            time.monotonic_ns()
            time.monotonic_ns()
            time.monotonic_ns()

    found = {
        "send and reply": best(both, orders),
        "parser alone": best(parse, orders),
        "clock alone": best(clock, orders),
    }
    connection.drop("")
    if hub.timer is not None:
        hub.timer.cancel()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", type=int, default=100_000)
    for name, cost in asyncio.run(measure(parser.parse_args().orders)).items():
        sys.stdout.write(f"{name:16}{cost:7.2f} µs an order\n")


if __name__ == "__main__":
    main()
