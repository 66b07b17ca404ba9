"""What an order costs on the wire, against a bare socket loop on the same prepared bytes.

``python tests/bench/wire_floor.py [--accounts 200] [--rounds 50] [--loop uvloop|asyncio]`` starts a trivial
server process, opens one connection an account, and fans one order out to all of them a number of times:

* bare: non-blocking sockets and a selector, ``send`` to each, then ``recv`` until every reply is there;
* wire: ``WirePool.send`` of the same bytes;
* session: ``AlpacaSession.submit`` of new ``Order`` objects, with the report of each reply.

CPU is this process's; times are medians over the rounds. Read them as ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.brokers.alpaca.adapter import AlpacaAdapter, AlpacaSession
from engine.brokers.wire import Exchange, WireHub, WirePool
from engine.model.account import Account
from engine.model.enums import OrderType, Side, TimeInForce
from engine.model.order import Order

CL_ORD_ID = "ABCDEFGHIJKLMNOPQRST"
BODY = (
    b'{"id":"904837e3-3b76-47ec-b432-046db621571b","client_order_id":"' + CL_ORD_ID.encode() + b'",'
    b'"created_at":"2026-11-22T14:30:00.123456Z","updated_at":"2026-11-22T14:30:00.123456Z",'
    b'"submitted_at":"2026-11-22T14:30:00.123456Z","filled_at":null,"expired_at":null,'
    b'"canceled_at":null,"failed_at":null,"replaced_at":null,"replaced_by":null,"replaces":null,'
    b'"asset_id":"b0b6dd9d-8b9b-48a9-ba46-b9d54906e415","symbol":"AAPL","asset_class":"us_equity",'
    b'"notional":null,"qty":"10","filled_qty":"0","filled_avg_price":null,"order_class":"",'
    b'"order_type":"limit","type":"limit","side":"buy","time_in_force":"day",'
    b'"limit_price":"101.25","stop_price":null,"status":"accepted","extended_hours":false,'
    b'"legs":null,"trail_percent":null,"trail_price":null,"hwm":null}'
)
REPLY = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 14:30:00 GMT\r\nContent-Type: application/json\r\n"
    b"Connection: keep-alive\r\nX-RateLimit-Limit: 200\r\nX-RateLimit-Remaining: 199\r\n"
    b"Content-Length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
)
REQUEST_BODY = (
    b'{"symbol":"AAPL","side":"buy","type":"limit","time_in_force":"day","limit_price":"101.25",'
    b'"qty":"10","client_order_id":"' + CL_ORD_ID.encode() + b'"}'
)
REQUEST = (
    b"POST /v2/orders HTTP/1.1\r\nHost: 127.0.0.1:9999\r\nUser-Agent: volley\r\n"
    b"APCA-API-KEY-ID: PK0123456789ABCDEFGH\r\nAPCA-API-SECRET-KEY: " + b"s" * 40 + b"\r\n"
    b"Content-Type: application/json\r\nContent-Length: "
    + str(len(REQUEST_BODY)).encode()
    + b"\r\n\r\n"
    + REQUEST_BODY
)


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class _Server(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(REPLY)


def serve(port: Any, kind: str) -> None:
    loop = new_loop(kind)
    server = loop.run_until_complete(loop.create_server(_Server, "127.0.0.1", 0, backlog=2048))
    port.send(server.sockets[0].getsockname()[1])
    loop.run_forever()


class Round:
    """One fan-out: when the last order had left and the last reply was read, and the CPU it took."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float]] = []

    def add(self, sent_ns: int, done_ns: int, cpu_ns: int, orders: int) -> None:
        self.rows.append((sent_ns / 1e6, done_ns / 1e6, cpu_ns / 1e3 / orders))

    def medians(self) -> tuple[float, float, float]:
        sent, done, cpu = (statistics.median(column) for column in zip(*self.rows, strict=True))
        return sent, done, cpu


def bare(port: int, accounts: int, rounds: int) -> Round:
    result = Round()
    selector = selectors.DefaultSelector()
    sockets = []
    for _ in range(accounts):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
        sockets.append(sock)
    for _ in range(rounds):
        cpu, start = time.process_time_ns(), time.monotonic_ns()
        for sock in sockets:
            sock.send(REQUEST)
        sent = time.monotonic_ns()
        missing = accounts * len(REPLY)
        while missing:
            for key, _ in selector.select():
                missing -= len(key.fileobj.recv(65536))  # type: ignore[union-attr]
        result.add(
            sent - start, time.monotonic_ns() - start, time.process_time_ns() - cpu, accounts
        )
    for sock in sockets:
        sock.close()
    selector.close()
    return result


