"""HOME: token, webhook secrets, atomic files, the lock."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import ConfigError, HomeLocked
from engine.home import (
    Home,
    HomeLock,
    check_hook,
    default_home,
    hook_secret,
    lock_holder,
    write_json_atomic,
)

ROOT = Path(__file__).parents[2]
POSIX = os.name == "posix"


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "deep" / "home")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def python(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


HOLD = """
import sys
from engine.home import Home
home = Home(sys.argv[1])
lock = home.lock()
home.publish_engine("http://127.0.0.1:1")
print("held", flush=True)
sys.stdin.read()
home.withdraw_engine()
lock.release()
"""


@pytest.fixture
def holder(home):
    process = python(HOLD, str(home.path))
    assert process.stdout.readline() == "held\n"
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_the_directory_is_made_private(home):
    assert home.path.is_dir()
    if POSIX:
        assert mode(home.path) == 0o700
    assert Home(home.path).path == home.path
    assert default_home().name == "volley"


def test_a_home_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be used"):
        Home(tmp_path / "file" / "home")
    with pytest.raises(ConfigError, match="cannot be used"):
        Home(tmp_path / "file")


# The token.


def test_the_token_is_made_once_and_private(home):
    token = home.token({})
    assert len(token) >= 43
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert Home(home.path).token({}) == token
    assert home.token_file.read_text() == token + "\n"
    if POSIX:
        assert mode(home.token_file) == 0o600
    assert token not in repr(home)


def test_the_environment_goes_first(home):
    assert home.token({"VOLLEY_TOKEN": "from-outside"}) == "from-outside"
    assert not home.token_file.exists()
    for bad in ("a b", "a\n", "ä", "x" * 600):
        with pytest.raises(ConfigError, match="VOLLEY_TOKEN") as caught:
            home.token({"VOLLEY_TOKEN": bad})
        assert bad not in str(caught.value).replace("VOLLEY_TOKEN", "")


def test_a_loose_mode_is_tightened(home):
    home.token_file.write_text("a-token-of-the-user\n")
    home.token_file.chmod(0o644)
    assert home.token({}) == "a-token-of-the-user"
    assert not POSIX or mode(home.token_file) == 0o600


def test_an_empty_token_file_is_replaced_and_a_short_one_refused(home):
    home.token_file.touch()
    assert len(home.token({})) >= 43
    home.token_file.write_text("short")
    with pytest.raises(ConfigError, match="remove the file") as caught:
        home.token({})
    assert "short" not in str(caught.value)


def test_many_at_once_agree_on_one_token(home):
    code = "import sys; from engine.home import Home; print(Home(sys.argv[1]).token({}))"
    processes = [python(code, str(home.path)) for _ in range(6)]
    tokens = {process.communicate()[0] for process in processes}
    assert tokens == {home.token_file.read_text()}


# Webhook secrets.


def test_hook_secrets(home):
    secret = hook_secret(home, "tv")
    assert len(secret) >= 43
    assert re.fullmatch(r"[A-Za-z0-9_-]+", secret)
    assert hook_secret(Home(home.path), "tv") == secret
    other = hook_secret(home, "other")
    assert other != secret
    assert check_hook(home, "tv", secret)
    assert check_hook(Home(home.path), "other", other)
    if POSIX:
        assert mode(home.hooks_file) == 0o600
    assert not check_hook(home, "tv", other)
    assert not check_hook(home, "tv", secret[:-1])
    assert not check_hook(home, "tv", "")
    assert not check_hook(home, "unknown", secret)
    assert not check_hook(home, "tv", "\ud800ä")


def test_a_secret_made_by_another_process_is_seen(home):
    desk = Home(home.path)
    assert not check_hook(desk, "tv", "x")
    secret = hook_secret(home, "tv")
    assert check_hook(desk, "tv", secret)


def test_secrets_asked_for_at_once_are_all_kept(home):
    sources = [f"s{i}" for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        made = dict(
            zip(sources, pool.map(lambda s: hook_secret(Home(home.path), s), sources), strict=True)
        )
    assert json.loads(home.hooks_file.read_text()) == made


@pytest.mark.parametrize("source", ["", "a/b", "a b", "x" * 65])
def test_a_hook_needs_a_name(home, source):
    with pytest.raises(ConfigError):
        hook_secret(home, source)


@pytest.mark.parametrize("content", ["[]", "{", '{"tv": 1}', '{"tv": ""}'])
def test_a_damaged_file_of_secrets_lets_nobody_in(home, content):
    home.hooks_file.write_text(content)
    with pytest.raises(ConfigError, match=r"hooks\.json"):
        check_hook(home, "tv", "")


# Files.


def test_json_is_written_whole_or_not_at_all(home):
    path = home.path / "x.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    blocked = home.path / "dir"
    blocked.mkdir()
    with pytest.raises(OSError):  # noqa: PT011 (its kind differs by system)
        write_json_atomic(blocked, {})
    assert sorted(p.name for p in home.path.iterdir()) == ["dir", "x.json"]


# The lock.


def test_a_second_engine_is_told_who_holds_the_home(home, holder):
    with pytest.raises(HomeLocked) as caught:
        home.lock()
    assert f"process {holder.pid}" in str(caught.value)
    assert str(home.path) in str(caught.value)
    assert lock_holder(home.lock_file)["pid"] == holder.pid


def test_a_running_engine_is_found_and_leaves_nothing(home, holder):
    info = home.running_engine()
    assert (info.pid, info.url) == (holder.pid, "http://127.0.0.1:1")
    holder.communicate("stop")
    assert home.running_engine() is None
    assert not home.engine_file.exists()
    home.lock().release()


def test_kill_9_frees_the_home(home, holder):
    holder.send_signal(signal.SIGKILL if POSIX else signal.SIGTERM)
    holder.wait()
    assert home.engine_file.exists()
    assert home.running_engine() is None
    with home.lock():
        assert not home.engine_file.exists()
        assert home.running_engine() is None


def test_a_stale_file_says_nothing_about_an_engine_that_is_starting(home, holder):
    write_json_atomic(home.engine_file, {"pid": holder.pid + 1, "url": "u", "started_at": "t"})
    assert home.running_engine() is None
    home.engine_file.write_text("{")
    assert home.running_engine() is None


def test_one_process_cannot_take_it_twice(home):
    first = home.lock()
    with pytest.raises(HomeLocked, match=str(os.getpid())):
        HomeLock(home.lock_file)
    first.release()
    first.release()
    with home.lock():
        assert lock_holder(home.lock_file)["pid"] == os.getpid()
    assert lock_holder(home.lock_file) is None


def test_of_many_starting_at_once_one_gets_it(home):
    code = """
import sys
from engine.errors import HomeLocked
from engine.home import Home
sys.stdin.readline()
try:
    lock = Home(sys.argv[1]).lock()
except HomeLocked:
    print("no", flush=True)
else:
    print("yes", flush=True)
    sys.stdin.readline()
    lock.release()
"""
    processes = [python(code, str(home.path)) for _ in range(6)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.stdout.readline() for process in processes]
    for process in processes:
        process.communicate("done\n")
    assert sorted(answers) == ["no\n"] * 5 + ["yes\n"]


def test_looking_does_not_keep_an_engine_from_starting(home):
    home.lock().release()
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(lambda: [home.running_engine() for _ in range(3000)])
        while not looking.done():
            home.lock().release()
    assert not any(looking.result())
