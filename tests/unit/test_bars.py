"""Bars from prices: what each holds, where they end, how many there may be."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine import bars as module
from engine.bars import FAST_S, KEPT, MOST_ASKED, MOST_SYMBOLS, Bars
from engine.errors import CommandRefused
from engine.model.commands import parse_command
from tests.helpers import HandClock


def made(held: tuple[str, ...] = ()) -> tuple[HandClock, Bars]:
    clock = HandClock()
    return clock, Bars(clock, lambda symbol: symbol in held)


async def read(bars: Bars, symbol: str = "AAPL", **fields: object) -> list[dict[str, object]]:
    document = {"id": "1", "command": "bars", "symbol": symbol, **fields}
    answer = await bars.bars(parse_command(document))  # type: ignore[arg-type]
    return answer["bars"]  # type: ignore[no-any-return]


def give(bars: Bars, *prices: str, symbol: str = "AAPL") -> None:
    for price in prices:
        bars.on_price(symbol, Decimal(price))


async def test_a_bar_has_the_first_highest_lowest_and_last_price() -> None:
    _, bars = made()
    give(bars, "100", "101.5", "99.25", "100.10")
    (bar,) = await read(bars)
    assert [bar[name] for name in ("open", "high", "low", "close", "prices")] == [
        "100", "101.5", "99.25", "100.1", 4,
    ]  # fmt: skip


async def test_bars_end_at_whole_minutes_and_five_seconds_and_gaps_have_none() -> None:
    clock, bars = made()
    clock.advance(60 - clock.now().timestamp() % 60)
    give(bars, "100")
    clock.advance(4.999)
    give(bars, "101")
    clock.advance(0.001)
    give(bars, "102")
    clock.advance(180)
    give(bars, "103")
    fast, slow = await read(bars, interval_s=5), await read(bars, interval_s=60)
    first_and_last = [(bar["open"], bar["close"]) for bar in fast]
    assert first_and_last == [("100", "101"), ("102", "102"), ("103", "103")]
    assert [(bar["open"], bar["close"]) for bar in slow] == [("100", "102"), ("103", "103")]
    starts = [str(bar["at"]) for bar in slow]
    assert all(start.endswith(":00.000000Z") for start in starts)
    assert len(set(starts)) == 2


async def test_wider_bars_are_made_of_minutes() -> None:
    clock, bars = made()
    clock.advance(300 - clock.now().timestamp() % 300)
    for price in ("100", "107", "99", "101", "102", "110"):
        give(bars, price)
        clock.advance(60)
    wide = await read(bars, interval_s=300)
    figures = [[bar[name] for name in ("open", "high", "low", "close", "prices")] for bar in wide]
    assert figures == [["100", "107", "99", "102", 5], ["110", "110", "110", "110", 1]]


async def test_highs_are_compared_as_numbers() -> None:
    clock, bars = made()
    clock.advance(300 - clock.now().timestamp() % 300)
    for price in ("99.5", "100.25"):  # as text the first were higher
        give(bars, price)
        clock.advance(60)
    (bar,) = await read(bars, interval_s=300)
    assert (bar["high"], bar["low"]) == ("100.25", "99.5")


async def test_a_clock_set_back_goes_on_with_the_bar_it_was_at() -> None:
    clock, bars = made()
    give(bars, "100")
    clock.advance(-3600)
    clock.advance_ns((3600 + FAST_S) * 10**9)
    give(bars, "101")
    (bar,) = await read(bars)
    assert (bar["open"], bar["close"]) == ("100", "101")


async def test_old_bars_leave_and_the_newest_are_given() -> None:
    clock, bars = made()
    for number in range(KEPT + 50):
        give(bars, str(number + 1))
        clock.advance(FAST_S)
    found = await read(bars, interval_s=5, limit=1_001)
    assert len(found) == KEPT + 1  # and the live one
    assert [bar["close"] for bar in found[-2:]] == [str(KEPT + 49), str(KEPT + 50)]
    assert [bar["close"] for bar in await read(bars, interval_s=5, limit=2)] == [
        str(KEPT + 49), str(KEPT + 50),
    ]  # fmt: skip


async def test_symbols_are_bounded_but_what_is_held_or_asked_for_has_bars() -> None:
    _, bars = made(held=("HELD",))
    for number in range(MOST_SYMBOLS):
        give(bars, "1", symbol=f"S{number}")
    give(bars, "1", symbol="ONEMORE")
    give(bars, "1", symbol="HELD")
    assert len(await read(bars, "HELD")) == 1
    with pytest.raises(CommandRefused) as refused:
        await read(bars, "ONEMORE")
    assert refused.value.code == "NO_PRICE"
    give(bars, "1", symbol="ONEMORE")  # it was asked for
    assert len(await read(bars, "ONEMORE")) == 1


async def test_asking_for_ever_more_symbols_keeps_the_newest_and_what_is_held() -> None:
    """Whoever may read may ask for anything: neither what is watched nor what is kept grows without end."""
    clock, bars = made(held=("HELD",))
    give(bars, "1", symbol="HELD")
    for number in range(3 * MOST_ASKED):
        symbol = f"S{number}"
        with pytest.raises(CommandRefused):
            await read(bars, symbol)
        give(bars, "1", symbol=symbol)
        clock.advance(0.001)
    newest = [f"S{number}" for number in range(2 * MOST_ASKED, 3 * MOST_ASKED)]
    assert bars.keys() == [f"{symbol}@{width}" for symbol in newest for width in (5, 60)]
    assert set(bars._rings) == {"HELD", *newest}
    await read(bars, newest[0])  # asked again: the newest now
    with pytest.raises(CommandRefused):
        await read(bars, "ANOTHER")
    assert bars.row(f"{newest[0]}@5") is not None
    assert bars.row(f"{newest[1]}@5") is None


async def test_only_what_was_asked_for_is_told_live_and_only_for_a_while() -> None:
    clock, bars = made()
    give(bars, "100")
    assert bars.changed() == []
    await read(bars)
    give(bars, "101", "102")
    assert bars.changed() == ["AAPL@5", "AAPL@60"]
    assert bars.changed() == []
    row = bars.row("AAPL@60")
    assert row is not None
    assert (row["open"], row["close"], row["interval_s"]) == ("100", "102", 60)
    assert bars.row("MSFT@60") is None
    clock.advance(module.WATCHED_NS / 1e9 + 1)
    give(bars, "103")
    assert bars.changed() == []
    assert bars.keys() == []