class _Count(Exchange):
    __slots__ = ("told",)

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__()
        self.told = told

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        self.told()

    def on_failure(self, left: bool, reason: str) -> None:
        raise AssertionError(reason)


class Waiter:
    """Counts replies and takes the reports of sessions."""

    def __init__(self, orders: int) -> None:
        self.orders = orders
        self.reset()

    def reset(self) -> None:
        self.left = self.orders
        self.done = asyncio.get_running_loop().create_future()

    def told(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set_result(time.monotonic_ns())

    def on_report(self, report: Any) -> None:
        assert report.exec_type == "new", report
        self.told()

    def on_connection(self, account: str, state: Any, text: str) -> None:
        pass

    def on_limits(self, account: str, **told: object) -> None:
        pass


async def wire(port: int, accounts: int, rounds: int) -> Round:
    hub, result, waiter = WireHub(), Round(), Waiter(accounts)
    pools = [WirePool(hub, "127.0.0.1", port, tls=False) for _ in range(accounts)]
    await asyncio.gather(*(pool.start() for pool in pools))
    for _ in range(rounds):
        waiter.reset()
        exchanges = [_Count(waiter.told) for _ in pools]
        cpu, start = time.process_time_ns(), time.monotonic_ns()
        for pool, exchange in zip(pools, exchanges, strict=True):
            pool.send(REQUEST, exchange)
        done = await waiter.done
        sent = max(exchange.last_byte_ns for exchange in exchanges)
        result.add(sent - start, done - start, time.process_time_ns() - cpu, accounts)
    await asyncio.gather(*(pool.stop() for pool in pools))
    return result


def order(symbol: str, quantity: Decimal, limit: Decimal, now: datetime) -> Order:
    return Order(
        cl_ord_id=CL_ORD_ID,
        account="A",
        symbol=symbol,
        side=Side.BUY,
        order_qty=quantity,
        order_type=OrderType.LIMIT,
        time_in_force=TimeInForce.DAY,
        created_at=now,
        limit_price=limit,
    )


async def sessions(port: int, accounts: int, rounds: int) -> Round:
    result, waiter = Round(), Waiter(accounts)
    adapter = AlpacaAdapter(allow_simulated=True)
    account = Account(
        id="A",
        broker="alpaca",
        base_url=f"http://127.0.0.1:{port}",
        sizing={"method": "fixed", "quantity": "1"},
    )
    credentials = {"key_id": "PK0123456789ABCDEFGH", "secret": "s" * 40}
    all_sessions: list[AlpacaSession] = [
        adapter.session(account, credentials, waiter) for _ in range(accounts)
    ]
    # The trivial server has no order stream: only the wires are opened.
    await asyncio.gather(*(session.wire.start() for session in all_sessions))
    quantity, limit, now = Decimal(10), Decimal("101.25"), datetime.now(UTC)
    for _ in range(rounds):
        waiter.reset()
        orders = [order("AAPL", quantity, limit, now) for _ in all_sessions]
        cpu, start = time.process_time_ns(), time.monotonic_ns()
        for session, new in zip(all_sessions, orders, strict=True):
            session.submit(new)
        done = await waiter.done
        sent = max(new.last_byte_ns for new in orders)
        result.add(sent - start, done - start, time.process_time_ns() - cpu, accounts)
    await asyncio.gather(*(session.stop() for session in all_sessions))
    await adapter.close()
    return result


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--loop", default="asyncio" if sys.platform == "win32" else "uvloop")
    asked = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, asked.loop), daemon=True
    )
    server.start()
    port = ours.recv()
    floor: tuple[float, float, float] | None = None
    say(f"{asked.accounts} accounts, {asked.rounds} rounds, {asked.loop}")
    say(f"{'':10}{'last byte':>12}{'last reply':>12}{'CPU an order':>14}   ratio to bare")
    try:
        for name in ("bare", "wire", "session", "bare"):
            gc.collect()
            if name == "bare":
                found = bare(port, asked.accounts, asked.rounds)
            else:
                work = wire if name == "wire" else sessions
                with asyncio.Runner(loop_factory=lambda: new_loop(asked.loop)) as runner:
                    found = runner.run(work(port, asked.accounts, asked.rounds))
            sent, done, cpu = found.medians()
            floor = floor or (sent, done, cpu)
            ratios = " ".join(
                f"{mine / theirs:5.2f}"
                for mine, theirs in zip((sent, done, cpu), floor, strict=True)
            )
            say(f"{name:10}{sent:9.2f} ms{done:9.2f} ms{cpu:11.1f} µs   {ratios}")
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
