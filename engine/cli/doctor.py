"""``main.py doctor``: checks machine, configuration and each connection; says what to do."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sqlite3
import stat
import sys
import time
import zoneinfo
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine import __version__
from engine.cli.accounts import open_store
from engine.cli.common import DONE, FAILED, emit, open_config, open_home, say
from engine.config import redact_url
from engine.errors import BrokerError, ConfigError, TradingError
from engine.model.enums import ConnectionState
from engine.surroundings import LEAST_DISK, LITTLE_DISK, MIB

if TYPE_CHECKING:
    from engine.config import Config
    from engine.home import Home
    from engine.model.account import Account
    from engine.model.messages import ExecutionReport
    from engine.ports import BrokerAdapter, TokenStore

GOOD: Final = "ok"
WARN: Final = "warn"
BAD: Final = "bad"
_BROKER_S: Final = 15.0
_AT_ONCE: Final = 16
_PACKAGES: Final = ("httptools", "orjson", "pydantic", "uvicorn", "websockets", "cryptography")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``todo``: what to do about it."""

    check: str
    state: str
    text: str
    todo: str = ""


class Doctor:
    """Runs the checks; one that fails in an unforeseen way is a finding, too."""

    def __init__(self, home: Home, args: argparse.Namespace) -> None:
        self._home = home
        self._args = args

    async def findings(self) -> list[Finding]:
        """Return every finding."""
        found = [*machine(), *home_files(self._home), *disk(self._home), *clocks()]
        try:
            config = open_config(self._args, self._home)
        except ConfigError as error:
            return [*found, Finding("configuration", BAD, str(error), "mend that key")]
        found.append(Finding("configuration", GOOD, _configured(self._home, config)))
        found += listening(self._home, config)
        if config.storage.profile == "servers":
            found += [await redis_answers(config), await mongo_answers(config)]
        found += [finding async for finding in accounts_answer(self._home, config)]
        return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options of its own."""
    parser.epilog = "Exit status 1 when something is broken."


def run(args: argparse.Namespace) -> int:
    """Print every finding; return 1 when one is bad."""
    found = asyncio.run(Doctor(open_home(args), args).findings())
    bad = sum(finding.state == BAD for finding in found)
    if args.json:
        emit({"healthy": not bad, "findings": [asdict(finding) for finding in found]})
        return FAILED if bad else DONE
    for finding in found:
        say(f"{finding.state:<5} {finding.check}: {finding.text}")
        if finding.todo:
            say(f"      → {finding.todo}")
    say("all is well" if not bad else f"{bad} of {len(found)} checks failed")
    return FAILED if bad else DONE


def machine() -> Iterator[Finding]:
    """Check the interpreter and what is installed."""
    here = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    yield Finding("machine", GOOD, f"{here}, Volley {__version__}")
    yield Finding("python", GOOD, platform.python_version())
    missing = [name for name in _PACKAGES if not _version(name)]
    if missing:
        todo = "install the project's dependencies again"
        yield Finding("packages", BAD, f"missing: {', '.join(missing)}", todo)
    yield _pyside()
    if sqlite3.sqlite_version_info < (3, 35):
        yield Finding("sqlite", BAD, sqlite3.sqlite_version, "a Python with SQLite 3.35 or newer")
    else:
        yield Finding("sqlite", GOOD, sqlite3.sqlite_version)
    yield _zones()
    yield _certificates()
    yield _keyring()


def _zones() -> Finding:
    """Accounts' hours need zone data, from the system or from the package ``tzdata``."""
    known = zoneinfo.available_timezones()
    if "America/New_York" in known and "Asia/Kolkata" in known:
        return Finding("time zones", GOOD, f"{len(known)} known")
    return Finding("time zones", BAD, f"{len(known)} known", "install tzdata")


def _certificates() -> Finding:
    """Brokers are verified against the authorities this system trusts."""
    from engine.brokers.http import tls_context

    try:
        known = len(tls_context().get_ca_certs())
    except NotImplementedError:  # macOS and Windows do not list theirs
        return Finding("certificates", GOOD, "this system's own trust store")
    except OSError as error:
        return Finding("certificates", BAD, str(error), "install ca-certificates")
    if known:
        return Finding("certificates", GOOD, f"{known} authorities")
    return Finding("certificates", BAD, "no authorities", "install ca-certificates")


def _keyring() -> Finding:
    """Say where the key of stored secrets goes, and which keyrings this program can speak to."""
    from engine.stores.vault import system_keyring

    known = importlib.metadata.entry_points(group="keyring.backends")
    names = ", ".join(sorted(entry.name for entry in known if _loads(entry)))
    chosen = system_keyring()
    where = "no keyring answers: the key of secrets is bound to this machine (volley vault passphrase is stronger)"
    if chosen is not None:
        where = f"the key of secrets is kept in {type(chosen).__module__.rpartition('.')[2]}"
    return Finding("keyring", GOOD, f"{where}; known: {names}")


