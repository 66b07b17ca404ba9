"""``volley.toml``: defaults, overrides, and a refusal that names key, value and expectation."""

# ruff: noqa: PT017 (refusals inside a loop)
from __future__ import annotations

import json
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.config import Config, HookConfig, load_config, redact_url
from engine.errors import ConfigError

DEFAULT_FILE = Path(__file__).parents[2] / "resources" / "volley.toml"


def load(tmp_path, toml="", environ=None) -> Config:
    (tmp_path / "volley.toml").write_text(toml, encoding="utf-8")
    return load_config(tmp_path, None, environ or {})


def refused(tmp_path, toml="", environ=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml, environ)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.__cause__ is None
    return text


def test_no_file_means_defaults(tmp_path):
    config = load_config(tmp_path, None, {})
    assert config == Config()
    assert (config.engine.listen_host, config.engine.listen_port) == ("127.0.0.1", 8787)
    assert config.engine.trading == "disarmed"
    assert config.engine.allow_simulated_venues is False
    assert config.limits.max_signal_value == Decimal(250000)
    assert config.limits.collar_percent == Decimal(5)
    assert config.signals.max_age_s == 5.0
    assert isinstance(config.signals.max_age_s, float)


def test_the_shipped_file_says_exactly_the_defaults(tmp_path):
    assert load_config(tmp_path, DEFAULT_FILE, {}) == Config()
    shipped = tomllib.loads(DEFAULT_FILE.read_text("utf-8"))
    written = {section: set(table) for section, table in shipped.items()}
    optional = {"max_open_value", "max_gross_exposure", "max_daily_loss", "max_orders_per_day"}
    optional |= {"max_strategy_orders_per_day", "max_unreviewed"}
    shown = DEFAULT_FILE.read_text("utf-8")
    assert all(f"# {name} = " in shown for name in optional)  # TOML has no word for "none"
    fields = {s: set(type(getattr(Config(), s)).model_fields) - optional for s in written}
    assert written == fields
    assert set(written) | {"hooks"} == set(Config.model_fields)


def test_the_hook_example_in_the_shipped_file_is_valid(tmp_path):
    lines = DEFAULT_FILE.read_text("utf-8").partition("# [hooks.tv]")
    example = "[hooks.tv]" + lines[2].replace("\n# ", "\n")
    hook = load(tmp_path, example).hook("tv")
    assert hook.symbols == {"BINANCE:BTCUSDT.P": "BTCUSDT"}
    assert hook.valid_for_s == 10


def test_a_named_file_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_config(tmp_path, tmp_path / "missing.toml", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, tmp_path, {})


@pytest.mark.parametrize(
    ("written", "expected"),
    [('"2.5"', "2.5"), ("2.5", "2.5"), ("3", "3"), ("0.1", "0.1"), ("2.50", "2.50"), ("1e1", "10"),
     ("0.30000000000004", None)],
)  # fmt: skip
def test_money_and_percent_are_exact(tmp_path, written, expected):
    toml = f"[limits]\ncollar_percent = {written}"
    if expected is None:
        assert "limits.collar_percent" in refused(tmp_path, toml)
    else:
        assert str(load(tmp_path, toml).limits.collar_percent) == expected


