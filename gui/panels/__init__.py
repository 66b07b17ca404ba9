"""The docks, one a file. A new panel is one file and one line here."""

from __future__ import annotations

from gui.panel import Panel
from gui.panels.accounts import AccountsPanel
from gui.panels.alerts import AlertsPanel
from gui.panels.controls import ControlsPanel
from gui.panels.eligibility import EligibilityPanel
from gui.panels.fills import FillsPanel
from gui.panels.heat_map import HeatMapPanel
from gui.panels.latency import LatencyPanel
from gui.panels.orders import OrdersPanel
from gui.panels.pnl import PnlPanel
from gui.panels.positions import PositionsPanel
from gui.panels.price import PricePanel
from gui.panels.reconciliation import ReconciliationPanel
from gui.panels.risk import RiskPanel
from gui.panels.signal_detail import SignalDetailPanel
from gui.panels.signals import SignalsPanel
from gui.panels.throughput import ThroughputPanel
from gui.panels.todo import TodoPanel
from gui.panels.unknown import UnknownPanel

ALL: tuple[type[Panel], ...] = (
    SignalsPanel,
    SignalDetailPanel,
    OrdersPanel,
    UnknownPanel,
    PositionsPanel,
    FillsPanel,
    AlertsPanel,
    AccountsPanel,
    EligibilityPanel,
    TodoPanel,
    RiskPanel,
    ControlsPanel,
    ReconciliationPanel,
    HeatMapPanel,
    PricePanel,
    LatencyPanel,
    ThroughputPanel,
    PnlPanel,
)
