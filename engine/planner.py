"""From a signal to a plan: who trades how much, and for everyone else the code why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from engine import failpoints
from engine.clock import Clock
from engine.config import Config
from engine.eligibility import rules
from engine.eligibility.index import EligibilityIndex
from engine.eligibility.sizing import Prices, prices_of, size
from engine.model.account_state import AccountState
from engine.model.enums import Action, Side
from engine.model.identifiers import ENTRY_LEG, ClOrdIDs
from engine.model.instrument import Instrument
from engine.model.numbers import ZERO, floor_to, to_text
from engine.model.order import Order
from engine.model.position import Levels
from engine.model.signal import Signal
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.risk import checks, slices
from engine.risk.pretrade import Ask, PreTrade, Room
from engine.risk.trading_state import TradingStates, refusal

Reason = tuple[str, str]
InstrumentOf = Callable[[str, str], Instrument]


@dataclass(slots=True)
class Plan:
    """What a signal comes to. With ``code`` set the whole signal is refused and nothing below holds."""

    code: str = ""
    message: str = ""
    orders: list[Order] = field(default_factory=list)
    cancels: dict[str, list[Order]] = field(default_factory=dict)
    stops: dict[str, Levels] = field(default_factory=dict)  # new ones, by account
    held: list[str] = field(default_factory=list)
    skipped: dict[str, Reason] = field(default_factory=dict)
    refused: dict[str, Reason] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Release:
    """An operator's release of some accounts: approved (reviewed) or forced (past soft blocks).

    ``earlier``: the orders the signal has had so far; the limits hold for all of them together.
    """

    accounts: frozenset[str]
    scale: Decimal | None = None
    forced: bool = False
    earlier: tuple[Order, ...] = ()


@dataclass(slots=True)
class _Run:
    """One plan of entries while it is made: what its accounts share, and what they come to together."""

    now: datetime
    signal: Signal
    prices: Prices
    release: Release | None
    room: Room | None = None
    valued_at: Decimal | None = None
    worth: Decimal = ZERO
    sizes: dict[object, Decimal | Reason] = field(default_factory=dict)
    instruments: dict[str, Instrument | Reason] = field(default_factory=dict)
    asks: dict[tuple[str, Decimal], Ask] = field(default_factory=dict)

    def ask(self, broker: str, quantity: Decimal, instrument: Instrument) -> Ask:
        """Return what accounts of one broker that trade the same quantity are asked."""
        key = (broker, quantity)
        known = self.asks.get(key)
        if known is None:
            known = Ask(quantity, self.prices.entry, instrument, self.room, self.earlier)
            self.asks[key] = known
        return known

    @property
    def earlier(self) -> tuple[Order, ...]:
        """Return the orders the signal has had before."""
        return self.release.earlier if self.release is not None else ()


class Planner:
    """Plans signals. Reads live state, changes none of it."""

    def __init__(  # noqa: PLR0913 (everything a decision rests on)
        self,
        *,
        book: str,
        config: Config,
        clock: Clock,
        index: EligibilityIndex,
        keeper: PositionKeeper,
        marks: Marks,
        states: TradingStates,
        instrument_of: InstrumentOf,
        instrument_if_known: Callable[[str, str], Instrument | None],
        pretrade: PreTrade,
    ) -> None:
        self._book = book
        self._limits = config.limits
        self._clock = clock
        self._index = index
        self._keeper = keeper
        self._marks = marks
        self._states = states
        self._instrument_of = instrument_of
        self._instrument_if_known = instrument_if_known
        self._pretrade = pretrade

    def plan(self, signal: Signal, release: Release | None = None) -> Plan:
        """Plan one signal; with ``release`` only for the accounts it names."""
        if failpoints.ARMED:
            failpoints.hit("K06.before")
        chosen, passed_over = self._index.candidates(signal)
        if failpoints.ARMED:
            failpoints.hit("K06.after")
        if release is not None:
            chosen = [state for state in chosen if state.id in release.accounts]
            passed_over = {
                account: reason
                for account, reason in passed_over.items()
                if account in release.accounts
            }
        if signal.action in {Action.BUY, Action.SELL}:
            plan = self._entries(signal, chosen, release)
        elif signal.action is Action.CLOSE:
            plan = self._closes(signal, chosen)
        elif signal.action is Action.CANCEL:
            plan = self._cancels(signal, chosen)
        else:
            plan = self._modifies(signal, chosen)
        if not plan.code:
            plan.skipped.update(passed_over)
            if not (plan.orders or plan.held or plan.cancels or plan.stops):
                plan.code = "NO_ACCOUNTS"
                plan.message = _why_nobody(plan)
        return plan

    # ---- entries ---------------------------------------------------------------------------------------------

    def _entries(self, signal: Signal, chosen: list[AccountState], release: Release | None) -> Plan:
        prices = self._prices(signal, release)
        if isinstance(prices, tuple):
            return Plan(code=prices[0], message=prices[1])
        plan = Plan()
        run = _Run(self._clock.now(), signal, prices, release)
        run.room = self._pretrade.room(signal.strategy)
        # Where no fresh price is required, an old one is still the best bound on the signal's value.
        run.valued_at = prices.entry or self._marks.price(signal.symbol)
        ids = ClOrdIDs(self._book, signal.source, signal.id)
        throttled = None if release else self._pretrade.throttle.refusal(signal.strategy)
        assert signal.side is not None
        for state in chosen:
            reason = self._skip_reason(state, run)
            if reason is not None:
                plan.skipped[state.id] = reason
                continue
            if release is None and state.review:
                plan.held.append(state.id)
                continue
            quantity = throttled or self._allowed(state, run)
            if isinstance(quantity, tuple):
                plan.refused[state.id] = quantity
                continue
            plan.orders.append(
                _entry_order(signal, signal.side, state.id, quantity, ids.make(state.id), run.now)
            )
        if throttled and plan.refused and not plan.held:
            plan.code, plan.message = throttled
        return self._within_reach(plan, run)

    def _prices(self, signal: Signal, release: Release | None) -> Prices | Reason:
        """Check once what holds for every account, and work out the prices the sizes are reckoned from."""
        pretrade = self._pretrade
        problem = (
            pretrade.restricted(signal.symbol)
            or (None if release else pretrade.repeated(signal))
            or pretrade.reference(signal)
        )
        if problem is not None:
            return problem
        quote = self._marks.get(signal.symbol)
        prices = prices_of(signal, quote.price if quote and pretrade.fresh(quote) else None)
        if prices.entry is not None and signal.side is not None:
            problem = checks.exit_sides(
                signal.side, prices.entry, signal.stop_loss, signal.take_profit
            )
        return problem or prices

    def _allowed(self, state: AccountState, run: _Run) -> Decimal | Reason:
        """Return how much one account trades, or what is in the way."""
        signal = run.signal
        instrument = run.instruments.get(state.broker)
        if instrument is None:
            instrument = self._instrument_of(state.broker, signal.symbol)
            instrument = checks.exact_instrument(instrument) or instrument
            run.instruments[state.broker] = instrument
        if isinstance(instrument, tuple):
            return instrument
        quantity = self._quantity(state, run, instrument)
        quantity = self._scaled(quantity, instrument, run.release)
        if isinstance(quantity, tuple):
            return quantity
        ask = run.ask(state.broker, quantity, instrument)
        denied = self._pretrade.refusal(state, signal, ask)
        if denied is not None:
            return denied
        if run.valued_at is not None:
            run.worth += quantity * run.valued_at * instrument.multiplier
        if run.room is not None:
            run.room.take(ask.worth)
        return quantity

    def _within_reach(self, plan: Plan, run: _Run) -> Plan:
        """Check the fan-out, together with what the signal has had before; over it nothing is sent."""
        if not plan.orders:
            return plan
        accounts = [order.account for order in plan.orders]
        over = self._over_reach(accounts, run.worth, run.earlier, run.valued_at)
        return Plan(code=over[0], message=over[1]) if over else plan

    def _over_reach(
        self,
        accounts: Iterable[str],
        worth: Decimal,
        earlier: Iterable[Order],
        price: Decimal | None,
    ) -> Reason | None:
        """Check what orders about to be and those of the same decision reach together (control C07)."""
        reached = set(accounts)
        for order in earlier:
            if slices.counts(order):
                reached.add(order.account)
                per_unit = self._pretrade.exposure.multiplier(order.account, order.symbol)
                worth += slices.worth(order, price) * per_unit
        limits = self._limits
        return checks.fan_out(
            len(reached), worth, limits.max_accounts_per_signal, limits.max_signal_value
        )

    def _skip_reason(self, state: AccountState, run: _Run) -> Reason | None:
        signal, release = run.signal, run.release
        reason = (
            rules.standing(state)
            or self._latched(state, signal.strategy, signal.symbol)
            or self._barred(state)
        )
        if reason is not None:
            return reason
        if release is not None and release.forced:
            return None
        return (
            rules.open_hours(state, run.now)
            or self._no_room(state, signal.symbol)
            or rules.reward_worth_risk(state, run.prices.reward_risk)
        )

    def _barred(self, state: AccountState) -> Reason | None:
        """Check what of the account no operator can force past: limits that are missing, the day's loss."""
        reason = rules.limits_set(state)
        if reason is not None or state.limits.max_daily_loss is None:
            return reason
        day_pnl = self._keeper.pnl(state.id).total - state.day_baseline
        return rules.within_daily_loss(state, day_pnl)

    def _latched(self, state: AccountState, strategy: str, symbol: str) -> Reason | None:
        if not self._states:
            return None
        latch = self._states.strictest(
            f"account:{state.id}",
            f"broker:{state.broker}",
            f"strategy:{strategy}",
            f"symbol:{symbol}",
        )
        return refusal(latch) if latch else None

    def _no_room(self, state: AccountState, symbol: str) -> Reason | None:
        if state.limits.max_positions is None:
            return None
        held = self._keeper.open_symbols(state.id)
        held.update(order.symbol for order in state.working.values() if not order.reducing)
        return rules.room_for_position(state, held, symbol)

    def _quantity(self, state: AccountState, run: _Run, instrument: Instrument) -> Decimal | Reason:
        """Size one account; those that size alike share the answer."""
        key = state.sizing_key
        if key is not None and (known := run.sizes.get(key)) is not None:
            return known
        equity = state.balances.equity if state.balances else None
        quantity = size(state.account.sizing, run.signal, run.prices, equity, instrument)
        if key is not None:
            run.sizes[key] = quantity
        return quantity

    @staticmethod
    def _scaled(
        quantity: Decimal | Reason, instrument: Instrument, release: Release | None
    ) -> Decimal | Reason:
        if isinstance(quantity, tuple) or release is None or release.scale is None:
            return quantity
        scaled = floor_to(quantity * release.scale, instrument.lot)
        if scaled < instrument.min_qty or scaled <= 0:
            least = to_text(instrument.min_qty)
            return "QTY_MIN", f"{to_text(quantity)} × {to_text(release.scale)} is less than {least}"
        return scaled

    def check_by_hand(
        self, state: AccountState, order: Order, *, instead_of: Order | None = None
    ) -> Reason | None:
        """Check an order made by hand as a signal's are, but for what an operator may force past; exits pass.

        Latches are not looked at here: the gate does, for every order.
        ``instead_of``: the order whose place it takes, or the order itself when it is sent again.
        """
        if order.reducing:
            return None
        pretrade, symbol = self._pretrade, order.symbol
        reason = (
            self._barred(state)
            or rules.symbol_allowed(state, symbol)
            or pretrade.restricted(symbol)
            or pretrade.reference(order)
        )
        if reason is not None:
            return reason
        quote = self._marks.get(symbol)
        market = quote.price if quote is not None and pretrade.fresh(quote) else None
        price = order.limit_price or order.stop_price or market
        instrument = self._instrument_of(state.broker, symbol)
        earlier = pretrade.together_with(order, instead_of)
        own = instead_of.cl_ord_id if instead_of is not None else ""
        ask = Ask(order.order_qty, price, instrument, pretrade.room(order.strategy), earlier, own)
        return (
            checks.exact_instrument(instrument)
            or checks.exact(order.order_qty, price)
            or checks.lot(order.order_qty, instrument)
            or pretrade.refusal(state, order, ask)
            or self._over_reach([order.account], ask.worth or ZERO, earlier, price)
        )

    # ---- exits, cancels, changes ---------------------------------------------------------------------------

    def _closes(self, signal: Signal, chosen: list[AccountState]) -> Plan:
        plan = Plan()
        ids = ClOrdIDs(self._book, signal.source, signal.id)
        now = self._clock.now()
        for state in chosen:
            quantity = self.closable(state, signal.symbol)
            if not quantity:
                plan.skipped[state.id] = (
                    "NO_POSITION",
                    f"no open position in {signal.symbol}, or it is being closed",
                )
                continue
            reason = rules.standing(state) if not state.usable else None
            if reason is not None:
                plan.skipped[state.id] = reason
                continue
            side = Side.SELL if quantity > 0 else Side.BUY
            order = _entry_order(signal, side, state.id, abs(quantity), ids.make(state.id), now)
            order.reducing = True
            order.stop_loss = order.take_profit = order.trail_percent = None
            plan.orders.append(order)
        return plan

    def closable(self, state: AccountState, symbol: str) -> Decimal:
        """Return the signed quantity that no exit under way covers yet.

        Exits that rest (legs of a bracket, limit orders) hide nothing: they are taken back before one is sent.
        """
        position = self._keeper.get(state.id, symbol)
        if position is None or not position.qty:
            return ZERO
        closing = sum(
            (
                order.leaves_qty
                for order in state.working.values()
                if order.reducing and not order.rests and order.symbol == symbol
            ),
            ZERO,
        )
        instrument = self._instrument_if_known(state.broker, symbol)
        left = abs(position.qty) - closing
        if instrument is not None:  # a fee in kind leaves crumbs that no order can sell
            left = floor_to(left, instrument.lot)
        return left.copy_sign(position.qty) if left > 0 else ZERO

    @staticmethod
    def _cancels(signal: Signal, chosen: Iterable[AccountState]) -> Plan:
        plan = Plan()
        for state in chosen:
            orders = [
                order
                for order in state.working.values()
                if order.symbol == signal.symbol
                and order.strategy == signal.strategy
                and not order.protective
            ]
            if orders:
                plan.cancels[state.id] = orders
            else:
                plan.skipped[state.id] = (
                    "NO_ORDERS",
                    f"no working order of {signal.strategy} in {signal.symbol}",
                )
        return plan

    def _modifies(self, signal: Signal, chosen: Iterable[AccountState]) -> Plan:
        """Plan new levels for open positions: those the signal names; the others stay."""
        plan = Plan()
        quote = self._marks.get(signal.symbol)
        for state in chosen:
            position = self._keeper.get(state.id, signal.symbol)
            if position is None or not position.qty:
                plan.skipped[state.id] = ("NO_POSITION", f"no open position in {signal.symbol}")
                continue
            side = Side.BUY if position.qty > 0 else Side.SELL
            price = quote.price if quote is not None else position.avg_px
            refused = checks.exit_sides(side, price, signal.stop_loss, signal.take_profit)
            if refused is not None:
                plan.refused[state.id] = refused
                continue
            plan.stops[state.id] = Levels(
                **{
                    name: getattr(signal, name) or getattr(position, name)
                    for name in ("stop_loss", "take_profit", "trail_percent")
                }
            )
        return plan


def _entry_order(
    signal: Signal, side: Side, account: str, quantity: Decimal, cl_ord_id: str, now: datetime
) -> Order:
    return Order(
        cl_ord_id=cl_ord_id,
        account=account,
        symbol=signal.symbol,
        side=side,
        order_qty=quantity,
        order_type=signal.order_type,
        time_in_force=signal.time_in_force,
        created_at=now,
        limit_price=signal.limit_price,
        stop_price=signal.stop_price,
        source=signal.source,
        signal_id=signal.id,
        strategy=signal.strategy,
        leg=ENTRY_LEG,
        stop_loss=signal.stop_loss,
        take_profit=signal.take_profit,
        trail_percent=signal.trail_percent,
    )


def _why_nobody(plan: Plan) -> str:
    """Say in one sentence why no account acts: the commonest reasons, counted."""
    counts: dict[str, int] = {}
    for code, _ in (*plan.skipped.values(), *plan.refused.values()):
        counts[code] = counts.get(code, 0) + 1
    if not counts:
        return "no accounts are set up"
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return "no account may act: " + ", ".join(f"{code} {count}" for code, count in ranked[:4])
