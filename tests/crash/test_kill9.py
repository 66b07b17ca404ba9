"""The engine killed (SIGKILL) at chosen and at random moments: nothing lost, nothing sent twice.

The venue is a process of its own and survives; its book is the truth. What a killed engine had taken is
carried out by the next one exactly once, and what had become too old is closed with a code instead.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    signal_document,
    stamp,
    until,
    write_config,
)

ACCOUNTS = 60
ROUNDS = 15
SEED = 20_261_122
PATIENCE_S = 60.0


def prepared(tmp_path: Path, venue: VenueProcess, accounts: int) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    write_config(home)
    documents = [alpaca(n, venue.url) for n in range(accounts)]
    import_accounts(home, documents, VOLLEY_ENGINE__ALLOW_SIMULATED_VENUES="true")
    return home


def intents_of(home: Path, signal_id: str) -> dict[str, str]:
    """Return account → client order id as the dead engine's journal has them."""
    with closing(sqlite3.connect(home / "journal.sqlite3")) as journal:
        row = journal.execute("SELECT plan FROM signals WHERE id = ?", (signal_id,)).fetchone()
    if row is None:
        return {}
    return {
        account: cl_ord_id
        for *_shared, each in json.loads(row[0])["orders"]
        for cl_ord_id, account, _quantity in each
    }


def orders_at(venue: VenueProcess) -> dict[str, list[str]]:
    """Return client order id → accounts, of every order the venue holds."""
    found: dict[str, list[str]] = {}
    for order in venue.orders():
        found.setdefault(order["client_order_id"], []).append(order["key_id"].replace("KEY", "A-"))
    return found


def arrived(venue: VenueProcess) -> int:
    return int(venue.get("/sim/summary")["orders"])


def all_terminal(engine: EngineProcess) -> bool:
    row = engine.status()
    return row["open_orders"] == 0 and row["unknown_orders"] == 0


def compare_books(engine: EngineProcess, venue: VenueProcess) -> None:
    """The engine's orders, positions and money are the venue's, account by account."""
    until(lambda: all_terminal(engine), PATIENCE_S, "every order has an outcome")
    truth = {
        account["key_id"].replace("KEY", "A-"): account for account in venue.get("/sim/accounts")
    }
    positions: dict[str, Decimal] = Counter()
    for row in engine.rows("positions"):
        positions[row["account"]] += Decimal(row["qty"])
    cash: dict[str, Decimal] = Counter()
    for fill in engine.rows("fills"):
        sign = -1 if fill["side"] == "buy" else 1
        cash[fill["account"]] += sign * Decimal(fill["last_qty"]) * Decimal(fill["last_px"])
    for name, account in truth.items():
        held = sum(Decimal(p["qty"]) for p in account["positions"].values())
        assert positions[name] == held, name
        assert cash[name] == Decimal(account["cash"]) - 100_000, name
    sent = [row["cl_ord_id"] for row in engine.rows("orders") if row["order_id"]]
    at_venue = orders_at(venue)
    assert Counter(sent) == Counter({cl_ord_id: len(on) for cl_ord_id, on in at_venue.items()})


def post_and_forget(engine: EngineProcess, document: dict[str, Any]) -> threading.Thread:
    """Post a signal beside; the engine may die under it."""

    def post() -> None:
        with contextlib.suppress(httpx.HTTPError):  # the engine died before it answered
            httpx.post(
                engine.url + "/v1/signals",
                json=document,
                headers=dict(engine.http.headers),
                timeout=10,
                trust_env=False,
            )

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def test_killed_in_mid_fan_out(tmp_path: Path) -> None:
    """k of 60 orders have arrived when the engine dies; afterwards all 60 are there, each once."""
    with VenueProcess(
        tmp_path, "--still", "--latency-ms", "60", "--latency-jitter-ms", "60"
    ) as venue:
        home = prepared(tmp_path, venue, ACCOUNTS)
        with EngineProcess(home) as engine:
            engine.wait_connected(ACCOUNTS)
            engine.signal(id="warm-up")  # a price and the instrument are known from here on
            until(lambda: arrived(venue) == ACCOUNTS)
            until(lambda: all_terminal(engine))
            known = ACCOUNTS
            for number, moment in enumerate((0, 1, 20, 45, 60)):
                key = f"kill-{moment}"
                document = signal_document(id=key, valid_for_s=120)
                thread = post_and_forget(engine, document)
                if moment:
                    until(lambda m=moment, k=known: arrived(venue) >= k + m)
                else:
                    until(lambda k=key: intents_of(home, k))
                engine.kill()
                thread.join()
                intents = intents_of(home, key)
                assert len(intents) == ACCOUNTS
                early = arrived(venue) - known
                assert moment <= early <= ACCOUNTS
                engine.start()
                until(lambda k=known: arrived(venue) >= k + ACCOUNTS, PATIENCE_S, f"{key} complete")
                until(lambda: all_terminal(engine), PATIENCE_S)
                known += ACCOUNTS
                at_venue = orders_at(venue)
                for account, cl_ord_id in intents.items():
                    assert at_venue[cl_ord_id] == [account]
                assert arrived(venue) == known == ACCOUNTS * (number + 2)
                rows = engine.detail(f"bot/{key}")["accounts"]
                assert {row["account"]: row["cl_ord_id"] for row in rows} == intents
                assert {(row["status"], row["code"]) for row in rows} == {("filled", "")}
                again = engine.request("POST", "/v1/signals", json=document)
                assert again.status_code == 200
                assert again.json()["state"] == "accepted"
            compare_books(engine, venue)
            log = venue.get("/sim/log")
        placed = [row["client_order_id"] for row in log if row["method"] == "POST"]
        assert len(set(placed)) == 6 * ACCOUNTS


