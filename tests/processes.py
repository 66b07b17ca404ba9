"""Volley's own commands as children of a test: started, listened to, killed, asked.

Output goes to files beside the home, so that a test can search everything a process ever said. Every
child hangs on a lifeline (its stdin): it ends when the test run ends, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

ROOT = Path(__file__).parents[1]
START_S = 30.0
STOP_S = 20.0
T = TypeVar("T")


def until(fact: Callable[[], T], seconds: float = 15.0, what: str = "") -> T:
    """Poll until ``fact`` is true and return it."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or fact}"
        time.sleep(0.005)
    return value


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without any setting of Volley's, plus ``more``."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VOLLEY_") or name == "VOLLEY_KEY_DIR"
    }
    return plain | {"VOLLEY_ENGINE__LISTEN": "127.0.0.1:0"} | more


def volley(
    home: Path, *arguments: str, stdin: str | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "--home", str(home), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(**more),
        cwd=home,
        check=False,
    )


def import_accounts(home: Path, accounts: Iterable[dict[str, Any]], **more: str) -> None:
    """Put accounts into a home the way a user does; the file is removed afterwards."""
    file = home / "accounts-to-import.json"
    file.write_text(json.dumps(list(accounts)), "utf-8")
    done = volley(home, "accounts", "import", str(file), **more)
    file.unlink()
    assert done.returncode == 0, done.stderr


def write_config(home: Path, **sections: dict[str, Any]) -> None:
    """Write ``volley.toml``: armed, simulated venues allowed, any free port, and ``sections``."""
    tree: dict[str, dict[str, Any]] = {
        "engine": {
            "listen": "127.0.0.1:0",
            "trading": "active",
            "allow_simulated_venues": True,
        },
        "limits": {"max_signal_value": "1000000000", "max_orders_per_second": 10_000},
    }
    for section, values in sections.items():
        tree.setdefault(section, {}).update(values)
    lines = []
    for section, values in tree.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    (home / "volley.toml").write_text("\n".join(lines) + "\n", "utf-8")


def stamp() -> str:
    """Return now as a signal's ``issued_at``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Child:
    """One subcommand of ``main.py`` running beside the test."""

    def __init__(self, directory: Path, name: str, *arguments: str, **environ: str) -> None:
        self.directory = directory
        self.output = directory / f"{name}.stdout"
        self.errors = directory / f"{name}.stderr"
        self._command = [sys.executable, str(ROOT / "main.py"), *arguments, "--lifeline"]
        self._environ = environ
        self.process: subprocess.Popen[bytes] | None = None
        self.line = ""

    def spawn(self) -> Self:
        """Start it."""
        assert self.process is None
        self._said = self.output.stat().st_size if self.output.exists() else 0
        with self.output.open("ab") as out, self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=environment(**self._environ),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=errors,
            )
        return self

    def wait_line(self, seconds: float = START_S) -> str:
        """Wait for the line it prints once it serves, and return it."""
        process = self.process
        assert process is not None

        def line() -> str:
            with self.output.open("rb") as file:
                file.seek(self._said)
                said = file.read()
            if b"\n" in said:
                return said.split(b"\n", 1)[0].decode()
            assert process.poll() is None, self.errors.read_text("utf-8")[-2000:]
            return ""

        self.line = until(line, seconds, f"{self._command[2]} serves")
        return self.line

    def start(self) -> Self:
        """Start it and wait until it serves."""
        self.spawn().wait_line()
        return self

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """End it without warning (SIGKILL) and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self._gone()

    def stop(self, seconds: float = STOP_S) -> int:
        """Let it end cleanly by its lifeline; return its exit status."""
        if self.process is None:
            return 0
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return self._gone()

    def pause(self) -> None:
        """Let it hang (not on Windows)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _gone(self) -> int:
        process, self.process = self.process, None
        assert process is not None
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        return process.wait(STOP_S)

    def __enter__(self) -> Self:
        return self.start() if self.process is None else self

    def __exit__(self, *_error: object) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.resume()
        self.stop()


class VenueProcess(Child):
    """``main.py simbroker`` on a free port; ``get`` and ``post`` speak with its observer."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        super().__init__(directory, "venue", "simbroker", "--port", "0", *arguments)
        self.url = ""
        self.http = httpx.Client(timeout=30, trust_env=False)

    def wait_line(self, seconds: float = START_S) -> str:
        """Wait until it serves; note its address."""
        line = super().wait_line(seconds)
        self.url = "http://" + line.rpartition("http://")[2]
        return line

    def get(self, path: str, **query: object) -> Any:
        """Ask the observer."""
        answer = self.http.get(self.url + path, params=dict(query))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, document: object) -> Any:
        """Tell the observer."""
        answer = self.http.post(self.url + path, json=document)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def orders(self) -> list[dict[str, Any]]:
        """Return every order the venue holds."""
        return list(self.get("/sim/orders"))

    def __exit__(self, *error: object) -> None:
        self.http.close()
        super().__exit__(*error)


