"""Reading an account's credentials and options, for every adapter alike."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from engine.errors import ConfigError
from engine.model.account import Account

_HEADER_SAFE = re.compile(r"[\x21-\x7e]{1,512}", re.ASCII)


class StandIn(str):
    """Stands for a credential whose value is kept elsewhere: only its name can be checked."""

    __slots__ = ()


def credential(account: str, given: Mapping[str, str], name: str, *aliases: str) -> str:
    """Return a credential fit for a header: printable ASCII without blanks.

    Raises:
        ConfigError: it is missing or not fit; names the account and the credential, never the value.
    """
    value = next((given[key] for key in (name, *aliases) if given.get(key)), "")
    if not value:
        raise ConfigError(f"account {account}: credential {name} is missing")
    if not _HEADER_SAFE.fullmatch(value):
        raise ConfigError(
            f"account {account}: credential {name} must be 1 to 512 printable ASCII characters "
            "without blanks"
        )
    return value


def check_options(account: Account, known: Mapping[str, Collection[str] | None]) -> None:
    """Refuse options the adapter does not know, and values it has no meaning for.

    ``known``: option → allowed values, ``None`` for any.

    Raises:
        ConfigError: names the account, the option, its value and what is allowed.
    """
    for name, value in account.options.items():
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"account {account.id}: option {name!r} is not known to {account.broker}; "
                f"known: {allowed}"
            )
        values = known[name]
        if values is not None and value not in values:
            raise ConfigError(
                f"account {account.id}: option {name} = {value!r} is none of "
                + ", ".join(sorted(values))
            )
