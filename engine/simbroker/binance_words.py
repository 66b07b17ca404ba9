"""The objects Binance's API tells orders, lists and symbols in.

Source: rest-api.md, user-data-stream.md and filters.md of github.com/binance/binance-spot-api-docs at a5e0bc3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.model.matching import practice_instrument
from engine.model.numbers import ZERO
from engine.simbroker.binance_rows import (
    MAX_QTY,
    MIN_NOTIONAL,
    TYPES,
    OrderList,
    Row,
    assets_of,
    fixed,
    lot_of,
)
from engine.simbroker.venue import Execution


def _core(row: Row) -> dict[str, Any]:
    wanted = row.wanted
    return {
        "symbol": wanted.symbol,
        "orderId": row.order_id,
        "orderListId": -1 if row.in_list is None else row.in_list.id,
        "clientOrderId": wanted.client_order_id,
    }


def _terms(row: Row) -> dict[str, Any]:
    wanted = row.wanted
    told: dict[str, Any] = {
        "price": fixed(wanted.limit_price),
        "origQty": fixed(wanted.order_qty),
        "executedQty": fixed(row.cum_qty),
        "origQuoteOrderQty": fixed(ZERO),
        "cummulativeQuoteQty": fixed(row.gross),
        "status": row.status,
        "timeInForce": row.terms.tif,
        "type": row.kind,
        "side": wanted.side.name,
    }
    if wanted.stop_price is not None:
        told["stopPrice"] = fixed(wanted.stop_price)
    if row.status == "EXPIRED":
        told["expiryReason"] = row.reason
    return told


def reply_object(row: Row, answer: str, trade_ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the answer to a new order: ``ACK``, ``RESULT`` or ``FULL``."""
    told = {**_core(row), "transactTime": row.updated}
    if answer == "ACK":
        return told
    told |= _terms(row)
    told |= {"workingTime": row.updated, "selfTradePreventionMode": "NONE"}
    if answer == "FULL":
        told["fills"] = [
            {
                "price": fixed(fill.last_px),
                "qty": fixed(fill.last_qty),
                "commission": fixed(ZERO),
                "commissionAsset": assets_of(row.wanted.symbol)[1],
                "tradeId": trade_ids[fill.exec_id],
            }
            for fill in fills_of(row)
        ]
    return told


def fills_of(row: Row) -> list[Execution]:
    """Return an order's executions, the newest orders' being the newest of the account's."""
    if not row.cum_qty:
        return []
    found: list[Execution] = []
    total = ZERO
    for fill in reversed(row.account.fills):
        if fill.order is row.order:
            found.append(fill)
            total += fill.last_qty
            if total >= row.cum_qty:
                break
    return found[::-1]


def query_object(row: Row) -> dict[str, Any]:
    """Return an order as look-ups tell it."""
    terms = _terms(row)
    terms.setdefault("stopPrice", fixed(ZERO))
    return {
        **_core(row),
        **terms,
        "icebergQty": fixed(ZERO),
        "time": row.since,
        "updateTime": row.updated,
        "isWorking": row.order is not None,
        "workingTime": -1 if row.order is None else row.since,
        "selfTradePreventionMode": "NONE",
    }


def canceled_object(row: Row, cancel_id: str) -> dict[str, Any]:
    """Return the answer to a cancel."""
    return {
        **_core(row),
        "origClientOrderId": row.wanted.client_order_id,
        "clientOrderId": cancel_id,
        "transactTime": row.updated,
        **_terms(row),
        "selfTradePreventionMode": "NONE",
    }


def list_object(found: OrderList, reports: list[dict[str, Any]], at: int) -> dict[str, Any]:
    """Return an order list with what is told of its orders."""
    return {
        "orderListId": found.id,
        "contingencyType": found.contingency,
        "listStatusType": "ALL_DONE" if found.done else "EXEC_STARTED",
        "listOrderStatus": "ALL_DONE" if found.done else "EXECUTING",
        "listClientOrderId": found.client_id,
        "transactionTime": at,
        "symbol": found.symbol,
        "orders": [_brief(row) for row in found.rows()],
        "orderReports": reports,
    }


