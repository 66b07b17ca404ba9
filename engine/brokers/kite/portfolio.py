"""Kite's money, positions, prices and instruments read: pure functions, no I/O. Sources as in ``mapping``."""

from __future__ import annotations

import csv
from decimal import Decimal
from typing import Any

from engine.brokers.kite.mapping import UNPRICED, amount, data_of, split_symbol
from engine.brokers.reading import number, object_of, reading, text_of
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition
from engine.model.numbers import ZERO


def balances(account: str, margins: object, positions: object, holdings: object) -> Balances:
    """Read ``/user/margins``, ``/portfolio/positions`` and ``/portfolio/holdings`` (``None``: not asked).

    ``available.cash`` is the money at the day's start plus what was paid in; shares bought and sold today are
    settled later and taken off here. Equity adds the day's gains, and the holdings (or, where they were not
    asked for, what the broker lends on them). Buying power is ``net``, the broker's own word.

    Raises:
        BrokerProtocolError: they cannot be read.
    """
    with reading(account, "the account's balances"):
        equity = object_of(data_of(margins, dict)["equity"])
        available = object_of(equity["available"])
        start = number(available["cash"], "cash")
        net = [object_of(value) for value in data_of(positions, dict)["net"]]
        shares = [value for value in net if value.get("exchange") in {"NSE", "BSE"}]
        bought = sum((amount(value, "day_buy_value") for value in shares), ZERO)
        sold = sum((amount(value, "day_sell_value") for value in shares), ZERO)
        gains = sum((amount(value, "m2m") for value in net), ZERO)
        if holdings is None:
            held = amount(available, "collateral")
        else:
            held = sum(
                (
                    _opening(value) * amount(value, "last_price")
                    for value in data_of(holdings, list)
                ),
                ZERO,
            )
        return Balances(
            equity=start + gains + held,
            cash=start - bought + sold,
            buying_power=max(ZERO, number(equity["net"], "net")),
            currency="INR",
            blocked=equity.get("enabled") is False,
        )


def _opening(holding: dict[str, Any]) -> Decimal:
    """Return what was held at the day's start; what was sold since is in today's positions."""
    if holding.get("opening_quantity") is not None:
        return number(holding["opening_quantity"], "opening_quantity")
    return amount(holding, "quantity") + amount(holding, "used_quantity")


def positions(
    account: str, product: str, body: object, holdings: object = None
) -> list[BrokerPosition]:
    """Read the net positions of one product, together with what was held before today.

    Positions of other products are another kind of promise (an ``MIS`` order does not close a ``CNC`` position),
    so they are not the account's own here.

    Raises:
        BrokerProtocolError: they cannot be read.
    """
    with reading(account, "the positions"):
        found: dict[str, tuple[Decimal, Decimal]] = {}
        for value in data_of(body, dict)["net"]:
            if object_of(value).get("product") == product:
                _add(found, value, number(value["quantity"], "quantity"))
        for value in [] if holdings is None else data_of(holdings, list):
            if product == "CNC":
                _add(found, value, _opening(value))
            elif isinstance(funded := value.get("mtf"), dict):
                _add(found, {**value, **funded}, amount(funded, "quantity"))
    return [
        BrokerPosition(symbol, quantity, avg_px)
        for symbol, (quantity, avg_px) in found.items()
        if quantity
    ]


def _add(
    found: dict[str, tuple[Decimal, Decimal]], value: dict[str, Any], quantity: Decimal
) -> None:
    symbol = f"{text_of(value['exchange'], 'exchange')}:{text_of(value['tradingsymbol'], 'symbol')}"
    price = amount(value, "average_price")
    before, paid = found.get(symbol, (ZERO, ZERO))
    total = before + quantity
    if before * quantity > 0:
        price = (before * paid + quantity * price) / total
    elif abs(before) > abs(quantity):
        price = paid
    found[symbol] = (total, price)


def last_prices(body: object) -> dict[str, Decimal]:
    """Read ``/quote/ltp``: EXCHANGE:SYMBOL → last price; what cannot be read is left out."""
    data = body.get("data") if isinstance(body, dict) else None
    found: dict[str, Decimal] = {}
    for symbol, quoted in data.items() if isinstance(data, dict) else ():
        try:
            price = number(object_of(quoted)["last_price"], "last_price")
        except (ValueError, KeyError, TypeError):
            continue
        if price > 0:
            found[symbol] = price
    return found


class InstrumentList:
    """One exchange's instruments as Kite sent them; a row is read when its symbol is first asked for.

    The list of all exchanges has some hundred thousand rows, of which an account trades a handful: it stays the
    bytes it was (a few megabytes), and a look-up is one search through them.
    """

    __slots__ = ("_columns", "_text", "day")

    def __init__(self, text: bytes, day: str) -> None:
        self.day = day
        self._text = text if text.endswith(b"\n") else text + b"\n"
        head = next(csv.reader([text.partition(b"\n")[0].decode("utf-8", "replace").strip()]), [])
        self._columns = {name: index for index, name in enumerate(head)}
        missing = {"tradingsymbol", "tick_size", "lot_size", "exchange"} - self._columns.keys()
        if missing:
            raise ValueError(f"the instrument list has no column {sorted(missing)[0]}")

    def find(self, symbol: str) -> Instrument | None:
        """Return an instrument; ``None``: the exchange has no such symbol.

        Raises:
            ValueError: its row cannot be read.
        """
        exchange, name = split_symbol(symbol)
        wanted = f",{name},".encode()
        at = self._text.find(wanted)
        while at >= 0:
            begin = self._text.rfind(b"\n", 0, at) + 1
            line = self._text[begin : self._text.find(b"\n", at)].decode("utf-8", "replace")
            fields = next(csv.reader([line.strip()]))
            if self._is(fields, exchange, name):
                return self._read(symbol, fields)
            at = self._text.find(wanted, at + 1)
        return None

    def _is(self, fields: list[str], exchange: str, name: str) -> bool:
        columns = self._columns
        return len(fields) == len(columns) and (
            fields[columns["tradingsymbol"]] == name and fields[columns["exchange"]] == exchange
        )

    def _read(self, symbol: str, fields: list[str]) -> Instrument:
        lot = number(fields[self._columns["lot_size"]], "lot_size")
        tick = number(fields[self._columns["tick_size"]], "tick_size")
        exchange = split_symbol(symbol)[0]
        if lot <= 0 or tick < 0:
            raise ValueError(f"{symbol} has no lot or tick")
        return Instrument(
            symbol,
            lot=lot,
            min_qty=lot,
            tick=tick or Decimal("0.05"),
            tradable=tick > 0 and exchange not in UNPRICED,
        )
