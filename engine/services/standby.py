"""The part of the watchdog that is ready to cancel (engine.kill_standby), and which configuration it goes by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import Config, load_config
from engine.home import Home
from engine.kill_latch import FILE, KillLatch
from engine.kill_out_of_band import row
from engine.kill_standby import Result, Standby
from engine.log import register_secret

if TYPE_CHECKING:
    from engine.services.watchdog import Watchdog


def stand_by(path: Path, given: str | None, watchdog: Watchdog, gone: Callable[[], bool]) -> None:
    """Be ready until ``gone()``; runs a loop of its own."""
    home = Home(path)
    shared = KillLatch(home.path / FILE)

    def done(result: Result) -> None:
        watchdog.tell_result(
            {
                "press": result.press,
                "clear": result.clear,
                "cancels_ms": round(result.cancels_ms, 1),
                "accounts": [row(outcome) for outcome in result.outcomes],
            }
        )

    config = config_of(home, given, shared)
    standby = Standby(home, config, shared, lambda text: watchdog.say("acting", text), done)
    try:
        asyncio.run(standby.run(gone))
    finally:
        shared.close()


def config_of(home: Home, given: str | None, shared: KillLatch) -> Config:
    """Return the configuration the engine of this home runs with, or last ran with.

    Raises:
        ConfigError: it cannot be read.
    """
    known = shared.engine()
    if not given and known.get("config") and Path(known["config"]).exists():
        given = known["config"]
    config = load_config(home.path, Path(given) if given else None)
    for secret in config.secrets():
        register_secret(secret)
    if known.get("demo"):
        from engine.services.demo import demo_config

        return demo_config(config)
    return config
