"""The user data stream: one WebSocket API connection for up to 1,000 accounts, kept up and renewed in time.

Source: web-socket-api.md, "User Data Stream requests". An event goes to the account whose subscription it names and
to no other; one that names none we know is not delivered at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, cast

import orjson

from engine.brokers import reconnect
from engine.brokers.binance import mapping
from engine.brokers.dial import Route
from engine.brokers.websocket import WebSocket
from engine.errors import BrokerError, BrokerProtocolError

log = logging.getLogger(__name__)

MOST_SUBSCRIPTIONS = 1000
LIFE_S = 23 * 3600.0
"""A connection lives 24 hours; its successor is there an hour before."""
_TIMEOUT_S = 10.0
_AT_ONCE = 50
_EARLY = 1000
_AGAIN_S = 1.0
_AGAIN_MAX_S = 60.0
_ACTIVE = -2035


class Subscriber(Protocol):
    """An account on the stream. Nothing here may block."""

    account_id: str
    stream_key: str
    """Whose events come: a connection takes one subscription for each key."""

    def subscription(self) -> dict[str, str | int]:
        """Return the signed parameters of ``userDataStream.subscribe.signature``."""
        ...

    def take_event(self, event: Mapping[str, Any]) -> None:
        """Take one event; raises ``BrokerProtocolError`` if it cannot be read."""
        ...

    def stream_changed(self, up: bool, reason: str) -> None:
        """Note that events come, or that some may be missing from now on."""
        ...

    def refuse_credentials(self, reason: str) -> None:
        """Note that the broker refuses this account's key."""
        ...

    def clock_refused(self) -> None:
        """Note that the signed time was refused."""
        ...


class UserStreams:
    """Places subscribers on connections; one is closed when its last subscriber leaves."""

    def __init__(
        self,
        url: str,
        context: Callable[[], ssl.SSLContext] | None,
        route: Route | None,
        *,
        life_s: float = LIFE_S,
    ) -> None:
        self.url = url
        self.context = context
        self.route = route
        self.life_s = life_s
        self._links: list[_Link] = []

    async def follow(self, subscriber: Subscriber) -> None:
        """Keep a subscriber subscribed until cancelled, or until its key is refused."""
        link = next((one for one in self._links if one.has_room(subscriber)), None)
        if link is None:
            link = _Link(self)
            self._links.append(link)
        ended = link.add(subscriber)
        try:
            await ended
        finally:
            await link.remove(subscriber)
            if not link.members and link in self._links:
                self._links.remove(link)
                await link.stop()


class _Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: int, words: str, wait_s: float) -> None:
        super().__init__(words)
        self.status = status
        self.code = code
        self.words = words
        self.wait_s = wait_s


