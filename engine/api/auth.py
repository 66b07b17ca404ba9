"""Who may call: the Host and Origin headers, the bearer token, and the last net for exceptions.

One plain ASGI layer in front of everything, so that no route can forget a check.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import math
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine import failpoints
from engine.operators import OWNER, Operator, Operators, Role, acting

if TYPE_CHECKING:
    from engine.api.strangers import Strangers

log = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
HOOKS: Final = "/v1/hooks/"  # their secret is in the path
ORDERS: Final = frozenset({"/v1/signals", "/v1/prices"})
"""Calls that make others act: with a body, but no command whose own role is asked for."""
WRONG: Final = frozenset({401, 403, 404})
RECEIVED: Final = "volley.received_ns"  # scope key: time.monotonic_ns when the request came in

Headers = Iterable[tuple[bytes, bytes]]


def answer(
    status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **more: object
) -> Response:
    """Return an error as every error of this API looks: ``code``, ``message``, what else helps."""
    return json_response({"code": code, **more, "message": message}, status, headers)


def json_response(
    body: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return JSON that no cache keeps."""
    shown = {"cache-control": "no-store", **(headers or {})}
    return Response(orjson.dumps(body), status, shown, "application/json")


def same(given: bytes, expected: bytes) -> bool:
    """Compare two secrets in constant time; an empty secret equals nothing."""
    return hmac.compare_digest(given, expected) and bool(expected)


def header(headers: Headers, name: bytes) -> bytes | None:
    """Return the value of a header given once; ``None`` when absent or ambiguous."""
    found = [value for key, value in headers if key == name]
    return found[0] if len(found) == 1 else None


def bearer(headers: Headers) -> bytes | None:
    """Return the bearer token of the Authorization header, if it has one."""
    value = header(headers, b"authorization")
    if value is None or value[:7].lower() != b"bearer ":
        return None
    return value[7:].strip()


class Tokens:
    """Whose token a request carries: the home's own, or that of an operator."""

    def __init__(self, token: str, operators: Operators) -> None:
        self._token = token.encode()
        self._operators = operators

    def whose(self, given: bytes | None) -> Operator | None:
        """Return who this is, ``None`` if nobody we know."""
        if not given:
            return None
        if same(given, self._token):
            return OWNER
        return self._operators.of_token(given)


class Hosts:
    """Which Host headers are ours: a page on a name that an attacker points at us is not."""

    def __init__(self, listen_host: str) -> None:
        self._names = {"localhost", listen_host.lower(), socket.gethostname().lower()}
        try:
            self._any_address = ipaddress.ip_address(listen_host).is_unspecified
        except ValueError:
            self._any_address = False
        if is_loopback(listen_host):
            self._names.discard(socket.gethostname().lower())

    def allows_origin(self, value: bytes | None) -> bool:
        """Say whether a page of this Origin may call; what is no page sends none."""
        if value is None:
            return True
        scheme, separator, host = value.partition(b"://")
        return bool(separator) and scheme in {b"http", b"https"} and self.allows(host)

    def allows(self, value: bytes | None) -> bool:
        """Say whether a request with this Host header may pass."""
        if value is None:
            return False
        host = _without_port(value.decode("latin-1").lower())
        if host in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or self._any_address


def _without_port(value: str) -> str:
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Say whether a listen address reaches this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def peer(scope: Scope) -> str:
    """Return the address a request comes from, empty where there is none."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _let_in(operator: Operator, path: str, method: str) -> Response | None:
    """Note who is acting; refuse signals and prices of those who may only read."""
    acting.set(operator)  # the owner, too: a pipelined request inherits its predecessor's context
    if path in ORDERS and method == "POST" and not operator.role.includes(Role.TRADE):
        text = f"{operator.name} has the role {operator.role.value}; signals take the role trade"
        return answer(403, "FORBIDDEN", text)
    return None


class Gate:
    """ASGI middleware: stamps, checks Host and token, turns what escapes into a plain 500."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens, hosts: Hosts, strangers: Strangers) -> None:
        self._app = app
        self._tokens = tokens
        self._hosts = hosts
        self._strangers = strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            scope[RECEIVED] = time.monotonic_ns()
            if scope["method"] == "HEAD":  # the server leaves out the body of what a GET is told
                scope = {**scope, "method": "GET"}
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            await self._guarded(scope, receive, send)
        elif self._is_ours(scope["headers"]):
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "Host not allowed"})

    def _is_ours(self, headers: Headers) -> bool:
        host_is_ours = self._hosts.allows(header(headers, b"host"))
        return host_is_ours and self._hosts.allows_origin(header(headers, b"origin"))

    def _refusal(self, scope: Scope) -> Response | None:
        path, headers = scope["path"], scope["headers"]
        if path.startswith(HOOKS):
            return None  # senders come through proxies under any name, and bring a secret
        if not self._is_ours(headers):
            return answer(403, "HOST_NOT_ALLOWED", "this engine does not answer to that Host name")
        if path in OPEN_PATHS:
            return None
        operator = self._tokens.whose(bearer(headers))
        if operator is not None:
            return _let_in(operator, path, scope["method"])
        if (busy := self._too_often(scope)) is not None:
            return busy
        self._strangers.wrong(peer(scope))
        return answer(
            401,
            "UNAUTHORIZED",
            "send the engine's token: Authorization: Bearer … (HOME/token or VOLLEY_TOKEN)",
            headers={"www-authenticate": 'Bearer realm="volley"'},
        )

    def _too_often(self, scope: Scope) -> Response | None:
        """Return what a wrong request is told once its address has been wrong too often; a right one is let in."""
        wait_s = self._strangers.wait_s(peer(scope))
        if wait_s <= 0:
            return None
        text = "too many wrong tries from this address"
        return answer(429, "BUSY", text, headers={"retry-after": str(math.ceil(wait_s))})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = replaced = False

        async def watched(message: Message) -> None:
            nonlocal started, replaced
            if replaced:
                return
            if message["type"] == "http.response.start":
                started = True
                if message["status"] in WRONG and scope["path"].startswith(HOOKS):
                    # Judged only now: senders share addresses (TradingView's, a proxy's) with those who guess.
                    if (busy := self._too_often(scope)) is not None:
                        replaced = True
                        await busy(scope, receive, send)
                        return
                    self._strangers.wrong(peer(scope))
            if not failpoints.ARMED or scope["method"] != "POST":
                await send(message)
                return
            failpoints.hit("K05.before")
            await send(message)
            failpoints.hit("K05.after")

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            log.debug("a client went away in the middle of its request")
        except Exception:
            # The path of a hook holds its secret: it is not logged.
            path = HOOKS if scope["path"].startswith(HOOKS) else scope["path"]
            log.exception("unexpected error in %s %s", scope["method"], path)
            if not started:
                failure = answer(500, "INTERNAL", "Volley failed to handle this; see its log")
                await failure(scope, receive, send)
