"""Who may do what: operators by name, each with a role, a token of their own and perhaps a PIN.

``HOME/operators.json`` (mode 0600) holds them: of a token its SHA-256 (it is 256 random bits), of a PIN its Argon2id
hash. The home's own token (``HOME/token``) is the operator ``operator``: role admin, without a PIN until one is set.
Roles contain each other: view reads; trade also gives orders and takes them back; risk also overrides, re-arms and
sets limits; admin also switches accounts. The kill switch needs no role and no PIN: whoever is let in may press it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

from engine import argon
from engine.clock import Clock, rfc3339
from engine.errors import CommandRefused, ConfigError
from engine.home import Home, write_json_atomic
from engine.model import commands as c
from engine.model.identifiers import NAME, OPERATOR

FORBIDDEN: Final = 403
FREE_TRIES: Final = 5
FIRST_PAUSE_S: Final = 30.0
LONGEST_PAUSE_S: Final = 3600.0
FACT: Final = "pin"
"""Kind of the journal's facts that count wrong PINs."""
_TOKEN_BYTES: Final = 32
_SHORTEST_PIN: Final = 4
_LONGEST_PIN: Final = 64


class Role(StrEnum):
    """What an operator may do; each contains the ones before."""

    VIEW = "view"
    TRADE = "trade"
    RISK = "risk"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Say whether this role may do all that ``other`` may."""
        return _RANK[self] >= _RANK[other]


_RANK: Final = {role: rank for rank, role in enumerate(Role)}

PERMISSIONS: Final[dict[type[c.Command], Role]] = {
    c.Kill: Role.VIEW,
    c.Presence: Role.VIEW,
    c.Bars: Role.VIEW,
    c.Curves: Role.VIEW,
    c.Report: Role.VIEW,
    c.Note: Role.TRADE,
    c.Preview: Role.VIEW,
    **dict.fromkeys(
        (
            c.Approve, c.Reject, c.Resend, c.CancelOrder, c.ReplaceOrder, c.ClosePosition, c.Flatten, c.SetStops,
            c.Pause, c.Resume, c.Disarm, c.Acknowledge, c.TestAlerts, c.LogIn, c.LookUp, c.CancelOrders,
        ),
        Role.TRADE,
    ),
    **dict.fromkeys(
        (c.Rearm, c.Force, c.SetLimits, c.SetAccount, c.Adopt, c.Repair, c.ResolveUnknown, c.Review), Role.RISK
    ),
    c.SetAccountActive: Role.ADMIN,
    c.SetAccountsActive: Role.ADMIN,
    c.ReloadAccounts: Role.ADMIN,
}  # fmt: skip
"""The least role of each command; one that is not here nobody may give."""

NEEDS_PIN: Final = frozenset(
    {c.Rearm, c.Force, c.SetLimits, c.SetAccount, c.Adopt, c.Repair, c.ResolveUnknown}
)
"""Commands that need the operator's PIN, where one is set (RTS 6 Art. 15(6): verified and authorised)."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who was let in."""

    name: str
    role: Role


OWNER: Final = Operator(OPERATOR, Role.ADMIN)
"""Whoever holds the home's token, or sits at the engine's own desk."""

acting: ContextVar[Operator] = ContextVar("acting", default=OWNER)
"""Who gives the command being carried out; set by the API for each request."""


