"""Signatures of Binance's SIGNED requests, HMAC-SHA256 or Ed25519 (rest-api.md, "SIGNED Endpoint security").

The signed payload is the query string exactly as it is sent, so whatever is not plain ASCII must be percent-encoded
before (required since 2026-01-15). ``signature`` is the last parameter.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from engine.brokers.credentials import StandIn, credential
from engine.errors import ConfigError

_BLOCK = 64  # bytes, SHA-256's
_IN_URL = str.maketrans({"+": "%2B", "/": "%2F", "=": "%3D"})


class Signer(Protocol):
    """Signs for one API key; its ``repr`` shows nothing."""

    def sign(self, payload: str) -> str:
        """Return the signature as the WebSocket API takes it: hex, or base64."""
        ...

    def sign_query(self, payload: str) -> str:
        """Return the signature fit for a query string."""
        ...


class HmacSigner:
    """HMAC-SHA256, written in lower-case hex. RFC 2104 with both key blocks hashed once."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: str) -> None:
        key = secret.encode()
        key = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def sign(self, payload: str) -> str:
        """Return the hex digest."""
        inner = self._inner.copy()
        inner.update(payload.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()

    sign_query = sign


class Ed25519Signer:
    """Ed25519, written in base64."""

    __slots__ = ("_key",)

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def sign(self, payload: str) -> str:
        """Return the signature in base64."""
        return b64encode(self._key.sign(payload.encode())).decode("ascii")

    def sign_query(self, payload: str) -> str:
        """Return the signature in base64, percent-encoded."""
        return self.sign(payload).translate(_IN_URL)


def query_string(params: Mapping[str, str]) -> str:
    """Write parameters in their order, percent-encoded as UTF-8."""
    return "&".join([f"{name}={quote(value, safe='')}" for name, value in params.items()])


def websocket_payload(params: Mapping[str, str | int]) -> str:
    """Return what is signed of a WebSocket API request: sorted by name, in UTF-8, not percent-encoded."""
    return "&".join([f"{name}={params[name]}" for name in sorted(params)])


def make_signer(account: str, credentials: Mapping[str, str]) -> tuple[str, Signer, list[str]]:
    """Read ``key_id`` and ``secret`` or ``private_key``; return the key id, the signer and what must not be shown.

    Raises:
        ConfigError: one is missing, both are there, or the private key is no Ed25519 key in PEM.
    """
    key_id = credential(account, credentials, "key_id", "api_key")
    pem = credentials.get("private_key", "")
    if not pem:
        secret = credential(account, credentials, "secret", "api_secret")
        return key_id, HmacSigner(secret), [secret, key_id]
    if credentials.get("secret") or credentials.get("api_secret"):
        raise ConfigError(
            f"account {account}: credentials secret and private_key exclude each other; "
            "a Binance key has one of them"
        )
    if isinstance(pem, StandIn):
        return key_id, HmacSigner(pem), [key_id]  # for a session that is never started
    pem = pem.replace("\\n", "\n")
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"account {account}: credential private_key must be an unencrypted Ed25519 private key in PEM"
        )
    body = [line for line in pem.splitlines() if line and not line.startswith("-")]
    return key_id, Ed25519Signer(key), ["".join(body), *body, key_id]
