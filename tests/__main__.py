"""``python -m tests``: every check and every test, one after the other, and one verdict.

    python -m tests                 everything
    python -m tests --quick         neither the rig nor the frozen application
    python -m tests -k wire -x      whatever else is given goes to pytest

A step that fails does not hide the next one; the exit status is 1 if any failed. The rig (kills, power cuts, the
simulation) mostly waits for its own processes: it runs beside the tests, and what it said is shown after them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
NOTHING_COLLECTED: Final = 5  # pytest's exit status; with -k a run may well select nothing
_COUNT: Final = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|warnings?)\b")
_CLOSING: Final = re.compile(
    r"\b(passed|failed|errors?|skipped|deselected|no tests ran)\b.* in [\d.]+s\b"
)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_TAIL: Final = 4096


def _show(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


@dataclass
class Step:
    """One check: what it is called, how it is run, how it went."""

    name: str
    command: list[str]
    beside: bool = False  # of the others, from the beginning
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    status: int = -1

    @property
    def good(self) -> bool:
        """Whether it passed."""
        if self.status == NOTHING_COLLECTED and "pytest" in self.command:
            return True
        return self.status == 0

    def start(self, *, shown: bool = True) -> None:
        """Start it; what it says is shown at once, or kept until ``finish``."""
        self._began = time.monotonic()
        self._shown, self._kept, self._tail = shown, bytearray(), b""
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            while chunk := os.read(said.fileno(), 65536):
                with self._lock:
                    self._tail = (self._tail + chunk)[-_TAIL:]
                    if self._shown:
                        _show(chunk)
                    else:
                        self._kept += chunk

    def finish(self) -> None:
        """Show what it says until its end, keep what its last line counts."""
        with self._lock:
            _show(bytes(self._kept))
            self._shown = True
        self._reader.join()
        self.status = self._process.wait()
        self.seconds = time.monotonic() - self._began
        if "pytest" in self.command:
            self._count(self._tail)

    def _count(self, tail: bytes) -> None:
        lines = _COLOUR.sub("", tail.decode(errors="replace")).splitlines()
        closing = next((line for line in reversed(lines) if _CLOSING.search(line)), "")
        for number, what in _COUNT.findall(closing):
            self.counts[what.rstrip("s") if what in {"errors", "warnings"} else what] += int(number)


def steps(quick: bool, extra: list[str]) -> list[Step]:
    """Return what is to be run, in order; what takes long comes last."""
    python = sys.executable
    linter = shutil.which("lint-imports", path=str(Path(python).parent)) or "lint-imports"
    pytest = [python, "-m", "pytest", *(["--color=yes"] if sys.stdout.isatty() else [])]
    rig = ["tests/crash", "tests/simulation"]
    left_out = [f"--ignore={directory}" for directory in rig]
    found = [
        Step("ruff check", [python, "-m", "ruff", "check", "."]),
        Step("ruff format", [python, "-m", "ruff", "format", "--check", "."]),
        Step("mypy", [python, "-m", "mypy"]),
        Step("import layers", [linter]),
        Step("tests", [*pytest, "-m", "not frozen", *left_out, *extra]),
    ]
    if not quick:
        found.append(Step("the rig", [*pytest, *rig, *extra], beside=True))
        found.append(Step("frozen application", [*pytest, "-m", "frozen", *left_out, *extra]))
    return found


def main(arguments: list[str]) -> int:
    """Run all of it; return 1 if anything failed."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    planned = steps("--quick" in arguments, [word for word in arguments if word != "--quick"])
    counts: Counter[str] = Counter()
    beside = [step for step in planned if step.beside]
    for step in beside:
        step.start(shown=False)
    for step in [*(step for step in planned if not step.beside), *beside]:
        print(f"--- {step.name}", flush=True)
        if not step.beside:
            step.start()
        step.finish()
        counts += step.counts
    print()
    for step in planned:
        print(f"{'ok    ' if step.good else 'FAILED'} {step.name:<20} {step.seconds:7.1f} s")
    good = all(step.good for step in planned)
    order = ("failed", "error", "passed", "skipped", "xfailed", "xpassed", "warning")
    said = ", ".join(f"{counts[what]} {what}" for what in order if counts[what])
    failed = ", ".join(step.name for step in planned if not step.good)
    print(f"all checks passed: {said}" if good else f"FAILED: {failed}; tests: {said}")
    print(f"===== {said or 'no tests'} in {sum(step.seconds for step in planned):.2f}s =====")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
