"""Replies cut at every byte and broken in every way: never a crash, never a state that they do not prove (G8).

Genuine replies of each broker's venue are recorded over real sockets; then they are broken and handed to the session
where the wire would hand them. 50,000 broken replies a broker; ``BROKEN_REPLIES=2500000 pytest
tests/contract/test_broken_replies.py`` runs as many of each as it says.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.brokers.order_exchanges import Submission
from engine.errors import InvariantError
from engine.model.enums import ExecType, OrderStatus, OrderType
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from tests.contract.conftest import Rig

COUNT = int(os.environ.get("BROKEN_REPLIES", "50000"))
TOKENS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN", b"1e999", b"-1", b"0", b"99999999999999999999",
    b'"-5"', b'"NaN"', b'"1E+30"', b"true", b"\x00", b"\xff", b"[]", b"{}", b'""', b"1.5", b"<html>",
]  # fmt: skip
STATUSES = (200, 201, 204, 400, 401, 403, 404, 409, 418, 422, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Reply:
    """What the venue answered to an order like ``order``."""

    what: str
    order: Order
    status: int
    raw: bytes
    body: bytes


class Loose:
    """A session whose replies come from the test; whatever it would ask the venue is not asked."""

    def __init__(self, rig: Rig) -> None:
        self.session: Any = rig.session
        self.reports: list[ExecutionReport] = []
        self.complaints: list[Exception] = []
        self.session._sink = self
        self.session.hold = lambda work: work.close()
        self.session.verify = self.session.pause = lambda *_: None
        self.session.complain = self.complaints.append

    def on_report(self, report: ExecutionReport) -> None:
        self.reports.append(report)

    def on_connection(self, *_: Any) -> None: ...

    def on_ready(self, *_: Any) -> None: ...

    def on_limits(self, *_: Any, **__: Any) -> None: ...

    def answer(self, order: Order, status: int, raw: bytes, body: bytes) -> list[ExecutionReport]:
        """Hand in a reply to a new order; return what the session makes of it."""
        self.reports.clear()
        exchange = Submission(self.session, order)
        exchange.reply_ns = 1
        exchange.on_reply(status, raw, body)
        return self.reports


async def recorded(rig: Rig) -> list[Reply]:
    """Return genuine replies: to an order that fills, one that rests, one that is refused."""
    kind, session = rig.kind, rig.session
    replies: list[Reply] = []
    judge: Any = session.judge_new  # type: ignore[attr-defined]
    what = ""

    def record(order: Order, status: int, raw: bytes, body: bytes) -> Any:
        replies.append(Reply(what, order, status, raw, body))
        return judge(order, status, raw, body)

    session.judge_new = record  # type: ignore[attr-defined]
    what = "fills"
    await rig.submit(rig.order(tif=kind.market_tifs[0]))
    what = "rests"
    await rig.submit(rig.order(order_type=OrderType.LIMIT, limit="99", tif=kind.rest))
    what = "refused"
    symbol = kind.unknown_symbol
    await rig.submit(rig.order(symbol=symbol, tif=kind.market_tifs[0]))
    del session.judge_new  # type: ignore[attr-defined]
    return replies


def fresh(order: Order) -> Order:
    """Return the order as it was when it left."""
    return Order(
        cl_ord_id=order.cl_ord_id,
        account=order.account,
        symbol=order.symbol,
        side=order.side,
        order_qty=order.order_qty,
        order_type=order.order_type,
        time_in_force=order.time_in_force,
        created_at=order.created_at,
        limit_price=order.limit_price,
    )


def readable(body: bytes) -> Any:
    """Read JSON by another reader than the adapters'; ``None`` when it is none."""
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def names(document: Any, cl_ord_id: str) -> bool:
    """Say whether a ClOrdID stands anywhere in a document."""
    return cl_ord_id in json.dumps(document)


def judge(reply: Reply, status: int, body: bytes, reports: list[ExecutionReport]) -> str:
    """Hold what a session said against what the reply proves; return the order's state.

    Raises:
        AssertionError: a state it does not prove, or numbers no order can have.
    """
    order, where = fresh(reply.order), f"{reply.what}: HTTP {status} {body!r}: {reports}"
    for report in reports:
        if report.cl_ord_id != order.cl_ord_id or report.parent:
            continue
        if report.exec_type is ExecType.UNSENT:
            # "Not taken" is told by 429 and 418, or by a code that the broker documents so.
            assert status in {418, 429} or (
                400 <= status < 500 and isinstance(readable(body), dict)
            ), where
            return "unsent"
        try:
            order.apply(report, datetime.now(UTC))
        except InvariantError:
            return "halted"  # the engine halts the account: an overfill is nothing to believe or to pass over
    document = readable(body)
    state = order.status
    assert 0 <= order.cum_qty <= order.order_qty, where
    accepted = state in {OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED, OrderStatus.FILLED}
    if accepted:
        assert isinstance(document, dict), where
        # With another status than 200 only the order itself, named as ours, proves that it was taken.
        assert 200 <= status < 300 or names(document, order.cl_ord_id), where
        if names(readable(reply.body), order.cl_ord_id):  # the broker says whose order it is
            assert names(document, order.cl_ord_id), f"another order's reply: {where}"
    if state is OrderStatus.REJECTED:
        assert 400 <= status < 500 or isinstance(document, dict), where
    if document is None and 200 <= status < 300 and reports:
        assert state is OrderStatus.UNKNOWN, where
    return state.value


