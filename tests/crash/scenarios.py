"""What a book goes through on its way past a kill point.

A scenario is played from top to bottom whatever dies under it: every request is made again until it is answered, by
an engine that is started again. It begins to die only once it is warm, unless the point is passed at a start.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import redis

from engine.home import Home, hook_secret
from engine.log import MAX_BYTES
from tests.crash.history import Sent
from tests.crash.rig import MOST, Book
from tests.processes import signal_document

Play = Callable[[Book, str], None]
FAR = Decimal("0.9")


@dataclass(frozen=True, slots=True)
class Scenario:
    """How a point is passed: what is played, and what the book needs for it."""

    play: Play
    options: dict[str, Any] = field(default_factory=dict)
    servers: bool = False


def _resting(book: Book) -> dict[str, Any]:
    return {
        "order_type": "limit",
        "limit_price": str(book.dialect.price * FAR),
        "time_in_force": "day" if book.kind == "N" else "gtc",
        "strategy": "rest",
    }


def _trade(book: Book, arm: str) -> None:
    """Two fan-outs at the market, one that rests and is cancelled, a close; the second and third die."""
    book.arms = [arm]
    book.start()
    _a_day(book)


def _a_day(book: Book) -> None:
    book.signal("s-0")
    first = book.signal("s-1")
    book.until(book.settled, what="entries are proven")
    book.signal("s-2", **_resting(book))
    book.until(book.settled, what="resting orders are proven")
    book.signal("s-3", action="cancel", strategy="rest")
    book.signal("s-4", action="close")
    book.repeat(first)
    book.until(book.settled, what="exits are proven")


def _webhook(book: Book, arm: str) -> None:
    secret = hook_secret(Home(book.home), "bot")
    book.arms = [arm]
    book.start()
    for number in range(3):
        book.signal(f"s-{number}", path=f"/v1/hooks/bot/{secret}")
    book.until(book.settled, what="entries are proven")


def _connect(book: Book, arm: str) -> None:
    """Orders planned and not sent when the first engine dies: the second dies as it connects to send them."""
    book.arms = ["K12.before=kill@2", arm]
    book.start()
    _a_day(book)


def _recover(book: Book, arm: str) -> None:
    """The engine dies in mid fan-out, and three times more while it recovers."""
    book.arms = ["K17.after=kill@2", arm, arm, arm]
    book.start()
    _a_day(book)


def _with_fault(action: str, **more: Any) -> Play:
    """Return a way on which one order of a fan-out meets a fault, and the engine dies of what follows."""

    def play(book: Book, arm: str) -> None:
        book.arms = [arm]
        book.start()
        book.signal("s-0")
        book.until(book.settled, what="entries are proven")
        book.fault({"action": action, "times": 2, **more})
        book.signal("s-1")
        book.until(book.settled, what="entries are proven")
        book.signal("s-2")
        book.until(book.settled, what="entries are proven")

    return play


def _rate(book: Book, arm: str) -> None:
    """More signals than an account may send orders in a second."""
    book.arms = [arm]
    book.start()
    for number in range(3):
        book.signal(f"s-{number}")
    book.until(book.settled, what="entries are proven")


def _kill(book: Book, arm: str) -> None:
    """The kill switch over resting orders; it stays pressed over every death, until it is lifted."""
    book.start()
    book.signal("s-0", **_resting(book))
    book.until(book.settled, what="resting orders are proven")
    book.kill()
    book.arms = [arm]
    book.start()
    book.command("kill", scope="all", reason="a drill")
    book.until(lambda: not book.works(), what="nothing works at the venue")
    book.refuse("s-1")
    book.expect_halt()
    book.command("rearm", scope="all", reason="the drill is over")
    book.signal("s-2")
    book.until(book.settled, what="entries are proven")


def _reload(book: Book, arm: str) -> None:
    book.arms = [arm]
    book.start()
    book.signal("s-0")
    book.until(book.settled, what="entries are proven")
    changed = {"max_order_quantity": str(MOST), "max_orders_per_second": 50}
    book.put([{**document, "limits": changed} for document in book.documents])
    book.command("reload_accounts")
    book.signal("s-1")
    book.until(book.settled, what="entries are proven")


def _migrate(book: Book, arm: str) -> None:
    """A journal of the version before, with orders whose fate nobody noted."""
    book.arms = ["K17.after=kill@2"]
    book.start()
    _a_day(book)
    book.kill()
    with closing(sqlite3.connect(book.home / "journal.sqlite3")) as journal:
        for (name,) in journal.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            journal.execute(f"DROP TRIGGER {name}")
        for name in ("audit", "facts"):
            journal.execute(f"DROP TABLE IF EXISTS {name}")
        journal.execute("UPDATE meta SET value = '2' WHERE key = 'schema'")
        journal.commit()
    book.arms = [arm]
    book.start()
    book.signal("s-9")
    book.until(book.settled, what="entries are proven")


def _linger(book: Book, arm: str) -> None:
    """The engine dies by itself while it is otherwise idle."""
    book.arms = [arm]
    book.start()
    book.signal("s-0")
    book.until(lambda: book.hit, what="the point is passed")
    _a_day(book)


def _rotate(book: Book, arm: str) -> None:
    log = book.home / "logs" / "engine.log"
    log.parent.mkdir(mode=0o700)
    log.write_bytes(b"{}\n" * (MAX_BYTES // 3))
    _linger(book, arm)


def _login(book: Book, arm: str) -> None:
    """An account whose day begins with a login in a browser."""
    book.arms = [arm]
    book.start()
    account = book.documents[0]["id"]

    def logged_in() -> bool:
        if book.usable(account):
            return True
        _, answer = book.command("log_in", account=account)
        if "url" in answer:
            with httpx.Client(follow_redirects=True, trust_env=False, timeout=10) as browser:
                book.tolerant(lambda: browser.get(answer["url"]))
        return book.usable(account)

    book.until(logged_in, what="the login is taken")
    book.signal("s-0")
    book.until(book.settled, what="entries are proven")


def _stream(book: Book, arm: str) -> None:
    """Signals from a Redis stream; its entries come again until they are acknowledged."""
    book.arms = [arm]
    book.start()
    with closing(redis.Redis.from_url(book.redis_url)) as client:
        for number in range(4):
            sent = Sent(
                signal_document(id=f"s-{number}", symbol=book.dialect.symbol, valid_for_s=60)
            )
            book.sent[f"s-{number}"] = sent
            client.xadd("volley:signals", {"signal": json.dumps(sent.document)})

        def acknowledged() -> bool:
            groups = (
                client.xinfo_groups("volley:signals") if client.exists("volley:signals") else []
            )
            return bool(groups) and not groups[0]["pending"] and not groups[0]["lag"]

        book.until(acknowledged, what="the stream is acknowledged")
    for sent in book.sent.values():
        sent.answers.append((202, {"state": "accepted"}))
    book.until(book.settled, what="entries are proven")


SCENARIOS: dict[str, Scenario] = {
    "trade": Scenario(_trade),
    "webhook": Scenario(_webhook),
    "connect": Scenario(_connect),
    "recover": Scenario(_recover),
    "drip": Scenario(_with_fault("slow_loris", delay_s=0.2)),
    "absent": Scenario(_with_fault("drop")),
    "rate": Scenario(_rate, {"per_second": 2}),
    "kill": Scenario(_kill),
    "reload": Scenario(_reload),
    "migrate": Scenario(_migrate),
    "linger": Scenario(_linger),
    "lease": Scenario(_linger, servers=True),
    "rotate": Scenario(_rotate),
    "login": Scenario(_login, {"logged_in": False, "accounts": 1}),
    "stream": Scenario(_stream, servers=True),
}
