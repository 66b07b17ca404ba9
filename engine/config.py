"""``volley.toml`` and its environment overrides, validated once at start and immutable afterwards.

A wrong value never starts an engine: every refusal is one line that names the key, where it was
given, its value and what was expected. Credentials in URLs are never shown.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from engine.errors import ConfigError
from engine.model.identifiers import NAME, SYMBOL
from engine.model.numbers import parse_decimal, to_text

FILE_NAME: Final = "volley.toml"
ENV_PREFIX: Final = "VOLLEY_"
MAX_FILE_BYTES: Final = 1 << 20
_SHOWN = 80  # characters of a wrong value that an error repeats
_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253}):([0-9]{1,5})", re.ASCII)
_SECRETIVE = re.compile(r"secret|token|passw|pwd|credential|api_?key|private", re.IGNORECASE)
_CHANNEL = re.compile(r"(env|keyring|vault):[A-Za-z0-9_.-]{1,128}", re.ASCII)
_HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
_PLAIN = re.compile(r"[\x21-\x7e]{1,2048}")


def _exact(value: object) -> Decimal:
    """Accept text, a whole number or a TOML number read as Decimal; a bool is no money."""
    if isinstance(value, Decimal):
        # The bound comes first: writing 1e999999999 out would fill the memory.
        if not value.is_finite() or abs(value.adjusted()) > 20:
            raise ValueError("not a plain decimal number")
        value = format(value, "f")
    elif isinstance(value, int) and not isinstance(value, bool):
        value = format(Decimal(value), "f")
    if not isinstance(value, str):
        raise ValueError("not a number")  # noqa: TRY004 (pydantic turns only ValueError into a finding)
    return parse_decimal(value)


def _toml_float(text: str) -> Decimal | str:
    """Read a TOML float exactly; one beyond any exponent stays text, which no field takes."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return text


def _seconds(value: object) -> float:
    """Accept a TOML number; intervals are floats, never money."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("not a number")  # noqa: TRY004
    return float(value)


def _listen(value: str) -> str:
    match = _LISTEN.fullmatch(value)
    if not match or int(match[2]) > 65535:
        raise ValueError("not host:port")
    return value


def _network(value: str) -> str:
    ipaddress.ip_network(value)
    return value


def _url(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        if not _PLAIN.fullmatch(value):
            raise ValueError("not a URL")
        parts = urlsplit(value)
        if parts.scheme not in schemes or not (parts.netloc or parts.path.strip("/")):
            raise ValueError("not such a URL")
        if parts.scheme in {"redis", "rediss"} and (not parts.hostname or parts.port == 0):
            raise ValueError("no host")
        return value

    return AfterValidator(check)


def _matches(pattern: re.Pattern[str]) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError("wrong characters")
        return value

    return AfterValidator(check)


_Exact = Annotated[
    Decimal, BeforeValidator(_exact), PlainSerializer(to_text, str, when_used="unless-none")
]
_Seconds = Annotated[float, BeforeValidator(_seconds)]
_Name = Annotated[str, _matches(NAME)]
_Symbol = Annotated[str, _matches(SYMBOL)]
_Ticker = Annotated[str, _matches(re.compile(r"[\x21-\x7e]{1,64}"))]
_AGE = "a number of seconds from 0.1 to 86400"
_AGE_OR_0 = "a number of seconds from 0 to 86400"
_TO_AN_HOUR = "a number of seconds from 0 to 3600"
_AMOUNT = 'an amount greater than zero, like "250000"'
_COUNT = "a whole number from 0 to 1000"


class _Section(BaseModel):
    """Every field's description is what an error says was expected."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False
    )


