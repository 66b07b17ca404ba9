"""``main.py signal``: send one signal, or replay many, to the running engine."""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from engine.cli.common import (
    ABOVE_ZERO,
    DONE,
    FAILED,
    Api,
    NoEngineError,
    complain,
    emit,
    find_engine,
    number_of,
    open_home,
    say,
)
from engine.clock import rfc3339
from engine.errors import TradingError
from engine.home import Home

_PRICE_EVERY_S: Final = 0.05
_PATIENCE_S: Final = 20.0  # for an engine that restarts under a replay
_AGAIN_S: Final = 0.25
_TIME: Final = ("time", "timestamp", "ts", "date")
_PRICE: Final = ("close", "price", "last")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    send = actions.add_parser("send", help="send one signal (schema v1)")
    send.add_argument("file", metavar="FILE.json|-")
    replay = actions.add_parser(
        "replay", help="send recorded signals with their spacing, issued_at set to now"
    )
    replay.add_argument("file", metavar="FILE.jsonl", type=Path)
    speed = number_of(ABOVE_ZERO, 1e9, "a number greater than zero")
    replay.add_argument("--speed", type=speed, default=1.0, metavar="X", help="times faster")
    replay.add_argument("--id-prefix", default="", metavar="P", help="put before every id")
    replay.add_argument("--prices", type=Path, metavar="FILE.csv", help="replay a market beside")
    replay.add_argument("--symbol", metavar="S", help="symbol of --prices")
    replay.add_argument(
        "--no-prices", action="store_true", help="do not tell a simulated engine the prices"
    )


def run(args: argparse.Namespace) -> int:
    """Do one action; return the exit status."""
    home = open_home(args)
    if args.action == "send":
        return _send(args, home)
    if args.prices is not None and not args.symbol:
        complain("--prices needs --symbol, the symbol whose prices they are")
        return 2
    return Replay(args, home).run()


def _send(args: argparse.Namespace, home: Home) -> int:
    body = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
    with find_engine(home) as api:
        status, answer, _ = api.request("POST", "/v1/signals", body)
    if args.json:
        emit(answer)
    if not 200 <= status < 300:
        complain(f"{answer.get('code')}: {answer.get('message')}")
        return FAILED
    if answer["state"] == "refused":
        complain(f"refused {answer.get('code')}: {answer.get('message', '')}")
        return FAILED
    if not args.json:
        again = " (sent before: its first outcome)" if status == 200 else ""
        say(f"{answer['source']}/{answer['signal_id']}: {answer['state']}{again}")
    return DONE


class RecordingError(TradingError):
    """A file to be replayed cannot be read."""


@dataclass(slots=True)
class _Event:
    """Something due ``at`` seconds of recorded time: a signal, or a price."""

    at: float
    signal: dict[str, Any] | None = None
    prices: dict[str, str] = field(default_factory=dict)


