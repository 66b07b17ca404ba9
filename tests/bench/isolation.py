"""Whether one sick account changes what the others' orders take: ``python tests/bench/isolation.py``.

For every kind of sickness two engines run side by side, each in a process of its own with the same healthy accounts
at one simulated venue and one more account at another venue, which is sick for one of the engines. Signals go
to all accounts of the engines in turn, so that the machine's moods hit both alike. Printed are p50 and p99 of the
healthy accounts' orders: ``send`` from the durable plan to the last byte, ``ack`` from there to the answer, and the
whole of both; each with, without, and the ratio. The ratio is the median over blocks of twenty rounds, since a single
stall of the machine decides a p99 over all. ``none`` is nobody sick: how far from 1 the method itself strays.

``--accounts 50 --rounds 120 --kinds none,dead,silent,slow,expired,exhausted``; exit status 1 when a ratio of the
whole at p99 is above ``--most 1.1``. Rounds are few: an account may send 140 entries a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine.telemetry.runtime import settle_garbage_collection  # noqa: E402
from tests.processes import VenueProcess, alpaca, environment, signal_document  # noqa: E402
from tests.servers import free_port  # noqa: E402
from tests.world import World, world  # noqa: E402

SICK = 900  # its number; its key at the venue is KEY900
OF_IT = {"account": f"KEY{SICK}"}
BLOCK = 20  # rounds
KINDS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "dead": [],  # nothing listens at its address
    "silent": [{"action": "hang", "times": 0, "match": OF_IT}],
    "slow": [{"action": "delay", "delay_s": 0.5, "times": 0, "match": OF_IT}],
    "expired": [{"action": "http_401", "times": 0, "match": OF_IT}],
    "exhausted": [
        {"action": "http_429", "retry_after_s": 1, "times": 0, "match": OF_IT | {"method": "POST"}}
    ],
}


def say(line: str) -> None:
    """Write a line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


PARTS = ("send", "ack", "whole")
ANSWER_S = 30.0


# ---- the engine's side: one round per line on stdin, its figures as a line on stdout


async def serve(path: Path, healthy: str, other: str, accounts: int) -> None:
    """Run an engine until stdin ends."""
    documents = [alpaca(number, healthy) for number in range(accounts)]
    documents.append(alpaca(SICK, other))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    limits = {"max_orders_per_second": 100_000, "price_reference": "when_available"}
    try:
        async with world(
            path, documents, connected=accounts, limits=limits, market={"source": "none"}
        ) as made:
            settle_garbage_collection()
            say("ready")
            while line := await reader.readline():
                say(json.dumps(await one_round(made, line.decode().strip())))
    finally:
        pipe.close()


