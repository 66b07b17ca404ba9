"""Token buckets: never more than the limit in any stretch of time, all of it when asked for, 30 % kept back."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.execution.rate_limit import (
    ARRIVAL_NS,
    PLENTY,
    RateLimit,
    TokenBucket,
    calendar_second,
    for_entries,
)

S = 1_000_000_000
START = 5 * S


def taken(limit: RateLimit, now_ns: int, *, entry: bool = False) -> int:
    """Take all there is."""
    count = 0
    while limit.take(now_ns, entry):
        count += 1
    return count


def test_a_token_comes_back_a_window_after_it_was_taken():
    limit = RateLimit(TokenBucket(3, 2.0))
    assert limit.take(START)
    assert taken(limit, START + S) == 2
    assert taken(limit, START + 2 * S - 1) == 0
    assert taken(limit, START + 2 * S) == 1
    assert taken(limit, START + 3 * S) == 2
    assert taken(limit, START + 3600 * S) == 3


@pytest.mark.parametrize("limit", [0, 0.5, 1])
def test_a_bucket_always_has_room_for_one(limit):
    made = RateLimit(TokenBucket(limit, 2.0))
    assert made.left(START, entry=True) == 1
    assert taken(made, START) == 1
    assert taken(made, START + S) == 0
    assert taken(made, START + 2 * S, entry=True) == 1


def test_a_clock_read_earlier_takes_nothing_back():
    limit = RateLimit(TokenBucket(1, 1.0))
    assert taken(limit, START) == 1
    assert taken(limit, START - S) == 0
    assert taken(limit, START + S) == 1


@pytest.mark.parametrize(("limit", "entries"), [(1, 1), (2, 1), (3, 2), (10, 7), (100, 70), (200, 140)])  # fmt: skip
def test_entries_take_seventy_percent_exits_the_rest(limit, entries):
    made = RateLimit(TokenBucket(limit, 1.0))
    assert for_entries(limit) == entries
    assert taken(made, START, entry=True) == entries
    assert taken(made, START) == limit - entries


def test_a_cancel_is_counted_when_there_is_nothing_left_and_delays_what_comes_after():
    limit = RateLimit(TokenBucket(2, 1.0))
    assert taken(limit, START) == 2
    limit.spend(START + S // 2)
    limit.spend(START + S // 2)
    assert taken(limit, START + S) == 0
    assert limit.wait_ns(START + S) == S // 2
    assert taken(limit, START + S // 2 + S) == 2


def test_all_buckets_must_agree_and_a_refusal_costs_none_of_them():
    wide, narrow = TokenBucket(100, 1.0), TokenBucket(1, 1.0)
    both = RateLimit(wide, narrow)
    assert taken(both, START) == 1
    assert not any(both.take(START) for _ in range(50))
    assert wide.left(START) == 99
    assert both.wait_ns(START) == S


def test_without_a_rule_everything_may_leave():
    assert RateLimit().left(START) == PLENTY
    assert RateLimit().wait_ns(START) == 0
    assert RateLimit().after(10_000, START) == 0


# ---- what the broker says ------------------------------------------------------------------------------------------


def test_the_broker_s_count_lowers_ours_until_its_window_ends():
    limit = RateLimit(TokenBucket(200, 60.0))
    assert taken(limit, START, entry=True) == 140
    limit.note_usage(used=190, limit=200, resets_in_s=20.0, now_ns=START)
    assert limit.left(START) == 10  # fifty others were somebody else's
    assert taken(limit, START + S) == 10
    assert limit.left(START + 20 * S) == 50  # those are over, ours are not
    assert limit.left(START + 60 * S) == 190


def test_the_broker_s_count_never_raises_ours():
    limit = RateLimit(TokenBucket(10, 1.0))
    assert taken(limit, START) == 10
    limit.note_usage(used=1, limit=100, resets_in_s=60.0, now_ns=START)
    assert limit.left(START) == 0
    assert limit.left(START + S) == 10


def test_of_two_words_the_stricter_holds_as_long_as_it_is_meant():
    limit = RateLimit(TokenBucket(10, 1.0))
    limit.note_usage(used=8, limit=10, resets_in_s=5.0, now_ns=START)
    limit.note_usage(used=1, limit=10, resets_in_s=60.0, now_ns=START + S)
    assert limit.left(START + S) == 2
    assert limit.left(START + 5 * S - 1) == 2
    assert limit.left(START + 5 * S) == 10


def test_an_exhausted_limit_of_which_we_keep_no_bucket_is_a_pause():
    limit = RateLimit()
    limit.note_usage(used=6000, limit=6000, resets_in_s=12.0, now_ns=START)
    assert limit.wait_ns(START) == 12 * S
    assert limit.left(START + 12 * S) == PLENTY


def test_in_a_pause_nothing_leaves_and_afterwards_half_of_what_we_believed_in():
    limit = RateLimit(TokenBucket(100, 10.0))
    limit.pause(2.0, START)
    assert limit.left(START) == limit.left(START + 2 * S - 1) == 0
    assert limit.wait_ns(START) == 2 * S
    assert limit.left(START + 2 * S) == 50
    assert limit.left(START + 10 * S) == 100
    limit.pause(5.0, START + 10 * S)
    limit.pause(1.0, START + 10 * S)  # a shorter one takes nothing back
    assert limit.paused_until_ns == START + 15 * S


# ---- properties ----------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.integers(0, 3 * S), st.integers(0, 20), st.booleans()), min_size=1, max_size=40
)  # nanoseconds passed, orders asked for, whether entries
buckets = st.lists(
    st.tuples(st.integers(1, 50), st.sampled_from([0.1, 1.0, 1.25, 10.0])), min_size=1, max_size=3
)


def most_within(stamps: list[int], span: int) -> int:
    """Return the most stamps in any half-open stretch of ``span``."""
    return max((sum(at <= other < at + span for other in stamps) for at in stamps), default=0)


@given(buckets, steps)
def test_no_window_sees_more_than_its_limit_and_entries_never_the_last_thirty_percent(shapes, moves):  # fmt: skip
    limit = RateLimit(*(TokenBucket(count, seconds) for count, seconds in shapes))
    now, all_stamps, entries = START, [], []
    for passed, wanted, entry in moves:
        now += passed
        for _ in range(wanted):
            if not limit.take(now, entry):
                assert limit.wait_ns(now, entry) > 0
                break
            all_stamps.append(now)
            if entry:
                entries.append(now)
                # What an entry leaves behind it: whoever else took tokens, the reserve was whole.
                for count, seconds in shapes:
                    used = sum(now - int(seconds * S) < at <= now for at in all_stamps)
                    assert used <= for_entries(count)
    for count, seconds in shapes:
        assert most_within(all_stamps, int(seconds * S)) <= count
        assert most_within(entries, int(seconds * S)) <= for_entries(count)


def test_a_late_packet_does_not_fall_into_the_next_second_with_those_after_it():
    """Ten leave at 0.0 and take 0.2 s; ten more a second later and at once would arrive in that same second."""
    limit = RateLimit(calendar_second(10))
    assert taken(limit, START) == 10
    arrived = START + S // 5
    assert taken(limit, START + S) == 0
    now = START + S + limit.wait_ns(START + S)
    assert taken(limit, now) == 10
    assert now - arrived >= S


@given(
    st.integers(1, 12),
    st.lists(
        st.tuples(
            st.integers(0, S) | st.sampled_from([S // 2, S, S + ARRIVAL_NS]),
            st.integers(0, 15),
            st.integers(0, ARRIVAL_NS - 1),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(-3 * S, 3 * S),
)
def test_no_calendar_second_of_the_broker_s_clock_sees_more_than_its_limit(count, moves, offset):
    """Whatever its clock's offset, and however much longer one request travels than another."""
    limit = RateLimit(calendar_second(count))
    now, seconds = START, Counter[int]()
    for passed, wanted, travel in moves:
        now += passed
        for _ in range(wanted):
            if limit.take(now):
                seconds[(now + travel + offset) // S] += 1
    assert max(seconds.values(), default=0) <= count


@given(buckets, st.integers(1, 120), st.booleans(), st.integers(0, 3))
def test_the_prediction_is_when_the_last_one_leaves(shapes, orders, entry, told):
    limit = RateLimit(*(TokenBucket(count, seconds) for count, seconds in shapes))
    now = START
    taken(limit, now, entry=True)
    now += S // 3
    if told:
        limit.note_usage(used=told, limit=told + 1, resets_in_s=float(told), now_ns=now)
    predicted = [limit.after(count, now, entry) for count in range(1, orders + 1)]
    began = now
    for count in range(orders):
        wait = limit.wait_ns(now, entry)
        if wait > 1:
            assert not limit.take(now + wait - 1, entry)
        now += wait
        assert limit.take(now, entry)
        # With several buckets each is foreseen by itself: what one holds back does not spare the other.
        assert predicted[count] <= now - began
        if len(shapes) == 1:
            assert predicted[count] == now - began
    assert predicted == sorted(predicted)
