"""Volley's command line. A command's module is imported only when it is the one to run."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from engine.client import EngineClient

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "desk": ("", "open the desktop app with an engine of its own (the default)"),
    "engine": ("engine.cli.engine", "run the engine without a screen"),
    "simbroker": ("engine.cli.simbroker", "run the simulated venue as a server"),
    "accounts": ("engine.cli.accounts", "import, list, show, enable, disable, remove accounts"),
    "signal": ("engine.cli.signal", "send signals to the running engine"),
    "hook": ("engine.cli.hook", "print the address of a source's webhook"),
    "kill": ("engine.cli.kill", "stop trading now, even while the engine or the desk hangs"),
    "status": ("engine.cli.status", "one screen: engine, accounts, orders, latency"),
    "loadtest": ("engine.cli.loadtest", "measure against the simulated venue"),
    "doctor": ("engine.cli.doctor", "check the machine, the configuration, each connection"),
    "export": ("engine.cli.export", "write orders, fills, signals or positions to a file"),
    "report": ("engine.cli.report", "write the report of a day, or an account's statement"),
    "replay": ("engine.cli.replay", "run a recorded day again on the simulated venue and compare"),
    "ingest": ("engine.cli.later", "the intake as a service of its own"),
    "execute": ("engine.cli.later", "the execution of some partitions as a service of its own"),
    "profile": ("engine.cli.profile", "a load test under a profiler; writes a flame graph"),
    "vault": ("engine.cli.vault", "where the key of stored secrets lies; lock it, change it"),
    "operators": ("engine.cli.operators", "who may give which commands: tokens, roles, PINs"),
    "alerts": ("engine.cli.alerts", "try the channels that alerts go to; keep their addresses"),
    "audit": ("engine.cli.audit", "verify, show or export the audit trail"),
}
_HIDDEN: Final = {"watchdog": ("engine.cli.watchdog", "act in the stead of an engine that hangs")}
_WITH_VALUE: Final = ("--home", "--config")
_COMMON: Final = (*_WITH_VALUE, "--json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0 done, 1 failed, 2 usage, 3 home held, 130 ^C."""
    if getattr(sys, "frozen", False):
        import multiprocessing

        multiprocessing.freeze_support()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # noqa: BLE001 (the last net: one line, no traceback)
        from engine.cli.common import report

        return report(error, arguments)


def _run(arguments: list[str]) -> int:
    place = _command_place(arguments)
    if place is None:
        if _asks_for_help(arguments):
            _overview().print_help()
            return 0
        name, rest = "desk", arguments
    else:
        name, rest = arguments[place], arguments[:place] + arguments[place + 1 :]
    if name not in COMMANDS and name not in _HIDDEN:
        return _unknown(name)
    command = _load(name)
    parser = argparse.ArgumentParser(
        prog=f"volley {name}", description=_sentence(name), allow_abbrev=False
    )
    common = parser.add_argument_group("everywhere")
    _add_common(common)
    parser.set_defaults(command=name)
    command.add_arguments(parser)
    # Taken out first, so that they may stand anywhere, behind an action's name too.
    anywhere = argparse.ArgumentParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    _add_common(anywhere)
    given, rest = anywhere.parse_known_args(rest)
    return command.run(parser.parse_args(rest, given))


def _command_place(arguments: list[str]) -> int | None:
    """Return where the command stands: what comes first but for the options every command has."""
    place = 0
    while place < len(arguments):
        word = arguments[place]
        if word in _WITH_VALUE:
            place += 2
        elif word.split("=")[0] in _COMMON:
            place += 1
        else:
            return None if word.startswith("-") else place
    return None


def _asks_for_help(arguments: list[str]) -> bool:
    """Say whether help on the whole is wanted; the desk has its own (``desk -h``)."""
    return any(word in {"-h", "--help"} for word in arguments)


class _Command(Protocol):
    """A subcommand, as its module offers it."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its options."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; return the exit status."""
        ...


class _Desk:
    """The desktop: a usage error or ``-h`` loads no Qt."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        from gui.arguments import add_arguments

        add_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Open the desktop, or say in one line why it cannot be opened."""
        if args.screenshot and not args.seconds:
            return _refuse("--screenshot needs --for SECONDS")
        if args.inline and args.connect:
            return _refuse("--inline has an engine of its own; leave out --connect")
        try:
            from gui.app import run

            return run(args, _inline)
        except ModuleNotFoundError as error:
            if error.name and error.name.split(".")[0] in {"gui", "engine"}:
                raise  # a mistake of ours, not of the machine
            print(f"volley: {error}; install the project's dependencies again", file=sys.stderr)
            return 1


class _Report:
    """The report: as PDF it needs Qt, which nothing below the desk knows."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        from engine.cli import report

        report.add_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Write it."""
        from engine.cli import report

        if args.format != "pdf":
            return report.run(args)
        from gui.pdf import write_pdf

        return report.run(args, write_pdf)


def _inline(args: argparse.Namespace) -> AbstractAsyncContextManager[EngineClient]:
    from engine.cli.engine import inline

    return inline(args)


def _refuse(text: str) -> int:
    print(f"volley: {text}", file=sys.stderr)
    return 2


def _load(name: str) -> _Command:
    if name == "report":
        return _Report()
    module = (_HIDDEN.get(name) or COMMANDS[name])[0]
    return cast("_Command", importlib.import_module(module)) if module else _Desk()


def _sentence(name: str) -> str:
    text = (_HIDDEN.get(name) or COMMANDS[name])[1]
    return f"{text[0].upper()}{text[1:]}."


def _add_common(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    group.add_argument("--home", metavar="DIR", help="data (default: the platform's directory)")
    group.add_argument("--config", metavar="FILE", help="default: HOME/volley.toml")
    group.add_argument("--json", action="store_true", help="print JSON where something is printed")


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="volley",
        usage="volley [--home DIR] [--config FILE] [COMMAND] ...",
        description="One signal in, every eligible account's order on the wire.",
        epilog="commands:\n"
        + "\n".join(lines)
        + "\n\n`volley COMMAND -h` says more. Exit status: 0 done; 1 failed; 2 wrong usage or "
        "configuration;\n3 another engine holds this home; 130 on Ctrl-C.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(parser)
    return parser


def _unknown(name: str) -> int:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else f"; there are {', '.join(COMMANDS)}"
    print(f"volley: no command {name!r}{hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
