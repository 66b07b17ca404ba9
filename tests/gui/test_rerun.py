"""A day run again from the desk, and shown beside what it was: by mouse and keyboard, with a run of its own process."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton, QLineEdit, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from gui.dialogs.comparison import ComparisonDialog
from gui.dialogs.rerun import RerunDialog
from gui.rerun_table import LINE_COLUMNS, NoComparisonError, read
from tests.gui.conftest import DeskUnderTest, until
from tests.processes import traded_home, volley

LEFT = Qt.MouseButton.LeftButton


def today() -> str:
    return str(datetime.now(UTC).date())


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home on which two accounts bought 3 twice; its engine has ended."""
    return traded_home(tmp_path_factory.mktemp("traded"), signals=2)


@pytest.fixture(scope="module")
def results(traded: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return what reruns wrote: by the same rules, and with a limit that refuses every order."""
    folder = tmp_path_factory.mktemp("results")
    found = {}
    for name, more in (("same", ()), ("refused", ("--limit", "max_order_quantity=1"))):
        found[name] = folder / f"{name}.json"
        line = ("replay", "--day", today(), "--speed", "1000", "-o", str(found[name]), *more)
        done = volley(traded, *line)
        assert done.returncode == 0, done.stderr
    return found


def shown(desk: DeskUnderTest, kind: type[Any]) -> Any:
    found = [w for w in desk.window.findChildren(kind) if w.isVisible()]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def comparison(desk: DeskUnderTest) -> ComparisonDialog:
    desk.window.desk.registry.run("journal.compare")
    return shown(desk, ComparisonDialog)


def cells(box: ComparisonDialog, key: str) -> list[str]:
    at = [column.key for column in box.lines.columns].index(key)
    return [box.lines.cells(row)[at] for row in box.lines.order]


def sums(box: ComparisonDialog) -> dict[str, list[str]]:
    return {box.sums.cells(key)[0]: box.sums.cells(key)[1:] for key in box.sums.order}


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_result_is_read_with_what_differs_in_words_and_signs(results: dict[str, Path]) -> None:
    found = read(results["refused"])
    assert (found.day, len(found.lines), found.changed) == (today(), 4, 4)
    row = found.lines["bot/d-0 A-001"]
    assert row["what"] == "sent → refused (Quantity limit) · filled −3"
    assert (row["cum_qty_gap"], row["avg_px_gap"], row["ack_us_gap"]) == ("-3", None, None)
    assert found.sums["orders"]["gap"] == "-4"
    assert any("max_order_quantity 1" in note for note in found.notes)
    same = read(results["same"])
    assert same.changed == 0
    assert {row["cum_qty_gap"] for row in same.lines.values()} == {"0"}


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "No such file"), ("not json", "expected JSON"), ("[1]", "no result"), ('{"rows": [1]}', "no result")],
)  # fmt: skip
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "file.json"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(NoComparisonError, match=said):
        read(path)


# ---- side by side ----------------------------------------------------------------------------------------------------


async def test_nothing_open_says_how_to_begin(comparison: ComparisonDialog) -> None:
    assert comparison.view.empty_title == "No rerun is open"
    assert "volley replay" in comparison.view.empty_text
    assert comparison.lines.order == []


async def test_both_columns_with_their_differences(
    comparison: ComparisonDialog, results: dict[str, Path]
) -> None:
    comparison.open_file(str(results["refused"]))
    assert comparison.view.empty_title.startswith("Reading")
    await until(lambda: len(comparison.lines.order) == 4)
    assert comparison.summary.text() == f"{today()}: 4 of 4 lines came out otherwise"
    assert set(cells(comparison, "changed")) == {"≠ other"}
    assert set(cells(comparison, "outcome_then")) == {"sent"}
    assert set(cells(comparison, "outcome_now")) == {"refused (Quantity limit)"}
    assert set(cells(comparison, "cum_qty_then")) == {"3"}
    assert set(cells(comparison, "cum_qty_gap")) == {"−3"}
    told = sums(comparison)
    assert told["Orders"] == ["4", "0", "−4"]
    assert told["Signals"] == ["2", "2", "="]
    assert told["Latency: ack p50"][0] not in {"", "–"}
    assert "max_order_quantity 1" in comparison.notes.toPlainText()


async def test_what_came_out_the_same_is_hidden_until_asked_for(
    comparison: ComparisonDialog, results: dict[str, Path], qtbot: QtBot
) -> None:
    comparison.open_file(str(results["same"]))
    await until(lambda: comparison.compared is not None)
    assert comparison.lines.order == []
    assert comparison.view.empty_title == "Everything came out as it was"
    qtbot.keyClick(comparison.only, Qt.Key.Key_Space)
    assert len(comparison.lines.order) == 4
    assert set(cells(comparison, "changed")) == {"= same"}
    assert set(cells(comparison, "cum_qty_gap")) == {"="}
    qtbot.keyClicks(comparison.filter, "account:A-002")
    assert set(cells(comparison, "account")) == {"A-002"}
    assert comparison.count.text() == "2 of 4 lines"


async def test_a_wrong_file_is_said_where_the_rows_would_be(
    comparison: ComparisonDialog, results: dict[str, Path], tmp_path: Path
) -> None:
    comparison.open_file(str(results["refused"]))
    await until(lambda: len(comparison.lines.order) == 4)
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}", "utf-8")
    comparison.open_file(str(wrong))
    await until(lambda: comparison.view.empty_title == "It cannot be read")
    assert "no result of a rerun" in comparison.view.empty_text
    assert comparison.lines.order == []
    assert comparison.sums.order == []
    assert not comparison.summary.isVisible()


async def test_it_is_exported_like_any_table(
    desk: DeskUnderTest,
    comparison: ComparisonDialog,
    results: dict[str, Path],
    tmp_path: Path,
    qtbot: QtBot,
) -> None:
    comparison.open_file(str(results["refused"]))
    await until(lambda: len(comparison.lines.order) == 4)
    button = next(b for b in comparison.findChildren(QPushButton) if b.text() == "Export lines…")
    qtbot.mouseClick(button, LEFT)
    from gui.dialogs.export import ExportDialog

    export = shown(desk, ExportDialog)
    out = tmp_path / "lines.csv"
    export.write(str(out))
    await until(out.is_file)
    lines = out.read_text("utf-8-sig").splitlines()
    assert len(lines) == 5
    assert lines[0].split(",")[:2] == [LINE_COLUMNS[0].key, "signal"]


# ---- running it ------------------------------------------------------------------------------------------------------


def field(box: QWidget, name: str) -> QLineEdit:
    found = box.findChild(QLineEdit, f"limit.{name}")
    assert isinstance(found, QLineEdit)
    return found


async def begun(desk: DeskUnderTest, home: Path) -> RerunDialog:
    desk.window.desk.ask("rerun", home=home)
    box: RerunDialog = shown(desk, RerunDialog)
    await until(lambda: box.chooser.day == today())
    box.speed.setCurrentIndex(box.speed.count() - 1)
    return box


async def test_a_day_is_run_again_with_another_limit(
    desk: DeskUnderTest, traded: Path, qtbot: QtBot
) -> None:
    box = await begun(desk, traded)
    qtbot.keyClicks(field(box, "max_order_quantity"), "1")
    qtbot.keyClicks(field(box, "firm.collar_percent"), "4")
    go = box.findChild(QAbstractButton, "go")
    qtbot.mouseClick(go, LEFT)
    assert box.progress.isVisible()
    assert not go.isEnabled()
    await until(lambda: bool(desk.window.findChildren(ComparisonDialog)), 120)
    compared: ComparisonDialog = shown(desk, ComparisonDialog)
    await until(lambda: len(compared.lines.order) == 4)
    notes = compared.notes.toPlainText()
    assert "max_order_quantity 1" in notes
    assert "collar_percent 4" in notes
    kept = list((traded / "reruns").glob("*.json"))
    assert [json.loads(path.read_text("utf-8"))["changed"] for path in kept] == [4]


async def test_a_number_that_is_none_is_said_and_nothing_runs(
    desk: DeskUnderTest, traded: Path, qtbot: QtBot
) -> None:
    box = await begun(desk, traded)
    qtbot.keyClicks(field(box, "max_positions"), "2.5")
    qtbot.mouseClick(box.findChild(QAbstractButton, "go"), LEFT)
    assert "not a whole number" in box._error.text()
    assert box.process is None
    field(box, "max_positions").setText("none")
    assert box.limits() == {"max_positions": "none"}
    assert "--limit" in box.command_line(Path("out.json"))


async def test_a_run_can_be_stopped_and_leaves_nothing(
    desk: DeskUnderTest, traded: Path, tmp_path: Path, qtbot: QtBot
) -> None:
    box = await begun(desk, traded)
    before = set((traded / "reruns").glob("*")) if (traded / "reruns").is_dir() else set()
    qtbot.mouseClick(box.findChild(QAbstractButton, "go"), LEFT)
    process = box.process
    assert process is not None
    await until(lambda: process.processId() > 0)
    qtbot.mouseClick(box.stop, LEFT)
    await until(lambda: "stopped" in box._error.text(), 60)
    assert set((traded / "reruns").glob("*")) == before
    assert not box.progress.isVisible()


async def test_a_run_that_fails_says_why(desk: DeskUnderTest, traded: Path, qtbot: QtBot) -> None:
    box = await begun(desk, traded)
    field(box, "firm.collar_percent").setText("900")
    qtbot.mouseClick(box.findChild(QAbstractButton, "go"), LEFT)
    await until(lambda: bool(box._error.text()), 60)
    assert "collar_percent" in box._error.text()


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("max_order_quantity", "expected NAME=VALUE"),
        ("max_smiles=3", "max_smiles"),
        ("max_positions=many", "max_positions"),
    ],
)
def test_a_limit_that_is_none_is_refused_in_a_line(
    traded: Path, tmp_path: Path, limit: str, said: str
) -> None:
    out = tmp_path / "out.json"
    done = volley(traded, "replay", "--day", today(), "--limit", limit, "-o", str(out))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not out.exists()


def test_none_takes_a_limit_away(traded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    line = ("--limit", "max_order_quantity=2", "--limit", "max_order_quantity=none")
    done = volley(traded, "replay", "--day", today(), "--speed", "1000", *line, "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert read(out).changed == 0
