"""What an engine costs while nothing happens: ``python -m tests.bench.engine_idle [--accounts 200] [--seconds 20]``.

An engine in a process of its own is connected to a simulated venue with many accounts and left alone. Printed are
the CPU milliseconds a second of the engine, of its watchdog and of the venue, and the requests the venue was sent.
With ``--sample FILE`` py-spy, if it is on the path, writes where the engine's time goes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.processes import EngineProcess, VenueProcess, alpaca, import_accounts, write_config

TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


def cpu_ms(pid: int) -> float:
    """Return the CPU time a process has used, all its threads; Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_MS


def children(pid: int) -> list[int]:
    """Return the processes a process has begun."""
    tasks = Path(f"/proc/{pid}/task")
    return [
        int(one)
        for task in tasks.iterdir()
        for one in (task / "children").read_text("ascii").split()
    ]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--settle", type=float, default=10.0, help="seconds before it is measured")
    parser.add_argument("--sample", metavar="FILE", help="where py-spy is to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        with VenueProcess(home) as venue:
            write_config(home)
            import_accounts(home, [alpaca(number, venue.url) for number in range(args.accounts)])
            with EngineProcess(home) as engine:
                engine.wait_connected(args.accounts, 120)
                time.sleep(args.settle)
                pids = {"engine": engine.pid, "venue": venue.pid}
                pids.update(
                    (f"child {number}", pid) for number, pid in enumerate(children(engine.pid), 1)
                )
                before = {who: cpu_ms(pid) for who, pid in pids.items()}
                asked = len(venue.get("/sim/log"))
                began = time.perf_counter()
                if args.sample:
                    command = [
                        "py-spy",
                        "record",
                        "-f",
                        "raw",
                        "-r",
                        "200",
                        "-d",
                        str(int(args.seconds)),
                    ]
                    subprocess.run([*command, "-p", str(engine.pid), "-o", args.sample], check=True)
                else:
                    time.sleep(args.seconds)
                took = time.perf_counter() - began
                for who, pid in pids.items():
                    sys.stdout.write(
                        f"{who}: {(cpu_ms(pid) - before[who]) / took:.1f} ms of CPU a second\n"
                    )
                log = venue.get("/sim/log")[asked:]
                kinds = Counter(f"{row['method']} {row['path']}" for row in log)
                sys.stdout.write(
                    f"{len(log) / took:.1f} requests a second: {dict(kinds.most_common(8))}\n"
                )


if __name__ == "__main__":
    main()
