from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from engine.home import Home
from engine.services.demo_homes import DESK_FILE, remove_stale_homes


def made(directory: Path, name: str, *, desk: int | None = None, age: float = 1e6) -> Path:
    home = directory / name
    (home / "logs").mkdir(parents=True)
    (home / "lock").touch()
    if desk is not None:
        (home / DESK_FILE).write_text(str(desk))
    then = time.time() - age
    os.utime(home, (then, then))
    return home


def gone_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_homes_nobody_uses_are_removed(tmp_path: Path) -> None:
    dead = made(tmp_path, "volley-demo-dead", desk=gone_pid())
    engine_only = made(tmp_path, "volley-demo-headless")
    held = made(tmp_path, "volley-demo-held")
    fresh = made(tmp_path, "volley-demo-fresh", age=1)
    other = made(tmp_path, "somebody-elses")
    real = made(tmp_path, "real")
    link = tmp_path / "volley-demo-link"
    link.symlink_to(real, target_is_directory=True)
    with Home(held).lock():
        os.utime(held, (0, 0))
        assert set(remove_stale_homes(tmp_path)) == {dead, engine_only}
    assert not dead.exists()
    assert all(path.exists() for path in (held, fresh, other, real, link))


def test_a_living_desk_keeps_its_home_without_an_engine(tmp_path: Path) -> None:
    mine = made(tmp_path, "volley-demo-mine", desk=os.getpid())
    removed = remove_stale_homes(tmp_path)
    assert (mine in removed) is (os.name != "posix")