async def one_round(made: World, name: str) -> dict[str, list[int]]:
    """Send one signal to all; return the healthy accounts' latencies in microseconds."""
    engine = made.engine
    body = json.dumps(signal_document(id=name, valid_for_s=2.0)).encode()
    await engine.handle_signal(body, received_ns=time.monotonic_ns())
    record = engine.records[f"bot/{name}"]
    orders = [order for account, order in record.orders.items() if account != f"A-{SICK:03d}"]
    async with asyncio.timeout(ANSWER_S):
        while not all(order.status.terminal for order in orders):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    unsent = [
        f"{order.account}: {order.code} {order.text}" for order in orders if not order.acked_ns
    ]
    if unsent:
        raise SystemExit(f"{name}: {len(unsent)} healthy orders were not answered: {unsent[0]}")
    send = [(order.last_byte_ns - order.planned_ns) // 1000 for order in orders]
    ack = [(order.acked_ns - order.last_byte_ns) // 1000 for order in orders]
    return {"send": send, "ack": ack, "whole": [a + b for a, b in zip(send, ack, strict=True)]}


# ---- the other side


class Engine:
    """One engine in a process of its own."""

    def __init__(self, path: Path, healthy: str, other: str, accounts: int) -> None:
        command = [sys.executable, __file__, "--serve", str(path), healthy, other, str(accounts)]
        with (path / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(),
            )
        self._path = path
        self.figures: dict[str, list[list[int]]] = {part: [] for part in PARTS}  # by round

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if not line:
            raise SystemExit((self._path / "stderr").read_text())
        return line

    def wait(self) -> None:
        """Wait until its accounts are connected."""
        self._read()

    def run(self, name: str, *, count: bool) -> None:
        """Run one round and note its figures."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n".encode())
        self._process.stdin.flush()
        for part, values in json.loads(self._read()).items():
            if count:
                self.figures[part].append(values)

    def blocks(self, part: str, rounds: int) -> list[list[int]]:
        """Return the figures of every ``rounds`` rounds together."""
        found = self.figures[part]
        return [list(chain(*found[at : at + rounds])) for at in range(0, len(found), rounds)]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextmanager
def pair(kind: str, path: Path, accounts: int) -> Iterator[tuple[Engine, Engine]]:
    """Run an engine with a sick account and one without, connected."""
    with ExitStack() as stack:
        healthy, other, sick = (
            stack.enter_context(VenueProcess(_made(path / name), "--still", "--cash", "1000000000"))
            for name in ("healthy", "other", "sick")
        )
        address = f"http://127.0.0.1:{free_port()}" if kind == "dead" else sick.url
        engines = []
        for name, at in (("with", address), ("without", other.url)):
            engine = Engine(_made(path / name), healthy.url, at, accounts)
            stack.callback(engine.close)
            engines.append(engine)
        for engine in engines:
            engine.wait()
        engines[0].run("first", count=False)  # it was well once
        if KINDS[kind]:
            sick.post("/sim/faults", KINDS[kind])
        yield engines[0], engines[1]


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def measure(kind: str, accounts: int, rounds: int) -> tuple[Engine, Engine]:
    """Run one kind; return both engines with their figures."""
    with (
        tempfile.TemporaryDirectory(prefix="volley-isolation-", ignore_cleanup_errors=True) as path,
        pair(kind, Path(path), accounts) as (sick, well),
    ):
        for number in range(-10, rounds):
            for engine in (sick, well) if number % 2 else (well, sick):
                engine.run(f"s-{number + 10}", count=number >= 0)
        return sick, well


def percentile(values: list[int], share: float) -> float:
    """Return a percentile."""
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def report(kind: str, sick: Engine, well: Engine) -> float:
    """Print a kind's figures; return the whole's ratio at p99."""
    ratio = 0.0
    for part in PARTS:
        cells = []
        for share in (0.5, 0.99):
            with_, without = (percentile(e.blocks(part, 10**6)[0], share) for e in (sick, well))
            blocks = zip(sick.blocks(part, BLOCK), well.blocks(part, BLOCK), strict=True)
            ratio = statistics.median(
                percentile(a, share) / percentile(b, share) for a, b in blocks
            )
            cells.append(f"{with_:8.0f} {without:8.0f} {ratio:6.2f}")
        say(f"{kind:10s} {part:6s} {'   '.join(cells)}")
    return ratio


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--most", type=float, default=1.1)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        path, healthy, other, accounts = args.serve
        asyncio.run(serve(Path(path), healthy, other, int(accounts)))
        return 0
    say(f"{args.accounts} healthy accounts and one other, {args.rounds} signals each; µs")
    say(" " * 17 + "  p50 with  without  ratio   p99 with  without  ratio")
    ratios = {
        kind: report(kind, *measure(kind, args.accounts, args.rounds))
        for kind in args.kinds.split(",")
    }
    worst = max(ratios, key=ratios.__getitem__)
    say(f"worst at p99 of the whole: {worst} {ratios[worst]:.2f} (goal {args.most:g})")
    return int(ratios[worst] > args.most)


if __name__ == "__main__":
    sys.exit(main())
