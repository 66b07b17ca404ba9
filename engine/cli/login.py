"""``main.py accounts login``: a broker's daily login in the browser, made into a session the engine takes up."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import webbrowser
from typing import TYPE_CHECKING

from engine.cli.common import DONE, FAILED, complain, emit, say
from engine.clock import rfc3339
from engine.errors import BrokerError, ConfigError, StoreError
from engine.log import register_secret

if TYPE_CHECKING:
    from engine.brokers.http import BaseUrl
    from engine.config import Config
    from engine.home import Home
    from engine.model.account import Account


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the action's options."""
    parser.add_argument("id", metavar="ID")
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address to open, do not open it"
    )
    parser.add_argument(
        "--token",
        metavar="REQUEST_TOKEN",
        help="a request token got elsewhere, or the whole address the browser was sent to",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8790,
        help="where the app's redirect address points on this machine (default: 8790)",
    )


async def log_in(args: argparse.Namespace, home: Home, config: Config, account: Account) -> int:
    """Log one account in; return the exit status.

    Raises:
        ConfigError: this account cannot be logged in, or not here; says why.
    """
    from engine.brokers.dial import Route
    from engine.brokers.kite.adapter import base_of
    from engine.brokers.kite.login import open_session
    from engine.brokers.paper.market import PaperMarket
    from engine.brokers.registry import Surroundings
    from engine.stores.token_store import FileTokenStore
    from engine.stores.vault import FileVault

    if account.broker != "kite":
        raise ConfigError(
            f"account {account.id}: {account.broker} needs no login: its credentials stay good"
        )
    vault = FileVault(home.path)
    found = {
        name: vault.reveal(account.id, name, secret.get_secret_value())
        for name, secret in account.credentials.items()
        if name != "access_token"
    }
    for name, value in found.items():
        if name not in {"key_id", "api_key"}:  # which is in the address people open
            register_secret(value)
    api_key = _credential(account, found, "key_id", "api_key")
    secret = _credential(account, found, "secret", "api_secret")
    base = base_of(account, allow_simulated=config.engine.allow_simulated_venues)
    tls = Surroundings(config, PaperMarket()).wire()["tls"]
    try:
        token, user = await open_session(
            base,
            account.id,
            api_key,
            secret,
            await _request_token(args, base, api_key),
            context=tls() if base.tls else None,
            route=Route.of(account.id, account.egress, found),
        )
        register_secret(token.token)
        FileTokenStore(home.path, vault).save(account.id, token)
    except (BrokerError, StoreError) as error:
        complain(str(error))
        return FAILED
    until = rfc3339(token.expires_at)
    if args.json:
        emit({"id": account.id, "user": user, "expires_at": until})
        return DONE
    say(f"account {account.id}: logged in{f' as {user}' if user else ''}, until {until}")
    say("a running engine takes it up within a second")
    return DONE


def _credential(account: Account, found: dict[str, str], *names: str) -> str:
    from engine.brokers.credentials import credential

    return credential(account.id, found, *names)


async def _request_token(args: argparse.Namespace, base: BaseUrl, api_key: str) -> str:
    """Have a person log in, or take what they bring."""
    from engine.brokers.kite.login import WAIT_S, RedirectListener, login_url, read_request_token

    if args.token is not None:
        token = read_request_token(args.token)
    else:
        state = secrets.token_urlsafe(16)
        listener = RedirectListener(state)
        await listener.start(args.port)
        try:
            url = login_url(base, api_key, state, listener.port)
            _show(url, quiet=args.json, opened=not args.no_browser)
            if not args.no_browser:
                await asyncio.to_thread(webbrowser.open, url)
            token = await listener.request_token(WAIT_S)
        finally:
            await listener.stop()
    register_secret(token)
    return token


def _show(url: str, *, quiet: bool, opened: bool) -> None:
    """Tell where to log in, at once; with ``--json`` on stderr, since stdout is one document."""
    text = f"log in here{' (opened in the browser)' if opened else ''}: {url}"
    print(text, file=sys.stderr if quiet else sys.stdout, flush=True)
