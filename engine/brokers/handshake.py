"""The opening handshake of a WebSocket (RFC 6455, 4), as a client."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable

from engine.brokers.wire import header

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2})(?: |$)")
_LINE_SAFE = re.compile(r"[\t\x20-\x7e]*", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?", re.ASCII)


class HandshakeRefused(ConnectionError):
    """The server answered, but not with a WebSocket. ``status`` is HTTP's, 0: it was no HTTP."""

    def __init__(self, message: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def new_key() -> bytes:
    """Return a random key."""
    return base64.b64encode(os.urandom(16))


def accept_for(key: bytes) -> bytes:
    """Return what a server that understood must answer to ``key``."""
    return base64.b64encode(hashlib.sha1(key + _MAGIC).digest())  # noqa: S324 (the RFC's)


def upgrade_request(
    target: str, authority: str, key: bytes, headers: Iterable[tuple[str, str]]
) -> bytes:
    """Write the request.

    Raises:
        ValueError: characters that cannot be sent.
    """
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {authority}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode('ascii')}",
        "Sec-WebSocket-Version: 13",
        *(f"{name}: {value}" for name, value in headers),
    ]
    if not all(map(_LINE_SAFE.fullmatch, lines)) or " " in target:
        raise ValueError("a URL or header of the WebSocket with characters that cannot be sent")
    return "\r\n".join((*lines, "", "")).encode("ascii")


def refusal(head: bytes, expected: bytes) -> HandshakeRefused | None:
    """Return what is wrong with the head of the server's answer, ``None`` if nothing is."""
    found = _STATUS_LINE.match(head)
    if not found:
        return HandshakeRefused("the answer is not a WebSocket's")
    status = int(found[1])
    if status != 101:
        pause = header(head, "retry-after")
        return HandshakeRefused(
            f"the server refuses the WebSocket (HTTP {status})",
            status,
            float(pause) if _SECONDS.fullmatch(pause) else None,
        )
    right = (
        header(head, "upgrade").lower() == "websocket"
        and "upgrade" in re.split(r"[,\s]+", header(head, "connection").lower())
        and header(head, "sec-websocket-accept").encode("latin-1") == expected
        and not header(head, "sec-websocket-extensions")  # we offered none
        and not header(head, "sec-websocket-protocol")
    )
    return None if right else HandshakeRefused("the answer is not a WebSocket's", status)
