"""Where the engine may read clocks, chance and ids itself, or begin tasks: everywhere else it is handed them.

A simulation, and a test, can only be exact if nothing of the engine's core reaches past its ports. Each exception names
its reason; a file that no longer needs one must lose it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import engine

ROOT = Path(engine.__file__).parent

_CLOCKS = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter",
    "time.perf_counter_ns", "datetime.now", "datetime.utcnow", "date.today", "datetime.today",
}  # fmt: skip
_CHANCE = {"random", "uuid", "secrets"}
_TASKS = {"asyncio.create_task", "asyncio.ensure_future"}  # a loop is asked, and the task held

WIRE = "behind the port BrokerSession: it stamps bytes and spreads reconnects; the simulation has sessions of its own"
EDGE = "a process's edge: it talks to a person, a socket or a file, no decision of the engine hangs on it"
STORE = "behind a store's port: the simulation has a store of its own"
OWN = "a program of its own beside the engine"
SECRET = "makes secrets, which must not be guessed"

ALLOWED: dict[str, str] = {
    "clock.py": "the one place that reads clocks",
    "brokers/": WIRE,
    "simbroker/": OWN,
    "loadtest/": OWN,
    "services/": OWN,
    "days/rerun.py": OWN,
    "kill_act.py": OWN,
    "kill_out_of_band.py": OWN,
    "kill_clearing.py": OWN,
    "kill_connections.py": OWN,
    "kill_standby.py": OWN,
    "alert_channels.py": EDGE,
    "cli/": EDGE,
    "api/": EDGE,
    "client_local.py": EDGE,
    "client_remote.py": EDGE,
    "home.py": EDGE,
    "argon.py": SECRET,
    "operators.py": SECRET,
    "kill_latch.py": "a mark that differs, and a draft's name that nobody else has; nothing is decided by either",
    "intake/redis_stream.py": "behind the port Service: waits for a server",
    "market/redis_prices.py": "behind the port PriceSource: waits for a server",
    "market/simulated.py": "practice prices, seeded",
    "stores/accounts_mongo.py": STORE,
    "stores/lease_redis.py": STORE,
    "stores/mirror_redis.py": STORE,
    "stores/token_store.py": STORE,
    "stores/vault.py": SECRET,
    "stores/vault_key.py": SECRET,
    "stores/write_behind.py": STORE,
}
"""A module, or a package with its slash, and why it may."""


def violations(root: Path = ROOT) -> Iterator[tuple[str, int, str]]:
    """Return every use of a seam: file, line, what is used."""
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        names = dict(_imported(tree))
        for node in ast.walk(tree):
            used = _used(node, names)
            if used:
                yield name, getattr(node, "lineno", 0), used


def allowed(name: str) -> str | None:
    """Return why a file may use seams, ``None`` if it may not."""
    for place, reason in ALLOWED.items():
        if name == place or (place.endswith("/") and name.startswith(place)):
            return reason
    return None


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Return the names a module has for things of other modules, and what they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _used(node: ast.AST, names: dict[str, str]) -> str:
    """Say which seam a node uses, empty if none."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value.func
        if isinstance(call, ast.Attribute) and call.attr in {"create_task", "ensure_future"}:
            return "a task that nobody holds"
    full = _dotted(node, names)
    for prefix in ("datetime.datetime.", "datetime.date."):
        if full.startswith(prefix):
            full = full.removeprefix("datetime.")
    if full in _CLOCKS or full in _TASKS or full.partition(".")[0] in _CHANCE:
        return full
    return ""


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """Return what a name or a chain of attributes stands for, by the module's imports."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value, names)):
        return f"{before}.{node.attr}"
    return ""
