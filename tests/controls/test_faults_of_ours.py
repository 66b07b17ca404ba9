"""F59: a task that fails halts what it belongs to and is told. F60: a stop sends nothing more and loses nothing."""

from __future__ import annotations

import signal

import pytest

from engine.model.enums import OrderStatus
from tests.processes import EngineProcess, VenueProcess, import_accounts, until, write_config
from tests.world import alpaca, eventually, paper, venue, world

QUIET = {"market": {"source": "none"}}


async def _broken() -> None:
    raise ValueError("a fault of ours")


@pytest.mark.parametrize(("account", "scope"), [("P-001", "account:P-001"), ("", "all")])
async def test_a_task_that_fails_halts_its_account_or_everything(
    tmp_path, account: str, scope: str
) -> None:
    async with world(tmp_path, [paper(1), paper(2)], **QUIET) as w:
        w.engine.spawn(_broken(), "something", account)
        await eventually(lambda: w.engine.states.get(scope))
        latch = w.engine.states.get(scope)
        assert latch is not None
        assert latch.state.value == "halted"
        text = "something failed: ValueError: a fault of ours"
        assert latch.reason == f"INTERNAL: {text}"
        (alert,) = [row for row in w.engine.alerts if row["code"] == "INTERNAL"]
        assert (alert["severity"], alert["account"], alert["text"]) == ("critical", account, text)
        assert w.engine.states.get("account:P-002") is None
        counted = "volley_alerts_unacknowledged 2.0"  # the fault and the halt
        await eventually(lambda: counted in w.engine.metrics_text())
    async with world(tmp_path, **QUIET) as w:
        assert w.engine.states.get(scope) is not None


async def test_every_failure_is_told(tmp_path) -> None:
    async with world(tmp_path, [paper(1)], **QUIET) as w:
        before = w.engine.alerts.told
        for number in range(100):
            w.engine.spawn(_broken(), f"task-{number}", "P-001")
        internal = [row for row in w.engine.alerts if row["code"] == "INTERNAL"]
        assert internal == []
        await eventually(
            lambda: sum(r["count"] for r in w.engine.alerts if r["code"] == "INTERNAL") == 100
        )
        assert w.engine.alerts.told >= before + 100


async def test_a_stop_waits_for_answers_on_their_way_and_denies_what_has_not_left(tmp_path) -> None:
    async with venue() as sim:
        async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
            slow = {"action": "delay", "delay_s": 0.5, "match": {"method": "POST"}, "times": 1}
            await w.send(id="warm")
            sim.faults.replace([slow])
            await w.post(id="s-1")
            await w.post(id="s-2")
            sent = w.engine.records["bot/s-1"].orders["A-001"]
            queued = w.engine.records["bot/s-2"].orders["A-001"]
            assert sent.first_byte_ns
            assert not queued.first_byte_ns
        assert sent.status not in {OrderStatus.PENDING_NEW, OrderStatus.UNKNOWN}
        assert (queued.status, queued.code) == (OrderStatus.DENIED, "NOT_SENT")
        async with world(tmp_path) as w:
            rows = {row["cl_ord_id"]: row["status"] for row in await w.rows("orders")}
            assert rows[queued.cl_ord_id] == "denied"
            assert rows[sent.cl_ord_id] == sent.status.value
            assert not w.engine.journal.findings  # a clean stop


def test_sigterm_is_a_clean_stop(tmp_path) -> None:
    with VenueProcess(tmp_path, "--still") as sim:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        write_config(home)
        documents = [alpaca(1, sim.url)]
        import_accounts(home, documents, VOLLEY_ENGINE__ALLOW_SIMULATED_VENUES="true")
        with EngineProcess(home) as engine:
            engine.wait_connected(1)
            engine.signal(id="s-1")
            until(lambda: engine.detail("bot/s-1")["accounts"][0]["outcome"] == "sent")
            engine.process.send_signal(signal.SIGTERM)
            assert engine.process.wait(15) == 0
            engine.stop()
            engine.start()
            engine.wait_connected(1)
            assert engine.detail("bot/s-1")["accounts"][0]["outcome"] == "sent"
            codes = [row["code"] for row in engine.get("/v1/status").get("alerts", [])]
            assert "UNCLEAN_STOP" not in codes
