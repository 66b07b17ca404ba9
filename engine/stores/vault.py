"""Secrets at rest: AES-256-GCM; where the data key lies is engine.stores.vault_key's business.

What a stored credential looks like:

``env:NAME``         the environment variable NAME, read when needed
``keyring:NAME``     the keyring's entry NAME of service ``volley`` (``keyring set volley NAME``)
``enc:v1:<base64>``  nonce (12 bytes) + ciphertext + tag (16 bytes), bound to account id,
                     credential name and version, so that it opens nowhere else
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from getpass import getpass
from pathlib import Path
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.errors import ConfigError
from engine.log import register_secret
from engine.stores.vault_key import SERVICE, Entry, KeyFile, Keyring, read_entry

PASSPHRASE_VARIABLE: Final = "VOLLEY_PASSPHRASE"  # noqa: S105 (the name, not the value)
_VERSION: Final = "v1"
_SEALED: Final = f"enc:{_VERSION}:"
_NONCE: Final = 12
_REFERENCE = re.compile(r"(env|keyring):([A-Za-z0-9_.-]{1,128})", re.ASCII)
# Backends that encrypt; a null, failing or plain-text one (keyrings.alt) counts as none.
_SAFE_BACKENDS: Final = (
    "keyring.backends.macOS",
    "keyring.backends.Windows",
    "keyring.backends.SecretService",
    "keyring.backends.libsecret",
    "keyring.backends.kwallet",
)
_DESCRIPTIONS: Final = {
    "keyring": "the key is in the operating system's keyring",
    "passphrase": "the key opens with the passphrase only",
    "machine": "the key is bound to this machine and user, outside the home: a copy of the home opens nothing; "
    "whoever reads as this user does (`volley vault passphrase` is stronger)",
    "practice": "this is a practice home, its key lies beside them: keep no real account here",
}


def system_keyring() -> Keyring | None:
    """Return the operating system's keyring if it keeps secrets encrypted, else ``None``."""
    import keyring  # slow, and only needed where a secret is

    chosen = keyring.get_keyring()
    for backend in getattr(chosen, "backends", None) or [chosen]:  # a chainer holds several
        if type(backend).__module__.startswith(_SAFE_BACKENDS):
            found: Keyring = backend
            return found
    return None


def ask_passphrase() -> str:
    """Return the vault's passphrase: ``VOLLEY_PASSPHRASE``, else typed at a terminal, once a process.

    Raises:
        ConfigError: there is neither.
    """
    given = os.environ.get(PASSPHRASE_VARIABLE, "")
    if not given:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
            raise ConfigError(
                "the vault is locked with a passphrase: give it in the environment variable "
                f"{PASSPHRASE_VARIABLE}, or start the engine from a terminal, where it asks"
            )
        given = getpass("the vault's passphrase: ")
        # The processes this one starts (the watchdog) open the same vault.
        os.environ[PASSPHRASE_VARIABLE] = given
    register_secret(given)
    return given


