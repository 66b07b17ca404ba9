"""One seed: a stretch of a trading day with everything at once, then calm, then judgement."""

from __future__ import annotations

import logging
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.errors import StoreError
from engine.model.account import Account
from engine.model.order import Order
from engine.trading_engine import TradingEngine
from tests.simulation.desk import Desk
from tests.simulation.disk import Disk
from tests.simulation.life import Life
from tests.simulation.loop import Crash
from tests.simulation.oracle import STATE_TABLES, Oracle
from tests.simulation.people import HOURS, account_document, configuration
from tests.simulation.session import CAPABILITIES
from tests.simulation.traffic import Traffic
from tests.simulation.trouble import Trouble
from tests.simulation.venue import Venue
from tests.simulation.world import SECOND, World

MEMORY = Path("/dev/shm")  # a disk in memory, where there is one
CALM_WITHIN_S = 400
SYMBOLS = {"AAPL": Decimal("189.43"), "MSFT": Decimal("402.10"), "TSLA": Decimal("171.05")}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed came to."""

    seed: int
    digest: str
    violations: tuple[str, ...]
    faults: dict[str, int]
    counts: dict[str, int]
    simulated_s: float


class _Trace(logging.Handler):
    """Everything the engine logs, its alerts among it, belongs to the trace."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world
        self.muted = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.muted:
            self._world.trace("log", record.levelname, record.getMessage())


