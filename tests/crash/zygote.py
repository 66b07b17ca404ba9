"""A process that has imported the whole engine and forks one on demand: an engine serves a fraction of a second later.

Starting an interpreter and importing everything takes longer than an engine lives in a storm of kills. The zygote does
both once. It has no threads and no loop; each fork makes its own loop, gets its own environment and arms its
failpoints, and from there on is ``main.py engine``. Forking is POSIX's: elsewhere ``engines`` gives plain processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx

from tests.processes import ROOT, EngineProcess, environment

FORKS = (
    hasattr(os, "fork") and sys.platform != "darwin"
)  # macOS' own libraries do not survive a fork
GONE_S = 300.0
_MODULES = (
    "main",
    "engine.cli.engine",
    "engine.wiring",
    "engine.api.server",
    "engine.telemetry.runtime",
    "engine.brokers.alpaca.adapter",
    "engine.brokers.binance.adapter",
    "engine.brokers.kite.adapter",
    "engine.brokers.oanda.adapter",
    "engine.stores.accounts_mongo",
    "engine.stores.history_mongo",
    "engine.stores.mirror_redis",
    "engine.stores.mongo",
    "engine.intake.redis_stream",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.websockets_impl",
    "uvloop",
)


class ForkedProcess:
    """A fork of the zygote, used as a ``subprocess.Popen``. Its stdin is only its lifeline."""

    def __init__(self, zygote: Zygote, number: int) -> None:
        self._zygote = zygote
        self._number = number
        self.pid = 0
        self.returncode: int | None = None
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.stdin = self

    def close(self) -> None:
        """Close its lifeline: it stops cleanly."""
        self._zygote.tell({"close": self._number})

    def poll(self) -> int | None:
        """Return its exit status, ``None`` while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status (``-9``: killed)."""
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired("engine", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End it without warning."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Zygote:
    """The zygote's other end, for a process with threads: forks engines, learns how they end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: dict[int, ForkedProcess] = {}
        self._number = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self._reader = threading.Thread(target=self._read, name="zygote", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_error: object) -> None:
        process, reader = self._process, self._reader
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        assert reader is not None
        process.stdin.close()  # it kills what still runs, and ends
        process.wait(GONE_S)
        reader.join()
        process.stdout.close()

    def fork(self, **what: Any) -> ForkedProcess:
        """Fork an engine; see ``_become`` for ``what`` it is told."""
        with self._lock:
            self._number += 1
            number = self._number
            child = self._children[number] = ForkedProcess(self, number)
        self.tell({"fork": number, **what})
        assert child.begun.wait(GONE_S), "the zygote does not fork"
        return child

    def tell(self, document: dict[str, Any]) -> None:
        """Send one order to the zygote."""
        assert self._process is not None
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, number, value = line.split()
            child = self._children[int(number)]
            if word == b"pid":
                child.pid = int(value)
                child.begun.set()
            else:
                child.returncode = int(value)
                child.ended.set()
                del self._children[int(number)]


class ForkedEngine(EngineProcess):
    """An ``EngineProcess`` that the zygote forks. ``arm`` holds failpoints for its next start only."""

    def __init__(self, zygote: Zygote, home: Path, **environ: str) -> None:
        super().__init__(home, **environ)
        self._zygote = zygote
        self.arm = ""
        self.settle_s: float | None = None

    def spawn(self) -> Self:
        """Start it."""
        assert self.process is None
        self.output.touch()
        self._said = self.output.stat().st_size
        arm, self.arm = self.arm, ""
        self.process = self._zygote.fork(  # type: ignore[assignment]  # used like one
            arguments=self._command[2:],
            directory=str(self.directory),
            environ=environment(**self._environ),
            output=str(self.output),
            errors=str(self.errors),
            arm=arm,
            settle_s=self.settle_s,
        )
        return self

    def _gone(self) -> int:
        assert self.process is not None
        self.process.wait(GONE_S)  # the zygote tells it, when its turn comes
        return super()._gone()


class PlainEngine(EngineProcess):
    """The same where nothing can be forked."""

    arm = ""
    settle_s: float | None = None

    def spawn(self) -> Self:
        """Start it."""
        arm, self.arm = self.arm, ""
        self._environ["VOLLEY_FAILPOINTS"] = arm
        return super().spawn()


