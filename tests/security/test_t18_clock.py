"""T18, the clock set back: the control itself is C26 (tests/controls); here, that no security decision trusts it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from engine.api.signatures import HookKeys, Signatures
from engine.errors import CommandRefused
from engine.home import Home
from engine.operators import Authority, Operators
from engine.stores.vault import FileVault
from tests.helpers import HandClock
from tests.security.signing import Sender, body
from tests.security.test_t17_operators import Books, command

DAY_S = timedelta(days=1).total_seconds()


def test_a_clock_a_day_back_lets_no_old_signature_in(tmp_path: Path) -> None:
    keys = HookKeys(Home(tmp_path), FileVault(tmp_path, keyring=None))
    sender, content, at = Sender("tv", *keys.make("tv")), body("s-1"), 1_795_363_200.0
    headers = [(k.encode(), v.encode()) for k, v in sender.headers(content, at).items()]
    back = Signatures(keys, 30.0, now=lambda: at - DAY_S)
    assert "ahead" in back.problem("tv", headers, content)


async def test_a_clock_a_day_back_ends_no_pause_after_wrong_pins(tmp_path: Path) -> None:
    operators, clock, books = Operators(Home(tmp_path)), HandClock(), Books()
    operators.set_pin("operator", "2468")
    authority = Authority(operators, clock, books)
    for _ in range(5):
        with pytest.raises(CommandRefused):
            await authority.check(command("0000"))
    clock.advance(-DAY_S)
    again = Authority(operators, clock, books)
    again.load(books.facts)
    for one in (authority, again):
        with pytest.raises(CommandRefused, match="none is taken"):
            await one.check(command("2468"))


def test_what_is_old_or_ahead_at_a_signals_door_is_refused() -> None:
    from engine.errors import InvalidSignal
    from engine.intake.parser import parse_signal
    from tests.helpers import MONDAY
    from tests.security.test_t06_hostile_text import signal

    back = MONDAY - timedelta(days=1)
    with pytest.raises(InvalidSignal) as caught:
        parse_signal(signal(), source=None, now=back)  # its stamp lies a day ahead of such a clock
    assert caught.value.code == "FUTURE"
