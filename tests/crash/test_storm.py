"""A fifth of all new orders meets a fault: none is lost, none is sent twice, whichever broker it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.storm import storm
from tests.crash.storm_accounts import PLACE

ORDERS = 400


@pytest.mark.parametrize("dialect", sorted(PLACE))
@pytest.mark.timeout(300)
async def test_nothing_is_lost_and_nothing_is_sent_twice(tmp_path: Path, dialect: str):
    outcome = await storm(tmp_path, dialect, ORDERS, accounts=20)
    assert not outcome.duplicated
    assert not outcome.lost
    assert not outcome.wrong
    assert outcome.orders >= ORDERS
    assert sum(outcome.faults.values()) >= ORDERS * 0.2 * 0.6  # the venue did fail
    assert len(outcome.faults) >= 6  # in many ways
    assert outcome.statuses["filled"] > ORDERS * 0.5  # and most orders came through