class Operators:
    """``operators.json`` of one home; a change by another process is seen at once.

    Raises:
        ConfigError: from any method, when the file is damaged.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self.path: Path = home.path / "operators.json"
        self._seen: tuple[int, int, int] | None = None
        self._known: dict[str, dict[str, str]] = {}

    def of_token(self, given: bytes) -> Operator | None:
        """Return whose token this is; every entry is compared, in constant time each."""
        digest = sha256(given).hexdigest().encode()
        found = None
        for name, entry in self._load().items():
            if hmac.compare_digest(digest, entry.get("token", "").encode()):
                found = Operator(name, Role(entry["role"]))
        return found

    def pin_of(self, name: str) -> str:
        """Return the stored form of an operator's PIN, empty where none is set."""
        return self._load().get(name, {}).get("pin", "")

    def rows(self) -> list[dict[str, Any]]:
        """Return name, role and whether a PIN is set of each operator, the home's own first."""
        known = {OPERATOR: {"role": Role.ADMIN.value}} | self._load()
        return [
            {"name": name, "role": entry["role"], "pin": bool(entry.get("pin"))}
            for name, entry in known.items()
        ]

    def add(self, name: str, role: Role) -> str:
        """Add an operator, or give one another role; return the new token, which is shown only now.

        Raises:
            ConfigError: the name is none, or the home's own.
        """
        if not NAME.fullmatch(name) or name == OPERATOR:
            raise ConfigError(
                f"operator {name[:80]!a}: expected 1 to 64 characters of A-Z a-z 0-9 . _ : - "
                f"other than {OPERATOR!r}, which is the home's own"
            )
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        digest = sha256(token.encode()).hexdigest()
        self._put(name, {"role": role.value, "token": digest})
        return token

    def remove(self, name: str) -> bool:
        """Forget an operator; say whether there was one. Of the home's own only the PIN can be forgotten."""
        with self._home._guard():  # noqa: SLF001 (processes sharing the home take turns)
            known = dict(self._load())
            if known.pop(name, None) is None:
                return False
            self._write(known)
        return True

    def set_pin(self, name: str, pin: str) -> None:
        """Set an operator's PIN.

        Raises:
            ConfigError: nobody of that name, or a PIN too short or too long.
        """
        if not _SHORTEST_PIN <= len(pin) <= _LONGEST_PIN:
            raise ConfigError(f"a PIN: expected {_SHORTEST_PIN} to {_LONGEST_PIN} characters")
        if name != OPERATOR and name not in self._load():
            raise ConfigError(f"there is no operator {name[:80]!a}")
        self._put(
            name,
            {"role": Role.ADMIN.value, **self._load().get(name, {}), "pin": argon.hash_pin(pin)},
        )

    def _put(self, name: str, entry: dict[str, str]) -> None:
        with self._home._guard():  # noqa: SLF001
            known = self._load()
            kept = {"pin": known[name]["pin"]} if "pin" in known.get(name, {}) else {}
            self._write({**known, name: kept | entry})

    def _write(self, known: dict[str, dict[str, str]]) -> None:
        write_json_atomic(self.path, {"operators": known})

    def _load(self) -> dict[str, dict[str, str]]:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self._seen, self._known = None, {}
            return self._known
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp != self._seen:
            self._known = _read(self.path)
            self._seen = stamp
        return self._known


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        known = json.loads(path.read_text("utf-8"))["operators"]
        for entry in known.values():
            Role(entry["role"])
            if not all(isinstance(text, str) for text in entry.values()):
                raise ValueError  # noqa: TRY301 (one way out for all that may be wrong)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path}: damaged; restore it, or remove it and add the operators again"
        ) from None
    return dict(known)