def _loads(entry: importlib.metadata.EntryPoint) -> bool:
    try:
        entry.load()
    except Exception:  # noqa: BLE001 (a backend of another system may fail in any way)
        return False
    return True


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # A frozen application carries modules without their metadata.
        return "bundled" if importlib.util.find_spec(package) else ""


def _pyside() -> Finding:
    version = _version("PySide6-Essentials") or _version("PySide6")
    if not version:
        todo = "the engine runs without it; for the desk install PySide6-Essentials"
        return Finding("pyside", WARN, "not installed", todo)
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    if sys.version_info < (3, 12) and numbers >= [6, 12]:
        todo = "PySide6 below 6.12, or Python 3.12: that pair aborts after some hours"
        return Finding("pyside", BAD, f"{version} on Python 3.11", todo)
    return Finding("pyside", GOOD, version)


def home_files(home: Home) -> Iterator[Finding]:
    """Check that the home is ours, private and can be written."""
    path = home.path
    if not os.access(path, os.W_OK | os.X_OK):
        yield Finding("home", BAD, f"{path} cannot be written", "choose another with --home")
        return
    info = home.running_engine()
    running = f"engine {info.pid} runs on it at {info.url}" if info else "no engine runs on it"
    yield _private("home", path, f"{path}, {running}", 0o700)
    for name, file in (("token", home.token_file), ("hooks", home.hooks_file)):
        if file.exists():
            yield _private(name, file, str(file), 0o600)
    if "VOLLEY_TOKEN" not in os.environ and not home.token_file.exists():
        yield Finding("token", GOOD, "made at the engine's first start")


def _private(check: str, path: Path, text: str, mode: int) -> Finding:
    if os.name != "posix":
        return Finding(check, GOOD, text)
    given = stat.S_IMODE(path.stat().st_mode)
    if given & 0o077:
        return Finding(check, BAD, f"{text}: mode {given:o}", f"chmod {mode:o} {path}")
    return Finding(check, GOOD, f"{text}, mode {given:o}")


def disk(home: Home) -> Iterator[Finding]:
    """Check that the journal has room, and how long a durable write takes."""
    free = shutil.disk_usage(home.path).free
    text = f"{free // MIB} MiB free"
    if free < LEAST_DISK:
        yield Finding("disk", BAD, text, "make room: without a journal no order leaves")
    elif free < LITTLE_DISK:
        yield Finding("disk", WARN, text, "make room before long")
    else:
        yield Finding("disk", GOOD, text)
    yield _sync_time(home.path)


def _sync_time(path: Path) -> Finding:
    probe = path / f".doctor-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            times = []
            for _ in range(5):
                file.write(b"x" * 4096)
                file.flush()
                began = time.perf_counter()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - began)
    except OSError as error:
        return Finding("durable write", BAD, str(error.strerror), "check the disk")
    finally:
        probe.unlink(missing_ok=True)
    middle = sorted(times)[2] * 1000
    if middle > 20:
        todo = "every signal waits for one: put the home on a faster, local disk"
        return Finding("durable write", WARN, f"{middle:.1f} ms", todo)
    return Finding("durable write", GOOD, f"{middle:.2f} ms")


def clocks() -> Iterator[Finding]:
    """Check that the wall clock is plausible and moves like the monotonic one."""
    before, mono = time.time(), time.monotonic()
    time.sleep(0.05)
    drift = abs((time.time() - before) - (time.monotonic() - mono))
    now = datetime.now(UTC)
    todo = "switch on time synchronisation (NTP): signals carry stamps and age"
    if now.year < 2025 or drift > 0.02:
        yield Finding("clock", BAD, f"{now.isoformat(timespec='seconds')}, steps", todo)
    else:
        yield Finding("clock", GOOD, f"{now.isoformat(timespec='seconds')}")


def _configured(home: Home, config: Config) -> str:
    source = "read" if home.config_file.exists() else "defaults"
    return f"{source}: profile {config.storage.profile}, trading {config.engine.trading}"


def listening(home: Home, config: Config) -> Iterator[Finding]:
    """Check that the address is free, or ours."""
    from engine.api.auth import is_loopback

    host, port = config.engine.listen_host, config.engine.listen_port
    if not is_loopback(host):
        todo = "put TLS in front of it, or listen on 127.0.0.1"
        yield Finding("engine.listen", WARN, f"{config.engine.listen} is open to others", todo)
    if home.running_engine() is not None or port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            todo = "stop what listens there, or choose another engine.listen"
            yield Finding("engine.listen", BAD, f"{config.engine.listen}: {error.strerror}", todo)
            return
    yield Finding("engine.listen", GOOD, f"{config.engine.listen} is free")


