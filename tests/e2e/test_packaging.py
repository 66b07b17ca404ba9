"""What a fresh clone promises: the lock, the layout, what a start imports, and that PySide counts right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
TOP_LEVEL = {
    *("gui", "engine", "resources", "tests"),
    *("main.py", "pyproject.toml", "build.spec", "README.md", "requirements.lock", "LICENSE"),
    "CHANGELOG.md",
}
INSTALL = (
    "python3 -m venv .venv && .venv/bin/pip install -q --require-hashes -r requirements.lock && "
)
TEST_LINE = INSTALL + ".venv/bin/python -m tests"
DEMO_LINE = INSTALL + ".venv/bin/python main.py desk --demo"


def tracked() -> list[str]:
    """Return the files that belong to the project: git's list, or all there are where git is not."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        )
        return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]


# ---- the lock


def locked() -> dict[str, list[tuple[str, str]]]:
    """Return what the lock pins: for each project, its versions with their markers."""
    pins: dict[str, list[tuple[str, str]]] = {}
    entries = re.split(r"\n(?=[A-Za-z0-9])", "\n" + LOCK)
    for entry in entries:
        if not entry.strip():
            continue
        line = entry.strip().splitlines()[0].removesuffix("\\").strip()
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{line}: not one version"
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry), f"{line}: no hash"
        name = canonicalize_name(requirement.name)
        pins.setdefault(name, []).append((pin.version, str(requirement.marker or "")))
    return pins


def test_the_lock_holds_every_dependency_with_hashes_and_no_address():
    pins = locked()
    declared = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    assert len(declared) >= 30
    for text in declared:
        requirement = Requirement(text)
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in requirements.lock"
        assert any(
            requirement.specifier.contains(version, prereleases=True) for version, _ in versions
        ), f"{text}: the lock has {versions}"
    assert "://" not in LOCK
    assert "--index-url" not in LOCK
    assert "--find-links" not in LOCK


def test_what_is_installed_is_what_the_lock_says():
    from importlib.metadata import version

    pins = locked()
    for text in PROJECT["project"]["dependencies"]:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            name = canonicalize_name(requirement.name)
            assert version(name) in {pinned for pinned, _ in pins[name]}


def test_python_311_never_gets_the_pyside_that_aborts_it():
    old = {"python_full_version": "3.11.7", "python_version": "3.11"}
    for name in ("pyside6-essentials", "shiboken6"):
        (chosen,) = [
            version
            for version, marker in locked()[name]
            if not marker or Marker(marker).evaluate(old)
        ]
        assert tuple(map(int, chosen.split(".")[:2])) < (6, 12)


# ---- the layout


def test_the_top_level_is_what_the_design_says():
    top = {name.split("/")[0] for name in tracked()}
    assert {name for name in top if not name.startswith(".")} == TOP_LEVEL


def test_no_file_names_a_machines_own_paths():
    own = re.compile(
        rb"(?<![\w./-])/(?:home|Users|work|mnt|opt|root)/[\w.-]+|[A-Za-z]:\\\\?Users\\", re.ASCII
    )
    found = []
    for name in tracked():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content[:8192]:
            found += [f"{name}: {match.group().decode()}" for match in own.finditer(content)]
    assert found == []


def test_every_resource_is_part_of_an_installation():
    from setuptools.discovery import PackageFinder

    settings = PROJECT["tool"]["setuptools"]
    packages = set(PackageFinder.find(str(ROOT), include=settings["packages"]["find"]["include"]))
    for folder in ("engine", "gui"):
        for path in (ROOT / folder).rglob("*.py"):
            package = ".".join(path.parent.relative_to(ROOT).parts)
            assert package in packages, f"{path.parent} has no __init__.py"
    assert settings["package-data"] == {"resources": ["**/*"]}


def test_the_readme_has_the_two_lines_and_ci_runs_the_second():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert DEMO_LINE in readme
    assert TEST_LINE in readme
    assert TEST_LINE in (ROOT / ".ci" / "run").read_text("utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_pre_commit_fetches_nothing():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    assert {hook["language"] for hook in repos[0]["hooks"]} == {"system"}
    entries = " ".join(hook["entry"] for hook in repos[0]["hooks"])
    assert all(tool in entries for tool in ("ruff check", "ruff format", "mypy", "lint-imports"))


# ---- what a start imports

_REPORT = """
import runpy, sys
sys.argv = ["main.py", *sys.argv[1:]]
try:
    runpy.run_path("main.py", run_name="__main__")
except SystemExit as end:
    status = end.code
import json
sys.stderr.write("\\n" + json.dumps([status, sorted(name for name in sys.modules)]))
"""
_QT = {"PySide6", "shiboken6", "qasync", "pyqtgraph", "numpy"}
_ENGINE_HEAVY = {
    *(
        "engine.trading_engine",
        "engine.wiring",
        "engine.fleet",
        "engine.api.server",
        "engine.simbroker.server",
    ),
    *("fastapi", "uvicorn", "redis", "pymongo", "motor", "prometheus_client", "keyring", "uvloop"),
}


def imported(home: Path, *arguments: str) -> tuple[int, set[str]]:
    """Run a command in a process of its own; return its exit status and what it had imported."""
    import json

    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VOLLEY_") or name == "VOLLEY_KEY_DIR"
    }
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, *arguments],
        cwd=ROOT,
        env=plain | {"XDG_DATA_HOME": str(home), "VOLLEY_ENGINE__LISTEN": "127.0.0.1:0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    status, modules = json.loads(done.stderr.splitlines()[-1])
    return int(status or 0), set(modules)


@pytest.mark.parametrize(
    "arguments",
    [["-h"], ["status"], ["engine", "-h"], ["desk", "-h"], ["kill", "-h"], ["no-such-command"]],
    ids=" ".join,
)
def test_a_start_imports_only_what_it_needs(tmp_path, arguments):
    status, modules = imported(tmp_path, "--home", str(tmp_path), *arguments)
    assert status == {"status": 1, "no-such-command": 2}.get(arguments[0], 0)
    assert modules & _QT == set()
    assert modules & _ENGINE_HEAVY == set()


def test_the_engines_process_never_imports_qt(tmp_path):
    status, modules = imported(tmp_path, "--home", str(tmp_path), "engine", "--demo", "--for", "1")
    assert status == 0
    assert modules >= {"engine.trading_engine", "engine.services.demo", "fastapi"}
    assert modules & _QT == set()
    assert not any(name.split(".")[0] == "gui" for name in modules)


# ---- PySide counts its references right on this Python

_EMITS = """
import sys
from PySide6.QtCore import QObject, QTimer, Signal

class Source(QObject):
    happened = Signal(int)

source, heard = Source(), []
source.happened.connect(heard.append)
before = sys.getrefcount(None), sys.getrefcount(True)
for number in range(5000):
    source.happened.emit(number)
    source.setObjectName("x")
    source.blockSignals(False)
assert heard == list(range(5000))
after = sys.getrefcount(None), sys.getrefcount(True)
print(before[0] - after[0], before[1] - after[1])
"""


def test_pyside_does_not_eat_references_to_none():
    # PySide6 6.12.0 on Python 3.11 loses one with every call, until the interpreter aborts.
    done = subprocess.run(
        [sys.executable, "-c", _EMITS],
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lost_none, lost_true = map(int, done.stdout.split())
    assert lost_none < 100
    assert lost_true < 100
