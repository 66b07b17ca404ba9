"""Every call of the HTTP API.

Bodies that carry money are read as bytes, by strict parsers, never by a framework.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine import failpoints
from engine.api import schemas
from engine.api.auth import RECEIVED, Headers, answer, json_response, peer
from engine.api.feed import Feed
from engine.api.signatures import Signatures
from engine.config import Config
from engine.errors import CommandRefused, InvalidSignal, StoreError
from engine.intake.parser import parse_prices, read_object
from engine.model import tables
from engine.model.identifiers import NAME, SYMBOL
from engine.model.receipt import SignalReceipt
from engine.publisher import Publisher

log = logging.getLogger(__name__)

SIGNAL_BYTES: Final = 8 * 1024
DOCUMENT_BYTES: Final = 64 * 1024
IN_FLIGHT: Final = 1_000
RETRY_AFTER_S: Final = 1
LISTS: Final = (
    tables.SIGNALS,
    tables.ORDERS,
    tables.FILLS,
    tables.POSITIONS,
    tables.ACCOUNTS,
    tables.DIFFERENCES,
    tables.EXTERNAL,
)


class Engine(Protocol):
    """What the API asks of the engine."""

    publisher: Publisher

    async def handle_signal(
        self,
        body: bytes,
        *,
        source: str | None = None,
        origin: str = "api",
        received_ns: int | None = None,
    ) -> SignalReceipt:
        """Take a signal; durable on return."""
        ...

    async def handle_alert(self, body: bytes, *, source: str) -> SignalReceipt:
        """Take a webhook's body."""
        ...

    async def handle_command(self, document: dict[str, Any]) -> dict[str, Any]:
        """Carry out a command."""
        ...

    async def signal_detail(self, key: str) -> dict[str, Any] | None:
        """Return one signal."""
        ...

    async def list_rows(
        self,
        table: str,
        *,
        account: str | None = None,
        symbol: str | None = None,
        status: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Return a page of rows."""
        ...

    def set_prices(self, prices: dict[str, Decimal]) -> None:
        """Take reference prices."""
        ...

    def latency(self) -> dict[str, Any]:
        """Return percentiles per stage."""
        ...

    def to_do(self) -> list[dict[str, str]]:
        """Return what a person must do for each account."""
        ...

    def readiness(self) -> list[str]:
        """Return why the engine is not ready."""
        ...

    def metrics_text(self) -> str:
        """Return Prometheus text."""
        ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """What tells whether a webhook's request is its source's."""

    check_secret: Callable[[str, str], bool]  # in constant time
    signatures: Signatures
    config: Config

    def may_send(self, source: str, secret: str | None, address: str) -> bool:
        """Judge what stands before the body: the path's secret, and where it comes from."""
        if secret is not None and not self.check_secret(source, secret):
            return False
        allowed = self.config.hook(source).allow_from
        if not allowed or _is_within(address, allowed):
            return True
        log.warning("webhook %s: %s is not on allow_from, refused", source, address)
        return False

    def must_sign(self, source: str, secret: str | None, headers: Headers) -> bool:
        """Say whether a request's signature is to be right: where there is no secret, always."""
        claims = self.signatures.claims(headers)
        return secret is None or claims or self.config.hook(source).signed


def _is_within(address: str, networks: Iterable[str]) -> bool:
    try:
        given = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(given, "ipv4_mapped", None) or given
    return any(mapped in ipaddress.ip_network(network) for network in networks)


class TooLarge(Exception):
    """A body is larger than its call allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes")


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body of at most ``limit`` bytes, whatever its headers claim.

    Raises:
        TooLarge: it is longer.
    """
    claimed = request.headers.get("content-length", "")
    if claimed.isdecimal() and int(claimed[:19]) > limit:
        raise TooLarge(limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(limit)
        parts.append(part)
    return b"".join(parts)


class Filters(BaseModel):
    """What a list can be narrowed to; an unknown name is refused rather than unheeded.

    ``after``: a page's ``next``, or the key of its last row.
    """

    model_config = ConfigDict(extra="forbid")

    account: Annotated[str, StringConstraints(pattern=f"^(?:{NAME.pattern})$")] | None = None
    symbol: Annotated[str, StringConstraints(pattern=f"^(?:{SYMBOL.pattern})$")] | None = None
    status: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = None
    limit: Annotated[int, Query(ge=1, le=1000)] = 100
    after: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None


class Intake:
    """Signals on their way in, bounded: a full one says so at once instead of growing."""

    def __init__(self, engine: Engine, hooks: Hooks) -> None:
        self._engine = engine
        self._hooks = hooks
        self._in_flight = 0

    async def signal(self, request: Request) -> Response:
        """Take ``POST /v1/signals``."""
        received: int = request.scope[RECEIVED]
        return await self._take(request, received_ns=received)

    async def hook(self, request: Request, source: str, secret: str | None) -> Response:
        """Take ``POST /v1/hooks/{source}/{secret}``, and ``/v1/hooks/{source}``, which has to be signed."""
        if failpoints.ARMED:
            failpoints.hit("K02.before")
        if not self._hooks.may_send(source, secret, peer(request.scope)):
            return _not_found()  # an unknown source looks like a wrong secret
        if failpoints.ARMED:
            failpoints.hit("K02.after")
        headers = request.scope["headers"]
        signed = headers if self._hooks.must_sign(source, secret, headers) else None
        return await self._take(request, source=source, signed=signed)

    async def _take(
        self,
        request: Request,
        *,
        source: str | None = None,
        received_ns: int | None = None,
        signed: Headers | None = None,
    ) -> Response:
        if self._in_flight >= IN_FLIGHT:
            message = f"{IN_FLIGHT} signals are being taken in; send it again in {RETRY_AFTER_S} s"
            headers = {"retry-after": str(RETRY_AFTER_S)}
            return answer(429, "BUSY", message, headers=headers)
        self._in_flight += 1
        try:
            if failpoints.ARMED:
                failpoints.hit("K01.before")
            body = await read_body(request, SIGNAL_BYTES)
            if failpoints.ARMED:
                failpoints.hit("K01.after")
            if signed is not None and source is not None:
                problem = self._hooks.signatures.problem(source, signed, body)
                if problem:
                    return answer(401, "SIGNATURE", problem)
            if source is None:
                receipt = await self._engine.handle_signal(body, received_ns=received_ns)
            else:
                receipt = await self._engine.handle_alert(body, source=source)
        finally:
            self._in_flight -= 1
        if failpoints.ARMED:
            failpoints.hit("K04.after")
        return _receipt(receipt)


def _receipt(receipt: SignalReceipt) -> Response:
    if receipt.contradicted:
        message = (
            f"{receipt.source}/{receipt.signal_id} was sent before with another body; "
            f"its first outcome stands: {receipt.state}"
        )
        return answer(409, "DUPLICATE", message, **_identity(receipt))
    return json_response(receipt.as_dict(), 200 if receipt.repeated else 202)


def _identity(receipt: SignalReceipt) -> dict[str, Any]:
    """Return which signal a receipt is about and its first outcome, without a code."""
    return {
        "signal_id": receipt.signal_id,
        "source": receipt.source,
        "state": receipt.state.value,
    }


def _not_found(what: str = "there is no such thing here") -> Response:
    return answer(404, "NOT_FOUND", what)


def signal_routes(intake: Intake) -> APIRouter:
    """Return the calls through which signals come in."""
    router = APIRouter(tags=["signals"])
    taken: schemas.Responses = {
        200: {"model": schemas.Receipt, "description": "sent before; the first outcome again"},
        **schemas.errors(400, 409, 413, 429, 503),
    }
    described = schemas.body(schemas.SIGNAL, schemas.SIGNAL_EXAMPLE)

    @router.post(
        "/v1/signals",
        status_code=202,
        response_model=schemas.Receipt,
        responses=taken | schemas.errors(401),
        openapi_extra=described,
    )
    async def send_signal(request: Request) -> Response:
        """Send a signal. Answers once it is durable, not once orders are filled."""
        return await intake.signal(request)

    @router.post(
        "/v1/hooks/{source}/{secret}",
        status_code=202,
        response_model=schemas.Receipt,
        responses=taken | schemas.errors(404),
        openapi_extra=schemas.body({"type": "object"}),
    )
    async def webhook(request: Request, source: str, secret: str) -> Response:
        """Send a TradingView alert or a schema v1 signal; the path's secret is the token."""
        return await intake.hook(request, source, secret)

    @router.post(
        "/v1/hooks/{source}",
        status_code=202,
        response_model=schemas.Receipt,
        responses=taken | schemas.errors(401, 404),
        openapi_extra=schemas.body({"type": "object"}),
    )
    async def signed_webhook(request: Request, source: str) -> Response:
        """Send the same signed: headers Volley-Key, Volley-Timestamp and Volley-Signature in place of the secret."""
        return await intake.hook(request, source, None)

    return router


def list_routes(engine: Engine) -> APIRouter:
    """Return the lists and the detail of a signal."""
    router = APIRouter(tags=["lists"])

    @router.get(
        "/v1/signals/{source}/{signal_id}",
        response_model=schemas.SignalDetail,
        responses=schemas.errors(401, 404),
    )
    async def signal(source: str, signal_id: str) -> Response:
        """Return a signal, one row per account with outcome and code, and its trace."""
        detail = await engine.signal_detail(f"{source}/{signal_id}")
        if detail is None:
            return _not_found(f"no signal {source}/{signal_id}"[:200])
        return json_response(detail)

    def add(table: str) -> None:
        @router.get(
            f"/v1/{table}",
            name=table,
            operation_id=f"list_{table}",
            response_model=schemas.Page,
            responses=schemas.errors(401, 422),
            description=f"Return {table}, newest first: {', '.join(tables.COLUMNS[table])}.",
        )
        async def rows(filters: Annotated[Filters, Query()]) -> Response:
            known = schemas.STATUSES.get(table)
            if filters.status is not None and known is not None and filters.status not in known:
                message = f"status: expected one of {', '.join(sorted(known))}"
                return answer(422, "INVALID_QUERY", message, field="status")
            return json_response(await engine.list_rows(table, **filters.model_dump()))

    for table in LISTS:
        add(table)
    return router


def operator_routes(engine: Engine) -> APIRouter:
    """Return commands, prices and latency."""
    router = APIRouter(tags=["operator"])

    @router.post(
        "/v1/commands",
        responses={
            200: {"description": "the result"},
            **schemas.errors(400, 401, 403, 404, 409, 413, 422),
        },
        openapi_extra=schemas.body(schemas.commands()[0]),
    )
    async def command(request: Request) -> Response:
        """Carry out an operator's command; the same ``id`` again gives the first result again."""
        document = read_object(await read_body(request, DOCUMENT_BYTES), DOCUMENT_BYTES)
        return json_response(await engine.handle_command(document))

    @router.post(
        "/v1/prices",
        response_model=schemas.Taken,
        responses=schemas.errors(400, 401, 413),
        openapi_extra=schemas.body(schemas.PRICES),
    )
    async def prices(request: Request) -> Response:
        """Give reference prices and marks, stamped on arrival; all or none are taken."""
        quotes = parse_prices(await read_body(request, DOCUMENT_BYTES))
        engine.set_prices(quotes)
        return json_response({"accepted": len(quotes)})

    @router.get(
        "/v1/status",
        response_model=schemas.Status,
        responses=schemas.errors(401),
    )
    async def status() -> Response:
        """Return the engine's own row, what is halted or paused, how a kill proceeds, and what there is to do."""
        rows = engine.publisher.rows
        engine_row = next(iter(rows(tables.ENGINE)), None)
        document = {
            "engine": engine_row,
            "halts": rows(tables.HALTS),
            "kill": rows(tables.KILL),
            "readiness": engine.to_do(),
        }
        return json_response(document)

    @router.get("/v1/latency", response_model=schemas.Latency, responses=schemas.errors(401))
    async def latency() -> Response:
        """Return count, p50, p90, p99, p99.9 and max per stage, in microseconds."""
        return json_response(engine.latency())

    return router


def health_routes(engine: Engine) -> APIRouter:
    """Return the calls that need no token."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", response_model=schemas.Health)
    async def healthz() -> Response:
        """Say that the process answers."""
        return json_response({"status": "ok"})

    @router.get(
        "/readyz",
        response_model=schemas.Readiness,
        responses={503: {"model": schemas.Readiness, "description": "not ready, and why"}},
    )
    async def readyz() -> Response:
        """Say whether signals would be acted on, and why not."""
        reasons = engine.readiness()
        return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return metrics as Prometheus text."""
        return Response(
            engine.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return router


def feed_routes(feed: Feed) -> APIRouter:
    """Return the WebSocket feed, and what a plain GET to it is told."""
    router = APIRouter(tags=["feed"])

    @router.websocket("/v1/feed")
    async def stream(socket: WebSocket) -> None:
        await feed.serve(socket)

    @router.get(
        "/v1/feed",
        status_code=426,
        description=schemas.FEED,
        responses={
            101: {"description": "the WebSocket opens"},
            **schemas.errors(401, 426),
        },
    )
    async def upgrade() -> Response:
        return answer(
            426, "UPGRADE_REQUIRED", "/v1/feed is a WebSocket", headers={"upgrade": "websocket"}
        )

    return router


def install_errors(app: FastAPI) -> None:
    """Give every error the same body."""

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "BAD_REQUEST")
        headers = dict(error.headers or {})
        return answer(error.status_code, code, str(error.detail), headers=headers)

    @app.exception_handler(RequestValidationError)
    async def query(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])[:64]
        message = f"{name}: {first['msg']}"
        if first["type"] == "extra_forbidden":
            message = f"{name}: not a filter; there are {', '.join(Filters.model_fields)}"
        return answer(422, "INVALID_QUERY", message, field=name)

    @app.exception_handler(InvalidSignal)
    async def invalid(_request: Request, error: InvalidSignal) -> Response:
        return json_response(error.as_dict(), 400)

    @app.exception_handler(CommandRefused)
    async def refused(_request: Request, error: CommandRefused) -> Response:
        return answer(error.status, error.code, error.message)

    @app.exception_handler(TooLarge)
    async def too_large(_request: Request, error: TooLarge) -> Response:
        return answer(413, "TOO_LARGE", str(error), headers={"connection": "close"})

    @app.exception_handler(StoreError)
    async def store(_request: Request, _error: StoreError) -> Response:
        message = "the journal could not be written; nothing was taken, send it again"
        return answer(503, "NOT_DURABLE", message, headers={"retry-after": str(RETRY_AFTER_S)})
