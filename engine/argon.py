"""Argon2id for what people remember: the vault's passphrase and operators' PINs.

Parameters after the project's reliability specification (T03): 64 MiB, 3 passes, 4 lanes; OWASP's floor is
19 MiB, 2, 1 (https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html). One guess
costs an attacker a tenth of a second and 64 MiB, so callers keep it off the event loop.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

MEMORY_KIB: Final = 64 * 1024
PASSES: Final = 3
LANES: Final = 4
SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32


def derive_key(passphrase: str, salt: bytes) -> bytes:
    """Return the 256-bit key of a passphrase."""
    return _argon(salt).derive(passphrase.encode())


def hash_pin(pin: str) -> str:
    """Return what may be stored of a PIN (PHC text with its own salt and parameters)."""
    return _argon(secrets.token_bytes(SALT_BYTES)).derive_phc_encoded(pin.encode())


def check_pin(pin: str, stored: str) -> bool:
    """Say whether ``pin`` is the one ``stored`` was made of."""
    try:
        Argon2id.verify_phc_encoded(pin.encode(), stored)
    except (InvalidKey, ValueError):
        return False
    return True


def _argon(salt: bytes) -> Argon2id:
    return Argon2id(
        salt=salt, length=_KEY_BYTES, iterations=PASSES, lanes=LANES, memory_cost=MEMORY_KIB
    )