def test_an_intent_that_became_too_old_is_closed_not_sent(tmp_path: Path) -> None:
    with VenueProcess(tmp_path, "--still") as venue:
        home = prepared(tmp_path, venue, 10)
        with EngineProcess(home) as engine:
            engine.wait_connected(10)
            engine.signal(id="warm-up")
            until(lambda: arrived(venue) == 10)
            until(lambda: all_terminal(engine))
            venue.post("/sim/faults", [{"action": "drop", "match": {"method": "POST"}, "times": 0}])
            document = signal_document(id="old", valid_for_s=0.5)
            engine.request("POST", "/v1/signals", json=document)
            engine.kill()
            venue.post("/sim/faults", [])
            intents = intents_of(home, "old")
            assert len(intents) == 10
            issued = time.monotonic()
            until(lambda: time.monotonic() > issued + 0.6)
            engine.start()
            until(lambda: engine.status()["connected"] == 10)
            until(lambda: all_terminal(engine), PATIENCE_S)
            rows = engine.detail("bot/old")["accounts"]
            assert {row["status"] for row in rows} == {"expired"}
            assert {row["code"] for row in rows} == {"ABSENT"}
            assert all(row["message"] for row in rows)
            assert arrived(venue) == 10
            assert engine.request("POST", "/v1/signals", json=document).status_code == 200
            engine.signal(id="next")
            until(lambda: arrived(venue) == 20)
            compare_books(engine, venue)


def test_a_disarmed_restart_sends_nothing(tmp_path: Path) -> None:
    """Configured to start disarmed, the next engine looks intents up and closes what never left."""
    with VenueProcess(tmp_path, "--still") as venue:
        home = prepared(tmp_path, venue, 5)
        write_config(home, engine={"trading": "disarmed"})
        with EngineProcess(home) as engine:
            engine.wait_connected(5)
            engine.command("rearm", reason="test")
            engine.signal(id="warm-up")
            until(lambda: arrived(venue) == 5)
            venue.post("/sim/faults", [{"action": "drop", "match": {"method": "POST"}, "times": 0}])
            engine.signal(id="s", valid_for_s=300)
            engine.kill()
            venue.post("/sim/faults", [])
            engine.start()
            assert "disarmed" in engine.line
            until(lambda: all_terminal(engine), PATIENCE_S)
            assert {row["code"] for row in engine.detail("bot/s")["accounts"]} == {"ABSENT"}
            assert arrived(venue) == 5
            compare_books(engine, venue)


class Producer(threading.Thread):
    """A source as it should be: numbers its signals, and sends again until each is answered."""

    def __init__(self, engine: EngineProcess, pause_s: float) -> None:
        super().__init__()
        self.engine = engine
        self.pause_s = pause_s
        self.states: dict[str, str] = {}
        self.again = 0
        self.failure = ""
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            document = signal_document(
                id=f"r-{number}",
                action="buy" if number % 3 else "sell",
                valid_for_s=300,
                issued_at=stamp(),
            )
            self.states[document["id"]] = self._send(document)
            number += 1
            self.stop.wait(self.pause_s)

    def _send(self, document: dict[str, Any]) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                answer = httpx.post(
                    self.engine.url + "/v1/signals",
                    json=document,
                    headers=dict(self.engine.http.headers),
                    timeout=10,
                    trust_env=False,
                )
            except httpx.HTTPError:
                self.again += 1
                time.sleep(0.02)
                continue
            if answer.status_code in {200, 202}:
                return str(answer.json()["state"])
            self.failure = f"{document['id']}: {answer.status_code} {answer.text}"
        return "unanswered"


@pytest.mark.timeout(600)
def test_killed_at_random_under_a_stream_of_signals(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    accounts = 12
    with VenueProcess(
        tmp_path, "--still", "--latency-ms", "5", "--latency-jitter-ms", "30"
    ) as venue:
        home = prepared(tmp_path, venue, accounts)
        with EngineProcess(home) as engine:
            engine.wait_connected(accounts)
            engine.signal(id="warm-up")
            until(lambda: arrived(venue) == accounts)
            producer = Producer(engine, 0.03)
            producer.start()
            try:
                for _ in range(ROUNDS):
                    wait = time.monotonic() + chance.uniform(0.0, 0.9)
                    until(lambda due=wait: time.monotonic() > due)
                    engine.kill()
                    engine.start()
            finally:
                producer.stop.set()
                producer.join()
            assert not producer.failure
            engine.wait_connected(accounts)
            until(lambda: all_terminal(engine), PATIENCE_S, "every order has an outcome")
            assert set(producer.states.values()) <= {"accepted", "refused"}
            at_venue = orders_at(venue)
            assert all(len(on) == 1 for on in at_venue.values()), "an order twice"
            expected = {row["cl_ord_id"] for row in engine.detail("bot/warm-up")["accounts"]}
            for signal_id, state in producer.states.items():
                detail = engine.detail(f"bot/{signal_id}")
                assert len(detail["accounts"]) == accounts, "an account without outcome"
                for row in detail["accounts"]:
                    if row["status"] in {"filled", "rejected"}:
                        expected.add(row["cl_ord_id"])
                    else:  # nothing sent: the operator is told why
                        assert row["code"], (signal_id, row)
                        assert row["cl_ord_id"] not in at_venue
                if state == "accepted":
                    assert any(row["status"] == "filled" for row in detail["accounts"]), detail
            assert set(at_venue) == expected, "an order lost, or one nobody asked for"
            compare_books(engine, venue)
            taken = Counter(producer.states.values())
            assert taken["accepted"] > 2 * ROUNDS, taken  # what it was all about did happen