class EngineConfig(_Section):
    """``[engine]``: what this engine is called, where it listens and how it starts."""

    name: _Name = Field("desk-1", description="1 to 64 characters of A-Z a-z 0-9 . _ : -")
    listen: Annotated[str, AfterValidator(_listen)] = Field(
        "127.0.0.1:8787",
        description='host:port, like "127.0.0.1:8787" or "[::1]:8787" (port 0: any free one)',
    )
    trading: Literal["disarmed", "active"] = Field("disarmed", description='"disarmed" or "active"')
    allow_simulated_venues: bool = Field(False, description="true or false")
    simulated_ca: str = Field(
        "", description="the path of the CA file that `simbroker --tls` names, or none"
    )
    reply_timeout_s: Annotated[float, BeforeValidator(_seconds)] = Field(
        10.0, ge=0.1, le=120, description="a number of seconds from 0.1 to 120"
    )

    @property
    def listen_host(self) -> str:
        """Return the address to bind, an IPv6 one without its brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def listen_port(self) -> int:
        """Return the TCP port to bind; 0 lets the system choose."""
        return int(self.listen.rpartition(":")[2])


class StorageConfig(_Section):
    """``[storage]``: where accounts and mirrors live. The URLs may hold passwords."""

    profile: Literal["embedded", "servers"] = Field(
        "embedded", description='"embedded" or "servers"'
    )
    redis_url: Annotated[str, _url("redis", "rediss", "unix")] = Field(
        "redis://127.0.0.1:6379/0",
        description='a redis://, rediss:// or unix:// URL, like "redis://127.0.0.1:6379/0"',
        repr=False,
    )
    mongo_url: Annotated[str, _url("mongodb", "mongodb+srv")] = Field(
        "mongodb://127.0.0.1:27017/volley",
        description='a mongodb:// or mongodb+srv:// URL, like "mongodb://127.0.0.1:27017/volley"',
        repr=False,
    )
    mongo_driver: Literal["pymongo", "motor"] = Field("pymongo", description='"pymongo" or "motor"')


class SignalsConfig(_Section):
    """``[signals]``: the stream they come from and how long they live (seconds)."""

    redis_stream: Annotated[str, _matches(re.compile(r"[\x21-\x7e]{1,128}"))] = Field(
        "volley:signals", description="1 to 128 printable ASCII characters without blanks"
    )
    max_age_s: _Seconds = Field(5.0, ge=0.1, le=86_400, description=_AGE)
    approval_timeout_s: _Seconds = Field(30.0, ge=0.1, le=86_400, description=_AGE)
    approval_drift_percent: _Exact = Field(
        Decimal(5), ge=0, le=100, description='a percentage from 0 to 100, like "5"'
    )
    approval_drift: Literal["ask", "expire"] = Field("ask", description='"ask" or "expire"')
    canary_timeout_s: _Seconds = Field(30.0, ge=0.1, le=86_400, description=_AGE)
    canary_max_rejects: int = Field(
        3, ge=1, le=100_000, description="a whole number from 1 to 100000"
    )
    repeat_window_s: _Seconds = Field(0.0, ge=0, le=86_400, description=_AGE_OR_0)
    signature_window_s: _Seconds = Field(30.0, ge=1, le=300, description="seconds from 1 to 300")


class LimitsConfig(_Section):
    """``[limits]``: the firm's, over all accounts. Money in quote currency."""

    max_accounts_per_signal: int = Field(
        200, ge=1, le=100_000, description="a whole number from 1 to 100000"
    )
    max_signal_value: _Exact = Field(
        Decimal(250000), gt=0, description='an amount greater than zero, like "250000"'
    )
    max_orders_per_second: int = Field(
        100, ge=1, le=100_000, description="a whole number from 1 to 100000"
    )
    price_reference: Literal["required", "when_available"] = Field(
        "required", description='"required" or "when_available"'
    )
    collar_percent: _Exact = Field(
        Decimal(5), gt=0, le=100, description='a percentage greater than 0, at most 100, like "5"'
    )
    reference_max_age_s: _Seconds = Field(5.0, ge=0.1, le=86_400, description=_AGE)
    max_open_value: _Exact | None = Field(None, gt=0, description=_AMOUNT)
    max_gross_exposure: _Exact | None = Field(None, gt=0, description=_AMOUNT)
    max_daily_loss: _Exact | None = Field(None, gt=0, description=_AMOUNT)
    max_orders_per_day: int | None = Field(
        None, ge=1, le=10_000_000, description="a whole number from 1 to 10000000"
    )
    max_strategy_orders_per_day: int | None = Field(
        None, ge=1, le=10_000_000, description="a whole number from 1 to 10000000"
    )
    max_unreviewed: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="how many automated executions a strategy has before a person reviews it: 1 to 1000000",
    )
    restricted_symbols: tuple[_Symbol, ...] = Field(
        (), strict=False, description='a list of symbols nobody trades, like ["GME"]'
    )


