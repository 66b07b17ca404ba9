"""The simulated venue: real sockets, one book, a dialect per broker, a log of all it was sent."""

from __future__ import annotations

from engine.simbroker.config import SimConfig
from engine.simbroker.server import SimBroker

__all__ = ["SimBroker", "SimConfig"]
