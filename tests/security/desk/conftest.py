"""The desk of tests/gui, on its loop."""

from __future__ import annotations

from tests.gui.conftest import desk, pytest_asyncio_loop_factories

__all__ = ["desk", "pytest_asyncio_loop_factories"]
