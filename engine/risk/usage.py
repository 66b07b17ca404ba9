"""How much of every limit is used (table ``usage``): a row for each limit that is set, made when a reader takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from engine.config import Config
from engine.model.account_state import AccountState
from engine.model.enums import Side
from engine.model.numbers import ZERO, to_text
from engine.risk.exposure import Positions
from engine.risk.pretrade import PreTrade
from engine.risk.trading_state import FIRM

Used = tuple[Decimal | int, Decimal | int, str]
"""Used, at most, unit."""
ACCOUNT_LIMITS = (
    "max_positions", "max_daily_loss", "max_position_quantity", "max_open_value", "max_gross_exposure",
    "max_orders_per_day",
)  # fmt: skip
FIRM_LIMITS = ("max_daily_loss", "max_open_value", "max_gross_exposure", "max_orders_per_day")
STRATEGY_LIMITS = ("max_strategy_orders_per_day", "max_unreviewed")
MONEY, ORDERS, UNITS, POSITIONS, EXECUTIONS = "money", "orders", "units", "positions", "executions"
_CENTS = Decimal("0.01")


class Usage:
    """Makes the rows. ``day_pnl`` returns an account's P&L of its day, ``stamp`` the time as RFC 3339."""

    def __init__(
        self,
        config: Config,
        states: Mapping[str, AccountState],
        positions: Positions,
        pretrade: PreTrade,
        day_pnl: Callable[[str], Decimal],
        stamp: Callable[[], str],
    ) -> None:
        self._limits = config.limits
        self._states = states
        self._positions = positions
        self._pretrade = pretrade
        self._day_pnl = day_pnl
        self._stamp = stamp
        self._told: set[str] = set()  # keys that have had a row

    # ---- which rows there are --------------------------------------------------------------------------------

    def keys(self) -> list[str]:
        """Return the keys of all rows."""
        found = [key for account in self._states for key in self._of_account(account)]
        return found + self._of_firm()

    def changed(self) -> Iterable[str]:
        """Return the keys of the rows that may have changed since this was asked last, gone ones too."""
        dirty, self._pretrade.dirty = self._pretrade.dirty, set()
        if not dirty:
            return ()
        keys = {key for account in dirty for key in self._of_account(account)}
        scopes = tuple(f"account:{account}/" for account in dirty)
        gone = {key for key in self._told if key.startswith(scopes)}
        return keys | gone | set(self._of_firm())

    def _of_account(self, account: str) -> list[str]:
        state = self._states.get(account)
        if state is None:
            return []
        limits = state.limits
        return [
            f"account:{account}/{name}"
            for name in ACCOUNT_LIMITS
            if getattr(limits, name) is not None
        ]

    def _of_firm(self) -> list[str]:
        limits, pretrade = self._limits, self._pretrade
        keys = [f"{FIRM}/{name}" for name in FIRM_LIMITS if getattr(limits, name) is not None]
        if limits.max_strategy_orders_per_day is not None:
            names = pretrade.days.strategies()
            keys += [f"strategy:{name}/max_strategy_orders_per_day" for name in names]
        if limits.max_unreviewed is not None:
            names = pretrade.throttle.strategies()
            keys += [f"strategy:{name}/max_unreviewed" for name in names]
        return keys

    # ---- rows ----------------------------------------------------------------------------------------------------

    def row(self, key: str) -> dict[str, Any] | None:
        """Return one row, ``None`` where there is no such limit (any more)."""
        scope, _, name = key.rpartition("/")
        found = self._used(scope, name)
        if found is None:
            self._told.discard(key)
            return None
        self._told.add(key)
        used, most, unit = found
        return {
            "key": key,
            "scope": scope,
            "limit": name,
            "used": _text(used, unit),
            "most": _text(most, unit),
            "percent": int(used * 100 / most) if most else 100,
            "unit": unit,
            "text": f"{_text(used, unit)} of {_text(most, unit)} {unit}",
            "at": self._stamp(),
        }

    def _used(self, scope: str, name: str) -> Used | None:
        kind, _, who = scope.partition(":")
        if kind == FIRM:
            return self._of_the_firm(name)
        if kind == "strategy":
            return self._of_the_strategy(who, name)
        state = self._states.get(who)
        most = getattr(state.limits, name, None) if state is not None else None
        if state is None or most is None:
            return None
        return self._of_the_account(state, name, most)

    def _of_the_account(self, state: AccountState, name: str, most: Any) -> Used:
        pretrade = self._pretrade
        match name:
            case "max_positions":
                return len(self._symbols(state)), most, POSITIONS
            case "max_daily_loss":
                return max(-self._day_pnl(state.id), ZERO), most, MONEY
            case "max_position_quantity":
                return self._largest(state), most, UNITS
            case "max_open_value":
                return pretrade.exposure.open_value(state.id), most, MONEY
            case "max_gross_exposure":
                return pretrade.exposure.gross(state.id), most, MONEY
            case _:
                return pretrade.days.of_account(state.id), most, ORDERS

    def _of_the_firm(self, name: str) -> Used | None:
        pretrade, most = self._pretrade, getattr(self._limits, name, None)
        if most is None:
            return None
        match name:
            case "max_daily_loss":
                lost = sum((self._day_pnl(account) for account in self._states), ZERO)
                return max(-lost, ZERO), most, MONEY
            case "max_open_value":
                return pretrade.exposure.open_value(), most, MONEY
            case "max_gross_exposure":
                return pretrade.exposure.gross(), most, MONEY
            case _:
                return pretrade.days.of_firm(), most, ORDERS

    def _of_the_strategy(self, strategy: str, name: str) -> Used | None:
        most = getattr(self._limits, name, None)
        if most is None:
            return None
        if name == "max_unreviewed":
            return self._pretrade.throttle.executions(strategy), most, EXECUTIONS
        return self._pretrade.days.of_strategy(strategy), most, ORDERS

    def _symbols(self, state: AccountState) -> set[str]:
        held = {position.symbol for position in self._positions.of(state.id) if position.qty}
        return held | {order.symbol for order in state.working.values() if not order.reducing}

    def _largest(self, state: AccountState) -> Decimal:
        """Return the largest position of a symbol, with what works on its side."""
        book = self._pretrade.exposure
        return max(
            (
                book.position(state, symbol, side) + book.working(state.id, symbol, side)
                for symbol in self._symbols(state)
                for side in Side
            ),
            default=ZERO,
        )


def _text(value: Decimal | int, unit: str) -> str:
    if isinstance(value, int):
        return str(value)
    return to_text(value.quantize(_CENTS)) if unit == MONEY else to_text(value)
