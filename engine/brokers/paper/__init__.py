"""Practice accounts inside the engine's process: orders fill against the price feed."""

from __future__ import annotations

from engine.brokers.paper.adapter import PaperAdapter
from engine.brokers.paper.market import PaperMarket

__all__ = ["PaperAdapter", "PaperMarket"]
