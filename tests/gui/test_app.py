"""The program as a user starts it: a process of its own, its exit status, its picture, its one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtGui import QImage

from gui.app import missing_library

MAIN = Path(__file__).resolve().parents[2] / "main.py"


def desk(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {
        k: v
        for k, v in os.environ.items()
        if k not in {"DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"}
    }
    return subprocess.run(
        [sys.executable, str(MAIN), "desk", *arguments],
        env=clean | environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_demo_shows_live_rows_in_a_picture_and_leaves_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "desk.png"
    done = desk(
        "--demo", "--home", str(tmp_path / "home"), "--for", "7", "--screenshot", str(picture)
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
    image = QImage(str(picture))
    assert image.width() >= 1280
    colors = {
        image.pixel(x, y) for x in range(0, image.width(), 7) for y in range(0, image.height(), 7)
    }
    assert len(colors) > 40, "a blank window"
    assert not (tmp_path / "home" / "engine.json").exists()
    layout = json.loads((tmp_path / "home" / "layout.json").read_text("utf-8"))
    assert layout["preset"] == "trade"


def test_a_time_too_short_for_the_engine_s_start_still_shows_it(tmp_path: Path) -> None:
    """On a machine under load: a tenth of a second is less than any engine takes."""
    picture = tmp_path / "desk.png"
    done = desk(
        "--demo", "--home", str(tmp_path / "home"), "--for", "0.1", "--screenshot", str(picture)
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert QImage(str(picture)).width() >= 1280


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="there always is a display there")
def test_without_a_display_one_line_says_what_to_do(tmp_path: Path) -> None:
    done = desk("--demo", "--home", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no display" in done.stderr


def test_a_wrong_configuration_is_exit_status_2(tmp_path: Path) -> None:
    (tmp_path / "volley.toml").write_text("[limits]\ncollar_percent = 'much'\n")
    done = desk("--home", str(tmp_path), "--for", "20")
    assert done.returncode == 2
    assert "collar_percent" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_engine_at_that_address_is_a_failure_in_one_line(tmp_path: Path) -> None:
    done = desk(
        "--home",
        str(tmp_path),
        "--connect",
        "ws://127.0.0.1:1",
        "--for",
        "1",
        VOLLEY_TOKEN="x" * 32,
    )
    assert done.returncode == 1
    assert done.stderr.strip().startswith("volley: ")
    assert "x" * 32 not in done.stderr + done.stdout


def test_a_missing_system_library_is_named_with_its_package() -> None:
    error = ImportError("libEGL.so.1: cannot open shared object file: No such file or directory")
    assert missing_library(error) == (
        "the system has no libEGL.so.1; install libegl1 (Debian, Ubuntu) or libglvnd-egl (Fedora)"
    )
