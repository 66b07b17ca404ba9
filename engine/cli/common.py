"""What the subcommands share: home and configuration, the running engine, output, errors."""

from __future__ import annotations

import argparse
import errno
import http.client
import ipaddress
import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from engine.config import Config, load_config
from engine.errors import CommandRefused, ConfigError, HomeLocked, TradingError
from engine.home import Home
from engine.log import escape, redact, register_secret

ABOVE_ZERO: Final = 1e-9
DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
HELD: Final = 3
ANSWER_S: Final = 15.0

Row = dict[str, Any]


class NoEngineError(TradingError):
    """No engine runs on this home, or it does not answer."""


def open_home(args: argparse.Namespace) -> Home:
    """Return the home the command line names."""
    return Home(args.home)


def open_config(args: argparse.Namespace, home: Home) -> Config:
    """Read the configuration the command line names."""
    config = load_config(home.path, Path(args.config) if args.config else None)
    for secret in config.secrets():
        register_secret(secret)
    return config


def say(text: str) -> None:
    """Print a line for people; what came from outside cannot drive the terminal."""
    print("\n".join(escape(line) for line in text.split("\n")))


def complain(text: str) -> None:
    """Print one line on stderr, without secrets and without control characters."""
    line = escape(redact(" ".join(text.split())))
    print(f"volley: {line}", file=sys.stderr)


def emit(document: object) -> None:
    """Print JSON."""
    print(json.dumps(document, indent=2, default=str))


def check_place(out: Path) -> None:
    """See to it, before long work begins, that its file has a place.

    Raises:
        OSError: ``out`` is a directory, or its own is not there.
    """
    if out.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out))
    directory = out.absolute().parent
    if not directory.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))


@contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """Yield a draft beside ``out`` that takes its place when the block has ended well, and is gone when not.

    Raises:
        OSError: as ``check_place``.
    """
    check_place(out)
    handle, name = tempfile.mkstemp(dir=out.absolute().parent, prefix=f".{out.name[:40]}-")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        os.replace(draft, out)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def number_of(least: float, most: float, expected: str) -> Callable[[str], float]:
    """Return an option's type: a number from ``least`` to ``most``; else it says what was ``expected``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
        return value

    return read


def whole_of(least: int, most: int) -> Callable[[str], int]:
    """Return an option's type: a whole number from ``least`` to ``most``."""
    expected = f"expected a whole number from {least} to {most}"

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or not least <= int(text[:20]) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: {expected}")
        return int(text)

    return read


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Lay rows out under titles (``columns``: key → title); numbers-as-text to the right."""
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    widths = [
        max(len(title), *(len(line[i]) for line in cells), 0)
        for i, title in enumerate(columns.values())
    ]
    right = [all(_is_number(line[i]) for line in cells) for i in range(len(columns))]
    lines = [list(columns.values()), *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.lstrip("+-").replace(".", "", 1).isdecimal()


class Api:
    """The running engine's HTTP API over one kept connection; blocking, for commands in a shell."""

    def __init__(self, url: str, token: str, timeout_s: float = ANSWER_S) -> None:
        self.url = url
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            _reachable(parts.hostname or ""), parts.port, timeout=timeout_s
        )
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()

    def request(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Return status, JSON and headers of one call. Every call of this API may be repeated.

        Raises:
            NoEngineError: it does not answer, or not like an engine.
        """
        for last in (False, True):
            try:
                self._connection.request(method, path, body, self._headers)
                response = self._connection.getresponse()
                content = response.read()
                return response.status, dict(json.loads(content)), dict(response.getheaders())
            except TimeoutError:
                self._connection.close()
                raise NoEngineError(f"the engine at {self.url} does not answer") from None
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if last:
                    reason = str(error) or type(error).__name__
                    text = f"the engine at {self.url} cannot be reached: {reason}"
                    raise NoEngineError(text) from None
            except ValueError:
                self._connection.close()
                raise NoEngineError(f"{self.url} answers like no engine") from None
        raise AssertionError  # the loop returns or raises

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """Read something.

        Raises:
            CommandRefused: the engine answers with a code.
        """
        given = {name: value for name, value in query.items() if value is not None}
        full = f"{quote(path)}?{urlencode(given)}" if given else quote(path)
        return _result(*self.request("GET", full)[:2])

    def post(self, path: str, document: object) -> dict[str, Any]:
        """Send a JSON document.

        Raises:
            CommandRefused: the engine answers with a code.
        """
        return _result(*self.request("POST", path, json.dumps(document).encode())[:2])

    def pages(self, table_name: str, **query: object) -> list[Row]:
        """Return every row of a list."""
        rows: list[Row] = []
        after: str | None = None
        while True:
            page = self.get(f"/v1/{table_name}", limit=1000, after=after, **query)
            rows += page["items"]
            after = page["next"]
            if after is None:
                return rows


def _result(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    if 200 <= status < 300:
        return answer
    code, message = str(answer.get("code", status)), str(answer.get("message", ""))
    raise CommandRefused(code, message, status)


def _reachable(host: str) -> str:
    """Return where to connect to what listens on every address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def find_engine(home: Home, timeout_s: float = ANSWER_S) -> Api:
    """Return the API of the engine that runs on ``home``.

    Raises:
        NoEngineError: none does.
    """
    info = home.running_engine()
    if info is None:
        raise NoEngineError(
            f"no engine runs on {home.path}; start one: volley --home {home.path} engine"
        )
    token = home.token()
    register_secret(token)
    return Api(info.url, token, timeout_s)


def report(error: Exception, arguments: Sequence[str]) -> int:
    """Turn what escaped a command into one line on stderr and an exit status."""
    if os.environ.get("VOLLEY_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, CommandRefused):
        complain(f"{error.code}: {error.message}")
        return FAILED
    if isinstance(error, TradingError):
        complain(str(error))
        return _status(error)
    if isinstance(error, OSError) and error.strerror:
        complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return FAILED
    written = _write_crash(error, arguments)
    complain(f"unexpected {type(error).__name__}: {str(error)[:200]}{written}")
    return FAILED


def _status(error: TradingError) -> int:
    if isinstance(error, ConfigError):
        return USAGE
    return HELD if isinstance(error, HomeLocked) else FAILED


def _write_crash(error: Exception, arguments: Sequence[str]) -> str:
    """Keep the traceback where the logs are; say where, or nothing if that fails too."""
    try:
        home = Home(_home_of(arguments))
        home.log_dir.mkdir(mode=0o700, exist_ok=True)
        path = home.log_dir / "crash.log"
        text = "".join(traceback.format_exception(error))
        with open(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "a") as file:
            file.write(f"{datetime.now(UTC).isoformat()}\n{redact(text)}\n")
    except (OSError, TradingError):
        return ""
    return f" (details in {path})"


def _home_of(arguments: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--home")
    try:
        home: str | None = parser.parse_known_args(list(arguments))[0].home
    except argparse.ArgumentError:
        return None
    return home