def _brief(row: Row) -> dict[str, Any]:
    wanted = row.wanted
    return {
        "symbol": wanted.symbol,
        "orderId": row.order_id,
        "clientOrderId": wanted.client_order_id,
    }


def list_status(found: OrderList, at: int) -> dict[str, Any]:
    """Return the stream's word about an order list."""
    return {
        "e": "listStatus",
        "E": at,
        "s": found.symbol,
        "g": found.id,
        "c": found.contingency,
        "l": "ALL_DONE" if found.done else "EXEC_STARTED",
        "L": "ALL_DONE" if found.done else "EXECUTING",
        "r": "NONE",
        "C": found.client_id,
        "T": at,
        "O": [
            {"s": row.wanted.symbol, "i": row.order_id, "c": row.wanted.client_order_id}
            for row in found.rows()
        ],
    }


def execution_report(
    row: Row, kind: str, at: int, number: int, fill: tuple[Execution, int] | None, cancel_id: str
) -> dict[str, Any]:
    """Return the stream's word about an order; ``fill`` is an execution with its trade id."""
    wanted = row.wanted
    told: dict[str, Any] = {
        "e": "executionReport",
        "E": at,
        "s": wanted.symbol,
        "c": cancel_id or wanted.client_order_id,
        "S": wanted.side.name,
        "o": row.kind,
        "f": row.terms.tif,
        "q": fixed(wanted.order_qty),
        "p": fixed(wanted.limit_price),
        "P": fixed(wanted.stop_price),
        "F": fixed(ZERO),
        "g": -1 if row.in_list is None else row.in_list.id,
        "C": wanted.client_order_id if cancel_id else "",
        "x": kind,
        "X": row.status,
        "r": "NONE",
        "i": row.order_id,
        "l": fixed(ZERO),
        "z": fixed(row.cum_qty),
        "L": fixed(ZERO),
        "n": "0",
        "N": None,
        "T": at,
        "t": -1,
        "I": number,
        "w": row.open and row.order is not None,
        "m": False,
        "M": False,
        "O": row.since,
        "Z": fixed(row.gross),
        "Y": fixed(ZERO),
        "Q": fixed(ZERO),
        "W": row.since,
        "V": "NONE",
    }
    if fill is not None:
        execution, trade_id = fill
        told |= {
            "l": fixed(execution.last_qty),
            "L": fixed(execution.last_px),
            "z": fixed(execution.cum_qty),
            "Y": fixed(execution.last_qty * execution.last_px),
            "N": assets_of(wanted.symbol)[1],
            "t": trade_id,
        }
    if kind == "EXPIRED":
        told["eR"] = row.reason
    return told


def symbol_object(symbol: str) -> dict[str, Any]:
    """Return a symbol of ``exchangeInfo`` with its filters."""
    base, quote = assets_of(symbol)
    rules = practice_instrument(symbol)
    step = fixed(lot_of(symbol))
    return {
        "symbol": symbol,
        "status": "TRADING",
        "baseAsset": base,
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": list(TYPES),
        "icebergAllowed": False,
        "ocoAllowed": True,
        "otoAllowed": True,
        "opoAllowed": False,
        "quoteOrderQtyMarketAllowed": False,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": True,
        "amendAllowed": False,
        "pegInstructionsAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": fixed(rules.tick),
                "maxPrice": "100000000.00000000",
                "tickSize": fixed(rules.tick),
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": step,
                "maxQty": fixed(MAX_QTY),
                "stepSize": step,
            },
            {
                "filterType": "MARKET_LOT_SIZE",
                "minQty": fixed(ZERO),
                "maxQty": fixed(MAX_QTY),
                "stepSize": fixed(ZERO),
            },
            {
                "filterType": "NOTIONAL",
                "minNotional": fixed(MIN_NOTIONAL),
                "applyMinToMarket": True,
                "maxNotional": "9000000.00000000",
                "applyMaxToMarket": False,
                "avgPriceMins": 0,
            },
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }
