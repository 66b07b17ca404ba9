"""The accounts at work: their states, sessions and lanes, kept in step with the account store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from engine import failpoints
from engine.balances import BalanceReader
from engine.clock import Clock
from engine.config import Config
from engine.errors import BrokerError, ConfigError
from engine.execution.dispatcher import Dispatcher
from engine.execution.lane import Denied, Gate, Lane
from engine.execution.limits import Limits
from engine.model.account import Account
from engine.model.account_state import AccountState
from engine.model.enums import ConnectionState, OrderType, TimeInForce
from engine.portfolio.position_keeper import PositionKeeper
from engine.ports import AccountStore, BrokerAdapter, BrokerSession, BrokerSink, Vault

log = logging.getLogger(__name__)

MOST_AT_ONCE = 32
_UP = (ConnectionState.CONNECTED, ConnectionState.DEGRADED)
_WIRE = ("broker", "environment", "base_url", "credentials", "egress", "options")
"""What of an account's document a session is made of: a change of it needs a new one."""


@dataclass(slots=True)
class FleetHooks:
    """What the fleet tells the engine."""

    changed: Callable[[str], None]  # an account's row changed
    accounts_changed: Callable[[], None]  # who follows what changed
    added: Callable[[AccountState], None]  # an account became known: it may have working orders
    connected: Callable[[AccountState], None]  # a session came up: reconcile
    alert: Callable[[str, str, str, str], None]  # severity, code, account, text
    failed: Callable[[str, BaseException, str], None]  # a task of an account's (empty: of all)
    opened: Callable[[AccountState, Lane], None]  # an account has a new session and lane


