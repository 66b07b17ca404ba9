"""A week of signals to 25 accounts, as a user runs it; then the venue's book against everything Volley says."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    paper,
    stamp,
    until,
    volley,
    write_config,
)
from tests.servers import free_port

SIGNALS = 416
STRATEGIES = ("sma-a", "sma-b", "sma-c")
SPEED = "12000"  # a week in a minute: an account may place 140 orders in one, the rest is kept for cancels
# What is beyond the 140 waits until the first of them is a minute old: on a machine that stood still while it was
# replayed, a whole minute after the last signal.
TAKEN_S = 180.0


def recording() -> list[dict[str, Any]]:
    """Return signals as a crossing of averages over a week of BTC gives them: the same every time."""
    chance = random.Random(7)
    at = datetime(2021, 12, 31, 23, 41, tzinfo=UTC)
    price = Decimal("46430.0")
    turns: Counter[str] = Counter()
    signals = []
    for number in range(SIGNALS):
        strategy = STRATEGIES[chance.randrange(3)]
        buy = turns[strategy] % 2 == 0
        turns[strategy] += 1
        sign = 1 if buy else -1
        # Far away: positions follow from the signals alone, and reward to risk is 2.
        stop, target = price * (1 - sign * Decimal("0.2")), price * (1 + sign * Decimal("0.4"))
        signals.append(
            {
                "id": f"btc-{number + 1:05d}", "source": "sma-cross", "strategy": strategy,
                "symbol": "BTCUSDT", "action": "buy" if buy else "sell", "order_type": "limit",
                "limit_price": str(price), "stop_loss": f"{stop:.1f}", "take_profit": f"{target:.1f}",
                "time_in_force": "day", "issued_at": at.isoformat().replace("+00:00", "Z"),
                "valid_for_s": 30.0, "reference_price": str(price),
            }
        )  # fmt: skip
        at += timedelta(minutes=chance.randrange(2, 47))
        price = (price * (1 + Decimal(chance.randrange(-40, 40)) / 10_000)).quantize(Decimal("0.1"))
    return signals


def closed_now() -> dict[str, str]:
    now = datetime.now(UTC)
    opens, closes = now + timedelta(hours=2), now + timedelta(hours=3)
    return {"zone": "UTC", "open": f"{opens:%H:%M}", "close": f"{closes:%H:%M}"}


def accounts_on(url: str) -> list[tuple[dict[str, Any], str]]:
    """Return 25 accounts, each with the code it gives every signal of its strategy (empty: an order)."""
    a, b, c = ([name, "by-hand", "momo", "tv", "orb-15"] for name in STRATEGIES)
    fixed = {"method": "fixed", "quantity": "0.01"}
    accounts: list[tuple[dict[str, Any], str]] = [
        ({"strategies": a, "sizing": fixed}, ""),
        ({"strategies": b, "sizing": {"method": "fixed", "quantity": "0.25"}}, ""),
        ({"strategies": c, "sizing": {"method": "fixed", "quantity": "0.5"}}, ""),
        ({"strategies": a, "sizing": {"method": "notional", "value": "1000"}}, ""),
        ({"strategies": b, "sizing": {"method": "notional", "value": "2500"}}, ""),
        ({"strategies": c, "sizing": {"method": "percent_equity", "percent": "2"}}, ""),
        ({"strategies": a, "sizing": {"method": "percent_equity", "percent": "0.5"}}, ""),
        ({"strategies": b, "sizing": {"method": "risk_percent", "percent": "0.01"}}, ""),
        ({"strategies": c, "sizing": {"method": "risk_percent", "percent": "0.02"}}, ""),
        ({"strategies": a, "sizing": {"method": "signal"}}, "NO_QUANTITY"),
        ({"strategies": b, "sizing": {"method": "multiplier", "factor": "2"}}, "NO_QUANTITY"),
        ({"strategies": a, "active": False}, "INACTIVE"),
        ({"strategies": ["nothing"]}, "NOT_SUBSCRIBED"),
        ({"strategies": a, "symbols": ["MSFT", "TSLA"]}, "SYMBOL_NOT_ALLOWED"),
        ({"strategies": b, "hours": closed_now()}, "OUTSIDE_HOURS"),
        ({"strategies": c, "base_url": f"http://127.0.0.1:{free_port()}"}, "NOT_CONNECTED"),
        ({"strategies": a, "limits": {"min_reward_risk": "3"}}, "REWARD_RISK"),
        ({"strategies": b, "limits": {"max_order_quantity": "0.5"}}, "QTY_MAX"),
        ({"strategies": c, "limits": {"max_order_value": "100"}}, "VALUE_MAX"),
        ({"strategies": a, "limits": {"max_positions": 0}}, "POSITION_LIMIT"),
        ({"strategies": b, "approval": "review"}, "APPROVAL_TIMEOUT"),
        ({"strategies": c, "sizing": {"method": "fixed", "quantity": "0.0000000001"}}, "QTY_MIN"),
        ({"strategies": a, "sizing": fixed, "limits": {"min_reward_risk": "1.5"}}, ""),
    ]
    found = [
        (alpaca(number, url, **fields), code) for number, (fields, code) in enumerate(accounts)
    ]
    found.append((paper(23, strategies=["*"], sizing=fixed), ""))
    found.append((paper(24, strategies=b, sizing={"method": "notional", "value": "700"}), ""))
    return found


class Replayed:
    """What is there after the replay, from every side."""

    def __init__(self, engine: EngineProcess, venue: VenueProcess) -> None:
        self.engine = engine
        self.accounts = accounts_on(venue.url)
        self.signals = {row["key"]: row for row in engine.rows("signals")}
        self.details = {key: engine.detail(key) for key in self.signals}
        self.orders = {row["cl_ord_id"]: row for row in engine.rows("orders")}
        self.fills = engine.rows("fills")
        self.positions = {(p["account"], p["symbol"]): p for p in engine.rows("positions")}
        self.venue_orders = venue.orders()
        self.venue_accounts = {
            a["key_id"].replace("KEY", "A-"): a for a in venue.get("/sim/accounts")
        }
        self.log = venue.get("/sim/log")


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    directory: Path = tmp_path_factory.mktemp("replay")
    home = directory / "home"
    home.mkdir(mode=0o700)
    file = directory / "signals.jsonl"
    file.write_text("".join(json.dumps(signal) + "\n" for signal in recording()), "utf-8")
    with VenueProcess(directory, "--still", "--follow-percent", "0.0001") as venue:
        write_config(
            home,
            signals={"approval_timeout_s": 1},
            **{"hooks.tv": {"strategy": "tv"}},
        )
        import_accounts(home, [account for account, _ in accounts_on(venue.url)])
        with EngineProcess(home) as engine:
            engine.wait_connected(24)
            until(lambda: sum(row["equity"] is not None for row in engine.rows("accounts")) >= 24)
            arguments = ("signal", "replay", str(file), "--speed", SPEED, "--json")
            done = volley(home, *arguments)
            assert done.returncode == 0, done.stderr
            summary = json.loads(done.stdout)
            assert summary["states"] == {"accepted": SIGNALS}
            assert (summary["sent"], summary["failed"], summary["repeated"]) == (SIGNALS, 0, 0)
            post_by_hand(engine)
            post_alerts(engine, home)
            wait_settled(engine)
            yield Replayed(engine, venue)


def rounded(text: str, places: int) -> Decimal:
    """Round as the engine does, whatever this process' context has come to."""
    return Decimal(text).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)


