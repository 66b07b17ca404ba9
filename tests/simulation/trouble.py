"""What befalls the process, the machine, the brokers and the accounts' documents, at moments of chance."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from tests.simulation.loop import Crash
from tests.simulation.people import account_document, limits_document
from tests.simulation.venue import Request
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.day import Day


class Trouble:
    """Plans a day's troubles and does them."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._world = day.world
        self._rng = day.world.rng("trouble")
        self._number = 0

    def plan(self) -> None:
        """Choose what happens when; one seed in five is left in peace by the machine."""
        rng = self._rng
        if rng.random() < 0.2:
            return
        kinds: list[tuple[Callable[[], None], float]] = [
            (self._crash_at_a_step, 1.2),
            (self._crash_in_commit, 0.3),
            (self._stop_and_start, 0.2),
            (self._stall, 0.4),
            (self._suspend, 0.08),
            (self._step_clock, 0.12),
            (self._disconnect, 1.5),
            (self._broker_down, 0.3),
            (self._cancel_at_broker, 0.6),
            (self._external_order, 0.3),
            (self._edit_limits, 0.4),
            (self._edit_wire, 0.2),
            (self._switch, 0.2),
            (self._remove, 0.12),
            (self._add, 0.15),
            (self._kill_file, 0.06),
        ]
        for happens, often in kinds * self._day.busy:
            while rng.random() < often / (1 + often):
                self._world.after(rng.uniform(0.5, self._day.active_s), self._unless_calm(happens))

    def _unless_calm(self, happens: Callable[[], None]) -> Callable[[], None]:
        def event() -> None:
            if not self._world.calm:
                happens()

        return event

    @property
    def _up(self) -> bool:
        life = self._day.life
        return life is not None and not life.dead and life.up

    # ---- the process -------------------------------------------------------------------------------------------

    def _crash_at_a_step(self) -> None:
        life = self._day.life
        if life is None or life.dead:
            return
        self._world.fault("crash" if life.up else "crash_in_recovery")
        life.loop.crash_at = life.loop.steps + self._rng.choice([1, 2, 5, 20, 60, 200, 600])
        if self._rng.random() < 0.15:  # and again while it recovers
            self._world.fault("crash_in_recovery")
            self._day.crash_soon = self._rng.randint(1, 120)

    def _crash_in_commit(self) -> None:
        """Wait for a moment at which the journal works, and die in it."""
        if self._world.calm or not self._up:
            return
        assert self._day.life is not None
        inline = self._day.life.journal.inline
        if inline is not None and inline.busy:
            self._world.fault("crash_in_commit")
            raise Crash
        self._world.after(0.00015, self._crash_in_commit)

    def _stop_and_start(self) -> None:
        if self._up:
            assert self._day.life is not None
            self._world.fault("stop_and_start")
            self._day.life.stop()

    def _stall(self) -> None:
        if self._up:
            self._world.fault("loop_stalled")
            self._freeze(self._rng.uniform(0.05, 3))

    def _suspend(self) -> None:
        if self._up:
            self._world.fault("suspended")
            self._freeze(self._rng.uniform(30, 600))

    def _freeze(self, seconds: float) -> None:
        assert self._day.life is not None
        self._day.life.loop.stalled_until_ns = self._world.now_ns + int(seconds * SECOND)

    def _step_clock(self) -> None:
        seconds = self._rng.choice([0.5, 5, 600, 3600])
        if self._rng.random() < 0.5:
            seconds = -seconds
        self._world.fault("clock_stepped_forward" if seconds > 0 else "clock_stepped_back")
        self._day.oracle.stepped = True
        self._world.wall_offset_ns += int(seconds * SECOND)

    # ---- brokers -----------------------------------------------------------------------------------------------

    def _disconnect(self) -> None:
        life = self._day.life
        if life is None or life.dead or not life.sessions:
            return
        session = self._rng.choice(list(life.sessions.values()))
        self._world.fault("disconnect")
        session.lose("connection reset", back_s=self._rng.choice([0.2, 1, 5, 15]))

    def _broker_down(self) -> None:
        life = self._day.life
        if life is None or life.dead or not life.sessions:
            return
        broker = self._rng.choice(["alpaca", "binance", "kite"])
        self._world.fault("broker_down")
        for name, session in list(life.sessions.items()):
            if self._day.broker_of(name) == broker:
                session.lose("the broker is down", back_s=self._rng.uniform(1, 15))

    def _cancel_at_broker(self) -> None:
        venue = self._day.venue
        working = [
            (account, order)
            for account in venue.accounts.values()
            for order in account.orders
            if order.status.working and not order.external
        ]
        if working:
            account, order = self._rng.choice(working)
            self._world.fault("canceled_by_broker")
            venue.cancel(account, order, OrderStatus.CANCELED)

    def _external_order(self) -> None:
        accounts = list(self._day.venue.accounts.values())
        if accounts:
            self._number += 1
            self._world.fault("external_order")
            account = self._rng.choice(accounts)
            symbol = self._rng.choice(list(self._day.venue.prices))
            far = (self._day.venue.prices[symbol] / 2).quantize(self._day.venue.prices[symbol])
            request = Request(
                f"theirs-{self._number}", symbol, Side.BUY, far.quantize(far.__class__(1)),
                OrderType.LIMIT, TimeInForce.GTC, far, None,
            )  # fmt: skip
            self._day.venue.accept(account, request, external=True)

    # ---- documents ---------------------------------------------------------------------------------------------

    def _some_account(self) -> str | None:
        names = list(self._day.documents)
        return self._rng.choice(names) if names else None

    def _put(self, name: str, **fields: object) -> None:
        self._day.put_account(self._day.documents[name].document() | fields)

    def _edit_limits(self) -> None:
        name = self._some_account()
        if name:
            self._world.fault("account_limits_edited")
            self._put(name, limits=limits_document(self._rng))

    def _edit_wire(self) -> None:
        name = self._some_account()
        if name:
            self._number += 1
            self._world.fault("account_wire_edited")
            self._put(name, options={"note": f"n{self._number}"})

    def _switch(self) -> None:
        name = self._some_account()
        if name:
            self._world.fault("account_switched")
            self._put(name, active=not self._day.documents[name].active)

    def _remove(self) -> None:
        name = self._some_account()
        if name and len(self._day.documents) > 1:
            self._world.fault("account_removed")
            del self._day.documents[name]
            self._day.edited()

    def _add(self) -> None:
        self._number += 1
        self._world.fault("account_added")
        self._day.put_account(account_document(self._rng, 20 + self._number))

    def _kill_file(self) -> None:
        """Leave a kill in the file, as ``main.py kill`` does when the engine does not answer."""
        self._number += 1
        self._world.fault("kill_file")
        command = {
            "id": f"file-{self._number}",
            "command": "kill",
            "scope": "all",
            "reason": "by file",
        }
        (self._day.home / "kill.json").write_text(json.dumps([command]), "utf-8")
        self._day.oracle.killed_by_file()
