"""``main.py simbroker``: the simulated venue as a server."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import threading
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from engine.cli.common import FAILED, USAGE, complain, whole_of
from engine.errors import ConfigError
from engine.model.numbers import parse_decimal

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.simbroker import SimConfig
    from engine.simbroker.tls import Certificates

_DIALECTS = ("alpaca", "binance", "oanda", "kite")


def _decimal(text: str) -> Decimal:
    return parse_decimal(text)


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's options."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    add(
        "--port",
        type=whole_of(0, 65_535),
        default=9101,
        help="port; 0 picks a free one and prints it",
    )
    add("--dialect", choices=_DIALECTS, default="alpaca", help="whose API to speak")
    add("--faults", type=Path, metavar="FILE", help="faults to inject, a JSON list")
    add("--log", type=Path, metavar="FILE", help="append every request to this JSON lines file")
    add("--accounts", type=Path, metavar="FILE", help='only these keys: JSON {"key id": "secret"}')
    add("--cash", type=_decimal, default=Decimal(100_000), help="cash of a fresh account")
    add("--margin", type=_decimal, default=Decimal(4), help="buying power per unit of equity")
    add("--unknown-symbols", type=_regex, default="", metavar="REGEX", help="symbols not traded")
    add("--seed", type=int, default=1, help="seed of the price walks")
    add("--volatility", type=float, default=0.0002, help="of one tick, as a fraction")
    add("--tick-interval", type=float, default=0.25, metavar="S", help="seconds between ticks")
    add("--still", action="store_true", help="prices stand still unless told otherwise")
    add("--follow-percent", type=_decimal, default=Decimal(1), help="limits that pull the market")
    add("--prices", type=Path, metavar="CSV", help="replay candles or quotes instead of a walk")
    add("--symbol", default="BTCUSDT", help="symbol of --prices")
    add("--speed", type=float, default=1.0, help="how much faster than recorded")
    add("--latency-ms", type=float, default=0.0, help="before every answer")
    add("--latency-jitter-ms", type=float, default=0.0, help="at most this much more, by chance")
    add("--fill-delay-ms", type=float, default=0.0, help="between acknowledgement and market")
    add("--max-fill-qty", type=_decimal, default=None, help="most units filled at one tick")
    add("--rate-limit", type=int, default=0, help="requests a minute and key (Alpaca: 200)")
    add(
        "--tls",
        nargs="?",
        const="",
        metavar="CA_FILE",
        help="over TLS, by a new authority whose certificate goes to this file (or a printed one)",
    )
    add("--lifeline", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; returns the exit status."""
    try:
        config = _config(args)
        with ExitStack() as stack:
            made = None if args.tls is None else _certificates(args.tls, stack)
            runner = stack.enter_context(asyncio.Runner(loop_factory=_loop_factory()))
            return runner.run(_serve(config, args.host, args.port, made, lifeline=args.lifeline))
    except ConfigError as error:
        complain(str(error))
        return USAGE
    except OSError as error:
        complain(f"cannot listen on {args.host}:{args.port}: {error.strerror or error}")
        return FAILED
    except KeyboardInterrupt:
        return 130


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} {path} cannot be read: {error.strerror}") from None


def _accounts(path: Path) -> dict[str, str]:
    import orjson

    try:
        accounts: Any = orjson.loads(_read(path, "--accounts"))
    except ValueError as error:
        raise ConfigError(f"--accounts {path} is not JSON: {error}") from None
    if not isinstance(accounts, dict) or not all(isinstance(s, str) for s in accounts.values()):
        raise ConfigError(f"--accounts {path} must hold an object of key id and secret")
    return accounts


def _config(args: argparse.Namespace) -> SimConfig:
    from engine.simbroker import SimConfig
    from engine.simbroker.faults import as_faults
    from engine.simbroker.server import positive

    if args.tick_interval <= 0 or args.speed <= 0:
        raise ConfigError("--tick-interval and --speed must be above zero")
    if min(args.latency_ms, args.latency_jitter_ms, args.fill_delay_ms, args.volatility) < 0:
        raise ConfigError("latencies, --fill-delay-ms and --volatility must not be negative")
    if args.max_fill_qty is not None:
        positive(args.max_fill_qty, "--max-fill-qty")
    return SimConfig(
        dialect=args.dialect,
        cash=args.cash,
        margin=positive(args.margin, "--margin"),
        accounts=None if args.accounts is None else _accounts(args.accounts),
        unknown_symbols=args.unknown_symbols,
        seed=args.seed,
        walk=not args.still,
        volatility=args.volatility,
        tick_interval_s=args.tick_interval,
        follow_percent=args.follow_percent,
        prices=args.prices,
        prices_symbol=args.symbol,
        prices_speed=args.speed,
        fill_delay_ms=args.fill_delay_ms,
        max_fill_qty=args.max_fill_qty,
        latency_ms=args.latency_ms,
        latency_jitter_ms=args.latency_jitter_ms,
        rate_limit=max(0, args.rate_limit),
        faults=[] if args.faults is None else as_faults(_read(args.faults, "--faults")),
        log=args.log,
    )


def _certificates(authority: str, stack: ExitStack) -> Certificates:
    from engine.simbroker.tls import make_certificate

    directory = TemporaryDirectory(prefix="volley-venue-", ignore_cleanup_errors=True)
    path = Path(stack.enter_context(directory))
    try:
        return make_certificate(path, Path(authority) if authority else None)
    except OSError as error:
        raise ConfigError(f"--tls {authority} cannot be written: {error.strerror}") from None


async def _serve(
    config: SimConfig, host: str, port: int, made: Certificates | None, *, lifeline: bool
) -> int:
    from engine.simbroker import SimBroker

    loop = asyncio.get_running_loop()
    status: asyncio.Future[int] = loop.create_future()

    def end(with_status: int) -> None:
        if not status.done():
            status.set_result(with_status)

    # Windows' loops take no handlers: there Ctrl-C is a KeyboardInterrupt of the runner.
    with suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, end, 0)
        loop.add_signal_handler(signal.SIGINT, end, 130)
    venue = SimBroker(config)
    await venue.start(host, port, ssl=None if made is None else made.server_context())
    scheme = "http" if made is None else "https"
    print(f"simulated venue ({config.dialect}) on {scheme}://{host}:{venue.port}", flush=True)
    if made is not None:
        print(f"certificate authority: {made.authority}", flush=True)
    if lifeline:
        _watch_stdin(loop, end)
    try:
        return await status
    finally:
        await venue.stop()


def _watch_stdin(loop: asyncio.AbstractEventLoop, end: Callable[[int], None]) -> None:
    """End with the parent: the system closes our stdin when the parent is gone, however it went."""

    def watch() -> None:
        # The bare descriptor: a buffered read holds a lock that the interpreter's exit waits for.
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        with suppress(RuntimeError):  # the loop may be closed already
            loop.call_soon_threadsafe(end, 0)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
