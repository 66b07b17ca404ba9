"""The figures of a run, for people and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from typing import Any

from engine.loadtest.baselines import Round
from engine.loadtest.driver import LoadPlan, Measured

_RATIOS = {
    "left_us_p50": "last order left",
    "done_us_p50": "last reply",
    "reply_us_p50": "reply p50",
    "reply_us_p99": "p99",
    "cpu_us_per_order": "CPU per order",
}


def summarise(plan: LoadPlan, measured: Measured) -> dict[str, Any]:
    """Return medians and ratios; the ratios are what holds on a shared machine."""
    ways = {"volley": measured.volley, **measured.baselines}
    figures = {name: _figures(rounds, plan.accounts) for name, rounds in ways.items()}
    volley = figures.pop("volley")
    report: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "dialect": plan.dialect,
        "tls": plan.tls,
        "accounts": plan.accounts,
        "signals": plan.signals,
        "orders": measured.orders,
        "filled": measured.filled,
        "not_sent": measured.not_sent,
        "connected_s": round(measured.connected_s, 1),
        "volley": volley,
        "baselines": {
            name: {
                **other,
                "note": measured.notes[name],
                "volley_to_this": _ratios(volley, other),
            }
            for name, other in figures.items()
        },
        "stages_us": measured.stages,
    }
    if "floor" in figures:
        others = {"volley": volley, **figures}
        report["to_floor"] = {
            name: _ratios(other, figures["floor"])
            for name, other in others.items()
            if name != "floor"
        }
    return report


def _ratios(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float | None]:
    return {
        key: round(one[key] / other[key], 3) if one[key] and other[key] else None for key in _RATIOS
    }


def _figures(rounds: list[Round], accounts: int) -> dict[str, Any]:
    left = [one.left_us for one in rounds if one.left_us is not None]
    done = [one.done_us for one in rounds]
    replies = sorted(reply for one in rounds for reply in one.replies_us)
    return {
        "left_us_p50": round(statistics.median(left)) if left else None,
        "left_us_max": max(left) if left else None,
        "done_us_p50": round(statistics.median(done)),
        "done_us_max": max(done),
        "reply_us_p50": _quantile(replies, 0.5),
        "reply_us_p99": _quantile(replies, 0.99),
        "cpu_us_per_order": round(statistics.median(one.cpu_us for one in rounds) / accounts, 1),
        "failures": sum(one.failures for one in rounds),
    }


def _quantile(ordered: list[int], quantile: float) -> int | None:
    return ordered[min(int(quantile * len(ordered)), len(ordered) - 1)] if ordered else None


def as_text(report: dict[str, Any]) -> str:
    """Lay a report out for a terminal."""
    machine = report["machine"]
    head = (
        f"{report['dialect']}{' over TLS' if report['tls'] else ''}: {report['signals']} signals × "
        f"{report['accounts']} accounts = {report['orders']} orders, {report['filled']} filled, "
        f"{report['not_sent']} not sent; connected in {report['connected_s']:g} s; "
        f"{machine['cpus']} CPUs, Python {machine['python']}"
    )
    titles = ("last order left", "last reply", "reply p50", "p99", "CPU per order")
    widths = (18, 14, 13, 13, 16)
    columns = "".join(title.rjust(width) for title, width in zip(titles, widths, strict=True))
    lines = [head, "", f"{'':10}{columns}{'failures':>10}"]
    for name, figures in {"volley": report["volley"], **report["baselines"]}.items():
        times = [
            _milliseconds(figures[key])
            for key in ("left_us_p50", "done_us_p50", "reply_us_p50", "reply_us_p99")
        ]
        lines.append(
            f"{name:10}{times[0]:>18}{times[1]:>14}{times[2]:>13}{times[3]:>13}"
            f"{figures['cpu_us_per_order']:>13.1f} µs{figures['failures']:>10}"
        )
    lines.append("")
    for name, figures in report["baselines"].items():
        ratio = figures["volley_to_this"]
        parts = [
            f"{label} {ratio[key]:.2f} ×" if ratio[key] >= 0.1 else f"{label} {ratio[key]:.3f} ×"
            for key, label in _RATIOS.items()
            if ratio[key] is not None
        ]
        lines.append(f"volley / {name}: {', '.join(parts)}")
    lines += [f"{name}: {figures['note']}" for name, figures in report["baselines"].items()]
    return "\n".join(lines)


def _milliseconds(microseconds: int | None) -> str:
    return "-" if microseconds is None else f"{microseconds / 1000:.2f} ms"
