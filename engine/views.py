"""Rows for the feed, the lists and the desk (engine.model.tables says what each column means)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from engine.clock import rfc3339
from engine.documents import signal_document
from engine.model.account_state import AccountState
from engine.model.codes import CODES
from engine.model.enums import OrderStatus, Outcome
from engine.model.messages import Fill
from engine.model.numbers import to_text
from engine.model.order import Order
from engine.model.position import Position
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import Pnl
from engine.price_drift import DriftGuard
from engine.signal_record import SignalRecord
from engine.stage import Stage, sentence

Row = dict[str, Any]
_CENTS = Decimal("0.01")
_MILLIONTHS = Decimal("0.000001")


def text(value: Decimal | None) -> str | None:
    """Write an exact number, or nothing."""
    return None if value is None else to_text(value)


def money(value: Decimal | None) -> str | None:
    """Write an amount of money to the cent."""
    return None if value is None else format(value.quantize(_CENTS), "f")


def average(value: Decimal) -> str | None:
    """Write an average price to a millionth; nothing where there is none."""
    return to_text(value.quantize(_MILLIONTHS)) if value else None


def micros(later: int, earlier: int) -> int | None:
    """Return a difference of monotonic stamps in microseconds, if both were taken."""
    return (later - earlier) // 1000 if later and earlier else None


def signal_row(record: SignalRecord) -> Row:
    """Return a row of ``signals``."""
    signal, trace = record.signal, _trace(record)
    row: Row = {
        "key": signal.key,
        "source": signal.source,
        "id": signal.id,
        "strategy": signal.strategy,
        "symbol": signal.symbol,
        "action": signal.action.value,
        "order_type": signal.order_type.value,
        "time_in_force": signal.time_in_force.value,
        "limit_price": text(signal.limit_price),
        "stop_price": text(signal.stop_price),
        "stop_loss": text(signal.stop_loss),
        "take_profit": text(signal.take_profit),
        "quantity": text(signal.quantity),
        "reference_price": text(signal.reference_price),
        "issued_at": rfc3339(signal.issued_at),
        "received_at": rfc3339(record.received_at),
        "origin": record.origin,
        "state": record.state.value,
        "code": record.code,
        "message": record.message,
        "hold_expires_at": rfc3339(record.hold_expires_at) if record.hold_expires_at else None,
        "predicted_finish_ms": record.predicted_finish_ms if record.held else None,
        "predicted_cold": record.predicted_cold if record.held else None,
        "price": text(record.price) if record.undecided else None,
        "mark": None,
        "drift_percent": None,
        "drifted": False,
        **_stage(record.stage),
        **{
            f"{stage}_us": _thousandth(trace[stage])
            for stage in ("first_byte", "last_byte", "last_ack")
        },
    }
    row.update(record.counts())
    return row


def drift_columns(record: SignalRecord, guard: DriftGuard) -> Row:
    """Return the columns of a signal that waits which follow the market."""
    if not record.undecided:
        return {}
    symbol = record.signal.symbol
    drift = guard.drift(symbol, record.price)
    return {
        "mark": text(guard.market(symbol)),
        "drift_percent": None if drift is None else money(drift),
        "drifted": bool(guard.refusal(symbol, record.price, "")),
    }


def _stage(stage: Stage | None) -> Row:
    """Return where a staged release stands."""
    if stage is None:
        return {"stage": None, "stage_text": None, "stage_expires_at": None}
    return {
        "stage": stage.phase.value,
        "stage_text": sentence(stage),
        "stage_expires_at": rfc3339(stage.expires_at) if stage.waits else None,
    }


def _thousandth(nanoseconds: int | None) -> int | None:
    return None if nanoseconds is None else nanoseconds // 1000


def order_row(order: Order, broker: str) -> Row:
    """Return a row of ``orders``."""
    return {
        "cl_ord_id": order.cl_ord_id,
        "order_id": order.order_id,
        "account": order.account,
        "broker": broker,
        "symbol": order.symbol,
        "side": order.side._value_,
        "order_type": order.order_type._value_,
        "time_in_force": order.time_in_force._value_,
        "order_qty": to_text(order.order_qty),
        "limit_price": text(order.limit_price),
        "stop_price": text(order.stop_price),
        "status": order.status._value_,
        "cum_qty": to_text(order.cum_qty),
        "leaves_qty": to_text(order.leaves_qty),
        "avg_px": average(order.avg_px),
        "code": order.code,
        "text": order.text,
        "strategy": order.strategy,
        "source": order.source,
        "signal_id": order.signal_id,
        "leg": order.leg,
        "parent": order.parent,
        "created_at": rfc3339(order.created_at),
        "updated_at": rfc3339(order.updated_at),
        "first_byte_us": micros(order.first_byte_ns, order.planned_ns),
        "ack_us": micros(order.acked_ns, order.last_byte_ns),
    }


def order_row_from_journal(row: Mapping[str, Any], broker: str) -> Row:
    """Return the same row from what the journal kept."""
    quantity, filled, cash = (
        Decimal(row["order_qty"]),
        Decimal(row["cum_qty"]),
        Decimal(row["cash"]),
    )
    return {
        **{name: row[name] for name in (
            "cl_ord_id", "order_id", "account", "symbol", "side", "order_type", "time_in_force", "order_qty",
            "limit_price", "stop_price", "status", "cum_qty", "code", "text", "strategy", "source", "signal_id",
            "leg", "parent", "created_at", "updated_at",
        )},
        "broker": broker,
        "leaves_qty": to_text(quantity - filled) if row["working"] else "0",
        "avg_px": average(cash / filled) if filled else None,
        "first_byte_us": row["send_us"],
        "ack_us": row["ack_us"],
    }  # fmt: skip


def fill_row(fill: Fill) -> Row:
    """Return a row of ``fills``."""
    return {
        "key": f"{fill.account}/{fill.exec_id}",
        "account": fill.account,
        "exec_id": fill.exec_id,
        "cl_ord_id": fill.cl_ord_id,
        "symbol": fill.symbol,
        "side": fill.side._value_,
        "last_qty": to_text(fill.last_qty),
        "last_px": to_text(fill.last_px),
        "at": rfc3339(fill.at),
        "strategy": fill.strategy,
        "source": fill.source,
        "signal_id": fill.signal_id,
        "fee_qty": to_text(fill.fee_qty),
    }


def position_row(position: Position, marks: Marks, now: datetime) -> Row:
    """Return a row of ``positions``; a flat one keeps its realised P&L in view."""
    mark = marks.price(position.symbol)
    age = marks.age_s(position.symbol)
    valued = mark if mark is not None else position.avg_px
    return {
        "key": f"{position.account}/{position.symbol}",
        "account": position.account,
        "symbol": position.symbol,
        "qty": to_text(position.qty),
        "avg_px": average(position.avg_px),
        "mark": text(mark),
        "mark_age_s": None if age is None else round(age, 1),
        "value": money(position.qty * valued),
        "unrealised": money(position.unrealised(valued) if position.qty else Decimal(0)),
        "realised": money(position.realised),
        "stop_loss": text(position.stop_loss),
        "take_profit": text(position.take_profit),
        "trail_percent": text(position.trail_percent),
        "protected": position.protected,
        "stop_distance_percent": _stop_distance(position, mark),
        "updated_at": rfc3339(now),
    }


def _stop_distance(position: Position, mark: Decimal | None) -> str | None:
    """Return how far the price is from what stops the position out, in percent of the price: below zero is beyond."""
    if not position.qty or mark is None:
        return None
    sign = 1 if position.qty > 0 else -1
    stops = [] if position.stop_loss is None else [position.stop_loss]
    if position.trail_percent is not None:
        stops.append((position.best or mark) * (1 - sign * position.trail_percent / 100))
    if not stops:
        return None
    return money(min((mark - stop) * sign for stop in stops) / mark * 100)


def account_row(
    state: AccountState, pnl: Pnl, trading: str, queue: int, ack_p50_us: int | None, readiness: Row
) -> Row:
    """Return a row of ``accounts``; never a credential. ``readiness``: further columns."""
    account = state.account
    equity = state.equity(pnl.total)
    working = state.working.values()
    return {
        "id": account.id,
        "name": account.name,
        "broker": account.broker,
        "environment": account.environment,
        "active": account.active,
        "tags": list(account.tags),
        "strategies": list(account.strategies),
        "symbols": list(account.symbols),
        "approval": account.approval,
        "sizing": account.sizing.model_dump(mode="json", exclude_none=True),
        "limits": account.limits.model_dump(mode="json", exclude_none=True),
        "hours": account.hours.model_dump(mode="json") if account.hours else None,
        "connection": state.connection.value,
        "connection_text": state.connection_text,
        "state": trading,
        "equity": money(equity),
        "cash": money(state.balances.cash) if state.balances else None,
        "buying_power": money(state.balances.buying_power) if state.balances else None,
        "day_pnl": money(pnl.total - state.day_baseline),
        "realised": money(pnl.realised),
        "unrealised": money(pnl.unrealised),
        "exposure": money(pnl.exposure),
        "positions": pnl.positions,
        "open_orders": len(state.working),
        "unknown_orders": sum(order.status is OrderStatus.UNKNOWN for order in working),
        "rejects": state.rejects,
        "queue": queue,
        "ack_p50_us": ack_p50_us,
        **readiness,
        "last_error": state.last_error,
    }


def signal_detail(record: SignalRecord) -> dict[str, Any]:
    """Return everything about one signal: its row, what it said, one row per account, its trace."""
    accounts: list[Row] = []
    for account, order in record.orders.items():
        accounts.append(_order_outcome(record, account, order))
    for account, orders in record.cancels.items():
        accounts.append(
            _plain(account, Outcome.SENT, "", f"cancel requested for {len(orders)} orders")
        )
    accounts += [_plain(account, Outcome.SENT, "", text) for account, text in record.done.items()]
    waits = "waits for an operator's approval"
    accounts += [_plain(account, Outcome.HELD, "REVIEW", waits) for account in record.held]
    if record.stage is not None:
        waits = f"waits for the fill of {record.stage.canary}"
        accounts += [
            _plain(account, Outcome.HELD, "CANARY", waits) for account in record.stage.rest
        ]
    for outcome, reasons in ((Outcome.REFUSED, record.refused), (Outcome.SKIPPED, record.skipped)):
        accounts += [
            _plain(account, outcome, code, message) for account, (code, message) in reasons.items()
        ]
    row = signal_row(record)
    return {
        **{name: value for name, value in row.items() if name != "accounts"},
        "signal_id": record.signal.id,
        "signal": row,
        "raw": signal_document(record.signal),
        "accounts": accounts,
        "trace": {
            "received": 0,
            "received_at": rfc3339(record.received_at),
            **_trace(record),
        },
    }


def _trace(record: SignalRecord) -> dict[str, int | None]:
    return record.loaded_trace or record.stamps.since_received()


def _order_outcome(record: SignalRecord, account: str, order: Order) -> Row:
    status = order.status
    if status is OrderStatus.UNKNOWN:
        outcome = Outcome.UNKNOWN
    elif status is OrderStatus.DENIED or (status is OrderStatus.EXPIRED and not order.order_id):
        outcome = Outcome.REFUSED  # never at the broker: by our own doing, or proven absent
    elif order.was_sent or status is not OrderStatus.PENDING_NEW:
        outcome = Outcome.SENT
    else:
        outcome = Outcome.PENDING
    return {
        **_plain(account, outcome, order.code, order.text),
        "cl_ord_id": order.cl_ord_id,
        "order_id": order.order_id,
        "status": status.value,
        "side": order.side._value_,
        "order_qty": to_text(order.order_qty),
        "cum_qty": to_text(order.cum_qty),
        "avg_px": average(order.avg_px),
        "trace": _order_trace(record, order),
    }


def _order_trace(record: SignalRecord, order: Order) -> dict[str, int | None]:
    """Return the signal's own stages and this order's, all since the signal was received."""
    received, signal = record.stamps.received, _trace(record)
    own = {
        "first_byte": order.first_byte_ns,
        "last_byte": order.last_byte_ns,
        "first_ack": order.acked_ns,
        "last_ack": order.acked_ns,
    }
    return {
        "received": 0,
        **{name: signal.get(name) for name in ("validated", "durable", "planned")},
        **{name: at - received if at and received else None for name, at in own.items()},
    }


def _plain(account: str, outcome: Outcome, code: str, message: str) -> Row:
    info = CODES.get(code)
    return {
        "account": account,
        "outcome": outcome.value,
        "code": code,
        "message": message,
        "soft": bool(info and info.soft) or outcome is Outcome.HELD,
        "cl_ord_id": None,
        "order_id": None,
        "status": OrderStatus.DENIED.value if outcome is Outcome.REFUSED else None,
        "side": None,
        "order_qty": None,
        "cum_qty": None,
        "avg_px": None,
        "trace": None,
    }
