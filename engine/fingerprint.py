"""What an intent was planned with: program, configuration and every account's limits, as one short word (C28)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Final

from engine import __version__
from engine.config import Config
from engine.config_seal import values_of
from engine.model.account import Account

_SHOWN: Final = 16  # hex digits: two configurations of one home never share them by chance


def fingerprint(config: Config, accounts: Iterable[Account]) -> str:
    """Return the first digits of a SHA-256 over version, settings (no secrets) and limits; stable over restarts."""
    covered = json.dumps([__version__, values_of(config, accounts)], sort_keys=True)
    return hashlib.sha256(covered.encode()).hexdigest()[:_SHOWN]
