"""``main.py operators``: who may give which commands. A running engine sees every change at once."""

from __future__ import annotations

import argparse
import os
import sys
from getpass import getpass
from typing import Final

from engine.cli.common import DONE, FAILED, complain, emit, open_home, say, table
from engine.errors import ConfigError
from engine.log import register_secret
from engine.operators import Operators, Role

_COLUMNS: Final = {"name": "OPERATOR", "role": "ROLE", "pin": "PIN"}
_PIN_VARIABLE: Final = "VOLLEY_PIN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="add an operator, or give one another role and token")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--role", choices=[role.value for role in Role], required=True)
    actions.add_parser("list", help="names, roles, and who has a PIN")
    actions.add_parser("remove", help="forget an operator").add_argument("name", metavar="NAME")
    pin = actions.add_parser("pin", help=f"set a PIN: typed, or in {_PIN_VARIABLE}")
    pin.add_argument("set", choices=("set",))
    pin.add_argument("name", metavar="NAME", help='"operator" is whoever has the home\'s own token')


def run(args: argparse.Namespace) -> int:
    """Do one action; return the exit status."""
    operators = Operators(open_home(args))
    if args.action == "list":
        rows = operators.rows()
        emit({"operators": rows}) if args.json else say(table(rows, _COLUMNS))
        return DONE
    if args.action == "add":
        return _add(args, operators)
    if args.action == "remove":
        if not operators.remove(args.name):
            complain(f"there is no operator {args.name}")
            return FAILED
    else:
        operators.set_pin(args.name, _new_pin())
    done = "removed" if args.action == "remove" else "PIN set"
    emit({"name": args.name, "done": done}) if args.json else say(f"operator {args.name}: {done}")
    return DONE


def _add(args: argparse.Namespace, operators: Operators) -> int:
    token = operators.add(args.name, Role(args.role))
    if args.json:
        emit({"name": args.name, "role": args.role, "token": token})
        return DONE
    say(f"operator {args.name} has the role {args.role}; the token is shown this once:")
    say(token)
    return DONE


def _new_pin() -> str:
    given = os.environ.get(_PIN_VARIABLE, "")
    if not given:
        if not sys.stdin.isatty():
            raise ConfigError(f"a PIN: give it in {_PIN_VARIABLE}, or run this at a terminal")
        given = getpass("new PIN: ")
        if getpass("the same again: ") != given:
            raise ConfigError("the two PINs differ; nothing was changed")
    register_secret(given)
    return given
