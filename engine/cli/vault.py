"""``main.py vault``: where the key of stored secrets lies, and another in its place."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from getpass import getpass
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from engine.cli.accounts import open_store
from engine.cli.common import DONE, FAILED, complain, emit, open_config, open_home, say
from engine.errors import ConfigError
from engine.log import register_secret
from engine.stores.channel_store import ChannelStore
from engine.stores.token_store import FileTokenStore
from engine.stores.vault import FileVault, system_keyring

if TYPE_CHECKING:
    from engine.config import Config
    from engine.home import Home
    from engine.model.account import Account
    from engine.ports import AccountStore

_SHORTEST: Final = 12
_NEW_VARIABLE: Final = "VOLLEY_NEW_PASSPHRASE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("status", help="where the key of stored secrets lies")
    phrase = actions.add_parser(
        "passphrase",
        help=f"lock the secrets with a passphrase: typed, or in {_NEW_VARIABLE}",
    )
    phrase.add_argument(
        "--remove", action="store_true", help="keep the key in the keyring or on this machine again"
    )
    actions.add_parser("rotate", help="make a new key and seal every secret with it anew")


def run(args: argparse.Namespace) -> int:
    """Do one action; return the exit status."""
    home = open_home(args)
    vault = FileVault(home.path)
    if args.action == "status":
        return _status(args, vault)
    config = open_config(args, home)
    with home.lock():  # an engine would go on with the old key
        kept, passphrase = _wanted(args, vault)
        count = asyncio.run(_rotate(home, config, vault, kept, passphrase))
    if args.json:
        emit({"kept": vault.kept(), "sealed": count})
    elif count is not None:
        say(f"{count} secrets sealed with a new key: {vault.describe()}")
    return FAILED if count is None else DONE


def _status(args: argparse.Namespace, vault: FileVault) -> int:
    backend = system_keyring()
    name = type(backend).__module__.rpartition(".")[2] if backend is not None else ""
    if args.json:
        emit({"kept": vault.kept(), "text": vault.describe(), "keyring": name})
    else:
        say(vault.describe())
        say(f"keyring: {name or 'none that encrypts'}")
    return DONE


def _wanted(args: argparse.Namespace, vault: FileVault) -> tuple[str, Callable[[], str]]:
    """Return how the new key is to be kept, and what answers with its passphrase."""
    if args.action == "passphrase" and not args.remove:
        fresh = _new_passphrase()
        return "passphrase", lambda: fresh
    if args.action == "rotate" and vault.kept() == "passphrase":
        return "passphrase", vault.ask
    return "", vault.ask


def _new_passphrase() -> str:
    given = os.environ.get(_NEW_VARIABLE, "")
    if not given:
        if not sys.stdin.isatty():
            raise ConfigError(
                f"a new passphrase: give it in {_NEW_VARIABLE}, or run this at a terminal"
            )
        given = getpass("new passphrase: ")
        if getpass("the same again: ") != given:
            raise ConfigError("the two passphrases differ; nothing was changed")
    if len(given) < _SHORTEST:
        raise ConfigError(f"a new passphrase: expected {_SHORTEST} characters or more")
    register_secret(given)
    return given


async def _rotate(
    home: Home, config: Config, vault: FileVault, kept: str, passphrase: Callable[[], str]
) -> int | None:
    """Seal everything anew. Until the last step both keys open, so that a kill anywhere loses nothing."""
    tokens = FileTokenStore(home.path, vault)
    async with open_store(home, config) as store:
        accounts = await store.load()
        for name, problem in store.problems().items():
            complain(f"account {name} cannot be read: {problem}; mend or remove it first")
        if store.problems():
            return None
        vault.begin_rotation(kept, passphrase)
        count = await _reseal(store, accounts, vault)
    for account in accounts:
        if (token := tokens.load(account.id)) is not None:
            tokens.save(account.id, token)
            count += 1
    count += ChannelStore(home.path, vault).reseal()
    vault.end_rotation()
    return count


async def _reseal(store: AccountStore, accounts: list[Account], vault: FileVault) -> int:
    count, changed = 0, []
    for account in accounts:
        fresh = {}
        for name, secret in account.credentials.items():
            stored = secret.get_secret_value()
            text = vault.reseal(account.id, name, stored)
            count += text != stored
            fresh[name] = SecretStr(text)
        changed.append(account.model_copy(update={"credentials": fresh}))
    await store.put(changed)
    return count