def settled(engine: EngineProcess) -> bool:
    row = engine.status()
    return not (row["open_orders"] or row["unknown_orders"] or row["held"])


def wait_settled(engine: EngineProcess) -> None:
    """Wait until every order has an outcome and no hold is left; say which ones if it does not come."""
    try:
        until(lambda: settled(engine), TAKEN_S)
    except AssertionError as error:
        unsettled = [row for row in engine.rows("orders") if row["status"] != "filled"]
        raise AssertionError(f"{error}\n{engine.status()}\n{unsettled}") from None


def post_by_hand(engine: EngineProcess) -> None:
    for number, fields in enumerate(
        (
            {"quantity": "0.5"},
            {"quantity": 0.75, "action": "sell"},
            {"symbol": "ETHUSDT", "strategy": "momo", "quantity": "2"},
        )
    ):
        given = {"strategy": "by-hand", "symbol": "BTCUSDT", "stop_loss": None, **fields}
        answer = engine.signal(
            id=f"hand-{number}",
            **{name: value for name, value in given.items() if value is not None},
        )
        assert (answer.status_code, answer.json()["state"]) == (202, "accepted"), answer.text
        wait_settled(engine)


def post_alerts(engine: EngineProcess, home: Path) -> None:
    done = volley(home, "hook", "tv")
    assert done.returncode == 0, done.stderr
    address = done.stdout.strip().splitlines()[-1]
    now = stamp()
    epoch_ms = int(datetime.now(UTC).timestamp() * 1000)
    alerts: list[dict[str, Any]] = [
        {"ticker": "AAPL", "action": "buy", "price": "189.43", "time": now, "strategy": "orb-15",
         "secret": "ignored-the-path-carries-it"},
        {"ticker": "NASDAQ:MSFT", "strategy.order.action": "sell", "strategy.order.contracts": "15",
         "close": 415.2, "timenow": now, "strategy.order.id": "Short", "strategy.market_position": "short"},
        {"symbol": "BTCUSDT", "side": "BUY", "orderType": "MARKET", "quantity": 0.015, "time": now,
         "strategy": "momo"},
        {"ticker": "ETHUSDT", "action": "exit", "price": 3105.1, "time": epoch_ms, "strategy": "momo"},
    ]  # fmt: skip
    for alert in alerts:
        answer = httpx.post(address, content=json.dumps(alert), timeout=20, trust_env=False)
        assert answer.status_code == 202, answer.text
        assert answer.json()["state"] == "accepted", answer.text
    wrong = httpx.post(address[:-1] + "_", content=json.dumps(alerts[0]), trust_env=False)
    assert wrong.status_code == 404
    assert engine.request("POST", "/v1/signals", content=b"{}").status_code == 400