class SafetyConfig(_Section):
    """``[safety]``: what trips by itself, and when. A count or time of 0 switches that trip off."""

    consecutive_rejects: int = Field(5, ge=0, le=1_000, description=_COUNT)
    reject_percent: int = Field(50, ge=0, le=100, description="a percentage from 0 to 100")
    breaker_percent: int = Field(50, ge=0, le=100, description="a percentage from 0 to 100")
    breaker_window_s: _Seconds = Field(30.0, ge=1, le=3_600, description=_TO_AN_HOUR)
    clock_warn_ms: int = Field(250, ge=0, le=60_000, description="milliseconds from 0 to 60000")
    clock_block_ms: int = Field(
        1_000, ge=0, le=600_000, description="milliseconds from 0 to 600000"
    )
    reconcile_orders_s: _Seconds = Field(10.0, ge=0, le=3_600, description=_TO_AN_HOUR)
    reconcile_positions_s: _Seconds = Field(30.0, ge=0, le=3_600, description=_TO_AN_HOUR)
    reconcile_cash_s: _Seconds = Field(300.0, ge=0, le=86_400, description=_AGE_OR_0)
    halt_unacknowledged_s: _Seconds = Field(0.0, ge=0, le=86_400, description=_AGE_OR_0)
    desk_lost: Literal["ignore", "pause", "disarm", "halt"] = Field(
        "ignore", description='"ignore", "pause", "disarm" or "halt"'
    )
    desk_lost_after_s: _Seconds = Field(10.0, ge=1, le=3_600, description="seconds from 1 to 3600")
    disarm_after_crash: bool = Field(False, description="true or false")
    disarm_after_edit: bool = Field(False, description="true or false")
    watchdog_s: _Seconds = Field(10.0, ge=0, le=3_600, description=_TO_AN_HOUR)
    kill_standby: bool = Field(True, description="true or false")


class MarketConfig(_Section):
    """``[market]``: where reference prices and marks come from."""

    source: Literal["brokers", "redis", "simulated", "none"] = Field(
        "brokers", description='"brokers", "redis", "simulated" or "none"'
    )


