"""C18 over TLS: what has passed the kill switch's gate is with the system before the next order is looked at."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme
import uvloop

from engine.brokers.dial import dial
from tests.wire_rig import NOT_ON_WINDOWS

ORDER = b"POST /v2/orders HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"


class Listening:
    """A TLS server in a thread of its own: it hears also while this process's loop stands still."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with self._context.wrap_socket(connection, server_side=True) as encrypted:
            if encrypted.recv(len(ORDER)) == ORDER:
                self.heard.set()
            encrypted.recv(1)  # until the other end closes

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Listening]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    made = Listening(context)
    yield made
    made.close()


@NOT_ON_WINDOWS
@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_is_written_leaves_though_the_loop_never_turns_again(
    authority: trustme.CA, server: Listening, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def write_and_hang() -> bool:
        transport, _ = await dial(asyncio.Protocol, "localhost", server.port, context=context)
        transport.write(ORDER)  # type: ignore[attr-defined]
        heard = server.heard.wait(10)  # this loop does not move meanwhile
        transport.abort()  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        return heard

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(write_and_hang())
