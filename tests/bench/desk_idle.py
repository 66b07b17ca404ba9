"""What a desk costs while nothing happens: ``python -m tests.bench.desk_idle [--accounts 40] [--seconds 60]``.

``main.py desk --connect`` in a process of its own (offscreen), attached to an engine whose accounts are connected and
that is left alone. Printed is the share of a processor the desk takes. With ``--tree DIRECTORY``, once or several
times, desks of other check-outs are attached to the same engine for the same time: before and after in one run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.engine_idle import cpu_ms
from tests.processes import (
    ROOT,
    EngineProcess,
    VenueProcess,
    alpaca,
    environment,
    import_accounts,
    write_config,
)


def desk(tree: Path, engine: EngineProcess, home: Path, token: str) -> subprocess.Popen[bytes]:
    """Start a check-out's desk beside the engine."""
    line = [sys.executable, "main.py", "desk", "--home", str(home), "--connect"]
    return subprocess.Popen(
        [*line, engine.url.replace("http", "ws")],
        cwd=tree,
        env=environment(VOLLEY_TOKEN=token, QT_QPA_PLATFORM="offscreen"),
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--settle", type=float, default=20.0, help="seconds before it is measured")
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another check-out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home = Path(name) / "home"
        home.mkdir(mode=0o700)
        venue = stack.enter_context(VenueProcess(Path(name)))
        write_config(home)
        import_accounts(home, [alpaca(number, venue.url) for number in range(args.accounts)])
        engine = stack.enter_context(EngineProcess(home))
        engine.wait_connected(args.accounts)
        token = (home / "token").read_text("utf-8").strip()
        desks = {}
        for number, tree in enumerate([*args.tree, ROOT]):
            desks[tree] = desk(tree, engine, Path(name) / f"desk{number}", token)
            stack.callback(desks[tree].wait, 30)
            stack.callback(desks[tree].terminate)
        time.sleep(args.settle)
        before = {tree: cpu_ms(one.pid) for tree, one in desks.items()}
        began = time.perf_counter()
        time.sleep(args.seconds)
        took = time.perf_counter() - began
        for tree, one in desks.items():
            share = (cpu_ms(one.pid) - before[tree]) / took / 10
            sys.stdout.write(f"{tree}: {share:.2f} % of a core\n")


if __name__ == "__main__":
    main()