class LogConfig(_Section):
    """``[log]``."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description='"DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL"'
    )
    format: Literal["json", "text"] = Field("json", description='"json" or "text"')


def _hours(value: str) -> str:
    if value and not _HOURS.fullmatch(value):
        raise ValueError("not hours")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, OSError) as error:
        raise ValueError("no such zone") from error
    return value


class AlertsConfig(_Section):
    """``[alerts]``: whom to tell outside the desk. ``channels`` are credentials: never the address itself."""

    channels: tuple[Annotated[str, _matches(_CHANNEL)], ...] = Field(
        (),
        strict=False,
        repr=False,
        description='a list of references like ["vault:ops", "env:VOLLEY_ALERT_URL"], never the address itself',
    )
    min_severity: Literal["info", "warning", "critical"] = Field(
        "critical", description='"info", "warning" or "critical"'
    )
    group_s: _Seconds = Field(30.0, ge=0, le=3_600, description=_TO_AN_HOUR)
    max_per_hour: int = Field(30, ge=1, le=1_000, description="a whole number from 1 to 1000")
    quiet_hours: Annotated[str, AfterValidator(_hours)] = Field(
        "", description='hours like "22:00-06:30", or none'
    )
    quiet_zone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC", description='a time zone like "Europe/Berlin"'
    )


class HookConfig(_Section):
    """``[hooks.SOURCE]``: how bodies posted to ``/v1/hooks/SOURCE/…`` are read.

    ``format``: ``auto`` looks at each body, ``tradingview`` and ``v1`` insist. ``strategy`` and
    ``valid_for_s`` serve alerts that name none. ``symbols`` maps the sender's ticker to ours,
    before ``strip_exchange`` takes ``NASDAQ:`` off the rest. ``signed``: refuse what carries no valid
    signature (engine.api.signatures). ``allow_from``: take nothing from other addresses; behind a proxy
    everything comes from the proxy's.
    """

    format: Literal["auto", "tradingview", "v1"] = Field(
        "auto", description='"auto", "tradingview" or "v1"'
    )
    strategy: _Name | None = Field(None, description="1 to 64 characters of A-Z a-z 0-9 . _ : -")
    valid_for_s: _Exact | None = Field(
        None, ge=Decimal("0.1"), le=Decimal(86_400), description=_AGE
    )
    strip_exchange: bool = Field(True, description="true or false")
    signed: bool = Field(False, description="true or false")
    allow_from: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (),
        strict=False,
        description='a list of addresses and networks, like ["203.0.113.7", "198.51.100.0/24"]',
    )
    symbols: Annotated[
        Mapping[_Ticker, _Symbol],
        AfterValidator(MappingProxyType),
        PlainSerializer(dict),
    ] = Field(
        default_factory=lambda: MappingProxyType({}),
        description='a table of the sender\'s ticker to ours, like "NASDAQ:MSFT" = "MSFT"',
    )


class Config(_Section):
    """The whole configuration, immutable."""

    engine: EngineConfig = Field(EngineConfig(), description="a table")
    storage: StorageConfig = Field(StorageConfig(), description="a table")
    signals: SignalsConfig = Field(SignalsConfig(), description="a table")
    limits: LimitsConfig = Field(LimitsConfig(), description="a table")
    safety: SafetyConfig = Field(SafetyConfig(), description="a table")
    market: MarketConfig = Field(MarketConfig(), description="a table")
    log: LogConfig = Field(LogConfig(), description="a table")
    alerts: AlertsConfig = Field(AlertsConfig(), description="a table")
    hooks: Annotated[
        Mapping[_Name, HookConfig], AfterValidator(MappingProxyType), PlainSerializer(dict)
    ] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="tables [hooks.SOURCE], SOURCE being 1 to 64 characters of A-Z a-z 0-9 . _ : -",
    )

    def hook(self, source: str) -> HookConfig:
        """Return how ``source``'s bodies are read; the defaults for a source not configured."""
        return self.hooks.get(source) or HookConfig()

    def secrets(self) -> list[str]:
        """Return the passwords inside the URLs, for the log's redaction."""
        found = []
        for url in (self.storage.redis_url, self.storage.mongo_url):
            userinfo = urlsplit(url).netloc.rpartition("@")[0]
            password = userinfo.partition(":")[2]
            found += [password, unquote(password)] if password else []
        return found


def redact_url(url: str) -> str:
    """Return ``url`` without user, password and query, fit for a log or a screen."""
    scheme, separator, rest = url.rpartition("://") if "://" in url else ("", "", url)
    before, at, place = rest.rpartition("@")
    place = place.partition("?")[0]
    return f"{scheme}{separator}{'***@' if before or at else ''}{place}"


def load_config(
    home: Path, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """Read ``file`` (default ``home/volley.toml``, which may be absent), then the environment.

    Raises:
        ConfigError: unreadable, unknown key, wrong type or out of range; one line fit for a user.
    """
    path = file if file is not None else home / FILE_NAME
    tree = _read(path, required=file is not None)
    origins = _overlay(tree, os.environ if environ is None else environ)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = [(tuple(e["loc"]), e["type"]) for e in error.errors()]
    findings = dict.fromkeys(_finding(loc, kind, tree, origins, path) for loc, kind in found)
    raise ConfigError("; ".join(list(findings)[:3]))


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{path}: there is no such configuration file") from None
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes, expected at most {MAX_FILE_BYTES}")
    try:
        return tomllib.loads(raw.decode("utf-8-sig"), parse_float=_toml_float)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: not readable as TOML: {reason[:200]}") from None


_SECTIONS: Final = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, _Section)
}


def _overlay(tree: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Write the environment's values into ``tree``; return which variable gave which key."""
    origins: dict[tuple[str, ...], str] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX):
            continue
        path = tuple(part.lower() for part in variable.removeprefix(ENV_PREFIX).split("__"))
        if len(path) == 1:
            _refuse_half_written(variable)
            continue  # VOLLEY_TOKEN and what else is not configuration
        path = _place(path, tree, variable)
        table: Any = tree
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{'.'.join(path[:-1])}: expected a table")
        table[path[-1]] = _scalar(environ[variable], _field(path))
        origins[path] = variable
    return origins


