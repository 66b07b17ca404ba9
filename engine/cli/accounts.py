"""``main.py accounts``: the account store itself; a running engine notices within a second."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError

from engine.brokers.credentials import StandIn
from engine.cli import login
from engine.cli.common import DONE, FAILED, complain, emit, open_config, open_home, say, table
from engine.errors import ConfigError, TradingError
from engine.log import register_secret
from engine.model.account import Account

if TYPE_CHECKING:
    from engine.config import Config
    from engine.home import Home
    from engine.model.enums import ConnectionState
    from engine.model.messages import ExecutionReport
    from engine.ports import AccountStore, BrokerAdapter

_COLUMNS = {
    "id": "ACCOUNT",
    "name": "NAME",
    "broker": "BROKER",
    "environment": "ENV",
    "active": "ACTIVE",
    "approval": "APPROVAL",
    "sizing": "SIZING",
    "strategies": "STRATEGIES",
    "tags": "TAGS",
}
_LITERAL = ("env:", "keyring:", "enc:")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    importing = actions.add_parser("import", help="add or replace accounts, all or none")
    importing.add_argument("file", metavar="FILE.json", type=Path)
    actions.add_parser("list", help="one line an account")
    for name, text in (
        ("show", "one account, without its secrets"),
        ("enable", "let an account take signals"),
        ("disable", "take no new signals; working orders are still managed"),
        ("remove", "forget an account"),
    ):
        actions.add_parser(name, help=text).add_argument("id", metavar="ID")
    login.add_arguments(
        actions.add_parser("login", help="log in at a broker whose sessions end every day (kite)")
    )


def run(args: argparse.Namespace) -> int:
    """Do one action; return the exit status."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    home = open_home(args)
    config = open_config(args, home)
    if args.action == "import":
        return await _import(args, home, config)
    if args.action == "login":
        return await _login(args, home, config)
    async with open_store(home, config) as store:
        if args.action == "list":
            return await _list(args, store)
        return await _one(args, store)


async def _login(args: argparse.Namespace, home: Home, config: Config) -> int:
    async with open_store(home, config) as store:
        account = await store.get(args.id)
        reason = store.problems().get(args.id)
    if account is None:
        complain(f"account {args.id} cannot be read: {reason}" if reason else _none(args.id))
        return FAILED
    return await login.log_in(args, home, config, account)


@contextlib.asynccontextmanager
async def open_store(home: Home, config: Config) -> AsyncIterator[AccountStore]:
    """Open the account store of the profile, without an engine."""
    if config.storage.profile == "embedded":
        from engine.stores.accounts_sqlite import SqliteAccountStore

        store: AccountStore = SqliteAccountStore(home.path / "accounts.sqlite3")
        async with _opened(store):
            yield store
        return
    from engine.stores.accounts_mongo import MongoAccountStore
    from engine.stores.mongo import open_mongo

    database = open_mongo(config.storage.mongo_url, config.storage.mongo_driver)
    try:
        store = MongoAccountStore(database)
        async with _opened(store):
            yield store
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def _opened(store: AccountStore) -> AsyncIterator[None]:
    await store.open()
    try:
        yield
    finally:
        await store.close()


