"""How each of the thirty controls is set, in words: from the configuration and the accounts' own limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from engine.config import Config
from engine.model.account_state import AccountState
from engine.model.numbers import to_text
from engine.risk.controls_book import Setting

_ALWAYS: Mapping[str, str] = {
    "C16": "always: text to Decimal, finite, positive, on the tick and the lot",
    "C17": "always: firm, broker, account, strategy, symbol",
    "C18": "always",
    "C20": "always: soft blocks only",
    "C21": "always: more than 2 unknown orders, or one for 60 s, halt the account",
    "C22": "always: nothing more than planned",
    "C27": "always: the system's lock and the book's epoch",
    "C28": "always: program, configuration and limits",
    "C30": "always: every decision, chained by hashes",
}


def settings_of(config: Config, states: Iterable[AccountState]) -> dict[str, Setting]:
    """Return of every control whether it is on, and how it is set."""
    accounts = list(states)
    found: dict[str, Setting] = {number: (True, words) for number, words in _ALWAYS.items()}
    found |= _before_an_order(config, accounts)
    found |= _of_the_firm(config, accounts)
    found |= _by_itself(config)
    return found


def _before_an_order(config: Config, accounts: list[AccountState]) -> dict[str, Setting]:
    limits, signals = config.limits, config.signals
    hours = sum(state.hours is not None for state in accounts)
    listed = sum(not state.all_symbols for state in accounts)
    reference = (
        f"±{to_text(limits.collar_percent)} %, reference at most {limits.reference_max_age_s:g} s old,"
        f" {limits.price_reference.replace('_', ' ')}"
    )
    repeats = (
        f"ids for ever, content {signals.repeat_window_s:g} s"
        if signals.repeat_window_s
        else "ids for ever; content not compared (signals.repeat_window_s)"
    )
    return {
        "C02": _set_for("max_order_quantity", accounts),
        "C03": _set_for("max_order_value", accounts),
        "C04": (True, reference),
        "C05": _set_for("max_position_quantity", accounts),
        "C07": (
            True,
            f"{limits.max_accounts_per_signal} accounts, {to_text(limits.max_signal_value)} a signal",
        ),
        "C12": (True, repeats),
        "C13": (True, f"{signals.max_age_s:g} s when it leaves, unless the signal says"),
        "C14": (
            True,
            f"{listed} of {len(accounts)} accounts have a list; restricted: {len(limits.restricted_symbols)}",
        ),
        "C15": (hours > 0, f"{hours} of {len(accounts)} accounts have hours"),
    }


def _of_the_firm(config: Config, accounts: list[AccountState]) -> dict[str, Setting]:
    limits = config.limits
    return {
        "C01": (True, f"starts {config.engine.trading}; live accounts need order limits"),
        "C06": _with_the_firm(
            (limits.max_open_value, "open"),
            (limits.max_gross_exposure, "gross"),
            accounts=_have(accounts, "max_open_value", "max_gross_exposure"),
        ),
        "C08": _with_the_firm(
            (limits.max_daily_loss, "a day"), accounts=_have(accounts, "max_daily_loss")
        ),
        "C09": (
            True,
            f"{limits.max_orders_per_second} a second for the firm, and each account's own",
        ),
        "C10": _with_the_firm(
            (limits.max_orders_per_day, "a day"),
            (limits.max_strategy_orders_per_day, "a day per strategy"),
            accounts=_have(accounts, "max_orders_per_day"),
        ),
        "C11": _if_set(limits.max_unreviewed, "executions of a strategy without a review"),
    }


def _by_itself(config: Config) -> dict[str, Setting]:
    safety = config.safety
    rejects = bool(safety.consecutive_rejects or safety.reject_percent)
    every = ", ".join(
        f"{what} {seconds:g} s" if seconds else f"{what} off"
        for what, seconds in (
            ("orders", safety.reconcile_orders_s),
            ("positions", safety.reconcile_positions_s),
            ("cash", safety.reconcile_cash_s),
        )
    )
    lost = f"desk lost for {safety.desk_lost_after_s:g} s: {safety.desk_lost}"
    return {
        "C19": (
            bool(safety.watchdog_s) or safety.desk_lost != "ignore",
            f"watchdog {safety.watchdog_s:g} s; {lost}",
        ),
        "C23": (
            rejects,
            f"{safety.consecutive_rejects} in a row or {safety.reject_percent} % of 20",
        ),
        "C24": (
            bool(safety.breaker_percent),
            f"{safety.breaker_percent} % failed in {safety.breaker_window_s:g} s",
        ),
        "C25": (
            bool(
                safety.reconcile_orders_s or safety.reconcile_positions_s or safety.reconcile_cash_s
            ),
            every,
        ),
        "C26": (
            bool(safety.clock_warn_ms or safety.clock_block_ms),
            f"warns at {safety.clock_warn_ms} ms, blocks at {safety.clock_block_ms} ms",
        ),
        "C29": (
            True,
            f"critical and not acknowledged for {safety.halt_unacknowledged_s:g} s: halt"
            if safety.halt_unacknowledged_s
            else "shown at once; nothing halts for want of an acknowledgement",
        ),
    }


def _have(accounts: list[AccountState], *names: str) -> int:
    return sum(any(getattr(state.limits, name) is not None for name in names) for state in accounts)


def _set_for(name: str, accounts: list[AccountState]) -> Setting:
    count = _have(accounts, name)
    return count > 0, f"{count} of {len(accounts)} accounts have {name}"


def _if_set(value: Decimal | int | None, what: str) -> Setting:
    return (False, "not set") if value is None else (True, f"{value} {what}")


def _with_the_firm(*firm: tuple[Decimal | int | None, str], accounts: int) -> Setting:
    words = [
        f"firm {to_text(value) if isinstance(value, Decimal) else value} {what}"
        for value, what in firm
        if value is not None
    ]
    if accounts:
        words.append(f"{accounts} accounts have their own")
    return bool(words), "; ".join(words) or "not set"
