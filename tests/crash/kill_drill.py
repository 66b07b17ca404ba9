"""The kill switch against the clock: orders rest and a fan-out is on its way, then the switch is pressed.

    python -m tests.crash.kill_drill --rounds 20 --accounts 200 --orders 5 --hung none|engine|loop|desk

``none``: through the engine's API. ``engine``: the engine is stopped (SIGSTOP) in the middle of the fan-out, the
switch is pressed from a shell, and the engine goes on afterwards. ``loop``: its loop blocks instead (a failpoint).
There the watchdog beside the engine cancels; ``--alone``: there is none, and the shell's process does it.
``desk``: a desk that follows the feed has stopped reading. The venue, a process of its own, stamps what arrives; the
engine writes when it latched. Counted, and never to be anything but 0: orders that arrive more than 10 ms after the
latch, and orders that work at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from engine.kill_latch import FILE, GENERATION, KEPT, TAKEN, KillLatch
from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    until,
    volley,
    write_config,
)

GRACE_S = 0.010
BLOCKED_S = 6.0
AT_RANDOM_S = (0.0, 0.06)
"""When the switch is pressed after a signal was sent: from before it is read to when its orders have left."""
BY = {True: {"watchdog", "latch"}, False: {"latch"}}
"""Who may tell what came of a press, with a watchdog beside the engine and without."""
WORKING = {"new", "accepted", "partially_filled", "pending_cancel", "pending_new"}


@dataclass(frozen=True, slots=True)
class Press:
    """One press: when it was latched (seconds since 1970), how long the latch and all cancels took from there."""

    at: float
    latch_ms: float
    dispatched_ms: float
    clear: bool


@dataclass(frozen=True, slots=True)
class Round:
    """What one press did.

    ``fan_out``: how many of the orders on their way arrived; ``last_order_ms``: when the last order left or arrived,
    counted from the latch; ``arrived_ms``: when the venue stamped it; ``clear``: every account was verified.
    ``dispatched_ms``: when the last cancel left by the canceller's own stamps; ``last_cancel_ms``: when the venue
    stamped the last one that came for the first time.
    """

    latch_ms: float
    dispatched_ms: float
    fan_out: int
    late_orders: int
    last_order_ms: float
    arrived_ms: float
    cancels: int
    last_cancel_ms: float
    clear: bool
    working: int


def venue_log(venue: VenueProcess, after: int) -> list[dict[str, Any]]:
    """Return the requests the venue numbered above ``after``."""
    return list(venue.get("/sim/log", after=after))


def working(venue: VenueProcess) -> int:
    """Return how many orders work at the venue."""
    return sum(order["status"] in WORKING for order in venue.orders())


def kept_ready(home: Path) -> int:
    """Return how many accounts the watchdog of this home has connected."""
    latch = KillLatch(home / FILE)
    kept = int(latch.words[KEPT]) if latch.watchdog_ready() else 0
    latch.close()
    return kept


def _last_cancel(rows: list[dict[str, Any]]) -> float:
    """Return when the last cancel came that was not a repetition."""
    first: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["method"] == "DELETE":
            first.setdefault((row["key_id"], row["path"]), wall(row["at"]))
    return max(first.values())


def wall(stamp: str) -> float:
    """Return a stamp as seconds since 1970."""
    return datetime.fromisoformat(stamp).timestamp()


class Drill:
    """A venue, an engine and its accounts; ``round`` presses the switch once."""

    def __init__(
        self, venue: VenueProcess, engine: EngineProcess, hung: str, accounts: int, orders: int
    ) -> None:
        self.beside = False
        self.venue = venue
        self.engine = engine
        self.hung = hung
        self.accounts = accounts
        self.orders = orders
        self.number = 0
        self.random = random.Random(accounts * orders)

    def round(self) -> Round:
        """Let orders rest, begin a fan-out, press the switch in the middle of it; say what came of it."""
        self.number += 1
        mine = f"r{self.number}"
        for n in range(self.orders):
            self._signal(f"{mine}-{n}")
        resting = self.accounts * self.orders
        until(lambda: working(self.venue) == resting, 60, f"{resting} orders rest")
        before = int(self.venue.get("/sim/log", after=0)[-1]["n"])
        with self._desk():
            fan_out = threading.Thread(target=self._fan_out, args=(f"{mine}-fan",))
            fan_out.start()
            time.sleep(
                self.random.uniform(*AT_RANDOM_S)
            )  # not to wait for anything: the moment is the test
            pressed = self._press()
            fan_out.join()
        until(lambda: working(self.venue) == 0, 30, "nothing works")
        rows = venue_log(self.venue, before)
        orders = [row for row in rows if row["method"] == "POST" and row["path"].endswith("orders")]
        arrived = [(wall(row["at"]) - pressed.at) * 1e3 for row in orders]
        # A living engine's orders queue in the venue's own loop, which stamps each when it gets to it: there the
        # engine's stamp of the first byte counts. One that hung has long been drained when it is latched.
        after = (
            arrived if self.hung in {"engine", "loop"} else self._left(f"{mine}-fan", pressed.at)
        )
        result = Round(
            latch_ms=pressed.latch_ms,
            dispatched_ms=pressed.dispatched_ms,
            fan_out=len(orders),
            late_orders=sum(ms > GRACE_S * 1e3 for ms in after),
            last_order_ms=max(after, default=float("-inf")),
            arrived_ms=max(arrived, default=float("-inf")),
            cancels=sum(row["method"] == "DELETE" for row in rows),
            last_cancel_ms=(_last_cancel(rows) - pressed.at) * 1e3,
            clear=pressed.clear,
            working=working(self.venue),
        )
        self._rearm()
        return result

    def _signal(self, signal_id: str) -> None:
        answer = self.engine.signal(
            id=signal_id, order_type="limit", limit_price="185", time_in_force="gtc"
        )
        assert answer.status_code == 202, answer.text

    def _fan_out(self, signal_id: str) -> None:
        """Send a signal that may be cut short anywhere."""
        with contextlib.suppress(httpx.HTTPError):
            self.engine.signal(
                id=signal_id, order_type="limit", limit_price="185", time_in_force="gtc"
            )

    def _press(self) -> Press:
        if self.hung in {"none", "desk"}:
            said = self.engine.command("kill", reason="drill")
            at = self.engine.get("/v1/status")["halts"][0]["at"]
            until(lambda: all(row["done"] for row in self._rows()), 60, "every account is clear")
            clear = all(row["verified_at"] for row in self._rows())
            return Press(wall(at), said["latch_ms"], said["dispatched_ms"], clear)
        if self.hung == "engine":
            self.engine.pause()
        try:
            command = volley(self.engine.home, "kill", "--json")
        finally:
            if self.hung == "engine":
                self.engine.resume()
        document = json.loads(command.stdout)
        latch = KillLatch(self.engine.home / FILE)
        record = latch.of("all")
        taken = latch.words[TAKEN] == latch.words[GENERATION]
        latch.close()
        # A watchdog that took it and then stood still for a second (a busy machine) is helped out by the command.
        assert taken == self.beside, document
        assert document["by"] in BY[self.beside], document
        assert record is not None, "the latch stands"
        until(lambda: self.engine.status()["trading"] == "halted", 30, "the engine has taken it")
        return Press(
            wall(record["at"]), document["latch_ms"], document["cancels_ms"], document["clear"]
        )

    def _left(self, signal_id: str, latched_at: float) -> list[float]:
        """Return when each order of a signal left, in milliseconds after the latch."""
        answer = self.engine.request("GET", f"/v1/signals/bot/{signal_id}")
        if answer.status_code == 404:  # it was not even read
            return []
        detail = answer.json()
        began = wall(detail["signal"]["received_at"])
        stamps = [row["trace"]["first_byte"] for row in detail["accounts"] if row["trace"]]
        return [(began + ns / 1e9 - latched_at) * 1e3 for ns in stamps if ns is not None]

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.engine.get("/v1/status")["kill"]
        return rows

    def _rearm(self) -> None:
        until(lambda: all(row["done"] for row in self._rows()), 60, "the engine's run has ended")
        self.engine.command("rearm", reason="next round")
        until(lambda: self.engine.status()["trading"] == "active", 10, "armed again")

    @contextlib.contextmanager
    def _desk(self) -> Iterator[None]:
        """Let a desk follow the feed and read nothing of it, where the desk is what hangs."""
        if self.hung != "desk":
            yield
            return
        host, _, port = self.engine.url.removeprefix("http://").partition(":")
        token = self.engine.http.headers["Authorization"]
        with socket.create_connection((host, int(port))) as desk:
            desk.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            desk.sendall(
                f"GET /v1/feed HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
                f"Authorization: {token}\r\n\r\n".encode()
            )
            assert b" 101 " in desk.recv(64)
            yield


@contextlib.contextmanager
def drill(
    directory: Path, hung: str, accounts: int, orders: int, *, beside: bool = True
) -> Iterator[Drill]:
    """Run a venue and an engine with ``accounts`` accounts; ``beside``: with a watchdog that is connected."""
    home = directory / "home"
    home.mkdir()
    with VenueProcess(
        directory, "--still", "--follow-percent", "0", "--rate-limit", "1000000"
    ) as venue:
        write_config(
            home,
            signals={"max_age_s": 60},
            safety={"watchdog_s": 30 if beside else 0},
        )
        import_accounts(home, [alpaca(n, venue.url) for n in range(1, accounts + 1)])
        more = {}
        if hung == "loop":  # in the middle of the first round's fan-out
            hits = accounts * orders + accounts // 2
            more["VOLLEY_FAILPOINTS"] = f"K12.after=pause:{BLOCKED_S:g}@{hits}"
        with EngineProcess(home, **more) as engine:
            engine.wait_connected(accounts, 60)
            made = Drill(venue, engine, hung, accounts, orders)
            made.beside = beside
            if beside:
                until(lambda: kept_ready(home) == accounts, 60, "the watchdog is connected")
            yield made


def main() -> int:
    """Run the drill and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without a watchdog beside the engine")
    parser.add_argument("--hung", choices=("none", "engine", "loop", "desk"), default="none")
    args = parser.parse_args()
    if args.hung == "engine" and not hasattr(signal, "SIGSTOP"):
        say("this system stops no process")
        return 2
    rounds: list[Round] = []
    while len(rounds) < args.rounds:
        with (
            tempfile.TemporaryDirectory(prefix="kill-drill-") as path,
            drill(Path(path), args.hung, args.accounts, args.orders, beside=not args.alone) as made,
        ):
            # A blocked loop is one round of one engine: its failpoint is armed once.
            for _ in range(1 if args.hung == "loop" else args.rounds):
                rounds += [made.round()]
                say(f"{len(rounds):4} {rounds[-1]}")
    late = sum(one.late_orders for one in rounds)
    left = sum(one.working for one in rounds)
    unclear = sum(not one.clear for one in rounds)
    say(
        f"{len(rounds)} presses, hung: {args.hung}, {args.accounts} accounts × {args.orders} orders: {late} orders "
        f"later than {GRACE_S * 1e3:g} ms after the latch, {left} working at the end, {unclear} not verified; "
        f"most of all rounds: latch {_most(r.latch_ms for r in rounds)} ms, last order "
        f"{_most(r.last_order_ms for r in rounds)} ms, cancels dispatched "
        f"{_most(r.dispatched_ms for r in rounds)} ms, at the venue "
        f"{_most(r.last_cancel_ms for r in rounds)} ms; {os.cpu_count()} cores"
    )
    return 1 if late or left or unclear else 0


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _most(values: Any) -> str:
    return f"{max(values):.1f}"


if __name__ == "__main__":
    sys.exit(main())
