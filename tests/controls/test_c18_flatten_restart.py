"""C18: a kill with flatten that the engine did not see to its end is told by the next one, which closes nothing."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine import kill_latch
from engine.kill_latch import FILE, FIRM, KillLatch
from tests.controls.test_c19_exits_beside import exits, holding, requests, url, waiting
from tests.controls.test_c19_out_of_band import _written, make_home, positions
from tests.processes import EngineProcess, VenueProcess, alpaca, until
from tests.world import World, eventually, venue, world

NOT_SEEN = "all: the engine ended before all positions were closed (kill with flatten); "


def unclosed(w: World) -> set[tuple[str, str]]:
    """Return what the engine said of a flatten that an earlier one began."""
    return {
        (row["severity"], row["text"].removeprefix(NOT_SEEN))
        for row in w.engine.alerts
        if row["code"] == "KILL_INCOMPLETE" and row["text"].startswith(NOT_SEEN)
    }


def owed(path: Path) -> bool | None:
    """Say what a latch file has of the positions that were to be closed; ``None``: nothing is halted."""
    with closing(KillLatch(path)) as shared:
        record = shared.of(FIRM)
        return None if record is None else record.get("exits")


async def test_a_crash_while_exits_wait_is_told_and_nothing_is_closed_by_itself(tmp_path) -> None:
    with VenueProcess(tmp_path, "--still", "--follow-percent", "0") as at:
        home = make_home(tmp_path, at, 1)
        with EngineProcess(home) as engine, closing(KillLatch(home / FILE)) as beside:
            engine.wait_connected(1)
            engine.signal(id="s-1")
            until(lambda: engine.rows("positions") and _written(home))
            assert beside.begin_sweep(1), "for seconds no exit may leave"
            engine.command("kill", flatten=True)
            engine.kill()
        for _ in range(2):  # as long as nobody has closed it or armed again
            async with world(tmp_path) as w:
                assert unclosed(w) == {("critical", "open: A-001 AAPL")}
                assert w.engine.states.firm.value == "halted"
        assert positions(at) == {"AAPL": "1"}
        async with world(tmp_path) as w:
            await w.command("kill", flatten=True)
            await eventually(lambda: not owed(w.path / FILE))
        assert positions(at) == {}


async def test_what_was_to_be_closed_is_durable_on_a_scope_that_is_halted_already(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power goes: what was not synced is lost."""
    disk: list[bytes] = []
    sync = KillLatch.sync

    def synced(shared: KillLatch) -> None:
        sync(shared)
        disk.append(shared.path.read_bytes())

    monkeypatch.setattr(kill_latch, "SWEEP_NS", 3_600_000_000_000)
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w:
        await holding(w, sim)
        await w.command("kill")
        run = w.engine.operator.kill_runs[FIRM]
        await eventually(lambda: run.over)
        with closing(KillLatch(w.path / FILE)) as beside:
            assert beside.begin_sweep(1)
            monkeypatch.setattr(KillLatch, "sync", synced)
            await w.command("kill", flatten=True)
            monkeypatch.undo()
            after = tmp_path / "after-the-power-went"
            after.write_bytes(disk[-1])
            assert owed(after) is True
            beside.end_sweep(proven=True)


async def test_seen_through_it_is_told_no_more_and_a_rearm_ends_it_too(
    tmp_path, monkeypatch
) -> None:
    async with waiting(tmp_path, monkeypatch) as (w, sim, beside):
        assert owed(w.path / FILE) is True
        beside.end_sweep(proven=True)
        await eventually(lambda: exits(w) and owed(w.path / FILE) is False)
        await w.command("rearm", reason="seen to")
        assert owed(w.path / FILE) is None
        posted: list[Any] = requests(sim, "POST")
    async with world(tmp_path, connected=0) as w:
        assert unclosed(w) == set()
    assert requests(sim, "POST") == posted


async def test_a_process_beside_that_closes_takes_it_over(tmp_path) -> None:
    with closing(KillLatch(tmp_path / FILE)) as shared:
        assert shared.halt(FIRM, "r", "a", "2026-01-01T00:00:00Z", exits=True)
        assert not shared.halt(FIRM, "r", "b", "2026-01-02T00:00:00Z", exits=True)
        shared.flattened(FIRM, "2026-01-02T00:00:00Z")
        shared.halt(FIRM, "r", "a", "2026-01-03T00:00:00Z")
        record = shared.of(FIRM)
        assert record is not None
        assert (record["at"], record["flat"], record["exits"]) == (
            "2026-01-01T00:00:00Z",
            "2026-01-02T00:00:00Z",
            True,
        )
        shared.closed(FIRM)
        assert owed(tmp_path / FILE) is False
