"""T15, the supply chain: every package by its hash, the frozen app from a PyInstaller without known holes.

What cannot be asked here: whether a pinned version has a published hole. That needs the network (``pip-audit -r
requirements.lock``) and belongs before a release.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)


def blocks() -> dict[str, list[str]]:
    """Return the locked packages with the hashes of each."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in LOCK.splitlines():
        if match := PIN.match(line):
            name = canonicalize_name(match[1])
            found.setdefault(name, [])
        elif line.strip().startswith("--hash="):
            found[name].append(line.strip().removeprefix("--hash=").removesuffix("\\").strip())
    return found


def test_every_line_of_the_lock_is_a_pin_with_sha256() -> None:
    found = blocks()
    assert len(found) > 40
    for name, hashes in found.items():
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), name
    for line in LOCK.splitlines():
        stripped = line.strip()
        assert not stripped or PIN.match(line) or stripped.startswith(("#", "--hash=sha256:")), line


def test_nothing_comes_from_elsewhere_than_the_registry() -> None:
    for word in (
        "git+",
        "http://",
        "https://",
        "file:",
        "-e ",
        "--index-url",
        "--extra-index-url",
        "--find-links",
        "--trusted-host",
    ):
        assert word not in LOCK
        assert word not in " ".join(PROJECT["project"]["dependencies"])


def test_the_lock_covers_and_satisfies_the_project() -> None:
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    versions: dict[str, list[str]] = {}
    for match in PIN.finditer(LOCK):
        versions.setdefault(canonicalize_name(match[1]), []).append(match[2])
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        pins = versions.get(canonicalize_name(requirement.name), [])
        assert any(requirement.specifier.contains(pin, prereleases=True) for pin in pins), text


@pytest.mark.parametrize(
    ("name", "least", "why"),
    [
        ("pyinstaller", "6.0.0", "CVE-2025-59042, CVE-2023-49797"),
        ("redis", "4.5.5", "CVE-2023-28858, CVE-2023-28859: replies crossed between callers"),
        ("cryptography", "46", "Argon2id in PHC form"),
    ],
)
def test_versions_with_known_holes_are_not_allowed(name: str, least: str, why: str) -> None:
    everything = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    [requirement] = [r for r in map(Requirement, everything) if canonicalize_name(r.name) == name]
    older = str(Version(least).major - 1) + ".0.0"
    assert not requirement.specifier.contains(older), why
    assert Version(metadata.version(name)) >= Version(least), why


def test_the_frozen_app_is_one_folder_unpacked_nowhere_at_run_time() -> None:
    """One folder: a one-file build unpacks itself into a directory that others may write to."""
    spec = (ROOT / "build.spec").read_text("utf-8")
    assert "COLLECT(" in spec
    assert "exclude_binaries=True" in spec
    assert not re.search(r"runtime_tmpdir\s*=\s*[^N]", spec)
