"""Hostile signals at speed: broken out of valid ones, and whatever is accepted is held against the judge.

``python -m tests.bench.hostile [--count N] [--seed S] [--processes P]`` prints what was refused with which code, and
the slowest body. The judge is that of ``fuzz_parser``, which shares nothing with the parser; it is asked about every
body that the parser accepts, so nothing can be accepted wrongly unseen. (That nothing is *refused* wrongly is
``fuzz_parser``'s business.) A failure prints the body, and repeats by its seed.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from engine.errors import InvalidSignal
from engine.intake.parser import parse_signal
from tests.bench.fuzz_parser import (
    AT_LIMITS,
    CODES,
    FIELDS,
    HOSTILE_VALUES,
    NOW,
    WHOLE,
    No,
    judge,
    same,
    valid,
)

PER_BASE = 250
SHARE = 500_000  # bodies a task; its seed is its number
SLOW_NS = 1_000_000
_TOKENS = [
    token.encode()
    for token in (
        '"', "\\", "{", "}", "[", "]", ",", ":", "\\u0000", "\\ud800", "null", "true", "NaN", "Infinity", "1e999",
        "-1", "1_0", '"":', '"id":"x",', ',"id":"x"', "0x1", "'", "/*", "٣", "\u202e", "00", "..", "+", "e5",
    )
]  # fmt: skip
_BYTES = [bytes([value]) for value in [*range(32), *b'"\\{}[],:+-eE._/ ', *range(127, 256)]]


@dataclass
class Outcome:
    """What a share came to."""

    seen: Counter[str] = field(default_factory=Counter)
    slow: int = 0
    slowest_ns: int = 0
    slowest: bytes = b""

    def add(self, other: Outcome) -> None:
        """Take another share's figures in."""
        self.seen += other.seen
        self.slow += other.slow
        if other.slowest_ns > self.slowest_ns:
            self.slowest_ns, self.slowest = other.slowest_ns, other.slowest


def bodies(seed: int, count: int):
    """Yield ``count`` bodies: valid ones, each broken in ``PER_BASE`` ways, most of them twice."""
    rng = random.Random(seed)
    draw = rng.random
    values = [value.encode("utf-8", "surrogatepass") for value in HOSTILE_VALUES]
    limits = [(f'"{key}":'.encode(), value.encode()) for key, value in AT_LIMITS]
    made = 0
    while made < count:
        members = [
            (f'"{key}":'.encode(), value.encode("utf-8", "surrogatepass"))
            for key, value in valid(rng)
        ]
        base = b"{" + b",".join(key + value for key, value in members) + b"}"
        other = base[::-1]
        size = len(base)
        for _ in range(min(PER_BASE, count - made)):
            made += 1
            way = draw()
            at = int(draw() * size)
            if way < 0.1:
                yield base[:at] + _BYTES[int(draw() * len(_BYTES))] + base[at + 1 :]
            elif way < 0.25:
                twice = base[:at] + _TOKENS[int(draw() * len(_TOKENS))] + base[at:]
                at = int(draw() * size)
                yield twice[:at] + _BYTES[int(draw() * len(_BYTES))] + base[at + 1 :]
            elif way < 0.45:
                yield base[:at] + _TOKENS[int(draw() * len(_TOKENS))] + base[at:]
            elif way < 0.55:
                yield base[:at]
            elif way < 0.62:
                yield base[:at] + base[at + 1 + int(draw() * 8) :]
            elif way < 0.68:
                yield base[:at] + base[int(draw() * size) :]
            elif way < 0.70:
                yield base[:at] + other[at:]
            elif way < 0.701:
                long = limits[int(draw() * len(limits))]
                body = (
                    b"{"
                    + b",".join(k + v for k, v in [*members, long] if k != long[0] or v is long[1])
                    + b"}"
                )
                yield body if draw() < 0.5 else body.ljust(8192 + int(draw() * 2))
            elif way < 0.995:
                changed = list(members)
                index = int(draw() * len(changed))
                if draw() < 0.7:
                    again = int(draw() * len(changed))
                    changed[again] = (changed[again][0], values[int(draw() * len(values))])
                if draw() < 0.8:
                    changed[index] = (changed[index][0], values[int(draw() * len(values))])
                else:
                    name = FIELDS[int(draw() * len(FIELDS))].encode()
                    changed.insert(index, (b'"' + name + b'":', changed[index][1]))
                yield b"{" + b",".join(key + value for key, value in changed) + b"}"
            else:
                yield WHOLE[int(draw() * len(WHOLE))]


def share(task: tuple[int, int]) -> Outcome:
    """Run one share.

    Raises:
        AssertionError: a wrong acceptance, a wrong value, an unknown code, or another exception.
    """
    seed, count = task
    outcome = Outcome()
    seen: Counter[str] = outcome.seen
    clock = time.perf_counter_ns
    for body in bodies(seed, count):
        began = clock()
        try:
            signal = parse_signal(body, source=None, now=NOW)
        except InvalidSignal as error:
            seen[error.code] += 1
            took = clock() - began
        except BaseException as error:
            raise AssertionError(
                f"{type(error).__name__} escaped, seed {seed}: {body!r}"
            ) from error
        else:
            took = clock() - began
            seen["accepted"] += 1
            try:
                expected = judge(body, None)
            except No as no:
                raise AssertionError(f"wrongly accepted ({no}), seed {seed}: {body!r}") from None
            assert same(signal, expected), f"read wrongly, seed {seed}: {body!r}"
        if took > outcome.slowest_ns:
            outcome.slowest_ns, outcome.slowest = took, body
        outcome.slow += took > SLOW_NS
    assert set(seen) <= CODES | {"accepted"}, set(seen) - CODES
    return outcome


def run(count: int, seed: int, processes: int, said: bool = False) -> Outcome:
    """Run ``count`` bodies in shares, each by a seed of its own."""
    tasks = [
        (seed * 1_000_000 + number, min(SHARE, count - number * SHARE))
        for number in range(-(-count // SHARE))
    ]
    total = Outcome()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, outcome in enumerate(pool.imap_unordered(share, tasks), 1):
            total.add(outcome)
            if said and number % 20 == 0:
                sys.stdout.write(f"{number * SHARE} bodies\n")
                sys.stdout.flush()
    return total


def best_of(body: bytes, times: int = 7) -> int:
    """Return the least time a body takes: what else ran on the machine is not its fault."""
    least = 1 << 62
    for _ in range(times):
        began = time.perf_counter_ns()
        with contextlib.suppress(InvalidSignal):
            parse_signal(body, source=None, now=NOW)
        least = min(least, time.perf_counter_ns() - began)
    return least


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    began = time.perf_counter()
    total = run(args.count, args.seed, args.processes, said=True)
    took = time.perf_counter() - began
    sys.stdout.write(
        f"{args.count} hostile signals, seed {args.seed}, {took:.0f} s on {args.processes} processes: 0 crashes, "
        f"0 wrongly accepted; {dict(total.seen.most_common())}\n"
        f"slowest {total.slowest_ns / 1e6:.2f} ms as it happened, {best_of(total.slowest) / 1e6:.3f} ms by itself "
        f"({len(total.slowest)} bytes); over 1 ms as it happened: {total.slow}\n"
    )


if __name__ == "__main__":
    main()
