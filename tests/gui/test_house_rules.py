"""The desk's house rules, as regular expressions over its source: each forbids what once cost somebody a day."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUI = Path(__file__).resolve().parents[2] / "gui"
SOURCES = sorted(GUI.rglob("*.py"))

FORBIDDEN = {
    "a nested event loop kills other tasks": r"\.exec_?\(",
    "static message boxes are nested event loops": r"QMessageBox\.(information|question|warning|critical)",
    "repaint() holds the GIL for the whole paint": r"\.repaint\(\)",
    "grab() holds the GIL for the whole paint": r"\.grab\(",
    "measures every row": r"resizeColumnsToContents|resizeRowsToContents|ResizeToContents",
    "sorts on every change": r"setDynamicSortFilter\(True\)|QSortFilterProxyModel|setSortingEnabled\(True\)",
    "loses the task and the exception": r"@asyncSlot|@asyncClose|ensure_future",
    "the forgiving enum look-up costs 3 µs": (
        r"\bQt\.([A-Z]\w+Role|Align(Left|Right|[VH]?Center|Top|Bottom)|Horizontal|Vertical|UserRole)\b"
    ),
    "a wall clock is no stopwatch": r"\btime\.time\(\)",
    "translated object names lose layouts": r"setObjectName\((self\.)?tr\(",
    "item rules slow every cell": r"QTableView::item|QTreeView::item|QAbstractItemView::item",
    "modal dialogs swallow the kill key": r"setModal\(True\)|\.open\(\)\s*#\s*modal|WindowModal|ApplicationModal",
}
ONCE = {
    r"processEvents": {"app.py": 1},
    r"\bbeginResetModel": {"table_model.py": 1},
}
SPAWNERS = {"commands.py", "app.py", "supervisor.py"}


def lines(pattern: str) -> list[str]:
    found = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if re.search(pattern, line.partition("  # ")[0]) and not line.lstrip().startswith("#"):
                found.append(f"{path.relative_to(GUI)}:{number}: {line.strip()}")
    return found


def test_there_is_source_to_check() -> None:
    assert len(SOURCES) > 30


@pytest.mark.parametrize("why", FORBIDDEN)
def test_forbidden(why: str) -> None:
    assert lines(FORBIDDEN[why]) == [], why


@pytest.mark.parametrize("pattern", ONCE)
def test_allowed_in_one_place(pattern: str) -> None:
    counts: dict[str, int] = {}
    for line in lines(pattern):
        name = line.partition(":")[0]
        counts[name] = counts.get(name, 0) + 1
    assert counts == ONCE[pattern]


def test_tasks_are_made_where_they_are_kept() -> None:
    makers = {line.partition(":")[0] for line in lines(r"create_task\(")}
    assert makers <= SPAWNERS


def test_no_nested_loops_in_async_tests() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        text = path.read_text("utf-8")
        for body in re.findall(r"async def test_\w+.*?(?=\n(?:async )?def |\Z)", text, re.DOTALL):
            assert not re.search(r"qtbot\.wait\w*\(", body), path.name


def test_layers() -> None:
    """The desk knows the engine only by its client, model, configuration, errors and file writers."""
    allowed = re.compile(r"(from|import) engine\.(client|model|config|errors|sheets)\b")
    for line in lines(r"^\s*(from|import) engine"):
        assert allowed.search(line), line
    for kind in ("panels", "dialogs"):
        others = [line for line in lines(rf"from gui\.{kind}\.\w+ import") if line.startswith(kind)]
        strangers = [
            line for line in others if "__init__" not in line and "dialogs.base" not in line
        ]
        assert strangers == []


def test_the_lowest_layers_know_nothing_above() -> None:
    for name in ("formatting", "notifications", "theme"):
        text = (GUI / f"{name}.py").read_text("utf-8")
        assert "from gui" not in text, name
