"""An account's limits, changed by hand (C20): written down before and after, in force for new intents only."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import ValidationError

from engine.errors import CommandRefused
from engine.intake.parser import Number
from engine.model import commands as c
from engine.model.account import Limits
from engine.operators import acting
from engine.trading_engine import TradingEngine


class LimitChanges:
    """Carries out ``set_limits``."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        self._one = asyncio.Lock()  # two changes of one account, each of what the other read

    async def set_limits(self, command: c.SetLimits) -> dict[str, Any]:
        """Change the limits named; those planned before keep what they were planned with.

        Raises:
            CommandRefused: no such account (404), or no such limit or value (422).
        """
        async with self._one:
            store = self._engine.fleet.store
            account = await store.get(command.account)
            if account is None:
                raise CommandRefused("NOT_FOUND", f"no account {command.account}", 404)
            before = account.limits.model_dump(mode="json", exclude_none=True)
            limits = _changed(before, command.limits)
            after = limits.model_dump(mode="json", exclude_none=True)
            self._engine.journal.audit(
                "set_limits",
                {
                    "by": acting.get().name,
                    "reason": command.reason,
                    "before": before,
                    "after": after,
                },
                command.account,
            )
            await store.put([account.model_copy(update={"limits": limits})])
            await self._engine.fleet.reload()
        names = sorted(before.keys() | after.keys())
        told = [
            f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
            for name in names
            if before.get(name) != after.get(name)
        ]
        text = f"{', '.join(told) or 'nothing changed'}, by {acting.get().name}: {command.reason}"
        self._engine.alert("warning", "LIMITS_CHANGED", command.account, text)
        return {"result": "done", "account": command.account, "before": before, "after": after}


def _plain(value: Any) -> Any:
    """Return a whole number of a command's body, kept there as text, as the number it is."""
    return int(value) if isinstance(value, Number) and value.isdecimal() else value


def _changed(before: dict[str, Any], changes: dict[str, Any]) -> Limits:
    if not changes:
        raise CommandRefused("INVALID_COMMAND", "limits: name at least one", 422)
    wanted = {
        name: _plain(value) for name, value in (before | changes).items() if value is not None
    }
    unknown = sorted(changes.keys() - Limits.model_fields.keys())
    if unknown:
        known = ", ".join(Limits.model_fields)
        raise CommandRefused(
            "INVALID_COMMAND", f"limits.{unknown[0][:64]}: no such limit; there are {known}", 422
        )
    try:
        return Limits.model_validate(wanted)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CommandRefused("INVALID_COMMAND", f"limits.{where}: {first['msg']}", 422) from None
