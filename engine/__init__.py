"""The engine: headless, Qt-free, on any asyncio loop."""

__version__ = "0.1.0"
