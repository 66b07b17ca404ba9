"""``main.py hook``: where a source's webhook is, and the keys its requests are signed with."""

from __future__ import annotations

import argparse

from engine.api.signatures import HookKeys
from engine.cli.common import DONE, FAILED, complain, emit, open_config, open_home, say
from engine.home import Home, hook_secret
from engine.stores.vault import FileVault


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source", nargs="?", default="tradingview", help="who sends (default: tradingview)"
    )
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument("--keys", action="store_true", help="list its signing keys, newest first")
    keys.add_argument(
        "--new-key",
        action="store_true",
        help="make a signing key and print it this once; the newest older one goes on",
    )
    keys.add_argument("--drop-key", metavar="ID", help="end a signing key")


def run(args: argparse.Namespace) -> int:
    """Print the address, whose secret is made on first demand; or do what is asked with the keys."""
    home = open_home(args)
    if args.keys or args.new_key or args.drop_key:
        return _keys(args, home)
    config = open_config(args, home)
    info = home.running_engine()
    base = info.url if info is not None else f"http://{config.engine.listen}"
    url = f"{base}/v1/hooks/{args.source}/{hook_secret(home, args.source)}"
    if args.json:
        emit({"source": args.source, "url": url})
    else:
        say(url)
    return DONE


def _keys(args: argparse.Namespace, home: Home) -> int:
    keys = HookKeys(home, FileVault(home.path))
    if args.new_key:
        name, key = keys.make(args.source)
        if args.json:
            emit({"source": args.source, "id": name, "key": key})
        else:
            say(f"Volley-Key {name}, its key is shown this once:\n{key}")
        return DONE
    if args.drop_key and not keys.drop(args.source, args.drop_key):
        complain(f"{args.source} has no key {args.drop_key}")
        return FAILED
    if args.json:
        emit({"source": args.source, "keys": keys.ids(args.source)})
    else:
        say("\n".join(keys.ids(args.source)) or f"{args.source} has no signing key")
    return DONE