@contextlib.contextmanager
def engines() -> Iterator[Callable[[Path], ForkedEngine | PlainEngine]]:
    """Yield what makes an engine of a home: forked where that can be done, else a process of its own."""
    if not FORKS:
        yield PlainEngine
        return
    with Zygote() as zygote:
        yield functools.partial(ForkedEngine, zygote)


# ---- the zygote itself ---------------------------------------------------------------------------------------------


class _Parent:
    """The loop of the zygote: forks when told, tells who ended."""

    def __init__(self) -> None:
        self._lifelines: dict[int, int] = {}
        self._running: dict[int, int] = {}  # pid → number
        self._rest = b""
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)

    def run(self) -> None:
        """Serve until stdin closes, then kill what still runs."""
        signal.set_wakeup_fd(self._wake_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        _say("ready")
        while True:
            readable, _, _ = select.select([0, self._wake_out], [], [])
            if self._wake_out in readable:
                os.read(self._wake_out, 4096)
                self._reap()
            if 0 in readable:
                said = os.read(0, 1 << 16)
                if not said:
                    break
                *lines, self._rest = (self._rest + said).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
        for pid in list(self._running):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _obey(self, document: dict[str, Any]) -> None:
        number = document.get("fork")
        if number is None:
            lifeline = self._lifelines.pop(document["close"], None)
            if lifeline is not None:
                os.close(lifeline)
            return
        out, lifeline = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become(document, out)
        os.close(out)
        self._lifelines[number] = lifeline
        self._running[pid] = number
        _say(f"pid {number} {pid}")

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            number = self._running.pop(pid)
            lifeline = self._lifelines.pop(number, None)
            if lifeline is not None:
                os.close(lifeline)
            _say(f"end {number} {os.waitstatus_to_exitcode(status)}")


def _say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def _become(document: dict[str, Any], lifeline: int) -> None:
    """Be an engine from here on: ``arguments``, ``directory``, ``environ``, ``output``, ``errors``, ``arm`` and
    ``settle_s`` (how long this run's brokers take to show an order, where that is not as long as in life).
    """
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        os.dup2(lifeline, 0)
        os.dup2(os.open(document["output"], flags, 0o600), 1)
        os.dup2(os.open(document["errors"], flags, 0o600), 2)
        os.closerange(3, 4096)
        os.environ.clear()
        os.environ.update(document["environ"])
        os.chdir(document["directory"])
        random.seed()  # else every fork would have the same luck
        gc.unfreeze()
        from engine import failpoints
        from main import main

        failpoints.arm(document["arm"])
        if document["settle_s"] is not None:
            settle_in(document["settle_s"])
        status = main(document["arguments"])
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 (nothing may return into the zygote)
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201 (its last words)
    finally:
        os._exit(status)


def settle_in(seconds: float) -> None:
    """Let every broker promise to show an order within ``seconds``, and be asked again as soon as that.

    A storm's venue keeps a promise scaled like it: only the waiting is shorter.
    """
    import dataclasses

    from engine.execution import reconciler

    reconciler.LOOK_UP_AGAIN_S = seconds / 2  # type: ignore[misc]
    for module in [m for name, m in sys.modules.items() if name.startswith("engine.brokers.")]:
        known = getattr(module, "CAPABILITIES", None)
        if known is not None:
            module.CAPABILITIES = dataclasses.replace(known, settle_s=seconds)  # type: ignore[attr-defined]
    from engine.brokers.binance.adapter import BinanceAdapter

    BinanceAdapter.__init__.__kwdefaults__["settle_s"] = seconds


def _warm_up() -> None:
    """Run an engine once, on a home that is thrown away: what is made at first use is made before the forks."""
    from engine.api import schemas, server
    from engine.cli.engine import running
    from engine.config import Config
    from engine.home import Home

    # The dearest part of a start: the commands' JSON schema.
    schemas.commands = server.commands = functools.cache(schemas.commands)  # type: ignore[assignment,attr-defined]

    async def once(home: Home) -> None:
        config = Config.model_validate({"engine": {"listen": "127.0.0.1:0"}})
        async with running(home, config) as (_engine, url), httpx.AsyncClient() as http:
            await http.get(f"{url}/healthz")

    with tempfile.TemporaryDirectory(prefix="volley-zygote-") as directory:
        asyncio.run(once(Home(Path(directory))))


def main() -> None:
    """Import everything, then fork on demand."""
    for name in _MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    _warm_up()
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    _Parent().run()


if __name__ == "__main__":
    main()