class FileVault:
    """``Vault`` of one home. The data key is found or made at the first use that needs it.

    ``keyring``: ``"system"`` takes the operating system's, ``None`` none, an object that one. ``practice``: for a
    throw-away home that never holds a secret; its key is kept in it and is gone with it.
    """

    __slots__ = ("_ciphers", "_keyring", "_practice", "ask", "files")

    def __init__(
        self,
        home_dir: Path,
        keyring: Keyring | Literal["system"] | None = "system",
        *,
        passphrase: Callable[[], str] = ask_passphrase,
        practice: bool = False,
    ) -> None:
        self._keyring = keyring
        self.ask = passphrase
        self._practice = practice
        self.files = KeyFile(home_dir / "vault.key", self._backend, passphrase)
        self._ciphers: list[tuple[AESGCM, bytes]] = []  # the one in use first

    def __repr__(self) -> str:
        return f"FileVault({str(self.files.path)!r})"

    def describe(self) -> str:
        """Say in one sentence where the data key is kept; makes nothing."""
        entries = self.files.entries()
        if not entries:
            return "no secret has been stored yet"
        more = "; a rotation was interrupted: run `volley vault rotate`" if entries[1:] else ""
        return f"secrets are encrypted; {_DESCRIPTIONS[entries[0]['kept']]}{more}"

    def kept(self) -> str:
        """Return how the data key is kept (engine.stores.vault_key), empty before the first secret."""
        entries = self.files.entries()
        return entries[0]["kept"] if entries else ""

    def unlock(self) -> None:
        """Open the key now if it needs a passphrase: an engine asks before it begins, never in between.

        Raises:
            ConfigError: there is no passphrase, or it is wrong.
        """
        if self.kept() == "passphrase":
            self._keys()

    def derive(self, purpose: str) -> tuple[str, bytes]:
        """Return the data key's name and a key of its own for ``purpose`` made of it; makes it if there is none."""
        info = f"volley: {purpose}".encode()
        made = HKDF(hashes.SHA256(), 32, None, info).derive(self._keys()[0][1])
        return self.files.entries()[0]["id"], made

    def seal(self, account_id: str, name: str, text: str) -> str:
        """Return what may be stored: references and own ciphertext stay, literal text is encrypted.

        Raises:
            ConfigError: the text is empty, a malformed reference, or ciphertext that does not
                belong here.
        """
        if not text:
            raise ConfigError(f"credential {name} of account {account_id} is empty")
        if text.startswith(("env:", "keyring:")):
            self._reference(account_id, name, text)
            return text
        if text.startswith(_SEALED):
            self._open(account_id, name, text)
            return text
        if not self._practice and self.kept() == "practice":
            self._move_key()
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._keys()[0][0].encrypt(nonce, text.encode(), _bound_to(account_id, name))
        return _SEALED + b64encode(nonce + sealed).decode("ascii")

    def reseal(self, account_id: str, name: str, stored: str) -> str:
        """Return ciphertext anew, with the key in use; references stay.

        Raises:
            ConfigError: it cannot be decrypted.
        """
        if not stored.startswith(_SEALED):
            return stored
        return self.seal(account_id, name, self._open(account_id, name, stored))

    def reveal(self, account_id: str, name: str, stored: str) -> str:
        """Return the secret.

        Raises:
            ConfigError: it cannot be found or decrypted; says which and what to do, never the
                secret.
        """
        if stored.startswith(_SEALED):
            return self._open(account_id, name, stored)
        kind, entry = self._reference(account_id, name, stored)
        if kind == "env":
            if secret := os.environ.get(entry):
                return secret
            raise ConfigError(
                f"set the environment variable {entry} of account {account_id} (credential {name})"
            )
        if secret := read_entry(self._backend(), entry):
            return secret
        raise ConfigError(
            f"the keyring has no entry {entry} of account {account_id} (credential {name}): "
            f"run `keyring set {SERVICE} {entry}`"
        )

    def begin_rotation(self, kept: str, passphrase: Callable[[], str]) -> None:
        """Make a new key, kept as ``kept`` says (empty: as suits the machine); the old one still opens.

        Raises:
            ConfigError: the old key cannot be opened, or the new one not be kept.
        """
        old = self.files.entries()
        keys = self._keys() if old else []
        fresh = KeyFile(self.files.path, self._backend, passphrase)
        entry = fresh.make(kept)
        # The old key goes under the new lock too: a rotation cut short ends with what opens the new one.
        self.files.write([entry, *(fresh.keep(key, kept) for _, key in keys)])
        for outlived in old:
            self.files.forget(outlived)
        self._ciphers = [_cipher(fresh.open(entry)), *keys]

    def end_rotation(self) -> None:
        """Forget every key but the one in use; nothing is sealed with them any more."""
        first, *old = self.files.entries()
        self.files.write([first])
        for entry in old:
            self.files.forget(entry)
        del self._ciphers[1:]

    @staticmethod
    def _reference(account_id: str, name: str, stored: str) -> tuple[str, str]:
        match = _REFERENCE.fullmatch(stored)
        if match is None:  # never quoted: it may be a secret typed into the wrong place
            raise ConfigError(
                f"credential {name} of account {account_id} is neither env:NAME nor keyring:NAME "
                "nor encrypted: import the account again"
            )
        return match[1], match[2]

    def _open(self, account_id: str, name: str, stored: str) -> str:
        text = stored.removeprefix(_SEALED)
        try:
            raw = b64decode(text, validate=True)
        except ValueError:
            raw = b""
        if b64encode(raw).decode("ascii") != text:  # a changed, unused bit of the last character
            raw = b""
        for cipher, _ in self._keys() if raw else ():
            try:
                opened = cipher.decrypt(raw[:_NONCE], raw[_NONCE:], _bound_to(account_id, name))
                return opened.decode()
            except (InvalidTag, ValueError):
                continue
        raise ConfigError(
            f"credential {name} of account {account_id} cannot be decrypted: it was changed, "
            "or moved from another account or home; import the account again"
        )

    def _backend(self) -> Keyring | None:
        return system_keyring() if self._keyring == "system" else self._keyring

    # ---- the data key -------------------------------------------------------------------------------------------

    def _keys(self) -> list[tuple[AESGCM, bytes]]:
        if not self._ciphers:
            entries = self.files.entries() or self._first_key()
            if entries[0]["id"] == "v1":
                entries = self._move_key()
            self._ciphers = [_cipher(self.files.open(entry)) for entry in entries]
        return self._ciphers

    def _first_key(self) -> list[Entry]:
        wants_passphrase = bool(os.environ.get(PASSPHRASE_VARIABLE))
        kept = "practice" if self._practice else "passphrase" if wants_passphrase else ""
        entry = self.files.make(kept)
        if not self.files.write_first(entry):  # another process was first: its key stands
            self.files.forget(entry)
        return self.files.entries()

    def _move_key(self) -> list[Entry]:
        """Take the key out of the home, where earlier versions kept it and practice homes do."""
        entries = self.files.entries()
        moved = [
            self.files.keep(self.files.open(entry)) if entry["kept"] == "practice" else entry
            for entry in entries
        ]
        self.files.write(moved)
        return moved


def _cipher(key: bytes) -> tuple[AESGCM, bytes]:
    return AESGCM(key), key


def _bound_to(account_id: str, name: str) -> bytes:
    return json.dumps([_VERSION, account_id, name]).encode()
