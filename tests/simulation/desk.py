"""The operators of a simulated day: every command, at random, on what they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import CommandRefused, StoreError
from engine.model.enums import OrderStatus
from engine.model.order import Order
from tests.simulation.people import STRATEGIES

if TYPE_CHECKING:
    from tests.simulation.day import Day
    from tests.simulation.life import Life

Command = dict[str, Any]


class Desk:
    """Gives commands; asks again, under the same id, when an engine died over one."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._world = day.world
        self._rng = day.world.rng("desk")
        self._number = 0
        self._unanswered: dict[str, Command] = {}
        self._answered_for: dict[str, int] = {}

    def plan(self) -> None:
        """Choose the moments."""
        for _ in range(self._rng.randint(0, 14) * self._day.busy):
            self._world.after(self._rng.uniform(0.5, self._day.active_s), self._something)

    def began(self, life: Life) -> None:
        """Ask again what a life before did not answer."""
        del life
        for command in list(self._unanswered.values()):
            self._world.fault("command_repeated")
            self._give(command)

    # ---- what is asked -----------------------------------------------------------------------------------------

    def _something(self) -> None:
        life = self._day.life
        if self._world.calm or life is None or life.dead or not life.up:
            return
        rng = self._rng
        kinds: list[tuple[Callable[[], Command | None], int]] = [
            (self._kill, 4), (self._rearm, 9), (self._pause, 3), (self._disarm, 1),
            (self._held, 10), (self._force, 4), (self._cancel, 8), (self._replace, 6),
            (self._close, 8), (self._flatten, 2), (self._stops, 3), (self._resend, 4),
            (self._resolve, 3), (self._reload, 1),
        ]  # fmt: skip
        made = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]()
        if made is None:
            return
        self._number += 1
        command = {"id": f"c-{self._number}", **made}
        self._give(command)
        if self._world.chance("command-twice", 0.15):
            self._world.fault("command_repeated")
            self._world.after(rng.choice([0.0, 0.01, 3.0]), lambda: self._give(command))

    def _scope(self) -> str:
        rng = self._rng
        return str(
            rng.choice(
                [
                    "all",
                    f"account:{rng.choice(list(self._day.documents))}",
                    f"broker:{rng.choice(['alpaca', 'binance', 'kite'])}",
                    f"strategy:{rng.choice(STRATEGIES)}",
                    f"symbol:{rng.choice(list(self._day.venue.prices))}",
                ]
            )
        )

    def _by_hand(self, command: str, **fields: Any) -> Command:
        self._world.fault("by_hand")
        return {"command": command, **fields}

    def _kill(self) -> Command:
        scope = self._scope()
        flatten = self._rng.random() < 0.3
        self._world.fault("kill" if scope == "all" else "kill_scope")
        if flatten:
            self._world.fault("kill_flatten")
        return {"command": "kill", "scope": scope, "flatten": flatten, "reason": "drill"}

    def _rearm(self) -> Command | None:
        halted = [
            halt
            for halt in ("all", *(f"account:{name}" for name in self._day.documents))
            if self._day.engine.states.get(halt) is not None
        ]
        scope = self._rng.choice([*halted, *self._day.oracle.halts, "all"])
        self._world.fault("rearm")
        return {"command": "rearm", "scope": scope, "reason": "looked at"}

    def _pause(self) -> Command:
        self._world.fault("pause")
        verb = self._rng.choice(["pause", "resume", "resume"])
        return {"command": verb, "scope": self._scope()}

    def _disarm(self) -> Command:
        self._world.fault("disarm")
        return {"command": "disarm", "reason": "lunch"}

    def _held(self) -> Command | None:
        held = [key for key, record in self._day.engine.records.items() if record.held]
        if not held:
            return None
        key = self._rng.choice(held)
        if self._rng.random() < 0.3:
            return self._by_hand("reject", signal=key)
        self._release(key)
        return self._by_hand("approve", signal=key)

    def _release(self, key: str) -> None:
        sent = self._day.oracle.signals.get(key)
        if sent is not None:
            sent.released = True

    def _force(self) -> Command | None:
        records = self._day.engine.records
        if not records:
            return None
        key = self._rng.choice(list(records))
        account = self._rng.choice(list(self._day.documents))
        self._release(key)
        return self._by_hand("force", signal=key, accounts=[account], reason="by hand")

    def _order(self, fits: Callable[[Order], bool]) -> Order | None:
        orders = [order for order in self._day.engine.orders.orders.values() if fits(order)]
        return self._rng.choice(orders) if orders else None

    def _cancel(self) -> Command | None:
        order = self._order(lambda order: order.status.working)
        return self._by_hand("cancel_order", cl_ord_id=order.cl_ord_id) if order else None

    def _replace(self) -> Command | None:
        order = self._order(lambda order: order.status is OrderStatus.NEW)
        if order is None:
            return None
        return self._by_hand(
            "replace_order", cl_ord_id=order.cl_ord_id, order_qty=str(self._rng.randint(1, 60))
        )

    def _resend(self) -> Command | None:
        order = self._order(
            lambda order: order.status is OrderStatus.UNKNOWN or order.code == "ABSENT"
        )
        if order is None:
            return None
        self._day.oracle.resent.add(order.cl_ord_id)
        return self._by_hand("resend", cl_ord_id=order.cl_ord_id)

    def _resolve(self) -> Command | None:
        """Say what is true of an order whose outcome is unknown, once nothing of it is under way any more."""
        order = self._order(lambda order: order.status is OrderStatus.UNKNOWN)
        if order is None or not self._at_rest(order):
            return None
        return self._by_hand(
            "resolve_unknown", cl_ord_id=order.cl_ord_id, exists=self._exists(order)
        )

    def _at_rest(self, order: Order) -> bool:
        """Say whether a person who looks at the broker now sees the end of it."""
        first = self._answered_for.setdefault(order.cl_ord_id, self._world.now_ns)
        return self._world.now_ns - first > 45_000_000_000

    def _exists(self, order: Order) -> bool:
        account = self._day.venue.accounts.get(order.account)
        return account is not None and bool(account.by_id.get(order.cl_ord_id))

    def _close(self) -> Command | None:
        held = [position for position in self._day.engine.keeper if position.qty]
        if not held:
            return None
        position = self._rng.choice(held)
        fraction = self._rng.choice(["1", "1", "0.5"])
        return self._by_hand(
            "close_position", account=position.account, symbol=position.symbol, fraction=fraction
        )

    def _flatten(self) -> Command:
        return self._by_hand("flatten", scope=self._scope())

    def _stops(self) -> Command | None:
        held = [position for position in self._day.engine.keeper if position.qty]
        if not held:
            return None
        position = self._rng.choice(held)
        price = self._day.venue.prices[position.symbol]
        away = (price / 100 if position.qty < 0 else -price / 100).quantize(price)
        return self._by_hand(
            "set_stops", account=position.account, symbol=position.symbol,
            stop_loss=str(price + away),
        )  # fmt: skip

    def _reload(self) -> Command:
        return {"command": "reload_accounts"}

    # ---- how it is asked -----------------------------------------------------------------------------------------

    def answer_unknowns(self) -> None:
        """Resolve by hand what only a person can: brokers of class N prove no absence."""
        for order in list(self._day.engine.orders.orders.values()):
            if order.status is OrderStatus.UNKNOWN and self._at_rest(order):
                self._number += 1
                self._give(
                    {
                        "id": f"c-{self._number}", "command": "resolve_unknown",
                        "cl_ord_id": order.cl_ord_id, "exists": self._exists(order),
                    }
                )  # fmt: skip

    def _give(self, command: Command) -> None:
        life = self._day.life
        if life is None or life.dead or not life.up:
            return
        self._unanswered[command["id"]] = command
        life.loop.call_soon(lambda: life.hold(self._ask(life, command)))

    async def _ask(self, life: Life, command: Command) -> None:
        assert life.engine is not None
        world, oracle = self._world, self._day.oracle
        scope = command.get("scope", "all")
        verb = command["command"]
        world.trace("command", command["id"], verb, scope)
        if verb == "rearm":
            oracle.halts.pop(scope, None)
        first_time = self._unanswered.get(command["id"]) is command
        if verb == "kill" and first_time:
            oracle.killed(scope)
        try:
            result = await life.engine.handle_command(dict(command))
        except CommandRefused as error:
            world.trace("command-refused", command["id"], error.code)
        except StoreError as error:
            world.trace("command-failed", command["id"], error)
            return
        else:
            world.trace("command-done", command["id"], result.get("result"))
            if verb == "kill" and scope in oracle.halts and not life.journal.failed:
                oracle.halts[scope].answered = True
        self._unanswered.pop(command["id"], None)
