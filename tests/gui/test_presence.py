"""The desk's sign of life: sent while it is linked and its loop moves."""

from __future__ import annotations

import asyncio

from engine.errors import CommandRefused
from engine.model.enums import ConnectionState
from gui import bridge
from gui.bridge import Store, present
from tests.gui.conftest import until
from tests.gui.scripted import ScriptedClient


async def test_a_linked_desk_says_that_it_is_there(qtbot, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "PRESENCE_S", 0.01)
    store, client = Store(), ScriptedClient()
    task = asyncio.get_running_loop().create_task(present(store, client))
    try:
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert client.acted == []  # not linked: nobody to tell
        store.on_link(ConnectionState.CONNECTED, "")
        await until(lambda: len(client.sent) >= 3)
        assert set(map(str, client.sent)) == {str(("presence", {}))}
        client.refuse = CommandRefused("NO_ENGINE", "not there", 409)
        count = len(client.sent)
        await until(lambda: len(client.sent) > count + 1)  # it goes on
        store.on_link(ConnectionState.DISCONNECTED, "")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
