"""Secrets at rest: AES-256-GCM; the data key lies in the system's keyring, else in a file.

What a stored credential looks like:

``env:NAME``         the environment variable NAME, read when needed
``keyring:NAME``     the keyring's entry NAME of service ``volley`` (``keyring set volley NAME``)
``enc:v1:<base64>``  nonce (12 bytes) + ciphertext + tag (16 bytes), bound to account id,
                     credential name and version, so that it opens nowhere else

``HOME/vault.key`` (mode 0600) says where the data key is: ``v1:keyring:<entry>`` when a real
keyring works (macOS Keychain, Windows Credential Locker, Secret Service, KWallet), else
``v1:key:<base64>``, the key itself. In the second case anyone who can read the whole home can
decrypt it; ``describe`` tells which it is. On Windows only the profile directory's access rules
protect the file.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Final, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.errors import ConfigError

SERVICE: Final = "volley"
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


class Keyring(Protocol):
    """The part of a keyring backend the vault uses."""

    def get_password(self, service: str, username: str) -> str | None:
        """Return the entry, or ``None``."""
        ...

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep the entry."""
        ...


def system_keyring() -> Keyring | None:
    """Return the operating system's keyring if it keeps secrets encrypted, else ``None``."""
    import keyring  # slow, and only needed where a secret is

    chosen = keyring.get_keyring()
    for backend in getattr(chosen, "backends", None) or [chosen]:  # a chainer holds several
        if type(backend).__module__.startswith(_SAFE_BACKENDS):
            found: Keyring = backend
            return found
    return None


class FileVault:
    """``Vault`` of one home. The data key is found or made at the first use that needs it.

    ``keyring``: ``"system"`` takes the operating system's, ``None`` none, an object that one.
    """

    __slots__ = ("_cipher", "_key_file", "_keyring")

    def __init__(
        self, home_dir: Path, keyring: Keyring | Literal["system"] | None = "system"
    ) -> None:
        self._key_file = home_dir / "vault.key"
        self._keyring = keyring
        self._cipher: AESGCM | None = None

    def __repr__(self) -> str:
        return f"FileVault({str(self._key_file)!r})"

    def describe(self) -> str:
        """Say in one sentence where the data key is kept; makes nothing."""
        try:
            where, _ = self._read_key_file()
        except FileNotFoundError:
            return "no secret has been stored yet"
        if where == "keyring":
            return "secrets are encrypted; the key is in the operating system's keyring"
        return f"secrets are encrypted; the key is in {self._key_file}: keep copies of it private"

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
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._key().encrypt(nonce, text.encode(), _bound_to(account_id, name))
        return _SEALED + b64encode(nonce + sealed).decode("ascii")

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
        if secret := self._from_keyring(entry):
            return secret
        raise ConfigError(
            f"the keyring has no entry {entry} of account {account_id} (credential {name}): "
            f"run `keyring set {SERVICE} {entry}`"
        )

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
            if (
                b64encode(raw).decode("ascii") != text
            ):  # a changed, unused bit of the last character
                raw = b""
            return (
                self._key()
                .decrypt(raw[:_NONCE], raw[_NONCE:], _bound_to(account_id, name))
                .decode()
            )
        except (InvalidTag, ValueError):
            raise ConfigError(
                f"credential {name} of account {account_id} cannot be decrypted: it was changed, "
                "or moved from another account or home; import the account again"
            ) from None

    def _backend(self) -> Keyring | None:
        return system_keyring() if self._keyring == "system" else self._keyring

    def _from_keyring(self, entry: str) -> str | None:
        backend = self._backend()
        if backend is None:
            return None
        try:
            return backend.get_password(SERVICE, entry)
        except Exception as error:  # noqa: BLE001  (backends raise whatever their libraries raise)
            raise ConfigError(
                f"the keyring does not answer ({type(error).__name__}); unlock it and try again"
            ) from None

    # the data key

    def _key(self) -> AESGCM:
        if self._cipher is None:
            try:
                where, value = self._read_key_file()
            except FileNotFoundError:
                self._make_key()
                where, value = (
                    self._read_key_file()
                )  # another process may have been first: its key stands
            self._cipher = AESGCM(self._load(where, value))
        return self._cipher

    def _read_key_file(self) -> tuple[str, str]:
        parts = self._key_file.read_text("ascii", errors="replace").strip().split(":")
        if len(parts) != 3 or parts[0] != _VERSION or parts[1] not in {"key", "keyring"}:
            raise ConfigError(
                f"{self._key_file} is damaged: restore it, or remove it and import again"
            )
        return parts[1], parts[2]

    def _load(self, where: str, value: str) -> bytes:
        encoded = self._from_keyring(value) if where == "keyring" else value
        if encoded is None:
            raise ConfigError(
                f"the vault's key is not in the keyring (service {SERVICE}, entry {value}): log in "
                f"as the user who made it, or remove {self._key_file} and import again"
            )
        try:
            key = b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if len(key) != 32:
            raise ConfigError(
                f"the vault's key ({where}) is damaged: restore it, or import the accounts again"
            )
        return key

    def _make_key(self) -> None:
        key = b64encode(secrets.token_bytes(32)).decode("ascii")
        entry = f"vault-{secrets.token_hex(8)}"
        where = f"keyring:{entry}" if self._keep_in_keyring(entry, key) else f"key:{key}"
        self._key_file.parent.mkdir(parents=True, exist_ok=True)
        _create(self._key_file, f"{_VERSION}:{where}\n")

    def _keep_in_keyring(self, entry: str, key: str) -> bool:
        backend = self._backend()
        if backend is None:
            return False
        try:
            backend.set_password(SERVICE, entry, key)
            return backend.get_password(SERVICE, entry) == key
        except Exception:  # noqa: BLE001  (a keyring that cannot be used is no keyring)
            return False


def _bound_to(account_id: str, name: str) -> bytes:
    return json.dumps([_VERSION, account_id, name]).encode()


def _create(path: Path, text: str) -> None:
    """Write a file whole and private, or leave the one that is already there."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # atomic, and fails if another process was first
    except FileExistsError:
        return
    except OSError:  # a file system without hard links (FAT)
        if not path.exists():
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
