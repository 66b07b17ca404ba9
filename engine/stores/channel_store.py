"""Addresses of alert channels, sealed, in ``HOME/channels.json``; ``alerts.channels`` names them ``vault:NAME``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from engine.errors import ConfigError
from engine.home import write_json_atomic
from engine.log import register_secret
from engine.ports import Vault

FILE: Final = "channels.json"
_OWNER: Final = "alerts"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class ChannelStore:
    """The sealed addresses of one home."""

    __slots__ = ("_path", "_vault")

    def __init__(self, home_dir: Path, vault: Vault) -> None:
        self._path = home_dir / FILE
        self._vault = vault

    def names(self) -> list[str]:
        """Return the names there are addresses for."""
        return sorted(self._read())

    def reveal(self, reference: str) -> str:
        """Return the address behind ``vault:NAME``, ``env:NAME`` or ``keyring:NAME``.

        Raises:
            ConfigError: there is none; the message names the reference, never the address.
        """
        kind, _, name = reference.partition(":")
        if kind == "vault":
            kept = self._read()
            if name not in kept:
                raise ConfigError(
                    f"alerts.channels: there is no {reference}; run `volley alerts add {name}`"
                )
            found = self._vault.reveal(_OWNER, name, kept[name])
        else:
            found = self._vault.reveal(_OWNER, "channel", reference)
        register_secret(found)
        return found

    def add(self, name: str, url: str) -> None:
        """Keep an address under a name; one of that name is replaced.

        Raises:
            ConfigError: the name has other characters than letters, digits, ``_``, ``.`` and ``-``.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError("a channel's name has 1 to 64 of A-Z a-z 0-9 _ . -")
        write_json_atomic(self._path, self._read() | {name: self._vault.seal(_OWNER, name, url)})

    def remove(self, name: str) -> bool:
        """Forget an address; says whether there was one."""
        kept = self._read()
        if kept.pop(name, None) is None:
            return False
        write_json_atomic(self._path, kept)
        return True

    def reseal(self) -> int:
        """Seal every address anew, with the vault's key in use; returns how many."""
        kept = self._read()
        fresh = {
            name: self._vault.seal(_OWNER, name, self._vault.reveal(_OWNER, name, sealed))
            for name, sealed in kept.items()
        }
        if fresh:
            write_json_atomic(self._path, fresh)
        return len(fresh)

    def _read(self) -> dict[str, str]:
        try:
            document = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._path}: cannot be read: {type(error).__name__}") from None
        if not isinstance(document, dict) or not all(
            isinstance(one, str) for one in document.values()
        ):
            raise ConfigError(f"{self._path}: is no list of channels")
        return document
