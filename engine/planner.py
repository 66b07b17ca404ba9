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
    quantity: Decimal | None = None  # for each, instead of its own size
    forced: bool = False
    earlier: tuple[Order, ...] = ()


@dataclass(slots=True)
class Run:
    """One plan of entries while it is made: what its accounts share, and what they come to together."""

    now: datetime
    signal: Signal
    prices: Prices
    release: Release | None
    ids: ClOrdIDs
    throttled: Reason | None = None  # why the strategy is carried out no more without a review
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


@dataclass(slots=True)
class Planning:
    """A plan while it is made. ``chosen``: who is to be decided on, in this order."""

    signal: Signal
    chosen: list[AccountState]
    passed_over: dict[str, Reason]
    plan: Plan = field(default_factory=Plan)
    run: Run | None = None


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
        planning = self.begin(signal, release)
        self.decide(planning, planning.chosen)
        return self.finish(planning)

    # ---- in parts, so that a plan which is only looked at holds up nobody --------------------------------------

    def begin(self, signal: Signal, release: Release | None = None) -> Planning:
        """Find who is asked, and what holds for all of them; where that refuses the signal nobody is."""
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
        planning = Planning(signal, chosen, passed_over)
        if signal.side is not None:
            prices = self._prices(signal, release)
            if isinstance(prices, tuple):
                planning.chosen = []
                planning.plan.code, planning.plan.message = prices
            else:
                planning.run = self.run(signal, release, prices)
        return planning

    def decide(self, planning: Planning, states: list[AccountState]) -> None:
        """Decide for some of the chosen, each once, in their order."""
        plan, signal = planning.plan, planning.signal
        if planning.run is not None:
            self._entries(plan, planning.run, states)
        elif signal.action is Action.CLOSE:
            self._closes(plan, signal, states)
        elif signal.action is Action.CANCEL:
            self._cancels(plan, signal, states)
        elif signal.action is Action.MODIFY:
            self._modifies(plan, signal, states)

    def finish(self, planning: Planning) -> Plan:
        """Return the plan, once all of the chosen are decided on."""
        plan, run = planning.plan, planning.run
        if run is not None:
            if run.throttled and plan.refused and not plan.held:
                plan.code, plan.message = run.throttled
            plan = self._within_reach(plan, run)
        if not plan.code:
            plan.skipped.update(planning.passed_over)
            if not (plan.orders or plan.held or plan.cancels or plan.stops):
                plan.code = "NO_ACCOUNTS"
                plan.message = _why_nobody(plan)
        return plan

    def tell_everybody(self, signal: Signal, plan: Plan) -> None:
        """Tell every account why a signal was refused, where it was as a whole."""
        if plan.code and not plan.skipped and not plan.refused:
            chosen, passed_over = self._index.candidates(signal)
            plan.skipped = dict(passed_over)
            plan.refused = {state.id: (plan.code, plan.message) for state in chosen}

    # ---- entries ---------------------------------------------------------------------------------------------

    def run(
        self, signal: Signal, release: Release | None = None, prices: Prices | None = None
    ) -> Run:
        """Return what a plan of entries begins with; ``prices``: as checked, else whatever there are."""
        pretrade = self._pretrade
        if prices is None:
            prices = prices_of(signal, self._market(signal))
        run = Run(
            self._clock.now(),
            signal,
            prices,
            release,
            ClOrdIDs(self._book, signal.source, signal.id),
            None if release else pretrade.throttle.refusal(signal.strategy),
        )
        run.room = pretrade.room(signal.strategy)
        # Where no fresh price is required, an old one is still the best bound on the signal's value.
        run.valued_at = prices.entry or self._marks.price(signal.symbol)
        return run

    def _entries(self, plan: Plan, run: Run, states: list[AccountState]) -> None:
        signal, ids, release, throttled = run.signal, run.ids, run.release, run.throttled
        side, now = signal.side, run.now
        assert side is not None
        for state in states:
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
                _entry_order(signal, side, state.id, quantity, ids.make(state.id), now)
            )

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
        prices = prices_of(signal, self._market(signal))
        if prices.entry is not None and signal.side is not None:
            problem = checks.exit_sides(
                signal.side, prices.entry, signal.stop_loss, signal.take_profit
            )
        return problem or prices

    def _market(self, entry: Signal | Order) -> Decimal | None:
        quote = self._marks.get(entry.symbol)
        return quote.price if quote is not None and self._pretrade.fresh(quote) else None

    def _allowed(self, state: AccountState, run: Run) -> Decimal | Reason:
        """Return how much one account trades, or what is in the way."""
        signal = run.signal
        instrument = run.instruments.get(state.broker) or self.instrument(state.broker, run)
        if isinstance(instrument, tuple):
            return instrument
        quantity = self.quantity(state, run, instrument)
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

    def instrument(self, broker: str, run: Run) -> Instrument | Reason:
        """Return what a broker lets one trade of the signal's symbol, or what is wrong with what it says."""
        known = run.instruments.get(broker)
        if known is None:
            said = self._instrument_of(broker, run.signal.symbol)
            known = run.instruments[broker] = checks.exact_instrument(said) or said
        return known

    def _within_reach(self, plan: Plan, run: Run) -> Plan:
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

    def _skip_reason(self, state: AccountState, run: Run) -> Reason | None:
        signal, release = run.signal, run.release
        reason = (
            rules.standing(state)
            or self.latched(state, signal.strategy, signal.symbol)
            or self._barred(state)
        )
        if reason is not None:
            return reason
        if release is not None and release.forced:
            return None
        return (
            rules.open_hours(state, run.now)
            or self.no_room(state, signal.symbol)
            or rules.reward_worth_risk(state, run.prices.reward_risk)
        )

    def _barred(self, state: AccountState) -> Reason | None:
        """Check what of the account no operator can force past: limits that are missing, the day's loss."""
        return rules.limits_set(state) or (
            self.day_lost(state) if state.limits.max_daily_loss is not None else None
        )

    def day_lost(self, state: AccountState) -> Reason | None:
        """Check the account's day against its limit, where it has one."""
        day_pnl = self._keeper.pnl(state.id).total - state.day_baseline
        return rules.within_daily_loss(state, day_pnl)

    def latched(self, state: AccountState, strategy: str, symbol: str) -> Reason | None:
        """Check what is halted or paused of all that bears on an account's entry."""
        if not self._states:
            return None
        latch = self._states.strictest(
            f"account:{state.id}",
            f"broker:{state.broker}",
            f"strategy:{strategy}",
            f"symbol:{symbol}",
        )
        return refusal(latch) if latch else None

    def no_room(self, state: AccountState, symbol: str) -> Reason | None:
        """Check the number of positions, with those being opened."""
        if state.limits.max_positions is None:
            return None
        held = self._keeper.open_symbols(state.id)
        held.update(order.symbol for order in state.working.values() if not order.reducing)
        return rules.room_for_position(state, held, symbol)

    def quantity(self, state: AccountState, run: Run, instrument: Instrument) -> Decimal | Reason:
        """Size one account; those that size alike share the answer."""
        key = state.sizing_key
        known = run.sizes.get(key) if key is not None else None
        if known is None:
            equity = state.balances.equity if state.balances else None
            known = size(state.account.sizing, run.signal, run.prices, equity, instrument)
            if key is not None:
                run.sizes[key] = known
        return known if run.release is None else self._scaled(known, instrument, run.release)

    @staticmethod
    def _scaled(
        quantity: Decimal | Reason, instrument: Instrument, release: Release
    ) -> Decimal | Reason:
        if release.quantity is not None:  # instead of the account's own size
            return checks.lot(release.quantity, instrument) or release.quantity
        if isinstance(quantity, tuple) or release.scale is None:
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
        price = order.limit_price or order.stop_price or self._market(order)
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

    def _closes(self, plan: Plan, signal: Signal, states: list[AccountState]) -> None:
        ids = ClOrdIDs(self._book, signal.source, signal.id)
        now = self._clock.now()
        for state in states:
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
    def _cancels(plan: Plan, signal: Signal, states: Iterable[AccountState]) -> None:
        for state in states:
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

    def _modifies(self, plan: Plan, signal: Signal, states: Iterable[AccountState]) -> None:
        """Plan new levels for open positions: those the signal names; the others stay."""
        quote = self._marks.get(signal.symbol)
        for state in states:
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
