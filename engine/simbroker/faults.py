"""Faults on request: which requests, connections and events they meet, and how often."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any, NamedTuple

import orjson

from engine.errors import ConfigError

REFUSED = frozenset(
    {
        "drop",  # close without reading the order: it is not placed
        "hang",  # never answer: it is not placed
        "html_200",  # a gateway's page with status 200, not placed
        "late_accept",  # never answered, and placed only after delay_s
        "expire_token",  # from now on this account's credentials are refused (for delay_s, if set)
    }
)
ACCEPTED = frozenset(
    {
        "accept_then_drop",  # placed, then closed without an answer
        "accept_then_hang",  # placed, never answered
        "accept_then_html_200",  # placed, answered with a gateway's page
        "reset_mid_reply",  # placed, half of the answer, then a reset
        "truncated_json",  # placed, answered with the first half of the body, its length right
        "wrong_length",  # placed, answered with a content-length that is too large
        "garbage",  # placed, answered with bytes that are no HTTP
        "delay",  # placed, answered after delay_s
        "slow_loris",  # placed, answered byte by byte within delay_s
        "duplicate_id_reply",  # placed, answered as if the client id had been used before
        "placed_422",  # placed, answered 422 with the order as its body (reported of Alpaca)
        "fill_first",  # served, after this account's open orders (of the symbol named) have filled
        "array_of_ids",  # placed under several ids, where the dialect knows such a reply (Kite)
        "visibility_lag",  # placed and answered; look-ups do not see it for delay_s
        "date_skew",  # served, by a clock (and Date header) that is delay_s off
    }
)
ON_CONNECT = frozenset({"refuse"})  # reset at accept
ON_EVENT = frozenset(
    {
        "drop_stream",  # cut instead of telling
        "duplicate_event",  # told twice
        "reorder_events",  # told after the account's next event, or after delay_s
        "late_event",  # told after delay_s
    }
)
MIX = "mix"
_STATUS = re.compile(r"(accept_then_)?http_([45]\d\d)")
"""``http_503``: answered so and not placed; ``accept_then_http_503``: placed, and answered so."""
_NOT_MIXED = frozenset({"date_skew", "expire_token", "fill_first", "placed_422"})
_MIXED = (
    *sorted(ACCEPTED - _NOT_MIXED),
    *sorted(REFUSED - _NOT_MIXED),
    *("http_418", "http_429", "http_500", "http_502", "http_503", "http_504"),
    *("accept_then_http_429", "accept_then_http_500", "accept_then_http_503"),
)
_MATCH = ("method", "path", "account", "client_order_id", "symbol", "event")
_FIELDS = frozenset({"match", "action", "times", "after", "seed", "delay_s", "retry_after_s"})
_DELAYS_S = {MIX: 0.2, "expire_token": 0.0}


class Struck(NamedTuple):
    """What a fault does to one request, connection or event; ``retry_after_s`` ``None``: unsaid."""

    action: str
    delay_s: float
    retry_after_s: float | None

    @property
    def status(self) -> int:
        """Return the status to answer with, 0 for the request's own or none."""
        found = _STATUS.fullmatch(self.action)
        return int(found[2]) if found else 0

    @property
    def accepts(self) -> bool:
        """Say whether the request is carried out."""
        return self.action in ACCEPTED or self.action.startswith("accept_then_")

    @property
    def silent(self) -> bool:
        """Say whether nothing that a client could read is answered."""
        return self.action in {
            "drop",
            "hang",
            "late_accept",
            "accept_then_drop",
            "accept_then_hang",
            "garbage",
        }


def _on_request(action: str) -> bool:
    return action in REFUSED or action in ACCEPTED or _STATUS.fullmatch(action) is not None


class Fault:
    """One fault. ``match``: equal fields (``path`` by prefix), none given meets everything.

    ``after``: how many matching requests pass first; ``times``: how many it then meets (0: all;
    once, unless told, and a mix meets all). ``probability``: of each of these, by chance from
    ``seed``. ``delay_s`` is what the action says of it; ``retry_after_s`` goes into the answer.
    ``mix`` strikes requests that place orders (``POST`` to a path with ``/order``, unless ``match``
    says otherwise) at its ``rate`` with one of ``only``, or of every fault that a client of any
    broker must get over (not ``date_skew``, ``expire_token``, ``fill_first`` and ``placed_422``).
    """

    __slots__ = (
        "_random",
        "action",
        "after",
        "delay_s",
        "match",
        "met",
        "only",
        "probability",
        "retry_after_s",
        "times",
    )

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.action = _read_action(spec)
        self.match = _read_match(spec)
        self.times = _whole(spec, "times", 0 if self.action == MIX else 1)
        self.after = _whole(spec, "after", 0)
        chance = "rate" if self.action == MIX else "probability"
        self.probability = _real(spec, chance, 1.0)
        self.delay_s = _real(spec, "delay_s", _DELAYS_S.get(self.action, 1.0))
        self.retry_after_s = (
            None if "retry_after_s" not in spec else _real(spec, "retry_after_s", 0)
        )
        if not 0 <= self.probability <= 1 or (self.retry_after_s or 0) < 0:
            raise ConfigError(f"fault {chance} must be from 0 to 1, retry_after_s not negative")
        if self.delay_s < 0 and self.action != "date_skew":
            raise ConfigError("fault delay_s must not be negative")
        self.only = _read_only(spec) if self.action == MIX else ()
        self.met = 0
        self._random = Random(_whole(spec, "seed", 1))  # noqa: S311 (chance, no secret)

    def meets(self, facts: Mapping[str, str]) -> Struck | None:
        """Return what this fault does to something with these ``facts``, and count it."""
        if not self._matches(facts):
            return None
        self.met += 1
        past = self.met - self.after
        if past <= 0 or (self.times and past > self.times):
            return None
        if self.probability < 1 and self._random.random() >= self.probability:
            return None
        action = self._random.choice(self.only) if self.only else self.action
        return Struck(action, self.delay_s, self.retry_after_s)

    def _matches(self, facts: Mapping[str, str]) -> bool:
        if self.action == MIX and not self.match:
            return facts.get("method") == "POST" and "/order" in facts.get("path", "")
        for name, value in self.match.items():
            fact = facts.get(name, "")
            if not (fact.startswith(value) if name == "path" else fact == value):
                return False
        return True


