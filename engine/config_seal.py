"""What the configuration and the accounts' limits were when an engine last ran, sealed (T16): edits are told.

The seal is a fact in the journal: version, values and an HMAC over them whose key is made of the vault's. At a start
it is compared with what was read: a difference is no fault (a person edits ``volley.toml``), but nobody shall trade
under changed limits without knowing. ``[safety] disarm_after_edit`` makes it more than a notice. A seal that does not
verify was itself edited, or the vault's key was changed since. While the engine runs, its own changes (``set_limits``,
accounts imported or switched) are sealed again as they happen.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from engine.config import Config, redact_url
from engine.model.account import Account

FACT: Final = "seal"
"""Kind of the journal's fact that holds the seal."""
_NAME: Final = "config"
_MOST_TOLD: Final = 6

Values = dict[str, str]


class Books(Protocol):
    """What is asked of the journal."""

    async def commit_fact(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        """Keep a fact durably."""
        ...

    def audit(self, kind: str, facts: dict[str, Any], account: str = "") -> None:
        """Append to the audit trail."""
        ...


class ConfigSeal:
    """One home's seal. ``key`` returns name and bytes; asked when needed, so that a locked keyring stops no start."""

    def __init__(self, key: Callable[[], tuple[str, bytes]], books: Books) -> None:
        self._key = key
        self._books = books
        self._version = 0
        self._sealed: Values | None = None

    def problems(self, facts: dict[str, Any], values: Values) -> list[str]:
        """Return what differs from the last seal, one sentence a difference; none at a first start.

        Raises:
            ConfigError: the vault's key cannot be had.
        """
        fact = facts.get(_NAME)
        if fact is None:
            return []
        self._version, before = int(fact.get("version", 0)), dict(fact.get("values", {}))
        name, key = self._key()
        if fact.get("key") != name:
            return ["the vault's key was changed; what else was cannot be told"]
        if not hmac.compare_digest(_mac(key, self._version, before), str(fact.get("mac", ""))):
            return [
                "the record of the configuration does not verify: the journal was changed by hand"
            ]
        self._sealed = before
        return [
            f"{name} {old or 'none'} → {new or 'none'}"
            for name, (old, new) in _changed(before, values).items()
            if _is_old(name, before, values)
        ]

    async def seal(self, values: Values) -> None:
        """Seal ``values`` under the next version, if they are others than before."""
        if values == self._sealed:
            return
        version = self._version + 1
        name, key = self._key()
        mac = _mac(key, version, values)
        fact = {"version": version, "values": values, "key": name, "mac": mac}
        changed = _changed(self._sealed or {}, values) if self._sealed is not None else {}
        self._books.audit("configuration", {"version": version, "changed": changed})
        await self._books.commit_fact(FACT, _NAME, fact)
        self._version, self._sealed = version, values


def _mac(key: bytes, version: int, values: Values) -> str:
    covered = json.dumps([version, values], sort_keys=True).encode()
    return hmac.digest(key, covered, "sha256").hex()


def _changed(before: Values, after: Values) -> dict[str, tuple[str, str]]:
    return {
        name: (before.get(name, ""), after.get(name, ""))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def _is_old(name: str, before: Values, after: Values) -> bool:
    """Say whether a value is of something there was and is: an account that came or went changed no limit."""
    if not name.startswith("account "):
        return True
    account = " ".join(name.split(" ")[:2])
    return account in before and account in after


def sentence(problems: list[str]) -> str:
    """Return what was changed, in one line."""
    more = f" and {len(problems) - _MOST_TOLD} more" if len(problems) > _MOST_TOLD else ""
    return f"changed while no engine ran: {'; '.join(problems[:_MOST_TOLD])}{more}"


def values_of(config: Config, accounts: Iterable[Account]) -> Values:
    """Return every setting and every account's limits as text, without passwords."""
    values = {
        f"{section}.{name}": redact_url(str(value)) if name.endswith("_url") else str(value)
        for section, table in config.model_dump(mode="json").items()
        for name, value in table.items()
    }
    for account in accounts:
        values[f"account {account.id}"] = account.environment
        for name, value in account.limits.model_dump(mode="json", exclude_none=True).items():
            values[f"account {account.id} {name}"] = str(value)
    return values
