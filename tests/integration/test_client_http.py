"""The desk's requests: written at once, one at a time over a connection, and no answer is taken for another's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from engine.client_http import HttpLines
from tests.world import eventually

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
Reply = Callable[[bytes, asyncio.StreamWriter], None]


class Server:
    """Answers each request as ``reply`` says; keeps what came, and over how many connections."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(65_536):
                self.asked.append(data)
                self.reply(data, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(reply: Reply) -> AsyncIterator[tuple[Server, HttpLines]]:
    server = Server(reply)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    lines = HttpLines(host, port, tls=False, headers={"authorization": "Bearer x"})
    try:
        yield server, lines
    finally:
        lines.close()
        listening.close()
        await listening.wait_closed()


def say(*parts: bytes) -> Reply:
    def reply(_data: bytes, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)

    return reply


async def test_a_request_is_written_in_its_own_step_where_a_connection_is_idle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        lines = HttpLines(*listening.getsockname(), tls=False, headers={"a": "b"})
        await lines.warm()
        at_engine, _ = listening.accept()
        with at_engine:
            at_engine.setblocking(False)
            task = asyncio.create_task(lines.request("POST", "/v1/commands", b"{}"))
            await asyncio.sleep(0)  # the task's first step, and no other turn of the loop
            host, port = listening.getsockname()
            assert at_engine.recv(65_536) == (
                b"POST /v1/commands HTTP/1.1\r\nhost: %s:%d\r\na: b\r\ncontent-length: 2\r\n\r\n{}"
                % (host.encode(), port)
            )
            at_engine.sendall(OK + b"{}")
            assert await task == (200, b"{}")
        lines.close()


async def test_answers_in_pieces_over_one_connection() -> None:
    whole = OK + b"{}"
    async with serving(say(*(whole[i : i + 1] for i in range(len(whole))))) as (server, lines):
        for _ in range(3):
            assert (await lines.request("GET", "/v1/status", None)).content == b"{}"
        assert server.connections == 1
        assert b"content-length" not in server.asked[0]


async def test_requests_beside_each_other_have_connections_of_their_own() -> None:
    def echo(data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + data[-2:])

    async with serving(echo) as (server, lines):
        bodies = [b"%02d" % n for n in range(12)]
        answers = await asyncio.gather(*(lines.request("POST", "/", body) for body in bodies))
        assert [answer.content for answer in answers] == bodies
        assert server.connections == 12


@pytest.mark.parametrize(
    "answer",
    [OK, OK[:10], b"no HTTP at all\r\n\r\n", b""],
    ids=["half", "part of a head", "garbage", "nothing"],
)
async def test_an_answer_that_is_not_whole_is_an_error_and_the_next_has_a_new_connection(
    answer: bytes,
) -> None:
    def cut(_data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with serving(cut) as (server, lines):
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await lines.request("POST", "/", b"{}")
        assert server.connections == 2


async def test_what_says_close_is_not_used_again() -> None:
    closing = b"HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
    async with serving(say(closing)) as (server, lines):
        for _ in range(2):
            answer = await lines.request("POST", "/", b"{}")
            assert (answer.status, answer.is_success) == (409, False)
        assert server.connections == 2


async def test_the_answer_to_a_cancelled_request_is_nobody_else_s() -> None:
    waiting: list[asyncio.StreamWriter] = []

    def late(data: bytes, writer: asyncio.StreamWriter) -> None:
        if data.endswith(b"first"):
            waiting.append(writer)
            return
        for one in waiting:
            one.write(OK + b"1!")
        writer.write(OK + b"2!")

    async with serving(late) as (server, lines):
        task = asyncio.create_task(lines.request("POST", "/", b"first"))
        await eventually(lambda: waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await lines.request("POST", "/", b"second")).content == b"2!"
        assert server.connections == 2


async def test_what_breaks_one_connection_leaves_no_idle_one_to_the_second_try() -> None:
    """A machine that slept, or a line that was cut: none of them says so before something is written."""
    writers: list[asyncio.StreamWriter] = []
    torn: list[asyncio.StreamWriter] = []

    def reply(_data: bytes, writer: asyncio.StreamWriter) -> None:
        if writer in torn:
            writer.transport.abort()
        elif len(writers) < 3:  # all are answered once all are there: none is used twice
            writers.append(writer)
            for one in writers if len(writers) == 3 else ():
                one.write(OK + b"{}")
        else:
            writer.write(OK + b"{}")

    async with serving(reply) as (server, lines):
        await asyncio.gather(*(lines.request("POST", "/", b"{}") for _ in range(3)))
        torn += writers
        with pytest.raises(ConnectionError):
            await lines.request("POST", "/", b"{}")
        assert (await lines.request("POST", "/", b"{}")).content == b"{}"
        assert server.connections == 4
