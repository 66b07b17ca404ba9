"""A recorded day once more: its signals, with other rules or accounts, against the simulated venue, and what differs.

The engine is a whole one in a home that is thrown away; its clock shows the recorded time at each signal, so ages,
trading hours and rates are judged as then. Before a signal the venue and the engine are given the price of that moment
as far as it was recorded. What people did to held signals, positions and pauses is done again at its place.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from engine.clock import SystemClock
from engine.config import AlertsConfig, Config, load_config
from engine.days.recorded import RecordedDay, Told, read_day, read_whole
from engine.days.rerun_compare import Comparison, compare
from engine.errors import CommandRefused, ConfigError, InvalidSignal, TradingError
from engine.home import Home
from engine.loadtest.dialects import DIALECTS, SECRET
from engine.model.account import Account
from engine.model.numbers import to_text
from engine.outside import Outside, open_stores, open_vault
from engine.services.practice_venue import practice_venue
from engine.stores.account_documents import read_account
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.stores.journal import Journal
from engine.stores.journal_rows import SignalEntry
from engine.stores.vault import FileVault
from engine.trading_engine import TradingEngine
from engine.wiring import build_engine

OWNER: Final = "RERUN"
CONNECT_WITHIN_S: Final = 60.0
ANSWER_WITHIN_S: Final = 5.0
LONGEST_PAUSE_S: Final = 1.0
"""Of the run's own time between two signals, however long it was on the day."""
_FIRM: Final = "VOLLEY_LIMITS__"
_AGAIN: Final = frozenset(
    {"approve", "reject", "force", "pause", "resume", "close_position", "set_stops", "flatten", "cancel_order"}
)  # fmt: skip
"""Commands that are given again."""


_BEGINS: Final = (
    "Every account begins with {cash} in cash and no position: sizes that follow equity, and closes of what was held "
    "from before, differ for that reason alone."
)
_PRICES: Final = (
    "A market order fills at the price recorded for the moment of its signal, whole and at once; limit and stop orders "
    "fill when a later signal brings a price through theirs."
)
_PACE: Final = (
    "The signals come {speed:g} times faster than on the day, and no pause is longer than a second: limits of orders a "
    "second or a minute, and times to approve, count the run's own seconds."
)


@dataclass(frozen=True, slots=True)
class RerunPlan:
    """What to run. ``speed``: how much faster than recorded the signals come.

    ``limits``: of every account, in the place of its own (``None``: no such limit).
    """

    place: Path
    day: date
    zone: str = "UTC"
    config: Path | None = None
    accounts: Path | None = None
    speed: float = 60.0
    cash: Decimal = Decimal(100_000)
    limits: Mapping[str, str | int | None] = field(default_factory=dict)


class RecordedClock:
    """Goes on as the machine's clock does; its wall clock is put to a recorded moment now and then."""

    def __init__(self, begins: datetime) -> None:
        self._real = SystemClock()
        self._ahead = begins - self._real.now()

    def now(self) -> datetime:
        """Return the recorded time."""
        return self._real.now() + self._ahead

    def monotonic_ns(self) -> int:
        """Return nanoseconds of this machine: what is measured here is measured by it."""
        return self._real.monotonic_ns()

    def advance_to(self, moment: datetime) -> None:
        """Go on to a moment; never back."""
        self._ahead += max(moment - self.now(), timedelta(0))


@dataclass(slots=True)
class _Run:
    """One run under way."""

    then: RecordedDay
    clock: RecordedClock
    engine: TradingEngine
    venues: list[str]
    known: dict[str, Decimal] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


async def rerun(plan: RerunPlan, progress: Callable[[int, int], None] | None = None) -> Comparison:
    """Run a day again and compare.

    Raises:
        StoreError: the journal cannot be read.
        ConfigError: the accounts or the configuration are wrong, or not there.
        TradingError: a venue does not start, or accounts do not connect.
    """
    then = read_day(plan.place, plan.day, plan.zone)
    if not then.signals:
        raise ConfigError(f"--day {plan.day}: no signal is recorded on it")
    with tempfile.TemporaryDirectory(prefix="volley-rerun-", ignore_cleanup_errors=True) as folder:
        home = Home(Path(folder) / "home")
        accounts = [_with(plan.limits, one) for one in _accounts(plan, then.place.parent)]
        async with _running(plan, home, then, accounts) as run:
            await _play(run, plan.speed, progress)
            refused = run.refused
        now = read_whole(home.path, plan.day)
        return compare(then, now, _notes(plan, then, accounts, refused))


# ---- the engine and its venues ---------------------------------------------------------------------------------------


def _accounts(plan: RerunPlan, home: Path) -> list[dict[str, Any]]:
    """Return the accounts' documents: of the file, else of the recorded home; never a credential of theirs."""
    if plan.accounts is not None:
        try:
            documents = orjson.loads(plan.accounts.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"--accounts {plan.accounts}: cannot be read: {error}") from None
    else:
        documents = _stored(home / "accounts.sqlite3")
    if not isinstance(documents, list) or not documents:
        raise ConfigError("--accounts: expected a JSON list of accounts as for accounts import")
    for document in documents:
        if not isinstance(document, dict) or not isinstance(document.get("id"), str):
            raise ConfigError("--accounts: expected objects, each with an id")
    return documents


