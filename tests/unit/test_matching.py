from __future__ import annotations

import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.enums import ExecType, OrderType, Side, TimeInForce
from engine.model.matching import Book, BookEvent, BookOrder, MarginAccount, practice_instrument
from engine.model.numbers import ZERO

BUY, SELL = Side.BUY, Side.SELL
MARKET, LIMIT, STOP, STOP_LIMIT = OrderType
DAY, GTC, IOC, FOK = TimeInForce
RESTING_TIF, AT_ONCE_TIF = (DAY, GTC), (IOC, FOK)


def order(
    side: Side = BUY,
    kind: OrderType = MARKET,
    tif: TimeInForce = DAY,
    *,
    qty: str = "10",
    limit: str | None = None,
    stop: str | None = None,
    key: str = "a",
) -> BookOrder:
    return BookOrder(
        key,
        side,
        Decimal(qty),
        kind,
        tif,
        None if limit is None else Decimal(limit),
        None if stop is None else Decimal(stop),
    )


def book(last: str | None = "100", *, most: str | None = None) -> Book:
    made = Book(None if most is None else Decimal(most))
    if last is not None:
        assert made.quote(Decimal(last)) == []
    return made


def told(events: list[BookEvent]) -> list[tuple[str, str, str, str]]:
    return [(e.order.key, e.exec_type.value, str(e.last_qty), str(e.last_px)) for e in events]


def trade(price: str, qty: str = "10", key: str = "a") -> tuple[str, str, str, str]:
    return (key, "trade", qty, price)


CANCELED = ("a", "canceled", "0", "0")


# Every type × TIF, on arrival and later


@pytest.mark.parametrize("tif", TimeInForce)
@pytest.mark.parametrize("side", Side)
def test_market_order_fills_at_once_at_the_other_side(side: Side, tif: TimeInForce) -> None:
    at = book()
    at.quote(Decimal(100), Decimal("99.9"), Decimal("100.1"))
    assert told(at.add(order(side, MARKET, tif))) == [trade("100.1" if side is BUY else "99.9")]
    assert len(at) == 0


@pytest.mark.parametrize("tif", RESTING_TIF)
def test_market_order_without_a_price_waits_for_the_first(tif: TimeInForce) -> None:
    at = book(None)
    assert at.add(order(BUY, MARKET, tif)) == []
    assert told(at.quote(Decimal(42))) == [trade("42")]
    assert told(at.quote(Decimal(43))) == []


@pytest.mark.parametrize("tif", AT_ONCE_TIF)
@pytest.mark.parametrize(("kind", "limit"), [(MARKET, None), (LIMIT, "100")])
def test_at_once_orders_without_a_price_are_cancelled(
    kind: OrderType, limit: str | None, tif: TimeInForce
) -> None:
    at = book(None)
    assert told(at.add(order(BUY, kind, tif, limit=limit))) == [CANCELED]
    assert len(at) == 0


@pytest.mark.parametrize("tif", TimeInForce)
@pytest.mark.parametrize(("side", "limit"), [(BUY, "105"), (SELL, "95"), (BUY, "100")])
def test_marketable_limit_fills_at_the_better_price(
    side: Side, limit: str, tif: TimeInForce
) -> None:
    assert told(book().add(order(side, LIMIT, tif, limit=limit))) == [trade("100")]


@pytest.mark.parametrize("tif", RESTING_TIF)
@pytest.mark.parametrize(
    ("side", "limit", "short_of", "beyond"),
    [(BUY, "95", "95.01", "90"), (SELL, "105", "104.99", "110")],
)
def test_limit_rests_and_fills_at_its_limit(
    side: Side, limit: str, short_of: str, beyond: str, tif: TimeInForce
) -> None:
    at = book()
    assert at.add(order(side, LIMIT, tif, limit=limit)) == []
    assert at.quote(Decimal(short_of)) == []
    assert told(at.quote(Decimal(beyond))) == [trade(limit)]


def test_limit_that_came_before_any_price_is_marketable_at_the_first() -> None:
    at = book(None)
    at.add(order(BUY, LIMIT, GTC, limit="105"))
    assert told(at.quote(Decimal(100))) == [trade("100")]


@pytest.mark.parametrize("tif", AT_ONCE_TIF)
@pytest.mark.parametrize(("side", "limit"), [(BUY, "95"), (SELL, "105")])
def test_limit_that_is_not_marketable_cannot_wait(side: Side, limit: str, tif: TimeInForce) -> None:
    at = book()
    assert told(at.add(order(side, LIMIT, tif, limit=limit))) == [CANCELED]
    assert len(at) == 0


