"""``main.py alerts``: try the channels of ``[alerts]``; keep an address for one, sealed."""

from __future__ import annotations

import argparse
import os
import sys
from getpass import getpass
from typing import Final

from engine.alert_channels import AlertChannels
from engine.cli.common import DONE, FAILED, complain, emit, open_config, open_home, say, table
from engine.clock import SystemClock
from engine.errors import CommandRefused, ConfigError
from engine.log import register_secret
from engine.stores.channel_store import ChannelStore
from engine.stores.vault import FileVault

_VARIABLE: Final = "VOLLEY_ALERT_ADDRESS"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("test", help="send a message to every channel now")
    actions.add_parser("list", help="the channels of volley.toml, and the addresses kept")
    add = actions.add_parser(
        "add", help=f"keep an address (of apprise): typed, piped, or in {_VARIABLE}"
    )
    add.add_argument("name", metavar="NAME", help='then "vault:NAME" in alerts.channels')
    actions.add_parser("remove", help="forget an address").add_argument("name", metavar="NAME")


def run(args: argparse.Namespace) -> int:
    """Do one action; return the exit status."""
    home = open_home(args)
    config = open_config(args, home)
    store = ChannelStore(home.path, FileVault(home.path))
    if args.action == "test":
        return _test(
            args, AlertChannels(config.alerts, config.engine.name, store.reveal, SystemClock())
        )
    if args.action == "list":
        found = {"channels": list(config.alerts.channels), "kept": store.names()}
        emit(found) if args.json else say(
            "\n".join(f"{name}: {', '.join(has) or 'none'}" for name, has in found.items())
        )
        return DONE
    if args.action == "add":
        store.add(args.name, _address())
    elif not store.remove(args.name):
        complain(f"there is no channel {args.name}")
        return FAILED
    done = (
        f"kept; put vault:{args.name} into alerts.channels" if args.action == "add" else "removed"
    )
    emit({"name": args.name, "done": done}) if args.json else say(f"{args.name}: {done}")
    return DONE


def _test(args: argparse.Namespace, channels: AlertChannels) -> int:
    try:
        answers = channels.test()
    except CommandRefused as refusal:
        complain(refusal.message)
        return FAILED
    rows = [{"channel": name, "result": why or "sent"} for name, why in answers.items()]
    emit({"channels": rows}) if args.json else say(
        table(rows, {"channel": "CHANNEL", "result": "RESULT"})
    )
    return FAILED if any(answers.values()) else DONE


def _address() -> str:
    if not (given := os.environ.get(_VARIABLE, "")):
        given = getpass("Address: ") if sys.stdin.isatty() else sys.stdin.readline()
    given = given.strip()
    if "://" not in given:
        raise ConfigError(
            "an address of apprise: expected one like tgram://TOKEN/CHAT or json://HOST/PATH"
        )
    register_secret(given)
    return given
