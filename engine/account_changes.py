"""Accounts changed by hand: limits (C20), approval, sizing and the switch, of one or of many at once.

Everything is checked before anything changes, and written down with what it was; it is in force for new intents only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from engine.errors import CommandRefused
from engine.intake.parser import Number
from engine.model import commands as c
from engine.model.account import Account, Limits, Sizing
from engine.operators import acting
from engine.trading_engine import TradingEngine

Result = dict[str, Any]
M = TypeVar("M", bound=BaseModel)


class AccountChanges:
    """Carries out ``set_limits``, ``set_account``, ``set_account_active`` and ``set_accounts_active``."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        self._one = asyncio.Lock()  # two changes of one account, each of what the other read

    async def set_limits(self, command: c.SetLimits) -> Result:
        """Change the limits named; those planned before keep what they were planned with.

        Raises:
            CommandRefused: no such account (404), or no such limit or value (422).
        """
        async with self._one:
            account = await self._engine.fleet.store.get(command.account)
            if account is None:
                raise CommandRefused("NOT_FOUND", f"no account {command.account}", 404)
            limits = _changed_limits(account.limits, command.limits)
            before, after = _dumped(account.limits), _dumped(limits)
            self._audit("set_limits", command.reason, account.id, before, after)
            await self._put([account.model_copy(update={"limits": limits})])
        self._tell("LIMITS_CHANGED", account.id, _told(before, after), command.reason)
        return {"result": "done", "account": command.account, "before": before, "after": after}

    async def set_account(self, command: c.SetAccount) -> Result:
        """Change approval, sizing or limits of all the accounts named, or of none.

        Raises:
            CommandRefused: no such account (404), or a value that is none (422).
        """
        async with self._one:
            before = await self._accounts(command.accounts)
            after = [_changed(account, command) for account in before]
            for was, now in zip(before, after, strict=True):
                self._audit("set_account", command.reason, was.id, _asked(was, command),
                            _asked(now, command))  # fmt: skip
            changed = [now for was, now in zip(before, after, strict=True) if was != now]
            await self._put(changed)
        parts = ("limits", "approval", "sizing")
        what = ", ".join(part for part in parts if getattr(command, part) is not None)
        names = ", ".join(account.id for account in changed[:5])
        more = f" and {len(changed) - 5} more" if changed[5:] else ""
        self._tell("ACCOUNTS_CHANGED", "", f"{what} of {names or 'none'}{more}", command.reason)
        return {"result": "done", "changed": [account.id for account in changed]}

    async def set_active(self, command: c.SetAccountActive) -> Result:
        """Switch an account on or off.

        Raises:
            CommandRefused: no such account (404).
        """
        return await self._switch((command.account,), active=command.active) | {
            "account": command.account
        }

    async def set_all_active(self, command: c.SetAccountsActive) -> Result:
        """Switch several accounts on or off.

        Raises:
            CommandRefused: no such account (404).
        """
        return await self._switch(command.accounts, active=command.active) | {
            "accounts": list(command.accounts)
        }

    # ---- parts -------------------------------------------------------------------------------------------------

    async def _switch(self, names: Iterable[str], *, active: bool) -> Result:
        async with self._one:
            accounts = await self._accounts(names)
            await self._put(account.model_copy(update={"active": active}) for account in accounts)
        return {"result": "active" if active else "inactive"}

    async def _accounts(self, names: Iterable[str]) -> list[Account]:
        """Return the documents as they are stored, each once, in the order of the names."""
        known = {account.id: account for account in await self._engine.fleet.store.load()}
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if name not in known:
                raise CommandRefused("NOT_FOUND", f"no account {name}", 404)
        return [known[name] for name in wanted]

    async def _put(self, accounts: Iterable[Account]) -> None:
        await self._engine.fleet.store.put(accounts)
        await self._engine.fleet.reload()

    def _audit(self, kind: str, reason: str, account: str, before: Result, after: Result) -> None:
        facts = {"by": acting.get().name, "reason": reason, "before": before, "after": after}
        self._engine.journal.audit(kind, facts, account)

    def _tell(self, code: str, account: str, what: str, reason: str) -> None:
        self._engine.alert("warning", code, account, f"{what}, by {acting.get().name}: {reason}")


def _changed(account: Account, command: c.SetAccount) -> Account:
    changes: dict[str, Any] = {}
    if command.approval is not None:
        changes["approval"] = command.approval
    if command.sizing is not None:
        changes["sizing"] = _valid(Sizing, "sizing", command.sizing)
    if command.limits is not None:
        changes["limits"] = _changed_limits(account.limits, command.limits)
    return account.model_copy(update=changes)


def _asked(account: Account, command: c.SetAccount) -> Result:
    """Return of an account what a command is about."""
    document = account.public()
    names = ("approval", "sizing", "limits")
    return {name: document[name] for name in names if getattr(command, name) is not None}


def _changed_limits(before: Limits, changes: dict[str, Any]) -> Limits:
    if not changes:
        raise CommandRefused("INVALID_COMMAND", "limits: name at least one", 422)
    unknown = sorted(changes.keys() - Limits.model_fields.keys())
    if unknown:
        known = ", ".join(Limits.model_fields)
        raise CommandRefused(
            "INVALID_COMMAND", f"limits.{unknown[0][:64]}: no such limit; there are {known}", 422
        )
    return _valid(Limits, "limits", _dumped(before) | changes)


def _valid(kind: type[M], name: str, document: dict[str, Any]) -> M:
    wanted = {key: _plain(value) for key, value in document.items() if value is not None}
    try:
        return kind.model_validate(wanted)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join([name, *(str(part) for part in first["loc"])])
        raise CommandRefused("INVALID_COMMAND", f"{where}: {first['msg']}", 422) from None


def _plain(value: Any) -> Any:
    """Return a whole number of a command's body, kept there as text, as the number it is."""
    return int(value) if isinstance(value, Number) and value.isdecimal() else value


def _dumped(limits: Limits) -> Result:
    return limits.model_dump(mode="json", exclude_none=True)


def _told(before: Result, after: Result) -> str:
    told = [
        f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    return ", ".join(told) or "nothing changed"