@pytest.mark.parametrize("tif", TimeInForce)
@pytest.mark.parametrize(
    ("side", "stop", "short_of", "beyond"),
    [(BUY, "105", "104.99", "106"), (SELL, "95", "95.01", "94")],
)
def test_stop_waits_until_touched_then_is_a_market_order(
    side: Side, stop: str, short_of: str, beyond: str, tif: TimeInForce
) -> None:
    at = book()
    assert at.add(order(side, STOP, tif, stop=stop)) == []
    assert at.quote(Decimal(short_of)) == []
    assert told(at.quote(Decimal(beyond))) == [trade(beyond)]


@pytest.mark.parametrize("tif", TimeInForce)
@pytest.mark.parametrize(
    ("side", "stop"), [(BUY, "100"), (BUY, "99"), (SELL, "100"), (SELL, "101")]
)
def test_stop_that_is_touched_on_arrival(side: Side, stop: str, tif: TimeInForce) -> None:
    assert told(book().add(order(side, STOP, tif, stop=stop))) == [trade("100")]


@pytest.mark.parametrize("tif", TimeInForce)
def test_stop_limit_touched_and_marketable(tif: TimeInForce) -> None:
    at = book()
    assert at.add(order(BUY, STOP_LIMIT, tif, stop="105", limit="107")) == []
    assert told(at.quote(Decimal(106))) == [trade("106")]


@pytest.mark.parametrize("tif", RESTING_TIF)
def test_stop_limit_touched_beyond_its_limit_rests_as_a_limit(tif: TimeInForce) -> None:
    at = book()
    at.add(order(BUY, STOP_LIMIT, tif, stop="105", limit="106"))
    assert at.quote(Decimal(108)) == []
    assert told(at.quote(Decimal(104))) == [trade("106")]


@pytest.mark.parametrize("tif", AT_ONCE_TIF)
def test_stop_limit_touched_beyond_its_limit_cannot_wait(tif: TimeInForce) -> None:
    at = book()
    at.add(order(BUY, STOP_LIMIT, tif, stop="105", limit="106"))
    assert told(at.quote(Decimal(108))) == [CANCELED]


def test_stop_without_a_price_waits() -> None:
    at = book(None)
    assert at.add(order(SELL, STOP, GTC, stop="95")) == []
    assert at.quote(Decimal(100)) == []
    assert told(at.quote(Decimal(95))) == [trade("95")]


# Partial fills


@pytest.mark.parametrize("tif", RESTING_TIF)
def test_partial_fills_go_on_at_every_tick(tif: TimeInForce) -> None:
    at = book(most="4")
    assert told(at.add(order(tif=tif))) == [trade("100", "4")]
    assert told(at.quote(Decimal(101))) == [trade("101", "4")]
    assert told(at.quote(Decimal(102))) == [trade("102", "2")]
    assert at.quote(Decimal(103)) == []


def test_partial_limit_pauses_while_not_marketable() -> None:
    at = book(most="6")
    assert told(at.add(order(BUY, LIMIT, GTC, limit="100.5"))) == [trade("100", "6")]
    assert at.quote(Decimal(101)) == []
    assert told(at.quote(Decimal("100.2"))) == [trade("100.2", "4")]


def test_ioc_takes_what_there_is_and_fok_all_or_nothing() -> None:
    assert told(book(most="4").add(order(tif=IOC))) == [trade("100", "4"), CANCELED]
    assert told(book(most="4").add(order(tif=FOK))) == [CANCELED]
    assert told(book(most="10").add(order(tif=FOK))) == [trade("100")]


# Cancel, expiry, priority


def test_cancelled_orders_never_fill() -> None:
    at = book()
    for index, kind in enumerate((LIMIT, STOP)):
        waiting = order(BUY, kind, key=str(index), limit="90", stop="110")
        at.add(waiting)
        assert at.cancel(waiting)
        assert not at.cancel(waiting)
    assert at.quote(Decimal(80)) == []
    assert at.quote(Decimal(120)) == []


def test_a_key_may_return_after_its_order_is_gone() -> None:
    at = book()
    first, second = order(BUY, LIMIT, limit="90"), order(BUY, LIMIT, limit="80")
    at.add(first)
    with pytest.raises(ValueError, match="resting already"):
        at.add(second)
    at.cancel(first)
    at.add(second)
    assert at.quote(Decimal(85)) == []
    assert told(at.quote(Decimal(80))) == [trade("80")]


def test_end_of_day_takes_day_orders_only() -> None:
    at = book()
    at.add(order(BUY, LIMIT, DAY, limit="90", key="day"))
    at.add(order(BUY, LIMIT, GTC, limit="90", key="gtc"))
    assert told(at.expire_day()) == [("day", "expired", "0", "0")]
    assert told(at.quote(Decimal(90))) == [trade("90", key="gtc")]


def test_best_price_first_then_arrival() -> None:
    at = book()
    for key, limit in (("low", "94"), ("first", "95"), ("second", "95")):
        at.add(order(BUY, LIMIT, limit=limit, key=key))
    assert [e.order.key for e in at.quote(Decimal(90))] == ["first", "second", "low"]


