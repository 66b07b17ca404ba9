"""Every row of the threat table (resources/help/security.md tells it to people) has checks of its own, and they run.

T01 forged webhooks · T02 replay · T03 a stolen disk · T04 programs of the same user · T05 secrets in logs, dumps,
command lines, Redis, MongoDB · T06 hostile texts · T07 formulas in exports · T08 key theft by an address · T09 TLS ·
T10 deserialisation · T11 the local API and feed · T12 Redis and MongoDB in the open · T13 denial of service ·
T14 accounts mixed up · T15 the supply chain · T16 tampering with configuration and limits · T17 operators and PINs ·
T18 the clock set back · T19 edits of the audit trail · T20 exports and backups · T21 secrets on the screen ·
T22 updates.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROWS = [f"t{number:02d}" for number in range(1, 23)]


@pytest.mark.parametrize("row", ROWS)
def test_the_row_has_checks(row: str) -> None:
    files = list(HERE.rglob(f"test_{row}_*.py"))
    assert len(files) == 1, row
    tree = ast.parse(files[0].read_text("utf-8"))
    assert (ast.get_docstring(tree) or "").upper().startswith((row.upper(), "T05 AND T20")), row
    tests = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
    assert tests, row
    for test in tests:
        checks = [
            node
            for node in ast.walk(test)
            if isinstance(node, ast.Assert)
            or (isinstance(node, ast.Attribute) and node.attr == "raises")
        ]
        calls_helper = [node for node in ast.walk(test) if isinstance(node, ast.Await)]
        assert checks or calls_helper, f"{row}: {test.name} asserts nothing"


def test_the_table_above_names_every_row() -> None:
    assert re.findall(r"T\d\d", __doc__ or "") == [row.upper() for row in ROWS]