@pytest.mark.parametrize(
    ("section", "line", "shown", "expected"),
    [
        ("limits", "collar_percent = 0", "0", "greater than 0"),
        ("limits", 'collar_percent = "100.1"', '"100.1"', "at most 100"),
        ("limits", "collar_percent = true", "true", "percentage"),
        ("limits", "collar_percent = nan", "NaN", "percentage"),
        ("limits", "collar_percent = inf", "Infinity", "percentage"),
        ("limits", "collar_percent = 1e999999999", "1E+999999999", "percentage"),
        ("limits", "collar_percent = 1e99999999999999999999", '"1e99999999999999999999"', "percentage"),
        ("limits", 'collar_percent = "1e2"', '"1e2"', "percentage"),
        ("limits", 'collar_percent = "-5"', '"-5"', "percentage"),
        ("limits", "collar_percent = [5]", "a list", "percentage"),
        ("limits", "collar_percent = 2026-01-01", "2026-01-01", "percentage"),
        ("limits", 'max_signal_value = "0"', '"0"', "greater than zero"),
        ("limits", "max_signal_value = -1", "-1", "greater than zero"),
        ("limits", "max_accounts_per_signal = 0", "0", "from 1 to 100000"),
        ("limits", "max_accounts_per_signal = true", "true", "whole number"),
        ("limits", "max_accounts_per_signal = 5.0", "5.0", "whole number"),
        ("limits", 'max_orders_per_second = "5"', '"5"', "whole number"),
        ("limits", 'price_reference = "never"', '"never"', '"required" or "when_available"'),
        ("limits", "reference_max_age_s = 0", "0", "0.1 to 86400"),
        ("signals", "max_age_s = nan", "NaN", "0.1 to 86400"),
        ("signals", "max_age_s = inf", "Infinity", "0.1 to 86400"),
        ("signals", 'max_age_s = "5"', '"5"', "0.1 to 86400"),
        ("signals", "max_age_s = false", "false", "0.1 to 86400"),
        ("signals", "approval_timeout_s = 86401", "86401", "0.1 to 86400"),
        ("signals", 'redis_stream = ""', '""', "printable"),
        ("engine", 'trading = "Active"', '"Active"', '"disarmed" or "active"'),
        ("engine", 'name = "my desk"', '"my desk"', "1 to 64"),
        ("engine", "allow_simulated_venues = 1", "1", "true or false"),
        ("engine", 'allow_simulated_venues = "yes"', '"yes"', "true or false"),
        ("engine", 'listen = "8787"', '"8787"', "host:port"),
        ("engine", 'listen = "127.0.0.1:65536"', '"127.0.0.1:65536"', "host:port"),
        ("engine", 'listen = "::1:80"', '"::1:80"', "host:port"),
        ("engine", 'listen = "http://a:80"', '"http://a:80"', "host:port"),
        ("storage", 'profile = "cloud"', '"cloud"', '"embedded" or "servers"'),
        ("storage", 'redis_url = "http://a"', '"http://a"', "redis://"),
        ("storage", 'redis_url = "redis://"', '"redis://"', "redis://"),
        ("storage", 'redis_url = "redis://a:port"', '"redis://a:port"', "redis://"),
        ("storage", 'mongo_url = "redis://a"', '"redis://a"', "mongodb://"),
        ("storage", 'mongo_driver = "odm"', '"odm"', '"pymongo" or "motor"'),
        ("market", 'source = "yahoo"', '"yahoo"', '"brokers"'),
        ("log", 'level = "info"', '"info"', '"INFO"'),
        ("log", 'format = "xml"', '"xml"', '"json" or "text"'),
        ("hooks.tv", 'format = "v2"', '"v2"', '"tradingview"'),
        ("hooks.tv", 'strategy = "a b"', '"a b"', "1 to 64"),
        ("hooks.tv", "valid_for_s = 0", "0", "0.1 to 86400"),
        ("hooks.tv.symbols", 'X = "x y"', '"x y"', "ticker"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_expected(tmp_path, section, line, shown, expected):
    text = refused(tmp_path, f"[{section}]\n{line}")
    key = f"{section}.{line.split(' = ')[0]}"
    assert f"{key} = {shown}: expected" in text
    assert expected in text
    assert str(tmp_path / "volley.toml") in text


@pytest.mark.parametrize(
    ("toml", "key", "hint"),
    [
        ('[limits]\ncolar_percent = "5"', "limits.colar_percent", "collar_percent"),
        ("[limit]\nx = 1", "limit", "limits"),
        ('[engine]\nlistn = "a:1"', "engine.listn", "listen"),
        ("top = 1", "top", None),
        ('[hooks.tv]\nstrategi = "a"', "hooks.tv.strategi", "strategy"),
        ("[zzz]\nq = 1", "zzz", None),
    ],
)
def test_an_unknown_key_is_refused(tmp_path, toml, key, hint):
    text = refused(tmp_path, toml)
    assert f"{key} = " in text
    assert "unknown key" in text
    assert (f'did you mean "{hint}"' in text) == (hint is not None)


@pytest.mark.parametrize(
    "toml", ["limits = 5", "hooks = 1", "hooks.tv = 1", '[hooks."a b"]', "limits = []"]
)
def test_a_table_is_expected(tmp_path, toml):
    assert "expected" in refused(tmp_path, toml)


@pytest.mark.parametrize(
    "content", [b"[[[", b"a = ", b"\xff\xfe", b"a = " + b"[" * 20000, b"a = " + b"9" * 9000, b"x" * (1 << 21)]
)  # fmt: skip
def test_an_unreadable_file_is_one_line(tmp_path, content):
    file = tmp_path / "volley.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path, None, {})
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_every_truncation_of_the_file_is_read_or_refused(tmp_path):
    content = DEFAULT_FILE.read_bytes()
    file = tmp_path / "volley.toml"
    for end in range(0, len(content), 7):
        file.write_bytes(content[:end])
        try:
            assert isinstance(load_config(tmp_path, None, {}), Config)
        except ConfigError as error:
            assert str(file) in str(error)


# The environment.


@pytest.mark.parametrize(
    ("variable", "text", "section", "key", "value"),
    [
        ("VOLLEY_LIMITS__COLLAR_PERCENT", "2.5", "limits", "collar_percent", Decimal("2.5")),
        ("VOLLEY_LIMITS__COLLAR_PERCENT", '"2.5"', "limits", "collar_percent", Decimal("2.5")),
        ("VOLLEY_LIMITS__MAX_ORDERS_PER_SECOND", "7", "limits", "max_orders_per_second", 7),
        ("VOLLEY_SIGNALS__MAX_AGE_S", "1.5", "signals", "max_age_s", 1.5),
        ("VOLLEY_SIGNALS__MAX_AGE_S", "3", "signals", "max_age_s", 3.0),
        ("VOLLEY_ENGINE__ALLOW_SIMULATED_VENUES", "true", "engine", "allow_simulated_venues", True),
        ("VOLLEY_ENGINE__NAME", "12", "engine", "name", "12"),
        ("VOLLEY_ENGINE__NAME", "true", "engine", "name", "true"),
        ("VOLLEY_ENGINE__NAME", "plain-text", "engine", "name", "plain-text"),
        ("VOLLEY_ENGINE__LISTEN", "[::1]:0", "engine", "listen", "[::1]:0"),
        ("VOLLEY_ENGINE__TRADING", "active", "engine", "trading", "active"),
        ("VOLLEY_LOG__LEVEL", "DEBUG", "log", "level", "DEBUG"),
        ("VOLLEY_LIMITS__MAX_ORDERS_PER_DAY", "5", "limits", "max_orders_per_day", 5),
        ("VOLLEY_LIMITS__MAX_STRATEGY_ORDERS_PER_DAY", "6", "limits", "max_strategy_orders_per_day", 6),
        ("VOLLEY_LIMITS__RESTRICTED_SYMBOLS", '["GME"]', "limits", "restricted_symbols", ("GME",)),
        ("VOLLEY_ALERTS__CHANNELS", '["env:X"]', "alerts", "channels", ("env:X",)),
        ("VOLLEY_STORAGE__REDIS_URL", "unix:///run/r.sock", "storage", "redis_url", "unix:///run/r.sock"),
        ("VOLLEY_STORAGE__MONGO_URL", "mongodb://a:1,b:2/x", "storage", "mongo_url", "mongodb://a:1,b:2/x"),
    ],
)  # fmt: skip
def test_a_variable_overrides_the_file(tmp_path, variable, text, section, key, value):
    toml = '[limits]\ncollar_percent = "9"\n[engine]\nname = "other"'
    assert getattr(getattr(load(tmp_path, toml, {variable: text}), section), key) == value


def test_every_key_can_be_given_as_a_variable(tmp_path):
    """As TOML writes it: what a file may say, a variable may say."""
    for section, values in Config().model_dump(mode="json").items():
        for key, value in values.items() if section != "hooks" else ():
            if value is None:
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            variable = f"VOLLEY_{section}__{key}".upper()
            loaded = load(tmp_path, "", {variable: text})
            assert getattr(getattr(loaded, section), key) == getattr(
                getattr(Config(), section), key
            )


def test_hooks_by_variable(tmp_path):
    environ = {
        "VOLLEY_HOOKS__TV__STRATEGY": "77",
        "VOLLEY_HOOKS__TV__STRIP_EXCHANGE": "false",
        "VOLLEY_HOOKS__TV__SYMBOLS": '{"A:B" = "C"}',
        "VOLLEY_HOOKS__TV__ALLOW_FROM": '["1.2.3.4"]',
    }
    hook = load(tmp_path, '[hooks.TV]\nstrategy = "x"', environ).hook("TV")
    assert hook == HookConfig(
        strategy="77", strip_exchange=False, symbols={"A:B": "C"}, allow_from=("1.2.3.4",)
    )


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("VOLLEY_LIMITS__COLLAR_PERCENT", "250", "limits.collar_percent = 250"),
        ("VOLLEY_LIMITS__COLLAR_PERCENT", "", 'limits.collar_percent = ""'),
        ("VOLLEY_LIMITS__COLLAR_PERCENT", "1\n2", "limits.collar_percent"),
        ("VOLLEY_LIMITS__COLAR_PERCENT", "5", 'did you mean "collar_percent"'),
        ("VOLLEY_LIMIT__COLLAR_PERCENT", "5", "VOLLEY_LIMITS__COLLAR_PERCENT"),
        ("VOLLEY_LIMITS_COLLAR_PERCENT", "5", "VOLLEY_LIMITS__COLLAR_PERCENT"),
        ("VOLLEY_X__Y", "1", "unknown"),
        ("VOLLEY_LIMITS__COLLAR_PERCENT__X", "1", "unknown"),
        ("VOLLEY_LIMITS__", "1", "unknown"),
        ("VOLLEY_HOOKS__TV", "1", "unknown"),
        ("VOLLEY_SIGNALS__MAX_AGE_S", "soon", 'signals.max_age_s = "soon"'),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(tmp_path, variable, text, said):
    text = refused(tmp_path, "", {variable: text})
    assert variable in text
    assert said in text


def test_what_is_not_configuration_is_left_alone(tmp_path):
    environ = {"VOLLEY_TOKEN": "x", "VOLLEY_HOME": "y", "PATH": "z", "MY_VOLLEY_X__Y": "1"}
    assert load(tmp_path, "", environ) == Config()


# Secrets.


@pytest.mark.parametrize(
    "url",
    ["redis://user:c4nary@h:1/0", "redis://:c4nary@h", "redis://u:c4n@ry@h", "http://u:c4nary@h", "c4nary@h",
     "redis://u:c4nary@h:notaport", "redis://u:c4nary@", "redis://u:c4/n?ry@h:x", "ftp://h?password=c4nary"],
)  # fmt: skip
def test_a_password_in_a_url_is_never_shown(tmp_path, url):
    toml = f'[storage]\nredis_url = "{url}"'
    try:
        config = load(tmp_path, toml)
    except ConfigError as error:
        shown = str(error)
    else:
        shown = f"{config!r} {config.storage!r} {redact_url(config.storage.redis_url)}"
    assert "c4n" not in shown
    assert "ry@" not in shown


def test_secrets_are_told_to_the_log_alone(tmp_path):
    config = load(
        tmp_path,
        '[storage]\nredis_url = "redis://:p%40ss@h"\nmongo_url = "mongodb://u:word@a:1,b:2/x"',
    )
    assert set(config.secrets()) == {"p%40ss", "p@ss", "word"}
    assert Config().secrets() == []


@pytest.mark.parametrize("key", ["api_secret", "token", "PASSWORD", "broker_credentials"])
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path, key):
    text = refused(tmp_path, f'[engine]\n{key} = "c4nary"')
    assert key in text
    assert "c4nary" not in text


# Immutability.


def test_nothing_can_be_changed(tmp_path):
    config = load(tmp_path, '[hooks.tv.symbols]\nA = "B"')
    with pytest.raises(ValidationError):
        config.limits.collar_percent = Decimal(50)
    with pytest.raises(ValidationError):
        config.limits = None
    with pytest.raises(TypeError):
        config.hooks["x"] = HookConfig()
    with pytest.raises(TypeError):
        config.hooks["tv"].symbols["A"] = "C"
    assert config.hook("unheard-of") == HookConfig()


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [("0.0.0.0:1", "0.0.0.0", 1), ("[::1]:8787", "::1", 8787), ("localhost:0", "localhost", 0)],
)
def test_listen_comes_apart(tmp_path, listen, host, port):
    engine = load(tmp_path, f'[engine]\nlisten = "{listen}"').engine
    assert (engine.listen_host, engine.listen_port) == (host, port)


def test_a_dump_is_json_and_reads_back():
    dumped = Config(hooks={"tv": HookConfig(symbols={"A": "B"})}).model_dump(mode="json")
    assert dumped["limits"]["collar_percent"] == "5"
    assert Config.model_validate(dumped).hook("tv").symbols == {"A": "B"}
