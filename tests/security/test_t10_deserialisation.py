"""T10: nothing that is read can run: JSON and TOML only, and no module that could do more is even named."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

import engine
from engine.errors import InvalidSignal
from engine.intake.parser import read_object

ROOT = Path(engine.__file__).parents[1]
BANNED_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "joblib",
    "yaml",
    "jsonpickle",
}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
SOURCES = [*(ROOT / "engine").rglob("*.py"), *(ROOT / "gui").rglob("*.py"), ROOT / "main.py"]


def offences(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        found += [name for name in names if name.split(".")[0] in BANNED_MODULES]
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in BANNED_CALLS
        ):
            found.append(f"{node.func.id}()")
        if (
            isinstance(node, ast.keyword)
            and node.arg == "shell"
            and getattr(node.value, "value", True)
        ):
            found.append("shell=")
    return found


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from marshal import loads", "eval('1')", "exec(x)", "import yaml.loader",
     "importlib.import_module('shelve')", "subprocess.run(x, shell=True)"],
)  # fmt: skip
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert offences(source)


def test_no_source_of_the_product_can_deserialise_code() -> None:
    assert len(SOURCES) > 150
    found = {str(path.relative_to(ROOT)): offences(path.read_text("utf-8")) for path in SOURCES}
    assert not {name: what for name, what in found.items() if what}


class Bomb:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


def test_a_pickle_bomb_is_refused_wherever_bytes_come_in(tmp_path: Path) -> None:
    from engine.api.feed import json as feed_json
    from engine.brokers.http import read_json
    from engine.config import load_config
    from engine.errors import ConfigError
    from engine.home import Home
    from engine.operators import Operators
    from engine.stores.account_documents import Account

    mark = tmp_path / "went-off"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        bomb = pickle.dumps(Bomb(mark), protocol)
        with pytest.raises(InvalidSignal):
            read_object(bomb, 8192)
        for read in (read_json, feed_json.loads, Account.model_validate_json):
            with pytest.raises(ValueError):  # noqa: PT011 (each reader has its own words)
                read(bomb)
        (tmp_path / "volley.toml").write_bytes(bomb)
        with pytest.raises(ConfigError):
            load_config(tmp_path)
        home = Home(tmp_path)
        (tmp_path / "operators.json").write_bytes(bomb)
        with pytest.raises(ConfigError):
            Operators(home).rows()
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))  # it is a bomb indeed
    assert mark.exists()
