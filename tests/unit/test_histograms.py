"""Latency histograms against exact percentiles of the same values."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.tables import STAGES
from engine.telemetry.histograms import BUCKETS, Histogram, StageLatency, bucket_of, upper_bound
from engine.telemetry.latency import Latency

QUANTILES = {
    "p50": Fraction(1, 2),
    "p90": Fraction(9, 10),
    "p99": Fraction(99, 100),
    "p999": Fraction(999, 1000),
}
TOP = 2**32 - 1  # microseconds: 71 minutes
microseconds = st.one_of(st.integers(0, 100), st.integers(0, 10**6), st.integers(0, TOP))


def recorded(values, *, lasting: bool = False) -> Histogram:
    histogram = Histogram(lasting=lasting)
    for value in values:
        histogram.record(value)
    return histogram


@given(microseconds)
def test_a_value_lies_in_its_bucket_which_is_at_most_one_32nd_wide(value):
    bucket = bucket_of(value)
    low = upper_bound(bucket - 1) + 1 if bucket else 0
    assert low <= value <= upper_bound(bucket)
    assert upper_bound(bucket) - low <= low / 32


def test_buckets_touch_without_gap_or_overlap():
    for bucket in range(1, BUCKETS):
        assert bucket_of(upper_bound(bucket - 1)) == bucket - 1
        assert bucket_of(upper_bound(bucket - 1) + 1) == bucket
    assert upper_bound(BUCKETS - 1) == TOP


@pytest.mark.parametrize(
    ("value", "bucket"), [(-5, 0), (0, 0), (2**32, BUCKETS - 1), (2**60, BUCKETS - 1)]
)
def test_values_off_the_scale(value, bucket):
    assert bucket_of(value) == bucket
    assert recorded([value]).summary()["count"] == 1


@given(st.lists(microseconds, min_size=1, max_size=300))
def test_percentiles_are_within_3_2_percent_and_never_too_low(values):
    ordered = sorted(values)
    summary = recorded(values).summary()
    assert recorded(values, lasting=True).summary() == summary
    assert summary["count"] == len(values)
    assert summary["max"] == ordered[-1]
    for name, quantile in QUANTILES.items():
        exact = ordered[math.ceil(quantile * len(values)) - 1]
        assert exact <= summary[name] <= exact * Fraction("1.032")


def test_ranks_are_exact_for_every_count():
    for count in range(1, 3001):
        for name, quantile in QUANTILES.items():
            # Of `rank` zeros and the rest thirties the percentile is 0; of one zero less it is 30.
            rank = math.ceil(quantile * count)
            for zeros, expected in ((rank, 0), (rank - 1, 30)):
                two = Histogram()
                two.counts, two.count, two.max = {0: zeros, 30: count - zeros}, count, 30
                assert two.summary()[name] == expected


def test_nothing_measured_is_no_number():
    assert Histogram().summary() == {
        "count": 0, "p50": None, "p90": None, "p99": None, "p999": None, "max": None,
    }  # fmt: skip
    assert Histogram().buckets() == []


@given(st.lists(microseconds, max_size=50), st.lists(microseconds, max_size=50))
def test_adding_is_recording_both(some, others):
    both = recorded(some + others)
    for lasting in (False, True):
        added = recorded(some, lasting=lasting)
        added.add(recorded(others, lasting=not lasting))
        assert (added.summary(), added.buckets(), added.sum) == (
            both.summary(),
            both.buckets(),
            sum(some + others),
        )


def test_one_that_lasts_takes_no_memory_for_what_it_counts():
    empty, full = Histogram(lasting=True), recorded(map(upper_bound, range(BUCKETS)), lasting=True)
    assert full.buckets() == [[upper_bound(bucket), 1] for bucket in range(BUCKETS)]
    assert sys.getsizeof(full.counts) == sys.getsizeof(empty.counts)


def test_buckets_for_a_chart():
    assert recorded([5, 5, 1000]).buckets() == [[5, 2], [1007, 1]]


def test_the_minute_forgets_what_is_older_and_the_total_does_not():
    stage = StageLatency()
    stage.record(10)
    assert stage.tick()
    assert stage.last.count == 1
    stage.record(20)
    assert stage.minute().count == 2
    assert stage.tick()
    changed = [stage.tick() for _ in range(60)]
    assert stage.minute().count == 0
    assert changed[:58] == [False] * 58
    assert changed[58:] == [True, True]  # the seconds that held values leave the minute
    assert stage.last.count == 0
    assert stage.total.count == 2


def test_the_report_has_every_stage_in_microseconds():
    latency = Latency()
    latency.record("ack", 1_999)
    latency.record_account("A", 30_500)
    report = latency.report()
    assert report["unit"] == "us"
    assert tuple(report["stages"]) == STAGES
    assert report["stages"]["ack"]["total"]["max"] == 1
    assert report["stages"]["send"]["total"]["count"] == 0
    assert latency.account_p50("A") == 30
    assert latency.account_p50("B") is None
    assert latency.tick() == ["ack"]
    row = latency.row("ack", "now")
    assert row["second"]["count"] == row["minute"]["count"] == row["total"]["count"] == 1
    assert (row["stage"], row["at"], row["buckets"]) == ("ack", "now", [[1, 1]])