def test_every_signal_has_an_outcome_for_every_account(replayed: Replayed) -> None:
    names = {account["id"] for account, _ in replayed.accounts}
    assert len(replayed.signals) == SIGNALS + 3 + 4
    for key, detail in replayed.details.items():
        rows = detail["accounts"]
        assert Counter(row["account"] for row in rows) == Counter(names), key
        for row in rows:
            assert bool(row["cl_ord_id"]) != bool(row["code"]), (key, row)
            without = "denied" if row["outcome"] == "refused" else None
            assert row["status"] == ("filled" if row["cl_ord_id"] else without), (key, row)
            assert bool(row["message"]) == bool(row["code"]), (key, row)


def test_who_acts_is_as_the_accounts_say(replayed: Replayed) -> None:
    for signal in recording():
        rows = {
            row["account"]: row for row in replayed.details[f"sma-cross/{signal['id']}"]["accounts"]
        }
        for account, code in replayed.accounts:
            follows = {"*", signal["strategy"]} & set(account.get("strategies", ["*"]))
            expected = code if follows else "NOT_SUBSCRIBED"
            assert rows[account["id"]]["code"] == expected, (signal["id"], account["id"])


def test_the_venue_has_each_order_once_and_no_other(replayed: Replayed) -> None:
    expected = {
        (row["account"], row["cl_ord_id"]): Decimal(row["order_qty"])
        for detail in replayed.details.values()
        for row in detail["accounts"]
        if row["cl_ord_id"] and row["account"].startswith("A-")
    }
    at_venue = {
        (order["key_id"].replace("KEY", "A-"), order["client_order_id"]): Decimal(order["qty"])
        for order in replayed.venue_orders
    }
    assert at_venue == expected
    assert len(replayed.venue_orders) == len(at_venue) > 1_000
    posts = [row for row in replayed.log if (row["method"], row["path"]) == ("POST", "/v2/orders")]
    assert len(posts) == len(at_venue)
    assert {row["status"] for row in posts} == {200}
    assert len({order["client_order_id"] for order in replayed.venue_orders}) == len(at_venue)
    for order in replayed.venue_orders:
        ours = replayed.orders[order["client_order_id"]]
        assert Decimal(ours["cum_qty"]) == Decimal(order["filled_qty"]) == Decimal(order["qty"])
        assert Decimal(ours["avg_px"]) == rounded(order["filled_avg_price"], 6)
        assert (ours["order_id"], ours["side"]) == (order["id"], order["side"])


