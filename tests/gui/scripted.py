"""A scripted engine in memory: a client whose rows look like a busy morning, and which records what it is told."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.errors import CommandRefused
from engine.model import tables
from engine.model.controls import CONTROLS
from engine.model.enums import ConnectionState

SYMBOLS = {
    "AAPL": 228.4,
    "NVDA": 141.2,
    "MSFT": 417.9,
    "TSLA": 338.6,
    "AMD": 138.1,
    "META": 561.0,
    "BTC/USD": 91840.0,
}
STRATEGIES = ("breakout", "mean-rev", "momentum", "pairs")
NAMES = (
    "Alice Moreau",
    "Ben Okafor",
    "Chen Wei",
    "Dana Levi",
    "Emil Novak",
    "Fatima Haddad",
    "Gus Lind",
    "Hana Sato",
)
B32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def at(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class ScriptedClient:
    """An EngineClient; ``snapshot`` and ``step`` make its rows, ``sent`` keeps its commands."""

    def __init__(self, accounts: int = 40, seed: int = 7) -> None:
        self.random = random.Random(seed)
        self.listener: Any = None
        self.now = datetime.now(UTC)
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.signals_sent: list[dict[str, Any]] = []
        self.refuse: CommandRefused | None = None
        self.answers: dict[str, dict[str, Any]] = {}  # by command
        self.serial = 0
        self.px = dict(SYMBOLS)
        self.tables: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in tables.KEYS}
        self.dirty: dict[str, set[str]] = {}
        for number in range(accounts):
            self.put(tables.ACCOUNTS, self.account(number))
        self.put(tables.ENGINE, self.engine())

    # --- EngineClient -------------------------------------------------------------------------

    async def start(self, listener: Any) -> None:
        self.listener = listener
        listener.on_link(ConnectionState.CONNECTING, "ws://127.0.0.1:8787")
        self.connect()

    async def stop(self) -> None:
        self.listener = None

    async def command(self, command: str, **fields: Any) -> dict[str, Any]:
        self.sent.append((command, fields))
        if self.refuse is not None:
            raise self.refuse
        if command == "preview" and command not in self.answers:
            return self.preview(fields["signal"] or {})
        if command == "bars" and command not in self.answers:
            return self.bars(fields["symbol"], fields["interval_s"])
        if command == "curves" and command not in self.answers:
            return self.curves(**fields)
        return self.answers.get(command, {"done": True})

    @property
    def acted(self) -> list[tuple[str, dict[str, Any]]]:
        """What was sent and is more than a question."""
        return [one for one in self.sent if one[0] not in {"bars", "curves", "preview"}]

    async def send_signal(self, document: dict[str, Any]) -> dict[str, Any]:
        self.signals_sent.append(document)
        if self.refuse is not None:
            raise self.refuse
        return {"signal_id": document["id"], "state": "accepted"}

    async def signal_detail(self, key: str) -> dict[str, Any]:
        row = self.tables[tables.SIGNALS].get(key)
        if row is None:
            raise CommandRefused("NOT_FOUND", "There is no such signal.", 404)
        return self.detail(row)

    # --- feeding ------------------------------------------------------------------------------

    def connect(self) -> None:
        self.listener.on_snapshot(self.snapshot())
        self.listener.on_link(ConnectionState.CONNECTED, "connected")

    def put(self, table: str, row: dict[str, Any]) -> dict[str, Any]:
        key = row[tables.KEYS[table]]
        self.tables[table][key] = row
        self.dirty.setdefault(table, set()).add(key)
        return row

    def change(self, table: str, key: str, **fields: Any) -> dict[str, Any]:
        return self.put(table, self.tables[table][key] | fields)

    def snapshot(self) -> dict[str, list[dict[str, Any]]]:
        self.dirty.clear()
        return {name: list(rows.values()) for name, rows in self.tables.items()}

    def flush(self) -> int:
        changes = {
            name: [self.tables[name][key] for key in keys] for name, keys in self.dirty.items()
        }
        self.dirty = {}
        if self.listener is not None:
            self.listener.on_batch(changes, {})
        return sum(len(rows) for rows in changes.values())

    # --- rows ---------------------------------------------------------------------------------

    def engine(self, **fields: Any) -> dict[str, Any]:
        rows = list(self.tables[tables.ACCOUNTS].values())
        connected = sum(row["connection"] == "connected" for row in rows)
        total = sum(float(row["day_pnl"]) for row in rows)
        return {
            "key": "engine",
            "name": "desk-1",
            "version": "0.1.0",
            "pid": 4242,
            "book": "main",
            "profile": "embedded",
            "simulated": True,
            "trading": "active",
            "reason": "",
            "started_at": at(self.now - timedelta(hours=2)),
            "now": at(datetime.now(UTC)),
            "accounts": len(rows),
            "connected": connected,
            "open_orders": sum(row["open_orders"] for row in rows),
            "unknown_orders": 0,
            "held": sum(
                1 for row in self.tables[tables.SIGNALS].values() if row["state"] == "held"
            ),
            "signals": len(self.tables[tables.SIGNALS]),
            "orders": len(self.tables[tables.ORDERS]),
            "fills": len(self.tables[tables.FILLS]),
            "signals_per_s": 0.6,
            "orders_per_s": 18.4,
            "equity": f"{sum(float(row['equity']) for row in rows):.2f}",
            "day_pnl": f"{total:.2f}",
            "realised": f"{total * 0.6:.2f}",
            "unrealised": f"{total * 0.4:.2f}",
            "exposure": "1842210.55",
            "loop_lag_ms": 0.7,
            "services": {"journal": {"state": "connected", "text": ""}},
            "prices": {},
        } | fields

    def account(self, number: int) -> dict[str, Any]:
        rnd = self.random
        equity = rnd.uniform(20_000, 180_000)
        link = "connected" if number % 13 else "degraded"
        if number % 17 == 16:
            link = "error"
        text = {"degraded": "order stream down", "error": "credentials refused"}.get(link, "")
        return {
            "id": f"A-{number + 1:03d}",
            "name": NAMES[number % len(NAMES)],
            "broker": "alpaca" if number % 3 else "paper",
            "environment": "paper",
            "active": number % 11 != 10,
            "tags": ["gold"] if number % 4 == 0 else ["core"],
            "strategies": ["*"],
            "symbols": ["*"],
            "approval": "review" if number % 9 == 8 else "auto",
            "sizing": {"method": "risk_percent", "percent": "0.5"}
            if number % 2
            else {"method": "fixed", "quantity": "10"},
            "limits": {},
            "hours": None,
            "connection": link,
            "connection_text": text,
            "state": "active",
            "equity": f"{equity:.2f}",
            "cash": f"{equity * 0.6:.2f}",
            "buying_power": f"{equity * 1.8:.2f}",
            "day_pnl": f"{rnd.uniform(-900, 1400):.2f}",
            "realised": "120.00",
            "unrealised": "88.50",
            "exposure": f"{equity * 0.4:.2f}",
            "positions": rnd.randint(0, 6),
            "open_orders": rnd.randint(0, 3),
            "unknown_orders": 0,
            "rejects": 1 if number % 12 == 5 else 0,
            "queue": 0,
            "ack_p50_us": rnd.randint(2_100, 9_800),
            "session_expires_at": None,
            "last_probe_at": at(self.now),
            "warm_connections": "2/2",
            "rate_left": 140,
            "paused_until": None,
            "logs_in": False,
            "todo": {
                "error": "mend its credentials or address, then reload the accounts",
                "degraded": "watch it: it trades, but hears of its orders by looking them up only",
            }.get(link, ""),
            "last_error": text,
            "updated_at": at(self.now),
        }

    def cl_ord_id(self) -> str:
        return "".join(self.random.choice(B32) for _ in range(20))

    def signal(self, moment: datetime, state: str = "accepted", **fields: Any) -> dict[str, Any]:
        rnd = self.random
        self.serial += 1
        symbol = rnd.choice(list(SYMBOLS))
        action = rnd.choice(("buy", "buy", "sell", "sell", "close"))
        kind = "limit" if rnd.random() < 0.4 and action != "close" else "market"
        price = self.px[symbol]
        sign = 1 if action == "buy" else -1
        skipped = rnd.randint(2, 9)
        refused = rnd.choice((0, 0, 1, 2))
        held = 4 if state == "held" else 0
        count = len(self.tables[tables.ACCOUNTS])
        reached = (
            0 if state in {"refused", "rejected", "expired"} else count - skipped - refused - held
        )
        first = rnd.randint(620, 1_450)
        row = {
            "key": f"tv-alerts/brk-{self.serial:05d}",
            "source": "tv-alerts",
            "id": f"brk-{self.serial:05d}",
            "strategy": rnd.choice(STRATEGIES),
            "symbol": symbol,
            "action": action,
            "order_type": kind,
            "time_in_force": "day",
            "limit_price": f"{price:.2f}" if kind == "limit" else None,
            "stop_price": None,
            "stop_loss": f"{price * (1 - sign * 0.012):.2f}" if action != "close" else None,
            "take_profit": f"{price * (1 + sign * 0.03):.2f}" if action != "close" else None,
            "quantity": None,
            "reference_price": None,
            "issued_at": at(moment),
            "received_at": at(moment),
            "origin": "webhook",
            "state": state,
            "code": {
                "refused": "STALE",
                "held": "REVIEW",
                "expired": "APPROVAL_TIMEOUT",
                "rejected": "REJECTED_BY_OPERATOR",
            }.get(state),
            "message": "9.2 s old, limit 5.0 s" if state == "refused" else None,
            "accounts": count,
            "sent": reached,
            "held": held,
            "skipped": skipped,
            "refused": refused,
            "filled": max(0, reached - 2),
            "working": min(2, reached),
            "rejected": 0,
            "unknown": 0,
            "hold_expires_at": at(moment + timedelta(seconds=30)) if state == "held" else None,
            "predicted_finish_ms": 1_400 if state == "held" else None,
            "predicted_cold": 2 if state == "held" else None,
            "price": f"{price:.2f}" if state == "held" else None,
            "mark": f"{price * 1.004:.2f}" if state == "held" else None,
            "drift_percent": "0.40" if state == "held" else None,
            "drifted": False,
            "stage": None,
            "stage_text": None,
            "stage_expires_at": None,
            "first_byte_us": first if reached else None,
            "last_byte_us": first + rnd.randint(800, 1_900) if reached else None,
            "last_ack_us": first + rnd.randint(6_000, 14_000) if reached else None,
        } | fields
        return self.put(tables.SIGNALS, row)

    def order(
        self, signal: dict[str, Any], account: str, status: str, moment: datetime
    ) -> dict[str, Any]:
        rnd = self.random
        quantity = rnd.choice((5, 10, 25, 40, 100))
        done = {"filled": quantity, "partially_filled": quantity // 2}.get(status, 0)
        price = self.px[signal["symbol"]] * rnd.uniform(0.999, 1.001)
        return self.put(
            tables.ORDERS,
            {
                "cl_ord_id": self.cl_ord_id(),
                "order_id": f"b-{rnd.getrandbits(40):010x}",
                "account": account,
                "broker": "alpaca",
                "symbol": signal["symbol"],
                "side": "sell" if signal["action"] == "sell" else "buy",
                "order_type": signal["order_type"],
                "time_in_force": "day",
                "order_qty": str(quantity),
                "limit_price": signal["limit_price"],
                "stop_price": None,
                "status": status,
                "cum_qty": str(done),
                "leaves_qty": str(quantity - done),
                "avg_px": f"{price:.2f}" if done else None,
                "code": {
                    "rejected": "BROKER_REJECTED",
                    "denied": "QTY_MAX",
                    "unknown": "OUTCOME_UNKNOWN",
                }.get(status),
                "text": "insufficient buying power" if status == "rejected" else "",
                "strategy": signal["strategy"],
                "source": signal["source"],
                "signal_id": signal["id"],
                "leg": "entry",
                "parent": "",
                "created_at": at(moment),
                "updated_at": at(moment),
                "first_byte_us": rnd.randint(700, 2_600),
                "ack_us": rnd.randint(2_000, 9_000),
            },
        )

    def fill(self, order: dict[str, Any], moment: datetime) -> dict[str, Any]:
        self.serial += 1
        return self.put(
            tables.FILLS,
            {
                "key": f"{order['account']}/x{self.serial}",
                "account": order["account"],
                "exec_id": f"x{self.serial}",
                "cl_ord_id": order["cl_ord_id"],
                "symbol": order["symbol"],
                "side": order["side"],
                "last_qty": order["cum_qty"],
                "last_px": order["avg_px"],
                "at": at(moment),
                "strategy": order["strategy"],
                "source": order["source"],
                "signal_id": order["signal_id"],
            },
        )

    def position(self, account: str, symbol: str, quantity: int) -> dict[str, Any]:
        average = SYMBOLS[symbol] * self.random.uniform(0.985, 1.015)
        mark = self.px[symbol]
        return self.put(
            tables.POSITIONS,
            {
                "key": f"{account}/{symbol}",
                "account": account,
                "symbol": symbol,
                "qty": str(quantity),
                "avg_px": f"{average:.2f}",
                "mark": f"{mark:.2f}",
                "mark_age_s": round(self.random.uniform(0.1, 1.4), 1),
                "value": f"{mark * quantity:.2f}",
                "unrealised": f"{(mark - average) * quantity:.2f}",
                "realised": "0.00",
                "stop_loss": f"{average * 0.985:.2f}",
                "take_profit": f"{average * 1.03:.2f}",
                "trail_percent": None,
                "protected": "engine",
                "stop_distance_percent": f"{(mark - average * 0.985) / mark * 100:.2f}",
                "updated_at": at(self.now),
            },
        )

    def preview(self, signal: dict[str, Any]) -> dict[str, Any]:
        """Return what would come of a signal: each account its own outcome, by its number."""
        price = float(signal.get("limit_price") or self.px.get(signal["symbol"], 0))
        wanted = signal.get("audience", {}).get("accounts")
        rows = []
        for number, account in enumerate(self.tables[tables.ACCOUNTS]):
            if wanted is not None and account not in wanted:
                continue
            code = {3: "OUTSIDE_HOURS", 7: "POSITION_LIMIT", 9: "QTY_MAX"}.get(number % 12, "")
            outcome = {"": "send", "QTY_MAX": "refuse"}.get(code, "skip")
            if number % 9 == 8:
                outcome, code = "hold", ""
            quantity = 5 + number % 7 * 5
            sized = outcome in {"send", "hold"}
            stop = signal.get("stop_loss")
            risk = f"{abs(price - float(stop)) * quantity:.2f}" if sized and stop else None
            rows.append(
                {
                    "account": account, "outcome": outcome, "code": code,
                    "message": "500 > 50" if code == "QTY_MAX" else code.lower().replace("_", " "),
                    "side": signal["action"] if sized else None, "quantity": str(quantity) if sized else None,
                    "price": f"{price:.2f}" if sized else None, "value": f"{price * quantity:.2f}" if sized else None,
                    "risk": risk, "leaves_in_s": number * 0.012 if outcome == "send" else None,
                }
            )  # fmt: skip
        last = max((row["leaves_in_s"] or 0 for row in rows), default=0)
        return {
            "code": "",
            "message": "",
            "price": f"{price:.2f}",
            "finish_s": last,
            "accounts": rows,
        }

    def unknown(self, order: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """Put what is known of an order of unknown fate."""
        return self.put(
            tables.UNKNOWN,
            {
                **order, "promise": "T", "settle_s": 2.0, "may_resend": True, "sent_at": order["created_at"],
                "sent": "all", "looks": 4, "looked_at": at(self.now), "said": "not found",
            } | fields,
        )  # fmt: skip

    def bars(self, symbol: str, interval_s: int, count: int = 400) -> dict[str, Any]:
        """Return bars that end now and at the price of now."""
        rnd = random.Random(symbol)
        close, rows = self.px[symbol], []
        start = int(self.now.timestamp()) // interval_s * interval_s
        for number in range(count):
            opened = close * (1 + rnd.gauss(0, 0.0006))
            high = max(opened, close) * (1 + abs(rnd.gauss(0, 0.0003)))
            low = min(opened, close) * (1 - abs(rnd.gauss(0, 0.0003)))
            stamp = at(datetime.fromtimestamp(start - number * interval_s, UTC))
            figures = {"open": opened, "high": high, "low": low, "close": close}
            rows.append(
                {
                    "at": stamp,
                    **{name: f"{value:.2f}" for name, value in figures.items()},
                    "prices": 240,
                }
            )
            close = opened
        return {"symbol": symbol, "interval_s": interval_s, "bars": rows[::-1]}

    def curves(self, of: str, names: Any = None, top: int = 8) -> dict[str, Any]:
        """Return curves of two hours that end at what the rows say."""
        rows = self.tables[tables.ACCOUNTS if of == "account" else tables.STRATEGIES]
        made = {}
        for name in (names or list(rows))[:top]:
            row, rnd = rows[name], random.Random(name)
            total = (
                float(row["total"])
                if of == "strategy"
                else float(row["realised"]) + float(row["unrealised"])
            )
            points = []
            for number in range(240):
                stamp = at(self.now - timedelta(seconds=30 * number))
                equity = f"{float(row['equity']) + total:.2f}" if of == "account" else None
                points.append({"at": stamp, "equity": equity, "total": f"{total:.2f}"})
                total -= rnd.gauss(1, 40)
            made[name] = points[::-1]
        return {"of": of, "curves": made}

    def live_bar(self, symbol: str, price: str, interval_s: int = 60) -> dict[str, Any]:
        start = int(self.now.timestamp()) // interval_s * interval_s
        figures = dict.fromkeys(("open", "high", "low", "close"), price)
        return self.put(
            tables.BARS,
            {"key": f"{symbol}@{interval_s}", "symbol": symbol, "interval_s": interval_s,
             "at": at(datetime.fromtimestamp(start, UTC)), **figures, "prices": 1},
        )  # fmt: skip

    def latency(self, moment: datetime) -> None:
        base = {
            "validated": 70,
            "durable": 420,
            "planned": 610,
            "first_byte": 700,
            "last_byte": 1_900,
            "first_ack": 3_100,
            "last_ack": 8_800,
            "send": 520,
            "ack": 3_600,
        }
        for stage in tables.STAGES:
            wave = self.random.lognormvariate(0, 0.18)
            p50 = int(base[stage] * wave)
            tail = int(p50 * self.random.uniform(1.8, 4.0))
            sample = {
                "count": 24,
                "p50": p50,
                "p90": int(p50 * 1.5),
                "p99": tail,
                "p999": tail * 2,
                "max": tail * 2,
            }
            edges = [int(base[stage] * 0.25 * 1.3**n) for n in range(16)]
            counts = [3, 18, 90, 330, 620, 540, 300, 160, 90, 50, 26, 12, 7, 4, 2, 1]
            total = {name: int(value * 1.1) for name, value in sample.items()} | {"count": 18_240}
            minute = dict(sample) | {"count": 1_104}
            self.put(
                tables.LATENCY,
                {
                    "stage": stage,
                    "total": total,
                    "minute": minute,
                    "second": sample,
                    "buckets": [list(pair) for pair in zip(edges, counts, strict=True)],
                    "at": at(moment),
                },
            )

    def detail(self, row: dict[str, Any]) -> dict[str, Any]:
        rnd = random.Random(row["key"])
        orders = {
            o["account"]: o
            for o in self.tables[tables.ORDERS].values()
            if o["signal_id"] == row["id"]
        }
        codes = [
            ("skipped", "NOT_SUBSCRIBED"),
            ("skipped", "OUTSIDE_HOURS"),
            ("refused", "QTY_MAX"),
            ("skipped", "INACTIVE"),
            ("skipped", "POSITION_LIMIT"),
            ("skipped", "NOT_CONNECTED"),
        ]
        rows = []
        for number, account in enumerate(self.tables[tables.ACCOUNTS]):
            order = orders.get(account)
            outcome, code = (
                ("sent", None) if order or number % 5 else codes[number // 5 % len(codes)]
            )
            if row["state"] == "held" and outcome == "sent" and number % 9 == 8:
                outcome, code = "held", "REVIEW"
            soft = code in {"OUTSIDE_HOURS", "POSITION_LIMIT"}
            quantity = (
                order["order_qty"] if order else ("10" if outcome in {"sent", "held"} else None)
            )
            status = (order["status"] if order else "filled") if outcome == "sent" else None
            start = 700_000 + number * 31_000
            trace = (
                {
                    "planned": 610_000,
                    "first_byte": start,
                    "last_byte": start + 9_000,
                    "first_ack": start + rnd.randint(2_000_000, 6_000_000),
                }
                if outcome == "sent"
                else {}
            )
            message = {
                "QTY_MAX": "840 is more than max_order_quantity 500",
                "POSITION_LIMIT": "10 open positions, limit 10",
            }.get(code or "", "")
            rows.append(
                {
                    "account": account,
                    "outcome": outcome,
                    "code": code,
                    "message": message,
                    "cl_ord_id": order["cl_ord_id"] if order else None,
                    "status": status,
                    "side": row["action"],
                    "order_qty": quantity,
                    "cum_qty": quantity if status == "filled" else "0" if quantity else None,
                    "avg_px": f"{self.px[row['symbol']]:.2f}" if status == "filled" else None,
                    "soft": soft,
                    "trace": trace,
                }
            )
        trace = {
            "received": row["received_at"],
            "validated": 68_000,
            "durable": 430_000,
            "planned": 610_000,
            "first_byte": 702_000,
            "last_byte": 1_944_000,
            "first_ack": 3_140_000,
            "last_ack": 8_790_000,
        }
        raw = {
            name: row[name]
            for name in (
                "id",
                "source",
                "strategy",
                "symbol",
                "action",
                "order_type",
                "stop_loss",
                "take_profit",
                "issued_at",
            )
            if row[name] is not None
        }
        return {"signal": row, "raw": raw, "accounts": rows, "trace": trace}

    # --- a morning ----------------------------------------------------------------------------

    def morning(self) -> None:
        """Fill every table as after two busy hours."""
        rnd, names = self.random, list(self.tables[tables.ACCOUNTS])
        states = ["accepted"] * 46 + ["refused"] * 5 + ["rejected"] * 3 + ["expired"] * 3
        rnd.shuffle(states)
        ages = range(len(states) * 61 - 30, 0, -61)
        rows = [
            self.signal(self.now - timedelta(seconds=age), state)
            for age, state in zip(ages, states, strict=True)
        ]
        fresh = ((14, "held"), (6, "held"), (2, "accepted"))
        rows += [self.signal(self.now - timedelta(seconds=age), state) for age, state in fresh]
        for number in range(300):
            signal = rnd.choice(rows[-12:])
            status = rnd.choices(
                ("filled", "new", "partially_filled", "canceled", "rejected", "denied", "unknown"),
                (60, 14, 6, 8, 4, 5, 1),
            )[0]
            moment = self.now - timedelta(seconds=(300 - number) * 2.2)
            order = self.order(signal, rnd.choice(names), status, moment)
            if order["cum_qty"] != "0":
                self.fill(order, moment)
        for number, order in enumerate(list(self.tables[tables.ORDERS].values())):
            if order["status"] == "unknown":
                self.unknown(order, promise="DTN"[number % 3], may_resend=number % 3 < 2)
        while len(self.tables[tables.POSITIONS]) < 80:
            self.position(
                rnd.choice(names),
                rnd.choice(list(SYMBOLS)),
                rnd.choice((-40, -10, 10, 25, 60, 100)),
            )
        self._history()
        self.alerts()
        self.books()
        self.put(tables.ENGINE, self.engine())

    def _history(self) -> None:
        total, equity = (
            0.0,
            sum(float(row["equity"]) for row in self.tables[tables.ACCOUNTS].values()),
        )
        for number in range(720):
            total += self.random.gauss(14, 140)
            stamp = at(self.now - timedelta(seconds=(720 - number) * 10))
            self.put(
                tables.PNL,
                {
                    "at": stamp,
                    "equity": f"{equity + total:.2f}",
                    "total": f"{total:.2f}",
                    "realised": f"{total * 0.6:.2f}",
                    "unrealised": f"{total * 0.4:.2f}",
                    "signals": number * 6,
                    "orders": number * 180 + self.random.randint(0, 90),
                    "fills": number * 170 + self.random.randint(0, 80),
                    "loop_lag_ms": round(self.random.lognormvariate(-0.4, 0.5), 2),
                },
            )
        for strategy in STRATEGIES:
            row = {
                "strategy": strategy,
                "total": f"{self.random.gauss(400, 900):.2f}",
                "exposure": "61200.00",
            }
            self.put(tables.STRATEGIES, row | {"fills": 212})

    def alerts(self) -> None:
        said = (
            ("warning", "broker", "BROKER_REJECTED", "A-018", "insufficient buying power"),
            (
                "critical",
                "session",
                "",
                "A-017",
                "credentials refused; entries for this account are off",
            ),
            ("info", "engine", "", "", "Trading armed by operator: start of day"),
            (
                "warning",
                "order",
                "OUTCOME_UNKNOWN",
                "A-007",
                "No proof of the order's fate after 2.0 s; looking it up",
            ),
        )
        for number, (severity, area, code, account, text) in enumerate(said):
            self.put(
                tables.ALERTS,
                {
                    "id": f"al-{number}",
                    "at": at(self.now - timedelta(minutes=4 * number + 1)),
                    "severity": severity,
                    "area": area,
                    "code": code or None,
                    "account": account or None,
                    "text": text,
                    "count": number + 1,
                    "last_at": at(self.now),
                    "acknowledged_at": None if number < 2 else at(self.now),
                },
            )

    def books(self) -> None:
        """What the books differ in, orders of others, controls and limits in use."""
        said = (
            ("position", "A-003", "AAPL", "120", "80", "-40", "7600.00", ["adopt", "repair"],
             "Our fills make 120, the broker holds 80"),
            ("order", "A-007", "QUJ37FOUMKX6TOPAX2R5", "new", "none", "", None, ["adopt"],
             "The broker no longer lists it, and tells no end of it"),
            ("cash", "A-012", "USD", "98120.40", "98119.15", "-1.25", "1.25", ["adopt"], "Fees that no fill told"),
        )  # fmt: skip
        for number, (kind, account, symbol, ours, theirs, gap, value, actions, text) in enumerate(
            said
        ):
            self.put(
                tables.DIFFERENCES,
                {
                    "key": f"{account}/{kind}/{symbol}", "account": account, "broker": "alpaca", "kind": kind,
                    "symbol": symbol, "expected": ours, "actual": theirs, "difference": gap, "value": value,
                    "seen": 2 + number, "since": at(self.now - timedelta(minutes=3 * number + 1)),
                    "at": at(self.now), "actions": actions, "text": text,
                },
            )  # fmt: skip
        self.put(
            tables.EXTERNAL,
            {
                "key": "A-009/8f2c", "account": "A-009", "broker": "alpaca", "order_id": "8f2c", "cl_ord_id": "",
                "symbol": "NVDA", "side": "buy", "order_type": "limit", "order_qty": "25", "leaves_qty": "25",
                "limit_price": "118.50", "stop_price": None, "status": "new", "value": "2962.50",
                "since": at(self.now - timedelta(minutes=12)), "at": at(self.now),
            },
        )  # fmt: skip
        states = {"C21": "tripped", "C24": "failing", "C10": "off", "C11": "off"}
        for control in CONTROLS:
            refused = 7 if control.number in {"C02", "C04", "C13"} else 0
            self.put(
                tables.CONTROLS,
                {
                    "number": control.number, "title": control.title, "meaning": control.meaning,
                    "state": states.get(control.number, "on"), "setting": "", "refusals": refused,
                    "last_at": at(self.now) if refused else None, "last_code": control.codes[0] if refused else None,
                    "last_account": "A-004" if refused else None, "last_text": "500 > 50" if refused else None,
                },
            )  # fmt: skip
        for scope, limit, used, most, unit in (
            ("all", "max_gross_exposure", "4875000", "5000000", "USD"),
            ("account:A-004", "max_daily_loss", "1000", "1000", "USD"),
            ("account:A-002", "max_orders_per_day", "61", "200", "orders"),
            ("strategy:breakout", "max_unreviewed", "17", "20", "executions"),
        ):
            percent = int(100 * int(used) / int(most))
            self.put(
                tables.USAGE,
                {
                    "key": f"{scope}/{limit}", "scope": scope, "limit": limit, "used": used, "most": most,
                    "percent": percent, "unit": unit, "text": f"{used} of {most} {unit}", "at": at(self.now),
                },
            )  # fmt: skip

    def before_the_open(self) -> None:
        """Let some accounts need something, some positions be watched by others, or by nobody."""
        ends = at(self.now + timedelta(minutes=24))
        needs: tuple[dict[str, Any], ...] = (
            {"broker": "kite", "logs_in": True, "connection": "error", "session_expires_at": None,
             "connection_text": "nobody has logged in to Kite today: log in with `volley accounts login A-002`",
             "todo": "nobody has logged in to Kite today: log in with `volley accounts login A-002`",
             "warm_connections": "0/2"},
            {"broker": "kite", "logs_in": True, "session_expires_at": ends,
             "todo": "log it in again: main.py accounts login A-003"},
            {"broker": "kite", "logs_in": True, "session_expires_at": at(self.now + timedelta(hours=9))},
            {"connection": "disconnected", "connection_text": "cannot connect to api.example.com: timed out",
             "warm_connections": "0/2",
             "todo": "check the network and the broker's status page; it tries again by itself"},
        )  # fmt: skip
        for number, fields in enumerate(needs):
            self.change(tables.ACCOUNTS, f"A-{number + 2:03d}", **fields)
        for number, key in enumerate(list(self.tables[tables.POSITIONS])):
            if number % 3 == 0:
                self.change(tables.POSITIONS, key, protected="broker")
            elif number % 7 == 1:
                clear = {"stop_loss": None, "take_profit": None, "stop_distance_percent": None}
                self.change(tables.POSITIONS, key, protected="", **clear)
            elif number % 5 == 2:
                self.change(tables.POSITIONS, key, trail_percent="1.5")
        self.change(tables.POSITIONS, next(iter(self.tables[tables.POSITIONS])), protected="")
        orders = list(self.tables[tables.ORDERS])
        entry = self.tables[tables.ORDERS][orders[-3]]
        for name, kind, key in (("target", "limit", orders[-2]), ("stop", "stop", orders[-1])):
            self.change(
                tables.ORDERS, key, leg=name, parent=entry["cl_ord_id"], order_type=kind, status="new",
                account=entry["account"], symbol=entry["symbol"], order_qty=entry["order_qty"], cum_qty="0", avg_px=None
            )  # fmt: skip

    def killed(self) -> None:
        """Halts, and a kill half done."""
        self.put(
            tables.HALTS,
            {
                "scope": "all",
                "state": "halted",
                "reason": "kill switch at the desk",
                "at": at(self.now),
                "by": "operator",
            },
        )
        for number, account in enumerate(self.tables[tables.ACCOUNTS]):
            left = number % 3 if number > 20 else 0
            residual = {"AAPL": "40", "NVDA": "-10"} if number % 6 == 0 else {}
            self.put(
                tables.KILL,
                {
                    "account": account,
                    "blocked": True,
                    "cancels_sent": 3,
                    "cancels_confirmed": 3 - left,
                    "working": left,
                    "residual": residual,
                    "done": not left,
                    "error": None,
                    "at": at(self.now),
                },
            )
        self.put(tables.ENGINE, self.engine(trading="halted", reason="kill switch"))

    def step(self, changes: int) -> None:
        """Change ``changes`` rows as a market does: marks, money, states."""
        rnd = self.random
        positions, accounts = (
            list(self.tables[tables.POSITIONS]),
            list(self.tables[tables.ACCOUNTS]),
        )
        orders = list(self.tables[tables.ORDERS])
        for number in range(changes):
            pick = number % 10
            if pick < 6 and positions:
                key = rnd.choice(positions)
                row = self.tables[tables.POSITIONS][key]
                mark = float(row["mark"]) * rnd.uniform(0.9994, 1.0006)
                quantity = float(row["qty"])
                self.change(
                    tables.POSITIONS,
                    key,
                    mark=f"{mark:.2f}",
                    updated_at=at(self.now),
                    value=f"{mark * quantity:.2f}",
                    unrealised=f"{(mark - float(row['avg_px'])) * quantity:.2f}",
                )
            elif pick < 8 and accounts:
                key = rnd.choice(accounts)
                money = float(self.tables[tables.ACCOUNTS][key]["day_pnl"]) + rnd.gauss(0, 6)
                self.change(tables.ACCOUNTS, key, day_pnl=f"{money:.2f}")
            elif orders:
                self.change(
                    tables.ORDERS,
                    rnd.choice(orders),
                    status=rnd.choice(("new", "filled", "partially_filled")),
                )
