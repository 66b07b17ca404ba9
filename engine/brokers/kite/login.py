"""Kite's daily login: a person logs in in the browser, and what comes back is made into a session.

The browser returns to the app's redirect address with a ``request_token`` that lives for minutes and works
once; with the app's secret it buys the ``access_token`` that works until about 06:00 the next morning in India.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Any, Protocol
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl, read_json
from engine.brokers.kite import mapping
from engine.brokers.kite.calls import call
from engine.brokers.reading import object_of, reading, text_of
from engine.errors import (
    BrokerAuthError,
    BrokerError,
    BrokerProtocolError,
    ConfigError,
    StoreError,
)
from engine.ports import SessionToken

LOGIN_PAGE = "https://kite.zerodha.com/connect/login"
DEFAULT_PORT = 8790
WAIT_S = 300.0
"""How long a browser has to come back."""
_ENDS_AT = time(6, 0, tzinfo=mapping.IST)
_VERSION = {"X-Kite-Version": "3"}
_HEAD_MAX = 8 << 10
_READ_S = 5.0


def ends_at(login: datetime) -> datetime:
    """Return when a session begun at ``login`` ends: the next 06:00 in India."""
    local = login.astimezone(mapping.IST)
    end = datetime.combine(local.date(), _ENDS_AT)
    return (end if end > local else end + timedelta(days=1)).astimezone(UTC)


def login_url(base: BaseUrl, api_key: str, state: str, port: int = DEFAULT_PORT) -> str:
    """Return the address to open in the browser; ``state`` comes back with the browser.

    The simulated venue has no registered apps: it is told where to send the browser.
    """
    params = {"v": "3", "api_key": api_key, "redirect_params": urlencode({"state": state})}
    if base.simulated:
        params["redirect_url"] = f"http://127.0.0.1:{port}/"
    page = f"{base.url}/connect/login" if base.simulated else LOGIN_PAGE
    if base.host == mapping.SANDBOX_HOST:
        page = f"{base.url}/connect/login"
    return f"{page}?{urlencode(params, quote_via=quote)}"


async def open_session(  # noqa: PLR0913 (what a login needs)
    base: BaseUrl,
    account: str,
    api_key: str,
    secret: str,
    request_token: str,
    *,
    context: ssl.SSLContext | None = None,
    route: Route | None = None,
) -> tuple[SessionToken, str]:
    """Trade a request token for a session; return it with the user's id at the broker.

    Raises:
        BrokerAuthError: the token is over or was used, or the secret is another app's; says so.
        BrokerError: no answer that can be read.
    """
    form = {
        "api_key": api_key,
        "request_token": request_token,
        "checksum": mapping.login_checksum(api_key, request_token, secret),
    }
    return await _session(base, "/session/token", account, form, context, route)


async def renew_session(  # noqa: PLR0913 (as above)
    base: BaseUrl,
    account: str,
    api_key: str,
    secret: str,
    before: SessionToken,
    *,
    context: ssl.SSLContext | None = None,
    route: Route | None = None,
) -> SessionToken:
    """Renew a session; only apps Zerodha has approved as platforms are given what it takes.

    Raises:
        BrokerAuthError: the refresh token is over.
        BrokerError: no answer that can be read.
    """
    form = {
        "api_key": api_key,
        "refresh_token": before.refresh,
        "checksum": mapping.login_checksum(api_key, before.refresh, secret),
    }
    return (await _session(base, "/session/refresh_token", account, form, context, route))[0]


async def _session(
    base: BaseUrl,
    path: str,
    account: str,
    form: dict[str, str],
    context: ssl.SSLContext | None,
    route: Route | None,
) -> tuple[SessionToken, str]:
    status, body = await call(
        base,
        "POST",
        mapping.prefix(base.host) + path,
        account=account,
        headers=_VERSION,
        context=context,
        form=form,
        route=route,
    )
    if status != 200:
        _refuse(account, status, body)
    with reading(account, "the reply to the login"):
        data: dict[str, Any] = object_of(object_of(read_json(body)).get("data"))
        refresh = data.get("refresh_token")
        token = SessionToken(
            token=text_of(data["access_token"], "access_token"),
            expires_at=ends_at(datetime.now(UTC)),
            owner=form["api_key"],
            refresh=refresh if isinstance(refresh, str) else "",
        )
        return token, str(data.get("user_id") or "")


def _refuse(account: str, status: int, body: bytes) -> None:
    said = mapping.refusal(status, body)
    if status == 403 or said.kind == "TokenException":
        raise BrokerAuthError(
            f"account {account}: the login was refused ({said.text}): the token lives for minutes and works "
            "once, and the account's secret must be that of the app whose key_id it was made with; log in again",
            account=account,
        )
    if said.proof:
        raise BrokerAuthError(
            f"account {account}: the login was refused: {said.text}", account=account
        )
    raise BrokerProtocolError(
        f"account {account}: the login has no answer (HTTP {status}); try again", account=account
    )


class Way(Protocol):
    """How an account's requests leave."""

    route: Route | None

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context, ``None`` for plain text."""
        ...


class BrowserLogin:
    """One account's logins in a browser on this machine, one at a time, and their renewal."""

    def __init__(  # noqa: PLR0913 (what a login needs)
        self,
        base: BaseUrl,
        account: str,
        api_key: str,
        secret: str,
        *,
        venue: Way,
        on_token: Callable[[SessionToken], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self._base = base
        self._account = account
        self._api_key = api_key
        self._secret = secret
        self._venue = venue
        self._on_token = on_token
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None
        self._listener: RedirectListener | None = None

    async def begin(self, port: int) -> str:
        """Listen for the browser; return the address to open in it.

        Raises:
            ConfigError: the port is taken.
        """
        await self.end()
        state = token_urlsafe(16)
        listener = RedirectListener(state)
        try:
            await listener.start(port)
        except ConfigError:
            await listener.stop()
            raise
        self._listener = listener
        self._task = asyncio.get_running_loop().create_task(self._finish(listener))
        return login_url(self._base, self._api_key, state, listener.port)

    async def _finish(self, listener: RedirectListener) -> None:
        try:
            token, _ = await open_session(
                self._base,
                self._account,
                self._api_key,
                self._secret,
                await listener.request_token(WAIT_S),
                context=self._venue.context(),
                route=self._venue.route,
            )
            self._on_token(token)
        except (BrokerError, StoreError) as error:
            self._on_failure(str(error))
        finally:
            await listener.stop()

    async def end(self) -> None:
        """Wait for nobody any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        listener, self._listener = self._listener, None
        if listener is not None:  # of a task that was cancelled before its first step
            await listener.stop()

    async def renew(self, before: SessionToken) -> SessionToken:
        """Renew a session, see ``renew_session``."""
        return await renew_session(
            self._base,
            self._account,
            self._api_key,
            self._secret,
            before,
            context=self._venue.context(),
            route=self._venue.route,
        )


def read_request_token(text: str) -> str:
    """Return the request token in what a person pasted: the token, or the whole address.

    Raises:
        ConfigError: there is none in it.
    """
    text = text.strip()
    if "request_token=" in text:
        query = urlsplit(text).query or text
        text = (parse_qs(query).get("request_token") or [""])[0]
    if not text.isascii() or not text.isalnum() or len(text) > 128:
        raise ConfigError("expected a request_token, or the address the browser was sent to")
    return text


class RedirectListener:
    """Waits on this machine for the browser to come back from the login."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, port: int = DEFAULT_PORT) -> None:
        """Listen on loopback.

        Raises:
            ConfigError: the port is taken.
        """
        try:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", port, limit=_HEAD_MAX
            )
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be listened on ({error.strerror or error}): close what uses it, or choose "
                "another with --port and register it as the app's redirect address"
            ) from None
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def request_token(self, timeout_s: float) -> str:
        """Wait for the browser.

        Raises:
            BrokerAuthError: the login was cancelled, or nobody came in time.
        """
        try:
            return await asyncio.wait_for(asyncio.shield(self._answer), timeout_s)
        except TimeoutError:
            raise BrokerAuthError(
                f"nobody logged in within {timeout_s:.0f} s; is the app's redirect address "
                f"http://127.0.0.1:{self.port}/ ?"
            ) from None

    async def stop(self) -> None:
        """Listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()
        if not self._answer.cancel() and not self._answer.cancelled():
            self._answer.exception()  # taken note of: nobody may be waiting any more

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_READ_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, words = self._take(head)
                writer.write(_page(status, words))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _take(self, head: bytes) -> tuple[int, str]:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        query = parse_qs(urlsplit(rest.partition(" ")[0]).query)
        said = {name: values[0] for name, values in query.items()}
        if method != "GET" or not said.keys() & {"request_token", "status"}:
            return 404, "There is nothing here."
        if not compare_digest(said.get("state", "").encode(), self._state.encode()):
            # Somebody else's page could send the browser here, with a login of theirs.
            return 400, "This is not the login that was asked for. Start it again."
        if self._answer.done():
            return 200, "This login was taken already."
        if said.get("status") != "success" or not said.get("request_token"):
            self._answer.set_exception(BrokerAuthError("the login was cancelled in the browser"))
            return 200, "The login was cancelled. You can close this page."
        try:
            self._answer.set_result(read_request_token(said["request_token"]))
        except ConfigError:
            return 400, "The login came back without a token that can be read."
        return 200, "Logged in. You can close this page and go back to Volley."


def _page(status: int, words: str) -> bytes:
    body = (
        '<!doctype html><meta charset="utf-8"><title>Volley</title>'
        f'<p style="font:16px system-ui;margin:3em">{html.escape(words)}</p>'
    ).encode()
    phrase = {200: "OK", 400: "Bad Request", 404: "Not Found"}[status]
    return (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n"
        f"Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode("ascii") + body
