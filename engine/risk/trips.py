"""Controls that have tripped: each with its latch, its alert, its row of the audit trail; all of it survives a restart.

A scope has one latch. Where somebody else's stands already, a trip waits behind it and comes into force when that one
is lifted. A person who lifts the trip's own latch has decided: the trip is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from engine.clock import Clock, rfc3339
from engine.model.enums import TradingState
from engine.risk.controls_book import ControlsBook
from engine.risk.trading_state import Latch, TradingStates

FACT: Final = "trip"


class Keeper(Protocol):
    """What of the journal trips need."""

    def note_fact(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        """Write or delete a fact with the next flush."""
        ...

    def audit(self, kind: str, facts: dict[str, Any], account: str = "") -> None:
        """Append to the audit trail."""
        ...


@dataclass(slots=True)
class Trip:
    """One control's trip in one scope. ``latched``: its latch is in force (else it waits behind another's)."""

    number: str
    scope: str
    code: str
    text: str
    at: str
    latched: bool = False

    @property
    def account(self) -> str:
        """Return the account it is about, empty for wider scopes."""
        kind, _, name = self.scope.partition(":")
        return name if kind == "account" else ""


class Trips:
    """All trips in force. ``latch`` sets a durable latch; ``alert`` tells the operator."""

    def __init__(  # noqa: PLR0913 (whom it watches and whom it tells)
        self,
        clock: Clock,
        states: TradingStates,
        controls: ControlsBook,
        keeper: Keeper,
        alert: Callable[[str, str, str, str], None],
        latch: Callable[[str, TradingState, str, str], Awaitable[None]],
        spawn: Callable[[Any, str], None],
    ) -> None:
        self._clock = clock
        self._states = states
        self._controls = controls
        self._keeper = keeper
        self._alert = alert
        self._latch = latch
        self._spawn = spawn
        self._trips: dict[tuple[str, str], Trip] = {}
        self.on_lifted: dict[str, Callable[[str], None]] = {}
        """By control: called with the scope when a person has lifted the trip."""

    def load(self, facts: Mapping[str, dict[str, Any]]) -> None:
        """Go on after a restart; latches have been loaded."""
        for fact in facts.values():
            trip = Trip(**fact)
            self._trips[trip.number, trip.scope] = trip
            standing = self._states.get(trip.scope)
            trip.latched = standing is not None and standing.by == trip.number
            self._show(trip)
            if standing is None:
                self._set(trip)

    def get(self, number: str, scope: str) -> Trip | None:
        """Return a trip in force."""
        return self._trips.get((number, scope))

    def __len__(self) -> int:
        return len(self._trips)

    def trip(self, number: str, scope: str, code: str, text: str) -> None:
        """Take the scope's entries off; told once, until it is lifted."""
        if (number, scope) in self._trips:
            return
        trip = Trip(number, scope, code, text, rfc3339(self._clock.now()))
        self._trips[number, scope] = trip
        self._keeper.audit("trip", {"control": number, "scope": scope, "code": code, "text": text},
                           trip.account)  # fmt: skip
        self._alert("critical", code, trip.account, text)
        self._show(trip)
        if self._states.get(scope) is None:
            self._set(trip)
        self._keep(trip)

    def clear(self, number: str, scope: str, why: str) -> None:
        """End a trip whose cause is over; its latch goes, anybody else's stays."""
        trip = self._drop(number, scope, why)
        if trip is not None and trip.latched:
            self._spawn(self._relatch(scope, TradingState.ACTIVE, why, number), f"clear-{scope}")

    def latched(self, scope: str, before: Latch | None, after: Latch) -> None:
        """Take the news that a scope's latch was set or lifted, by whomever."""
        if after.state is not TradingState.ACTIVE:
            for trip in self._of(scope):
                trip.latched = trip.number == after.by
                self._keep(trip)
            return
        for trip in self._of(scope):
            if before is not None and before.by == trip.number and after.by != trip.number:
                self._drop(trip.number, scope, f"lifted by {after.by}")
                lifted = self.on_lifted.get(trip.number)
                if lifted is not None:
                    lifted(scope)
        for trip in self._of(scope):
            if self._states.get(scope) is None:
                self._set(trip)

    def _of(self, scope: str) -> list[Trip]:
        return [trip for trip in self._trips.values() if trip.scope == scope]

    def _set(self, trip: Trip) -> None:
        # In force at once, durable a moment later.
        reason = f"{trip.code}: {trip.text}"
        trip.latched = True
        self._states.set(Latch(trip.scope, TradingState.REDUCING, reason, trip.at, trip.number))
        self._keep(trip)
        self._spawn(
            self._relatch(trip.scope, TradingState.REDUCING, reason, trip.number),
            f"trip-{trip.scope}",
        )

    async def _relatch(self, scope: str, state: TradingState, reason: str, number: str) -> None:
        """Set or lift a trip's own latch; one that came meanwhile (a kill) is not touched."""
        standing = self._states.get(scope)
        if standing is not None and standing.by == number:
            await self._latch(scope, state, reason, number)

    def _drop(self, number: str, scope: str, why: str) -> Trip | None:
        trip = self._trips.pop((number, scope), None)
        if trip is not None:
            self._keeper.note_fact(FACT, f"{number} {scope}", None)
            self._keeper.audit("trip_over", {"control": number, "scope": scope, "why": why},
                               trip.account)  # fmt: skip
            self._controls.clear(number, trip.account or scope)
        return trip

    def _show(self, trip: Trip) -> None:
        self._controls.trip(trip.number, trip.text, code=trip.code, account=trip.account,
                            key=trip.account or trip.scope)  # fmt: skip

    def _keep(self, trip: Trip) -> None:
        fact = {name: getattr(trip, name) for name in Trip.__slots__}
        self._keeper.note_fact(FACT, f"{trip.number} {trip.scope}", fact)
