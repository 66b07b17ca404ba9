"""An event loop whose time is simulated: it never waits, and a crash may come between any two steps of it."""

from __future__ import annotations

import asyncio
import math
import threading
from asyncio import events
from collections.abc import Callable, Coroutine
from contextlib import suppress
from heapq import heappop
from typing import Any

from tests.simulation.world import World


class Crash(BaseException):
    """The process is gone: nothing of it runs any more."""


class _Numbered:
    """Hashes as the number it was made under: sets of tasks and futures have the same order in every run."""

    number: int

    def __hash__(self) -> int:
        return self.number


class SimTask(_Numbered, asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address."""


class SimFuture(_Numbered, asyncio.Future[Any]):
    """A future whose place in a set does not depend on its address."""


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop of one life of an engine; the time is the world's, which outlives it.

    Between two turns the world's own events (the venue, the market, the disk) take place at their times. While the
    loop is stalled (``stall``) they still do, and nothing of the engine runs.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.steps = 0
        self.crash_at = 0  # the step before which the process dies, 0 for none
        self.stalled_until_ns = 0
        self.tasks: list[SimTask] = []
        self._numbers = 0
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._unhandled)
        self.dead = False

    def __del__(self) -> None:
        """It holds nothing that would have to be closed."""

    # ---- what asyncio asks of a loop -------------------------------------------------------------------------

    def time(self) -> float:
        """Return the world's time in seconds."""
        return self.world.now_ns / 1e9

    def create_future(self) -> SimFuture:
        """Make a future with a number of its own."""
        future = SimFuture(loop=self)
        future.number = self._next()
        return future

    def _make_task(
        self, _loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> SimTask:
        number = self._next()
        task = SimTask.__new__(SimTask)
        task.number = number  # before it is put into any set
        SimTask.__init__(task, work, loop=self, **options)
        self.tasks.append(task)
        if len(self.tasks) > 512:
            self.tasks = [task for task in self.tasks if not task.done()]
        return task

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        """Schedule a callback; there is only one thread."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run blocking work at once; its result arrives a turn later."""
        del executor
        future = self.create_future()
        try:
            outcome = func(*args)
        except Exception as error:  # noqa: BLE001 (whatever it is belongs to the one who waits)
            self.call_soon(_refuse, future, error)
        else:
            self.call_soon(_answer, future, outcome)
        return future

    def _unhandled(self, _loop: Any, context: dict[str, Any]) -> None:
        if not self.dead:
            error = context.get("exception")
            self.world.violation(
                "unhandled", f"{context.get('message')}: {type(error).__name__}: {error}"
            )

    # ---- running ---------------------------------------------------------------------------------------------

    def live(self, until: Callable[[], bool], end_ns: int) -> bool:
        """Run until a fact holds; ``False`` if it did not before ``end_ns``.

        Raises:
            Crash: the step ``crash_at`` was reached, or a world's event ended the process.
        """
        before = events._get_running_loop()
        events._set_running_loop(self)
        self._thread_id = threading.get_ident()
        try:
            while not until():
                if self.world.now_ns >= end_ns:
                    return False
                self._turn(end_ns)
            return True
        finally:
            self._thread_id = None
            events._set_running_loop(before)

    def _turn(self, end_ns: int) -> None:
        world, ready = self.world, self._ready
        if self.stalled_until_ns > world.now_ns:
            world.advance_to_first(min(self.stalled_until_ns, end_ns))
            return
        if ready:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                self.steps += 1
                if self.steps == self.crash_at:
                    raise Crash
                handle._run()
            world.advance(world.now_ns + world.turn_ns)
        else:
            self._jump(end_ns)
        now = world.now_ns / 1e9 + 1e-9
        scheduled = self._scheduled
        while scheduled and (scheduled[0]._cancelled or scheduled[0]._when <= now):
            handle = heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
            else:
                self._timer_cancelled_count -= 1

    def _jump(self, end_ns: int) -> None:
        """Go to the next moment anything happens at."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heappop(scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        timer_ns = math.ceil(scheduled[0]._when * 1e9) if scheduled else end_ns
        self.world.advance_to_first(min(timer_ns, end_ns))

    def kill(self) -> None:
        """Drop everything as SIGKILL does: no handler, no ``finally`` of it has any effect on the world."""
        self.dead = True
        before = events._get_running_loop()
        events._set_running_loop(
            self
        )  # whoever asks for a loop while it is dropped gets the dead one
        try:
            for task in self.tasks:
                task._log_destroy_pending = False
                if not task.done():
                    with suppress(RuntimeError, Exception):
                        task.get_coro().close()  # type: ignore[union-attr]
        finally:
            events._set_running_loop(before)
        self.tasks.clear()
        self._ready.clear()
        self._scheduled.clear()


def _answer(future: asyncio.Future[Any], outcome: object) -> None:
    if not future.done():
        future.set_result(outcome)


def _refuse(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