class Faults:
    """The faults in force; the first that meets something strikes it."""

    def __init__(self, specs: Iterable[Mapping[str, Any]] = ()) -> None:
        self._on_request: list[Fault] = []
        self._on_connect: list[Fault] = []
        self._on_event: list[Fault] = []
        self.replace(specs)

    def replace(self, specs: Iterable[Mapping[str, Any]]) -> None:
        """Put ``specs`` in force instead of what was.

        Raises:
            ConfigError: a fault cannot be read; nothing was changed.
        """
        faults = [Fault(spec) for spec in specs]
        self._on_connect = [fault for fault in faults if fault.action in ON_CONNECT]
        self._on_event = [fault for fault in faults if fault.action in ON_EVENT]
        others = ON_CONNECT | ON_EVENT
        self._on_request = [fault for fault in faults if fault.action not in others]

    def strike(self, facts: Mapping[str, str]) -> Struck | None:
        """Return what happens to a request, ``None`` if nothing does."""
        return _first(self._on_request, facts)

    def strike_connection(self) -> Struck | None:
        """Return what happens to a new connection."""
        return _first(self._on_connect, {})

    def strike_event(self, facts: Mapping[str, str]) -> Struck | None:
        """Return what happens to an event of a stream."""
        return _first(self._on_event, facts)

    @property
    def for_requests(self) -> bool:
        """Say whether any fault waits for requests."""
        return bool(self._on_request)

    @property
    def for_events(self) -> bool:
        """Say whether any fault waits for events."""
        return bool(self._on_event)


def as_faults(text: bytes) -> list[Mapping[str, Any]]:
    """Read a faults file: a JSON list.

    Raises:
        ConfigError: it is none, or names no known fault.
    """
    try:
        specs = orjson.loads(text)
    except ValueError as error:
        raise ConfigError(f"the faults file is not JSON: {error}") from None
    if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
        raise ConfigError("the faults file must hold a list of objects")
    Faults(specs)
    return specs


def _first(faults: Iterable[Fault], facts: Mapping[str, str]) -> Struck | None:
    for fault in faults:
        struck = fault.meets(facts)
        if struck is not None:
            return struck
    return None


def _read_action(spec: Mapping[str, Any]) -> str:
    action = spec.get("action")
    known = REFUSED | ACCEPTED | ON_CONNECT | ON_EVENT | {MIX}
    if not isinstance(action, str) or not (action in known or _on_request(action)):
        names = ", ".join([*sorted(known), "http_400…599", "accept_then_http_400…599"])
        raise ConfigError(f"fault action {action!r} is none of {names}")
    fields = _FIELDS | ({"rate", "only"} if action == MIX else {"probability"})
    unknown = sorted(set(spec) - fields)
    if unknown:
        raise ConfigError(f"fault {action} has no {unknown[0]!r}; it takes {sorted(fields)}")
    return action


def _read_match(spec: Mapping[str, Any]) -> dict[str, str]:
    match = spec.get("match", {})
    if not isinstance(match, Mapping):
        raise ConfigError("fault match must be an object")
    wrong = sorted(set(match) - set(_MATCH))
    if wrong:
        raise ConfigError(f"fault match {wrong[0]!r} is none of {', '.join(_MATCH)}")
    return {str(name): str(value) for name, value in match.items()}


def _read_only(spec: Mapping[str, Any]) -> tuple[str, ...]:
    only = spec.get("only", _MIXED)
    if not isinstance(only, list | tuple) or not only:
        raise ConfigError("fault only must be a list of actions")
    wrong = [action for action in only if not isinstance(action, str) or not _on_request(action)]
    if wrong:
        raise ConfigError(f"fault only: {wrong[0]!r} is no fault of requests")
    return tuple(only)


def _whole(spec: Mapping[str, Any], name: str, default: int) -> int:
    count = spec.get(name, default)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ConfigError(f"fault {name} must be a whole number, not {count!r}")
    return count


def _real(spec: Mapping[str, Any], name: str, default: float) -> float:
    number = spec.get(name, default)
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise ConfigError(f"fault {name} must be a number, not {number!r}")
    return float(number)