class UnreadableError(TradingError):
    """An accounts file has problems; one a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


async def read_accounts(text: bytes, config: Config) -> list[Account]:
    """Read an accounts file: a list of account documents, or one; each as its broker wants it.

    Raises:
        UnreadableError: with every problem, without any value of a credential.
    """
    try:
        content = json.loads(text, parse_float=Decimal, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnreadableError([f"not readable as JSON: {error}"[:200]]) from None
    documents = content if isinstance(content, list) else [content]
    accounts: list[Account] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for index, document in enumerate(documents):
        try:
            account = Account.model_validate(document)
        except ValidationError as error:
            problems += _problems(f"accounts[{index}]", error)
            continue
        if account.id in places:
            problems.append(f"accounts[{index}].id: {account.id} is there twice")
        places[account.id] = f"accounts[{index}]"
        accounts.append(account)
    problems += await _broker_problems(accounts, places, config)
    if problems:
        raise UnreadableError(problems)
    return accounts


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is there twice in one object")
    return document


def _problems(place: str, error: ValidationError) -> list[str]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = []
    for entry in found:
        where = "".join(f".{part}" for part in entry["loc"])
        lines.append(f"{place}{where}: {entry['msg'].removeprefix('Value error, ')}")
    return lines


async def _broker_problems(
    accounts: list[Account], places: dict[str, str], config: Config
) -> list[str]:
    """Ask each broker's adapter whether it could make a session: base_url, credentials' names."""
    from engine.brokers.paper.market import PaperMarket
    from engine.brokers.registry import make_adapter

    problems = []
    adapters: dict[str, BrokerAdapter | None] = {}
    try:
        for account in accounts:
            if account.broker not in adapters:
                adapters[account.broker] = None
                with contextlib.suppress(ConfigError):  # an adapter that comes with a later version
                    adapters[account.broker] = make_adapter(account.broker, config, PaperMarket())
            adapter = adapters[account.broker]
            try:
                if adapter is not None:
                    adapter.session(account, _readable(account), _NoSink())
            except ConfigError as error:
                problems.append(f"{places[account.id]}: {error}")
    finally:
        for adapter in adapters.values():
            if adapter is not None:
                await adapter.close()
    return problems


def _readable(account: Account) -> dict[str, str]:
    """Return what can be read of the credentials now; of those kept elsewhere only the name can be checked."""
    texts = {name: secret.get_secret_value() for name, secret in account.credentials.items()}
    return {
        name: StandIn("stand-in") if text.startswith(_LITERAL) else text
        for name, text in texts.items()
    }


class _NoSink:
    """A sink for sessions that are never started."""

    def on_report(self, report: ExecutionReport) -> None:
        """Take nothing."""

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        """Take nothing."""

    def on_ready(self, account: str) -> None:
        """Take nothing."""

    def on_limits(self, account: str, **told: object) -> None:
        """Take nothing."""


async def _import(args: argparse.Namespace, home: Home, config: Config) -> int:
    from engine.stores.vault import FileVault

    try:
        accounts = await read_accounts(args.file.read_bytes(), config)
    except UnreadableError as error:
        complain(f"{args.file}: nothing was imported: {'; '.join(error.problems)}")
        return FAILED
    vault = FileVault(home.path)
    literal = False
    sealed = []
    for account in accounts:
        literal = literal or _has_literal(account)
        sealed.append(_sealed(account, vault))
    async with open_store(home, config) as store:
        known = {account.id for account in await store.load()} | store.problems().keys()
        await store.put(sealed)
    replaced = sum(account.id in known for account in sealed)
    if args.json:
        emit({"imported": [account.id for account in sealed], "replaced": replaced})
        return DONE
    say(f"imported {len(sealed)} accounts: {len(sealed) - replaced} new, {replaced} replaced")
    if literal:
        say(f"their secrets are encrypted now; {args.file} is no longer needed: remove it")
    return DONE


def _has_literal(account: Account) -> bool:
    secrets = [secret.get_secret_value() for secret in account.credentials.values()]
    return any(not text.startswith(_LITERAL) for text in secrets)


def _sealed(account: Account, vault: Any) -> Account:
    credentials = {}
    for name, secret in account.credentials.items():
        text = secret.get_secret_value()
        if not text.startswith(_LITERAL):
            register_secret(text)
        credentials[name] = SecretStr(vault.seal(account.id, name, text))
    return account.model_copy(update={"credentials": credentials})


async def _list(args: argparse.Namespace, store: AccountStore) -> int:
    accounts = [account.public() for account in await store.load()]
    problems = store.problems()
    if args.json:
        emit({"accounts": accounts, "problems": problems})
        return DONE
    if accounts:
        rows = [{**row, "sizing": _sizing(row["sizing"])} for row in accounts]
        say(table(rows, _COLUMNS))
    else:
        say("no accounts; import some: volley accounts import FILE.json")
    for name, problem in problems.items():
        complain(f"account {name} cannot be read: {problem}")
    return DONE


def _sizing(sizing: dict[str, Any]) -> str:
    values = [str(value) for key, value in sizing.items() if key != "method" and value]
    return " ".join([sizing["method"], *values])


async def _one(args: argparse.Namespace, store: AccountStore) -> int:
    account = await store.get(args.id)
    if account is None and not (args.action == "remove" and args.id in store.problems()):
        reason = store.problems().get(args.id)
        complain(f"account {args.id} cannot be read: {reason}" if reason else _none(args.id))
        return FAILED
    done = {"id": args.id, "done": args.action}
    if args.action == "remove":
        await store.remove(args.id)
    elif account is not None and args.action == "show":
        emit(account.public())
        return DONE
    elif account is not None:
        active = args.action == "enable"
        await store.put([account.model_copy(update={"active": active})])
        done["active"] = str(active).lower()
    if args.json:
        emit(done)
    else:
        say(f"account {args.id}: {args.action}d")
    return DONE


def _none(account_id: str) -> str:
    return f"there is no account {account_id}"
