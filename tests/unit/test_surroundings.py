"""What the machine and the market must give before anybody can trade."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.config import Config
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.surroundings import LEAST_DISK, LITTLE_DISK, Surroundings
from tests.helpers import HandClock
from tests.planning import Desk


def surroundings(
    path: Path, *, prices: bool = True, marks: Marks | None = None, keeper: PositionKeeper | None = None,
    reference: str = "required",
) -> Surroundings:  # fmt: skip
    marks = marks or Marks(HandClock())
    config = Config.model_validate(
        {"limits": {"price_reference": reference}, "market": {"source": "none"}}
    )
    return Surroundings(path, config, marks, keeper or PositionKeeper(marks), prices=prices)


@pytest.mark.parametrize(
    ("free", "codes"),
    [
        (LEAST_DISK - 1, ["DISK_FULL"]),
        (LEAST_DISK, ["DISK_SPACE"]),
        (LITTLE_DISK - 1, ["DISK_SPACE"]),
        (LITTLE_DISK, []),
    ],
)
async def test_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, codes: list[str]
) -> None:
    made = surroundings(tmp_path)
    assert made.needs() == []  # nothing is said before anybody has looked
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=free))
    await made.look()
    assert [need.code for need in made.needs()] == codes


async def test_the_real_disk_is_read_and_a_home_that_is_gone_says_nothing(tmp_path: Path) -> None:
    made = surroundings(tmp_path)
    await made.look()
    assert made._free is not None
    assert made._free > 0
    gone = surroundings(tmp_path / "none")
    await gone.look()
    assert gone.needs() == []


def test_no_source_of_prices(tmp_path: Path) -> None:
    marks = Marks(HandClock())
    made = surroundings(tmp_path, prices=False, marks=marks)
    [need] = made.needs()
    assert need.code == "REF_MISSING"
    assert "market.source = none" in need.text
    assert surroundings(tmp_path, prices=False, reference="when_available").needs() == []
    assert surroundings(tmp_path, prices=True).needs() == []
    marks.set("AAPL", Decimal(100))  # given from outside
    assert made.needs() == []


async def test_a_position_without_a_price(tmp_path: Path) -> None:
    desk = Desk()
    desk.hold("10", symbol="ODD")
    desk.hold("10", symbol="AAPL")
    made = surroundings(tmp_path, marks=desk.marks, keeper=desk.keeper)
    known = desk.marks.price("ODD")
    desk.marks._quotes.pop("ODD", None)
    codes = [(need.code, "ODD" in need.text, "AAPL" in need.text) for need in made.needs()]
    assert codes == [("REF_MISSING", True, False)]
    desk.marks.set("ODD", known or Decimal(5))
    assert made.needs() == []
