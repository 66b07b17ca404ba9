"""What must hold, judged from outside the engine: by what arrived at the brokers, is on the disk, and was said."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from engine.model.enums import OrderStatus
from engine.model.identifiers import OPERATOR
from engine.model.order import Order
from engine.stores import audit
from tests.simulation.venue import CASH, Request, VenueAccount, VenueOrder
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.day import Day

KILL_WITHIN_NS = 10_000_000
_ROUNDED = Decimal("1e-15")  # what a look-up tells is a total and an average price of 28 digits
_OPEN_ENDED = {OrderStatus.PENDING_NEW, OrderStatus.UNKNOWN, OrderStatus.PENDING_CANCEL}
_NEVER_ACCEPTED = {OrderStatus.DENIED, OrderStatus.EXPIRED, OrderStatus.REJECTED}
_STATE, _PLAN = 7, 10  # columns of a signal's row: before ``state`` stands what never changes
STATE_TABLES = ("orders", "fills", "positions", "signals", "halts", "days", "square_offs")


@dataclass(slots=True)
class Halt:
    """A kill an operator has asked for; it holds for later lives once it was answered."""

    since_ns: int
    life: int
    answered: bool = False


@dataclass(slots=True)
class Sent:
    """A signal as its sender knows it."""

    body: bytes
    issued_ns: int
    max_age_s: float
    answers: list[tuple[str, str]] = field(default_factory=list)
    released: bool = False  # approved or forced: its age limit began anew
    accounts: set[str] = field(default_factory=set)  # orders of it have left for these


class Oracle:
    """Watches a day, and judges it at its end."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._world = day.world
        self.signals: dict[str, Sent] = {}
        self.halts: dict[str, Halt] = {}
        self.stepped = False  # the wall clock was set: ages by it prove nothing
        self.resent: set[str] = set()  # ClOrdIDs an operator had sent once more
        self._windows: dict[str, deque[int]] = defaultdict(deque)
        self._left: dict[
            str, int
        ] = {}  # by ClOrdID: as the how many-th order it left, the last time
        self._life = 0
        self._kills = 0

    # ---- while it goes on --------------------------------------------------------------------------------------

    def new_life(self, number: int) -> None:
        """An engine begins: what was asked of the one before and never answered may be lost."""
        self._life = number
        self._windows.clear()
        self.halts = {scope: halt for scope, halt in self.halts.items() if halt.answered}

    def sent(self, account: str, order: Order) -> None:
        """Judge an order at the moment its first byte leaves."""
        world = self._world
        world.counts["sent"] += 1
        world.trace("sent", account, order.cl_ord_id, order.side, order.order_qty)
        self._left[order.cl_ord_id] = len(self._left)
        if account != order.account:
            world.violation("I14", f"{order.cl_ord_id} of {order.account} left for {account}")
        self._check_halts(order)
        self._check_rates(account)
        signal = self.signals.get(f"{order.source}/{order.signal_id}")
        if signal is not None and order.leg == "entry" and not order.reducing:
            self._check_age(order, signal)
            signal.accounts.add(account)
            most = self._day.config.limits.max_accounts_per_signal
            if len(signal.accounts) > most and not signal.released:
                world.violation("I15", f"{order.signal_id} went to more than {most} accounts")

    def _check_halts(self, order: Order) -> None:
        if order.source == OPERATOR:
            return
        for scope in self._scopes(order):
            halt = self.halts.get(scope)
            if halt is not None and self._world.now_ns > halt.since_ns + KILL_WITHIN_NS:
                late = (self._world.now_ns - halt.since_ns) / 1e6
                self._world.violation(
                    "I8", f"{order.cl_ord_id} left {late:.1f} ms after the kill of {scope}"
                )

    def _scopes(self, order: Order) -> tuple[str, ...]:
        broker = self._day.broker_of(order.account)
        return (
            "all", f"account:{order.account}", f"broker:{broker}", f"strategy:{order.strategy}",
            f"symbol:{order.symbol}",
        )  # fmt: skip

    def _check_rates(self, account: str) -> None:
        own = self._day.rate_of(account)
        firm = self._day.config.limits.max_orders_per_second
        for name, most in ((account, own), ("", firm)):
            window = self._windows[name]
            window.append(self._world.now_ns)
            while window[0] <= self._world.now_ns - SECOND:
                window.popleft()
            if len(window) > most:
                self._world.violation(
                    "I15", f"{len(window)} orders of {name or 'the firm'} within 1 s > {most}"
                )

    def _check_age(self, order: Order, signal: Sent) -> None:
        if signal.released or self.stepped or order.cl_ord_id in self.resent:
            return
        if self._day.venue_position(order.account, order.symbol) * order.side.sign < 0:
            return  # it made way for exits that rested; the wait is not counted
        age_s = (self._world.now_ns - signal.issued_ns) / SECOND
        if age_s > signal.max_age_s + 0.01:
            text = f"{order.cl_ord_id} left {age_s:.3f} s after its signal, allowed are"
            self._world.violation("I10", f"{text} {signal.max_age_s:g}")

    def arrived(self, account: VenueAccount, request: Request, *, beyond: bool = False) -> None:
        """Judge an order that its broker is about to accept.

        ``beyond``: later than it promises, so that the engine could not reckon with it any more.
        """
        world = self._world
        durable = self._day.disk.rows(
            "SELECT 1 FROM orders WHERE cl_ord_id = ? "
            "UNION ALL SELECT 1 FROM signals WHERE instr(plan, ?) LIMIT 1",
            request.cl_ord_id,
            request.cl_ord_id,
        )
        if not durable:
            world.violation("I4", f"{request.cl_ord_id} arrived and no intent of it is durable")
        if account.by_id.get(request.cl_ord_id):
            world.violation("I3", f"{request.cl_ord_id} is accepted twice at {account.name}")
        limits = self._day.widest_limits(account.name)
        order = self._day.order(request.cl_ord_id)
        if order is None or order.reducing:
            return
        quantity, worth = limits
        if quantity is not None and request.order_qty > quantity:
            world.violation("I15", f"{request.cl_ord_id}: {request.order_qty} > {quantity}")
        if not beyond:
            self._check_cap(account, request)
        price = request.limit_price
        if worth is not None and price is not None and request.order_qty * price > worth:
            total = request.order_qty * price
            world.violation("I15", f"{request.cl_ord_id}: worth {total} > {worth}")

    def _check_cap(self, account: VenueAccount, request: Request) -> None:
        """Judge the position that an entry may lead to, with what works in its direction already (C05).

        Exits always pass: one that left after the entry and overtook it on the way is not the entry's fault.
        """
        cap = self._day.widest_cap(account.name)
        if cap is None:
            return
        led_to = request.side.sign * account.positions.get(request.symbol, Decimal(0))
        led_to += request.order_qty
        for order in account.orders:
            if order.external or order.symbol != request.symbol or order.side is not request.side:
                continue
            if self._overtook(order, request):
                led_to -= order.cum_qty
            elif order.status.working:
                led_to += order.order_qty - order.cum_qty
        if led_to > cap:
            text = f"{request.cl_ord_id} may lead to {led_to} {request.symbol} of {account.name}"
            self._world.violation("I15", f"{text}, at most {cap}")

    def _overtook(self, other: VenueOrder, request: Request) -> bool:
        exit_ = self._day.order(other.cl_ord_id)
        if exit_ is None or not exit_.reducing:
            return False
        now = len(self._left)  # what replaces an order leaves without being "sent"
        return self._left.get(other.cl_ord_id, now) > self._left.get(request.cl_ord_id, now)

    def cancel_arrived(self, order: VenueOrder) -> None:
        """Judge a cancel: what is not ours is cancelled by nothing but the kill switch."""
        if order.external and not self._kills:
            self._world.violation("F56", f"an order of somebody else's was cancelled: {order.key}")

    def killed(self, scope: str) -> None:
        """Note that a kill is being asked for."""
        self._kills += 1
        self.halts.setdefault(scope, Halt(self._world.now_ns, self._life))

    def killed_by_file(self) -> None:
        """Note that a kill was left in the kill file."""
        self._kills += 1

    def answered(self, key: str, state: str, code: str, *, contradicted: bool) -> None:
        """Judge what a signal's sender is told: always what it was told first (F42)."""
        sent = self.signals[key]
        if contradicted:
            return
        if sent.answers and sent.answers[0] != (state, code):
            self._world.violation("F42", f"{key}: first {sent.answers[0]}, now {(state, code)}")
        sent.answers.append((state, code))

    # ---- at its end --------------------------------------------------------------------------------------------

    def open_ends(self) -> str:
        """Return what has not come to an end yet, empty when everything has."""
        engine = self._day.engine
        for order in engine.orders.orders.values():
            if order.account not in engine.fleet.states:
                continue  # removed while it worked, before a restart: nobody can be asked any more
            if order.status in _OPEN_ENDED:
                return f"{order.account} {order.cl_ord_id} is {order.status}: {order.text}"
            problem = self._differs(order)
            if problem:
                return problem
        return self._works_under_a_kill() or self._positions_differ()

    def _works_under_a_kill(self) -> str:
        """Return an order that still works although the kill switch was pressed for it and answered (C18)."""
        engine = self._day.engine
        for account in self._day.venue.accounts.values():
            for held in account.orders:
                order = engine.orders.orders.get(held.cl_ord_id)
                if held.external or held.beyond or not held.status.working or order is None:
                    continue
                if not self._usable(order):
                    continue
                scope = next(filter(self._is_killed, self._scopes(order)), "")
                if scope and order.source != OPERATOR:
                    return f"{account.name} {held.cl_ord_id} still works after the kill of {scope}"
        return ""

    def _usable(self, order: Order) -> bool:
        """Say whether anybody can ask an order's broker for anything."""
        state = self._day.engine.fleet.states.get(order.account)
        return state is not None and state.usable

    def _is_killed(self, scope: str) -> bool:
        halt = self.halts.get(scope)
        return halt is not None and halt.answered

    def _differs(self, order: Order) -> str:
        account = self._day.venue.accounts.get(order.account)
        held = account.by_id.get(order.cl_ord_id, []) if account is not None else []
        name = f"{order.account} {order.cl_ord_id}"
        if not held:
            if order.status in _NEVER_ACCEPTED and (order.code or order.text) and not order.cum_qty:
                return ""
            return f"{name} is {order.status} {order.code!r}, and its broker never had it"
        truth = held[0]
        if truth.beyond and truth.status.working and order.code == "ABSENT" and self._usable(order):
            return f"{name} was given up as absent, and works at its broker"  # F08: it is cancelled
        if truth.beyond or len(held) > 1:
            return ""  # outside what its broker promises; told as I3 if it is twice there
        if truth.cum_qty != order.cum_qty:
            return f"{name} has filled {order.cum_qty}, at its broker {truth.cum_qty}"
        if truth.status is not order.status:
            return f"{name} is {order.status} {order.code!r}, at its broker {truth.status}"
        return ""

    def _positions_differ(self) -> str:
        keeper = self._day.engine.keeper
        for account in self._day.venue.accounts.values():
            gone = account.name not in self._day.engine.fleet.states
            if gone or any(order.beyond for order in account.orders):
                continue
            symbols = {*account.positions, *keeper.open_symbols(account.name)}
            for symbol in sorted(symbols):
                held = keeper.get(account.name, symbol)
                ours = held.qty if held is not None else Decimal(0)
                theirs = account.positions.get(symbol, Decimal(0))
                if ours != theirs:
                    return f"{account.name} holds {theirs} {symbol} at its broker, {ours} here"
            paid = sum((position.cash for position in keeper.of(account.name)), Decimal(0))
            if abs(paid - (account.cash - CASH)) > _ROUNDED:
                return f"{account.name} has paid {account.cash - CASH} at its broker, {paid} here"
        return ""

    def judge_memory(self) -> None:
        """Compare what the engine holds with what the brokers hold (I5, I7, lost, ghosts)."""
        orders = self._day.engine.orders.orders
        for account in self._day.venue.accounts.values():
            for held in account.orders:
                if held.external:
                    continue
                order = orders.get(held.cl_ord_id)
                if order is None:
                    self._world.violation("ghost", f"{held.key} {held.cl_ord_id} is not known")
                elif order.order_qty != held.order_qty or order.side is not held.side:
                    self._world.violation("I2", f"{held.cl_ord_id} differs from its plan")

    def judge_disk(self) -> None:
        """Judge what is durable: every signal has its outcome, every order its end, every fill counts once."""
        disk, world = self._day.disk, self._world
        for row in disk.rows("SELECT text FROM temp.undone"):
            world.violation("I6", row["text"])
        self._judge_signals()
        self._judge_orders()
        problem = _broken_chain(self._day)
        if problem:
            world.violation("I12", problem)

    def _judge_signals(self) -> None:
        for row in self._day.disk.rows("SELECT * FROM signals ORDER BY seq"):
            key = f"{row['source']}/{row['id']}"
            plan = orjson.loads(row["plan"])
            rows = {r[1]: r[0] for *_, group in plan["orders"] for r in group}
            told = {a for reason in plan["reasons"] for a in reason[3]}
            if row["state"] == "accepted" and not (
                rows or told or plan["cancels"] or plan["done"] or plan["held"]
            ):
                self._world.violation("I1", f"{key} was accepted and nothing came of it")
            for account in sorted(rows.keys() & told):
                if self._ever_left(rows[account]):  # one that never left may be refused once more
                    self._world.violation("I2", f"{key}: {account} has an order and was refused")
            sent = self.signals.get(key)
            first = tuple(plan["first"][:2])
            if sent is not None and sent.answers and sent.answers[0] != first:
                self._world.violation("F42", f"{key}: told {sent.answers[0]}, kept {first}")
        for key, sent in self.signals.items():
            source, _, name = key.partition("/")
            if sent.answers and not self._day.disk.rows(
                "SELECT 1 FROM signals WHERE source = ? AND id = ?", source, name
            ):
                self._world.violation("lost", f"{key} was answered and is not in the journal")

    def _ever_left(self, cl_ord_id: str) -> bool:
        held = self._day.disk.rows("SELECT status, code FROM orders WHERE cl_ord_id = ?", cl_ord_id)
        return not held or not (held[0]["status"] == "denied" or held[0]["code"] == "ABSENT")

    def _judge_orders(self) -> None:
        disk, world = self._day.disk, self._world
        memory = self._day.engine.orders.orders
        filled: dict[str, Decimal] = defaultdict(Decimal)
        for row in disk.rows("SELECT cl_ord_id, last_qty FROM fills"):
            filled[row["cl_ord_id"]] += Decimal(row["last_qty"])
        known = set()
        for row in disk.rows("SELECT * FROM orders"):
            name = row["cl_ord_id"]
            known.add(name)
            if filled[name] != Decimal(row["cum_qty"]):
                world.violation("I11", f"{name}: fills {filled[name]}, order {row['cum_qty']}")
            if Decimal(row["cum_qty"]) > Decimal(row["order_qty"]):
                world.violation("I5", f"{name} filled {row['cum_qty']} of {row['order_qty']}")
            if name in memory and memory[name].status.value != row["status"]:
                status = memory[name].status
                world.violation("I12", f"{name} is {status}, on the disk {row['status']}")
        for row in disk.rows("SELECT plan FROM signals"):
            for *_, group in orjson.loads(row["plan"])["orders"]:
                for cl_ord_id, account, _ in group:
                    if cl_ord_id not in known:
                        world.violation("lost", f"{account} {cl_ord_id} was planned, has no row")

    def judge_recovery(self, first: dict[str, Any], second: dict[str, Any]) -> None:
        """Judge two recoveries in a row: the second changes nothing but what an approval's end does, by its time."""
        over = {row[0] for row in first["signals"] if self._hold_is_over(row)}
        for table in STATE_TABLES:
            before, after = first[table], second[table]
            if table == "signals":
                before, after = (
                    [row[:_STATE] if row[0] in over else row for row in rows]
                    for rows in (before, after)
                )
            if before != after:
                self._world.violation("I12", f"a second recovery changes {table}")

    def _hold_is_over(self, row: tuple[Any, ...]) -> bool:
        """Say whether a signal waited for approval when it was read, and the time for that has passed since."""
        expires = orjson.loads(row[_PLAN])["hold_expires_at"]
        return bool(expires) and datetime.fromisoformat(expires) <= self._world.wall()


def _broken_chain(day: Day) -> str:
    """Return where the audit chain breaks, empty when it is whole."""
    head = audit.first_head(day.engine.journal.book)
    for row in audit.rows_of(day.disk.connection):
        head = audit.chained(head, row["at"], row["kind"], row["account"], row["facts"])
        if (head.seq, head.hash) != (row["seq"], bytes(row["hash"])):
            return f"the audit chain breaks at row {row['seq']}"
    return ""
