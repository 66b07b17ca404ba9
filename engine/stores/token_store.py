"""The tokens of logins at brokers, one sealed file an account: ``HOME/sessions/<hash>.json``.

A file is replaced whole, so readers need no lock; the vault binds its content to the account's id.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from engine import failpoints
from engine.errors import ConfigError, StoreError
from engine.log import register_secret
from engine.ports import SessionToken, Vault

_NAME = "session-token"
_FRESH_NS = 100_000_000
"""File systems stamp in steps of some milliseconds: a younger change may hide a second one."""


class FileTokenStore:
    """``TokenStore`` of one home."""

    __slots__ = ("_directory", "_vault")

    def __init__(self, home_dir: Path, vault: Vault) -> None:
        self._directory = home_dir / "sessions"
        self._vault = vault

    def load(self, account: str) -> SessionToken | None:
        """Return an account's token; one that is damaged or sealed elsewhere counts as none."""
        try:
            document = json.loads(self._path(account).read_text("utf-8"))
            kept = json.loads(self._vault.reveal(account, _NAME, document["sealed"]))
            for name in ("token", "refresh"):
                register_secret(str(kept[name]))
            return SessionToken(
                str(kept["token"]),
                datetime.fromisoformat(kept["expires_at"]).astimezone(UTC),
                str(kept["owner"]),
                str(kept["refresh"]),
            )
        except (OSError, ValueError, KeyError, TypeError, ConfigError):
            return None

    def save(self, account: str, token: SessionToken) -> None:
        """Keep an account's token, for this user only.

        Raises:
            StoreError: it cannot be written.
        """
        kept = {
            "token": token.token,
            "expires_at": token.expires_at.astimezone(UTC).isoformat(),
            "owner": token.owner,
            "refresh": token.refresh,
        }
        sealed = self._vault.seal(account, _NAME, json.dumps(kept))
        text = json.dumps({"account": account, "sealed": sealed})
        path = self._path(account)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if failpoints.ARMED:
                failpoints.hit("K33.before")
            draft.replace(path)
            if failpoints.ARMED:
                failpoints.hit("K33.after")
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None

    def forget(self, account: str) -> None:
        """Remove an account's token; one that cannot be removed ends by itself."""
        with suppress(OSError):
            self._path(account).unlink()

    def version(self) -> int:
        """Return when the directory last changed; while that is fresh, a new number each time."""
        try:
            changed = self._directory.stat().st_mtime_ns
        except OSError:
            return 0
        now = time.time_ns()
        return now if abs(now - changed) < _FRESH_NS else changed

    def _path(self, account: str) -> Path:
        # Account ids may hold what a file system does not take (``:``), or differ in case only.
        return self._directory / f"{sha256(account.encode()).hexdigest()[:32]}.json"