def _refuse_half_written(variable: str) -> None:
    """Refuse ``VOLLEY_LIMITS_COLLAR_PERCENT``: unheeded, it would leave a limit at its default."""
    for section, model in _SECTIONS.items():
        for key in model.model_fields:
            if variable == f"{ENV_PREFIX}{section}_{key}".upper():
                raise ConfigError(
                    f"{variable}: unknown variable; did you mean "
                    f"{ENV_PREFIX}{section.upper()}__{key.upper()} (two underscores)?"
                )


def _place(path: tuple[str, ...], tree: Mapping[str, Any], variable: str) -> tuple[str, ...]:
    if path[0] == "hooks" and len(path) == 3:
        hooks = tree.get("hooks", {})
        given = {name.lower(): name for name in hooks} if isinstance(hooks, dict) else {}
        path = ("hooks", given.get(path[1], path[1]), path[2])
    if len(path) == (3 if path[0] == "hooks" else 2) and path[0] in (*_SECTIONS, "hooks"):
        return path
    known = [f"{ENV_PREFIX}{s}__{k}".upper() for s, m in _SECTIONS.items() for k in m.model_fields]
    hint = _did_you_mean(variable, known)
    raise ConfigError(f"{variable}: unknown variable, expected VOLLEY_SECTION__KEY{hint}")


def _field(path: tuple[str, ...]) -> Any:
    model = HookConfig if path[0] == "hooks" else _SECTIONS.get(path[0])
    return model.model_fields.get(path[-1]) if model is not None else None


def _scalar(text: str, field: Any) -> object:
    """Read a variable as a TOML value where its key wants one; else it is the text itself."""
    if not text.isprintable() or len(text) > 4096:
        return text
    try:
        value = tomllib.loads(f"value = {text}", parse_float=_toml_float)["value"]
    except (ValueError, RecursionError):
        return text
    if field is not None and _wants_text(field.annotation) and not isinstance(value, str):
        return text
    return value


def _wants_text(annotation: Any) -> bool:
    """Say whether a key may hold text, so that ``12`` and ``true`` are text there."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Annotated):
        return any(map(_wants_text, get_args(annotation)))
    return annotation is str or origin is Literal


def _finding(
    loc: tuple[int | str, ...],
    kind: str,
    tree: Mapping[str, Any],
    origins: Mapping[tuple[str, ...], str],
    file: Path,
) -> str:
    # Of a list it is the list that is named, not the place in it.
    path = tuple(part for part in loc if isinstance(part, str) and part != "[key]")
    value: Any = tree
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    variable = origins.get(path)
    key, where = ".".join(path), variable or str(file)
    shown = _show(path[-1], value)
    if kind == "extra_forbidden":
        model = _model_of(path)
        return f"{where}: {key} = {shown}: unknown key{_did_you_mean(path[-1], model.model_fields)}"
    return f"{where}: {key} = {shown}: expected {_expected(path)}"


def _model_of(path: tuple[str, ...]) -> type[_Section]:
    """Return the section a path's last part belongs to."""
    if path[0] == "hooks" and len(path) > 2:
        return HookConfig
    return _SECTIONS.get(path[0], Config) if len(path) > 1 else Config


def _expected(path: tuple[str, ...]) -> str:
    if path[0] == "hooks" and len(path) > 2:
        return str(HookConfig.model_fields[path[2]].description)
    name = "hooks" if path[0] == "hooks" else path[-1]
    return str(_model_of(path).model_fields[name].description)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def _show(key: str, value: object) -> str:
    if _SECRETIVE.search(key):
        return "***"  # a secret in the wrong place is still a secret
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        is_url = "://" in value or "@" in value
        if key.endswith("_url") and not is_url:
            return "***"  # where its password ends nobody can tell
        text = redact_url(value) if is_url else value
        return json.dumps(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")
    return str(value)[:_SHOWN]
