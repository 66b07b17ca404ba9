"""The engine's figures for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

from engine.model.enums import SignalState, TradingState
from engine.trading_engine import TradingEngine
from engine.views import Row


def metrics_text(engine: TradingEngine, row: Row, reconciliation: dict[str, int]) -> str:
    """Return the metrics in Prometheus' text format; ``row``: the engine's own of the table ``engine``.

    ``reconciliation``: its counts by name; those of what there is now, and (``_total``) since the start.
    """
    registry = CollectorRegistry()
    registry.register(_EngineCollector(engine, row, reconciliation))
    return generate_latest(registry).decode("ascii")


class _EngineCollector(Collector):
    """Reads the figures when Prometheus asks, so that counting costs the hot path nothing more."""

    def __init__(self, engine: TradingEngine, row: Row, reconciliation: dict[str, int]) -> None:
        self._engine = engine
        self._reconciliation = reconciliation
        self._row = row

    def collect(self) -> Any:
        """Yield the metric families."""
        engine, row = self._engine, self._row
        for name in ("signals", "orders", "fills"):
            yield CounterMetricFamily(
                f"volley_{name}", f"{name} since the book began", value=engine.counts[name]
            )
        refused = CounterMetricFamily(
            "volley_signals_by_state", "recent signals by state", labels=["state"]
        )
        for state in SignalState:
            refused.add_metric(
                [state.value], sum(record.state is state for record in engine.records.values())
            )
        yield refused
        for name in (
            "accounts",
            "connected",
            "open_orders",
            "unknown_orders",
            "held",
            "loop_lag_ms",
        ):
            yield GaugeMetricFamily(f"volley_{name}", name.replace("_", " "), value=row[name])
        tasks = len(asyncio.all_tasks())
        yield GaugeMetricFamily("volley_tasks", "tasks of the engine's loop", value=tasks)
        for name, value in self._reconciliation.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield kind(f"volley_{name}", name.replace("_", " "), value=value)
        trips = GaugeMetricFamily(
            "volley_control_tripped", "1 while a control has tripped or fails", labels=["control"]
        )
        refusals = CounterMetricFamily(
            "volley_control_refusals", "refusals since the start", labels=["control"]
        )
        for number in map(str, engine.controls.keys()):
            told = engine.controls.row(number) or {}
            trips.add_metric([number], told.get("state") in {"tripped", "failing"})
            refusals.add_metric([number], told.get("refusals", 0))
        yield trips
        yield refusals
        alerts = "critical alerts that nobody has acknowledged"
        waiting = engine.alerts.unacknowledged
        yield GaugeMetricFamily("volley_alerts_unacknowledged", alerts, value=waiting)
        armed = row["trading"] == TradingState.ACTIVE.value
        yield GaugeMetricFamily("volley_trading_active", "1 when armed and not halted", value=armed)
        latency = SummaryMetricFamily(
            "volley_stage_seconds", "time per stage of an order's way", labels=["stage"]
        )
        for name, stage in engine.latency_stages.stages.items():
            total = stage.total
            latency.add_metric([name], count_value=total.count, sum_value=total.sum / 1e6)
        yield latency
        quantiles = GaugeMetricFamily(
            "volley_stage_quantile_seconds",
            "percentiles per stage, last minute",
            labels=["stage", "quantile"],
        )
        for name, stage in engine.latency_stages.stages.items():
            summary = stage.minute().summary()
            for label, key in (("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99")):
                if summary[key] is not None:
                    quantiles.add_metric([name, label], (summary[key] or 0) / 1e6)
        yield quantiles