class Books(Protocol):
    """What is asked of the journal."""

    async def commit_fact(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        """Keep a fact durably."""
        ...

    def audit(self, kind: str, facts: dict[str, Any], account: str = "") -> None:
        """Append to the audit trail."""
        ...


class Authority:
    """Lets a command pass or refuses it: by role, then by PIN. One for an engine."""

    def __init__(
        self,
        operators: Operators,
        clock: Clock,
        books: Books,
        refused: Callable[[str, str], None] = lambda code, text: None,
    ) -> None:
        self._operators = operators
        self._refused = refused
        self._clock = clock
        self._books = books
        self._wrong: dict[
            str, tuple[int, datetime | None]
        ] = {}  # tries since the last right one, closed until
        self._one_guess = asyncio.Lock()  # guesses side by side would get around the pause

    def load(self, facts: dict[str, dict[str, Any]]) -> None:
        """Go on counting wrong PINs after a restart; ``facts`` of kind ``pin``, by operator."""
        for name, fact in facts.items():
            until = fact.get("until")
            self._wrong[name] = int(fact["wrong"]), until and datetime.fromisoformat(until)

    async def check(self, command: c.Command) -> None:
        """Let ``command`` of the acting operator pass, and write it into the audit trail.

        Raises:
            CommandRefused: FORBIDDEN, PIN_REQUIRED or PIN_WRONG, status 403.
            StoreError: a wrong PIN could not be counted durably.
        """
        operator = acting.get()
        try:
            self._check_role(operator, command)
            if type(command) in NEEDS_PIN:
                await self._check_pin(operator, command)
        except CommandRefused as error:
            self._note(operator, command, error.code)
            self._refused(error.code, error.message)
            raise
        if not isinstance(command, c.Presence):  # a sign of life every second decides nothing
            self._note(operator, command, "")

    def check_trip(self, scope: str, by: str) -> None:
        """Let the acting operator end a pause: one that a control made takes the role risk.

        Raises:
            CommandRefused: FORBIDDEN, status 403.
        """
        operator = acting.get()
        by_hand = by == OPERATOR or any(row["name"] == by for row in self._operators.rows())
        if not by_hand and not operator.role.includes(Role.RISK):
            raise CommandRefused(
                "FORBIDDEN",
                f"{scope} was paused by {by}, not by hand; resuming it takes the role risk, {operator.name} has "
                f"{operator.role.value}",
                FORBIDDEN,
            )

    def _note(self, operator: Operator, command: c.Command, refused: str) -> None:
        facts = {
            "by": operator.name,
            "role": operator.role.value,
            "command": command.command,
            "id": command.id,
        }
        self._books.audit("operator", {**facts, "refused": refused} if refused else facts)

    @staticmethod
    def _check_role(operator: Operator, command: c.Command) -> None:
        needed = PERMISSIONS.get(type(command))
        if isinstance(command, c.Kill) and command.flatten:
            needed = PERMISSIONS[c.Flatten]  # closing positions is a second act, also here
        if needed is None or not operator.role.includes(needed):
            role = needed.value if needed is not None else "of nobody"
            raise CommandRefused(
                "FORBIDDEN",
                f"{command.command} takes the role {role}; {operator.name} has {operator.role.value}",
                FORBIDDEN,
            )

    async def _check_pin(self, operator: Operator, command: c.Command) -> None:
        stored = self._operators.pin_of(operator.name)
        if not stored:
            return
        if command.pin is None:
            text = f"{command.command} needs the PIN of {operator.name}"
            raise CommandRefused("PIN_REQUIRED", text, FORBIDDEN)
        async with self._one_guess:
            self._check_pause(operator.name)
            given = command.pin.get_secret_value()
            if await asyncio.to_thread(argon.check_pin, given, stored):
                if self._wrong.pop(operator.name, None) is not None:
                    await self._books.commit_fact(FACT, operator.name, None)
                return
            raise await self._count_wrong(operator.name)

    def _check_pause(self, name: str) -> None:
        wrong, until = self._wrong.get(name, (0, None))
        if until is not None and until > self._clock.now():
            left = (until - self._clock.now()).total_seconds()
            raise CommandRefused(
                "PIN_WRONG",
                f"{wrong} wrong PINs of {name}: none is taken for {left:.0f} s",
                FORBIDDEN,
            )

    async def _count_wrong(self, name: str) -> CommandRefused:
        wrong = self._wrong.get(name, (0, None))[0] + 1
        over = wrong - FREE_TRIES
        until, text = None, f"wrong PIN of {name}, {-over} more before a pause"
        if over >= 0:
            pause = min(FIRST_PAUSE_S * 2 ** min(over, 16), LONGEST_PAUSE_S)
            until = self._clock.now() + timedelta(seconds=pause)
            text = f"{wrong} wrong PINs of {name}: none is taken for {pause:.0f} s"
        self._wrong[name] = wrong, until
        fact = {"wrong": wrong, "until": rfc3339(until) if until else None}
        await self._books.commit_fact(FACT, name, fact)
        return CommandRefused("PIN_WRONG", text, FORBIDDEN)
