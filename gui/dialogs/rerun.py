"""A recorded day run again with other limits, in a process of its own; its result opens beside what was."""

from __future__ import annotations

import os
import re
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from PySide6.QtCore import QProcess, QProcessEnvironment
from PySide6.QtWidgets import QComboBox, QLineEdit, QProgressBar, QPushButton

from gui.day_chooser import DayChooser
from gui.dialogs.base import Dialog
from gui.limit_fields import AMOUNTS, COUNTS
from gui.supervisor import own_command
from gui.words import tr

FIRM = (
    ("max_signal_value", "Firm: value of a signal", "over all accounts"),
    ("max_accounts_per_signal", "Firm: accounts of a signal", "a whole number"),
    ("collar_percent", "Firm: price collar", "percent from the reference"),
    ("max_gross_exposure", "Firm: gross exposure", "over all accounts"),
)  # fmt: skip
SPEEDS = (
    (60, "×60: limits by the second count a little less"),
    (1, "×1: as it was"),
    (1_000_000, "as fast as it can"),
)
NO_LIMIT = "none"
_PROGRESS = re.compile(rb"(\d+) of (\d+) signals")
_WHOLE = frozenset(key for key, _, _ in COUNTS) | {"max_accounts_per_signal"}


class RerunDialog(Dialog):
    """Subject: ``home``, where to look first, and where results are kept."""

    WIDTH = 540

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Run a day again",
            "On a simulated venue, in a process of its own: no broker is asked and nothing of the journal changes. "
            f"An empty limit stays as it is; “{NO_LIMIT}” takes it away.",
        )
        self.chooser = DayChooser(self.desk, self.subject["home"], self.tell)
        self.field(
            "Home or journal", self.chooser, "A home's folder, or a copy of its journal.sqlite3"
        )
        self.field("Day (UTC)", self.chooser.days)
        self._edits: dict[str, tuple[str, QLineEdit]] = {}
        for key, name, unit in (*AMOUNTS, *COUNTS, *FIRM):
            edit = self.number_field(name, "", unit)
            edit.setObjectName(f"limit.{'firm.' * ((key, name, unit) in FIRM)}{key}")
            self._edits[edit.objectName().removeprefix("limit.")] = name, edit
        self.speed = QComboBox()
        for speed, title in SPEEDS:
            self.speed.addItem(tr(title), speed)
        self.field("Speed", self.speed, "How much faster than on the day the signals come")
        self.progress = QProgressBar()
        self.progress.setAccessibleName(tr("Progress of the run"))
        self.progress.hide()
        self.page.addWidget(self.progress)
        self.process: QProcess | None = None
        self._said = b""
        self.buttons("Run", self._run, focus_go=True)
        self.stop = QPushButton(tr("Stop the run"))
        self.stop.setAccessibleName(self.stop.text())
        self.stop.setAutoDefault(False)
        self.stop.clicked.connect(self.end)
        self.stop.hide()
        self.button_line.insertWidget(1, self.stop)
        self.finished.connect(self.end)
        self.chooser.look()

    # --- what to run --------------------------------------------------------------------------

    def limits(self) -> dict[str, str]:
        """Return what was changed: an account's limits by name, the firm's as ``firm.NAME``.

        Raises:
            ValueError: a number is none.
        """
        found = {}
        for key, (name, edit) in self._edits.items():
            text = edit.text().strip()
            if not text:
                continue
            firm, _, plain = key.rpartition(".")
            if text.lower() == NO_LIMIT and not firm:
                found[key] = NO_LIMIT
                continue
            value = self.number(edit, name) or ""
            if plain in _WHOLE and not value.isdigit():
                raise ValueError(f"{name}: {value} is not a whole number")
            found[key] = value
        return found

    def command_line(self, out: Path) -> list[str]:
        """Return the command that runs the day again into a file."""
        speed = str(self.speed.currentData())
        line = own_command(
            "replay", self.chooser.place, "--day", self.chooser.day, "--speed", speed
        )
        line += ["--progress", "--format", "json", "-o", str(out)]
        for key, value in self.limits().items():
            if not key.startswith("firm."):
                line += ["--limit", f"{key}={value}"]
        return line

    def environment(self) -> QProcessEnvironment:
        """Return the environment of the run: the firm's changed limits are keys of the configuration."""
        found = QProcessEnvironment.systemEnvironment()
        for key, value in self.limits().items():
            if key.startswith("firm."):
                name = key.removeprefix("firm.").upper()
                found.insert(f"VOLLEY_LIMITS__{name}", value)
        return found

    # --- running ------------------------------------------------------------------------------

    def _run(self) -> None:
        if not self.chooser.day:
            self.fail("There is no recorded day to run.")
            return
        day, now = self.chooser.day, datetime.now(UTC)
        out = Path(str(self.subject["home"])) / "reruns" / f"{day} at {now:%Y-%m-%d %H%M%S}.json"
        try:
            out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            line, environment = self.command_line(out), self.environment()
        except (OSError, ValueError) as error:
            self.fail(str(error))
            return
        self._error.hide()
        self._show_running(running=True)
        self._said = b""
        self.process = process = QProcess(
            self.desk.window_widget
        )  # it outlives this dialog a moment
        process.setProcessEnvironment(environment)
        process.setStandardOutputFile(QProcess.nullDevice())
        process.readyReadStandardError.connect(self._on_said)
        process.errorOccurred.connect(self._on_error)
        process.finished.connect(lambda status, _how: self._on_finished(status, out))
        process.finished.connect(process.deleteLater)
        process.start(line[0], line[1:])

    def _show_running(self, *, running: bool) -> None:
        self.progress.setRange(0, 0)  # until the first signal: the venue and the engine start
        self.progress.setVisible(running)
        self.stop.setVisible(running)
        if self._go is not None:
            self._go.setEnabled(not running)

    def _on_said(self) -> None:
        if self.process is None:
            return
        self._said = (self._said + self.process.readAllStandardError().data())[-20_000:]
        told = _PROGRESS.findall(self._said)
        if told:
            done, total = map(int, told[-1])
            self.progress.setRange(0, total)
            self.progress.setValue(done)
            self.progress.setFormat(tr("%v of %m signals"))

    def _on_error(self, error: QProcess.ProcessError) -> None:
        if error is QProcess.ProcessError.FailedToStart:
            self.process = None
            self._show_running(running=False)
            self.fail(tr("The run could not be started."))

    def _on_finished(self, status: int, out: Path) -> None:
        if not self.there():
            return
        stopped = self.process is None
        self.process = None
        self._show_running(running=False)
        if stopped:
            out.unlink(missing_ok=True)  # it may have come to its end in the same moment
            self.fail(tr("The run was stopped."))
        elif status or not out.is_file():
            self.fail(_reason(self._said) or tr("The run failed and did not say why."))
        else:
            self.desk.ask("comparison", path=str(out), home=self.subject["home"])
            self.accept()

    def end(self) -> None:
        """Stop the run; nothing is left of it."""
        process, self.process = self.process, None
        if process is None or process.state() is QProcess.ProcessState.NotRunning:
            return
        if sys.platform == "win32":
            process.kill()
        else:
            os.kill(process.processId(), signal.SIGINT)  # it ends its venue and removes its home


def _reason(said: bytes) -> str:
    """Return the last line a run wrote that is no progress."""
    lines = re.split(r"[\r\n]+", said.decode("utf-8", "replace"))
    told = [line.strip() for line in lines if line.strip() and " signals" not in line]
    return told[-1] if told else ""
