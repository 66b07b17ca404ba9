"""Where the vault's data key lies: never readable in the home.

``HOME/vault.key`` says where the key is, newest first; while a rotation is under way it names two. A key is kept

``keyring``     in the operating system's keyring (macOS Keychain, Windows Credential Locker, Secret Service,
                KWallet);
``passphrase``  in ``vault.key`` itself, sealed with a key that Argon2id makes of a passphrase;
``machine``     where there is neither: in a file of the user's own configuration directory, outside the home,
                sealed with a key made of this machine's and this user's identity;
``practice``    in ``vault.key`` as it is: throw-away homes of the demo and the load test only, which hold no secret.

What ``machine`` protects: a copy of the home (a backup, a synchronised directory, a disk image of the data, a
support bundle) opens nothing, and a copy of the key file alone opens nothing on another machine. What it does not:
whoever can read as this user on this machine, or holds the whole disk, has everything. Against that there are the
keyring and the passphrase.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import platformdirs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine import argon
from engine.errors import ConfigError
from engine.stores.binding import machine_id

SERVICE: Final = "volley"
KEY_DIRECTORY: Final = "VOLLEY_KEY_DIR"  # another directory for the keys kept by ``machine``
_KEY_BYTES: Final = 32
_NONCE: Final = 12
_KINDS: Final = frozenset({"keyring", "passphrase", "machine", "practice"})

Entry = dict[str, str]
"""One key's place: ``kept`` (above), ``id``, and what its kind needs to open it."""


class Keyring(Protocol):
    """The part of a keyring backend the vault uses."""

    def get_password(self, service: str, username: str) -> str | None:
        """Return the entry, or ``None``."""
        ...

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep the entry."""
        ...

    def delete_password(self, service: str, username: str) -> None:
        """Remove the entry."""
        ...


def read_entry(backend: Keyring | None, entry: str) -> str | None:
    """Return a keyring's entry, ``None`` if there is none or no keyring.

    Raises:
        ConfigError: the keyring does not answer.
    """
    if backend is None:
        return None
    try:
        return backend.get_password(SERVICE, entry)
    except Exception as error:  # noqa: BLE001  (backends raise whatever their libraries raise)
        raise ConfigError(
            f"the keyring does not answer ({type(error).__name__}); unlock it and try again"
        ) from None


class KeyFile:
    """``vault.key`` of one home, and the keys it names."""

    def __init__(
        self, path: Path, backend: Callable[[], Keyring | None], passphrase: Callable[[], str]
    ) -> None:
        self.path = path
        self._backend = backend
        self._passphrase = passphrase

    def entries(self) -> list[Entry]:
        """Return the keys' places, the one in use first; none before the first secret.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            text = self.path.read_text("utf-8", errors="replace").strip()
        except FileNotFoundError:
            return []
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entries = _read_v1(text) if text.startswith("v1:") else json.loads(text)["keys"]
            if entries and all(_is_entry(entry) for entry in entries):
                return list(entries)
        raise ConfigError(f"{self.path} is damaged: restore it, or remove it and import again")

    def open(self, entry: Entry) -> bytes:
        """Return the key an entry names.

        Raises:
            ConfigError: it is not there or cannot be opened; says what to do.
        """
        kept = entry["kept"]
        if kept == "passphrase":
            outer = argon.derive_key(self._passphrase(), _decode(entry["salt"]))
            key = _unwrap(outer, entry["sealed"], entry["id"])
            if key is None:
                raise ConfigError(f"the passphrase does not open {self.path}")
            return key
        if kept == "machine":
            return self._open_machine(entry)
        text = entry["key"] if kept == "practice" else self._of_keyring(entry["id"])
        key = _decode(text)
        if len(key) != _KEY_BYTES:
            raise ConfigError(
                f"the vault's key ({kept}) is damaged: restore it, or import the accounts again"
            )
        return key

    def make(self, kept: str = "") -> Entry:
        """Make a new key and keep it; ``kept`` is chosen where it is empty. ``vault.key`` is left alone.

        Raises:
            ConfigError: there is no place for it.
        """
        key = secrets.token_bytes(_KEY_BYTES)
        return self.keep(key, kept)

    def keep(self, key: bytes, kept: str = "") -> Entry:
        """Keep a key; see ``make``."""
        name = f"vault-{secrets.token_hex(8)}"
        text = b64encode(key).decode("ascii")
        if kept == "practice":
            return {"kept": kept, "id": name, "key": text}
        if kept == "passphrase":
            salt = secrets.token_bytes(argon.SALT_BYTES)
            sealed = _wrap(argon.derive_key(self._passphrase(), salt), key, name)
            return {"kept": kept, "id": name, "salt": b64encode(salt).decode(), "sealed": sealed}
        if kept != "machine" and self._keep_in_keyring(name, text):
            return {"kept": "keyring", "id": name}
        self._keep_on_machine(name, key)
        return {"kept": "machine", "id": name}

    def forget(self, entry: Entry) -> None:
        """Remove a key that nothing is sealed with any more."""
        if entry["kept"] == "machine":
            _key_path(self.path, entry["id"]).unlink(missing_ok=True)
        elif entry["kept"] == "keyring" and (backend := self._backend()) is not None:
            with contextlib.suppress(Exception):  # one that stays opens nothing
                backend.delete_password(SERVICE, entry["id"])

    def write(self, entries: list[Entry]) -> None:
        """Put ``entries`` in the file's place, whole and private."""
        draft = self._draft(entries)
        try:
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)

    def write_first(self, entry: Entry) -> bool:
        """Write the file unless another process was first; say whether it is ours."""
        draft = self._draft([entry])
        try:
            os.link(draft, self.path)  # atomic, and fails if there is one
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links (FAT)
            if self.path.exists():
                return False
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _draft(self, entries: list[Entry]) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"version": 2, "keys": entries}, indent=2) + "\n"
        return write_draft(self.path, text)

    # ---- the keyring --------------------------------------------------------------------------------------------

    def _of_keyring(self, name: str) -> str:
        text = read_entry(self._backend(), name)
        if text is None:
            raise ConfigError(
                f"the vault's key is not in the keyring (service {SERVICE}, entry {name}): log in "
                f"as the user who made it, or remove {self.path} and import again"
            )
        return text

    def _keep_in_keyring(self, name: str, text: str) -> bool:
        backend = self._backend()
        if backend is None:
            return False
        try:
            backend.set_password(SERVICE, name, text)
            return backend.get_password(SERVICE, name) == text
        except Exception:  # noqa: BLE001  (a keyring that cannot be used is no keyring)
            return False

    # ---- this machine -------------------------------------------------------------------------------------------

    def _keep_on_machine(self, name: str, key: bytes) -> None:
        path = _key_path(self.path, name)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = write_draft(path, _wrap(_machine_key(), key, name))
            draft.replace(path)
        except OSError as error:
            raise ConfigError(
                f"{path}: the vault's key cannot be kept there: {error.strerror}; give a passphrase in "
                f"VOLLEY_PASSPHRASE, or another directory outside the home in {KEY_DIRECTORY}"
            ) from None

    def _open_machine(self, entry: Entry) -> bytes:
        path = _key_path(self.path, entry["id"])
        try:
            sealed = path.read_text("ascii", errors="replace").strip()
        except OSError:
            raise ConfigError(
                f"the vault's key {path} is not there: this home was made on another machine or by another "
                f"user; import the accounts again (remove {self.path} first)"
            ) from None
        key = _unwrap(_machine_key(), sealed, entry["id"])
        if key is None:
            raise ConfigError(
                f"the vault's key {path} was made on another machine or by another user, or changed; "
                f"import the accounts again (remove {self.path} first)"
            )
        return key