class Day:
    """The world of one seed and the engines that live in it, one after the other."""

    def __init__(self, seed: int, lines: list[str] | None = None, hours: float = 0.0) -> None:
        self.world = World(seed, lines)
        rng = self.world.rng("day")
        self.malice = rng.choice([0.0, 0.03, 0.1, 0.1, 0.25])
        self.config: Config = configuration(rng)
        self.documents: dict[str, Account] = {}
        self.limits_seen: dict[str, list[tuple[Decimal | None, Decimal | None]]] = {}
        self.rates_seen: dict[str, list[int]] = {}
        self.caps_seen: dict[str, list[Decimal | None]] = {}
        self._brokers: dict[str, str] = {}
        for number in range(rng.randint(2, 9)):
            session = {"hours": HOURS} if hours and number % 2 else {}
            self.put_account(account_document(rng, number) | session)
        self.venue = Venue(self.world, SYMBOLS)
        self.disk = Disk(self.world)
        self.oracle = Oracle(self)
        self.venue.tell = self._tell
        self.life: Life | None = None
        self.lives = 0
        self.over = False
        self.peace = False  # everything has come to an end
        self.active_s = hours * 3600 or rng.uniform(6, 30)
        self.busy = max(1, int(hours * 4))  # a whole day is less dense than the stretch of a seed
        self.crash_soon = 0  # steps after which the next life crashes
        self.home = Path(
            tempfile.mkdtemp(prefix="volley-simulation-", dir=MEMORY if MEMORY.is_dir() else None)
        )
        self.traffic = Traffic(self)
        self.desk = Desk(self)
        self.trouble = Trouble(self)
        self._trace = _Trace(self.world)

    # ---- what the parts ask --------------------------------------------------------------------------------------

    @property
    def engine(self) -> TradingEngine:
        """Return the engine that lives now, or lived last."""
        assert self.life is not None
        assert self.life.engine is not None
        return self.life.engine

    def order(self, cl_ord_id: str) -> Order | None:
        """Return an order as the engine knows it."""
        engine = self.life.engine if self.life else None
        return engine.orders.orders.get(cl_ord_id) if engine else None

    def broker_of(self, account: str) -> str:
        """Return an account's broker."""
        return self._brokers[account]

    def rate_of(self, account: str) -> int:
        """Return the most orders a second an account's documents or its broker have ever allowed today."""
        return max(self.rates_seen[account])

    def widest_limits(self, account: str) -> tuple[Decimal | None, Decimal | None]:
        """Return the widest limits of quantity and value an account has had today (``None``: unlimited)."""
        quantities, values = zip(*self.limits_seen[account], strict=True)
        return (
            None if None in quantities else max(quantities),
            None if None in values else max(values),
        )

    def widest_cap(self, account: str) -> Decimal | None:
        """Return the widest limit of a position an account has had today (``None``: unlimited)."""
        caps = [cap for cap in self.caps_seen[account] if cap is not None]
        return max(caps) if len(caps) == len(self.caps_seen[account]) else None

    def venue_position(self, account: str, symbol: str) -> Decimal:
        """Return what an account holds at its broker."""
        held = self.venue.accounts.get(account)
        return held.positions.get(symbol, Decimal(0)) if held else Decimal(0)

    def put_account(self, document: dict[str, Any]) -> None:
        """Put an account into the store, as an import does while an engine runs."""
        account = Account.model_validate(document)
        self.documents[account.id] = account
        self._brokers[account.id] = account.broker
        limits = account.limits
        own = limits.max_orders_per_second
        at_broker = CAPABILITIES[account.broker].burst
        self.rates_seen.setdefault(account.id, []).append(min(own or at_broker, at_broker))
        seen = self.limits_seen.setdefault(account.id, [])
        seen.append((limits.max_order_quantity, limits.max_order_value))
        self.caps_seen.setdefault(account.id, []).append(limits.max_position_quantity)
        self.edited()

    def edited(self) -> None:
        """Tell a living engine that documents changed."""
        life = getattr(self, "life", None)
        if life is not None and not life.dead and life.store is not None:
            life.loop.call_soon(life.store.edited)

    def _tell(self, order: Any, report: Any) -> None:
        if self.life is not None and not self.life.dead:
            self.life.streamed(order, report)

    def began(self, life: Life) -> None:
        """An engine takes signals and commands."""
        self.traffic.began(life)
        self.desk.began(life)

    def failed(self, life: Life, error: BaseException) -> None:
        """Work of ours or the engine's own start failed."""
        if not isinstance(error, StoreError):  # a failing disk may end a start
            self.world.violation(
                "unhandled", f"life {life.number}: {type(error).__name__}: {error}"
            )

    # ---- the day -------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Live through the day and judge it."""
        logger = logging.getLogger("engine")
        before = logger.level, logger.propagate, list(logger.handlers)
        logger.handlers[:] = [self._trace]
        logger.setLevel(logging.INFO)
        logger.propagate = False
        asyncio_logger = logging.getLogger("asyncio")
        asyncio_disabled, asyncio_logger.disabled = asyncio_logger.disabled, True
        try:
            self._live_and_judge()
        except Exception as error:  # noqa: BLE001 (one seed's fault must not end a run of thousands)
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            self.world.violation("simulation", text)
        finally:
            if self.life is not None and not self.life.dead:
                self._end_life()
            asyncio_logger.disabled = asyncio_disabled
            level, logger.propagate, logger.handlers[:] = before
            logger.setLevel(level)
            self.clear()
        return Outcome(
            seed=self.world.seed,
            digest=self.world.digest(),
            violations=tuple(self.world.violations),
            faults=dict(self.world.faults),
            counts=dict(self.world.counts),
            simulated_s=self.world.now_ns / SECOND,
        )

    def clear(self) -> None:
        """Leave nothing behind."""
        self.disk.connection.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _live_and_judge(self) -> None:
        world = self.world
        self.trouble.plan()
        self.traffic.plan()
        self.desk.plan()
        world.after(self.active_s, self._calm)
        self._market()
        end_ns = int((self.active_s * 1.2 + 1500) * SECOND)
        while not self.over and world.now_ns < end_ns:
            self._one_life(end_ns)
        if not self.peace:
            if not self.over:
                world.violation("stuck", f"not at peace: {self._open_ends()}")
            return
        assert self.life is not None
        self.life.loop.crash_at = self.crash_soon = 0
        self.oracle.judge_memory()
        self._flush()
        self.oracle.judge_disk()
        self._recover_twice()

    def _one_life(self, end_ns: int) -> None:
        life = self._new_life()
        if self.crash_soon:
            life.loop.crash_at, self.crash_soon = self.crash_soon, 0
        life.begin()
        try:
            life.loop.live(lambda: self.over or life.ended, end_ns)
        except Crash:
            self.world.counts["crashes"] += 1
            self.world.trace("crash", life.number)
        if self.over:
            return
        self._end_life()
        # Whoever watches over the process starts it again after a while.
        rng = self.world.rng("restart")
        self.world.advance(self.world.now_ns + int(rng.choice([1.2, 2.0, 5.0, 20.0]) * SECOND))
        if self.world.chance("reboot", 0.1):
            self.world.fault("reboot")
            self.world.monotonic_base_ns = rng.randrange(10**15)

    def _new_life(self) -> Life:
        self.lives += 1
        self.world.counts["lives"] += 1
        self.oracle.new_life(self.lives)
        self.life = Life(self, self.lives, self.home, self.config)
        return self.life

    def _end_life(self) -> None:
        assert self.life is not None
        self._trace.muted = True
        self.life.kill()
        self._trace.muted = False

    def _market(self) -> None:
        """Move the prices a little, now and then a lot, until all is calm."""
        if self.world.calm:
            return
        rng = self.world.rng("market")
        symbol = rng.choice(list(SYMBOLS))
        gap = rng.random() < 0.02
        step = Decimal(rng.randint(-400, 400) if gap else rng.randint(-8, 8)) / 10_000
        if gap:
            self.world.fault("price_gap")
        price = (self.venue.prices[symbol] * (1 + step)).quantize(Decimal("0.01"))
        self.venue.move(symbol, price)
        self.world.after(rng.uniform(0.1, 1.5), self._market)

    # ---- the end -------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """No more faults: every session comes back, the desk answers what only a person can, all comes to an end."""
        self.world.calm = True
        self.world.trace("calm")
        if self.life is not None and not self.life.dead:
            self.life.loop.stalled_until_ns = 0
            for session in list(self.life.sessions.values()):
                session.lose("the last reconnection", back_s=0.5)
        self._wait_for_peace(self.world.now_ns + CALM_WITHIN_S * SECOND)

    def _wait_for_peace(self, deadline_ns: int) -> None:
        life = self.life
        if life is not None and life.up and not life.dead:
            if self.engine.journal.failed:  # a person restarts an engine whose journal failed
                self.world.after(1.0, lambda: self._wait_for_peace(deadline_ns))
                raise Crash
            self.desk.answer_unknowns()
            if not self._open_ends():
                self.over = self.peace = True
                return
        if self.world.now_ns > deadline_ns:
            self.world.violation("stuck", self._open_ends())
            self.over = True
            return
        self.world.after(1.0, lambda: self._wait_for_peace(deadline_ns))

    def _open_ends(self) -> str:
        life = self.life
        if life is None or life.engine is None or not life.up:
            return "no engine runs"
        if self.traffic.unanswered or life._tasks:
            return "somebody waits for an answer"
        return self.oracle.open_ends()

    def _live_until(self, life: Life, fact: Callable[[], bool]) -> bool:
        return life.loop.live(fact, self.world.now_ns + 60 * SECOND)

    def _flush(self) -> None:
        life = self.life
        assert life is not None
        life.up = False
        journal = self.engine.journal
        # A command that was on its way, or a report, may change an order while the journal writes.
        for _ in range(10):
            life.hold(journal.flushed())
            if self._live_until(life, lambda: not life._tasks) and not journal._pending:
                return
        self.world.violation("stuck", "the journal does not flush")

    def _recover_twice(self) -> None:
        """Recover from what is durable, twice: the positions are right, and the second time nothing changes."""
        dumps = []
        for _ in range(2):
            self._end_life()
            life = self._new_life()
            life.begin(start=False)
            if not self._live_until(life, lambda life=life: life.up or life.ended) or not life.up:
                self.world.violation("I12", "the engine does not recover")
                return
            self._flush()
            dumps.append(self.disk.dump(*STATE_TABLES))
            problem = self.oracle._positions_differ()
            if problem:
                self.world.violation("I7", f"after recovery {problem}")
        self.oracle.judge_recovery(dumps[0], dumps[1])
        self.world.trace("disk", *(repr(rows) for rows in dumps[1].values()))


def run_seed(seed: int, lines: list[str] | None = None, hours: float = 0.0) -> Outcome:
    """Simulate one seed: a dense stretch of a day, or with ``hours`` so much of one."""
    return Day(seed, lines, hours).run()