def _with(limits: Mapping[str, str | int | None], document: dict[str, Any]) -> dict[str, Any]:
    """Return an account's document with some limits changed."""
    own = document.get("limits") or {}
    if not limits or not isinstance(own, dict):
        return document
    changed = {**own, **limits}
    kept = {name: value for name, value in changed.items() if value is not None}
    return {**document, "limits": kept}


def _stored(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ConfigError(f"no accounts beside the journal ({path}): name a file with --accounts")
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT document FROM accounts ORDER BY id").fetchall()
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: {error}") from None
    finally:
        connection.close()
    return [orjson.loads(row[0]) for row in rows]


def _config(plan: RerunPlan, home: Path) -> Config:
    """Return the rules to run by: armed, embedded, on simulated venues only."""
    config = load_config(home, plan.config)
    engine = {"trading": "active", "allow_simulated_venues": True, "listen": "127.0.0.1:0"}
    safety = {"clock_block_ms": 0}  # the venues' clocks show another day
    return config.model_copy(
        update={
            "engine": config.engine.model_copy(update=engine),
            "storage": config.storage.model_copy(update={"profile": "embedded"}),
            "market": config.market.model_copy(update={"source": "none"}),
            "safety": config.safety.model_copy(update=safety),
            "alerts": AlertsConfig(),  # nobody is to be told of what only happened here
        }
    )


@asynccontextmanager
async def _running(
    plan: RerunPlan, home: Home, then: RecordedDay, documents: list[dict[str, Any]]
) -> AsyncIterator[_Run]:
    config = _config(plan, then.place.parent)
    async with AsyncExitStack() as stack:
        venues: dict[str, str] = {}
        for name in sorted({str(one.get("broker")) for one in documents} & set(DIALECTS)):
            keys = home.path / f"keys-{name}.json"
            keys.write_bytes(orjson.dumps(_keys(name, len(documents))))
            options = (
                "--dialect",
                name,
                "--still",
                "--cash",
                str(plan.cash),
                "--accounts",
                str(keys),
            )
            venue = await stack.enter_async_context(practice_venue(*options))
            venues[name] = await venue.url()
        await _put_accounts(home, documents, venues)
        clock = RecordedClock(
            datetime.fromisoformat(then.signals[0].received_at) - timedelta(seconds=1)
        )
        outside = Outside(clock, Journal(home.journal, clock), open_vault(home), open_stores)
        stack.enter_context(home.lock())
        engine = await build_engine(home, config, outside)
        stack.push_async_callback(engine.stop)
        await engine.start()
        await _connected(engine)
        yield _Run(then, clock, engine, list(venues.values()))


def _keys(name: str, accounts: int) -> dict[str, str]:
    dialect = DIALECTS[name]
    return {dialect.credentials(OWNER, number)[dialect.key]: SECRET for number in range(accounts)}


async def _put_accounts(
    home: Home, documents: list[dict[str, Any]], venues: dict[str, str]
) -> None:
    vault = FileVault(home.path, practice=True)
    accounts = []
    for number, document in enumerate(documents):
        account, name = dict(document), str(document.get("broker"))
        account |= {"credentials": {}, "base_url": venues.get(name), "environment": "paper"}
        account["egress"] = None  # the venues are here, behind nobody's proxy
        if name in venues:
            plain = DIALECTS[name].credentials(OWNER, number)
            account["credentials"] = {
                key: vault.seal(account["id"], key, text) for key, text in plain.items()
            }
        else:
            account["broker"] = "paper"
        try:
            accounts.append(read_account(account["id"], account))
        except ValueError as error:
            raise ConfigError(f"account {account['id'][:80]!a}: {error}") from None
    await _store(home, accounts)


async def _store(home: Home, accounts: list[Account]) -> None:
    store = SqliteAccountStore(home.path / "accounts.sqlite3")
    await store.open()
    try:
        await store.put(accounts)
    finally:
        await store.close()


async def _connected(engine: TradingEngine) -> None:
    states = [state for state in engine.fleet.states.values() if state.account.active]
    deadline = time.monotonic() + CONNECT_WITHIN_S
    while not all(state.usable and state.reconciled for state in states):
        if time.monotonic() > deadline:
            late = [state.id for state in states if not (state.usable and state.reconciled)]
            raise TradingError(
                f"{len(late)} accounts did not connect to the simulated venue: {late[0]}"
            )
        await asyncio.sleep(0.02)


# ---- the day ---------------------------------------------------------------------------------------------------------


async def _play(run: _Run, speed: float, progress: Callable[[int, int], None] | None) -> None:
    """Give the day's signals and commands again, in their order."""
    signals = [(entry.received_at, entry) for entry in run.then.signals]
    commands = [(told.at, told) for told in run.then.audit if _is_again(told)]
    events: list[tuple[str, SignalEntry | Told]] = sorted(
        [*signals, *commands], key=lambda event: (event[0], isinstance(event[1], Told))
    )
    before = datetime.fromisoformat(events[0][0])
    done = 0
    for at, event in events:
        moment = datetime.fromisoformat(at)
        pause = (moment - before).total_seconds() / speed
        await asyncio.sleep(min(max(pause, 0.0), LONGEST_PAUSE_S))
        before = moment
        run.clock.advance_to(moment)
        if isinstance(event, SignalEntry):
            await _signal(run, event)
            done += 1
            if progress is not None:
                progress(done, len(signals))
        else:
            await _command(run, event)
    await _answered(run)
    await run.engine.journal.flushed()


def _is_again(told: Told) -> bool:
    body = told.facts.get("command")
    return told.kind == "command" and isinstance(body, dict) and body.get("command") in _AGAIN


async def _signal(run: _Run, entry: SignalEntry) -> None:
    document = orjson.loads(entry.body)
    price = price_before(run.then, str(document["symbol"]), entry)
    if price is not None:
        await _set_price(run, str(document["symbol"]), price)
    try:
        await run.engine.handle_signal(entry.body, origin="rerun")
    except InvalidSignal as error:
        run.refused.append(f"{entry.source}/{entry.id}: {error.code} {error.message}")
    await _answered(run)


def price_before(day: RecordedDay, symbol: str, entry: SignalEntry) -> Decimal | None:
    """Return the price of a signal's moment: of its own first fill, else the last recorded or filled before it."""
    at = datetime.fromisoformat(entry.received_at)
    known: list[tuple[datetime, Decimal]] = []
    for fill in day.fills:
        if fill.symbol == symbol:
            if (fill.source, fill.signal_id) == (entry.source, entry.id):
                return fill.last_px
            known.append((fill.at, fill.last_px))
    for line in day.lines:
        text = (line.get("prices") or {}).get(symbol)
        if text is not None:
            known.append((datetime.fromisoformat(line["at"]), Decimal(text)))
    before = [one for one in known if one[0] <= at]
    if before:
        return max(before)[1]
    return min(known)[1] if known else None


async def _set_price(run: _Run, symbol: str, price: Decimal) -> None:
    run.engine.set_prices({symbol: price})  # also where it has not changed: a price has an age
    if run.known.get(symbol) != price:
        run.known[symbol] = price
        body = orjson.dumps({symbol: to_text(price)})
        for url in run.venues:
            await asyncio.to_thread(_post, url, "/sim/price", body)


def _post(url: str, path: str, body: bytes) -> None:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise TradingError(f"the simulated venue refuses a price: {answer.status}")
    finally:
        connection.close()


async def _command(run: _Run, told: Told) -> None:
    body = {name: value for name, value in told.facts["command"].items() if value is not None}
    try:
        await run.engine.handle_command({**body, "id": f"{OWNER}-{told.seq}"})
    except CommandRefused as error:
        run.refused.append(f"{body['command']} at {told.at}: {error.code} {error.message}")
    await _answered(run)


async def _answered(run: _Run) -> None:
    """Wait until every signal's orders are answered and filled as far as they are at once."""
    deadline = time.monotonic() + ANSWER_WITHIN_S
    records = run.engine.records
    while any(record.waiting for record in list(records.values())[-20:]):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(0.002)


def _notes(
    plan: RerunPlan, then: RecordedDay, accounts: Sequence[dict[str, Any]], refused: list[str]
) -> list[str]:
    """Return where the run is not exact, in sentences."""
    notes = [
        _BEGINS.format(cash=f"{plan.cash:,}"),
        _PRICES,
        _PACE.format(speed=plan.speed),
        "Latencies of the run are this machine's and a simulated venue's, those of the day its brokers'.",
    ]  # fmt: skip
    held = sum(bool(position.qty) for position in then.opening.values())
    if held:
        notes.append(f"{held} positions were open when the day began; the run has none of them.")
    if not then.lines:
        notes.append("No prices were recorded that day: those of its fills are used.")
    others = sorted({str(one.get("broker")) for one in accounts} - set(DIALECTS) - {"paper"})
    if others:
        notes.append(
            f"Run on paper, as there is no simulated venue of theirs: accounts of {', '.join(others)}."
        )
    orders_by_hand = sum(told.kind == "intent" for told in then.audit)
    if orders_by_hand:
        notes.append(
            f"{orders_by_hand} orders were made by hand; closes and stops are given again, others are not."
        )
    changed = [(name, "none" if value is None else value) for name, value in plan.limits.items()]
    if changed:
        named = ", ".join(f"{name} {value}" for name, value in changed)
        notes.insert(0, f"Limits of every account in the run: {named}.")
    firm = [(name, os.environ[name]) for name in sorted(os.environ) if name.startswith(_FIRM)]
    if firm:
        named = ", ".join(f"{name.removeprefix(_FIRM).lower()} {value}" for name, value in firm)
        notes.insert(0, f"Limits of the firm given by the environment: {named}.")
    notes += [f"Not taken in the run: {text}" for text in refused[:20]]
    return notes