def test_missing_prices_are_refused() -> None:
    with pytest.raises(ValueError, match="limit price"):
        order(BUY, STOP_LIMIT, stop="100")
    with pytest.raises(ValueError, match="stop price"):
        order(BUY, STOP)


def test_many_cancelled_orders_are_forgotten() -> None:
    at = book()
    for index in range(1000):
        waiting = order(BUY, LIMIT, limit="90", key=str(index))
        at.add(waiting)
        at.cancel(waiting)
    assert len(at._limits[BUY]._heap) <= 64


# Any life: never more than ordered, never worse than the limit, nothing after the end

PRICES = st.lists(st.integers(90, 110), min_size=1, max_size=30)


@given(st.integers(0, 2**32), PRICES, st.sampled_from([None, Decimal(3), Decimal(7)]))
def test_any_life(seed: int, prices: list[int], most: Decimal | None) -> None:
    chance = random.Random(seed)
    at = Book(most)
    filled: dict[str, Decimal] = {}
    over: set[str] = set()

    def check(events: list[BookEvent]) -> None:
        for event in events:
            done = event.order
            assert done.key not in over
            if event.exec_type is ExecType.TRADE:
                filled[done.key] = filled.get(done.key, ZERO) + event.last_qty
                assert most is None or event.last_qty <= most
                if done.limit_price is not None:
                    assert done.side.sign * (done.limit_price - event.last_px) >= 0
                assert filled[done.key] == done.cum_qty <= done.order_qty
            if event.exec_type is not ExecType.TRADE or done.cum_qty == done.order_qty:
                over.add(done.key)

    for number, price in enumerate(prices):
        new = order(
            chance.choice(list(Side)),
            chance.choice(list(OrderType)),
            chance.choice(list(TimeInForce)),
            qty=str(chance.randint(1, 20)),
            limit=str(chance.randint(90, 110)),
            stop=str(chance.randint(90, 110)),
            key=str(number),
        )
        if not new.order_type.needs_limit:
            new.limit_price = None
        check(at.add(new))
        check(at.quote(Decimal(price)))
        resting = {waiting.key for waiting in at.resting()}
        assert not resting & over
        assert not any(
            waiting.time_in_force in AT_ONCE_TIF and not waiting.waits_for_stop
            for waiting in at.resting()
        )


# Money


def test_margin_account_money_is_exact() -> None:
    account = MarginAccount(Decimal(1000), Decimal(4))
    prices = {"X": Decimal(10)}
    account.apply("A", "X", BookEvent(order(BUY), ExecType.TRADE, Decimal(30), Decimal(10)))
    assert (account.cash, account.equity(prices.get)) == (Decimal(700), Decimal(1000))
    assert account.buying_power(prices.get) == Decimal(3700)
    assert account.opening_qty("X", SELL, Decimal(50)) == Decimal(20)
    assert account.opening_qty("X", BUY, Decimal(50)) == Decimal(50)
    prices["X"] = Decimal(11)
    account.apply("A", "X", BookEvent(order(SELL), ExecType.TRADE, Decimal(40), Decimal(11)))
    assert account.quantity("X") == Decimal(-10)
    assert account.positions["X"].realised == Decimal(30)
    assert account.equity(prices.get) == Decimal(1030)
    account.reserved = Decimal(10_000)
    assert account.buying_power(prices.get) == ZERO


@pytest.mark.parametrize(
    ("symbol", "lot"),
    [
        ("AAPL", "1"),
        ("USD", "1"),
        ("USDJPY", "1"),
        ("BTC/USD", "0.00000001"),
        ("BTCUSDT", "0.00000001"),
        ("EURUSD", "0.00000001"),
    ],
)
def test_practice_instruments(symbol: str, lot: str) -> None:
    instrument = practice_instrument(symbol)
    assert instrument.lot == instrument.min_qty == Decimal(lot)
    assert instrument.tick == Decimal("0.01")


@pytest.mark.parametrize(
    ("kind", "prices"),
    [
        (OrderType.LIMIT, ("limit_price", "90", "95")),
        (OrderType.STOP, ("stop_price", "105", "110")),
    ],
)
def test_an_order_that_comes_back_at_another_price_leaves_nothing_at_the_old_one(kind, prices):
    name, old, new = prices
    book = Book()
    book.quote(Decimal(100))
    order = BookOrder("a", Side.BUY, Decimal(10), kind, TimeInForce.DAY, **{name: Decimal(old)})
    assert book.add(order) == []
    assert book.cancel(order)
    setattr(order, name, Decimal(new))
    assert book.add(order) == []
    if kind is OrderType.STOP:
        assert book.quote(Decimal(old)) == []
        assert not order.triggered
        assert len(book.quote(Decimal(new))) == 1
    else:
        assert len(book.quote(Decimal(old))) == 1  # at its own price, once
    assert len(book) == 0
