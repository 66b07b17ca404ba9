"""The help page about the controls says what the code says."""

from __future__ import annotations

from pathlib import Path

from engine.model.codes import CODES
from engine.model.controls import BY_CODE, CONTROLS

PAGE = Path(__file__).parents[2] / "resources" / "help" / "controls.md"


def test_thirty_controls_in_order_whose_codes_exist():
    assert [control.number for control in CONTROLS] == [f"C{n:02}" for n in range(1, 31)]
    assert set(BY_CODE) <= set(CODES)


def test_the_page_has_every_control_with_its_codes():
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| C")]
    assert len(rows) == len(CONTROLS)
    for control, row in zip(CONTROLS, rows, strict=True):
        assert row.startswith(f"| {control.number} |")
        codes = row.rstrip(" |").rpartition("|")[2]
        assert [word.strip("`") for word in codes.split() if word.startswith("`")] == list(
            control.codes
        )
        soft = {code for code in control.codes if CODES[code].soft}
        assert all(f"`{code}` (soft)" in row for code in soft), control.number