def broken(rng: random.Random, reply: Reply) -> tuple[int, bytes]:
    """Return the reply broken once or more."""
    body, status = reply.body, reply.status
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(6):
            case 0:
                body = body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
            case 1:
                body = body[:at] + rng.choice(TOKENS) + body[at:]
            case 2:
                body = body[:at] + body[at + rng.randint(1, 12) :]
            case 3:
                body = body[:at]
            case 4:
                status = rng.choice(STATUSES)
            case 5:
                body = with_value(rng, body)
    return status, body


def with_value(rng: random.Random, body: bytes) -> bytes:
    """Return a body with one of its values changed, or taken away."""
    document = readable(body)
    if not isinstance(document, dict) or not document:
        return body
    inner = document
    while isinstance(inner, dict) and inner:
        key = rng.choice(list(inner))
        if isinstance(inner[key], dict) and inner[key] and rng.random() < 0.8:
            inner = inner[key]
            continue
        if rng.random() < 0.3:
            del inner[key]
        else:
            inner[key] = rng.choice(
                [
                    None,
                    True,
                    0,
                    -1,
                    1.5,
                    10**30,
                    "",
                    "0",
                    "-5",
                    "NaN",
                    "1E+30",
                    "filled",
                    [],
                    {},
                    "x",
                ]
            )
        break
    return json.dumps(document).encode()


async def test_cut_at_every_byte(wired: Rig):
    replies = await recorded(wired)
    loose = Loose(wired)
    assert {reply.what for reply in replies} == {"fills", "rests", "refused"}
    for reply in replies:
        whole = judge(reply, reply.status, reply.body, loose.answer(*parts(reply, reply.body)))
        assert whole != "unknown", reply
        for at in range(len(reply.body)):
            body = reply.body[:at]
            state = judge(reply, reply.status, body, loose.answer(*parts(reply, body)))
            if reply.status < 300:
                assert state == "unknown", (at, reply)
    assert not loose.complaints


def parts(reply: Reply, body: bytes) -> tuple[Order, int, bytes, bytes]:
    """Return what a session is handed for a reply with another body."""
    return fresh(reply.order), reply.status, reply.raw, body


async def test_broken_in_every_way(wired: Rig):
    replies = await recorded(wired)
    loose = Loose(wired)
    rng = random.Random(f"{wired.kind} 4")
    seen: Counter[str] = Counter()
    for number in range(COUNT):
        reply = replies[number % len(replies)]
        status, body = broken(rng, reply)
        order = fresh(reply.order)
        seen[judge(reply, status, body, loose.answer(order, status, reply.raw, body))] += 1
        if number % 1000 == 0:
            await asyncio.sleep(0)
    assert not loose.complaints, loose.complaints[:3]
    assert seen["unknown"] > COUNT // 4
    assert len(seen) >= 3, seen


@pytest.mark.parametrize("believed", ["filled", "rejected"])
async def test_the_judge_has_teeth(wired: Rig, believed: str):
    """A session that takes what it cannot read for a state must be caught."""
    replies = await recorded(wired)
    loose = Loose(wired)
    kinds = {"filled": (ExecType.NEW, OrderStatus.NEW), "rejected": (ExecType.REJECTED,) * 2}
    session = loose.session
    exec_type = kinds[believed][0]
    status = OrderStatus.NEW if believed == "filled" else OrderStatus.REJECTED

    def unknown(cl_ord_id: str, text: str) -> None:
        session.report(cl_ord_id, exec_type, status, text)

    def credulous(order: Order, *_: Any) -> list[ExecutionReport]:
        unknown(order.cl_ord_id, "never mind")
        return []

    session.judge_new = credulous
    rng = random.Random(1)
    with pytest.raises(AssertionError):  # noqa: PT012 (whichever reply it is caught by)
        for number in range(2_000):
            reply = replies[number % len(replies)]
            http, body = broken(rng, reply)
            order = fresh(reply.order)
            judge(reply, http, body, loose.answer(order, http, reply.raw, body))
