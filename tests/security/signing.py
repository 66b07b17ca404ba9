"""A sender of signed webhooks, written after the documentation and not with the engine's own function."""

from __future__ import annotations

import hashlib
import hmac
import json
import time

from tests.processes import signal_document


def now() -> float:
    """Return Unix seconds."""
    return time.time()


def body(signal_id: str, **fields: object) -> bytes:
    """Return a signal's bytes."""
    return json.dumps(signal_document(id=signal_id, source="tv", **fields)).encode()


class Sender:
    """Signs with one key."""

    def __init__(self, source: str, name: str, key: str) -> None:
        self.source, self.name, self.key = source, name, key

    def headers(self, content: bytes, at: float | None = None) -> dict[str, str]:
        """Return the three headers for ``content``, stamped now or ``at``."""
        stamp = f"{now() if at is None else at:.3f}"
        made = hmac.new(self.key.encode(), stamp.encode() + b"." + content, hashlib.sha256)
        return {
            "volley-key": self.name,
            "volley-timestamp": stamp,
            "volley-signature": f"v1={made.hexdigest()}",
        }
