"""P&L, throughput and latency as a trader reads them, and what keeps charts from costing too much."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtTest import QTest

from engine.errors import CommandRefused
from engine.model import tables
from engine.model.commands import parse_command
from gui.curve_view import BEHIND_PX
from gui.latency_budget import Budgets
from gui.latency_heat import LOW, PER_DECADE, ROWS, HeatGrid, HeatMap
from gui.latency_samples import Sample, Samples, percentile
from gui.latency_slowest import parts_of
from gui.panels.latency import VIEWS, LatencyPanel
from gui.panels.pnl import PnlPanel
from gui.panels.throughput import ThroughputPanel
from gui.seconds import Seconds
from tests.gui.conftest import DeskUnderTest, until
from tests.gui.scripted import at


async def shown(desk: DeskUnderTest, name: str) -> Any:
    dock = desk.window.docks[name]
    dock.setFloating(True)
    dock.resize(900, 460)
    dock.show()
    panel = desk.window.panels[name]
    await until(panel.isVisible)
    return panel


# --- drawing ----------------------------------------------------------------------------------


async def test_a_long_line_keeps_its_peaks_and_hands_over_few_points(desk: DeskUnderTest) -> None:
    from gui import charts

    plot = charts.plot("Test", {"left": charts.money_axis(), "bottom": charts.time_axis()})
    plot.resize(800, 300)
    plot.show()
    line = charts.long_line(plot, "accent")
    ys = np.zeros(200_000)
    ys[123_457], ys[60_001] = 9.0, -9.0
    line.set_line(np.arange(200_000.0), ys)
    plot.setXRange(0, 200_000, padding=0)
    xs, drawn = line.getData()
    assert len(xs) <= 2 * plot.getPlotItem().vb.width() + 4
    assert (drawn.max(), drawn.min()) == (9.0, -9.0)
    assert np.all(np.diff(xs) >= 0)
    plot.setXRange(123_200, 123_800, padding=0)
    xs, drawn = line.getData()
    assert 123_198 <= xs[0] < 123_200  # point for point, a little beyond the edges
    assert 123_800 <= xs[-1] <= 123_801
    assert set(np.diff(xs)) == {1.0}
    assert drawn[list(xs).index(123_457.0)] == 9.0
    line.set_line([], [])
    assert not len(line.getData()[0] if line.getData()[0] is not None else [])
    plot.close()
    plot.deleteLater()


async def test_candles_merge_where_they_are_narrower_than_pixels(desk: DeskUnderTest) -> None:
    from gui.chart_items import merged

    bars = np.array([[0, 1, 5, 0, 2], [60, 2, 3, 1, 3], [120, 3, 9, 2, 4.0]])
    wide, width = merged(bars, 60, 2)
    assert width == 120
    assert wide.tolist() == [[0, 1, 5, 0, 3], [120, 3, 9, 2, 4]]


# --- seconds ----------------------------------------------------------------------------------


async def test_seconds_grow_by_what_is_new_and_a_counter_may_begin_anew(desk: DeskUnderTest) -> None:  # fmt: skip
    client = desk.client
    client.tables[tables.PNL].clear()
    client.connect()
    seconds = Seconds(desk.store, ("orders",))
    for number, orders in enumerate((100, 110, 3, 8)):
        stamp = at(client.now + timedelta(seconds=number))
        client.put(tables.PNL, {"at": stamp, "orders": orders})
    desk.frame()
    assert seconds.columns["orders"] == [100, 110, 3, 8]
    assert seconds.rates("orders") == [10, 0, 5]
    client.put(
        tables.PNL, {"at": at(client.now), "orders": 1}
    )  # older than the last: known already
    desk.frame()
    assert len(seconds.at) == 4


async def test_a_line_that_goes_straight_on_is_drawn_seldom(desk: DeskUnderTest) -> None:
    client = desk.client
    client.tables[tables.PNL].clear()
    client.connect()
    panel = await shown(desk, "pnl")
    assert isinstance(panel, PnlPanel)
    panel.chart.build()
    drawn: list[float] = []
    panel.chart.fit_height = lambda: drawn.append(panel._seconds.at[-1])
    start = client.now + timedelta(hours=1)

    def at_second(number: int, total: str) -> bool:
        drawn.clear()
        client.put(tables.PNL, {"at": at(start + timedelta(seconds=number)), "total": total})
        desk.frame()
        panel.chart.pace.note(float("-inf"))
        panel.tick()
        return bool(drawn)

    assert at_second(0, "1")
    assert at_second(1, "2")
    assert [at_second(number, "2") for number in (2, 3)] == [True, False]
    assert [at_second(number, "2") for number in range(4, 12)] == [
        *(False,) * 3,
        True,
        *(False,) * 4,
    ]
    assert at_second(12, "3")
    panel.chart.zoom(0.5)  # now the line's end moves across the plot
    shown_s = panel.chart._span
    assert shown_s is not None
    step = BEHIND_PX * shown_s / panel.chart.width()
    assert panel.chart.behind([panel.chart._drawn_to + step * 1.01])
    assert not panel.chart.behind([panel.chart._drawn_to + step * 0.99])


# --- P&L and throughput -----------------------------------------------------------------------


async def test_the_curves_of_strategies_are_read_and_grow(desk: DeskUnderTest) -> None:
    panel = await shown(desk, "pnl")
    assert isinstance(panel, PnlPanel)
    panel._whose.setCurrentIndex(panel._whose.findData("strategy:*"))
    await until(lambda: len(panel.chart.curves) == 4)
    fields = desk.sent("curves")[-1]
    assert fields == {"of": "strategy", "top": 8}
    parse_command({"id": "1", "command": "curves", **fields})
    points = len(panel.chart.curves[0].xs)
    name = panel.chart.curves[0].name
    desk.client.change(tables.STRATEGIES, name, total="777.00")
    desk.frame()
    panel._live_at = float("-inf")
    panel._live()
    panel.draw()
    assert len(panel.chart.curves[0].xs) == points + 1
    assert panel.chart.curves[0].ys[-1] == 777.0
    assert panel.state() == {"series": "total", "of": "strategy:*"}


async def test_one_account_has_equity_too_and_a_refusal_is_said(desk: DeskUnderTest) -> None:
    panel = await shown(desk, "pnl")
    panel.show_of("account:A-003")
    await until(lambda: panel.chart.curves)
    panel.show_series("equity")
    assert panel.chart.curves[0].name == "A-003"
    assert not panel._buttons["realised"].isVisibleTo(panel._buttons["realised"].parentWidget())
    desk.client.refuse = CommandRefused("FORBIDDEN", "not yours", 403)
    panel.show_of("account:A-004")
    await until(lambda: panel.problem)
    assert panel._note.accessibleDescription() == "not yours (FORBIDDEN)"
    desk.client.refuse = None
    panel.show_of("total")
    assert [curve.name for curve in panel.chart.curves] == ["Equity"]  # as before


async def test_curves_are_zoomed_panned_and_followed_by_key(desk: DeskUnderTest) -> None:
    panel = await shown(desk, "throughput")
    assert isinstance(panel, ThroughputPanel)
    await until(lambda: panel.chart.plot is not None and panel.chart.curves)
    run = desk.desk.registry.run
    left, right = panel.chart.plot.viewRange()[0]
    run("throughput.zoom_in")
    assert panel.chart.plot.viewRange()[0][1] - panel.chart.plot.viewRange()[0][0] < right - left
    assert panel.chart.follow
    run("throughput.left")
    assert not panel.chart.follow
    run("throughput.follow")
    assert panel.chart.follow
    run("throughput.all")
    assert panel.chart.plot.viewRange()[0] == pytest.approx([left, right])


async def test_the_pointer_reads_every_curve(desk: DeskUnderTest) -> None:
    panel = await shown(desk, "throughput")
    await until(lambda: panel.chart.plot is not None and panel.chart.curves)
    box = panel.chart.plot.getPlotItem().vb
    curve = panel.chart.curves[1]
    where = box.mapViewToScene(QPointF(curve.xs[400] - 0.1, curve.ys[400]))
    panel.chart._on_pointer(where)
    assert f"Orders {curve.ys[400]:.0f}/s" in panel._figure.text()
    panel.chart._on_pointer(QPointF(-9, -9))
    assert "most" in panel._figure.text()


# --- latency ----------------------------------------------------------------------------------


def sample(number: int, **fields: Any) -> Sample:
    facts = {"at": 1_000.0 + number, "key": str(number), "broker": "alpaca", "account": "A-1", "signal": "s/1",
             "symbol": "NVDA", "side": "buy", "send_us": 500.0, "ack_us": 4_000.0}  # fmt: skip
    return Sample(**(facts | fields))


def test_a_crossing_is_told_once_until_it_is_well_below_again() -> None:
    budgets = Budgets()
    budgets.set("ack", 1_000)
    told = [budgets.look("ack", p99) for p99 in (900, 1_001, 1_500, 950, 1_001, None, 899, 1_001)]
    assert told == [False, True, False, False, False, False, False, True]
    assert budgets.over == {"ack"}
    budgets.set("ack", None)
    assert not budgets.look("ack", 9e9)
    budgets.restore({"ack": 5, "send": -1, "nothing": 3, "planned": "x"}, tables.STAGES)
    assert budgets.state() == {"ack": 5.0}


@pytest.mark.parametrize(("share", "value"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)])
def test_percentiles_are_of_the_nearest_rank(share: float, value: float) -> None:
    assert percentile([float(n) for n in range(1, 101)], share) == value
    assert percentile([7.0], share) == 7.0


async def test_each_answered_order_is_counted_once(desk: DeskUnderTest) -> None:
    samples = Samples(desk.store)
    rows = desk.store.rows(tables.ORDERS)
    assert len(samples.kept) == sum(row["ack_us"] is not None for row in rows.values())
    key = next(iter(rows))
    before = len(samples.kept)
    desk.client.change(tables.ORDERS, key, status="filled")
    desk.frame()
    assert len(samples.kept) == before
    assert samples.names()[0] == "broker:alpaca"
    assert {found.account for found in samples.of("account:A-003")} == {"A-003"}
    worst = samples.slowest(5)
    assert worst[0].total_us == max(found.total_us for found in samples.kept)


async def test_the_heat_map_puts_each_order_in_its_cell(desk: DeskUnderTest) -> None:
    said: list[str] = []
    heat = HeatMap(said.append)
    heat.resize(600, 300)
    heat.show_values([(1_000.0, 150.0), (1_001.0, 150.0), (1_100.0, 5e6), (1_100.0, 1.0)])
    assert heat.counts.sum() == 4
    row = ROWS - 1 - int((np.log10(150.0) - LOW) * PER_DECADE)
    column = int((1_000.0 - heat._first) // 5)
    assert heat.counts[row, column] == 2
    area = heat._area()
    x = area.left() + (column + 0.5) / heat.counts.shape[1] * area.width()
    y = area.top() + (row + 0.5) / ROWS * area.height()
    assert "2 orders" in heat.cell_text(x, y)
    assert heat.cell_text(1, 1) == ""
    image = heat._image()
    assert image.pixelColor(column, row) != image.pixelColor(0, 0)
    heat.show_values([])
    assert heat.counts is None
    heat.deleteLater()


async def test_rows_by_broker_have_their_percentiles_slowest_first(desk: DeskUnderTest) -> None:
    grid = HeatGrid()
    many = [sample(n, broker="b" if n % 2 else "a", ack_us=float(n)) for n in range(100)]
    grid.show_samples(many, "broker")
    assert [(name, figures[0], figures[3], figures[4]) for name, figures in grid.rows] == [
        ("b", 50.0, 49.0, 99.0), ("a", 50.0, 48.0, 98.0),
    ]  # fmt: skip
    grid.deleteLater()


def test_a_waterfall_is_the_trace_or_else_the_two_parts_of_the_row() -> None:
    assert parts_of(sample(1), None) == [("Wait and send", "accent", 500.0), ("Broker", "neg", 4_000.0)]  # fmt: skip
    trace = {"validated": 60_000, "durable": 400_000, "planned": 600_000, "first_byte": 700_000,
             "last_byte": 710_000, "first_ack": 3_000_000}  # fmt: skip
    parts = parts_of(sample(1), trace)
    assert sum(us for _, _, us in parts) == pytest.approx(3_000)
    assert parts[-1] == ("Broker", "neg", pytest.approx(2_290))


async def test_the_slowest_orders_show_their_traces_and_open_their_signal(desk: DeskUnderTest) -> None:  # fmt: skip
    panel = await shown(desk, "latency")
    assert isinstance(panel, LatencyPanel)
    panel.show_view("slowest")
    assert len(panel.slowest.rows) == 20
    await until(lambda: panel.details and not panel._reading)
    picked: list[str] = []
    desk.desk.signal_picked.connect(picked.append)
    panel.slowest.setFocus()
    QTest.keyClick(panel.slowest, Qt.Key.Key_Down)
    QTest.keyClick(panel.slowest, Qt.Key.Key_Return)
    assert picked == [panel.slowest.rows[1][0].signal]
    view = panel.slowest.viewport()
    where = QPointF(200, panel.slowest._height() * 3.5).toPoint()
    QTest.mouseDClick(view, Qt.MouseButton.LeftButton, pos=where)
    assert picked[-1] == panel.slowest.rows[2][0].signal


async def test_a_signal_that_is_gone_costs_the_others_nothing(desk: DeskUnderTest) -> None:
    panel = await shown(desk, "latency")
    assert isinstance(panel, LatencyPanel)
    panel.show_view("slowest")
    await until(lambda: panel.details and not panel._reading)
    known = next(one for one, _ in panel.slowest.rows if one.key in panel.details)
    panel.details.clear()
    panel._reading = True
    await panel._read_traces([("GONE", "tv-alerts/gone"), (known.key, known.signal)])
    assert known.key in panel.details
    assert not panel._reading


async def test_a_budget_is_typed_kept_and_alarms_once(desk: DeskUnderTest) -> None:
    panel = await shown(desk, "latency")
    client, said = desk.client, []
    desk.desk.notifier.said.connect(lambda notice: said.append(notice.title))
    client.latency(client.now)
    client.change(
        tables.LATENCY, "last_byte", minute={"count": 9, "p50": 900, "p99": 2_000, "max": 2_100}
    )
    desk.frame()
    desk.desk.registry.run("latency.budget")
    panel._budget.setText("2.5")
    QTest.keyClick(panel._budget, Qt.Key.Key_Return)
    assert panel.budgets.limits == {"last_byte": 2_500.0}
    assert "✓ budget 2.50 ms" in panel._figures.text()
    for p99 in (2_600, 2_700):
        client.change(
            tables.LATENCY, "last_byte", minute={"count": 9, "p50": 900, "p99": p99, "max": p99}
        )
        desk.frame()
    panel.draw()
    assert said == ["Last byte is over its latency budget"]
    assert "▲ over the budget of 2.50 ms" in panel._figures.text()
    assert panel._select.currentText() == "▲ Last byte"
    kept = panel.state()
    panel.budgets.set("last_byte", None)
    panel.restore(kept)
    assert panel._budget.text() == "2.5"
    panel._budget.setText("soon")
    panel._on_budget()
    assert said[-1] == "Budget"
    assert panel.budgets.limits == {"last_byte": 2_500.0}


async def test_every_view_of_latency_can_be_reached_and_drawn(desk: DeskUnderTest) -> None:
    panel = await shown(desk, "latency")
    desk.client.latency(desk.client.now)
    desk.frame()
    await until(lambda: panel.stages.parts)
    for name in VIEWS:
        desk.desk.registry.run(f"latency.{name}")
        await asyncio.sleep(0.02)
        assert panel._view == name
        assert panel._stack.currentWidget().isVisible()
    panel.show_view("heat")
    panel._whose.setCurrentIndex(panel._whose.findData("account:A-003"))
    assert "orders" in panel._figures.text()
    panel.show_view("loops")
    panel._note_frames()
    panel.draw()
    assert "Engine loop lag" in panel._figures.text()
