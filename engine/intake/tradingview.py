"""TradingView alerts, and bodies shaped like them, to a ``Signal`` or a telling refusal.

Keys are matched without regard to case, ``_``, ``.``, ``-`` and blanks: ``strategy.order.action``,
``orderType`` and ``order_type`` all do. What is decided here, and why:

* ``timenow`` (when the alert fired) goes before ``time`` (when its bar opened). One of them must be
  there: without it two equal alerts of two days could not be told apart.
* Without an ``id`` the signal's id is derived from the body: a repeated request is the same signal.
* ``strategy.order.id`` is an order's label in Pine ("Long"), not a strategy: it goes to ``meta``.
* ``price``, else ``close``, is the reference price, and the price of a limit order that names none.
* An order that leaves the strategy flat is a ``close``. One that leaves part of the position on the
  other side of it is refused: sized anew for each account, it could turn positions over.
* ``"strategy": {"order": {"action": ...}}`` says the same as ``strategy.order.action``.
* ``secret``, ``token`` and the like are dropped: the address already carried the proof.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol

from engine.clock import rfc3339
from engine.errors import InvalidSignal
from engine.intake.parser import (
    MAX_BYTES,
    MAX_META,
    Number,
    build_signal,
    content_hash,
    fits_meta,
    read_number,
    read_object,
    refusal,
)
from engine.model.identifiers import NAME
from engine.model.signal import Signal


class HookSettings(Protocol):
    """What the mapping needs of the configuration's ``[hooks.SOURCE]``."""

    @property
    def format(self) -> str:
        """Return ``auto``, ``tradingview`` or ``v1``."""
        ...

    @property
    def strategy(self) -> str | None:
        """Return the strategy of alerts that name none."""
        ...

    @property
    def valid_for_s(self) -> Decimal | None:
        """Return the age limit in seconds of alerts that name none."""
        ...

    @property
    def strip_exchange(self) -> bool:
        """Say whether ``NASDAQ:MSFT`` becomes ``MSFT``."""
        ...

    @property
    def symbols(self) -> Mapping[str, str]:
        """Return the sender's tickers to ours."""
        ...


# Ours → theirs, the first one present wins.
_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "id": ("id", "alertid"),
    "symbol": ("ticker", "symbol"),
    "action": ("action", "side", "strategyorderaction"),
    "issued_at": ("timenow", "issuedat", "time", "timestamp"),
    "strategy": ("strategy", "strategyname"),
    "quantity": ("quantity", "qty", "contracts", "strategyordercontracts"),
    "order_type": ("ordertype",),
    "limit_price": ("limitprice", "limit"),
    "stop_price": ("stopprice",),
    "stop_loss": ("stoploss", "sl"),
    "take_profit": ("takeprofit", "tp"),
    "trail_percent": ("trailpercent",),
    "time_in_force": ("timeinforce", "tif"),
    "valid_for_s": ("validfors",),
    "reference_price": ("referenceprice", "price", "close"),
    "audience": ("audience",),
}
_POSITION = ("strategymarketposition", "marketposition")
_ACTIONS: Final = {
    "buy": "buy", "long": "buy", "sell": "sell", "short": "sell", "close": "close", "exit": "close",
    "flat": "close", "flatten": "close", "cancel": "cancel", "modify": "modify",
}  # fmt: skip
_ORDER_TYPES: Final = {
    "market": "market", "limit": "limit", "stop": "stop", "stoplimit": "stop_limit",
}  # fmt: skip
_KNOWN: Final = frozenset(name for names in _ALIASES.values() for name in names) | {
    *_POSITION,
    "meta",
}
_SECRET = re.compile(r"secret|token|passw|passphrase|pwd|apikey|credential|signature")
_PLACEHOLDER = re.compile(r"\{\{.{0,100}?\}\}")
_BLUR = str.maketrans("", "", "_.- ")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_FROM = Decimal(10) ** 11  # as seconds that would be the year 5138
_LATEST = Decimal(4_102_444_800)  # 2100-01-01


