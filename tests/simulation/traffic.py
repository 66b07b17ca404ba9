"""The senders of signals, good and bad, once or twice or in bursts; they deliver again what got no answer."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from engine.clock import rfc3339
from engine.errors import InvalidSignal, StoreError
from tests.simulation.oracle import Sent
from tests.simulation.people import STRATEGIES, TAGS
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.day import Day
    from tests.simulation.life import Life

_MALFORMED = (
    b"", b"{", b"null", b'{"id": NaN}', b"\xff\xfe", b'{"a":' * 40, b"[]", b'{"id":"x","id":"y"}',
    b'{"id": "a", "source": "s", "strategy": "s", "symbol": "AAPL", "action": "buy", "quantity": 1e5}',
)  # fmt: skip
CENT = Decimal("0.01")


class Traffic:
    """Sends signals at random moments."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._world = day.world
        self._rng = day.world.rng("traffic")
        self._number = 0
        self.unanswered: dict[str, bytes] = {}  # by key: what is to be delivered again

    def plan(self) -> None:
        """Choose the moments."""
        for _ in range(self._rng.randint(5, 18) * self._day.busy):
            self._world.after(self._rng.uniform(0.5, self._day.active_s), self._next)

    def began(self, life: Life) -> None:
        """Deliver again what a life before did not answer."""
        for key, body in list(self.unanswered.items()):
            if life.number > 1:
                self._world.fault("signal_redelivered")
            self._post(key, body)

    # ---- what is sent ------------------------------------------------------------------------------------------

    def _next(self) -> None:
        rng, world = self._rng, self._world
        if world.chance("burst", 0.06):
            world.fault("signal_burst")
            for _ in range(rng.randint(4, 12)):
                world.after(rng.uniform(0, 0.01), self._one)
            return
        self._one()

    def _one(self) -> None:
        rng, world = self._rng, self._world
        if world.chance("malformed", 0.04):
            world.fault("signal_malformed")
            self._post("", rng.choice(_MALFORMED))
            return
        document = self._document()
        age_s = 0.0
        if world.chance("stale", 0.05):
            world.fault("signal_stale")
            age_s = rng.uniform(3, 60)
        elif world.chance("future", 0.03):
            world.fault("signal_from_the_future")
            age_s = -rng.uniform(0.5, 5)
        issued = world.wall() - timedelta(seconds=age_s)
        document["issued_at"] = rfc3339(issued)
        key = f"{document['source']}/{document['id']}"
        body = orjson.dumps(document)
        limit = document.get("valid_for_s", self._day.config.signals.max_age_s)
        issued_ns = world.now_ns - int(age_s * SECOND)
        self._day.oracle.signals[key] = Sent(body, issued_ns, float(limit))
        self.unanswered[key] = body
        self._post(key, body)
        if world.chance("twice", 0.15):
            world.fault("signal_repeated")
            world.after(rng.choice([0.0, 0.001, 0.05, 10.0]), lambda: self._post(key, body))
        if world.chance("contradicts", 0.05):
            world.fault("signal_contradicts")
            other = orjson.dumps(document | {"meta": {"changed": "yes"}})
            world.after(rng.choice([0.0, 0.02, 5.0]), lambda: self._post(key, other, other=True))

    def _document(self) -> dict[str, Any]:
        rng = self._rng
        self._number += 1
        symbol = rng.choice(list(self._day.venue.prices))
        action = rng.choices(["buy", "sell", "close", "cancel", "modify"], [10, 7, 4, 2, 2])[0]
        document: dict[str, Any] = {
            "id": f"s-{self._number:04d}",
            "source": rng.choice(["bot", "chart"]),
            "strategy": rng.choice(STRATEGIES),
            "symbol": symbol,
            "action": action,
        }
        if rng.random() < 0.2:
            document["audience"] = {"tags": [rng.choice(TAGS)]}
        if rng.random() < 0.15:
            document["valid_for_s"] = rng.choice([0.5, 2.0, 30.0])
        price = self._day.venue.prices[symbol]
        if action in {"buy", "sell"}:
            self._entry(document, price, 1 if action == "buy" else -1)
        elif action == "modify":
            document["stop_loss"] = self._price(price, rng.choice([-2, 2]))
        return document

    def _entry(self, document: dict[str, Any], price: Decimal, sign: int) -> None:
        rng = self._rng
        document["quantity"] = str(rng.randint(1, 30))
        kind = rng.choices(["market", "limit", "stop", "stop_limit"], [6, 5, 1, 1])[0]
        document["order_type"] = kind
        if kind in {"limit", "stop_limit"}:
            away = rng.choice([-0.5, -0.1, 0.0, 0.3])
            document["limit_price"] = self._price(price, sign * away)
        if kind in {"stop", "stop_limit"}:
            document["stop_price"] = self._price(price, sign * 0.1)
        if kind != "stop_limit" and rng.random() < 0.3:
            document["time_in_force"] = rng.choice(["gtc", "ioc", "fok"])
        if rng.random() < 0.7:
            document["stop_loss"] = self._price(price, -sign * rng.choice([1, 2]))
        if rng.random() < 0.3:
            document["take_profit"] = self._price(price, sign * rng.choice([1, 3]))
        if rng.random() < 0.1:
            document["trail_percent"] = "1"

    @staticmethod
    def _price(price: Decimal, percent: float) -> str:
        moved = price * (1 + Decimal(str(percent)) / 100)
        return str(moved.quantize(CENT))

    # ---- how it is sent ------------------------------------------------------------------------------------------

    def _post(self, key: str, body: bytes, *, other: bool = False) -> None:
        life = self._day.life
        if life is None or life.dead or not life.up:
            return  # nobody listens: delivered again once somebody does
        life.loop.call_soon(lambda: life.hold(self._ask(life, key, body, other=other)))

    async def _ask(self, life: Life, key: str, body: bytes, *, other: bool) -> None:
        assert life.engine is not None
        world = self._world
        try:
            receipt = await life.engine.handle_signal(body)
        except InvalidSignal as error:
            world.trace("refused", key, error.code)
            self.unanswered.pop(key, None)
            return
        except StoreError as error:
            world.trace("not-durable", key, error)
            return  # told so; delivered again after a restart
        world.trace("answer", key, receipt.state, receipt.code, receipt.repeated)
        if other and not receipt.contradicted:
            # It came first: the other body is the contradiction.
            self._day.oracle.signals[key].answers.clear()
        self._day.oracle.answered(
            key, receipt.state.value, receipt.code, contradicted=receipt.contradicted
        )
        self.unanswered.pop(key, None)
