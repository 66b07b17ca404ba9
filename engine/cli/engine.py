"""``main.py engine``: the engine without a screen."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine import log
from engine.cli.common import ABOVE_ZERO, complain, number_of, open_config
from engine.errors import ConfigError
from engine.home import Home

if TYPE_CHECKING:
    from engine.client import EngineClient
    from engine.config import Config
    from engine.trading_engine import TradingEngine

_SECOND: Final = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "--demo",
        action="store_true",
        help="practice accounts, venue and signals; a throw-away home",
    )
    add(
        "--for",
        dest="seconds",
        type=number_of(ABOVE_ZERO, 1e9, "seconds greater than zero"),
        metavar="SECONDS",
        help="stop after that time",
    )
    add("--lifeline", action="store_true", help="stop when stdin closes or says stop")


def run(args: argparse.Namespace) -> int:
    """Run until a signal, the lifeline or the clock ends it; return the exit status."""
    os.umask(0o077)  # what an engine writes is its owner's
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(demo_home(args)) if args.demo else Home(args.home)
        config = open_config(args, home)
        stack.enter_context(home.lock())
        stack.callback(log.setup(config.log, home.log_file))
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(args, home, config))


@contextlib.contextmanager
def demo_home(args: argparse.Namespace) -> Iterator[Home]:
    """Yield the home of a demo: the one named, else one that is thrown away afterwards."""
    if args.home:
        yield Home(args.home)
        return
    with tempfile.TemporaryDirectory(prefix="volley-demo-", ignore_cleanup_errors=True) as path:
        yield Home(Path(path))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where there is one."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


async def _serve(args: argparse.Namespace, home: Home, config: Config) -> int:
    end = _Ending(asyncio.get_running_loop())
    end.on_signals()
    if args.lifeline:
        end.with_stdin()
    async with running(home, config, demo=args.demo, config_file=args.config) as (engine, url):
        row = engine.publisher.rows("engine")[0]
        print(f"engine {config.engine.name} on {url}, trading {row['trading']}", flush=True)
        if args.seconds is not None:
            asyncio.get_running_loop().call_later(args.seconds, end, 0)
        ticker = None
        if args.demo and sys.stdout.isatty():
            ticker = asyncio.create_task(_tick(engine), name="status line")
        try:
            return await end.status
        finally:
            if ticker is not None:
                ticker.cancel()
                print(flush=True)


@contextlib.asynccontextmanager
async def running(
    home: Home, config: Config, *, demo: bool = False, config_file: str | None = None
) -> AsyncIterator[tuple[TradingEngine, str]]:
    """Run an engine with its API on a home whose lock is held; yields it and its URL.

    Raises:
        ConfigError: ``engine.listen`` cannot be bound; no broker has heard of us then.
    """
    async with contextlib.AsyncExitStack() as stack:
        venue = None
        if demo:  # the venue's process starts while this one still loads
            from engine.services.practice_venue import practice_venue

            venue = await stack.enter_async_context(
                practice_venue("--dialect", "alpaca", "--latency-ms", "4")
            )
        from engine.api.server import ApiServer
        from engine.services.heartbeat import watched
        from engine.telemetry.runtime import (
            allow_open_files,
            forbid_core_dumps,
            settle_garbage_collection,
        )
        from engine.wiring import build_engine

        forbid_core_dumps()
        allow_open_files()  # two or three for every account

        if venue is not None:
            from engine.services.demo import demo_config, put_practice_accounts

            config = demo_config(config)
            await put_practice_accounts(home, await venue.url())
        engine = await build_engine(home, config)
        stack.push_async_callback(engine.stop)
        _refuse_missing_secrets(engine)
        server = ApiServer(engine, home, config)
        stack.push_async_callback(server.stop)
        server.bind()
        await engine.start()
        url = await server.start()
        stack.callback(home.withdraw_engine)
        home.publish_engine(url)
        await stack.enter_async_context(watched(engine, home, config_file, demo=demo))
        if demo:
            await stack.enter_async_context(_practice(engine))
        settle_garbage_collection()
        if demo:
            from engine.services.demo_homes import remove_stale_homes

            await asyncio.to_thread(remove_stale_homes)
        yield engine, url


def _refuse_missing_secrets(engine: TradingEngine) -> None:
    """Refuse to start where an account that is on names an environment variable that is not set.

    No time makes that right: only a start does. With orders, positions or an unfinished halt to look after the engine
    starts all the same, and the account says what it needs: nothing may stand between a crash and those.

    Raises:
        ConfigError: names the account, the credential, the variable and what to do.
    """
    accounts = [state.account for state in engine.fleet.states.values()]
    if engine.orders.working() or any(engine.keeper.open_symbols(one.id) for one in accounts):
        return
    if any(record["open"] for record in engine.shared.halts()):
        return
    missing = [
        (one.id, name, reference)
        for one in accounts
        if one.active
        for name, secret in one.credentials.items()
        if (reference := secret.get_secret_value()).startswith("env:")
        and not os.environ.get(reference.removeprefix("env:"))
    ]
    if missing:
        account, name, reference = missing[0]
        variable = reference.removeprefix("env:")
        more = f"; {len(missing) - 1} more are missing" if missing[1:] else ""
        raise ConfigError(
            f"account {account}: {name} = {reference}: the environment variable {variable} is not set; set it, "
            f"or switch the account off: volley accounts disable {account}{more}"
        )


@contextlib.asynccontextmanager
async def _practice(engine: TradingEngine) -> AsyncIterator[None]:
    from engine.services.demo import PracticeSignals

    signals = PracticeSignals(engine)
    await signals.start()
    try:
        yield
    finally:
        await signals.stop()


@contextlib.asynccontextmanager
async def inline(args: argparse.Namespace) -> AsyncIterator[EngineClient]:
    """Run an engine, with its API, on the caller's loop (the desk's); yields its client.

    Raises:
        HomeLocked: another engine holds the home.
        ConfigError: the configuration is wrong, or its address cannot be bound.
    """
    from engine.client import local_client

    os.umask(0o077)  # what an engine writes is its owner's
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(demo_home(args)) if args.demo else Home(args.home)
        config = open_config(args, home)
        stack.enter_context(home.lock())
        stack.callback(log.setup(config.log, home.log_file))
        async with running(home, config, demo=args.demo, config_file=args.config) as (engine, _):
            yield local_client(engine)


class _Ending:
    """Collects the reasons to stop; the first one decides the exit status."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.status: asyncio.Future[int] = loop.create_future()

    def __call__(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)

    def on_signals(self) -> None:
        """Stop cleanly on Ctrl-C (130), SIGTERM and a closed terminal (0)."""
        # Windows' loops take no handlers: there Ctrl-C cancels the runner's task.
        with contextlib.suppress(NotImplementedError):
            self._loop.add_signal_handler(signal.SIGINT, self._interrupt)
            self._loop.add_signal_handler(signal.SIGTERM, self, 0)
            if sys.platform != "win32":
                self._loop.add_signal_handler(signal.SIGHUP, self, 0)

    def _interrupt(self) -> None:
        if self.status.done():
            # Asked twice: at once. What counts is on disk before any order leaves.
            complain("stopped in the middle of stopping")
            os._exit(130)
        self(130)

    def with_stdin(self) -> None:
        """Stop with the parent: the system closes our stdin however the parent ended."""

        def watch() -> None:
            # The bare descriptor: a buffered read holds a lock that the interpreter's exit needs.
            with contextlib.suppress(OSError):
                while (said := os.read(0, 4096)) and b"stop" not in said:
                    pass
            with contextlib.suppress(RuntimeError):  # the loop may be closed already
                self._loop.call_soon_threadsafe(self, 0)

        threading.Thread(target=watch, name="lifeline", daemon=True).start()


async def _tick(engine: TradingEngine) -> None:
    while True:
        row = engine.publisher.rows("engine")[0]
        print(f"\r\x1b[2K{status_line(row, engine.latency())}", end="", flush=True)
        await asyncio.sleep(_SECOND)


def status_line(row: dict[str, Any], latency: dict[str, Any]) -> str:
    """Return one line on what an engine does (an ``engine`` row and ``GET /v1/latency``)."""
    parts = [f"{name} {row[name]}" for name in ("signals", "orders", "fills")]
    parts.append(f"day P&L {row['day_pnl'] or '-'}")
    minute = latency["stages"].get("last_byte", {}).get("minute") or {}
    if minute.get("count"):
        parts.append(f"last byte p50 {minute['p50']} µs, p99 {minute['p99']} µs")
    return "   ".join(parts)
