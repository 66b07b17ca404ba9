"""What every test gets: real servers on demand, and no developer's keychain or keys."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_KEYS = tempfile.mkdtemp(prefix="volley-test-keys-")  # vaults keep theirs here, children's too
atexit.register(shutil.rmtree, _KEYS, ignore_errors=True)
os.environ["VOLLEY_KEY_DIR"] = _KEYS
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"

from tests.servers import mongo, valkey  # noqa: E402 (what is imported must find the keys' place)

__all__ = ["mongo", "valkey"]
