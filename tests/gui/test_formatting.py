from __future__ import annotations

import pytest

from gui import formatting as fmt

N = "\u202f"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("1234567.891", f"1{N}234{N}567.89"),
        ("-0.004", "0.00"),
        ("-12.5", "\u221212.50"),
        ("0", "0.00"),
        (None, "–"),
        ("999", "999.00"),
        ("1000", f"1{N}000.00"),
    ],
)
def test_money(value: str | None, shown: str) -> None:
    assert fmt.money(value) == shown


def test_signs_are_said() -> None:
    assert fmt.pnl("12.3") == "+12.30"
    assert fmt.pnl("-12.3") == "\u221212.30"
    assert fmt.pnl("0") == "0.00"
    assert (fmt.tone_of("1"), fmt.tone_of("-1"), fmt.tone_of("0"), fmt.tone_of(None)) == (
        "gain",
        "loss",
        "",
        "",
    )


def test_prices_keep_every_decimal_and_quantities_no_padding() -> None:
    assert fmt.price("101.5") == "101.50"
    assert fmt.price("0.00001234") == "0.00001234"
    assert fmt.price("91840") == f"91{N}840.00"
    assert fmt.quantity("0.50000") == "0.5"
    assert fmt.quantity("1000.000") == f"1{N}000"
    assert fmt.quantity("100") == "100"


@pytest.mark.parametrize(
    ("us", "shown"),
    [
        (0, "0 µs"),
        (412, "412 µs"),
        (1_320, "1.32 ms"),
        (13_260, "13.3 ms"),
        (250_000, "250 ms"),
        (2_100_000, "2.10 s"),
        (None, "–"),
    ],
)
def test_micros(us: int | None, shown: str) -> None:
    assert fmt.micros(us) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "9 s"), (12.7, "12 s"), (200, "3 m 20 s"), (2_520, "42 m"),
     (7_500, "2 h 05 m"), (90_000, "1 d 01 h"), (-3, "0.0 s"), (None, "–")],
)  # fmt: skip
def test_age(seconds: float | None, shown: str) -> None:
    assert fmt.age(seconds) == shown


def test_clock_in_utc() -> None:
    fmt.Times.utc = True
    assert fmt.Times.clock("2026-11-22T14:30:00.123456Z") == "14:30:00"
    assert fmt.Times.clock("2026-11-22T14:30:00.123456Z", millis=True) == "14:30:00.123"
    assert fmt.Times.full("2026-11-22T16:30:00.5+02:00") == "2026-11-22 14:30:00.500 UTC"
    assert fmt.Times.clock("yesterday") == "–"


def test_colour_is_never_alone() -> None:
    assert fmt.side("buy").startswith("▲")
    assert fmt.side("sell").startswith("▼")
    assert fmt.arrow("-1") == "▼"


@pytest.mark.parametrize(
    ("given", "shown"),
    [("0.107977123", "0.107977"), ("-0.0011239", "−0.001124"), ("25", "25"), ("0.00000012", "0.00000012"),
     ("1.500000", "1.5"), (None, "–")],
)  # fmt: skip
def test_a_narrow_quantity_never_reads_as_nothing(given: object, shown: str) -> None:
    assert fmt.short_quantity(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [("46255.051234567", f"46{fmt.THIN}255.05"), ("416.06512", "416.0651"), ("416.1", "416.10"),
     ("0.00001234", "0.00001234"), (None, "–")],
)  # fmt: skip
def test_an_average_price_is_short(given: object, shown: str) -> None:
    assert fmt.average_price(given) == shown


def test_privacy_masks_money_and_no_share() -> None:
    fmt.Privacy.on = True
    try:
        assert fmt.money("0.40") == fmt.MASK
        assert fmt.percent("0.4") == "+0.40 %"
        assert fmt.percent("-1.234") == "−1.23 %"
        assert fmt.percent(None) == fmt.NONE
    finally:
        fmt.Privacy.on = False
