"""How fast accounts at OANDA come up under its limits: 2 new connections and 120 requests a second of an address.

The venue keeps the limits and refuses what comes beyond them. Prints, for each number of accounts, when they
were connected, how many connections that took and how many requests were refused.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from decimal import Decimal
from itertools import pairwise

from engine.brokers.oanda.adapter import OandaAdapter
from engine.model.account import Account
from engine.model.enums import ConnectionState
from engine.model.messages import ExecutionReport
from engine.simbroker.config import SimConfig
from engine.simbroker.http import Connection
from engine.simbroker.server import SimBroker

AT_ONCE = 32
"""Sessions being started at a time, as the fleet does."""


class Sink:
    """Notes when an account came up first."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.up: dict[str, float] = {}

    def on_report(self, report: ExecutionReport) -> None: ...

    def on_limits(self, account: str, **told: object) -> None: ...

    def on_ready(self, account: str) -> None: ...

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        if state is ConnectionState.CONNECTED:
            self.up.setdefault(account, time.monotonic() - self.began)


class Counting(SimBroker):
    """Notes when connections were opened."""

    def __init__(self, config: SimConfig) -> None:
        super().__init__(config)
        self.opens: list[float] = []

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        super().opened(connection)
        self.opens.append(time.monotonic())


async def measure(accounts: int, most_s: float) -> None:
    config = SimConfig(
        dialect="oanda", walk=False, follow_percent=Decimal(0), rate_limit=120, latency_ms=20
    )
    sim = Counting(config)
    await sim.start()
    sink, adapter, gate = Sink(), OandaAdapter(allow_simulated=True), asyncio.Semaphore(AT_ONCE)
    sessions = [
        adapter.session(
            Account.model_validate(
                {
                    "id": f"A-{n}",
                    "broker": "oanda",
                    "base_url": f"http://127.0.0.1:{sim.port}",
                    "sizing": {"method": "signal"},
                }
            ),
            {"token": f"token-of-{n:04d}", "account_id": f"101-004-1-{n:04d}"},
            sink,
        )
        for n in range(accounts)
    ]

    async def start(session) -> None:
        async with gate:
            await session.start()

    starts = [asyncio.create_task(start(session)) for session in sessions]
    await asyncio.wait(starts, timeout=most_s)
    ups = sorted(sink.up.values())
    by = {second: sum(up <= second for up in ups) for second in (1, 2, 3, 4, 5, 10, 20, 30)}
    refused = sum(row.status == 429 for row in sim.log.rows())
    say = f"{accounts} accounts: {len(ups)} up, the last after {ups[-1]:.1f} s" if ups else "none"
    apart = min((b - a for a, b in pairwise(sim.opens)), default=0.0)
    sys.stdout.write(
        f"{say}; {len(sim.opens)} connections, at least {apart:.2f} s apart, {refused} requests refused\n"
        f"  up by second: {by}\n"
    )
    sys.stdout.flush()
    for task in starts:
        task.cancel()
    await asyncio.gather(*starts, return_exceptions=True)
    await asyncio.gather(*(session.stop() for session in sessions))
    await adapter.close()
    await sim.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("accounts", type=int, nargs="*", default=[8, 60])
    parser.add_argument("--most-s", type=float, default=90.0)
    asked = parser.parse_args()
    for accounts in asked.accounts:
        asyncio.run(measure(accounts, asked.most_s))


if __name__ == "__main__":
    main()