async def redis_answers(config: Config) -> Finding:
    """Ping Redis, and check that it does not throw keys away."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    url = config.storage.redis_url
    client = Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3)
    try:
        began = time.perf_counter()
        await client.ping()
        took = (time.perf_counter() - began) * 1000
        policy = (await client.info("memory")).get("maxmemory_policy", "noeviction")
    except (RedisError, OSError) as error:
        todo = "start it, or correct storage.redis_url"
        return Finding("redis", BAD, f"{redact_url(url)}: {type(error).__name__}", todo)
    finally:
        await client.aclose()
    if policy != "noeviction":
        todo = "set maxmemory-policy noeviction: signals would be thrown away when it is full"
        return Finding("redis", WARN, f"{redact_url(url)}: maxmemory-policy {policy}", todo)
    return Finding("redis", GOOD, f"{redact_url(url)}: {took:.1f} ms")


async def mongo_answers(config: Config) -> Finding:
    """Ping MongoDB and ensure the indexes."""
    from engine.stores.accounts_mongo import MongoAccountStore
    from engine.stores.mongo import open_mongo

    url, driver = config.storage.mongo_url, config.storage.mongo_driver
    try:
        database = open_mongo(url, driver)
    except ConfigError as error:
        return Finding("mongo", BAD, str(error), "correct storage.mongo_url")
    try:
        began = time.perf_counter()
        await database.ping()
        took = (time.perf_counter() - began) * 1000
        store = MongoAccountStore(database)
        await store.open()
        await store.close()
    except TradingError as error:
        todo = "start it, or correct storage.mongo_url"
        return Finding("mongo", BAD, f"{redact_url(url)}: {error}", todo)
    finally:
        await database.close()
    return Finding("mongo", GOOD, f"{redact_url(url)} over {driver}: {took:.1f} ms, indexes there")


async def accounts_answer(home: Home, config: Config) -> AsyncIterator[Finding]:
    """Start a session of every active account and read its balances."""
    from engine.stores.token_store import FileTokenStore
    from engine.stores.vault import FileVault

    try:
        async with open_store(home, config) as store:
            accounts, problems = await store.load(), store.problems()
    except TradingError as error:
        yield Finding("accounts", BAD, str(error), "mend the store first")
        return
    if not accounts and not problems:
        todo = "import some: volley accounts import FILE.json"
        yield Finding("accounts", WARN, "there are none", todo)
    for name, problem in problems.items():
        yield Finding(f"account {name}", BAD, problem, "import it again")
    vault = FileVault(home.path)
    desk = _Desk(config, vault.reveal, FileTokenStore(home.path, vault))
    try:
        for finding in await desk.check(accounts):
            yield finding
    finally:
        await desk.close()


class _Sink:
    """Hears a session's state; reports concern nobody here."""

    def __init__(self) -> None:
        self.text = ""

    def on_report(self, report: ExecutionReport) -> None:
        """Take nothing."""

    def on_ready(self, account: str) -> None:
        """Take nothing."""

    def on_limits(self, account: str, **told: object) -> None:
        """Take nothing."""

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        """Keep the last sentence."""
        self.text = text


class _Desk:
    """Tries each account's broker, some at a time."""

    def __init__(
        self, config: Config, reveal: Callable[[str, str, str], str], tokens: TokenStore
    ) -> None:
        self._config = config
        self._reveal = reveal
        self._tokens = tokens
        self._adapters: dict[str, BrokerAdapter] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def check(self, accounts: list[Account]) -> list[Finding]:
        """Return one finding an account, in their order."""
        return list(await asyncio.gather(*(self._one(account) for account in accounts)))

    async def close(self) -> None:
        """Release the adapters."""
        for adapter in self._adapters.values():
            await adapter.close()

    async def _one(self, account: Account) -> Finding:
        check = f"account {account.id}"
        if not account.active:
            return Finding(check, GOOD, "inactive: not tried")
        async with self._turn:
            try:
                async with asyncio.timeout(_BROKER_S):
                    return await self._try(check, account)
            except TimeoutError:
                text = f"{account.broker} does not answer within {_BROKER_S:g} s"
                return Finding(check, BAD, text, "check the network and base_url")
            except ConfigError as error:
                return Finding(check, BAD, str(error), "correct it and import it again")
            except BrokerError as error:
                return Finding(check, BAD, f"{account.broker}: {error}", "check its credentials")

    async def _try(self, check: str, account: Account) -> Finding:
        from engine.brokers.paper.market import PaperMarket
        from engine.brokers.registry import make_adapter

        if account.broker not in self._adapters:
            adapter = make_adapter(account.broker, self._config, PaperMarket(), tokens=self._tokens)
            self._adapters[account.broker] = adapter
        credentials = {
            name: self._reveal(account.id, name, secret.get_secret_value())
            for name, secret in account.credentials.items()
        }
        sink = _Sink()
        session = self._adapters[account.broker].session(account, credentials, sink)
        try:
            began = time.perf_counter()
            await session.start()
            if session.state is not ConnectionState.CONNECTED:
                text = f"{account.broker}: {session.state}: {sink.text}"
                return Finding(check, BAD, text, "check its credentials and the network")
            balances = await session.balances()
            took = (time.perf_counter() - began) * 1000
        finally:
            await session.stop()
        text = f"{account.broker} {account.environment}: equity {balances.equity}, {took:.0f} ms"
        return Finding(check, GOOD, text)