def read_signals(lines: Iterable[str], name: str) -> list[_Event]:
    """Read recorded signals, numbers kept as text.

    Raises:
        RecordingError: names the line.
    """
    events = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line, parse_float=str, parse_int=str)
            at = datetime.fromisoformat(document["issued_at"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = "no issued_at" if isinstance(error, KeyError) else str(error)[:120]
            raise RecordingError(f"{name}:{number}: not a recorded signal: {reason}") from None
        if at.tzinfo is None:
            raise RecordingError(f"{name}:{number}: issued_at has no offset")
        events.append(_Event(at.timestamp(), document))
    if not events:
        raise RecordingError(f"{name}: no signals in it")
    return sorted(events, key=lambda event: event.at)


def read_prices(lines: Iterable[str], name: str, symbol: str) -> Iterator[_Event]:
    """Read candles (``close``), prices, or quotes (middle of ``bid`` and ``ask``) with a time.

    Raises:
        RecordingError: names the line.
    """
    for number, row in enumerate(csv.DictReader(lines), 2):
        lower = {key.lower(): value for key, value in row.items() if key}
        try:
            at = datetime.fromisoformat(next(lower[key] for key in _TIME if key in lower))
            price = _price(lower)
        except (ValueError, TypeError, StopIteration, InvalidOperation, KeyError):
            text = "expected a time and close, price or bid and ask"
            raise RecordingError(f"{name}:{number}: {text}") from None
        yield _Event(at.replace(tzinfo=at.tzinfo or UTC).timestamp(), None, {symbol: price})


def _price(row: Mapping[str, str]) -> str:
    for key in _PRICE:
        if key in row:
            return format(Decimal(row[key]), "f")
    return format((Decimal(row["bid"]) + Decimal(row["ask"])) / 2, "f")


class Replay:
    """One replay: keeps the spacing, divided by the speed, and counts the answers."""

    def __init__(self, args: argparse.Namespace, home: Home) -> None:
        self._args = args
        self._home = home
        self._states: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._repeated = 0
        self._failed = 0
        self._api: Api | None = None
        self._prices_due = 0.0
        self._pending: dict[str, str] = {}

    def run(self) -> int:
        """Send everything; print a summary; return the exit status."""
        with self._args.file.open(encoding="utf-8") as file:
            signals = read_signals(file, str(self._args.file))
        self._api = find_engine(self._home)
        try:
            with_prices = self._wants_prices()
            began = time.monotonic()
            self._play(signals, with_prices)
            return self._summary(len(signals), time.monotonic() - began)
        finally:
            self._api.__exit__()

    def _wants_prices(self) -> bool:
        """Say whether to bring the market along: only where no order can reach a real one."""
        assert self._api is not None
        engine = self._api.get("/v1/status")["engine"] or {}
        live = [row["id"] for row in self._api.pages("accounts") if row["environment"] == "live"]
        simulated = bool(engine.get("simulated")) and not live
        if self._args.prices is not None and not simulated:
            raise RecordingError("--prices: this engine may trade at real venues; no price is sent")
        if live and not self._args.no_prices:
            complain(f"no prices are sent beside the signals: account {live[0]} is live")
        return simulated and not self._args.no_prices

    def _play(self, signals: list[_Event], with_prices: bool) -> None:
        first = signals[0].at
        began = time.monotonic()
        total, done = len(signals), 0
        for event in self._events(signals, with_prices):
            due = began + (event.at - first) / self._args.speed
            if event.signal is None:
                self._note_price(event, due)
                continue
            self._flush_prices()
            time.sleep(max(0.0, due - time.monotonic()))
            self._signal(event.signal, with_prices)
            done += 1
            self._progress(done, total)

    def _events(self, signals: list[_Event], with_prices: bool) -> Iterator[_Event]:
        if self._args.prices is None or not with_prices:
            yield from signals
            return
        first, last = signals[0].at, signals[-1].at
        with self._args.prices.open(encoding="utf-8", newline="") as file:
            prices = read_prices(file, str(self._args.prices), self._args.symbol)
            inside = (event for event in prices if first <= event.at <= last)
            yield from heapq.merge(inside, signals, key=lambda event: event.at)

    def _note_price(self, event: _Event, due: float) -> None:
        """Send prices when they are due, but not more often than anybody could see."""
        self._pending |= event.prices
        now = time.monotonic()
        if due > now:
            time.sleep(due - now)
        if time.monotonic() >= self._prices_due:
            self._flush_prices()

    def _flush_prices(self) -> None:
        if self._pending:
            prices, self._pending = self._pending, {}
            self._post("/v1/prices", json.dumps(prices).encode())
            self._prices_due = time.monotonic() + _PRICE_EVERY_S

    def _signal(self, document: dict[str, Any], with_prices: bool) -> None:
        reference = document.get("reference_price")
        if with_prices and reference is not None:
            self._post("/v1/prices", json.dumps({document.get("symbol"): reference}).encode())
        stamped = {
            **document,
            "id": f"{self._args.id_prefix}{document.get('id', '')}",
            "issued_at": rfc3339(datetime.now(UTC)),
        }
        status, answer = self._post("/v1/signals", json.dumps(stamped).encode())
        if 200 <= status < 300:
            self._states[answer["state"]] += 1
            self._repeated += status == 200
        else:
            self._failed += 1
        if answer.get("code"):
            self._codes[answer["code"]] += 1

    def _post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Post; again after a full intake or while the engine restarts, which is harmless."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                assert self._api is not None
                status, answer, headers = self._api.request("POST", path, body)
            except NoEngineError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_AGAIN_S)
                self._reconnect()
                continue
            if status not in {429, 503} or time.monotonic() > deadline:
                return status, answer
            time.sleep(min(float(headers.get("Retry-After", "1")), 5.0))

    def _reconnect(self) -> None:
        try:
            fresh = find_engine(self._home)
        except NoEngineError:
            return
        assert self._api is not None
        self._api.__exit__()
        self._api = fresh

    def _progress(self, done: int, total: int) -> None:
        if sys.stderr.isatty() and not self._args.json:
            end = "\n" if done == total else ""
            print(f"\r\x1b[2K{done} of {total} signals", end=end, file=sys.stderr, flush=True)

    def _summary(self, sent: int, seconds: float) -> int:
        document = {
            "sent": sent,
            "states": dict(self._states),
            "codes": dict(self._codes),
            "repeated": self._repeated,
            "failed": self._failed,
            "seconds": round(seconds, 3),
        }
        if self._args.json:
            emit(document)
        else:
            parts = [f"{count} {state}" for state, count in sorted(self._states.items())]
            parts += [f"{self._failed} not taken"] if self._failed else []
            parts += [f"{self._repeated} sent before"] if self._repeated else []
            codes = ", ".join(f"{code} {count}" for code, count in sorted(self._codes.items()))
            tail = f" ({codes})" if codes else ""
            say(f"{sent} signals in {seconds:.1f} s: {', '.join(parts)}{tail}")
        if not self._failed:
            return DONE
        refused = ", ".join(f"{code} {count}" for code, count in sorted(self._codes.items()))
        again = "; --id-prefix makes new signals of them" if "DUPLICATE" in self._codes else ""
        complain(f"{self._failed} of {sent} signals were not taken: {refused}{again}")
        return FAILED