class EngineProcess(Child):
    """``main.py engine`` on a home, and its API."""

    def __init__(self, home: Path, **environ: str) -> None:
        super().__init__(home.parent, "engine", "engine", "--home", str(home), **environ)
        self.home = home
        self.url = ""
        self.http = httpx.Client(timeout=30, trust_env=False)

    def wait_line(self, seconds: float = START_S) -> str:
        """Wait until its API answers; note its address and token."""
        line = super().wait_line(seconds)
        self.url = line.split()[3].rstrip(",")
        token = (self.home / "token").read_text("utf-8").strip()
        self.http.headers["Authorization"] = f"Bearer {token}"
        return line

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Make one call."""
        return self.http.request(method, self.url + path, **arguments)

    def get(self, path: str, **query: object) -> Any:
        """Read something."""
        answer = self.request("GET", path, params=dict(query))
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return answer.json()

    def rows(self, table: str, **where: object) -> list[dict[str, Any]]:
        """Return every row of a list, page by page."""
        found: list[dict[str, Any]] = []
        after: str | None = None
        while True:
            more = where if after is None else {**where, "after": after}
            page = self.get(f"/v1/{table}", limit=1000, **more)
            found += page["items"]
            after = page["next"]
            if after is None:
                return found

    def status(self) -> dict[str, Any]:
        """Return the engine's own row."""
        return dict(self.get("/v1/status")["engine"])

    def detail(self, key: str) -> dict[str, Any]:
        """Return one signal (``source/id``)."""
        source, _, signal_id = key.partition("/")
        return dict(self.get(f"/v1/signals/{quote(source)}/{quote(signal_id)}"))

    def signal(self, **fields: Any) -> httpx.Response:
        """Post a signal of schema v1, issued now."""
        return self.request("POST", "/v1/signals", json=signal_document(**fields))

    def command(self, command: str, **fields: Any) -> dict[str, Any]:
        """Carry out a command and return its result."""
        document = {"id": f"t-{time.monotonic_ns()}", "command": command, **fields}
        answer = self.request("POST", "/v1/commands", json=document)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait_connected(self, count: int, seconds: float = START_S) -> None:
        """Wait until ``count`` accounts can trade: connected, and compared with their brokers (C01)."""

        def can_trade() -> bool:
            told = self.get("/v1/status")
            waiting = sum(need["code"] == "NOT_RECONCILED" for need in told["readiness"])
            return bool(told["engine"]["connected"] - waiting >= count)

        until(can_trade, seconds, f"{count} accounts connect and are reconciled")

    def __exit__(self, *error: object) -> None:
        self.http.close()
        super().__exit__(*error)


def signal_document(**fields: Any) -> dict[str, Any]:
    """Return a signal of schema v1, issued now."""
    return {
        "id": "s-1",
        "source": "bot",
        "strategy": "breakout",
        "symbol": "AAPL",
        "action": "buy",
        "issued_at": stamp(),
        "valid_for_s": 30,
        **fields,
    }


def alpaca(number: int, url: str, **fields: Any) -> dict[str, Any]:
    """Return the document of an account on a simulated venue; its key there is ``KEY<number>``."""
    return {
        "id": f"A-{number:03d}",
        "broker": "alpaca",
        "base_url": url,
        "credentials": {"key_id": f"KEY{number:03d}", "secret": f"practice-secret-{number:03d}"},
        "sizing": {"method": "fixed", "quantity": "1"},
        **fields,
    }


def traded_home(directory: Path, signals: int) -> Path:
    """Return a home on which two accounts bought 3 AAPL at 100 with each signal, ``d-0`` on; its engine has ended."""
    home = directory / "home"
    home.mkdir(mode=0o700)
    write_config(home)
    with VenueProcess(directory, "--still", "--follow-percent", "0.0001") as venue:
        venue.post("/sim/price", {"AAPL": "100"})
        sizing = {"method": "fixed", "quantity": "3"}
        import_accounts(home, [alpaca(number, venue.url, sizing=sizing) for number in (1, 2)])
        with EngineProcess(home) as engine:
            engine.wait_connected(2)
            for number in range(signals):
                document = signal_document(id=f"d-{number}")
                answer = engine.request("POST", "/v1/signals", json=document)
                assert answer.status_code == 202, answer.text
            until(lambda: len(engine.rows("fills")) == 2 * signals)
    return home


def paper(number: int, **fields: Any) -> dict[str, Any]:
    """Return the document of a paper account."""
    return {
        "id": f"P-{number:03d}",
        "broker": "paper",
        "sizing": {"method": "fixed", "quantity": "1"},
        **fields,
    }
