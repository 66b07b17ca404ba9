"""200,000 hostile bodies: only ``InvalidSignal`` escapes, nothing is wrongly accepted."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import pytest

from engine.errors import InvalidSignal
from engine.intake import parser
from tests.bench import fuzz_parser, hostile

ENDLESS = 10**9


def test_no_crash_and_no_wrong_acceptance_in_200_000_bodies():
    seen = fuzz_parser.run(200_000, seed=20261122)
    assert sum(seen.values()) == 200_000
    assert set(seen) == fuzz_parser.CODES | {"accepted"}, "the fuzz no longer reaches every refusal"
    assert seen["accepted"] > 20_000


def _lax_number(field: str, value: object) -> Decimal:
    try:
        return Decimal(str(value))  # exponents, signs, Unicode digits, underscores, NaN
    except InvalidOperation:
        raise InvalidSignal("FORMAT", field, "no number") from None


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("read_number", _lax_number),
        ("_object", dict),
        ("FIELDS", parser.FIELDS | {"extra"}),
        ("check_not_future", lambda *_: None),
        ("_check_action", lambda _: None),
        ("MAX_NAMES", 0),
        ("MAX_NAMES", ENDLESS),
        ("MAX_META", ENDLESS),
        ("MAX_META_KEY", ENDLESS),
        ("MAX_META_VALUE", ENDLESS),
        ("MAX_BYTES", ENDLESS),
    ],
)
def test_the_fuzz_has_teeth(monkeypatch, name, broken):
    """A parser with one rule broken must be caught."""
    monkeypatch.setattr(parser, name, broken)
    if name == "_object":
        decoder = parser.json.JSONDecoder(
            object_pairs_hook=dict,
            parse_float=parser.Number,
            parse_int=parser.Number,
            parse_constant=parser._NotANumber,
        )
        monkeypatch.setattr(parser, "_DECODER", decoder)
    with pytest.raises(AssertionError, match="of seed 5"):
        fuzz_parser.run(30_000, seed=5)


@pytest.mark.parametrize(
    "name", ["MAX_NAMES", "MAX_META", "MAX_META_KEY", "MAX_META_VALUE", "MAX_BYTES"]
)
def test_hostile_signals_reach_every_limit(monkeypatch, name):
    """Without one, something must be accepted that the judge refuses."""
    monkeypatch.setattr(parser, name, ENDLESS)
    with pytest.raises(AssertionError, match=r"wrongly accepted .*, seed 5"):
        hostile.share((5, 50_000))
