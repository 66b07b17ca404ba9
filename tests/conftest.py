"""What every test gets: real servers on demand, and no developer's keychain or keys."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import pytest

_KEYS = tempfile.mkdtemp(prefix="volley-test-keys-")  # vaults keep theirs here, children's too
atexit.register(shutil.rmtree, _KEYS, ignore_errors=True)
os.environ["VOLLEY_KEY_DIR"] = _KEYS
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"

from tests.servers import mongo, valkey  # noqa: E402 (what is imported must find the keys' place)

__all__ = ["mongo", "valkey"]


@pytest.fixture(autouse=True)
def _garbage_dies_here(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what a test with widgets leaves in its own thread, as the desk does (``gui.garbage``)."""
    if "qapp" not in request.fixturenames:
        yield
        return
    gc.disable()
    yield
    gc.collect(1)
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left() -> Iterator[None]:
    """Collect what was not garbage yet when its test ended."""
    yield
    if "PySide6.QtWidgets" in sys.modules:
        gc.collect()