def map_alert(body: bytes, *, source: str, hook: HookSettings, now: datetime) -> Signal:
    """Read what was posted to ``source``'s webhook: schema v1, or an alert in TradingView's shapes.

    Raises:
        InvalidSignal: the codes of ``parse_signal``; the sentence says what to change in the alert.
    """
    try:
        data = read_object(body, MAX_BYTES)
    except InvalidSignal as error:
        if error.code in {"NOT_JSON", "TYPE"} and hook.format != "v1":
            hint = (
                'write the alert\'s message as one JSON object, like {"ticker": "{{ticker}}", ...}'
            )
            raise InvalidSignal(error.code, "", f"{error.message}; {hint}") from None
        raise
    if hook.format == "v1" or (
        hook.format == "auto" and "issued_at" in data and "ticker" not in data
    ):
        return build_signal(data, source=source, now=now)
    return _Alert(data, source, hook).signal(now)


class _Alert:
    """One alert on its way to the fields of schema v1; ``names`` remembers what each came from."""

    def __init__(self, data: dict[str, Any], source: str, hook: HookSettings) -> None:
        self.source = source
        self.hook = hook
        self.values: dict[str, Any] = {}  # blurred key → value
        self.keys: dict[str, str] = {}  # blurred key → key as sent
        public: dict[str, Any] = {}
        for key, value in _spread(data):
            blurred = key.lower().translate(_BLUR)
            if _SECRET.search(blurred):
                continue
            _refuse_placeholder(key, value)
            if blurred in _KNOWN and blurred in self.values:
                raise refusal(
                    "DUPLICATE_KEY", key, value, f"only one of it and {self.keys[blurred]}"
                )
            public[key] = value
            self.values.setdefault(blurred, value)
            self.keys.setdefault(blurred, key)
        self.hash = content_hash(public)
        self.names: dict[str, str] = {}
        self.fields: dict[str, Any] = {}

    def signal(self, now: datetime) -> Signal:
        for field, aliases in _ALIASES.items():
            for alias in aliases:
                if alias in self.values:
                    self.fields[field], self.names[field] = self.values[alias], self.keys[alias]
                    break
        self._action()
        self._symbol()
        self._time()
        self._strategy_and_age()
        self._order_type()
        self._id()
        meta = self._meta()
        if meta:
            self.fields["meta"] = meta
        try:
            signal = build_signal(self.fields, source=self.source, now=now)
        except InvalidSignal as error:
            sent = self.names.get(error.field, error.field)
            prefix = "" if sent == error.field else f"{sent}: "
            raise InvalidSignal(error.code, sent, prefix + error.message) from None
        return replace(signal, body_hash=self.hash)

    def _action(self) -> None:
        words = {n: self.values[n] for n in _ALIASES["action"] if n in self.values}
        actions = {self._word(self.keys[n], word, _ACTIONS) for n, word in words.items()}
        place = next((name for name in _POSITION if name in self.values), None)
        position = self.values[place] if place else None
        after = position.strip().lower() if isinstance(position, str) else ""
        if len(actions) > 1:
            names = " and ".join(self.keys[name] for name in words)
            raise InvalidSignal(
                "NOT_ALLOWED", self.names["action"], f"{names} contradict each other"
            )
        if after == "flat" and actions <= {"buy", "sell", "close"}:
            # The exit order of a strategy says "sell", and that the position is flat after it.
            actions = {"close"}
            self.fields.pop("quantity", None)  # the contracts of the exit; a close takes all
        if not actions:
            raise InvalidSignal(
                "MISSING",
                "action",
                'the alert names no action; add "action": "{{strategy.order.action}}" or "action": '
                '"buy", "sell" or "close" to its message',
            )
        (action,) = actions
        if place and (action, after) in {("sell", "long"), ("buy", "short")}:
            raise refusal(
                "NOT_ALLOWED",
                self.keys[place],
                position,
                f"no partial exit: send action close, or leave {self.keys[place]} out to have a "
                f"{action} order of each account's own size",
            )
        self.fields["action"] = action

    @staticmethod
    def _word(key: str, word: object, known: Mapping[str, str]) -> str:
        rule = f"one of {', '.join(known)}"
        if type(word) is not str:
            raise refusal("TYPE", key, word, rule)
        chosen = known.get(word.strip().lower())
        if chosen is None:
            raise refusal("FORMAT", key, word, rule)
        return chosen

    def _symbol(self) -> None:
        ticker = self.fields.get("symbol")
        if ticker is None:
            raise InvalidSignal(
                "MISSING",
                "ticker",
                'the alert names no symbol; add "ticker": "{{ticker}}" to its message',
            )
        if type(ticker) is not str:
            return  # the parser refuses it
        symbol = ticker.strip().upper()
        bare = symbol.rpartition(":")[2] if self.hook.strip_exchange else symbol
        symbols = self.hook.symbols
        self.fields["symbol"] = (
            symbols.get(ticker) or symbols.get(symbol) or symbols.get(bare, bare)
        )

    def _time(self) -> None:
        value = self.fields.get("issued_at")
        if value is None:
            raise InvalidSignal(
                "MISSING",
                "timenow",
                'the alert says no time; add "timenow": "{{timenow}}" to its message',
            )
        text = str(value)
        if type(value) is not Number and not (type(value) is str and text.isdecimal()):
            return  # a stamp, which the parser reads, or a type it refuses
        number = read_number(self.names["issued_at"], value)
        seconds = number / 1000 if number >= _MILLISECONDS_FROM else number
        if seconds > _LATEST:
            rule = "seconds or milliseconds since 1970, or a stamp with its offset"
            raise refusal("RANGE", self.names["issued_at"], value, rule)
        stamp = _EPOCH + timedelta(microseconds=int(seconds * 1_000_000))
        self.fields["issued_at"] = rfc3339(stamp)

    def _strategy_and_age(self) -> None:
        if self.fields.get("strategy") is None:
            if self.hook.strategy is None:
                raise InvalidSignal(
                    "MISSING",
                    "strategy",
                    'the alert names no strategy; add "strategy": "name" to its message or set '
                    f"hooks.{self.source}.strategy in the configuration",
                )
            self.fields["strategy"] = self.hook.strategy
        if "valid_for_s" not in self.fields and self.hook.valid_for_s is not None:
            self.fields["valid_for_s"] = format(self.hook.valid_for_s, "f")

    def _order_type(self) -> None:
        fields = self.fields
        kind = fields.get("order_type")
        if type(kind) is str:
            kinds = {
                "market": "market",
                "limit": "limit",
                "stop": "stop",
                "stoplimit": "stop_limit",
            }
            fields["order_type"] = self._word("order_type", kind.lower().translate(_BLUR), kinds)
            if fields["order_type"] in {"limit", "stop_limit"} and "reference_price" in fields:
                fields.setdefault("limit_price", fields["reference_price"])
                self.names.setdefault("limit_price", self.names["reference_price"])
        force = fields.get("time_in_force")
        if type(force) is str:
            fields["time_in_force"] = force.strip().lower()

    def _id(self) -> None:
        value = self.fields.get("id")
        if value is None:
            self.fields["id"] = f"tv-{self.hash[:32]}"
        elif type(value) is Number and NAME.fullmatch(value):
            self.fields["id"] = str(value)

    def _meta(self) -> dict[str, str]:
        given = self.values.get("meta")
        extras = dict(given) if isinstance(given, dict) else {}
        extras |= {self.keys[name]: self.values[name] for name in self.values if name not in _KNOWN}
        for name in _POSITION:
            if name in self.values:
                extras[self.keys[name]] = self.values[name]
        meta = {}
        for key, value in extras.items():
            if type(value) is not str and type(value) is not Number:
                continue
            if fits_meta(key, value) and not _SECRET.search(key.lower().translate(_BLUR)):
                meta[key] = str(value)
        return dict(list(meta.items())[:MAX_META])


def _spread(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield an alert's fields; those of an object ``strategy`` under their whole names."""
    for key, value in data.items():
        if isinstance(value, dict) and (key == "strategy" or key.startswith("strategy.")):
            yield from _spread({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            yield key, value


def _refuse_placeholder(key: str, value: object) -> None:
    if isinstance(value, str):
        found = _PLACEHOLDER.search(value)
        if found:
            hint = "TradingView did not fill it in"
            if "strategy." in found[0]:
                hint += ": it does so only in alerts made on a strategy"
            raise refusal("FORMAT", key, value, f"a value in the place of {found[0]!a}; {hint}")