def key_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Return where keys are kept that have no keyring: of this user, and in no home."""
    given = (os.environ if environ is None else environ).get(KEY_DIRECTORY)
    # Not the program's own name: on macOS and Windows that is where the default home is.
    return Path(given or platformdirs.user_config_dir("volley-keys", appauthor=False)).absolute()


def write_draft(path: Path, text: str) -> Path:
    """Write ``text`` beside ``path``, private and on the disk; the caller moves it into place."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return draft


def _key_path(key_file: Path, name: str) -> Path:
    directory = key_directory()
    if directory.resolve().is_relative_to(key_file.parent.resolve()):
        raise ConfigError(
            f"{KEY_DIRECTORY} = {directory}: lies inside the home, where a copy of the home would carry the key; "
            "expected a directory outside it"
        )
    return directory / name


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(isinstance(text, str) for text in entry.values()):
        return False
    name = entry.get("id", "")
    needed = {"passphrase": {"salt", "sealed"}, "practice": {"key"}}.get(entry["kept"], set())
    return entry["kept"] in _KINDS and needed <= entry.keys() and _is_name(name)


def _is_name(name: str) -> bool:
    return name.isascii() and name.replace("-", "").isalnum() and len(name) <= 64


def _read_v1(text: str) -> list[Entry]:
    """Read what earlier versions wrote: ``v1:keyring:ENTRY``, or ``v1:key:`` and the key itself."""
    _, kept, value = text.split(":")
    if kept == "keyring":
        return [{"kept": kept, "id": value}]
    if kept == "key" and len(_decode(value)) == _KEY_BYTES:
        return [{"kept": "practice", "id": "v1", "key": value}]
    raise ValueError(kept)


def _decode(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return b""


def _wrap(outer: bytes, key: bytes, name: str) -> str:
    nonce = secrets.token_bytes(_NONCE)
    return b64encode(nonce + AESGCM(outer).encrypt(nonce, key, _bound(name))).decode("ascii")


def _unwrap(outer: bytes, sealed: str, name: str) -> bytes | None:
    raw = _decode(sealed)
    try:
        return AESGCM(outer).decrypt(raw[:_NONCE], raw[_NONCE:], _bound(name))
    except (InvalidTag, ValueError):
        return None


def _bound(name: str) -> bytes:
    return f"volley data key {name}".encode()


def _machine_key() -> bytes:
    identity = json.dumps([machine_id(), _user_id()]).encode()
    return HKDF(hashes.SHA256(), _KEY_BYTES, None, b"volley: key bound to machine and user").derive(
        identity
    )


def _user_id() -> str:
    if sys.platform == "win32":
        return os.environ.get("USERNAME", "")
    return str(os.getuid())
