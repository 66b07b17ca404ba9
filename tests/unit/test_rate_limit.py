"""Token buckets: never more than rate × time + burst, never less than that when asked for, none lost."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.execution.rate_limit import RateLimit, TokenBucket

S = 1_000_000_000
START = 5 * S


def taken(limit: RateLimit, now_ns: int) -> int:
    """Take all there is."""
    count = 0
    while limit.take(now_ns):
        count += 1
    return count


def test_a_fresh_bucket_holds_its_burst_and_fills_at_its_rate():
    limit = RateLimit(TokenBucket(10, 3, START))
    assert taken(limit, START) == 3
    assert taken(limit, START + S // 10 - 1) == 0
    assert taken(limit, START + S // 10) == 1
    assert taken(limit, START + 3600 * S) == 3


def test_at_no_instant_more_than_the_burst_leaves():
    """However long it was quiet, and whether or not the bucket was full."""
    limit = RateLimit(TokenBucket(100, 3, 0))
    assert taken(limit, S) == 3
    limit = RateLimit(TokenBucket(100, 3, 0))
    assert limit.take(0)
    assert taken(limit, S) == 3
    assert taken(limit, S) == 0


@pytest.mark.parametrize("burst", [0, 0.5, 1])
def test_a_bucket_always_has_room_for_one(burst):
    limit = RateLimit(TokenBucket(0.5, burst, START))
    assert taken(limit, START) == 1
    assert taken(limit, START + S) == 0
    assert taken(limit, START + 2 * S) == 1


def test_a_clock_read_earlier_takes_nothing_back():
    limit = RateLimit(TokenBucket(1, 1, START))
    assert taken(limit, START) == 1
    assert taken(limit, START - S) == 0
    assert taken(limit, START + S) == 1


def test_all_buckets_must_agree_and_a_refusal_costs_none_of_them():
    wide, narrow = TokenBucket(100, 100, START), TokenBucket(1, 1, START)
    both = RateLimit(wide, narrow)
    assert taken(both, START) == 1
    assert not any(both.take(START) for _ in range(50))
    assert taken(RateLimit(wide), START) == 99
    assert both.wait_ns(START) == pytest.approx(S, abs=2)


def test_accounts_share_the_firm_s_bucket():
    firm = TokenBucket(5, 5, START)
    accounts = [RateLimit(TokenBucket(100, 100, START), firm) for _ in range(10)]
    assert sum(taken(limit, START) for limit in accounts) == 5


steps = st.lists(
    st.tuples(st.integers(0, 3 * S), st.integers(0, 20)), min_size=1, max_size=40
)  # nanoseconds passed, orders asked for
buckets = st.lists(
    st.tuples(st.sampled_from([0.2, 1, 3, 7.5, 100, 333]), st.integers(1, 50)),
    min_size=1,
    max_size=3,
)


def most_over_the_rate(spent_at: list[int], rate: Fraction) -> Fraction:
    """Return the most that left within any stretch of time, an instant included, beyond what came in during it."""
    most, least = Fraction(0), None
    for count, moment in enumerate(spent_at):
        ahead = count - rate * moment
        least = ahead if least is None else min(least, ahead)
        most = max(most, ahead - least + 1)
    return most


@given(buckets, steps)
def test_conservation(shapes, moves):
    limit = RateLimit(*(TokenBucket(rate, burst, START) for rate, burst in shapes))
    now, spent_at = START, []
    for passed, wanted in moves:
        now += passed
        before = len(spent_at)
        for _ in range(wanted):
            if not limit.take(now):
                break
            spent_at.append(now)
        got = len(spent_at) - before
        assert got == wanted or limit.wait_ns(now) > 0
    for rate, burst in shapes:
        assert most_over_the_rate(spent_at, Fraction(rate) / S) <= burst + Fraction(1, 10**6)


@given(buckets, st.integers(1, 200))
def test_after_the_wait_there_is_one_and_just_before_there_is_none(shapes, orders):
    limit = RateLimit(*(TokenBucket(rate, burst, START) for rate, burst in shapes))
    now = START
    for _ in range(orders):
        wait = limit.wait_ns(now)
        if wait > 2:
            assert not limit.take(now + wait - 2)
        now += wait
        assert limit.take(now)