class _Connection:
    """One WebSocket: questions and their answers, subscription ids and their accounts."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._early: list[tuple[int, Mapping[str, Any]]] = []
        self.ids: dict[int, Subscriber] = {}
        self._ended: set[int] = set()  # ids that were somebody's
        self.socket: WebSocket | None = None
        self.retire = asyncio.Event()  # a successor is wanted

    async def open(self) -> None:
        """Connect."""
        streams = self._link.streams
        self.socket = await WebSocket.connect(
            streams.url,
            on_message=self._message,
            context=streams.context() if streams.context else None,
            egress=streams.route,
            timeout_s=_TIMEOUT_S,
        )

    async def closed(self) -> str:
        """Wait for its end and return why."""
        assert self.socket is not None
        return await self.socket.closed()

    async def close(self) -> None:
        """Close it."""
        if self.socket is not None:
            await self.socket.close()

    async def ask(self, method: str, params: Mapping[str, str | int]) -> dict[str, Any]:
        """Ask and return the result.

        Raises:
            _Refused: an error came back.
            OSError: the connection was lost, or no answer came in time.
        """
        assert self.socket is not None
        self._last_id += 1
        number = self._last_id
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            request = {"id": number, "method": method, "params": params}
            self.socket.send(orjson.dumps(request).decode())
            reply = await self.socket.reply(answer, _TIMEOUT_S)
        finally:
            del self._asked[number]
        if reply.get("status") == 200:
            result = reply.get("result")
            return result if isinstance(result, dict) else {}
        raise _refusal(reply)

    async def subscribe(self, subscriber: Subscriber) -> None:
        """Subscribe an account; raises as ``ask``."""
        result = await self.ask("userDataStream.subscribe.signature", subscriber.subscription())
        number = result.get("subscriptionId")
        if type(number) is not int:
            raise BrokerProtocolError("a subscription without an id")
        self.ids[number] = subscriber
        early, self._early = self._early, []
        for its_number, event in early:
            self._event(its_number, event)

    async def unsubscribe(self, subscriber: Subscriber) -> None:
        """Let an account go; a connection that is gone has no subscription either."""
        for number, member in list(self.ids.items()):
            if member is subscriber:
                self._end(number)
                with contextlib.suppress(OSError, _Refused):
                    await self.ask("userDataStream.unsubscribe", {"subscriptionId": number})

    def _message(self, message: bytes) -> None:
        try:
            found = orjson.loads(message)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise BrokerProtocolError("a message that is no JSON object")
        event = found.get("event")
        if not isinstance(event, dict):
            number = found.get("id")
            answer = self._asked.get(number) if type(number) is int else None
            if answer is not None and not answer.done():
                answer.set_result(found)
        elif event.get("e") == "serverShutdown":
            self.retire.set()
        else:
            self._event(found.get("subscriptionId"), event)

    def _event(self, number: object, event: Mapping[str, Any]) -> None:
        subscriber = self.ids.get(number) if type(number) is int else None
        if subscriber is None:
            # Perhaps the answer that says whose it is was not read yet. Never anybody else's.
            fresh = type(number) is int and number not in self._ended
            if fresh and self._asked and len(self._early) < _EARLY:
                self._early.append((cast(int, number), event))
        elif event.get("e") == "eventStreamTerminated":
            self._end(cast(int, number))
            self._link.terminated(self, subscriber)
        else:
            self._deliver(subscriber, event)

    def _end(self, number: int) -> None:
        del self.ids[number]
        self._ended.add(number)

    def _deliver(self, subscriber: Subscriber, event: Mapping[str, Any]) -> None:
        try:
            subscriber.take_event(event)
        except BrokerProtocolError as error:
            # One account's news is lost: for it alone that is a break, which the engine reconciles.
            subscriber.stream_changed(False, str(error))
            subscriber.stream_changed(True, "")


def _refusal(reply: Mapping[str, Any]) -> _Refused:
    status, error = reply.get("status"), reply.get("error")
    code, words = mapping.code_of(error)
    data = error.get("data") if isinstance(error, dict) else None
    wait_s = 0.0
    if isinstance(data, dict):
        until, now = data.get("retryAfter"), data.get("serverTime")
        if type(until) is int and type(now) is int:
            wait_s = max(0.0, (until - now) / 1000)
    return _Refused(status if type(status) is int else 0, code, words, wait_s)


class _Link:
    """One place for up to 1,000 subscribers: a connection, its successor before it ends, reconnection."""

    def __init__(self, streams: UserStreams) -> None:
        self.streams = streams
        self.members: dict[Subscriber, asyncio.Future[None]] = {}
        self._keys: set[str] = set()
        self._current: _Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._hold(reconnect.follow(self._live, self._changed))

    def has_room(self, subscriber: Subscriber) -> bool:
        """Say whether this one fits: there is room, and nobody with its key."""
        return len(self.members) < MOST_SUBSCRIPTIONS and subscriber.stream_key not in self._keys

    def add(self, subscriber: Subscriber) -> asyncio.Future[None]:
        """Take a subscriber; what is returned ends when its key is refused."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.members[subscriber] = ended
        self._keys.add(subscriber.stream_key)
        if self._current is not None:
            self._hold(self._enter(self._current, subscriber))
        return ended

    async def remove(self, subscriber: Subscriber) -> None:
        """Let a subscriber go."""
        self.members.pop(subscriber, None)
        self._keys.discard(subscriber.stream_key)
        current = self._current
        if current is not None and self.members:
            self._hold(current.unsubscribe(subscriber))

    async def stop(self) -> None:
        """Close; nothing is left running."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def terminated(self, connection: _Connection, subscriber: Subscriber) -> None:
        """Subscribe an account again whose subscription the broker ended."""
        if connection is self._current and subscriber in self.members:
            subscriber.stream_changed(False, "the broker ended the subscription")
            self._hold(self._enter(connection, subscriber))

    def _hold(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _changed(self, up: bool, reason: str) -> None:
        if not up:
            for subscriber in list(self.members):
                subscriber.stream_changed(False, reason)

    async def _live(self, up: Callable[[], None]) -> str:
        """Live through one connection and its successors; return why the last was lost."""
        connection = _Connection(self)
        try:
            await connection.open()
            self._current = connection
            up()
            for subscriber in list(self.members):
                self._hold(self._enter(connection, subscriber))
            while await self._wears_out(connection):
                successor = _Connection(self)
                try:
                    await successor.open()
                    self._current = successor
                    await asyncio.gather(
                        *[self._enter(successor, one) for one in list(self.members)]
                    )
                except BaseException:
                    await successor.close()
                    raise
                connection, old = successor, connection
                await old.close()
            return await connection.closed()
        finally:
            self._current = None
            await connection.close()

    async def _wears_out(self, connection: _Connection) -> bool:
        """Wait; say whether it is time for a successor (else it was lost)."""
        life_s = self.streams.life_s * random.uniform(0.95, 1.0)  # noqa: S311 (spreads the load)
        loop = asyncio.get_running_loop()
        lost = loop.create_task(connection.closed())
        retire = loop.create_task(connection.retire.wait())
        try:
            await asyncio.wait({lost, retire}, timeout=life_s, return_when=asyncio.FIRST_COMPLETED)
            return not lost.done()
        finally:
            lost.cancel()
            retire.cancel()
            await asyncio.gather(lost, retire, return_exceptions=True)

    async def _enter(self, connection: _Connection, subscriber: Subscriber) -> None:
        """Subscribe one account, again and again while there is hope; its trouble is nobody else's."""
        failures = 0
        while subscriber in self.members and self._current is connection:
            wait_s = 0.0
            try:
                async with self._gate:
                    await connection.subscribe(subscriber)
            except _Refused as refused:
                if mapping.refused_key(refused.code):
                    subscriber.refuse_credentials(
                        f"the order stream refuses these credentials: {refused.words}"
                    )
                    ended = self.members.get(subscriber)
                    if ended is not None and not ended.done():
                        ended.set_result(None)
                    return
                if refused.code == _ACTIVE:  # its answer was lost, and with it the id: begin afresh
                    connection.retire.set()
                    return
                if refused.code == mapping.CLOCK:
                    subscriber.clock_refused()
                reason, wait_s = f"{refused.words} ({refused.code})", refused.wait_s
            except ConnectionError:
                return  # it is over for all; the next connection subscribes them again
            except (OSError, BrokerError) as error:
                reason = str(error) or "no answer in time"
            else:
                subscriber.stream_changed(True, "")
                return
            subscriber.stream_changed(False, f"order stream: {reason}")
            failures += 1
            again = min(_AGAIN_S * 2 ** min(failures - 1, 10), _AGAIN_MAX_S)
            await asyncio.sleep(max(wait_s, again * random.uniform(0.5, 1.0)))  # noqa: S311
