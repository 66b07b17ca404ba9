"""What the engine says of itself: the feed's tables, the lists, latency, readiness, metrics; and its seconds."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from datetime import UTC
from decimal import Decimal
from typing import Any

from engine import __version__
from engine.clock import rfc3339
from engine.documents import signal_from_document
from engine.execution.external import row_of as external_row
from engine.metrics import metrics_text
from engine.model import tables
from engine.model.account import Account
from engine.model.account_state import AccountState
from engine.model.enums import ConnectionState, OrderStatus, TradingState
from engine.model.numbers import ZERO, to_text
from engine.model.tables import KEYS
from engine.notes import Notes
from engine.operator_desk import OperatorDesk
from engine.portfolio.position_keeper import Pnl
from engine.readiness import Readiness
from engine.reconciliation import Reconciliation
from engine.recovery import record_from_entry
from engine.risk.trading_state import FIRM
from engine.risk.usage import Usage
from engine.signal_record import SignalRecord
from engine.surroundings import Surroundings
from engine.trading_engine import TradingEngine
from engine.unknown_orders import UnknownOrders
from engine.views import (
    Row,
    account_row,
    drift_columns,
    fill_row,
    money,
    order_row,
    order_row_from_journal,
    position_row,
    signal_detail,
    signal_row,
)

TICK_S = 0.1
LOOK_EVERY_TURNS = 50  # at what the accounts' sessions need
PNL_POINTS = 3_600
MARKS_WITHIN_S = 60.0
_LIVE = {tables.POSITIONS, tables.ACCOUNTS, tables.DIFFERENCES, tables.EXTERNAL}
"""Lists of what is now; the others are read from the journal."""


class EngineReports:
    """Answers every question about the engine, and keeps its time."""

    def __init__(
        self,
        engine: TradingEngine,
        operator: OperatorDesk,
        reconciliation: Reconciliation,
        surroundings: Surroundings,
    ) -> None:
        self._engine = engine
        self._surroundings = surroundings
        self._reconciliation = reconciliation
        self._operator = operator
        self._pnl: deque[Row] = deque(maxlen=PNL_POINTS)
        self._task: asyncio.Task[None] | None = None
        self._lag_ms = 0.0
        self._worst_lag_ms = 0.0  # of this second
        self._rates = {"signals": 0, "orders": 0}
        self._before = dict(engine.counts)
        self._readiness = Readiness(
            engine.clock,
            engine.fleet.states,
            engine.fleet.sessions,
            engine.dispatcher.lanes,
            engine.alert,
            reconciliation.differences,
        )
        self._usage = Usage(
            engine.config,
            engine.fleet.states,
            engine.keeper,
            engine.pretrade,
            self._day_pnl,
            lambda: rfc3339(engine.clock.now()),
        )
        self._unproven = UnknownOrders(
            engine.clock,
            engine.fleet.states,
            engine.orders.orders.get,
            engine.fleet.sessions,
            engine.reconciler.looks,
        )
        self.notes = Notes(engine)
        self._moved: set[str] = set()  # symbols whose price changed since the last look
        engine.marks.listen(lambda symbol, _price: self._moved.add(symbol))
        self._declare()

    # ---- the tables of the feed ----------------------------------------------------------------------------

    def _declare(self) -> None:
        engine, table = self._engine, self._engine.publisher.table
        table(tables.ENGINE, lambda: ["engine"], lambda _key: self.engine_row())
        table(tables.ACCOUNTS, lambda: list(engine.fleet.states), self._account)
        table(tables.SIGNALS, lambda: list(engine.records), self._signal)
        table(tables.ORDERS, lambda: list(engine.orders.orders)[-3000:], self._order)
        table(tables.FILLS, self._fill_keys, self._fill)
        table(tables.POSITIONS, self._position_keys, self._position)
        table(tables.HALTS, lambda: [latch.scope for latch in engine.states.latches()], self._halt)
        table(tables.KILL, self._kill_keys, self._kill)
        table(tables.LATENCY, lambda: list(engine.latency_stages.stages), self._latency)
        table(tables.PNL, lambda: [point["at"] for point in self._pnl], self._point)
        table(tables.DIFFERENCES, self._difference_keys, self._difference)
        table(tables.EXTERNAL, self._reconciliation.external.keys, self._external)
        table(tables.ALERTS, engine.alerts.keys, engine.alerts.row)
        table(tables.CONTROLS, engine.controls.keys, engine.controls.row)
        table(tables.USAGE, self._usage.keys, self._usage.row)
        table(tables.BARS, engine.bars.keys, engine.bars.row)
        table(tables.STRATEGIES, engine.curves.book.names, engine.curves.row)
        table(tables.UNKNOWN, self._unproven.keys, self._unproven.row)

    def _day_pnl(self, account: str) -> Decimal:
        state = self._engine.fleet.states.get(account)
        baseline = state.day_baseline if state is not None else ZERO
        return self._engine.keeper.pnl(account).total - baseline

    def _account(self, key: str) -> Row | None:
        state = self._engine.fleet.states.get(key)
        return None if state is None else self.account(state)

    def account(self, state: AccountState) -> Row:
        """Return an account's row."""
        engine = self._engine
        latch = engine.states.strictest(f"account:{state.id}", f"broker:{state.account.broker}")
        lane = engine.dispatcher.lanes.get(state.id)
        return account_row(
            state,
            engine.keeper.pnl(state.id),
            (latch.state if latch else TradingState.ACTIVE).value,
            len(lane) if lane else 0,
            engine.latency_stages.account_p50(state.id),
            {
                **self._readiness.columns(state),
                **self._reconciliation.columns(state),
                "updated_at": rfc3339(state.updated_at or engine.clock.now()),
            },
        )

    def _signal(self, key: str) -> Row | None:
        record = self._engine.records.get(key)
        if record is None:
            return None
        return self._signal_row(record) | self.notes.columns(tables.SIGNALS, key)

    def _signal_row(self, record: SignalRecord) -> Row:
        return signal_row(record) | drift_columns(record, self._engine.drift)

    def _order(self, key: str) -> Row | None:
        order = self._engine.orders.orders.get(key)
        if order is None:
            return None
        row = order_row(order, self._broker(order.account))
        return row | self.notes.columns(tables.ORDERS, key)

    def _difference_keys(self) -> list[str]:
        return [found.key for found in self._reconciliation.differences()]

    def _difference(self, key: str) -> Row | None:
        line = self._reconciliation.book.get(key)
        return None if line is None else line.row(self._broker(line.found.account))

    def _external(self, key: str) -> Row | None:
        order = self._reconciliation.external.get(key)
        if order is None:
            return None
        return external_row(order, self._broker(order.report.account), self._engine.marks.price)

    def _broker(self, account: str) -> str:
        state = self._engine.fleet.states.get(account)
        return state.account.broker if state else ""

    def _fill_keys(self) -> list[str]:
        return [f"{fill.account}/{fill.exec_id}" for fill in self._engine.orders.fills]

    def _fill(self, key: str) -> Row | None:
        # Fills are touched as they arrive: the one asked for is near the end.
        account, _, exec_id = key.partition("/")
        for fill in reversed(self._engine.orders.fills):
            if fill.exec_id == exec_id and fill.account == account:
                return fill_row(fill)
        return None

    def _position_keys(self) -> list[str]:
        return [f"{position.account}/{position.symbol}" for position in self._engine.keeper]

    def _position(self, key: str) -> Row | None:
        account, _, symbol = key.partition("/")
        position = self._engine.keeper.get(account, symbol)
        if position is None:
            return None
        row = position_row(position, self._engine.marks, self._engine.clock.now())
        return row | self.notes.columns(tables.POSITIONS, key)

    def _halt(self, key: str) -> Row | None:
        latch = self._engine.states.get(key)
        if latch is None:
            return None
        return {
            "scope": key,
            "state": latch.state.value,
            "reason": latch.reason,
            "at": latch.at,
            "by": latch.by,
        }

    def _kill_keys(self) -> list[str]:
        return list(
            dict.fromkeys(a for run in self._operator.kill_runs.values() for a in run.accounts())
        )

    def _kill(self, key: str) -> Row | None:
        for run in reversed(self._operator.kill_runs.values()):
            if key in run.accounts():
                return run.row(key)
        return None

    def _latency(self, key: str) -> Row:
        return self._engine.latency_stages.row(key, rfc3339(self._engine.clock.now()))

    def _point(self, key: str) -> Row | None:
        return next((point for point in reversed(self._pnl) if point["at"] == key), None)

    def totals(self) -> tuple[Pnl, Decimal, Decimal]:
        """Return the firm's P&L, equity (of the accounts that have told it) and P&L of the day."""
        engine = self._engine
        realised = unrealised = exposure = equity = day = ZERO
        count = 0
        for state in engine.fleet.states.values():
            pnl = engine.keeper.pnl(state.id)
            realised += pnl.realised
            unrealised += pnl.unrealised
            exposure += pnl.exposure
            count += pnl.positions
            equity += state.equity(pnl.total) or ZERO
            day += pnl.total - state.day_baseline
        return Pnl(realised, unrealised, exposure, count), equity, day

    def engine_row(self) -> Row:
        """Return the one row of ``engine``."""
        engine = self._engine
        config, states = engine.config, engine.fleet.states.values()
        pnl, equity, day = self.totals()
        latch = engine.states.get(FIRM)
        return {
            "key": "engine",
            "name": config.engine.name,
            "version": __version__,
            "pid": os.getpid(),
            "book": engine.journal.book,
            "profile": config.storage.profile,
            "simulated": all(_simulated(state.account) for state in states),
            "trading": (latch.state if latch else TradingState.ACTIVE).value,
            "reason": latch.reason if latch else "",
            "started_at": rfc3339(engine.started_at),
            "now": rfc3339(engine.clock.now()),
            "accounts": len(states),
            "connected": sum(state.usable for state in states),
            "open_orders": sum(len(state.working) for state in states),
            "unknown_orders": self._unknown(),
            "held": sum(bool(record.held) for record in engine.records.values()),
            **engine.counts,
            "signals_per_s": self._rates["signals"],
            "orders_per_s": self._rates["orders"],
            "equity": money(equity),
            "day_pnl": money(day),
            "realised": money(pnl.realised),
            "unrealised": money(pnl.unrealised),
            "exposure": money(pnl.exposure),
            "loop_lag_ms": round(self._lag_ms, 2),
            "services": self._services(),
            "needs": [need.document() for need in self._surroundings.needs()],
            "prices": {
                symbol: to_text(engine.marks.price(symbol) or ZERO)
                for symbol in engine.marks.symbols()
            },
        }

    def _unknown(self) -> int:
        return sum(
            order.status is OrderStatus.UNKNOWN
            for state in self._engine.fleet.states.values()
            for order in state.working.values()
        )

    def _services(self) -> dict[str, Row]:
        engine = self._engine
        failed = engine.journal.failed
        services = {"journal": {"state": "error" if failed else "connected", "text": failed}}
        for name, copy in (("redis", engine.mirror), ("mongo", engine.history)):
            if copy is not None:
                state, text = copy.status()
                services[name] = {"state": state.value, "text": text}
        for name, status in engine.links.items():
            state, text = status()
            services[name] = {"state": state.value, "text": text}
        if engine.prices is not None:
            problem = engine.prices.problem
            services["prices"] = {"state": "degraded" if problem else "connected", "text": problem}
        return services

    # ---- seconds --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin ticking."""
        self._task = asyncio.get_running_loop().create_task(self._tick(), name="reports")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        publisher = self._engine.publisher
        turn = 0
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            lag_ms = (loop.time() - due) * 1000
            self._lag_ms = max(lag_ms, self._lag_ms * 0.9)
            self._worst_lag_ms = max(lag_ms, self._worst_lag_ms)
            turn += 1
            for key in self._engine.bars.changed():
                publisher.touch(tables.BARS, key)
            if turn % 5 == 0:
                self._touch_moved()
                for key in self._usage.changed():
                    publisher.touch(tables.USAGE, key)
                for key in self._unproven.changed():
                    publisher.touch(tables.UNKNOWN, key)
                publisher.touch(tables.ENGINE, "engine")
            if turn % 10 == 0:
                self._second()
            if turn % LOOK_EVERY_TURNS == 0:
                self._engine.pretrade.dirty.update(self._engine.fleet.states)  # days begin anew
                self._engine.spawn(self._surroundings.look(), "look around")
                for account in self._readiness.watch():
                    publisher.touch(tables.ACCOUNTS, account)

    def _touch_moved(self) -> None:
        engine, publisher = self._engine, self._engine.publisher
        for symbol in self._moved:
            for account in engine.keeper.holders(symbol):
                publisher.touch(tables.POSITIONS, f"{account}/{symbol}")
                publisher.touch(tables.ACCOUNTS, account)
                engine.pretrade.dirty.add(account)
        for key in engine.held.waiting():
            record = engine.records.get(key)
            if record is not None and record.signal.symbol in self._moved:
                publisher.touch(tables.SIGNALS, key)  # its drift
        self._moved.clear()

    def _second(self) -> None:
        engine = self._engine
        for name in self._rates:
            self._rates[name] = engine.counts[name] - self._before[name]
        self._before = dict(engine.counts)
        for stage in engine.latency_stages.tick():
            engine.publisher.touch(tables.LATENCY, stage)
        self._roll_days()
        pnl, equity, _ = self.totals()
        at = rfc3339(engine.clock.now())
        self._pnl.append(
            {
                "at": at,
                "equity": money(equity),
                "total": money(pnl.total),
                "realised": money(pnl.realised),
                "unrealised": money(pnl.unrealised),
                **engine.counts,
                "loop_lag_ms": round(self._worst_lag_ms, 2),
            }
        )
        self._worst_lag_ms = 0.0
        engine.publisher.touch(tables.PNL, at)
        engine.curves.second()
        for strategy in engine.curves.changed():
            engine.publisher.touch(tables.STRATEGIES, strategy)

    def _roll_days(self) -> None:
        """Start an account's day: its date in its own zone has changed."""
        engine = self._engine
        now = engine.clock.now()
        for state in engine.fleet.states.values():
            day = state.hours.day(now) if state.hours else now.astimezone(UTC).date()
            if state.day is not None and day <= state.day:
                continue
            if self._unpriced(state):
                continue  # without marks all that was ever gained or lost would seem today's
            state.day = day
            state.day_baseline = engine.keeper.pnl(state.id).total
            engine.journal.note_day(state.id, day.isoformat(), state.day_baseline)

    def _unpriced(self, state: AccountState) -> bool:
        """Say whether an open position's price is still to come, in the first minute after the start."""
        engine = self._engine
        age = (engine.clock.now() - engine.started_at).total_seconds()
        if engine.prices is None or age > MARKS_WITHIN_S:
            return False
        held = engine.keeper.open_symbols(state.id)
        return any(engine.marks.price(symbol) is None for symbol in held)

    # ---- questions -------------------------------------------------------------------------------------------

    async def signal_detail(self, key: str) -> dict[str, Any] | None:
        """Return one signal with a row per account and its trace; older ones come from the journal."""
        record = self._engine.records.get(key)
        if record is not None:
            self._engine.predict(record)
        else:
            source, _, signal_id = key.partition("/")
            entry = await self._engine.journal.signal(source, signal_id)
            if entry is None:
                return None
            orders = await self._engine.journal.orders_of(source, signal_id)
            live = self._engine.orders.orders
            record = record_from_entry(
                entry,
                signal_from_document(entry.body, entry.body_hash),
                {order.cl_ord_id: live.get(order.cl_ord_id, order) for order in orders},
            )
        return signal_detail(record)

    async def list_rows(
        self, table: str, where: dict[str, str], limit: int, after: str | None
    ) -> dict[str, Any]:
        """Return a page of rows, newest first."""
        if table in _LIVE:
            return self._page_of_live(table, where, limit, after)
        await self._engine.journal.flushed()
        rows = await self._engine.journal.page(table, where, limit, after)
        if table == tables.ORDERS:
            items = [
                order_row_from_journal(row, self._broker(row["account"]))
                | self.notes.columns(table, row["cl_ord_id"])
                for row in rows
            ]
        elif table == tables.FILLS:
            items = [
                {
                    "key": f"{row['account']}/{row['exec_id']}",
                    **{n: v for n, v in row.items() if n != "cursor"},
                }
                for row in rows
            ]
        else:
            items = [await self._signal_item(row) for row in rows]
        return {"items": items, "next": rows[-1]["cursor"] if len(rows) == limit else None}

    async def _signal_item(self, row: Row) -> Row:
        key = f"{row['source']}/{row['id']}"
        record = self._engine.records.get(key)
        if record is not None:
            found = self._signal_row(record)
        else:
            detail = await self.signal_detail(key)
            assert detail is not None
            found = detail["signal"]
        return found | self.notes.columns(tables.SIGNALS, key)

    def _page_of_live(
        self, table: str, where: dict[str, str], limit: int, after: str | None
    ) -> dict[str, Any]:
        key = KEYS[table]
        columns: dict[str, tuple[str, ...]] = {}
        if table == tables.ACCOUNTS:
            columns = {"account": ("id",), "status": ("connection", "state")}
        rows = sorted(self._engine.publisher.rows(table), key=lambda row: str(row[key]))
        asked = [(columns.get(name, (name,)), value) for name, value in where.items()]
        found = [
            row
            for row in rows
            if (after is None or row[key] > after)
            # A filter that a table has no column for does not narrow it.
            and all(
                any(str(row[name]) == value for name in names)
                for names, value in asked
                if names[0] in row
            )
        ]
        page = found[:limit]
        return {"items": page, "next": page[-1][key] if len(found) > limit else None}

    def latency(self) -> dict[str, Any]:
        """Return every stage's percentiles."""
        return self._engine.latency_stages.report()

    def readiness(self) -> list[str]:
        """Return why the engine cannot take signals and act on them.

        Being disarmed, paused or halted is no lack of readiness: it is what somebody decided.
        """
        engine = self._engine
        reasons = []
        if engine.journal.failed:
            reasons.append(f"the journal failed: {engine.journal.failed}")
        active = [state for state in engine.fleet.states.values() if state.account.active]
        if active and not any(state.usable for state in active):
            reasons.append("no account is connected")
        usable = [state for state in active if state.usable]
        if usable and not any(state.reconciled for state in usable):
            reasons += [f"{state.id}: not reconciled" for state in usable[:5]]
        for name, service in self._services().items():
            if service["state"] not in {
                ConnectionState.CONNECTED.value,
                ConnectionState.DEGRADED.value,
            }:
                reasons.append(f"{name} is {service['state']}: {service['text']}")
        return reasons

    def to_do(self) -> list[dict[str, str]]:
        """Return what a person must do before all (``account`` empty) or one can trade, or to keep them trading."""
        whole = [{"account": "", **need.document()} for need in self._surroundings.needs()]
        return whole + self._readiness.to_do()

    def metrics_text(self) -> str:
        """Return the metrics in Prometheus' text format."""
        counted = {
            "differences": len(self._reconciliation.differences()),
            "external_orders": len(self._reconciliation.external.keys()),
            **self._reconciliation.counts,
        }
        return metrics_text(self._engine, self.engine_row(), counted)


def _simulated(account: Account) -> bool:
    """Say whether an account's money is play money on this machine (a loopback venue, or paper)."""
    return account.broker == "paper" or (account.base_url or "").startswith("http://")
