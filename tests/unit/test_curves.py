"""What each strategy made: money is neither lost nor made by saying whose it is."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from engine.curves import BY_HAND, STEP_S, Curves, StrategyBook, _Curve
from engine.model.commands import parse_command
from engine.model.enums import Side
from engine.model.messages import Fill
from engine.model.position import Position
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from tests.helpers import HandClock, make_account, make_state


def fill(strategy: str, side: str, quantity: str, price: str, who: str = "A") -> Fill:
    return Fill(
        account=who, exec_id="x", cl_ord_id="c", symbol="AAPL", side=Side(side), last_qty=Decimal(quantity),
        last_px=Decimal(price), at=HandClock().now(), strategy=strategy, source="s", signal_id="1",
    )  # fmt: skip


def test_a_strategy_has_its_own_profit_with_what_it_holds_at_the_mark() -> None:
    book = StrategyBook({"AAPL": Decimal(110)}.get)
    book.on_fill(fill("one", "buy", "10", "100"))
    book.on_fill(fill("two", "buy", "5", "108"))
    book.on_fill(fill("one", "sell", "4", "105"))
    assert book.total("one") == 4 * 5 + 6 * 10
    assert book.total("two") == 5 * 2
    assert book.exposure("one") == 6 * 110
    assert (book.fills("one"), book.fills("two")) == (2, 1)


def test_a_close_by_hand_is_of_those_who_held() -> None:
    book = StrategyBook({"AAPL": Decimal(90)}.get)
    book.on_fill(fill("one", "buy", "10", "100"))
    book.on_fill(fill("two", "buy", "5", "100"))
    book.on_fill(fill("", "sell", "15", "101"))
    assert (book.total("one"), book.total("two")) == (10, 5)
    assert book.names() == ["one", "two"]  # nobody else made anything
    book.on_fill(fill("", "sell", "1", "91"))
    assert book.total(BY_HAND) == 1


def test_a_position_of_before_counts_from_its_average_price() -> None:
    position = Position("A", "AAPL")
    position.apply(Side.BUY, Decimal(10), Decimal(100))
    position.strategy = "one"
    book = StrategyBook({"AAPL": Decimal(103)}.get)
    book.load([position])
    assert book.total("one") == 30
    book.on_fill(fill("one", "sell", "10", "104"))
    assert book.total("one") == 40


def test_without_a_price_the_last_fill_is_the_mark() -> None:
    book = StrategyBook(lambda _symbol: None)
    book.on_fill(fill("one", "buy", "10", "100"))
    book.on_fill(fill("one", "buy", "10", "102"))
    assert book.total("one") == 20


TRADES = st.lists(
    st.tuples(
        st.sampled_from(["one", "two", ""]), st.sampled_from(["A", "B"]), st.sampled_from(["buy", "sell"]),
        st.integers(1, 50), st.integers(90, 110),
    ),
    max_size=40,
)  # fmt: skip


@given(TRADES, st.integers(80, 120))
def test_all_strategies_together_made_what_the_accounts_made(
    trades: list[tuple[str, str, str, int, int]], mark: int
) -> None:
    book = StrategyBook({"AAPL": Decimal(mark)}.get)
    positions = {who: Position(who, "AAPL") for who in "AB"}
    for strategy, who, side, quantity, price in trades:
        book.on_fill(fill(strategy, side, str(quantity), str(price), who))
        positions[who].apply(Side(side), Decimal(quantity), Decimal(price))
    made = sum(book.total(name) for name in book.names())
    assert made == sum(p.cash + p.qty * mark for p in positions.values())


def test_a_curve_keeps_the_newest_points() -> None:
    curve = _Curve()
    for at in range(3_000):
        curve.add(at, Decimal("100.005"), Decimal(-at) / 100)
    rows = curve.rows(with_equity=True)
    assert len(rows) == 960
    assert (rows[-1]["at"], rows[-1]["total"]) == ("1970-01-01T00:49:59.000000Z", "-29.99")
    assert rows[0]["equity"] == "100.00"  # whole cents, halves to even


async def test_accounts_are_looked_at_in_turn_and_a_new_one_at_once() -> None:
    clock = HandClock()
    marks = Marks(clock)
    keeper = PositionKeeper(marks)
    states = {name: make_state(make_account(name)) for name in ("A", "B")}
    curves = Curves(clock, keeper, lambda: states, StrategyBook(marks.price))
    for _ in range(2 * STEP_S + 1):
        curves.second()
        clock.advance(1)
    command = parse_command({"id": "1", "command": "curves", "of": "account", "names": ["B", "C"]})
    answer = await curves.curves(command)  # type: ignore[arg-type]
    assert list(answer["curves"]) == ["B"]
    assert len(answer["curves"]["B"]) == 3  # at once, and every thirty seconds
    del states["B"]
    curves.second()
    assert (await curves.curves(command))["curves"] == {}  # type: ignore[arg-type]
