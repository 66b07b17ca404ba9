"""What a fault makes of a request's answer, and of the events an order stream tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from engine.simbroker.dialect import Reply
from engine.simbroker.faults import Struck
from engine.simbroker.http import Answer, head
from engine.simbroker.streams import Held, Stream
from engine.simbroker.venue import Quirks

_GARBAGE = b"\x00\xff" * 32
_TOO_MUCH = 64  # bytes that wrong_length promises and never sends
_ENDS = {
    "drop": "close",
    "accept_then_drop": "close",
    "hang": "hang",
    "accept_then_hang": "hang",
    "late_accept": "hang",
}
_PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>gateway</body></html>\n"
HTML = Reply(200, _PAGE, headers="content-type: text/html\r\n")


def quirks_of(struck: Struck) -> Quirks:
    """Return what a fault asks of the venue itself."""
    return Quirks(
        skew_s=struck.delay_s if struck.action == "date_skew" else 0.0,
        hide_s=struck.delay_s if struck.action == "visibility_lag" else 0.0,
        duplicate=struck.action == "duplicate_id_reply",
        several_ids=struck.action == "array_of_ids",
    )


def answer_of(reply: Reply, delay_s: float, skew_s: float = 0.0) -> Answer:
    """Return the honest answer, to leave ``delay_s`` from now."""
    if reply.stream is not None:
        begin = head(reply.status, None, reply.headers, skew_s)
        return Answer(begin, delay_s, reply.after, stream=reply.stream)
    payload = head(reply.status, len(reply.body), reply.headers, skew_s) + reply.body
    return Answer(payload, delay_s, reply.after)


def spoil(struck: Struck, reply: Reply, delay_s: float, skew_s: float) -> Answer:
    """Return the answer that leaves instead of ``reply``, ``delay_s`` from now."""
    skew_s += struck.delay_s if struck.action == "date_skew" else 0.0
    answer = answer_of(reply, delay_s, skew_s)
    payload, body = answer.payload or b"", reply.body
    match struck.action:
        case action if action in _ENDS:
            return answer._replace(payload=None, close=_ENDS[action], stream=None)
        case "reset_mid_reply":
            return answer._replace(payload=payload[: len(payload) // 2], close="reset")
        case "truncated_json":
            half = body[: len(body) // 2]
            return answer._replace(payload=head(reply.status, len(half), reply.headers) + half)
        case "wrong_length":
            begin = head(reply.status, len(body) + _TOO_MUCH, reply.headers)
            return answer._replace(payload=begin + body, close="hang")
        case "placed_422":
            return answer._replace(payload=head(422, len(body), reply.headers) + body)
        case "garbage":
            return answer._replace(payload=_GARBAGE, close="close")
        case "slow_loris":
            return answer._replace(drip_s=struck.delay_s)
        case "delay":
            if reply.after is not None:  # the order trades: its events overtake the answer
                asyncio.get_running_loop().call_soon(reply.after)
            return answer._replace(delay_s=delay_s + struck.delay_s, after=None)
        case _:
            return answer


class Owner(Protocol):
    """Who has the streams whose events are meddled with."""

    held: Held | None


class Meddler:
    """Drops, repeats, delays and swaps the events of order streams, byte for byte as they were."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._kept: dict[str, Held] = {}

    def tell(self, account: str, tell: Callable[[], None]) -> None:
        """Tell an event as it is, then what was kept back for it."""
        tell()
        self._flush(account)

    def meddle(self, struck: Struck, account: str, tell: Callable[[], None]) -> None:
        """Do to an event what a fault says."""
        messages = self._capture(tell)
        loop = asyncio.get_running_loop()
        match struck.action:
            case "drop_stream":
                for stream in {id(stream): stream for stream, _ in messages}.values():
                    loop.call_soon(stream.abort)
            case "duplicate_event":
                self.deliver(messages)
                self.deliver(messages)
            case "late_event":
                loop.call_later(struck.delay_s, self.deliver, messages)
            case _:  # reorder_events
                self._kept.setdefault(account, []).extend(messages)
                loop.call_later(struck.delay_s, self._flush, account)

    def deliver(self, messages: Held) -> None:
        """Send what was held back, as far as its streams are still open."""
        for stream, delivery in messages:
            if self._owner.held is not None:
                self._owner.held.append((stream, delivery))
            elif not stream.closed:
                delivery()

    def _flush(self, account: str) -> None:
        kept = self._kept.pop(account, None)
        if kept:
            self.deliver(kept)

    def _capture(self, tell: Callable[[], None]) -> Held:
        messages: list[tuple[Stream, Callable[[], None]]] = []
        outer, self._owner.held = self._owner.held, messages
        try:
            tell()
        finally:
            self._owner.held = outer
        return messages
