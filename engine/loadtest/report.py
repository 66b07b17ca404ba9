"""The figures of a run, for people and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from typing import Any

from engine.loadtest.baselines import Round
from engine.loadtest.driver import LoadPlan, Measured


def summarise(plan: LoadPlan, measured: Measured) -> dict[str, Any]:
    """Return medians and ratios; the ratios are what holds on a shared machine."""
    volley = _figures(measured.volley, plan.accounts)
    report: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "accounts": plan.accounts,
        "signals": plan.signals,
        "orders": measured.orders,
        "filled": measured.filled,
        "not_sent": measured.not_sent,
        "volley": volley,
        "baselines": {},
        "stages_us": measured.stages,
    }
    for name, rounds in measured.baselines.items():
        other = _figures(rounds, plan.accounts)
        report["baselines"][name] = other | {
            "volley_to_this": {
                key: round(volley[key] / other[key], 3) if other[key] else None
                for key in ("left_us_p50", "done_us_p50", "cpu_us_per_order")
            }
        }
    return report


def _figures(rounds: list[Round], accounts: int) -> dict[str, Any]:
    left = [one.left_us for one in rounds if one.left_us is not None]
    done = [one.done_us for one in rounds]
    return {
        "left_us_p50": round(statistics.median(left)) if left else None,
        "left_us_max": max(left) if left else None,
        "done_us_p50": round(statistics.median(done)),
        "done_us_max": max(done),
        "cpu_us_per_order": round(statistics.median(one.cpu_us for one in rounds) / accounts, 1),
        "failures": sum(one.failures for one in rounds),
    }


def as_text(report: dict[str, Any]) -> str:
    """Lay a report out for a terminal."""
    machine = report["machine"]
    lines = [
        f"{report['signals']} signals × {report['accounts']} accounts = {report['orders']} orders, "  # noqa: ISC004
        f"{report['filled']} filled, {report['not_sent']} not sent; "
        f"{machine['cpus']} CPUs, Python {machine['python']}",
        "",
        f"{'':10}{'last order left':>18}{'last reply':>14}{'CPU per order':>16}{'failures':>10}",
    ]
    for name, figures in {"volley": report["volley"], **report["baselines"]}.items():
        left = f"{figures['left_us_p50'] / 1000:.2f} ms" if figures["left_us_p50"] else "-"
        lines.append(
            f"{name:10}{left:>18}{figures['done_us_p50'] / 1000:>11.2f} ms{figures['cpu_us_per_order']:>13.1f} µs"
            f"{figures['failures']:>10}"
        )
    for name, figures in report["baselines"].items():
        ratio = figures["volley_to_this"]
        parts = [
            f"{label} {ratio[key]:.2f} ×"
            for label, key in (
                ("last order left", "left_us_p50"),
                ("last reply", "done_us_p50"),
                ("CPU per order", "cpu_us_per_order"),
            )
            if ratio[key] is not None
        ]
        lines.append(f"volley / {name}: {', '.join(parts)}")
    return "\n".join(lines)
