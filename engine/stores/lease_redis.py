"""One engine a book where several machines share a Redis: a lease with a fencing epoch (control C27, failure F50).

Orders need SQLite only, so a Redis that is down must not stop them (F24); an engine whose lease may be another's must
send nothing (F50). Both hold by one rule: **an engine sends only while no other holder can exist.** It has two proofs,
each good for half the lease's time (``TTL_S / 2``), counted from before the question was asked:

* its own lease was granted or renewed: the server gives it to nobody else for ``TTL_S``;
* it held the lease, and the server's address *refuses* connections: there is no server, which could have granted
  anything. A server that hangs or cannot be reached is no proof: others may reach it, so half a lease later
  entries and exits wait (cancels go on) until it answers.

Between a server's return and our next question another engine may be granted the lease; therefore a new holder that
cannot know the one before to be gone sends nothing for ``TTL_S``, by when the old one has asked, or has lost its proof.
An engine that finds another holder sends nothing any more in this life. A start without the server sends nothing until
it has answered once: a copy of this home may be at work.

What this cannot see: two servers behind two addresses (a failover to a replica), and two clones of one running virtual
machine. ``first byte`` and lease are checked microseconds apart, not in one step; a process stopped exactly between
sends that one order when it wakes, under the same client order id as its successor.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from engine import failpoints
from engine.clock import Clock, SystemClock
from engine.errors import HomeLocked
from engine.stores.binding import machine_digest

log = logging.getLogger(__name__)

TTL_S: Final = 10.0
_RENEWALS: Final = 10 / 3  # in a lease's time: each 3 s
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")

_TAKE: Final = """
local lease, owner = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
local me = cjson.decode(ARGV[1])
if lease then
  local l = cjson.decode(lease)
  if l.instance ~= me.instance and (l.home ~= me.home or ARGV[3] == 'renew') then return {0, lease} end
end
if owner then
  local o = cjson.decode(owner)
  if o.instance == me.instance then me.epoch = o.epoch
  elseif ARGV[3] == 'renew' then return {0, owner}
  else me.epoch = math.max(o.epoch + 1, me.epoch) end
end
local text = cjson.encode(me)
redis.call('SET', KEYS[1], text, 'PX', ARGV[2])
redis.call('SET', KEYS[2], text)
return {me.epoch, owner or ''}
"""
_RELEASE: Final = """
local lease = redis.call('GET', KEYS[1])
if lease and cjson.decode(lease).instance == ARGV[1] then
  redis.call('DEL', KEYS[1])
  local o = cjson.decode(lease)
  o.released = true
  redis.call('SET', KEYS[2], cjson.encode(o))
