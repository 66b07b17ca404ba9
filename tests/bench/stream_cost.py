"""What an event of an order stream costs: our WebSocket, the ``websockets`` library, and no protocol.

``python tests/bench/stream_cost.py [--streams 100] [--events 50] [--loop uvloop|asyncio]`` starts a
server process that sends one ``trade_updates`` message to each of the streams, as brokers do after a
fan-out, again and again with a pause between so that no two messages to a stream come as one segment,
and measures this process's CPU per message until the last was read. Medians over the
rounds; read them as ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import orjson
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from engine.brokers.websocket import WebSocket

EVENT = orjson.dumps(
    {
        "stream": "trade_updates",
        "data": {
            "event": "fill",
            "execution_id": "2f63ea93-423d-4169-b3f6-3fdafc10c418",
            "price": "179.08",
            "qty": "10",
            "timestamp": "2026-11-22T14:30:00.123456Z",
            "order": {f"field_{number}": "904837e3-3b76-47ec" for number in range(24)},
        },
    }
)

PAUSE_S = 0.02
FRAME = b"\x81\x7e" + len(EVENT).to_bytes(2, "big") + EVENT


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def server(port: Any, streams: int, events: int) -> None:
    async def run() -> None:
        waiting: list[ServerConnection] = []
        all_there = asyncio.Event()

        async def client(connection: ServerConnection) -> None:
            waiting.append(connection)
            if len(waiting) == streams:
                all_there.set()
            await connection.wait_closed()

        async with serve(client, "127.0.0.1", 0, compression=None, ping_interval=None) as listening:
            port.send(listening.sockets[0].getsockname()[1])
            while True:
                await all_there.wait()
                all_there.clear()
                ready, waiting[:] = list(waiting), []
                for _ in range(events):
                    for connection in ready:
                        connection.transport.write(FRAME)
                    await asyncio.sleep(PAUSE_S)

    asyncio.run(run())


class Count:
    """Counts messages; starts the clock at the first."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.left = wanted
        self.cpu = 0
        self.done = asyncio.get_running_loop().create_future()

    def on_message(self, message: str | bytes) -> None:
        if self.left == self.wanted:
            self.cpu = time.process_time_ns()
        assert len(message) == len(EVENT)
        self.left -= 1
        if not self.left:
            self.done.set_result((time.process_time_ns() - self.cpu) / 1e3 / self.wanted)


class Bare(asyncio.Protocol):
    """Shakes hands and counts bytes: what the loop itself costs."""

    def __init__(self, count: Count) -> None:
        self.count = count
        self.begun = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.size = 0

    def data_received(self, data: bytes) -> None:
        self.size += len(data)
        if not self.begun:
            self.begun = True
            self.size = len(data.partition(b"\r\n\r\n")[2])
        while self.size >= len(FRAME):
            self.size -= len(FRAME)
            self.count.on_message(EVENT)


async def bare(url: str, streams: int, events: int) -> float:
    count = Count(streams * events)
    port = int(url.rpartition(":")[2])
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Bare(count), "127.0.0.1", port) for _ in range(streams)
    ]
    cost: float = await count.done
    for transport, _ in made:
        transport.abort()
    return cost


async def ours(url: str, streams: int, events: int) -> float:
    count = Count(streams * events)
    sockets = [await WebSocket.connect(url, on_message=count.on_message) for _ in range(streams)]
    cost: float = await count.done
    await asyncio.gather(*(socket.close() for socket in sockets))
    return cost


async def theirs(url: str, streams: int, events: int) -> float:
    count = Count(streams * events)

    async def follow() -> None:
        async with connect(url, compression=None, proxy=None, ping_interval=None) as socket:
            async for message in socket:
                count.on_message(message)
                if not count.left:
                    return

    tasks = [asyncio.create_task(follow()) for _ in range(streams)]
    cost: float = await count.done
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop", default="asyncio" if sys.platform == "win32" else "uvloop")
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=server, args=(there, asked.streams, asked.events), daemon=True)
    process.start()
    url = f"ws://127.0.0.1:{here.recv()}"
    costs: dict[str, list[float]] = {"websockets": [], "ours": [], "bare": []}
    try:
        for _ in range(asked.rounds):
            for name, work in (("websockets", theirs), ("ours", ours), ("bare", bare)):
                with asyncio.Runner(loop_factory=lambda: new_loop(asked.loop)) as runner:
                    costs[name].append(runner.run(work(url, asked.streams, asked.events)))
    finally:
        process.terminate()
        process.join()
    middle = {name: statistics.median(found) for name, found in costs.items()}
    for name, cost in middle.items():
        ratio = cost / middle["ours"]
        sys.stdout.write(f"{name:12}{cost:8.1f} µs CPU a message {ratio:6.1f} × ours\n")


if __name__ == "__main__":
    main()
