"""Faults on request: which requests they meet, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import ConfigError

ACTIONS = frozenset(
    {
        "drop",  # close without reading the order: it is not placed
        "hang",  # never answer: it is not placed
        "http_429",  # answered, not placed
        "http_500",
        "http_503",
        "accept_then_drop",  # placed, then closed without an answer
        "accept_then_hang",  # placed, never answered
        "reset_mid_reply",  # placed, half of the answer, then reset
        "garbage",  # placed, answered with bytes that are no HTTP
    }
)
PLACES = frozenset({"accept_then_drop", "accept_then_hang", "reset_mid_reply", "garbage"})
_MATCH = ("method", "path", "account", "client_order_id", "symbol")


class Fault:
    """One fault. ``match``: equal fields (``path`` by prefix), none given meets everything.

    ``after``: how many matching requests pass first; ``times``: how many it then meets (0: all).
    """

    __slots__ = ("action", "after", "match", "met", "times")

    def __init__(self, spec: Mapping[str, Any]) -> None:
        action, match = spec.get("action"), spec.get("match", {})
        if action not in ACTIONS:
            raise ConfigError(f"fault action {action!r} is none of {', '.join(sorted(ACTIONS))}")
        unknown = sorted(set(spec) - {"match", "action", "times", "after"})
        if not isinstance(match, Mapping) or unknown:
            raise ConfigError("a fault takes match (an object), action, times and after")
        wrong = sorted(set(match) - set(_MATCH))
        if wrong:
            raise ConfigError(f"fault match {wrong[0]!r} is none of {', '.join(_MATCH)}")
        for name in ("times", "after"):
            count = spec.get(name, 0)
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise ConfigError(f"fault {name} must be a whole number, not {count!r}")
        self.action = str(action)
        self.match = {str(name): str(value) for name, value in match.items()}
        self.times: int = spec.get("times", 1)
        self.after: int = spec.get("after", 0)
        self.met = 0

    def meets(self, facts: Mapping[str, str]) -> bool:
        """Say whether this fault strikes a request with these ``facts``, and count it."""
        for name, value in self.match.items():
            fact = facts.get(name, "")
            if not (fact.startswith(value) if name == "path" else fact == value):
                return False
        self.met += 1
        past = self.met - self.after
        return past > 0 and (not self.times or past <= self.times)


class Faults:
    """The faults in force; the first that meets a request strikes it."""

    def __init__(self, specs: Iterable[Mapping[str, Any]] = ()) -> None:
        self._faults: list[Fault] = []
        self.replace(specs)

    def __bool__(self) -> bool:
        return bool(self._faults)

    def replace(self, specs: Iterable[Mapping[str, Any]]) -> None:
        """Put ``specs`` in force instead of what was.

        Raises:
            ConfigError: a fault cannot be read; nothing was changed.
        """
        self._faults = [Fault(spec) for spec in specs]

    def strike(self, facts: Mapping[str, str]) -> str:
        """Return the action for a request, empty for none."""
        for fault in self._faults:
            if fault.meets(facts):
                return fault.action
        return ""
