"""What an account's order limits might be, where none are set yet: a proposal for a person, never taken unasked.

Value: ``PERCENT`` of the account's equity (control C03). Quantity: as many units of the cheapest symbol it may trade as
that value buys, so that for dearer ones the value decides (control C02).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from engine.model.account_state import AccountState
from engine.model.instrument import Instrument
from engine.model.numbers import floor_to, to_text
from engine.model.order import Order

PERCENT = Decimal(5)
_ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Limits as they would be set, as text; ``text`` says what they rest on, or what is missing for them."""

    text: str
    limits: dict[str, str] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """Return the limits proposed and what they rest on, for people."""
        named = ", ".join(f"{name} {value}" for name, value in self.limits.items())
        return f"proposed: {named}; {self.text}" if named else self.text


class Prices(Protocol):
    """The newest prices."""

    def price(self, symbol: str) -> Decimal | None:
        """Return the newest price, however old."""
        ...

    def symbols(self) -> list[str]:
        """Return every symbol that has a price."""
        ...


def proposal(
    state: AccountState,
    equity: Decimal | None,
    held: Iterable[str],
    prices: Prices,
    instrument_if_known: Callable[[str, str], Instrument | None],
) -> Proposal:
    """Propose ``max_order_quantity`` and ``max_order_value``; ``held`` are the symbols the account has positions in."""
    if equity is None or not equity.is_finite():
        return Proposal("its equity is not known: connect the account first")
    value = floor_to(equity * PERCENT / 100, _ONE)
    if value <= 0:
        return Proposal(f"{to_text(PERCENT)} % of equity {to_text(equity)} is less than 1")
    limits = {"max_order_value": to_text(value)}
    text = f"{to_text(PERCENT)} % of equity {equity:.2f} is {to_text(value)}"
    cheapest = _cheapest(state, held, prices, instrument_if_known)
    if cheapest is None:
        return Proposal(f"{text}; no price is known to propose a quantity with", limits)
    instrument, price = cheapest
    quantity = floor_to(value / (price * instrument.multiplier), instrument.lot)
    quantity = max(quantity, instrument.min_qty, instrument.lot)
    limits["max_order_quantity"] = to_text(quantity)
    text += f", or {to_text(quantity)} {instrument.symbol} at {to_text(price)}"
    fixed = state.account.sizing.quantity
    if fixed is not None and fixed > quantity:
        text += f"; its own fixed size of {to_text(fixed)} would be refused"
    return Proposal(text, limits)


def _cheapest(
    state: AccountState,
    held: Iterable[str],
    prices: Prices,
    instrument_if_known: Callable[[str, str], Instrument | None],
) -> tuple[Instrument, Decimal] | None:
    """Return the cheapest symbol the account may trade: of its list's; else of those it holds; else of all priced."""
    working: Iterable[Order] = state.working.values()
    own = {*held, *(order.symbol for order in working)}
    candidates = own or set(prices.symbols()) if state.all_symbols else state.symbols
    found = []
    for symbol in sorted(candidates):
        price = prices.price(symbol)
        if price is not None and price > 0:
            instrument = instrument_if_known(state.broker, symbol) or Instrument(symbol)
            found.append((price * instrument.multiplier, symbol, instrument, price))
    return min(found)[2:] if found else None
