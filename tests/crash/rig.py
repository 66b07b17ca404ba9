"""One book under attack: an engine that dies again and again, a venue that outlives it, a source that insists.

The venue is ``simbroker`` in a process of its own. A source sends every request again, the very same bytes, until it
is answered. The operator is part of it, as in life: where a broker cannot prove that it never had an order (class N),
a person looks at the broker's book and says so; an account halted for unknown orders is armed again once none is left.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import httpx

import tests.conftest  # noqa: F401 (a run by hand, too, keeps its keys in a directory of its own)
from engine.cli.common import HELD
from engine.loadtest.dialects import DIALECTS
from tests.crash.history import (
    NEAR_NS,
    History,
    Journal,
    Life,
    Sent,
    broken_chain,
    canaries,
    moved,
    read_journal,
    same_state,
    violations,
)
from tests.crash.storm_accounts import PLACE
from tests.crash.zygote import ForkedEngine, PlainEngine
from tests.integration.test_servers_profile import put_accounts as put_mongo_accounts
from tests.processes import VenueProcess, signal_document, volley, write_config
from tests.world import put_accounts

CLASSES = {"D": "alpaca", "T": "binance", "N": "kite"}
"""What a broker's client ids are worth: durable; unique among open orders only; a label."""
CASH = Decimal(100_000)
MOST = Decimal(50)
# Long, since a run by hand is often the least of all that goes on on a machine; a case needs a second or two.
START_S = 300.0
DEATH_S = 10.0
ANSWER_S = 300.0
SETTLE_S = 300.0
ASK_THE_BOOK_AFTER_S = 1.0
SECRET = "cnry-rig+/=&%k3~Vx9"
PROC = Path("/proc")
KILLED = -9 if os.name == "posix" else signal.SIGTERM
T = TypeVar("T")

Engine = ForkedEngine | PlainEngine
MakeEngine = Callable[[Path], Engine]