def test_positions_and_money_are_the_venues_to_the_last_digit(replayed: Replayed) -> None:
    cash: dict[str, Decimal] = defaultdict(Decimal)
    held: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for fill in replayed.fills:
        sign = 1 if fill["side"] == "buy" else -1
        quantity = sign * Decimal(fill["last_qty"])
        cash[fill["account"]] -= quantity * Decimal(fill["last_px"])
        held[fill["account"], fill["symbol"]] += quantity
    assert len({fill["key"] for fill in replayed.fills}) == len(replayed.fills)
    for key, position in replayed.positions.items():
        assert Decimal(position["qty"]) == held[key], key
    traded = 0
    for name, account in replayed.venue_accounts.items():
        assert Decimal(account["cash"]) == 100_000 + cash[name], name
        for symbol, position in account["positions"].items():
            ours = replayed.positions[name, symbol]
            assert Decimal(ours["qty"]) == Decimal(position["qty"]), (name, symbol)
            assert Decimal(ours["realised"]) == rounded(position["realised"], 2), (
                name,
                symbol,
            )
            traded += 1
    assert traded >= 10


def test_a_fixed_account_holds_its_last_lot(replayed: Replayed) -> None:
    turns = Counter(signal["strategy"] for signal in recording())
    for account, code in replayed.accounts:
        if code or account["sizing"]["method"] != "fixed" or account["id"].startswith("P-"):
            continue
        lot = Decimal(account["sizing"]["quantity"])
        # An odd one of the week; a buy and a sell by hand; and the alert's, which has no stops to judge.
        lots = turns[account["strategies"][0]] % 2 + ("limits" not in account)
        assert Decimal(replayed.positions[account["id"], "BTCUSDT"]["qty"]) == lots * lot


def test_every_view_agrees(replayed: Replayed) -> None:
    engine = replayed.engine
    row = engine.status()
    assert row["signals"] == len(replayed.signals)
    assert row["orders"] == len(replayed.orders)
    assert row["fills"] == len(replayed.fills)
    assert (row["open_orders"], row["unknown_orders"], row["connected"]) == (0, 0, 24)
    done = volley(engine.home, "status", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert {name: shown["engine"][name] for name in ("signals", "orders", "fills", "book")} == {
        name: row[name] for name in ("signals", "orders", "fills", "book")
    }
    by_status = Counter(order["status"] for order in replayed.orders.values())
    assert by_status == {"filled": len(replayed.orders)}
    for key, detail in replayed.details.items():
        sent = [entry for entry in detail["accounts"] if entry["cl_ord_id"]]
        listed = replayed.signals[key]
        assert listed["sent"] == listed["filled"] == len(sent), key
        assert listed["sent"] + listed["skipped"] + listed["refused"] == 25, key
        for entry in sent:
            order = replayed.orders[entry["cl_ord_id"]]
            for name in ("account", "status", "cum_qty", "avg_px", "order_id", "side"):
                assert order[name] == entry[name], (key, name)
    for number in (1, 200, 416):
        account = f"A-{number % 3:03d}"
        filtered = engine.rows("orders", account=account, symbol="BTCUSDT", status="filled")
        every = [
            o
            for o in replayed.orders.values()
            if (o["account"], o["symbol"]) == (account, "BTCUSDT")
        ]
        assert {o["cl_ord_id"] for o in filtered} == {o["cl_ord_id"] for o in every}
    assert not engine.errors.read_text("utf-8")
