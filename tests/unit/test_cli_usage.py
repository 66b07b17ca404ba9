"""The command line's own rules: where options stand, what is imported, what a usage error says."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import main
from engine.cli.common import NoEngineError, report, table
from engine.cli.signal import RecordingError, read_prices, read_signals
from engine.errors import CommandRefused, ConfigError, HomeLocked, StoreError
from engine.sheets import safe_cell

ROOT = Path(main.__file__).parent


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        status = main.main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["--home", "x", "-h"]])
def test_help_lists_every_command(capsys, arguments):
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    for name in main.COMMANDS:
        assert f"\n  {name}" in out


def test_every_command_has_its_own_help(capsys):
    for name in main.COMMANDS:
        if name == "loadtest" and not (ROOT / "engine/cli/loadtest.py").exists():
            continue
        status, out, _ = run(capsys, name, "-h")
        assert status == 0, name
        assert out.startswith(f"usage: volley {name}"), name
        for option in ("--home", "--config", "--json"):
            assert option in out, (name, option)


def test_help_and_usage_import_nothing_heavy():
    code = (
        "import sys, main\n"
        "status = main.main(sys.argv[1:])\n"
        "heavy = {'pydantic', 'fastapi', 'httpx', 'PySide6', 'asyncio', 'engine', 'gui'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    for arguments in (["-h"], ["nonsense"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
        )
        assert done.stderr.splitlines()[-1] == "[]", arguments


def test_the_engine_loads_no_qt():
    code = (
        "import sys, main, engine.wiring, engine.api.server, engine.cli.engine\n"
        "print([name for name in sys.modules if name.startswith(('PySide', 'gui', 'qasync'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_client_is_cheap_to_import():
    code = (
        "import sys, engine.client\n"
        "heavy = {'pydantic', 'fastapi', 'httpx', 'websockets', 'engine.trading_engine'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_first_paint_waits_for_no_panel_and_no_dialog():
    code = (
        "import sys, gui.app, gui.main_window\n"
        "late = ('gui.panels', 'gui.dialogs', 'gui.charts', 'pyqtgraph', 'numpy', 'openpyxl', 'websockets')\n"
        "print([name for name in sys.modules if name.startswith(late)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_common_options_stand_before_or_after(capsys, tmp_path):
    for arguments in (
        ["--home", str(tmp_path), "--json", "accounts", "list"],
        ["accounts", "--json", "--home", str(tmp_path), "list"],
        [f"--home={tmp_path}", "accounts", "--json", "list"],
        ["accounts", "list", "--home", str(tmp_path), "--json"],
    ):
        status, out, _ = run(capsys, *arguments)
        assert (status, json.loads(out)) == (0, {"accounts": [], "problems": {}})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "no command 'nonsense'"),
        (["sttus"], 'did you mean "status"?'),
        (["status", "--nonsense"], "--nonsense"),
        (["accounts"], "ACTION"),
        (["accounts", "nonsense"], "nonsense"),
        (["accounts", "show"], "ID"),
        (["kill", "--scope", "everything"], "expected all, account:ID"),
        (["kill", "--scope", "account:"], "expected all, account:ID"),
        (["engine", "--for", "-1"], "greater than zero"),
        (["engine", "--for", "nan"], "greater than zero"),
        (["signal", "replay", "x", "--speed", "0"], "greater than zero"),
        (["signal", "replay", "x", "--prices", "y"], "--symbol"),
        (["export", "nonsense", "--out", "x"], "nonsense"),
        (["desk", "--screenshot", "x.png"], "--for"),
        (["desk", "--inline", "--connect", "ws://h:1"], "--connect"),
        (["desk", "--demo", "--connect", "ws://h:1"], "--connect"),
        (["--demo", "--for"], "--for"),
    ],
)
def test_a_usage_error_is_status_2(capsys, tmp_path, arguments, says):
    status, out, err = run(capsys, "--home", str(tmp_path), *arguments)
    assert status == 2
    assert says in err
    assert not out
    assert "Traceback" not in err


def test_what_comes_later_says_so_in_one_line(capsys, tmp_path):
    for arguments in (
        ["ingest"],
        ["execute", "--partitions", "0-3/8"],
    ):
        status, out, err = run(capsys, "--home", str(tmp_path), *arguments)
        assert (status, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert "later version" in err


def test_a_desk_without_a_display_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    status, _, err = run(capsys, "desk")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "--screenshot" in err


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ConfigError("engine.listen = 1: expected host:port"), 2, "engine.listen"),
        (HomeLocked("another engine holds it"), 3, "another engine"),
        (StoreError("disk full"), 1, "disk full"),
        (NoEngineError("no engine"), 1, "no engine"),
        (CommandRefused("HALTED", "a latch is set"), 1, "HALTED: a latch is set"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 1, "x.json: No such file"),
        (ZeroDivisionError("inner"), 1, "unexpected ZeroDivisionError"),
    ],
)
def test_errors_are_one_line_and_a_status(capsys, tmp_path, monkeypatch, error, status, says):
    monkeypatch.delenv("VOLLEY_DEBUG", raising=False)
    assert report(error, ["status", "--home", str(tmp_path)]) == status
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert says in err
    crash = tmp_path / "logs" / "crash.log"
    assert crash.exists() == isinstance(error, ZeroDivisionError)


def test_control_characters_never_reach_the_terminal(capsys):
    report(StoreError("a\x1b[31m\nb\u202e"), [])
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert len(err.splitlines()) == 1


def test_a_broken_pipe_is_no_error():
    command = f"{sys.executable} main.py -h | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""


def test_tables_line_up():
    text = table([{"a": "x", "b": "1.5"}, {"a": "long", "b": None}], {"a": "NAME", "b": "VALUE"})
    assert text.splitlines() == ["NAME  VALUE", "x       1.5", "long      -"]


@pytest.mark.parametrize(
    ("column", "value", "cell"),
    [
        ("text", "=1+1", "'=1+1"),
        ("text", "@SUM(A1)", "'@SUM(A1)"),
        ("text", "-2+3", "'-2+3"),
        ("text", "+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("text", "\t=1", "'\t=1"),
        ("text", "-12.50", "'-12.50"),
        ("qty", "-12.50", "-12.50"),
        ("qty", "-12.50.", "'-12.50."),
        ("qty", "-123456789012345678.123456789012", "-123456789012345678.123456789012"),
        ("qty", "+3", "'+3"),
        ("symbol", "AAPL", "AAPL"),
        ("text", "-", "'-"),
        ("qty", None, None),
        ("accounts", 3, 3),
        ("tags", ["a"], '["a"]'),
    ],
)
def test_no_cell_is_a_formula(column, value, cell):
    assert safe_cell(column, value) == cell


# ---- recordings

LINE = '{"id": "1", "issued_at": "%s", "limit_price": 46430.10, "quantity": 3}'


def test_recorded_signals_keep_their_numbers_and_are_put_in_order():
    lines = [LINE % "2022-01-01T00:00:01Z", "", LINE % "2022-01-01T01:00:00+01:00"]
    first, second = read_signals(lines, "f")
    assert second.at - first.at == 1
    assert first.signal is not None
    assert (first.signal["limit_price"], first.signal["quantity"]) == ("46430.10", "3")


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "{}", '{"issued_at": "yesterday"}', '{"issued_at": "2022-01-01T00:00:00"}', "1"],
)
def test_a_line_that_is_no_signal_is_named(line):
    with pytest.raises(RecordingError, match=r"^f:2: "):
        read_signals([LINE % "2022-01-01T00:00:01Z", line], "f")


def test_an_empty_recording_is_none():
    with pytest.raises(RecordingError, match="no signals"):
        read_signals([], "f")


def test_prices_are_candles_or_quotes():
    candles = ["time,open,close", "2022-01-01T00:00:00Z,1,46377.0"]
    quotes = ["timestamp,bid,ask", "2022-01-01T00:00:00.5Z,86.655,86.728"]
    start = datetime(2022, 1, 1, tzinfo=UTC).timestamp()
    assert [(e.at, e.prices) for e in read_prices(candles, "f", "B")] == [(start, {"B": "46377.0"})]
    (quote,) = read_prices(quotes, "f", "U")
    assert (quote.at, quote.prices) == (start + 0.5, {"U": "86.6915"})
    for bad in (["time,close", "2022-01-01T00:00:00Z,x"], ["a,b", "1,2"], ["time,close", "x,1"]):
        with pytest.raises(RecordingError, match=r"^f:2: "):
            list(read_prices(bad, "f", "B"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simbroker", "--port", "70000"], "'70000': expected a whole number from 0 to 65535"),
        (["simbroker", "--port", "x"], "'x': expected a whole number from 0 to 65535"),
        (["loadtest", "--accounts", "0"], "'0': expected a whole number from 1 to 100000"),
        (["loadtest", "--signals", "1.5"], "'1.5': expected a whole number from 1 to 100000"),
        (["loadtest", "--rate", "-1"], "'-1': expected signals a second"),
        (["loadtest", "--rate", "nan"], "'nan': expected signals a second"),
        (["engine", "--for", "soon"], "'soon': expected seconds greater than zero"),
        (["engine", "--for", "0"], "'0': expected seconds greater than zero"),
        (["signal", "replay", "x", "--speed", "fast"], "'fast': expected a number greater than"),
        (["audit", "show", "--limit", "\u00b2"], "expected a whole number from 1 to 1000000"),
    ],
)
def test_a_number_out_of_range_says_what_is_expected(capsys, arguments, said):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err.splitlines()[-1]


def test_an_export_s_place_is_looked_at_first(capsys, tmp_path):
    for command in (["export", "orders"], ["profile"]):
        for out, named, problem in (
            (tmp_path, tmp_path, errno.EISDIR),
            (tmp_path / "none" / "o", tmp_path / "none", errno.ENOENT),
        ):
            ended = run(capsys, "--home", str(tmp_path), *command, "--out", str(out))
            assert ended == (1, "", f"volley: {named}: {os.strerror(problem)}\n")