def is_stopped(pid: int) -> bool:
    """Say whether a process is held up by SIGSTOP."""
    if not PROC.exists():
        said = subprocess.run(
            ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, check=False
        )
        return said.stdout.strip().startswith(b"T")
    try:
        stat = (PROC / str(pid) / "stat").read_text("utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


class RigError(AssertionError):
    """The rig could not do what a case needs: no verdict on the engine, unless it hangs."""


@dataclass(slots=True)
class Verdict:
    """What came of one book."""

    kills: int = 0
    stops: int = 0
    signals: int = 0
    orders: int = 0
    resolved_by_hand: int = 0
    rearmed: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


class Book:
    """An engine's home, its accounts on a venue, and everything that happened to them."""

    def __init__(
        self,
        directory: Path,
        make: MakeEngine,
        venue: VenueProcess,
        kind: str,
        name: str,
        *,
        accounts: int = 3,
        per_second: int | None = None,
        logged_in: bool = True,
        servers: tuple[str, str] | None = None,
        **sections: dict[str, Any],
    ) -> None:
        """``servers``: the addresses of Redis and MongoDB, for the profile that has them."""
        self.kind = kind
        self.venue = venue
        self.dialect = DIALECTS[CLASSES[kind]]
        self.home = directory / "home"
        self.home.mkdir(mode=0o700, parents=True)
        self.documents = [self._document(name, number, per_second) for number in range(accounts)]
        if not logged_in:
            for document in self.documents:
                del document["credentials"][self.dialect.token]
        self._logged_in = logged_in
        self.owners = {d["credentials"][self.dialect.key]: d["id"] for d in self.documents}
        defaults: dict[str, dict[str, Any]] = {
            "engine": {"reply_timeout_s": 0.5},
            "market": {"source": "none"},
            "limits": {"price_reference": "when_available"},
            "safety": {"watchdog_s": 0},
        }
        self.redis_url, self._mongo_url = servers or ("", "")
        if servers:
            defaults["storage"] = {
                "profile": "servers", "redis_url": self.redis_url, "mongo_url": self._mongo_url,
            }  # fmt: skip
        for section, values in sections.items():
            defaults.setdefault(section, {}).update(values)
        write_config(self.home, **defaults)
        self.put(self.documents)
        self.engine = make(self.home)
        self.sent: dict[str, Sent] = {}
        self.journal = Journal()
        """As it was read last."""
        self.requests: list[dict[str, Any]] = []
        self._heard = venue.get("/sim/summary")["requests"]
        self.lives: list[Life] = []
        self.arms: list[str] = []
        """Failpoints of the next starts, in turn; none are armed once it is empty."""
        self.verdict = Verdict()
        self.stopped_past_check = False
        self.valid_for_s = 60.0
        self.always: list[dict[str, Any]] = []
        self.hit = 0
        """How often an engine died of what it was armed with."""
        self._armed = False
        self._closed = False
        self._watch: threading.Thread | None = None
        self._unknown_since: dict[str, float] = {}
        self._commands = 0
        venue.post("/sim/price", {self.dialect.symbol: str(self.dialect.price)})

    def _document(self, name: str, number: int, per_second: int | None) -> dict[str, Any]:
        credentials = self.dialect.credentials(name, number)
        credentials = {k: SECRET if v == "loadtest-secret" else v for k, v in credentials.items()}
        limits: dict[str, Any] = {"max_order_quantity": str(MOST)}
        if per_second is not None:
            limits["max_orders_per_second"] = per_second
        return {
            "id": f"{name}-{number:02d}",
            "broker": self.dialect.name,
            "base_url": self.venue.url,
            "credentials": credentials,
            "sizing": {"method": "fixed", "quantity": self.dialect.quantity},
            "limits": limits,
        }

    def put(self, documents: list[dict[str, Any]]) -> None:
        """Store accounts, as an import by another process does."""
        if self._mongo_url:
            asyncio.run(put_mongo_accounts(self.home, self._mongo_url, "pymongo", documents))
        else:
            asyncio.run(put_accounts(self.home, documents))

    # ---- life and death ------------------------------------------------------------------------------------------

    def start(self, *, connected: bool = True) -> None:
        """Start the engine, again and again where it is armed to die as it starts, until it serves."""
        while True:
            self.engine.arm = self.arms.pop(0) if self.arms else ""
            self._armed = bool(self.engine.arm)
            self.lives.append(Life(time.monotonic_ns()))
            self.engine.spawn()
            if not self._serves():
                self.note_death()
                continue
            if not (connected and self._logged_in) or self.tolerant(self._wait_connected):
                return
            self.note_death()

    def _wait_connected(self) -> None:
        self.engine.wait_connected(len(self.documents), START_S)

    def _serves(self) -> bool:
        try:
            self.engine.wait_line(START_S)
        except AssertionError:
            if self.alive():
                raise
            return False
        return True

    def tolerant(self, act: Callable[[], object]) -> bool:
        """Do something; say ``False`` if the engine died under it."""
        try:
            act()
        except (httpx.HTTPError, AssertionError):
            if not self.dies(DEATH_S):
                raise
            return False
        return True

    def alive(self) -> bool:
        """Say whether the engine runs."""
        return self.engine.process is not None and self.engine.process.poll() is None

    def dies(self, within_s: float) -> bool:
        """Say whether the engine ends by itself soon."""
        deadline = time.monotonic() + within_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def hold_up(self) -> None:
        """Watch for an engine that is stopped (SIGSTOP), until the book is closed.

        Meanwhile nobody else may take the book; once every signal is too old, let the engine go on.
        """
        self._watch = threading.Thread(target=self._hold_up, name="hold-up", daemon=True)
        self._watch.start()

    def _hold_up(self) -> None:
        while not self._closed:
            process = self.engine.process
            if process is None or not is_stopped(process.pid):
                time.sleep(0.005)
                continue
            second = volley(self.home, "engine")
            if second.returncode != HELD:
                text = f"I9: a second engine ended with {second.returncode}: {second.stderr}"
                self.verdict.violations.append(text)
            stale_ns = max((sent.until_ns for sent in self.sent.values()), default=0)
            time.sleep(max(0.0, (stale_ns + 2 * NEAR_NS - time.monotonic_ns()) / 1e9))
            self.verdict.stops += 1
            self.hit += 1
            os.kill(process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it without warning."""
        self._armed = False
        if self.engine.process is not None:
            self.engine.process.kill()
        self.note_death()

    def note_death(self) -> None:
        """Take down what a dead engine left: its journal, and what the venue had heard by then."""
        status = self.engine._gone()
        self.lives[-1].ended_ns = time.monotonic_ns()
        self.verdict.kills += 1
        self.hit += self._armed
        self._armed = False
        if status != KILLED:
            said = self.engine.errors.read_text("utf-8")[-2000:]
            raise RigError(f"the engine ended by itself with {status}: {said}")
        self.read()

    def read(self) -> None:
        """Read the journal and what the venue has heard since the last time, and judge what moved between."""
        rows = self.venue.get("/sim/log", after=self._heard)
        self._heard = rows[-1]["n"] if rows else self._heard
        rows = [row for row in rows if row["key_id"] in self.owners]
        self.requests += [r for r in rows if r["fault"] or r["client_order_id"]]
        before, self.journal = self.journal, read_journal(self.home / "journal.sqlite3")
        self.verdict.violations += moved(before, self.journal, rows)

    # ---- source and operator ---------------------------------------------------------------------------------------

    def ask(
        self, method: str, path: str, document: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Make one call until it is answered, whatever dies meanwhile."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            try:
                answer = self.engine.request(method, path, json=document)
            except httpx.HTTPError:
                if self.dies(0.5):
                    self.note_death()
                    self.start()
                elif time.monotonic() > deadline:
                    raise RigError(f"{method} {path}: no answer") from None
                continue
            if answer.status_code in {429, 503} and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            return answer.status_code, answer.json()

    def signal(self, signal_id: str, path: str = "/v1/signals", **fields: Any) -> Sent:
        """Send one signal until it is answered."""
        own = {"id": signal_id, "symbol": self.dialect.symbol, "valid_for_s": self.valid_for_s}
        sent = self.sent[signal_id] = Sent(signal_document(**(own | fields)))
        sent.answers.append(self.ask("POST", path, sent.document))
        return sent

    def refuse(self, signal_id: str) -> None:
        """Send a signal that must come to nothing: no account may act on it."""
        before = len(self.book())
        sent = self.signal(signal_id)
        self.until(self.settled, what="nothing is under way")
        if len(self.book()) != before:
            self.verdict.violations.append(f"I8: {sent.key} was sent under the kill switch")

    def repeat(self, sent: Sent) -> None:
        """Send a signal once more that was answered before."""
        sent.answers.append(self.ask("POST", "/v1/signals", sent.document))

    def command(self, command: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Give one command, with the same id until it is answered."""
        self._commands += 1
        document = {"id": f"rig-{self._commands}", "command": command, **fields}
        return self.ask("POST", "/v1/commands", document)

    def rows(self, table: str, **where: object) -> list[dict[str, Any]]:
        """Return the rows of a list."""
        found: list[dict[str, Any]] = []
        after: str | None = None
        while True:
            more = {"limit": 1000, **where} | ({"after": after} if after else {})
            query = "&".join(f"{name}={value}" for name, value in more.items())
            status, page = self.ask("GET", f"/v1/{table}?{query}")
            if status != 200:
                raise RigError(f"{table}: {page}")
            found += page["items"]
            after = page["next"]
            if after is None:
                return found

    def until(self, fact: Callable[[], T], seconds: float = SETTLE_S, what: str = "") -> T:
        """Poll until a fact is true; an engine that dies meanwhile is started again."""
        deadline = time.monotonic() + seconds
        while not (value := fact()):
            if self.engine.process is not None and not self.alive():
                self.note_death()
                self.start()
            if time.monotonic() > deadline:
                raise RigError(f"not within {seconds:g} s: {what}: {self.state()}")
            time.sleep(0.01)
        return value

    def state(self) -> str:
        """Return what is still open, in short."""
        if not self.alive():
            return "the engine is down"
        rows = [r for r in self.rows("orders") if r["status"] not in _ENDED]
        return str([(r["cl_ord_id"], r["status"], r["text"]) for r in rows[:5]])

    def book(self) -> list[dict[str, Any]]:
        """Return this book's orders at the venue."""
        return [row for row in self.venue.orders() if row["key_id"] in self.owners]

    def works(self) -> bool:
        """Say whether any order of this book works at the venue."""
        return any(row["status"] not in _ENDED for row in self.book())

    def usable(self, account: str) -> bool:
        """Say whether an account can trade."""
        return any(
            row["id"] == account and row["connection"] == "connected"
            for row in self.rows("accounts")
        )

    def expect_halt(self) -> None:
        """Read the journal of the living engine: the firm is halted there, too, and nothing came since (I8)."""
        self.until(self._halt_is_kept, what="the kill latch is in the journal")

    def _halt_is_kept(self) -> bool:
        self.read()
        return self.journal.halts.get("all", ("",))[0] == "halted"

    def fault(self, *faults: dict[str, Any]) -> None:
        """Put faults of placing orders in force, instead of those before; ``always`` are in force besides."""
        every = [{"match": PLACE[self.dialect.name], **f} for f in (*faults, *self.always)]
        self.venue.post("/sim/faults", every)

    def settled(self) -> bool:
        """Say whether every order has its proof; do meanwhile what an operator does."""
        status, answer = self.ask("GET", "/v1/status")
        engine = answer["engine"]
        if status != 200 or (not engine["open_orders"] and not engine["unknown_orders"]):
            return status == 200
        rows = self.rows("orders")
        self._look_into_the_book([row for row in rows if row["status"] == "unknown"])
        return not any(row["status"] in {"unknown", "pending_new"} for row in rows)

    def _look_into_the_book(self, unknown: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        for row in unknown:
            self._unknown_since.setdefault(row["cl_ord_id"], now)
        if self.kind != "N":
            return
        old = [
            row["cl_ord_id"]
            for row in unknown
            if now - self._unknown_since[row["cl_ord_id"]] > ASK_THE_BOOK_AFTER_S
        ]
        there = {row["client_order_id"] for row in self.book()} if old else set()
        for cl_ord_id in old:
            exists = cl_ord_id in there
            status, _ = self.command("resolve_unknown", cl_ord_id=cl_ord_id, exists=exists)
            self.verdict.resolved_by_hand += status == 200

    def rearm_doubted(self) -> None:
        """Arm accounts again that were halted for unknown orders, once none is left."""
        for row in self.rows("accounts"):
            if row["state"] == "halted":
                self.command("rearm", scope=f"account:{row['id']}", reason="no unknown order left")
                self.verdict.rearmed += 1

    def cancel_all(self) -> None:
        """Take back what rests, until nothing works."""

        def nothing_works() -> bool:
            rows = [r for r in self.rows("orders") if r["status"] not in _ENDED]
            for row in rows:
                if row["status"] != "pending_cancel":
                    self.command("cancel_order", cl_ord_id=row["cl_ord_id"])
            return not rows

        self.until(nothing_works, what="nothing works")

    # ---- the end -------------------------------------------------------------------------------------------------

    def judge(self, *, again: bool = True) -> Verdict:
        """Let everything end, stop the engine cleanly, recover once more for nothing, and compare the books."""
        self.venue.post("/sim/faults", [])
        self.until(self.settled, what="every order is proven")
        self.cancel_all()
        self.stop()
        self.read()
        verdict = self.verdict
        if again:
            self.start()
            self.stop()
            before = self.journal
            self.read()
            verdict.violations += same_state(before, self.journal)
        history = self.history()
        verdict.violations += violations(history)
        verdict.violations += broken_chain(self.home / "journal.sqlite3")
        verdict.violations += canaries(self.home, {"an account's secret": SECRET})
        verdict.signals = len(self.sent)
        verdict.orders = len(history.orders)
        for row in history.final.orders.values():
            verdict.statuses[row["status"]] = verdict.statuses.get(row["status"], 0) + 1
        for row in history.requests:
            if row["fault"]:
                verdict.faults[row["fault"]] = verdict.faults.get(row["fault"], 0) + 1
        return verdict

    def stop(self) -> None:
        """Stop the engine cleanly."""
        status = self.engine.stop(START_S)
        self.lives[-1].ended_ns = time.monotonic_ns()
        if status != 0:
            raise RigError(f"a clean stop ended with {status}")

    def history(self) -> History:
        """Return everything that happened, as the checker wants it."""
        keys = self.owners
        return History(
            orders=self.book(),
            requests=self.requests,
            money=[row for row in self.venue.get("/sim/accounts") if row["key_id"] in keys],
            owners=keys,
            final=self.journal,
            sent=list(self.sent.values()),
            lives=self.lives,
            accounts=tuple(document["id"] for document in self.documents),
            most=MOST,
            cash=CASH if self.kind == "D" else None,
            stopped_past_check=self.stopped_past_check,
        )

    def close(self) -> None:
        """Leave nothing running."""
        self._closed = True
        if self._watch is not None:
            self._watch.join()
        self.engine.kill()
        self.engine.http.close()


_ENDED = frozenset({"filled", "canceled", "rejected", "expired", "denied", "replaced"})
