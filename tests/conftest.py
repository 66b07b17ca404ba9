"""What every test gets: real servers on demand, and no developer's keychain."""

from __future__ import annotations

import os

os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"

from tests.servers import mongo, valkey

__all__ = ["mongo", "valkey"]