class Fleet:
    """Every account's state, session and lane."""

    def __init__(  # noqa: PLR0913 (what accounts hang on)
        self,
        *,
        config: Config,
        clock: Clock,
        store: AccountStore,
        vault: Vault,
        make_adapter: Callable[[str], BrokerAdapter],
        keeper: PositionKeeper,
        dispatcher: Dispatcher,
        sink: BrokerSink,
        gate: Gate,
        denied: Denied,
        hooks: FleetHooks,
    ) -> None:
        self._clock = clock
        self.store = store
        self._vault = vault
        self._make_adapter = make_adapter
        self._keeper = keeper
        self._dispatcher = dispatcher
        self._sink = sink
        self._gate = gate
        self._denied = denied
        self._hooks = hooks
        self.limits = Limits(clock, dispatcher, config.limits.max_orders_per_second)
        self.states: dict[str, AccountState] = {}
        self.sessions: dict[str, BrokerSession] = {}
        self._usable: dict[str, set[str]] = {}  # usable accounts by broker
        self._refusals: dict[str, str] = {}  # why an account could not connect, while it cannot
        self._adapters: dict[str, BrokerAdapter] = {}
        self.balances = BalanceReader(
            clock, self.states, self.sessions, dispatcher, keeper, hooks.changed
        )
        self._tasks: set[asyncio.Task[None]] = set()
        # By venue: those that wait for a dead one hold up nobody else's start.
        self._starting: dict[tuple[str, str | None], asyncio.Semaphore] = {}
        self._reloading = asyncio.Lock()
        self._stopping = False

    # ---- life ------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the accounts; nothing connects yet."""
        await self.store.open()
        for account in await self.store.load():
            self.states[account.id] = AccountState(account)
        self._report_problems()

    async def start(self) -> None:
        """Connect every account that is on, and follow the store."""
        for state in self.states.values():
            self._open(state)
        self._spawn(self.store.watch(self._reload), "watch-accounts")
        self._spawn(self.balances.run(), "balances")

    async def stop(self) -> None:
        """Disconnect everything."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(
            *(session.stop() for session in self.sessions.values()), return_exceptions=True
        )
        self.limits.close()
        for adapter in self._adapters.values():
            await adapter.close()
        await self.store.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str, account: str = "") -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, account))

    def _ended(self, task: asyncio.Task[None], account: str) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._hooks.failed(task.get_name(), error, account)

    # ---- sessions ----------------------------------------------------------------------------------------------

    def _open(self, state: AccountState) -> None:
        """Make an account's session and lane, and start connecting."""
        try:
            adapter = self._adapter(state.account.broker)
            credentials = {
                name: self._vault.reveal(state.id, name, secret.get_secret_value())
                for name, secret in state.account.credentials.items()
            }
            session = adapter.session(state.account, credentials, self._sink)
        except ConfigError as error:
            self._set_connection(state, ConnectionState.ERROR, str(error))
            self._hooks.alert("warning", "NOT_CONNECTED", state.id, str(error))
            return
        self.sessions[state.id] = session
        limit, way = self.limits.of(state.account, session.capabilities)
        state.reconciled = False  # whoever answers there is asked first
        lane = Lane(session, limit, way, self._clock, self._gate, self._denied)
        self._dispatcher.lanes[state.id] = lane
        self._hooks.opened(state, lane)
        self._spawn(self._connect(state, session), f"connect-{state.id}", state.id)

    async def first_try(self, within_s: float) -> None:
        """Wait until every account that is on has been tried once, a few seconds at most."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within_s
        trying = {ConnectionState.DISCONNECTED, ConnectionState.CONNECTING}
        while loop.time() < end and any(  # noqa: ASYNC110 (a state of many, not one event)
            state.active and state.connection in trying for state in self.states.values()
        ):
            await asyncio.sleep(0.01)

    def refuse_barred(self) -> None:
        """Refuse at once what waits for a connection and may not leave any more (the gate's word)."""
        for adapter in self._adapters.values():
            hub = getattr(adapter, "hub", None)  # as in engine.outside: paper and ccxt have none
            if hub is not None:
                hub.refuse_barred()

    def _adapter(self, broker: str) -> BrokerAdapter:
        adapter = self._adapters.get(broker)
        if adapter is None:
            adapter = self._adapters[broker] = self._make_adapter(broker)
        return adapter

    async def _connect(self, state: AccountState, session: BrokerSession) -> None:
        venue = (state.account.broker, state.account.base_url)
        async with self._starting.setdefault(venue, asyncio.Semaphore(MOST_AT_ONCE)):
            self._set_connection(state, ConnectionState.CONNECTING, "")
            try:
                await session.start()
            except BrokerError as error:
                self._set_connection(state, ConnectionState.ERROR, str(error))
                self._hooks.alert("warning", "NOT_CONNECTED", state.id, str(error))

    async def _close(self, account_id: str) -> None:
        lane = self._dispatcher.lanes.pop(account_id, None)
        if lane is not None:
            lane.close("INACTIVE", "the account was taken out of service")
        session = self.sessions.pop(account_id, None)
        if session is not None:
            await session.stop()

    def on_connection(self, account_id: str, connection: ConnectionState, text: str) -> None:
        """Take a session's new state."""
        state = self.states.get(account_id)
        if state is None:
            return
        before = state.connection
        self._set_connection(state, connection, text)
        if connection in {ConnectionState.CONNECTED, ConnectionState.DEGRADED}:
            self.balances.now(account_id)
            back = connection is ConnectionState.CONNECTED and before is not connection
            if back or not (state.reconciled or before in _UP):  # degraded from the start, too
                self._hooks.connected(state)
            lane = self._dispatcher.lanes.get(account_id)
            if lane is not None:
                lane.pump()
        elif not self._stopping and before in {ConnectionState.CONNECTED, ConnectionState.DEGRADED}:
            self._hooks.alert("warning", "NOT_CONNECTED", account_id, text or connection.value)

    def _set_connection(self, state: AccountState, connection: ConnectionState, text: str) -> None:
        state.connect(connection, text, self._clock.now())
        self._count_usable(state)
        if connection is ConnectionState.ERROR:
            state.last_error = self._refusals[state.id] = text
        elif connection is ConnectionState.CONNECTED:
            refusal = self._refusals.pop(state.id, None)
            if refusal == state.last_error:  # mended: as the newest error it would only mislead
                state.last_error = ""
        self._hooks.changed(state.id)

    @property
    def usable_brokers(self) -> set[str]:
        """Return the brokers with at least one usable account."""
        return {broker for broker, accounts in self._usable.items() if accounts}

    def _count_usable(self, state: AccountState) -> None:
        accounts = self._usable.setdefault(state.account.broker, set())
        if state.usable:
            accounts.add(state.id)
        else:
            accounts.discard(state.id)

    def session_of(self, broker: str) -> BrokerSession | None:
        """Return any usable session of a broker."""
        for state in self.states.values():
            if state.account.broker == broker and state.usable:
                return self.sessions.get(state.id)
        return None

    def one_session_per_venue(self) -> Iterable[BrokerSession]:
        """Return one usable session for every broker and address (paper has no prices of its own to ask)."""
        venues: dict[tuple[str, str | None], BrokerSession] = {}
        for state in self.states.values():
            if state.usable and state.account.broker != "paper":
                session = self.sessions.get(state.id)
                if session is not None:
                    venues.setdefault((state.account.broker, state.account.base_url), session)
        return venues.values()

    def unsupported(
        self, state: AccountState, order_type: OrderType, time_in_force: TimeInForce
    ) -> str:
        """Say why an account's broker has no such order, empty if it has."""
        session = self.sessions.get(state.id)
        return session.refusal(order_type, time_in_force) if session is not None else ""

    # ---- following the store ---------------------------------------------------------------------------------

    async def _reload(self, _ids: object) -> None:
        await self.reload()

    async def reload(self) -> int:
        """Read the accounts again and take over what changed; return how many differ."""
        async with self._reloading:
            documents = {account.id: account for account in await self.store.load()}
            changed = 0
            if failpoints.ARMED:
                failpoints.hit("K28.before")
            for account_id in list(self.states):
                if account_id not in documents:
                    changed += await self._removed(account_id)
            for account in documents.values():
                changed += await self._put(account)
            self._report_problems()
            if failpoints.ARMED:
                failpoints.hit("K28.after")
            if changed:
                self._hooks.accounts_changed()
            return changed

    async def _put(self, account: Account) -> int:
        state = self.states.get(account.id)
        if state is None:
            state = self.states[account.id] = AccountState(account)
            self._hooks.added(state)
            self._open(state)
        elif state.account == account:
            return 0
        else:
            before = state.account
            self._usable.setdefault(before.broker, set()).discard(account.id)
            state.update(account)
            self._count_usable(state)
            if any(getattr(before, name) != getattr(account, name) for name in _WIRE):
                await self._close(account.id)
                self._open(state)
            elif session := self.sessions.get(account.id):
                self.limits.of(account, session.capabilities)
        self._hooks.changed(account.id)
        return 1

    async def _removed(self, account_id: str) -> int:
        state = self.states[account_id]
        if state.working or self._keeper.open_symbols(account_id):
            # What it has at the broker is still managed; it takes no new orders.
            if not state.account.active:
                return 0
            state.update(state.account.model_copy(update={"active": False}))
            self._hooks.alert(
                "warning",
                "INACTIVE",
                account_id,
                "removed with working orders or positions: kept until they are closed",
            )
        else:
            await self._close(account_id)
            self.limits.forget(account_id)
            self._usable.get(state.account.broker, set()).discard(account_id)
            del self.states[account_id]
        self._hooks.changed(account_id)
        return 1

    def _report_problems(self) -> None:
        for account_id, text in self.store.problems().items():
            self._hooks.alert("warning", "ACCOUNT_UNREADABLE", account_id, text)
