"""Signed webhooks: who sent a body and when, proven before a byte of it is read as JSON.

A signed request carries::

    Volley-Key: k-3f9a01c2                  which of the source's keys
    Volley-Timestamp: 1795363200            Unix seconds, when it was signed (fractions allowed)
    Volley-Signature: v1=<hex>              HMAC-SHA256(key, timestamp + "." + body), in hexadecimal

The stamp may lie ``signals.signature_window_s`` (30 s) from this machine's clock, either way; within it the signal's
id, unique for ever, keeps a replay from doing anything. A source has at most two keys, so that a new one can be
brought out while the old one still serves. They are sealed in ``HOME/hook_keys.json`` by the vault.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from engine.api.auth import Headers, header
from engine.errors import ConfigError
from engine.home import Home, write_json_atomic
from engine.log import register_secret
from engine.model.identifiers import NAME
from engine.ports import Vault

KEY: Final = b"volley-key"
TIMESTAMP: Final = b"volley-timestamp"
SIGNATURE: Final = b"volley-signature"
ACTIVE_KEYS: Final = 2
_KEY_BYTES: Final = 32
_STAMP = re.compile(rb"[0-9]{1,12}(\.[0-9]{1,9})?")
_SCHEME: Final = b"v1="

Keys = dict[str, list[dict[str, str]]]
"""By source: ``id`` and ``sealed`` key, the newest first."""


def sign(key: bytes, timestamp: bytes, body: bytes) -> bytes:
    """Return the value of ``Volley-Signature`` for a body."""
    return _SCHEME + hmac.digest(key, timestamp + b"." + body, "sha256").hex().encode()


class HookKeys:
    """The signing keys of one home's sources; a change by another process is seen at once."""

    def __init__(self, home: Home, vault: Vault) -> None:
        self._home = home
        self._vault = vault
        self._path = home.path / "hook_keys.json"
        self._seen: tuple[int, int, int] | None = None
        self._known: Keys = {}
        self._open: dict[tuple[str, str], bytes] = {}

    def ids(self, source: str) -> list[str]:
        """Return the ids of a source's keys, the newest first."""
        return [row["id"] for row in self._load().get(source, ())]

    def make(self, source: str) -> tuple[str, str]:
        """Make a key for ``source``; return id and key. Of older ones the newest goes on, the rest end.

        Raises:
            ConfigError: ``source`` is no name.
        """
        if not NAME.fullmatch(source):
            raise ConfigError(
                f"{source[:80]!a}: expected 1 to 64 characters of A-Z a-z 0-9 . _ : -"
            )
        name, key = f"k-{secrets.token_hex(4)}", secrets.token_urlsafe(_KEY_BYTES)
        row = {"id": name, "sealed": self._vault.seal(f"hook:{source}", name, key)}
        with self._home._guard():  # noqa: SLF001 (processes sharing the home take turns)
            known = self._load()
            kept = [row, *known.get(source, [])][:ACTIVE_KEYS]
            write_json_atomic(self._path, {**known, source: kept})
        register_secret(key)
        return name, key

    def drop(self, source: str, name: str) -> bool:
        """End one key; say whether there was one."""
        with self._home._guard():  # noqa: SLF001
            known = self._load()
            kept = [row for row in known.get(source, []) if row["id"] != name]
            if len(kept) == len(known.get(source, [])):
                return False
            write_json_atomic(self._path, {**known, source: kept})
        return True

    def find(self, source: str, name: str) -> bytes:
        """Return a key, or one that nobody has: what follows takes the same time."""
        if name not in self.ids(source):
            return secrets.token_bytes(_KEY_BYTES)
        place = (source, name)
        if place not in self._open:
            sealed = next(row["sealed"] for row in self._load()[source] if row["id"] == name)
            key = self._vault.reveal(f"hook:{source}", name, sealed)
            register_secret(key)
            self._open[place] = key.encode()
        return self._open[place]

    def _load(self) -> Keys:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._seen, self._known = None, {}
            return self._known
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp != self._seen:
            try:
                known = json.loads(self._path.read_text("utf-8"))
                self._known = {
                    source: [_row(row) for row in rows] for source, rows in known.items()
                }
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise ConfigError(
                    f"{self._path}: damaged; remove it and make new keys: volley hook SOURCE --new-key"
                ) from None
            self._seen = stamp
            self._open.clear()
        return self._known


def _row(row: dict[str, Any]) -> dict[str, str]:
    return {"id": str(row["id"]), "sealed": str(row["sealed"])}


class Signatures:
    """Judges requests."""

    def __init__(
        self, keys: HookKeys, window_s: float, now: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._window_s = window_s
        self._now = now

    @staticmethod
    def claims(headers: Headers) -> bool:
        """Say whether a request has any of the headers: then it must be right in all."""
        return any(name in {KEY, TIMESTAMP, SIGNATURE} for name, _ in headers)

    def problem(self, source: str, headers: Headers, body: bytes) -> str:
        """Return why a request is not ``source``'s, empty when it is.

        What is wrong with a signature is not told: only one that is right is told that it is too old.
        """
        name, stamp, given = (header(headers, wanted) for wanted in (KEY, TIMESTAMP, SIGNATURE))
        if name is None or stamp is None or given is None:
            return "send Volley-Key, Volley-Timestamp and Volley-Signature, each once"
        key = self._keys.find(source, name.decode("latin-1"))
        right = sign(key, stamp, body)
        if not hmac.compare_digest(right, given) or not _STAMP.fullmatch(stamp):
            return (
                "the signature is wrong: v1=HMAC-SHA256(key, timestamp + '.' + body), hexadecimal"
            )
        off = self._now() - float(stamp)
        if abs(off) > self._window_s:
            side = "old" if off > 0 else "ahead"
            return f"the signature is {abs(off):.1f} s {side}, allowed are {self._window_s:g} s"
        return ""
