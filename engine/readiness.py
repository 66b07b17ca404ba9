"""Whether each account could trade, what it has left, and what a person must do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from engine.clock import Clock, rfc3339
from engine.execution.differences import Finding
from engine.execution.lane import Lane
from engine.model.account_state import AccountState
from engine.model.enums import ConnectionState, OrderStatus
from engine.ports import BrokerSession, Headroom

SOON = timedelta(minutes=30)
LONG_PAUSE = timedelta(minutes=1)
"""A shorter one is over before anybody could do anything about it."""


@dataclass(frozen=True, slots=True)
class Need:
    """Something that keeps an account from trading, or will; and what a person is to do."""

    code: str
    text: str
    todo: str

    def document(self) -> dict[str, str]:
        """Return it as rows and answers hold it."""
        return {"code": self.code, "text": self.text, "todo": self.todo}


class Readiness:
    """Looks at every account. Sessions and lanes are the fleet's and the dispatcher's own."""

    def __init__(
        self,
        clock: Clock,
        states: Mapping[str, AccountState],
        sessions: Mapping[str, BrokerSession],
        lanes: Mapping[str, Lane],
        alert: Callable[[str, str, str, str], None],
        differences: Callable[[str], list[Finding]] = lambda _account: [],
    ) -> None:
        """``differences``: what an account's broker says otherwise (engine.reconciliation)."""
        self._differences = differences
        self._clock = clock
        self._states = states
        self._sessions = sessions
        self._lanes = lanes
        self._alert = alert
        self._warned: dict[str, datetime] = {}  # of which session's end, by account
        self._before: dict[str, tuple[list[Need], bool]] = {}  # with whether it was paused

    def columns(self, state: AccountState) -> dict[str, Any]:
        """Return an account's columns of the table ``accounts``."""
        headroom, paused_until = self._headroom(state), self._paused_until(state)
        lane = self._lanes.get(state.id)
        needs = self._needs(state)
        return {
            "session_expires_at": _stamp(headroom.expires_at),
            "last_probe_at": _stamp(headroom.probed_at),
            "warm_connections": f"{headroom.warm}/{headroom.wanted}",
            "rate_left": 0 if lane is None else lane.left(self._clock.monotonic_ns()),
            "rate_most": 0 if lane is None else lane.most,
            "paused_until": _stamp(paused_until),
            "logs_in": self._logs_in(state),
            "todo": "; ".join(dict.fromkeys(need.todo for need in needs)),
            "needs": [need.document() for need in needs],
        }

    def to_do(self) -> list[dict[str, str]]:
        """Return everything there is to do: ``account``, ``code``, ``text``, ``todo``."""
        return [
            {"account": state.id, **need.document()}
            for state in self._states.values()
            for need in self._needs(state)
        ]

    def watch(self) -> list[str]:
        """Warn of sessions about to end, once each; return the accounts whose columns changed by time alone."""
        changed = []
        for state in self._states.values():
            ends = self._headroom(state).expires_at
            needs = self._needs(state)
            for need in needs:
                if need.code == "SESSION_ENDS" and ends and self._warned.get(state.id) != ends:
                    self._warned[state.id] = ends
                    self._alert("warning", need.code, state.id, f"{need.text}: {need.todo}")
            shown = (needs, self._paused_until(state) is not None)
            if self._before.get(state.id, ([], False)) != shown:
                self._before[state.id] = shown
                changed.append(state.id)
        return changed

    def _headroom(self, state: AccountState) -> Headroom:
        session = self._sessions.get(state.id)
        return Headroom() if session is None else session.headroom()

    def _logs_in(self, state: AccountState) -> bool:
        session = self._sessions.get(state.id)
        return session is not None and session.capabilities.sessions_end

    def _paused_until(self, state: AccountState) -> datetime | None:
        lane = self._lanes.get(state.id)
        left = 0 if lane is None else lane.paused_until_ns - self._clock.monotonic_ns()
        return self._clock.now() + timedelta(microseconds=left // 1000) if left > 0 else None

    def _needs(self, state: AccountState) -> list[Need]:
        if not state.active:
            return []
        headroom = self._headroom(state)
        found = [
            _connection(state, headroom),
            _reconciled(state),
            _session_end(state, headroom, self._clock.now()),
            self._quiet(state),
            _unknown(state),
            _limits(state),
        ]
        told = [need for need in found if need is not None]
        return told + [_difference(found) for found in self._differences(state.id)]

    def _quiet(self, state: AccountState) -> Need | None:
        until = self._paused_until(state)
        if until is None or until - self._clock.now() < LONG_PAUSE:
            return None
        return Need(
            "RATE",
            f"{state.broker} takes nothing from it until {rfc3339(until)}",
            f"look at {state.broker} for what it was banned for; nothing is sent until then",
        )


def _connection(state: AccountState, headroom: Headroom) -> Need | None:
    if state.connection is ConnectionState.CONNECTED and not headroom.todo:
        return None
    text = state.connection_text or state.connection.value
    return Need("NOT_CONNECTED", text, headroom.todo or _MENDING[state.connection])


_MENDING = {
    ConnectionState.CONNECTED: "",
    ConnectionState.CONNECTING: "wait a moment: it is connecting",
    ConnectionState.DEGRADED: "watch it: it trades, but hears of its orders by looking them up only",
    ConnectionState.DISCONNECTED: "check the network and the broker's status page; it tries again by itself",
    ConnectionState.ERROR: "mend its credentials or address, then reload the accounts",
}


def _session_end(state: AccountState, headroom: Headroom, now: datetime) -> Need | None:
    ends = headroom.expires_at
    if ends is None:
        return None
    renew = f"log it in again: main.py accounts login {state.id}"
    if ends <= now:
        return Need("SESSION_ENDED", f"its session ended at {rfc3339(ends)}", renew)
    if ends - now <= SOON:
        minutes = (ends - now).total_seconds() / 60
        return Need("SESSION_ENDS", f"its session ends in {minutes:.0f} minutes", renew)
    close = state.hours.next_close(now) if state.hours else None
    if close is None or ends >= close:
        return None
    text = f"its session ends at {rfc3339(ends)}, before its market closes at {rfc3339(close)}"
    return Need("SESSION_ENDS", text, renew)


def _reconciled(state: AccountState) -> Need | None:
    if state.reconciled or not state.usable:
        return None
    said = f": {state.last_error}" if state.last_error else ""
    return Need(
        "NOT_RECONCILED",
        f"{state.id}: not reconciled{said}",
        "wait a moment: its entries leave once its orders and positions have been compared with its broker's",
    )


def _unknown(state: AccountState) -> Need | None:
    count = sum(order.status is OrderStatus.UNKNOWN for order in state.working.values())
    if not count:
        return None
    orders = "1 order" if count == 1 else f"{count} orders"
    return Need(
        "OUTCOME_UNKNOWN",
        f"{orders} of unknown outcome",
        "wait for the look-ups; if they find nothing, look at the broker and resolve them by hand",
    )


def _limits(state: AccountState) -> Need | None:
    limits = state.limits
    if limits.max_order_quantity is not None and limits.max_order_value is not None:
        return None
    if state.account.environment != "live":
        return None  # practice money trades without
    return Need(
        "LIMITS_UNSET",
        "it has no order limits and takes no entries",
        "set its max_order_quantity and max_order_value",
    )


def _difference(found: Finding) -> Need:
    ways = " or ".join(found.actions) or "look at it"
    return Need(found.code, found.text, f"look at the broker, then {ways} the line {found.key}")


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