end
"""


class BookLease:
    """The lease of one book, held by one engine.

    ``last`` is what this home noted of its last lease (``fact``): the epoch only rises, even if the server has
    forgotten everything, and after a crash the server's having forgotten is no proof that nobody took over.
    """

    def __init__(
        self,
        client: Redis,
        book: str,
        home: Path,
        *,
        last: Mapping[str, Any] | None = None,
        ttl_s: float = TTL_S,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._keys = (f"volley:lease:{{{book}}}", f"volley:owner:{{{book}}}")
        self._me: dict[str, Any] = {
            "instance": uuid.uuid4().hex,
            "home": f"{machine_digest()[:16]}:{_boot_id()}:{home}",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "epoch": int((last or {}).get("epoch", 0)) + 1,
        }
        self._crashed = last is not None and not last.get("released")
        self._ttl_s = ttl_s
        self._clock = clock or SystemClock()
        self._not_before_ns = 0
        self._safe_until_ns = 0
        self._safe_until = _NEVER  # by the wall clock: the other stands still in a sleep
        self._held = False  # it was granted in this life
        self._task: asyncio.Task[None] | None = None
        self.on_lost: Callable[[str], None] = lambda _text: None
        """Called once, when another engine is found to hold the book."""
        self.on_change: Callable[[dict[str, Any]], None] = lambda _fact: None
        """Called with what this home should note: the lease was granted, or is given back."""
        self.epoch = 0
        self.taken_by = ""
        self.problem = "the book's lease was not asked for yet"

    def refusal(self) -> tuple[str, str] | None:
        """Say why no order may leave now (code, sentence); asked of every order, from memory alone."""
        now = self._clock.monotonic_ns()
        proven = now < self._safe_until_ns and self._clock.now() < self._safe_until
        if proven and now >= self._not_before_ns and not self.taken_by:
            return None
        if self.taken_by:
            return "EPOCH", f"{self.taken_by}; this engine sends nothing any more"
        if now < self._not_before_ns:
            return "EPOCH", "the book was another engine's: it is given time to notice"
        return "EPOCH", f"nobody can say that no other engine has this book: {self.problem}"

    async def start(self) -> None:
        """Ask for the lease once, then keep it; where the server does not answer, keep asking.

        Raises:
            HomeLocked: another engine holds it; the text names it.
        """
        await self._ask("take")
        if self.taken_by:
            raise HomeLocked(self.taken_by)
        self._task = asyncio.create_task(self._keep(), name="book-lease")

    async def stop(self) -> None:
        """Give it back, so that the next engine need not wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._safe_until_ns = 0
        try:
            async with asyncio.timeout(1.0):
                await self._client.eval(_RELEASE, 2, *self._keys, self._me["instance"])
            if self._held and not self.taken_by:
                self.on_change({"epoch": self.epoch, "released": True})
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("the book's lease ends by itself: %s", type(error).__name__)

    async def _keep(self) -> None:
        while not self.taken_by:
            await asyncio.sleep(self._ttl_s / _RENEWALS)
            try:
                await self._ask("renew" if self._held else "take")
            except Exception as error:
                log.exception("the lease cannot be asked for")
                self.problem = f"its answer cannot be read ({type(error).__name__})"
        log.critical("%s", self.taken_by)
        self.on_lost(self.taken_by)

    async def _ask(self, how: str) -> None:
        """Ask for the lease or its renewal; what comes of it is in ``refusal``."""
        asked_ns, asked = self._clock.monotonic_ns(), self._clock.now()
        if failpoints.ARMED:
            failpoints.hit("K32.before")
        try:
            async with asyncio.timeout(self._ttl_s / 5):
                answer, before = await self._client.eval(
                    _TAKE, 2, *self._keys, json.dumps(self._me), int(self._ttl_s * 1000), how
                )
        except (RedisError, OSError, TimeoutError) as error:
            self.problem = f"Redis does not answer ({type(error).__name__})"
            if self._held and await self._nobody_is_there():
                self._prove(asked_ns, asked)
            return
        finally:
            if failpoints.ARMED:
                failpoints.hit("K32.after")
        if not answer:
            self.taken_by = _sentence(before)
            return
        self.problem = "it could not be renewed"
        if self.epoch != int(answer):
            self.epoch = int(answer)
            self.on_change({"epoch": self.epoch, "released": False})
        if not self._held and self._someone_may_be_there(before):
            self._not_before_ns = asked_ns + int(self._ttl_s * 1e9)
        self._held = True
        self._prove(asked_ns, asked)

    def _prove(self, asked_ns: int, asked: datetime) -> None:
        self._safe_until_ns = asked_ns + int(self._ttl_s / 2 * 1e9)
        self._safe_until = asked + timedelta(seconds=self._ttl_s / 2)

    def _someone_may_be_there(self, before: bytes | str) -> bool:
        """Say whether an engine may be at work that has yet to notice that it is not the holder any more."""
        if not before:
            return self._crashed  # the server has forgotten who was the holder since
        owner = json.loads(before)
        return not owner.get("released") and owner["home"] != self._me["home"]

    async def _nobody_is_there(self) -> bool:
        """Say whether the server's address refuses connections: then there is none that could grant anything."""
        at = self._client.connection_pool.connection_kwargs
        try:
            async with asyncio.timeout(self._ttl_s / 10):
                if "path" in at:
                    _, writer = await asyncio.open_unix_connection(at["path"])
                else:
                    _, writer = await asyncio.open_connection(at["host"], at["port"])
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except (OSError, TimeoutError):
            return False
        writer.close()
        return False


def _boot_id() -> str:
    """Return what is this machine's since it was started: the system's lock is proof between two with the same."""
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return ""


def _sentence(raw: bytes) -> str:
    owner = json.loads(raw)
    return (
        f"another engine holds this book: process {owner['pid']} on {owner['host']} since {owner['since']} "
        f"(epoch {owner['epoch']})"
    )
