"""From a signal to a plan: who trades how much, and for everyone else the code why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from engine.clock import Clock
from engine.config import Config
from engine.eligibility import rules
from engine.eligibility.index import EligibilityIndex
from engine.eligibility.sizing import Prices, prices_of, size
from engine.model.account_state import AccountState
from engine.model.enums import Action, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import ENTRY_LEG, ClOrdIDs
from engine.model.instrument import Instrument
from engine.model.messages import Quote
from engine.model.numbers import ZERO, floor_to, to_text
from engine.model.order import Order
from engine.model.position import Levels
from engine.model.signal import Signal
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.risk import checks
from engine.risk.trading_state import TradingStates, refusal

Reason = tuple[str, str]
InstrumentOf = Callable[[str, str], Instrument]
Unsupported = Callable[[AccountState, OrderType, TimeInForce], str]


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
    """An operator's release of some accounts: approved (reviewed) or forced (past soft blocks)."""

    accounts: frozenset[str]
    scale: Decimal | None = None
    forced: bool = False


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
        unsupported: Unsupported,
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
        self._unsupported = unsupported
        self._reference_max_age_ns = int(float(config.limits.reference_max_age_s) * 1e9)

    def plan(self, signal: Signal, release: Release | None = None) -> Plan:
        """Plan one signal; with ``release`` only for the accounts it names."""
        chosen, passed_over = self._index.candidates(signal)
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
        plan = Plan()
        side = signal.side
        assert side is not None
        quote = self._marks.get(signal.symbol)
        problem = self._reference_problem(signal, quote)
        if problem is not None:
            plan.code, plan.message = problem
            return plan
        prices = prices_of(signal, quote.price if quote and self._fresh(quote) else None)
        if prices.entry is not None and (
            problem := checks.exit_sides(side, prices.entry, signal.stop_loss, signal.take_profit)
        ):
            plan.code, plan.message = problem
            return plan
        now = self._clock.now()
        ids = ClOrdIDs(self._book, signal.source, signal.id)
        worth = ZERO
        sizes: dict[object, Decimal | Reason] = {}
        for state in chosen:
            reason = self._skip_reason(state, signal, prices, now, release)
            if reason is not None:
                plan.skipped[state.id] = reason
                continue
            if release is None and state.review:
                plan.held.append(state.id)
                continue
            instrument = self._instrument_of(state.broker, signal.symbol)
            quantity = self._quantity(state, signal, prices, instrument, sizes)
            quantity = self._scaled(quantity, instrument, release)
            if isinstance(quantity, tuple):
                plan.refused[state.id] = quantity
                continue
            denied = self._denied(state, signal, quantity, prices, instrument)
            if denied is not None:
                plan.refused[state.id] = denied
                continue
            if prices.entry is not None:
                worth += quantity * prices.entry * instrument.multiplier
            plan.orders.append(
                _entry_order(signal, side, state.id, quantity, ids.make(state.id), now)
            )
        over = checks.fan_out(
            len(plan.orders),
            worth,
            self._limits.max_accounts_per_signal,
            self._limits.max_signal_value,
        )
        return Plan(code=over[0], message=over[1]) if over else plan

    def _reference_problem(self, signal: Signal, quote: Quote | None) -> Reason | None:
        """Check prices once a signal: a fresh reference, the collar around it, the producer's own price."""
        limits = self._limits
        required = limits.price_reference == "required"
        if quote is None:
            return ("REF_MISSING", f"no price of {signal.symbol} is known") if required else None
        if not self._fresh(quote):
            if not required:
                return None
            age = (self._clock.monotonic_ns() - quote.at_ns) / 1e9
            most = float(limits.reference_max_age_s)
            return (
                "REF_STALE",
                f"the newest price of {signal.symbol} is {age:.1f} s old > {most:g} s",
            )
        for price in (signal.limit_price, signal.stop_price):
            if price is not None and (
                found := checks.collar(price, quote.price, limits.collar_percent)
            ):
                return found
        if signal.reference_price is not None:
            return checks.drift(quote.price, signal.reference_price, limits.collar_percent)
        return None

    def _fresh(self, quote: Quote) -> bool:
        return self._clock.monotonic_ns() - quote.at_ns <= self._reference_max_age_ns

    def _skip_reason(
        self,
        state: AccountState,
        signal: Signal,
        prices: Prices,
        now: datetime,
        release: Release | None,
    ) -> Reason | None:
        reason = rules.standing(state) or self._latched(state, signal)
        if reason is not None:
            return reason
        if state.limits.max_daily_loss is not None:
            day_pnl = self._keeper.pnl(state.id).total - state.day_baseline
            if reason := rules.within_daily_loss(state, day_pnl):
                return reason
        if release is not None and release.forced:
            return None
        return (
            rules.open_hours(state, now)
            or self._no_room(state, signal.symbol)
            or rules.reward_worth_risk(state, prices.reward_risk)
        )

    def _latched(self, state: AccountState, signal: Signal) -> Reason | None:
        if not self._states:
            return None
        latch = self._states.strictest(
            f"account:{state.id}",
            f"broker:{state.broker}",
            f"strategy:{signal.strategy}",
            f"symbol:{signal.symbol}",
        )
        return refusal(latch) if latch else None

    def _no_room(self, state: AccountState, symbol: str) -> Reason | None:
        if state.limits.max_positions is None:
            return None
        held = self._keeper.open_symbols(state.id)
        held.update(order.symbol for order in state.working.values() if not order.reducing)
        return rules.room_for_position(state, held, symbol)

    def _quantity(
        self,
        state: AccountState,
        signal: Signal,
        prices: Prices,
        instrument: Instrument,
        sizes: dict[object, Decimal | Reason],
    ) -> Decimal | Reason:
        """Size one account; those that size alike share the answer in ``sizes``."""
        key = state.sizing_key
        if key is not None and (known := sizes.get(key)) is not None:
            return known
        equity = state.balances.equity if state.balances else None
        quantity = size(state.account.sizing, signal, prices, equity, instrument)
        if key is not None:
            sizes[key] = quantity
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

    def _denied(
        self,
        state: AccountState,
        signal: Signal,
        quantity: Decimal,
        prices: Prices,
        instrument: Instrument,
    ) -> Reason | None:
        unsupported = self._unsupported(state, signal.order_type, signal.time_in_force)
        if unsupported:
            return "BROKER_UNSUPPORTED", unsupported
        for order in state.working.values():
            if (
                order.status is OrderStatus.UNKNOWN
                and order.symbol == signal.symbol
                and order.side is signal.side
            ):
                return "UNKNOWN_OPEN", f"{order.cl_ord_id} has no proven outcome yet"
        limits = state.limits
        return (
            checks.tick(signal.limit_price, instrument)
            or checks.tick(signal.stop_price, instrument)
            or checks.tradable(quantity, prices.entry, instrument)
            or checks.quantity(quantity, limits)
            or checks.value(quantity, prices.entry, instrument, limits)
        )

    def check_by_hand(self, state: AccountState, order: Order) -> Reason | None:
        """Check an order made by hand against the account's limits and the collar; exits pass."""
        if order.reducing:
            return None
        instrument = self._instrument_of(state.broker, order.symbol)
        quote = self._marks.get(order.symbol)
        price = order.limit_price or order.stop_price
        limits = state.limits
        about = price or (quote.price if quote else None)
        refused = (
            checks.tick(order.limit_price, instrument)
            or checks.tick(order.stop_price, instrument)
            or checks.tradable(order.order_qty, about, instrument)
            or checks.quantity(order.order_qty, limits)
            or checks.value(order.order_qty, about, instrument, limits)
        )
        if refused is not None or price is None:
            return refused
        if quote is None or not self._fresh(quote):
            required = self._limits.price_reference == "required"
            return ("REF_STALE", f"no fresh price of {order.symbol} is known") if required else None
        return checks.collar(price, quote.price, self._limits.collar_percent)

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
