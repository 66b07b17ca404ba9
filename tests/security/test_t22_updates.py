"""T22, the way of updates: there is none. Nothing here downloads, installs or replaces code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import engine

ROOT = Path(engine.__file__).parents[1]
SOURCES = [*(ROOT / "engine").rglob("*.py"), *(ROOT / "gui").rglob("*.py"), ROOT / "main.py"]
BANNED = {
    "urllib.request",
    "requests",
    "ftplib",
    "xmlrpc",
    "pip",
    "ensurepip",
    "urllib3",
    "zipimport",
    "wget",
    "PyUpdater",
    "tufup",
}
HOSTS_OF_BROKERS = (
    "alpaca.markets",
    "binance.com",
    "binance.vision",
    "oanda.com",
    "zerodha.com",
    "kite.trade",
    "kite.zerodha.com",
)
SAID_TO_PEOPLE = (
    "example",
    "localhost",
    "127.0.0.1",
    "HOST",
    "host",
    "{",
    "[::1]",
    "cheatsheetseries.owasp.org",
    "www.sqlite.org",
    "hdrhistogram.org",
    "docs.ccxt.com",
    "www.w3.org",  # the name of SVG's vocabulary; nothing is fetched from it
)


def imports(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize(
    "source",
    ["import urllib.request", "from urllib import request", "import pip", "import zipimport"],
)
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert imports(source) & BANNED


def test_nothing_that_downloads_or_installs_is_imported() -> None:
    for path in SOURCES:
        assert not imports(path.read_text("utf-8")) & BANNED, path


def test_no_program_is_started_but_our_own() -> None:
    """Children are this interpreter or this frozen app: nothing else that might have been put there."""
    calls = {
        "run",
        "Popen",
        "call",
        "check_call",
        "check_output",
        "create_subprocess_exec",
        "system",
        "execv",
        "spawnv",
        "startfile",
    }
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr in calls and owner in {"subprocess", "asyncio", "os"}:
                given = ast.unparse(node)
                ours = "create_subprocess_exec" in given or "Popen" in given
                if owner == "asyncio" and node.func.attr == "run":
                    continue  # runs a coroutine
                if "/usr/sbin/ioreg" in given:
                    continue  # of the system itself, by its whole path: what this machine is (macOS)
                assert ours, f"{path}: {given}"
                assert re.search(r"sys\.executable|command|program|argv|arguments", given), (
                    f"{path}: {given}"
                )


def test_every_address_in_the_sources_is_a_brokers_or_said_to_people() -> None:
    unknown = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            for host in re.findall(r"(?:https?|wss?)://([^\s/\"'`):,;|]+)", node.value):
                known = host.endswith(HOSTS_OF_BROKERS) or any(
                    word in host for word in SAID_TO_PEOPLE
                )
                if not known:
                    unknown.append(f"{path.relative_to(ROOT)}: {host}")
    assert not unknown


def test_no_command_is_for_updates() -> None:
    import main

    assert not {name for name in main.COMMANDS if re.search("updat|upgrad|install|download", name)}
