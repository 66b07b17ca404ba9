"""``main.py status``: one screen on the running engine."""

from __future__ import annotations

import argparse
from typing import Any, Final

from engine.cli.common import DONE, Api, Row, emit, find_engine, open_home, say, table

_SHOWN: Final = 20
_OPEN: Final = ("pending_new", "new", "partially_filled", "pending_cancel")
_ACCOUNTS: Final = {
    "id": "ACCOUNT",
    "broker": "BROKER",
    "active": "ACTIVE",
    "connection": "CONNECTION",
    "equity": "EQUITY",
    "day_pnl": "DAY P&L",
    "positions": "POSITIONS",
    "open_orders": "OPEN",
    "unknown_orders": "UNKNOWN",
    "differences": "DIFFER",
    "external_orders": "FOREIGN",
    "last_error": "LAST ERROR",
}
_TO_DO: Final = {"account": "ACCOUNT", "code": "CODE", "text": "WHAT", "todo": "TO DO"}
_ORDERS: Final = {
    "cl_ord_id": "ORDER",
    "account": "ACCOUNT",
    "symbol": "SYMBOL",
    "side": "SIDE",
    "order_qty": "QTY",
    "cum_qty": "FILLED",
    "limit_price": "LIMIT",
    "status": "STATUS",
    "updated_at": "SINCE",
}
_DIFFERENCES: Final = {
    "account": "ACCOUNT",
    "kind": "KIND",
    "symbol": "WHAT",
    "expected": "EXPECTED",
    "actual": "BROKER HAS",
    "value": "VALUE",
    "since": "SINCE",
}
_EXTERNAL: Final = {
    "account": "ACCOUNT",
    "order_id": "ORDER",
    "symbol": "SYMBOL",
    "side": "SIDE",
    "leaves_qty": "QTY",
    "limit_price": "LIMIT",
    "since": "SINCE",
}
_LATENCY: Final = {
    "stage": "STAGE",
    "count": "COUNT",
    "p50": "P50 µs",
    "p90": "P90 µs",
    "p99": "P99 µs",
    "p999": "P99.9 µs",
    "max": "MAX µs",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options of its own."""
    parser.epilog = "Exit status 1 when no engine runs on this home."


def run(args: argparse.Namespace) -> int:
    """Print the screen; return the exit status."""
    with find_engine(open_home(args)) as api:
        state = read(api)
    if args.json:
        emit(state)
    else:
        say(screen(state))
    return DONE


def read(api: Api) -> dict[str, Any]:
    """Collect what the screen shows."""
    state = api.get("/v1/status")
    state["url"] = api.url
    state["accounts"] = api.pages("accounts")
    state["open_orders"] = [row for status in _OPEN for row in api.pages("orders", status=status)]
    state["unknown_orders"] = api.pages("orders", status="unknown")
    state["differences"] = api.pages("differences")
    state["external"] = api.pages("external")
    state["latency"] = api.get("/v1/latency")
    return state


def screen(state: dict[str, Any]) -> str:
    """Lay the state out for a terminal."""
    engine = state["engine"]
    reason = f" ({engine['reason']})" if engine.get("reason") else ""
    venues = ", simulated venues" if engine["simulated"] else ""
    money = f"equity {engine['equity'] or '-'}, day P&L {engine['day_pnl'] or '-'}"
    counts = ", ".join(f"{name} {engine[name]}" for name in ("signals", "orders", "fills"))
    process = f"process {engine['pid']}, profile {engine['profile']}, version {engine['version']}"
    lines = [
        f"engine {engine['name']} on {state['url']}: trading {engine['trading']}{reason}",
        f"since {engine['started_at']}, {process}{venues}",
        f"{counts}, {money}",
    ]
    lines += [f"{halt['state']} {halt['scope']}: {halt['reason']}" for halt in state["halts"]]
    for name, service in (engine.get("services") or {}).items():
        lines.append(f"{name}: {service['state']} {service['text']}".rstrip())
    todo = state["readiness"]
    lines += _part(f"to do before the open ({len(todo)})", todo, _TO_DO)
    accounts, connected = state["accounts"], engine["connected"]
    lines += _part(f"accounts ({connected} of {len(accounts)} connected)", accounts, _ACCOUNTS)
    lines += _part(f"open orders ({len(state['open_orders'])})", state["open_orders"], _ORDERS)
    unknown = state["unknown_orders"]
    lines += _part(f"unknown orders ({len(unknown)})", unknown, _ORDERS)
    lines += _part(f"differences ({len(state['differences'])})", state["differences"], _DIFFERENCES)
    lines += _part(f"foreign orders ({len(state['external'])})", state["external"], _EXTERNAL)
    stages = state["latency"]["stages"]
    rows = [{"stage": name, **(stages[name].get("total") or {})} for name in stages]
    lines += _part("latency since start", rows, _LATENCY)
    return "\n".join(lines)


def _part(title: str, rows: list[Row], columns: dict[str, str]) -> list[str]:
    lines = ["", title]
    if rows:
        lines.append(table(rows[:_SHOWN], columns))
    if len(rows) > _SHOWN:
        lines.append(f"… and {len(rows) - _SHOWN} more (--json shows all)")
    return lines
