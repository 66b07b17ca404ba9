"""Tokens of brokers whose logins end: kept encrypted, renewed before they do, once per account.

Two hundred accounts whose sessions end at the same minute must not become a storm: renewals are spread over
the time before the end, start one after another, never twice at once for an account, and after a failure not
before a pause that grows.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

from engine.brokers.dial import Pacer
from engine.clock import Clock, SystemClock
from engine.errors import BrokerAuthError, BrokerError, StoreError
from engine.ports import SessionToken, TokenStore

log = logging.getLogger(__name__)

Refresh = Callable[[SessionToken], Awaitable[SessionToken]]
"""Asks the broker for a new token; raises ``BrokerError``, ``BrokerAuthError`` if only a person can help."""

LOOK_S = 0.5
"""How often the store is looked at for tokens that another process saved."""
_NAP_S = 60.0  # a machine that slept must not sleep on beyond a token's end
_BACKOFF_S = 1.0
_BACKOFF_MAX_S = 120.0


class SessionCache:
    """The tokens of one broker's accounts.

    ``ahead``: how long before its end a token is renewed, at the latest; up to twice that, by chance.
    ``per_second``: how many renewals of all accounts may start in a second.
    """

    def __init__(
        self,
        store: TokenStore | None = None,
        *,
        clock: Clock | None = None,
        ahead: timedelta = timedelta(minutes=10),
        per_second: float = 5.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._ahead = ahead
        self._pacer = Pacer(per_second)
        self._sleep = sleep
        self._tokens: dict[str, SessionToken] = {}
        self._over: dict[str, str] = {}  # tokens a broker called over, whatever their own date says
        self._renewing: dict[str, asyncio.Task[SessionToken]] = {}
        self._failures: dict[str, _Failure] = {}
        self._followers: dict[str, Callable[[SessionToken], None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._seen = 0

    def get(self, account: str, owner: str = "") -> SessionToken | None:
        """Return the token of an account while it is good, and made with the key ``owner``."""
        token = self._tokens.get(account)
        if token is None and self._store is not None:
            token = self._store.load(account)
            if token is not None:
                self._tokens[account] = token
        if token is None or (owner and token.owner and owner != token.owner):
            return None
        return token if self._good(account, token) else None

    def put(self, account: str, token: SessionToken) -> None:
        """Keep a token, here and in the store.

        Raises:
            StoreError: the store cannot be written; it is kept here all the same.
        """
        self._tokens[account] = token
        self._failures.pop(account, None)
        if self._store is not None:
            self._store.save(account, token)

    def drop(self, account: str, token: str) -> None:
        """Note that the broker calls this very token over; a newer one stays."""
        self._over[account] = token

    def is_over(self, account: str, token: str) -> bool:
        """Say whether the broker called this very token over."""
        return self._over.get(account) == token

    def _good(self, account: str, token: SessionToken) -> bool:
        return self._over.get(account) != token.token and token.expires_at > self._clock.now()

    # Renewal

    async def renew(self, account: str, refresh: Refresh) -> SessionToken:
        """Renew an account's token now; whoever asks meanwhile waits for the same answer.

        Raises:
            BrokerAuthError: only a person can help.
            BrokerError: not now; asked again too soon after a failure, nothing is sent.
        """
        task = self._renewing.get(account)
        if task is None:
            failure = self._failures.get(account)
            if failure is not None and self._clock.monotonic_ns() < failure.until_ns:
                raise failure.error
            task = asyncio.get_running_loop().create_task(self._renew(account, refresh))
            self._renewing[account] = task
            task.add_done_callback(lambda done: self._renewed(account, done))
        return await asyncio.shield(task)

    def _renewed(self, account: str, task: asyncio.Task[SessionToken]) -> None:
        del self._renewing[account]
        if not task.cancelled():
            task.exception()  # told to those who wait; nobody may be waiting any more

    async def _renew(self, account: str, refresh: Refresh) -> SessionToken:
        before = self._tokens.get(account)
        if before is None:
            raise BrokerAuthError(f"account {account}: nobody has logged in yet", account=account)
        await self._pacer.turn()
        try:
            token = await refresh(before)
        except BrokerError as error:
            self._failed(account, error)
            raise
        try:
            self.put(account, token)
        except StoreError as error:  # it works until the next restart
            log.warning("the session of account %s cannot be kept: %s", account, error)
        return token

    def _failed(self, account: str, error: BrokerError) -> None:
        failures = self._failures.get(account)
        count = failures.count + 1 if failures else 1
        pause = min(_BACKOFF_S * 2 ** min(count - 1, 10), _BACKOFF_MAX_S)
        pause = max(pause * random.uniform(0.5, 1.0), error.retry_after or 0.0)  # noqa: S311
        until_ns = self._clock.monotonic_ns() + int(pause * 1e9)
        self._failures[account] = _Failure(error, count, until_ns, pause)

    async def keep(
        self, account: str, refresh: Refresh, on_token: Callable[[SessionToken], None]
    ) -> None:
        """Renew an account's token again and again before it ends, until cancelled.

        Raises:
            BrokerAuthError: only a person can help.
        """
        spread = 1.0 + random.random()  # noqa: S311 (spreads the load)
        while True:
            token = self._tokens.get(account)
            due = token.expires_at - self._ahead * spread if token else self._clock.now()
            while (left := (due - self._clock.now()).total_seconds()) > 0:
                await self._sleep(min(left, _NAP_S))
            try:
                on_token(await self.renew(account, refresh))
            except BrokerAuthError:
                raise
            except BrokerError:
                failure = self._failures.get(account)
                await self._sleep(failure.pause_s if failure else _BACKOFF_S)

    # Tokens saved by others

    def follow(
        self, account: str, on_token: Callable[[SessionToken], None]
    ) -> Callable[[], Awaitable[None]]:
        """Call ``on_token`` when another process saved a token; return what ends that."""
        self._followers[account] = on_token
        if self._store is not None and self._watch is None:
            self._seen = self._store.version()
            self._watch = asyncio.get_running_loop().create_task(self._look())

        async def leave() -> None:
            if self._followers.get(account) is on_token:
                del self._followers[account]
            if not self._followers and self._watch is not None:
                task, self._watch = self._watch, None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        return leave

    async def _look(self) -> None:
        assert self._store is not None
        while True:
            await self._sleep(LOOK_S)
            version = self._store.version()
            if version == self._seen:
                continue
            self._seen = version
            for account, on_token in list(self._followers.items()):
                self._look_at(account, on_token)

    def _look_at(self, account: str, on_token: Callable[[SessionToken], None]) -> None:
        token = self._store.load(account) if self._store is not None else None
        if token is None or token == self._tokens.get(account) or not self._good(account, token):
            return
        self._tokens[account] = token
        self._failures.pop(account, None)
        on_token(token)


class _Failure:
    """The last failure to renew a token."""

    __slots__ = ("count", "error", "pause_s", "until_ns")

    def __init__(self, error: BrokerError, count: int, until_ns: int, pause_s: float) -> None:
        self.error = error
        self.count = count
        self.until_ns = until_ns
        self.pause_s = pause_s
